"""The network of AST, EAT and Dasheng: spectrogram, vision transformer, pooling, projection."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from asdjax.config.transformer_architecture import TransformerConfig
from asdjax.models.dropout import Draws
from asdjax.models.layers import Linear, Rng
from asdjax.models.spectrogram_transformer import SpectrogramTransformer
from asdjax.models.vision_transformer import Form, Output, VisionTransformer, columns


@dataclasses.dataclass(frozen=True)
class Front:
    """The spectrogram of an encoder, and the kind of network that it goes into."""

    form: Form
    spectrogram: Callable[[Float[Array, "B T"], Int[Array, " B"] | None], Float[Array, "B L F"]]
    """Of waveforms, and their lengths without padding (None: no padding); normalised."""
    frames: Callable[[Any], Any]
    """Frames of a number of samples: of an integer an integer, of an array an array."""
    samples_of: Callable[[int], int]
    """The least number of samples that has this many frames."""
    whole: bool = False
    """Whether the last frames depend on where the clip ends, so that no sample may be cut off."""

    def samples(self, count: int, config: TransformerConfig) -> int:
        """The least number of samples that has this many columns."""
        return self.samples_of((count - 1) * config.stride + config.patch[0])

    def row_length(self, samples: int, config: TransformerConfig) -> int:
        """Length to which clips of `samples` are padded, so that similar lengths share a batch.

        The number of columns is rounded up to a multiple of 2^(bits - 3), where `bits` is its
        number of binary digits: four lengths per octave, at most a quarter longer than the clip.
        """
        count = columns(self.frames(samples), config)
        step = max(1, 2 ** (count.bit_length() - 3))
        return self.samples(-(-count // step) * step + self.whole, config)


class SpectrogramEmbedder(nnx.Module):
    """Waveforms at 16 kHz to one vector per clip.

    Attributes:
        embedding_size: size of the vector.
    """

    def __init__(self, config: SpectrogramTransformer, *, rng: Rng):
        """Draw initial weights; those of the encoder are usually replaced by pretrained ones."""
        self.front = config.front()
        self.encoder = VisionTransformer(
            config.encoder,
            self.front.form,
            lora=config.lora if config.adaptation == "lora" else None,
            remat="full" if config.remat == "full" else "none",
            compute_dtype=config.compute_dtype,
            rng=rng,
        )
        self.layers, self.from_class_tokens = config.layers, config.class_tokens
        features = config.token_size
        hidden = max(1, features // config.pooling_ratio)
        self.pool = config.pooling.build(features, hidden, rng, config.bands)
        size, pooled = config.embedding_size, config.pooled_size
        self.projection = Linear(pooled, size, bias=True, rng=rng) if size else None
        self.embedding_size = size or pooled

    def __call__(
        self,
        waveform: Float[Array, "B T"],
        *,
        train: bool = False,
        axis_name: str | None = None,
        length: Int[Array, " B"] | None = None,
        draws: Draws | None = None,
    ) -> Float[Array, "B D"]:
        """Embed clips.

        Args:
            waveform: in [-1, 1].
            train: whether dropout of adapters and BatchNorm behave as in training.
            axis_name: the `jax.pmap` axis over which the batch is split, if any.
            length: each clip's samples without padding; the padding has no influence (inference
                only). None: clips are not padded.
            draws: random numbers for dropout.
        """
        output, valid = self._output(waveform, train=train, length=length, draws=draws)
        if self.from_class_tokens:
            pooled = jnp.mean(output.class_tokens, axis=1)
        else:
            tokens = jnp.concatenate(output.layers, axis=-1)
            pooled = self.pool(tokens, train=train, axis_name=axis_name, valid=valid)
        return pooled if self.projection is None else self.projection(pooled)

    def tokens(
        self,
        waveform: Float[Array, "B T"],
        *,
        train: bool = False,
        length: Int[Array, " B"] | None = None,
        draws: Draws | None = None,
    ) -> tuple[Float[Array, "B N D"], Bool[Array, "B N"] | None]:
        """The concatenated tokens of the chosen layers; with `length`, a mask of valid ones too."""
        output, valid = self._output(waveform, train=train, length=length, draws=draws)
        return jnp.concatenate(output.layers, axis=-1), valid

    def _output(
        self,
        waveform: Float[Array, "B T"],
        *,
        train: bool,
        length: Int[Array, " B"] | None,
        draws: Draws | None,
    ) -> tuple[Output, Bool[Array, "B N"] | None]:
        """What the vision transformer returns, and which of the patches' tokens are valid."""
        config, front = self.encoder.config, self.front
        spectrogram = front.spectrogram(waveform, length)
        own = None if length is None else columns(front.frames(length), config)
        used = draws if train and self.encoder.random_in_training else None
        output = self.encoder(spectrogram, columns=own, layers=self.layers, draws=used)
        if own is None:
            return output, None
        column = jnp.arange(output.layers[0].shape[1]) // config.bands
        return output, column.astype(own.dtype)[None] < own[:, None]

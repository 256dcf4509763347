"""The network of AST, EAT and Dasheng: spectrogram, vision transformer, pooling, projection."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from asdjax.models.dropout import Draws
from asdjax.models.layers import Rng
from asdjax.models.spectrogram_transformer import SpectrogramTransformer
from asdjax.models.token_embedder import TokenEmbedder
from asdjax.models.token_pooling import TokenMean
from asdjax.models.vision_transformer import Form, VisionTransformer, columns
from asdjax.signal.spec_augment import SpecAugmentDraws


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


class SpectrogramEmbedder(TokenEmbedder):
    """Waveforms at 16 kHz to one vector per clip."""

    encoder: VisionTransformer

    def __init__(self, settings: SpectrogramTransformer, *, rng: Rng):
        """Draw initial weights; those of the encoder are usually replaced by pretrained ones."""
        self.front, self.from_class_tokens = settings.front(), settings.class_tokens
        encoder = VisionTransformer(
            settings.encoder,
            self.front.form,
            lora=settings.lora if settings.adaptation == "lora" else None,
            remat="full" if settings.remat == "full" else "none",
            compute_dtype=settings.compute_dtype,
            rng=rng,
        )
        super().__init__(settings, encoder, rng=rng)
        if self.from_class_tokens:
            self.pool = TokenMean()

    def tokens(
        self,
        waveform: Float[Array, "B T"],
        *,
        train: bool = False,
        length: Int[Array, " B"] | None = None,
        draws: Draws | None = None,
        masks: SpecAugmentDraws | None = None,
    ) -> tuple[Float[Array, "B N D"], Bool[Array, "B N"] | None]:
        """The concatenated tokens of the chosen layers, or the class tokens.

        With `length`, a mask of the valid ones too; class tokens are all valid.
        """
        self.settings.check_length(waveform.shape[1])
        config, front = self.encoder.config, self.front
        spectrogram = front.spectrogram(waveform, length)
        own = None if length is None else columns(front.frames(length), config)
        used = draws if train and self.encoder.random_in_training else None
        output = self.encoder(spectrogram, columns=own, layers=self.settings.layers, draws=used)
        if self.from_class_tokens:
            return output.class_tokens, None
        tokens = jnp.concatenate(output.layers, axis=-1)
        if own is None:
            return tokens, None
        column = jnp.arange(tokens.shape[1]) // config.bands
        return tokens, column.astype(own.dtype)[None] < own[:, None]

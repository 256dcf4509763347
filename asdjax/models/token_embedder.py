"""The network of a pretrained transformer: spectrogram, tokens, pooling, linear projection.

Attentive pooling and projection are those of ASDKit's BEATs-LoRA extractor.
"""

import abc
from typing import Any

from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from asdjax.models.dropout import Draws
from asdjax.models.layers import Linear, Rng
from asdjax.models.pretrained_encoder import PretrainedEncoder
from asdjax.signal.spec_augment import SpecAugmentDraws


class TokenEmbedder(nnx.Module):
    """Waveforms at 16 kHz to one vector per clip; each encoder extends it with `tokens`.

    Attributes:
        embedding_size: size of the vector.
    """

    def __init__(self, settings: PretrainedEncoder, encoder: Any, *, rng: Rng):
        """Draw the initial weights of pooling and projection.

        Args:
            settings: of the encoder.
            encoder: its transformer, whose weights are usually replaced by pretrained ones.
            rng: source of the initial weights.
        """
        self.settings, self.encoder = settings, encoder
        features, pooled, size = (
            settings.token_size, settings.pooled_size, settings.embedding_size
        )  # fmt: skip
        hidden = max(1, features // settings.pooling_ratio)
        self.pool = settings.pooling.build(features, hidden, rng, settings.bands)
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
        masks: SpecAugmentDraws | None = None,
    ) -> Float[Array, "B D"]:
        """Embed clips.

        Args:
            waveform: in [-1, 1].
            train: whether dropout, layer drop and BatchNorm behave as in training.
            axis_name: the `jax.pmap` axis over which the batch is split, if any.
            length: each clip's samples without padding, at least the encoder's `shortest`; the
                padding has no influence (inference only). None: clips are not padded.
            draws: random numbers for dropout and layer drop.
            masks: SpecAugment's masks.
        """
        tokens, valid = self.tokens(waveform, train=train, length=length, draws=draws, masks=masks)
        pooled = self.pool(tokens, train=train, axis_name=axis_name, valid=valid)
        return pooled if self.projection is None else self.projection(pooled)

    @abc.abstractmethod
    def tokens(
        self,
        waveform: Float[Array, "B T"],
        *,
        train: bool = False,
        length: Int[Array, " B"] | None = None,
        draws: Draws | None = None,
        masks: SpecAugmentDraws | None = None,
    ) -> tuple[Float[Array, "B N D"], Bool[Array, "B N"] | None]:
        """The tokens that are pooled; with `length`, a mask of the valid ones too.

        Raises:
            AsdjaxError: the clips are too short.
        """

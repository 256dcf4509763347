"""The network of the encoder `beats`: filterbank, BEATs, pooling over tokens, linear projection.

Attentive pooling and projection are those of ASDKit's BEATs-LoRA extractor.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from asdjax.config.beats_architecture import BEATsEncoderConfig
from asdjax.errors import ConfigError
from asdjax.models.beats import BEATs, own_patch_mask
from asdjax.models.beats_encoder import BEATsConfig
from asdjax.models.dropout import Draws
from asdjax.models.layers import Linear, Rng
from asdjax.signal import fbank
from asdjax.signal.spec_augment import SpecAugmentDraws, spec_augment

_DROPS = (
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "dropout_input",
    "encoder_layerdrop",
    "layer_wise_gradient_decay_ratio",
)


def shortest(encoder: BEATsEncoderConfig) -> int:
    """Length of the shortest clip with a complete patch, samples."""
    return fbank.FRAME + fbank.HOP * (encoder.input_patch_size - 1)


def check_length(encoder: BEATsEncoderConfig, samples: int) -> None:
    """Raise `AsdjaxError` if clips are shorter than a patch."""
    if samples < shortest(encoder):
        raise ConfigError(
            f"clips of {samples} samples are too short for BEATs, which needs {shortest(encoder)}: "
            "increase audio.clip_seconds (shorter clips are repeated to that length)"
        )


def length_class(encoder: BEATsEncoderConfig, samples: int) -> int:
    """Length to which clips of `samples` are padded, so that similar lengths share a batch.

    The number of patches is rounded up to a multiple of 2^(bits - 3), where `bits` is its number of
    binary digits: four lengths per octave, at most a quarter longer than the clip.
    """
    size = encoder.input_patch_size
    patches = fbank.frames(samples) // size
    step = max(1, 2 ** (patches.bit_length() - 3))
    patches = -(-patches // step) * step
    return fbank.FRAME + fbank.HOP * (size * patches - 1)


class BEATsEmbedder(nnx.Module):
    """Waveforms at 16 kHz to one vector per clip.

    Attributes:
        embedding_size: size of the vector.
    """

    def __init__(self, config: BEATsConfig, *, rng: Rng):
        """Draw initial weights; those of BEATs are usually replaced by pretrained ones."""
        own = {name: getattr(config, name) for name in _DROPS}
        changed = {name: value for name, value in own.items() if value is not None}
        self.encoder = BEATs(
            dataclasses.replace(config.encoder, **changed),
            lora=config.lora if config.adaptation == "lora" else None,
            remat="none" if config.remat == "auto" else config.remat,
            scan=bool(config.scan_layers),
            compute_dtype=config.compute_dtype,
            fused_attention=config.fused_attention,
            rng=rng,
        )
        self.layers = config.layers
        features, pooled, size = config.token_size, config.pooled_size, config.embedding_size
        hidden = max(1, features // config.pooling_ratio)
        self.pool = config.pooling.build(features, hidden, rng, config.bands)
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
            length: each clip's samples without padding, at least `shortest`; the padding has no
                influence (inference only). None: clips are not padded.
            draws: random numbers for dropout and layer drop.
            masks: SpecAugment's masks.
        """
        tokens, valid = self.tokens(waveform, train=train, length=length, draws=draws, masks=masks)
        pooled = self.pool(tokens, train=train, axis_name=axis_name, valid=valid)
        return pooled if self.projection is None else self.projection(pooled)

    def tokens(
        self,
        waveform: Float[Array, "B T"],
        *,
        train: bool = False,
        length: Int[Array, " B"] | None = None,
        draws: Draws | None = None,
        masks: SpecAugmentDraws | None = None,
    ) -> tuple[Float[Array, "B N D"], Array | None]:
        """The concatenated tokens of the chosen layers; with `length`, a mask of valid ones too."""
        check_length(self.encoder.config, waveform.shape[1])
        config = self.encoder.config
        features = fbank.fbank(waveform)
        features = fbank.normalised(features, config.fbank_mean, config.fbank_std)
        if masks is not None:
            features = spec_augment(features, masks)
        valid = None
        if length is not None:
            valid = own_patch_mask(fbank.frames(length), features.shape[1], self.encoder.config)
        hidden = self.encoder(features, valid=valid, layers=self.layers, train=train, draws=draws)
        return jnp.concatenate(hidden, axis=-1), valid

    def probabilities(
        self, tokens: Float[Array, "B N D"], valid: Array | None
    ) -> Float[Array, "B classes"]:
        """The probability of each class, from the last layer's tokens (fine-tuned models only)."""
        return self.encoder.probabilities(tokens, valid)

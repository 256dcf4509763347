"""The network of the encoder `beats`: filterbank, BEATs, pooling over tokens, projection."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from asdjax.models.beats import BEATs, own_patch_mask
from asdjax.models.beats_encoder import BEATsConfig
from asdjax.models.dropout import Draws
from asdjax.models.layers import Rng
from asdjax.models.token_embedder import TokenEmbedder
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


class BEATsEmbedder(TokenEmbedder):
    """Waveforms at 16 kHz to one vector per clip."""

    encoder: BEATs

    def __init__(self, settings: BEATsConfig, *, rng: Rng):
        """Draw initial weights; those of BEATs are usually replaced by pretrained ones."""
        own = {name: getattr(settings, name) for name in _DROPS}
        changed = {name: value for name, value in own.items() if value is not None}
        encoder = BEATs(
            dataclasses.replace(settings.encoder, **changed),
            lora=settings.lora if settings.adaptation == "lora" else None,
            remat="none" if settings.remat == "auto" else settings.remat,
            scan=bool(settings.scan_layers),
            compute_dtype=settings.compute_dtype,
            fused_attention=settings.fused_attention,
            rng=rng,
        )
        super().__init__(settings, encoder, rng=rng)

    def tokens(
        self,
        waveform: Float[Array, "B T"],
        *,
        train: bool = False,
        length: Int[Array, " B"] | None = None,
        draws: Draws | None = None,
        masks: SpecAugmentDraws | None = None,
    ) -> tuple[Float[Array, "B N D"], Bool[Array, "B N"] | None]:
        """The concatenated tokens of the chosen layers; with `length`, a mask of valid ones too."""
        self.settings.check_length(waveform.shape[1])
        config = self.encoder.config
        features = fbank.fbank(waveform)
        features = fbank.normalised(features, config.fbank_mean, config.fbank_std)
        if masks is not None:
            features = spec_augment(features, masks)
        valid = None
        if length is not None:
            valid = own_patch_mask(fbank.frames(length), features.shape[1], config)
        layers = self.settings.layers
        hidden = self.encoder(features, valid=valid, layers=layers, train=train, draws=draws)
        return jnp.concatenate(hidden, axis=-1), valid

    def probabilities(
        self, tokens: Float[Array, "B N D"], valid: Array | None
    ) -> Float[Array, "B classes"]:
        """The probability of each class, from the last layer's tokens (fine-tuned models only)."""
        return self.encoder.probabilities(tokens, valid)

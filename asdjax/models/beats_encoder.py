"""The encoder `beats`: its settings. The network is in `beats_embedder`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from asdjax.config.beats_architecture import BEATsEncoderConfig
from asdjax.config.interfaces import ComputeDtype, precision_on
from asdjax.config.registry import register
from asdjax.config.schema import Check, Probability, digits
from asdjax.errors import ArtifactError, ConfigError
from asdjax.models.pretrained_encoder import PretrainedEncoder

if TYPE_CHECKING:
    from jaxtyping import Array, PRNGKeyArray

    from asdjax.models.beats_embedder import BEATsEmbedder
    from asdjax.store.converted_weights import Pretrained

_SPEC_AUGMENT = 1001  # random stream


@register
@dataclasses.dataclass(frozen=True)
class BEATsConfig(PretrainedEncoder):
    """BEATs (Chen et al., ICML 2023): a pretrained transformer on patches of a filterbank."""

    neutral = ("weights", "remat", "scan_layers")
    verb = "beats"
    features = "log mel filterbank (Kaldi), 128 bands, 25 ms frames every 10 ms"

    name: str = "beats"
    encoder: BEATsEncoderConfig = BEATsEncoderConfig()
    """Architecture; read from the weights, so that a recipe need not state it."""
    dropout: Probability | None = None
    """Replaces model.encoder.dropout; null: as the weights state it."""
    attention_dropout: Probability | None = None
    """Replaces model.encoder.attention_dropout; null: as the weights state it."""
    activation_dropout: Probability | None = None
    """Replaces model.encoder.activation_dropout; null: as the weights state it."""
    dropout_input: Probability | None = None
    """Replaces model.encoder.dropout_input; null: as the weights state it."""
    encoder_layerdrop: Probability | None = None
    """Replaces model.encoder.encoder_layerdrop; null: as the weights state it."""
    layer_wise_gradient_decay_ratio: Probability | None = None
    """Replaces model.encoder.layer_wise_gradient_decay_ratio; null: as the weights state it."""
    fused_attention: bool = False
    """Use cuDNN's attention kernel on NVIDIA GPUs; needs compute_dtype bfloat16. It has no effect
    on other devices, and in training with attention dropout."""
    scan_layers: bool | None = None
    """Run the layers as one loop, so that one layer is compiled. Default: on GPUs and TPUs only, as
    it takes more memory and saves little on CPUs."""

    def network(self, rng: Any) -> BEATsEmbedder:
        from asdjax.models.beats_embedder import BEATsEmbedder

        return BEATsEmbedder(self, rng=rng)

    def steps_for(self, samples: int) -> int:
        from asdjax.signal import fbank

        return fbank.frames(samples) // self.encoder.input_patch_size

    def samples_of(self, steps: int) -> int:
        from asdjax.signal import fbank

        return fbank.samples(steps * self.encoder.input_patch_size)

    def checks(self, sample_rate: int) -> list[Check]:
        return [
            *super().checks(sample_rate),
            (
                not self.fused_attention or self.compute_dtype == "bfloat16",
                "model.fused_attention",
                "needs model.compute_dtype bfloat16",
            ),
        ]

    def on_platform(self, platform: str) -> BEATsConfig:
        fused = self.fused_attention and platform == "gpu"  # needs cuDNN
        resolved = self.computing_in(precision_on(platform, self.compute_dtype))
        scan = platform != "cpu" if self.scan_layers is None else self.scan_layers
        return dataclasses.replace(resolved, fused_attention=fused, scan_layers=scan)

    def computing_in(self, compute_dtype: ComputeDtype) -> BEATsConfig:
        fused = self.fused_attention and compute_dtype == "bfloat16"  # it rounds to that
        return dataclasses.replace(self, compute_dtype=compute_dtype, fused_attention=fused)

    def draws(
        self, key: PRNGKeyArray, rows: Array, everyone: int, n_samples: int, augment: Any
    ) -> dict[str, Any]:
        import jax

        from asdjax.signal import spec_augment

        draws = super().draws(key, rows, everyone, n_samples, augment)
        wanted = augment.spec_augment
        if wanted.probability:
            masks = spec_augment.spec_augment_draws(
                jax.random.fold_in(key, _SPEC_AUGMENT), everyone, n_samples, wanted
            )
            draws["masks"] = jax.tree.map(lambda a: a[rows], masks)
        return draws

    def augmentations(self, augment: Any) -> list[str]:
        probability = augment.spec_augment.probability
        return [f"SpecAugment (probability {digits(probability)})"] if probability > 0 else []

    def architecture_of(self, weights: Pretrained) -> BEATsEncoderConfig:
        return dataclasses.replace(weights.encoder, finetuned_model=False)

    def require_classifier(self) -> None:
        if not self.encoder.finetuned_model:
            raise ArtifactError(
                f"{self.weights}: no classifier, which pooling 'head' needs: convert a fine-tuned "
                "checkpoint, or choose 'mean'"
            )
        if self.layers not in ((), (self.encoder.encoder_layers,)):
            raise ConfigError(
                f"{self.weights}: the classifier (pooling 'head') uses the last layer: do not "
                "choose layers"
            )

    def folded(self, module: BEATsEmbedder, params: dict[str, Any]) -> dict[str, Any]:
        outer = params["encoder"]
        inner = outer["encoder"]
        # weight norm and direction are replaced by the spectrum of their product
        own = module.encoder.encoder.pos_conv.fold(inner["pos_conv"])
        return {**params, "encoder": {**outer, "encoder": {**inner, "pos_conv": own}}}

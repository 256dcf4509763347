"""The encoder `beats`: its settings. The network is in `beats_embedder`."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from asdjax.config.beats_architecture import BEATsEncoderConfig, LoRAConfig
from asdjax.config.embedding_parts import Part
from asdjax.config.interfaces import ComputeDtype, Encoder, Pooling, precision_on
from asdjax.config.registry import default, register
from asdjax.config.schema import Check, Count, Probability, Range, digits
from asdjax.errors import ArtifactError, ConfigError
from asdjax.models.poolings import Mean

if TYPE_CHECKING:
    from jaxtyping import Array, PRNGKeyArray

    from asdjax.models.beats_embedder import BEATsEmbedder
    from asdjax.store.converted_weights import Pretrained

_DROPOUT, _SPEC_AUGMENT = 1000, 1001  # random streams; mixup uses the key of the step itself


@register
@dataclasses.dataclass(frozen=True)
class BEATsConfig(Encoder):
    """BEATs (Chen et al., ICML 2023): a pretrained transformer on patches of a filterbank."""

    neutral = ("weights", "remat", "scan_layers")
    has_tokens = True
    memory_is_quadratic = True

    name: str = "beats"
    weights: str | None = None
    """Folder of pretrained weights, written by asdjax convert beats."""
    random_init: bool = False
    """Start from random weights, for tests only; all results of the run are marked so."""
    encoder: BEATsEncoderConfig = BEATsEncoderConfig()
    """Architecture; read from the weights, so that a recipe need not state it."""
    adaptation: Literal["full", "lora", "frozen"] = "full"
    """Trained weights. full: all; lora: adapters, pooling and projection; frozen: none."""
    lora: LoRAConfig = LoRAConfig()
    layers: tuple[Count, ...] = ()
    """Layers, counted from 1, whose tokens are concatenated and pooled; empty: the last layer."""
    pooling: Pooling = dataclasses.field(default_factory=partial(default, "pooling"))
    pooling_ratio: Count = 16
    """Attentive statistics pooling: token size divided by hidden units."""
    embedding_size: Annotated[int, Range(low=0, high=2**20)] = 256
    """Size of the embedding, a linear map of the pooled vector; 0: the pooled vector itself."""
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
    compute_dtype: ComputeDtype = "auto"
    """Precision of the large products; weights, softmax, norms and the loss remain float32.
    auto: float32 on CPUs, TensorFloat-32 on GPUs, three passes of bfloat16 on TPUs."""
    fused_attention: bool = False
    """Use cuDNN's attention kernel on NVIDIA GPUs; needs compute_dtype bfloat16. It has no effect
    on other devices, and in training with attention dropout."""
    remat: Literal["auto", "none", "attention", "full"] = "auto"
    """Save memory: recompute attention weights, or whole layers (full), in the backward pass.
    auto: the first of none, attention and full that fits the device's memory; on CPUs none."""
    scan_layers: bool | None = None
    """Run the layers as one loop, so that one layer is compiled. Default: on GPUs and TPUs only, as
    it takes more memory and saves little on CPUs."""

    def build(self, n_samples: int | None, sample_rate: int, rng: Any) -> BEATsEmbedder:
        from asdjax.models.beats_embedder import BEATsEmbedder, check_length

        if n_samples is not None:
            check_length(self.encoder, n_samples)
        return BEATsEmbedder(self, rng=rng)

    def sentences(self) -> tuple[str, str, str]:
        name = self.encoder.published_as
        lora, targets = self.lora, ", ".join(self.lora.targets)
        scale = f"rank {lora.rank}, alpha {digits(lora.alpha)}"
        adapted = {
            "full": "all weights fine-tuned",
            "lora": f"low-rank adaptation of {targets} ({scale})",
            "frozen": "weights as they come",
        }[self.adaptation]
        start = "random initial weights, for tests only" if self.random_init else "pretrained"
        layers = f"layers {', '.join(map(str, self.layers))}" if self.layers else "the last layer"
        return (
            "log mel filterbank (Kaldi), 128 bands, 25 ms frames every 10 ms",
            f"{name} ({start}; {adapted}), {self.pooling.sentence()} over the tokens of {layers}, "
            f"{self.embedding_size or self.pooled_size} values",
            name,
        )

    def checks(self, sample_rate: int) -> list[Check]:
        return [
            (sample_rate == 16000, "audio.sample_rate", "must be 16000 for BEATs"),
            (
                not (self.weights and self.random_init),
                "model.random_init",
                "cannot be true together with model.weights",
            ),
            *self.encoder.checks(),
            (
                max(self.layers, default=1) <= self.encoder.encoder_layers,
                "model.layers",
                f"the encoder has layers 1 to {self.encoder.encoder_layers}: choose among them",
            ),
            (
                tuple(sorted(set(self.layers))) == self.layers,
                "model.layers",
                "name each layer once, in rising order",
            ),
            (
                not self.fused_attention or self.compute_dtype == "bfloat16",
                "model.fused_attention",
                "needs model.compute_dtype bfloat16",
            ),
            (
                self.adaptation != "lora" or self.lora.targets,
                "model.lora.targets",
                "name at least one projection",
            ),
            (
                self.adaptation != "frozen" or not (self.pooling.trains or self.embedding_size),
                "model.adaptation",
                "frozen trains nothing: set model.pooling to one without weights (mean) and "
                "model.embedding_size to 0",
            ),
            *((good, f"model.pooling.{key}", what) for good, key, what in self.pooling.checks()),
        ]

    def on_platform(self, platform: str) -> BEATsConfig:
        fused = self.fused_attention and platform == "gpu"  # needs cuDNN
        resolved = self.computing_in(precision_on(platform, self.compute_dtype))
        scan = platform != "cpu" if self.scan_layers is None else self.scan_layers
        return dataclasses.replace(resolved, fused_attention=fused, scan_layers=scan)

    def saving_memory(self) -> list[dict[str, Any]]:
        ways = ["none", "attention", "full"]
        first = 0 if self.adapts_to_memory else ways.index(self.remat)
        return [{"remat": way} for way in ways[first:]]

    @property
    def adapts_to_memory(self) -> bool:
        return self.remat == "auto"

    def computing_in(self, compute_dtype: ComputeDtype) -> BEATsConfig:
        fused = self.fused_attention and compute_dtype == "bfloat16"  # it rounds to that
        return dataclasses.replace(self, compute_dtype=compute_dtype, fused_attention=fused)

    @property
    def pooled_parts(self) -> tuple[Part, ...]:
        """What the pooled vector consists of."""
        return self.pooling.parts(self.token_size, self.bands)

    @property
    def pooled_size(self) -> int:
        """Values in the pooled vector."""
        return sum(part.size for part in self.pooled_parts)

    @property
    def embedding_parts(self) -> tuple[Part, ...]:
        return () if self.embedding_size else self.pooled_parts

    # training

    @property
    def trains_nothing(self) -> bool:
        return self.adaptation == "frozen"

    def trains(self, path: tuple[str, ...]) -> bool:
        from asdjax.models.lora import is_adapter

        if self.adaptation == "lora":
            return path[0] != "encoder" or is_adapter(path)
        return not self.trains_nothing

    def draws(
        self, key: PRNGKeyArray, rows: Array, everyone: int, n_samples: int, augment: Any
    ) -> dict[str, Any]:
        import jax

        from asdjax.models import lora
        from asdjax.signal import spec_augment

        draws: dict[str, Any] = {"draws": lora.Draws(jax.random.fold_in(key, _DROPOUT), rows)}
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

    # weights

    @classmethod
    def of_weights(cls, weights: Pretrained, layers: tuple[int, ...]) -> BEATsConfig:
        return cls(
            weights=str(weights.path),
            encoder=weights.encoder,
            adaptation="frozen",
            layers=layers,
            pooling=Mean(),
            embedding_size=0,
        )

    @property
    def weights_folder(self) -> str | None:
        return self.weights

    def with_weights_folder(self, folder: str) -> BEATsConfig:
        return dataclasses.replace(self, weights=folder)

    @property
    def for_tests_only(self) -> bool:
        return self.random_init

    def resolved(self) -> tuple[BEATsConfig, Pretrained | None]:
        from asdjax.store import converted_weights

        if self.weights is None:
            if not self.random_init:
                raise ConfigError(
                    "model.weights: this system starts from pretrained weights: download "
                    "BEATs_iter3.pt from the BEATs authors, convert it with "
                    f"{converted_weights.HOW}, and give --model.weights FOLDER (for tests, "
                    "model.random_init true uses random weights)"
                )
            return self, None
        weights = converted_weights.read(Path(self.weights))
        if weights.name != self.name:
            raise ConfigError(
                f"{self.weights}: weights of the encoder {weights.name}, not of {self.name}: set "
                f"model.name to {weights.name}"
            )
        encoder = dataclasses.replace(weights.encoder, finetuned_model=False)
        if self.encoder not in (BEATsEncoderConfig(), encoder):
            raise ConfigError(
                f"model.encoder: not the architecture of {self.weights}: omit model.encoder, it is "
                "read from there"
            )
        absolute = str(Path(self.weights).absolute())
        return dataclasses.replace(self, weights=absolute, encoder=encoder), weights

    def pretrained(self, weights: Pretrained, params: dict[str, Any]) -> dict[str, Any]:
        from asdjax.models import lora, parameters
        from asdjax.store.checkpoint import load_pretrained

        _, base = parameters.divided(params["encoder"], lora.is_adapter)
        return load_pretrained(weights, {"encoder": base})

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

    # inference

    def for_inference(self, params: dict[str, Any]) -> tuple[BEATsConfig, dict[str, Any]]:
        from asdjax.models.lora import merge

        if self.adaptation != "lora":
            return self, params
        encoder = merge(params["encoder"], self.lora.alpha / self.lora.rank)
        return dataclasses.replace(self, adaptation="full"), {**params, "encoder": encoder}

    def folded(self, module: BEATsEmbedder, params: dict[str, Any]) -> dict[str, Any]:
        outer = params["encoder"]
        inner = outer["encoder"]
        # weight norm and direction are replaced by the spectrum of their product
        own = module.encoder.encoder.pos_conv.fold(inner["pos_conv"])
        return {**params, "encoder": {**outer, "encoder": {**inner, "pos_conv": own}}}

    @property
    def token_size(self) -> int:
        return self.encoder.encoder_embed_dim * max(1, len(self.layers))

    @property
    def bands(self) -> int:
        return self.encoder.bands

    @property
    def shortest(self) -> int:
        from asdjax.models import beats_embedder

        return beats_embedder.shortest(self.encoder)

    def row_length(self, samples: int) -> int:
        from asdjax.models import beats_embedder

        return beats_embedder.length_class(self.encoder, samples)

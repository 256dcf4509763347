"""Settings of the encoders with a pretrained vision transformer: AST, EAT and Dasheng.

Each has a file with its defaults and its `Front`. The network is in `spectrogram_embedder` and
`vision_transformer`.
"""

from __future__ import annotations

import abc
import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from asdjax.config.beats_architecture import LoRAConfig
from asdjax.config.embedding_parts import Part
from asdjax.config.interfaces import ComputeDtype, Encoder, Pooling
from asdjax.config.registry import default
from asdjax.config.schema import Check, Count, Range, digits
from asdjax.config.transformer_architecture import TransformerConfig
from asdjax.errors import ArtifactError, ConfigError
from asdjax.models.poolings import Mean

if TYPE_CHECKING:
    from jaxtyping import Array, PRNGKeyArray

    from asdjax.models.spectrogram_embedder import Front, SpectrogramEmbedder
    from asdjax.store.converted_weights import Pretrained

_DROPOUT = 1000  # random stream; mixup uses the key of the step itself


@dataclasses.dataclass(frozen=True)
class SpectrogramTransformer(Encoder):
    """A pretrained vision transformer on patches of a spectrogram."""

    neutral = ("weights", "remat")
    has_tokens = True
    memory_is_quadratic = True
    verb: ClassVar[str]
    """The command of asdjax convert that makes the weights."""
    features: ClassVar[str]
    """Text for meta.yaml: the spectrogram."""
    has_class_tokens: ClassVar[bool] = False

    weights: str | None = None
    """Folder of pretrained weights, written by asdjax convert."""
    random_init: bool = False
    """Start from random weights, for tests only; all results of the run are marked so."""
    encoder: TransformerConfig = TransformerConfig()
    """Architecture; read from the weights, so that a recipe need not state it."""
    adaptation: Literal["full", "lora", "frozen"] = "full"
    """Trained weights. full: all; lora: adapters, pooling and projection; frozen: none."""
    lora: LoRAConfig = LoRAConfig()
    layers: tuple[Count, ...] = ()
    """Layers, counted from 1, whose tokens are concatenated and pooled; empty: the last layer."""
    pooling: Pooling = dataclasses.field(default_factory=partial(default, "pooling"))
    class_tokens: bool = False
    """The vector that the embedding is made from is the mean of the class tokens, as published,
    instead of the pooled tokens of the patches."""
    pooling_ratio: Count = 16
    """Attentive statistics pooling: token size divided by hidden units."""
    embedding_size: Annotated[int, Range(low=0, high=2**20)] = 256
    """Size of the embedding, a linear map of the pooled vector; 0: the pooled vector itself."""
    compute_dtype: ComputeDtype = "auto"
    """Precision of the large products; weights, softmax, norms and the loss remain float32.
    auto: float32 on CPUs, TensorFloat-32 on GPUs, three passes of bfloat16 on TPUs."""
    remat: Literal["auto", "none", "full"] = "auto"
    """Save memory: recompute whole layers (full) in the backward pass. auto: the first of none and
    full that fits the device's memory; on CPUs none."""

    @classmethod
    @abc.abstractmethod
    def front(cls) -> Front:
        """The spectrogram and the kind of network."""

    def build(self, n_samples: int | None, sample_rate: int, rng: Any) -> SpectrogramEmbedder:
        from asdjax.models.spectrogram_embedder import SpectrogramEmbedder

        if n_samples is not None and n_samples < self.shortest:
            raise ConfigError(
                f"clips of {n_samples} samples are too short for {self.encoder.published_as}, "
                f"which needs {self.shortest}: increase audio.clip_seconds (shorter clips are "
                "repeated to that length)"
            )
        return SpectrogramEmbedder(self, rng=rng)

    def pooled(self) -> str:
        """Text for meta.yaml: how tokens become a vector."""
        if self.class_tokens:
            return "mean of the class tokens"
        layers = f"layers {', '.join(map(str, self.layers))}" if self.layers else "the last layer"
        return f"{self.pooling.sentence()} over the patches' tokens of {layers}"

    def sentences(self) -> tuple[str, str, str]:
        lora, name = self.lora, self.encoder.published_as
        adapted = {
            "full": "all weights fine-tuned",
            "lora": f"low-rank adaptation of {', '.join(lora.targets)} (rank {lora.rank}, alpha "
            f"{digits(lora.alpha)})",
            "frozen": "weights as they come",
        }[self.adaptation]
        start = "random initial weights, for tests only" if self.random_init else "pretrained"
        size = self.embedding_size or self.pooled_size
        return self.features, f"{name} ({start}; {adapted}), {self.pooled()}, {size} values", name

    def checks(self, sample_rate: int) -> list[Check]:
        return [
            (sample_rate == 16000, "audio.sample_rate", f"must be 16000 for {self.name}"),
            (
                not (self.weights and self.random_init),
                "model.random_init",
                "cannot be true together with model.weights",
            ),
            *self.encoder.checks(),
            (
                max(self.layers, default=1) <= self.encoder.depth,
                "model.layers",
                f"the encoder has layers 1 to {self.encoder.depth}: choose among them",
            ),
            (
                tuple(sorted(set(self.layers))) == self.layers,
                "model.layers",
                "name each layer once, in rising order",
            ),
            (
                self.has_class_tokens or not self.class_tokens,
                "model.class_tokens",
                f"{self.name} has no class tokens: set it to false",
            ),
            (
                not (self.layers and self.class_tokens),
                "model.layers",
                "are not used with model.class_tokens: omit one of them",
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

    @property
    def pooled_parts(self) -> tuple[Part, ...]:
        """What the pooled vector consists of."""
        if self.class_tokens:
            return (Part("class_tokens", 0, self.encoder.width),)
        return self.pooling.parts(self.token_size, self.bands)

    @property
    def pooled_size(self) -> int:
        """Values in the pooled vector."""
        return sum(part.size for part in self.pooled_parts)

    @property
    def embedding_parts(self) -> tuple[Part, ...]:
        return () if self.embedding_size else self.pooled_parts

    def saving_memory(self) -> list[dict[str, Any]]:
        ways = ["none", "full"]
        first = 0 if self.adapts_to_memory else ways.index(self.remat)
        return [{"remat": way} for way in ways[first:]]

    @property
    def adapts_to_memory(self) -> bool:
        return self.remat == "auto"

    # training

    @property
    def trains_nothing(self) -> bool:
        return self.adaptation == "frozen"

    def trains(self, path: tuple[str, ...]) -> bool:
        from asdjax.models.lora import is_adapter

        if self.adaptation == "lora":
            return path[0] != "encoder" or is_adapter(path)
        return not self.trains_nothing and path[:2] != ("encoder", "band_norm")

    def draws(
        self, key: PRNGKeyArray, rows: Array, everyone: int, n_samples: int, augment: Any
    ) -> dict[str, Any]:
        import jax

        from asdjax.models.dropout import Draws

        return {"draws": Draws(jax.random.fold_in(key, _DROPOUT), rows)}

    # weights

    @classmethod
    def of_weights(cls, weights: Pretrained, layers: tuple[int, ...]) -> SpectrogramTransformer:
        return cls(
            name=weights.name,
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

    def with_weights_folder(self, folder: str) -> SpectrogramTransformer:
        return dataclasses.replace(self, weights=folder)

    @property
    def for_tests_only(self) -> bool:
        return self.random_init

    def resolved(self) -> tuple[SpectrogramTransformer, Pretrained | None]:
        from asdjax.store import converted_weights

        if self.weights is None:
            if not self.random_init:
                raise ConfigError(
                    f"model.weights: {self.name} starts from pretrained weights: download them, "
                    f"convert them with asdjax convert {self.verb} FILE FOLDER, and give "
                    "--model.weights FOLDER (for tests, model.random_init true uses random weights)"
                )
            return self, None
        weights = converted_weights.read(Path(self.weights))
        if weights.name != self.name:
            raise ConfigError(
                f"{self.weights}: weights of the encoder {weights.name}, not of {self.name}: set "
                f"model.name to {weights.name}"
            )
        default_encoder = type(self)(name=self.name).encoder
        if self.encoder not in (default_encoder, weights.encoder):
            raise ConfigError(
                f"model.encoder: not the architecture of {self.weights}: omit model.encoder, it is "
                "read from there"
            )
        absolute = str(Path(self.weights).absolute())
        return dataclasses.replace(self, weights=absolute, encoder=weights.encoder), weights

    def pretrained(self, weights: Pretrained, params: dict[str, Any]) -> dict[str, Any]:
        from asdjax.models import lora, parameters
        from asdjax.store.checkpoint import load_pretrained

        _, base = parameters.divided(params["encoder"], lora.is_adapter)
        return load_pretrained(weights, {"encoder": base})

    def require_classifier(self) -> None:
        raise ArtifactError(
            f"{self.weights}: no classifier, which pooling 'head' needs: choose 'mean'"
        )

    # inference

    def for_inference(
        self, params: dict[str, Any]
    ) -> tuple[SpectrogramTransformer, dict[str, Any]]:
        from asdjax.models.lora import merge

        if self.adaptation != "lora":
            return self, params
        encoder = merge(params["encoder"], self.lora.alpha / self.lora.rank)
        return dataclasses.replace(self, adaptation="full"), {**params, "encoder": encoder}

    @property
    def token_size(self) -> int:
        """Values in each token that is pooled."""
        return self.encoder.width * max(1, len(self.layers))

    @property
    def bands(self) -> int:
        """Bands of the grid of tokens, which are time-major; 1: none."""
        return self.encoder.bands

    @property
    def shortest(self) -> int:
        return self.front().samples(1, self.encoder)

    def row_length(self, samples: int) -> int:
        return self.front().row_length(samples, self.encoder)

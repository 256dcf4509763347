"""Settings that the encoders with a pretrained transformer share, and what follows from them.

`beats_encoder` and `spectrogram_transformer` extend this class; `token_embedder` has the network.
"""

from __future__ import annotations

import abc
import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, Self

from asdjax.config.beats_architecture import LoRAConfig
from asdjax.config.embedding_parts import Part
from asdjax.config.interfaces import ComputeDtype, Encoder, Pooling
from asdjax.config.registry import default
from asdjax.config.schema import Check, Count, Range, digits
from asdjax.errors import ArtifactError, ConfigError
from asdjax.models.poolings import Mean

if TYPE_CHECKING:
    from jaxtyping import Array, PRNGKeyArray

    from asdjax.models.token_embedder import TokenEmbedder
    from asdjax.store.converted_weights import Pretrained

_DROPOUT = 1000  # random stream; mixup uses the key of the step itself


class Architecture(Protocol):
    """The sizes of a transformer, as a frozen dataclass."""

    @property
    def depth(self) -> int:
        """Transformer layers."""

    @property
    def width(self) -> int:
        """Values in each token."""

    @property
    def bands(self) -> int:
        """Frequency bands of the grid of tokens, which are time-major; 1: none."""

    @property
    def published_as(self) -> str:
        """Name of the weights, for meta.yaml."""

    def checks(self) -> list[Check]:
        """Conditions on combinations of settings."""


@dataclasses.dataclass(frozen=True)
class PretrainedEncoder(Encoder):
    """A pretrained transformer on a spectrogram, whose tokens are pooled."""

    neutral: ClassVar[tuple[str, ...]] = ("weights", "remat")
    has_tokens = True
    memory_is_quadratic = True
    verb: ClassVar[str]
    """The command of asdjax convert that makes the weights."""
    features: ClassVar[str]
    """Text for meta.yaml: the spectrogram."""
    memory_ways: ClassVar[tuple[str, ...]] = ("none", "attention", "full")
    """Values of `remat`, which need less and less memory."""

    name: str
    weights: str | None = None
    """Folder of pretrained weights, written by asdjax convert."""
    random_init: bool = False
    """Start from random weights, for tests only; all results of the run are marked so."""
    encoder: Architecture = dataclasses.field(kw_only=True)
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
    compute_dtype: ComputeDtype = "auto"
    """Precision of the large products; weights, softmax, norms and the loss remain float32.
    auto: float32 on CPUs, TensorFloat-32 on GPUs, three passes of bfloat16 on TPUs."""
    remat: Literal["auto", "none", "attention", "full"] = "auto"
    """Save memory: recompute attention weights, or whole layers (full), in the backward pass.
    auto: the first of none, attention and full that fits the device's memory; on CPUs none."""

    # what each encoder defines

    @abc.abstractmethod
    def network(self, rng: Any) -> TokenEmbedder:
        """The network, with initial weights drawn from `rng`."""

    @abc.abstractmethod
    def steps_for(self, samples: int) -> int:
        """Time steps of tokens with which a row holds a clip: at least the clip's own."""

    @abc.abstractmethod
    def samples_of(self, steps: int) -> int:
        """The least number of samples with this many time steps of tokens."""

    # the network

    def build(self, n_samples: int | None, sample_rate: int, rng: Any) -> TokenEmbedder:
        if n_samples is not None:
            self.check_length(n_samples)
        return self.network(rng)

    def check_length(self, samples: int) -> None:
        """Raise `AsdjaxError` if clips are shorter than a patch."""
        if samples < self.shortest:
            raise ConfigError(
                f"clips of {samples} samples are too short for {self.encoder.published_as}, which "
                f"needs {self.shortest}: increase audio.clip_seconds (shorter clips are repeated "
                "to that length)"
            )

    @property
    def shortest(self) -> int:
        return self.samples_of(1)

    def row_length(self, samples: int) -> int:
        """Length to which clips of `samples` are padded, so that similar lengths share a batch.

        The number of time steps is rounded up to a multiple of 2^(bits - 3), where `bits` is its
        number of binary digits: four lengths per octave, at most a quarter longer than the clip.
        """
        count = self.steps_for(samples)
        step = max(1, 2 ** (count.bit_length() - 3))
        return self.samples_of(-(-count // step) * step)

    @property
    def token_size(self) -> int:
        """Values in each token that is pooled."""
        return self.encoder.width * max(1, len(self.layers))

    @property
    def bands(self) -> int:
        return self.encoder.bands

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

    def saving_memory(self) -> list[dict[str, Any]]:
        first = 0 if self.adapts_to_memory else self.memory_ways.index(self.remat)
        return [{"remat": way} for way in self.memory_ways[first:]]

    @property
    def adapts_to_memory(self) -> bool:
        return self.remat == "auto"

    # texts for meta.yaml

    def pooled(self) -> str:
        """How tokens become a vector."""
        layers = f"layers {', '.join(map(str, self.layers))}" if self.layers else "the last layer"
        return f"{self.pooling.sentence()} over the tokens of {layers}"

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

        from asdjax.models.dropout import Draws

        return {"draws": Draws(jax.random.fold_in(key, _DROPOUT), rows)}

    # weights

    @classmethod
    def of_weights(cls, weights: Pretrained, layers: tuple[int, ...]) -> Self:
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

    def with_weights_folder(self, folder: str) -> Self:
        return dataclasses.replace(self, weights=folder)

    @property
    def for_tests_only(self) -> bool:
        return self.random_init

    def architecture_of(self, weights: Pretrained) -> Any:
        """The architecture of pretrained weights, as it is used here."""
        return weights.encoder

    def resolved(self) -> tuple[Self, Pretrained | None]:
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
        encoder = self.architecture_of(weights)
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        if self.encoder not in (defaults["encoder"], encoder):
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
        raise ArtifactError(
            f"{self.weights}: no classifier, which pooling 'head' needs: choose 'mean'"
        )

    # inference

    def for_inference(self, params: dict[str, Any]) -> tuple[Self, dict[str, Any]]:
        from asdjax.models.lora import merge

        if self.adaptation != "lora":
            return self, params
        encoder = merge(params["encoder"], self.lora.alpha / self.lora.rank)
        return dataclasses.replace(self, adaptation="full"), {**params, "encoder": encoder}

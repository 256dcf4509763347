"""What a recipe chooses by name, as abstract classes: extend one to add a thing of its kind.

Each class is a section of the recipe. Its fields are the settings: they are read strictly, shown by
`--help` and written into the run. Its methods do the work. The modules of the built-in ones import
neither jax nor NumPy before a method is called, so that reading a recipe costs little.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from asdjax.config.schema import Check, Choice, Range
from asdjax.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from flax import nnx
    from jaxtyping import Array, Bool, Float, Float64, PRNGKeyArray

ComputeDtype = Literal["float32", "bfloat16"]
"""What the operands of large products are rounded to."""


class Weights(Protocol):
    """Pretrained weights: a folder, and a digest of its arrays."""

    @property
    def path(self) -> Path:
        """The folder."""

    @property
    def digest(self) -> str:
        """Equal only for equal weights."""


@dataclasses.dataclass(frozen=True)
class Encoder(Choice):
    """The network that turns waveforms into embeddings, one vector per clip.

    `build` and `sentences` make an encoder that is trained from scratch; all else has a default.
    """

    kind = "encoder"
    passes_over = False
    neutral: ClassVar[tuple[str, ...]] = ()
    """Settings that may change while a run goes on."""

    name: str
    """The network."""

    @abc.abstractmethod
    def build(self, n_samples: int | None, sample_rate: int, rng: Any) -> nnx.Module:
        """The network with weights drawn from `rng`.

        It has an attribute `embedding_size` and is called with waveforms [B, T] in [-1, 1], `train`
        and, in training, `axis_name` and what `draws` returns; it returns embeddings [B, D].
        Its weights are `nnx.Param`, its running statistics `nnx.BatchStat`.

        Args:
            n_samples: length of every clip, samples; None: they differ, which only an encoder with
                `has_tokens` is asked for.
            sample_rate: hertz.
            rng: a NumPy generator, or what stands for it where only shapes matter:
                `uniform(low, high, size)`, `normal(mean, deviation, size)` and `integers(high)`.

        Raises:
            AsdjaxError: the network cannot process clips of this length.
        """

    @abc.abstractmethod
    def sentences(self) -> tuple[str, str, str]:
        """What meta.yaml says: the acoustic features, the embedding, the name of the network."""

    def checks(self, sample_rate: int) -> list[Check]:
        """What must hold of the settings, besides types and bounds."""
        return []

    def on_platform(self, platform: str) -> Encoder:
        """The settings without what devices of this platform ("cpu", "gpu", "tpu") lack."""
        return self

    @property
    def compute_dtype(self) -> ComputeDtype:
        """What the operands of large products are rounded to; a setting where it can be chosen."""
        return "float32"

    def computing_in(self, compute_dtype: ComputeDtype) -> Encoder:
        """The settings with another `compute_dtype`; `AsdjaxError` if it cannot be chosen."""
        changed = {"compute_dtype": compute_dtype}
        if changed.keys() <= {field.name for field in dataclasses.fields(self)}:
            return dataclasses.replace(self, **changed)
        if compute_dtype != self.compute_dtype:
            raise ConfigError(
                f"compute_dtype {compute_dtype}: {self.name} computes in {self.compute_dtype} "
                "alone: leave the choice out"
            )
        return self

    # training

    @property
    def trains_nothing(self) -> bool:
        """Whether all weights stay as they are."""
        return False

    def trains(self, path: tuple[str, ...]) -> bool:
        """Whether the weight at this path, the names of modules and then its own, is trained."""
        return True

    def draws(
        self, key: PRNGKeyArray, rows: Array, everyone: int, n_samples: int, augment: Any
    ) -> dict[str, Any]:
        """What the network draws at random in a training step, by the argument that takes it.

        Args:
            key: of the step, which mixup uses too: fold a number into it.
            rows: the places of this device's clips in the global batch.
            everyone: clips in the global batch.
            n_samples: length of the clips.
            augment: section `augment` of the configuration.
        """
        return {}

    def augmentations(self, augment: Any) -> list[str]:
        """What meta.yaml says of augmentation inside of the network."""
        return []

    # pretrained weights

    @classmethod
    def of_weights(cls, weights: Any, layers: tuple[int, ...]) -> Encoder:
        """The encoder for pretrained weights alone, untrained.

        Args:
            weights: as of `resolved`.
            layers: whose tokens, side by side, are pooled; none: the last's.
        """
        raise NotImplementedError

    @property
    def weights_folder(self) -> str | None:
        """The folder of pretrained weights to start from."""
        return None

    def with_weights_folder(self, folder: str) -> Encoder:
        """The same with weights from another folder."""
        raise NotImplementedError

    @property
    def for_tests_only(self) -> bool:
        """Whether random weights stand for pretrained ones, which every result then states."""
        return False

    def resolved(self) -> tuple[Encoder, Weights | None]:
        """The settings with the architecture of the pretrained weights, and these weights, if any.

        Raises:
            AsdjaxError: there are no weights, or they are of another architecture.
        """
        return self, None

    def pretrained(self, weights: Any, params: dict[str, Any]) -> dict[str, Any]:
        """The pretrained ones among the network's weights, as NumPy arrays nested as in `params`.

        Args:
            weights: from `resolved`.
            params: all weights, or their shapes.
        """
        raise NotImplementedError

    def require_classifier(self) -> None:
        """Refuse pretrained weights without a classifier; `AsdjaxError` says so.

        With one, the network has a method `probabilities(tokens, valid)`.
        """
        raise NotImplementedError

    # inference

    def for_inference(self, params: dict[str, Any]) -> tuple[Encoder, dict[str, Any]]:
        """Settings and weights that give the same embeddings with less work."""
        return self, params

    def folded(self, module: Any, params: dict[str, Any]) -> dict[str, Any]:
        """Weights with what every batch would compute again computed once; `module` may change."""
        return params

    memory_is_quadratic: ClassVar[bool] = False
    """Whether memory grows with the square of a clip's length."""
    has_tokens: ClassVar[bool] = False
    """Whether the network has a method `tokens(waveform, length=)`, which returns tokens [B, L, C]
    and which of them are valid, and takes clips of any length: the following are then defined."""

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers, from 1, whose tokens are pooled side by side; empty: the last."""
        return ()

    @property
    def shortest(self) -> int:
        """Samples of the shortest clip that can be embedded."""
        return 1

    def row_length(self, samples: int) -> int:
        """Samples of the rows in which clips of `samples` are embedded together with others."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Pooling(Choice):
    """How the tokens of a clip become one vector."""

    kind = "pooling"
    passes_over = False
    trains: ClassVar[bool] = False
    """Whether it has weights."""

    name: str
    """How the tokens of a clip become one vector."""

    @abc.abstractmethod
    def build(self, features: int, hidden: int, rng: Any) -> nnx.Module:
        """A module that is called with tokens [B, L, C], `train`, `axis_name` and `valid` [B, L].

        It returns [B, C]. `valid`, or None for all, tells which tokens count.

        Args:
            features: C, values of a token.
            hidden: hidden units, for a pooling that has some.
            rng: source of the initial weights.
        """

    @abc.abstractmethod
    def sentence(self) -> str:
        """What meta.yaml says."""


@dataclasses.dataclass(frozen=True)
class Loss(Choice):
    """The loss of the classifier that an encoder is trained as."""

    kind = "loss"

    name: str
    """Classification loss on the embeddings."""

    @abc.abstractmethod
    def init(
        self, n_classes: int, embedding_size: int, key: PRNGKeyArray
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """What the optimiser trains, and what else the loss remembers, before the first step.

        Raises:
            AsdjaxError: the loss cannot have so few classes.
        """

    @abc.abstractmethod
    def apply(
        self,
        params: dict[str, Array],
        stats: dict[str, Array],
        embedding: Float[Array, "B D"],
        target: Float[Array, "B C"],
        *,
        train: bool,
        axis_name: str | None = None,
    ) -> tuple[Float[Array, " B"], Float[Array, "B C"], dict[str, Array]]:
        """The loss of each clip, the logarithms of the class probabilities, and the new `stats`.

        Args:
            params: trained arrays, from `init`.
            stats: arrays that are not trained, from `init` or the step before.
            embedding: one vector per clip.
            target: label weights, each row summing to 1.
            train: whether `stats` may change.
            axis_name: mapped axis over which the batch is spread; None: it is the whole batch.
        """

    @abc.abstractmethod
    def sentence(self) -> str:
        """What meta.yaml says: the name of the loss."""

    def checks(self) -> list[Check]:
        """What must hold of the settings, besides types and bounds."""
        return []


@dataclasses.dataclass(frozen=True)
class View(Choice):
    """A view of a clip: channel 1 as it is, or changed, with the help of channel 2 or alone."""

    kind = "view"
    tag = "method"
    required = ("name", "method")
    uses_channel_2: ClassVar[bool] = True
    """Whether it needs channel 2; the raw view stands for it where there is none. A view that does
    not need it is also made of the only channel."""
    is_raw: ClassVar[bool] = False
    """Whether it is the channel as it is, of which no more is read than is embedded."""
    learns: ClassVar[bool] = False
    """Whether it must know a machine's normal training clips: `observe` and `learned` are then
    defined, and `make` is given what was learned."""

    name: str
    """Names the view's embeddings folder and its column of scores."""
    method: str
    """What is done to the clip."""

    @abc.abstractmethod
    def make(
        self, clips: Any, learned: Array | None
    ) -> tuple[Float[Array, "B T"], Float[Array, " B"] | None]:
        """The view of a batch of clips, and the mean gain of each, if it has one.

        What lies beyond the end of a clip does not matter.

        Args:
            clips: both channels and their spectra (`asdjax.signal.channels.Channels`).
            learned: what `learned` returned for the machine.
        """

    @abc.abstractmethod
    def sentence(self, channel: str) -> str:
        """What meta.yaml says, given words for the signal ("channel 1 (near)")."""

    def observe(self, clips: Any) -> tuple[Float[Array, "B N F"], Bool[Array, "B N"]]:
        """What a batch of training clips contributes, and which of these rows count."""
        raise NotImplementedError

    def learned(self, rows: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "K F"]:
        """What is learned from the rows of all training clips of a machine.

        Raises:
            AsdjaxError: there are none.
        """
        raise NotImplementedError

    def checks(self) -> list[Check]:
        """What must hold of the settings, besides types and bounds; keys are those of the view."""
        return []


@dataclasses.dataclass(frozen=True)
class SpectralView(View):
    """A view that is made of short-time spectra."""

    n_fft: Annotated[int, Range(low=2, high=2**16)] = 1024
    """Window and transform length, samples."""
    hop: Annotated[int, Range(low=1, high=2**20)] = 512
    """Step between frames, samples; at most half of n_fft."""

    def checks(self) -> list[Check]:
        """Frames overlap by half at least, so that the spectra can be inverted."""
        return [(self.hop <= self.n_fft // 2, "hop", "must be at most half of n_fft")]


@dataclasses.dataclass(frozen=True)
class Backend(Choice):
    """How a clip's anomaly score follows from the embeddings of normal training clips."""

    kind = "backend"

    name: str
    """The backend."""
    metric: Literal["cosine", "euclidean"] = "cosine"
    """cosine: unit-length embeddings, Euclidean distance / 2; euclidean: as they are."""
    target_neighbours: Annotated[int, Range(low=0)] = 1
    """Neighbours averaged in the target pool; 0 leaves the target pool out."""
    combine_views: Literal["mean", "z_score", "embeddings"] = "mean"
    """How views become one score: the mean of their scores; of their scores standardised by the
    leave-one-out scores (z_score); or the score of the mean of their embeddings (embeddings)."""
    folds: Annotated[int, Range(low=2)] = 10
    """Refits that give the training scores of backends that are fitted anew without a clip."""

    @abc.abstractmethod
    def fitted(self, points: Float[np.ndarray, "N D"], is_target: Bool[np.ndarray, " N"]) -> Any:
        """The backend fitted to one machine and section: a class that extends `backends.Fitted`.

        `asdjax.scoring.backends.fit` calls this, and checks what it is given.

        Args:
            points: embeddings of normal training clips, finite and, for the cosine, of unit length.
            is_target: which clips are of the target domain.

        Raises:
            AsdjaxError: the backend cannot be fitted to these clips.
        """

    @abc.abstractmethod
    def sentence(self) -> str:
        """What meta.yaml says."""

    def generalization(self) -> str | None:
        """What meta.yaml says of domain generalization."""
        return None

    def training_scores(self) -> str:
        """What meta.yaml calls the training clips' scores; these are by refits."""
        return f"{self.folds}-fold scores"


@dataclasses.dataclass(frozen=True)
class Threshold(Choice):
    """How a machine's threshold follows from its normal training clips' scores."""

    kind = "threshold"
    tag = "method"
    in_sample: ClassVar[bool] = False
    """Whether the clips are scored against a bank that holds themselves, not left out of it."""

    method: str
    """How the threshold is fitted to the training clips' scores."""
    level: Annotated[float, Range(low=0.5, high=0.9999)] = 0.9
    """Share of normal clips meant to lie at or below the threshold."""

    @abc.abstractmethod
    def fit(self, scores: Float64[np.ndarray, " N"]) -> float:
        """The threshold for scores of normal clips, which are finite, below 1e300 and at least one.

        Raises:
            AsdjaxError: there is no threshold for these scores.
        """

    @abc.abstractmethod
    def sentence(self, scores: str) -> str:
        """What meta.yaml says, given words for the scores ("leave-one-out scores")."""

    @property
    def far(self) -> str:
        """Why the rate of false alarms may be far from 1 - level."""
        return "many scores are equal"

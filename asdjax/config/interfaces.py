"""Abstract base classes of everything that a recipe chooses by name: encoders, losses, views ...

To add one, extend the class and call `register` (`asdjax docs plugins` shows examples). An instance
is a section of the recipe. Its fields are the settings: they are validated, shown by `--help-all`
and saved with the run. Its methods do the work. Modules of built-in classes import jax and NumPy
inside of methods only, so that reading a recipe is fast.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from asdjax.config.embedding_parts import Part
from asdjax.config.schema import Check, Choice, Range
from asdjax.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from flax import nnx
    from jaxtyping import Array, Bool, Float, Float64, PRNGKeyArray

ComputeDtype = Literal["auto", "float32", "tensorfloat32", "bfloat16"]
"""Precision of large matrix products and convolutions: what their operands are rounded to.

tensorfloat32 keeps 10 bits after the point on NVIDIA GPUs; on TPUs a product is computed in three
passes of bfloat16, which is at least as precise; on CPUs it is float32. auto is float32 on CPUs and
tensorfloat32 on other devices.
"""


def precision_on(platform: str, compute_dtype: ComputeDtype) -> ComputeDtype:
    """What a `compute_dtype` means on a platform ("cpu", "gpu", "tpu"); never "auto".

    Example:
        >>> precision_on("cpu", "auto"), precision_on("gpu", "auto")
        ('float32', 'tensorfloat32')
    """
    if compute_dtype not in ("auto", "tensorfloat32"):
        return compute_dtype
    return "float32" if platform == "cpu" else "tensorfloat32"


class Weights(Protocol):
    """Pretrained weights in a folder."""

    @property
    def path(self) -> Path:
        """The folder."""

    @property
    def digest(self) -> str:
        """Digest of the arrays: weights that differ have different digests."""


@dataclasses.dataclass(frozen=True)
class Encoder(Choice):
    """The network that turns waveforms into embeddings, one vector per clip.

    Example:
        >>> asdjax.Config().model.name
        'multiresnet'

    An encoder that is trained from scratch defines `build` and `sentences`. All other methods have
    defaults.
    """

    kind = "encoder"
    ignores_foreign = False
    conditional = {
        "has_tokens": ("row_length", "token_size"),
        "weights_folder": ("with_weights_folder", "resolved", "pretrained"),
    }
    neutral: ClassVar[tuple[str, ...]] = ()
    """Settings that may change when a run is resumed."""

    embeds: ClassVar[bool] = True
    """Whether it embeds clips; false for a combination of runs."""

    name: str
    """The encoder's network."""

    @abc.abstractmethod
    def build(self, n_samples: int | None, sample_rate: int, rng: Any) -> nnx.Module:
        """Return the network, with initial weights drawn from `rng`.

        The network has an attribute `embedding_size`. It is called as `network(waveform, train=)`,
        in training also with `axis_name` and the keyword arguments that `draws` returns, and maps
        waveforms [B, T] in [-1, 1] to embeddings [B, D]. Its weights are `nnx.Param`, its running
        statistics `nnx.BatchStat`.

        Args:
            n_samples: length of every clip, samples; None (only if `has_tokens`): lengths differ.
            sample_rate: hertz.
            rng: a NumPy generator, or a substitute that returns zeros when only shapes are needed.
                It has `uniform(low, high, size)`, `normal(mean, deviation, size)` and
                `integers(high)`; use no other methods.

        Raises:
            AsdjaxError: the network cannot process clips of this length.
        """

    @abc.abstractmethod
    def sentences(self) -> tuple[str, str, str]:
        """Texts for meta.yaml: the acoustic features, the embedding, the name of the network."""

    def described(self) -> dict[str, Any]:
        """Entries of meta.yaml's `system.description` that replace those of the configuration."""
        return {}

    def checks(self, sample_rate: int) -> list[Check]:
        """Conditions on combinations of settings; types and bounds are checked already."""
        return []

    def on_platform(self, platform: str) -> Encoder:
        """The settings as they are used on this platform ("cpu", "gpu", "tpu").

        `compute_dtype` is resolved (`precision_on`), and features that the platform lacks are off.
        """
        return self.computing_in(precision_on(platform, self.compute_dtype))

    def saving_memory(self) -> list[dict[str, Any]]:
        """Changes of settings with which training needs less and less memory, with equal results.

        The first one changes nothing, except that it settles what `adapts_to_memory` leaves open.
        """
        return [{}]

    @property
    def adapts_to_memory(self) -> bool:
        """Whether training takes the first change of `saving_memory` that fits the device."""
        return False

    @property
    def compute_dtype(self) -> ComputeDtype:
        """Precision of the large products; a setting of this name may override it."""
        return "float32"

    def computing_in(self, compute_dtype: ComputeDtype) -> Encoder:
        """The settings with another `compute_dtype`; `AsdjaxError` if it is not supported."""
        changed = {"compute_dtype": compute_dtype}
        if changed.keys() <= {field.name for field in dataclasses.fields(self)}:
            return dataclasses.replace(self, **changed)
        if compute_dtype != self.compute_dtype:
            raise ConfigError(
                f"compute_dtype {compute_dtype}: {self.name} supports only {self.compute_dtype}: "
                "omit this option"
            )
        return self

    @property
    def embedding_parts(self) -> tuple[Part, ...]:
        """What the embedding consists of, one part after the other; empty: a single vector."""
        return ()

    # training

    @property
    def trains_nothing(self) -> bool:
        """Whether all weights are frozen."""
        return False

    def trains(self, path: tuple[str, ...]) -> bool:
        """Whether the weight at this path (module names, then the parameter's name) is trained."""
        return True

    def draws(
        self, key: PRNGKeyArray, rows: Array, everyone: int, n_samples: int, augment: Any
    ) -> dict[str, Any]:
        """Random inputs of the network in a training step, as keyword arguments for its call.

        Args:
            key: random key of the step. Mixup splits it in three, which equals folding in 0, 1 and
                2: derive other keys by folding in numbers from 1000 on.
            rows: indices in the global batch of the clips at hand (of this device, or a part of
                them, see train.accumulate).
            everyone: number of clips in the global batch.
            n_samples: length of the clips.
            augment: section `augment` of the configuration.
        """
        return {}

    def augmentations(self, augment: Any) -> list[str]:
        """Texts for meta.yaml: augmentations that the network itself applies."""
        return []

    # pretrained weights

    @classmethod
    def of_weights(cls, weights: Any, layers: tuple[int, ...]) -> Encoder:
        """The encoder with pretrained weights, without fine-tuning.

        Args:
            weights: as returned by `resolved`.
            layers: layers whose tokens are concatenated and pooled; empty: the last layer.
        """
        raise NotImplementedError

    @property
    def weights_folder(self) -> str | None:
        """Folder of the pretrained weights from which training starts; None: no such weights.

        If defined, define also `with_weights_folder`, `resolved` and `pretrained`.
        """
        return None

    def with_weights_folder(self, folder: str) -> Encoder:
        """The same settings with weights from another folder."""
        raise NotImplementedError

    @property
    def for_tests_only(self) -> bool:
        """Whether random weights replace pretrained ones; every result then states this."""
        return False

    def resolved(self) -> tuple[Encoder, Weights | None]:
        """The settings with the architecture of the pretrained weights, and these weights, if any.

        Raises:
            AsdjaxError: the weights are missing, or the settings state another architecture.
        """
        return self, None

    def pretrained(self, weights: Any, params: dict[str, Any]) -> dict[str, Any]:
        """The parameters that the pretrained weights replace, NumPy arrays nested as in `params`.

        Args:
            weights: from `resolved`.
            params: all parameters of the network, or their shapes.
        """
        raise NotImplementedError

    def require_classifier(self) -> None:
        """Raise `AsdjaxError` if the pretrained weights have no classifier.

        With one, the network has a method `probabilities(tokens, valid)`.
        """
        raise NotImplementedError

    # inference

    def for_inference(self, params: dict[str, Any]) -> tuple[Encoder, dict[str, Any]]:
        """Settings and weights of a cheaper network with the same embeddings (merged adapters)."""
        return self, params

    def folded(self, module: Any, params: dict[str, Any]) -> dict[str, Any]:
        """The weights for inference, with what does not depend on the clips precomputed.

        `module`, the network without arrays, may be changed in place to match; `params` may not.
        """
        return params

    memory_is_quadratic: ClassVar[bool] = False
    """Whether memory grows with the square of a clip's length."""
    has_tokens: ClassVar[bool] = False
    """Whether the network embeds clips of any length and has a method `tokens(waveform, length=)`,
    which returns tokens [B, L, C] and a mask of the valid ones. If so, define the following."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers, counted from 1, whose tokens are concatenated and pooled; empty: the last."""
        return ()

    @property
    def token_size(self) -> int:
        """C, number of values in each token of `layers`."""
        raise NotImplementedError

    @property
    def bands(self) -> int:
        """Frequency bands of the tokens: token t * bands + f is that of time step t and band f."""
        return 1

    @property
    def shortest(self) -> int:
        """Length of the shortest clip that can be embedded, samples."""
        return 1

    def shortest_input(self, sample_rate: int) -> int:
        """Length of the shortest clips for which it can be built, samples."""
        return 1

    def row_length(self, samples: int) -> int:
        """Length to which clips of `samples` are padded, so that similar lengths share a batch."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Pooling(Choice):
    """How the tokens of a clip are reduced to one vector.

    Example:
        >>> asdjax.Pooling.kind
        'pooling'
    """

    kind = "pooling"
    ignores_foreign = False
    trains: ClassVar[bool] = False
    """Whether it has weights."""

    name: str
    """How the tokens of a clip are reduced to one vector."""

    @abc.abstractmethod
    def build(self, features: int, hidden: int, rng: Any, bands: int) -> nnx.Module:
        """Return a module that maps tokens [B, L, C] to vectors [B, D].

        It is called as `module(tokens, train=, axis_name=, valid=)`, where `valid` [B, L] masks the
        tokens to pool; None: all of them. D is the sum of the sizes of `parts`.

        Args:
            features: C, size of a token.
            hidden: number of hidden units, if the pooling has a hidden layer.
            rng: source of the initial weights.
            bands: number of frequency bands of the tokens: token t * bands + f is that of time step
                t and band f. 1: they have no bands.
        """

    def parts(self, features: int, bands: int) -> tuple[Part, ...]:
        """What the vector consists of, one part after the other; by default one part [C]."""
        return (Part(self.name, 0, features),)

    @abc.abstractmethod
    def sentence(self) -> str:
        """Text for meta.yaml."""

    def checks(self) -> list[Check]:
        """Conditions on combinations of settings; types and bounds are checked already."""
        return []


@dataclasses.dataclass(frozen=True)
class Loss(Choice):
    """The classification loss with which an encoder is trained.

    Example:
        >>> asdjax.Config().loss.name
        'sub_cluster_adacos'
    """

    kind = "loss"

    name: str
    """Classification loss on the embeddings."""

    @property
    def of_whole_batch(self) -> bool:
        """Whether `apply` needs all clips of a batch at once, which excludes train.accumulate."""
        return False

    @abc.abstractmethod
    def init(
        self, n_classes: int, embedding_size: int, key: PRNGKeyArray
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Initial `params` (trained by the optimiser) and `stats` (updated by `apply`).

        Raises:
            AsdjaxError: the loss is not defined for so few classes.
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
        """The loss of each clip, the log probabilities of the classes, and the new `stats`.

        Args:
            params: trained arrays, from `init`.
            stats: arrays without gradient, from `init` or the previous step.
            embedding: one vector per clip.
            target: label weights, each row summing to 1.
            train: whether `stats` may change.
            axis_name: mapped axis over which the batch is split; None: the batch is not split.
        """

    @abc.abstractmethod
    def sentence(self) -> str:
        """Text for meta.yaml: the name of the loss."""

    def checks(self) -> list[Check]:
        """Conditions on combinations of settings; types and bounds are checked already."""
        return []


@dataclasses.dataclass(frozen=True)
class View(Choice):
    """A view of a clip: a signal computed from channel 1, channel 2 or both.

    Example:
        >>> [view.name for view in asdjax.Config().extract.views]
        ['raw']
    """

    kind = "view"
    tag = "method"
    required = ("name", "method")
    uses_channel_2: ClassVar[bool] = True
    """Whether it needs channel 2. For mono files the raw view replaces views that do."""
    is_raw: ClassVar[bool] = False
    """Whether it is the unchanged channel: only the samples that are embedded are then read."""
    conditional = {"learns": ("observe", "learned")}
    learns: ClassVar[bool] = False
    """Whether it is fitted to a machine's normal training clips. If so, define `observe` and
    `learned`; `make` is given the result."""

    name: str
    """Name of the view's embeddings folder and of its column of scores."""
    method: str
    """How the view is computed."""

    @abc.abstractmethod
    def make(
        self, clips: Any, learned: Array | None
    ) -> tuple[Float[Array, "B T"], Float[Array, " B"] | None]:
        """The view of a batch of clips, and the mean gain of each clip (None: no gain).

        Samples beyond a clip's end are ignored.

        Args:
            clips: both channels and their spectra (`asdjax.signal.channels.Channels`).
            learned: what `learned` returned for the machine.
        """

    @abc.abstractmethod
    def sentence(self, channel: str) -> str:
        """Text for meta.yaml, given a name of the signal ("channel 1 (near)")."""

    def observe(self, clips: Any) -> tuple[Float[Array, "B N F"], Bool[Array, "B N"]]:
        """Feature rows of a batch of training clips, and a mask of the rows to use."""
        raise NotImplementedError

    def learned(self, rows: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "K F"]:
        """The view's parameters, fitted to the rows of all training clips of a machine.

        Raises:
            AsdjaxError: there are no rows.
        """
        raise NotImplementedError

    def checks(self) -> list[Check]:
        """Conditions on combinations of settings, with the view's field names as keys."""
        return []


@dataclasses.dataclass(frozen=True)
class SpectralView(View):
    """A view that is computed from short-time spectra."""

    n_fft: Annotated[int, Range(low=2, high=2**16)] = 1024
    """Window and transform length, samples."""
    hop: Annotated[int, Range(low=1, high=2**20)] = 512
    """Step between frames, samples; at most half of n_fft."""

    def checks(self) -> list[Check]:
        """Frames must overlap by at least half, so that the STFT can be inverted."""
        return [(self.hop <= self.n_fft // 2, "hop", "must be at most half of n_fft")]


@dataclasses.dataclass(frozen=True)
class Backend(Choice):
    """Computes a clip's anomaly score from the embeddings of normal training clips.

    Example:
        >>> asdjax.Config().backend.sentence()
        'cosine nearest neighbours'
    """

    kind = "backend"

    name: str
    """How anomaly scores are computed from embeddings."""
    metric: Literal["cosine", "euclidean"] = "cosine"
    """cosine: embeddings are scaled to unit length first; euclidean: they are not."""
    target_neighbours: Annotated[int, Range(low=0, high=2**20)] = 1
    """Nearest target-domain clips whose distances are averaged; 0: ignore target clips."""
    combine_views: Literal["mean", "z_score", "z_minimum", "z_maximum", "embeddings"] = "mean"
    """How views become one score: mean of their scores; mean, minimum or maximum of their scores
    after standardising each view's by its leave-one-out scores (z_score, z_minimum, z_maximum); or
    score of the mean of their embeddings (embeddings)."""
    bands: Literal["each", "joined"] = "each"
    """Embeddings with frequency bands: each band is scored by itself, and the scores are averaged
    (each), or all bands are one vector (joined). Without bands it has no effect."""
    part: str | None = None
    """Which part of the embedding is scored, if it has several; null: the first."""
    folds: Annotated[int, Range(low=2, high=2**20)] = 10
    """Cross-validation folds for the scores of training clips, in kmeans, mahalanobis,
    principal_components and fusion; the others leave out one clip at a time."""

    conditional = {"divides_bands": ("fitted_to_bands",)}
    of_scores: ClassVar[bool] = False
    """Whether it combines the scores of other runs (asdjax combine)."""
    selected: ClassVar[bool] = False
    """Whether it was chosen by asdjax select, with the embeddings of then."""
    divides_bands: ClassVar[bool] = False
    """Whether the backend itself takes bands apart. If so, define `fitted_to_bands`."""

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

    def fitted_to_bands(
        self, points: Float[np.ndarray, "N FD"], is_target: Bool[np.ndarray, " N"], bands: int
    ) -> Any:
        """The same of embeddings of several bands, if `divides_bands`: band after band in a row."""
        raise NotImplementedError

    def of(self, machine: str, section: str) -> Backend:
        """The backend of a machine and section (two digits): by default this one for all."""
        return self

    def with_metric(self, metric: Literal["cosine", "euclidean"]) -> Backend:
        """The same backend with another `metric`."""
        return dataclasses.replace(self, metric=metric)

    def checks(self) -> list[Check]:
        """Conditions on combinations of settings; types and bounds are checked already."""
        return []

    @abc.abstractmethod
    def sentence(self) -> str:
        """Text for meta.yaml."""

    def generalization(self) -> str | None:
        """Text for meta.yaml on domain generalization; None: no method."""
        return None

    def training_scores(self) -> str:
        """Text for meta.yaml: how training clips are scored; by default, cross-validation."""
        return f"{self.folds}-fold scores"


@dataclasses.dataclass(frozen=True)
class Threshold(Choice):
    """Fits a machine's threshold to the scores of its normal training clips.

    Example:
        >>> asdjax.Config().decision.fit(np.arange(11.0))
        9.0
    """

    kind = "threshold"
    tag = "method"
    in_sample: ClassVar[bool] = False
    """Whether each training clip is among the clips it is scored against (no leave-one-out)."""
    uses_level: ClassVar[bool] = True
    """Whether the threshold follows `level`; if not, false alarms are not compared with it."""

    method: str
    """How the threshold is fitted to the training clips' scores."""
    level: Annotated[float, Range(low=0.5, high=0.9999)] = 0.9
    """Intended share of normal clips at or below the threshold."""

    @abc.abstractmethod
    def fit(self, scores: Float64[np.ndarray, " N"]) -> float:
        """The threshold for scores of normal clips: at least one, all finite and below 1e300.

        Raises:
            AsdjaxError: no threshold can be fitted to these scores.
        """

    @abc.abstractmethod
    def sentence(self, scores: str) -> str:
        """Text for meta.yaml, given a name of the scores ("leave-one-out scores")."""

    @property
    def why_far_from_level(self) -> str:
        """For a warning: why the false alarm rate of training clips is far from 1 - level."""
        return "many scores are equal"

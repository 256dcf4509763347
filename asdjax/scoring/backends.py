"""Scoring backends: anomaly scores of clips, given the embeddings of normal training clips.

One backend is fitted per machine, section and view:

    backend = fit(config, embeddings, is_target)     # bands=8: of 8 frequency bands, side by side
    backend.score(test_embeddings)   # larger = more anomalous
    backend.leave_one_out()          # each training clip scored against the others

Conventions
* `metric: cosine` scales embeddings to unit length (norm floored at 1e-12) and uses the Euclidean
  distance. Half of it lies in 0..1; its square is (1 - cosine) / 2. `metric: euclidean` leaves
  embeddings and distances unchanged.
* The order of the training rows affects SMOTE and the folds: callers sort them by path.
* `target_neighbours: 0` excludes the target clips from every backend's reference set; they still
  get leave-one-out scores. Only nearest_neighbours uses SMOTE.

Reading a recipe loads this module and that of its backend: they import NumPy inside of functions.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from typing import TYPE_CHECKING, ClassVar

from asdjax.config import registry, schema
from asdjax.config.interfaces import Backend
from asdjax.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Float64


_LARGEST = 1e100  # the squares of larger float64 values overflow in sums


@dataclasses.dataclass(frozen=True)
class References:
    """Scores as distances to reference points.

    The score of x is `factor` times the mean of the `neighbours` smallest of the quotients
    |x - point| / divisor.
    """

    points: Float[np.ndarray, "P D"]
    divisors: Float64[np.ndarray, " P"]
    neighbours: int
    factor: float


class Fitted(abc.ABC):
    """A backend fitted to training clips, as returned by `fit`.

    Each backend extends it with `fit_points` and `score_points`.

    Attributes:
        config: The backend and its settings: section `backend` of the configuration.
        points: The training clips' embeddings [N, D], for the cosine of unit length.
        is_target: Which of them are of the target domain.
        used: Mask of the reference clips: all, or the source clips if `target_neighbours` is 0.
        source: The rows of the source clips.
        target: The rows of the target clips that are used.
        notes: One sentence per special case found while fitting; usually empty.
    """

    config: Backend
    notes: tuple[str, ...]
    refitted_part: ClassVar[str | None] = None
    """What is fitted anew for each fold of the training clips; None: there are no folds."""

    def __init__(
        self,
        config: Backend,
        points: Float[np.ndarray, "N D"],
        is_target: Bool[np.ndarray, " N"],
    ):
        import numpy as np

        self.config = config
        self.points = points
        self.is_target = is_target
        self.used = ~is_target | (config.target_neighbours > 0)
        self.source = np.flatnonzero(~is_target)
        self.target = np.flatnonzero(is_target & self.used)
        if not self.used.any():
            raise DataError(
                "no source clips to score against and backend.target_neighbours is 0: "
                "set it to 1 or more, or add source clips"
            )
        self.notes = ()
        if not is_target.any():
            self.note("no target clips: scored against the source clips only")
        if not len(self.source):
            self.note("no source clips: scored against the target clips only")
        self.fit_points()
        if self.fold_note is not None and self.fold_note not in self.notes:
            self.note(self.fold_note)

    @property
    def fold_note(self) -> str | None:
        """How training clips are scored, as the last of `notes`; None if there are no folds."""
        if self.refitted_part is None:
            return None
        return f"leave-one-out by {self.config.folds}-fold refit of {self.refitted_part}"

    @abc.abstractmethod
    def fit_points(self) -> None:
        """Compute what `score_points` needs of `points`.

        Raises:
            AsdjaxError: The backend cannot be fitted to these clips.
        """

    @abc.abstractmethod
    def score_points(self, points: Float[np.ndarray, "M D"]) -> Float64[np.ndarray, " M"]:
        """Anomaly scores of embeddings that are checked and, for the cosine, of unit length."""

    def references(self) -> References | None:
        """The same scores as distances to reference points, to be exported; None if they are not.

        For the cosine, points are of unit length.
        """
        return None

    def left_out_scores(self) -> Float64[np.ndarray, " N"]:
        """Scores by cross-validation: each fold is scored by a backend fitted to the other folds.

        Clips are assigned to the folds in turn, source clips first, so that each fold holds about
        the same share of both domains.
        """
        import numpy as np

        fold = np.empty(len(self.points), int)
        order = np.argsort(self.is_target, kind="stable")
        fold[order] = np.arange(len(order)) % self.config.folds
        scores = np.empty(len(fold))
        for out in (fold == f for f in np.unique(fold)):
            refit = self.refitted(~out)
            scores[out] = self._one_each(refit.score_points(self.points[out]), out.sum())
        return scores

    def refitted(self, rows: Bool[np.ndarray, " N"]) -> Fitted:
        """The same backend fitted to some of the clips."""
        return type(self)(self.config, self.points[rows], self.is_target[rows])

    def prepared(self, embeddings: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "M D"]:
        """Checked embeddings as `score_points` takes them: for the cosine, of unit length."""
        from asdjax.scoring.distances import unit_length

        return unit_length(embeddings, self.config.metric)

    def note(self, sentence: str) -> None:
        """Add a sentence to `notes`."""
        self.notes += (sentence,)

    def note_few(self, asked: int, found: int, key: str) -> None:
        """Note that a setting asks for more than there are, if so."""
        if 0 < found < asked:
            self.note(f"backend.{key} is {asked}, there are {found} clips: all of them are used")

    def score(self, embeddings: Float[np.ndarray, "M D"]) -> Float64[np.ndarray, " M"]:
        """Anomaly scores of new clips; larger is more anomalous.

        Raises:
            AsdjaxError: If the embeddings are empty, not finite, or differ in size from the
                training clips' embeddings.
        """
        points = _checked(embeddings)
        size = self.points.shape[1]
        if points.shape[1] != size:
            raise DataError(
                f"embeddings hold {points.shape[1]} values, the training clips' hold {size}: "
                "extract both with the same model"
            )
        return self._one_each(self.score_points(self.prepared(points)), len(points))

    def leave_one_out(self) -> Float64[np.ndarray, " N"]:
        """Scores of the training clips, in the order given to `fit`, each against the others.

        Raises:
            AsdjaxError: If there is only one clip to score against, or if a refit has too few
                clips for a covariance.
        """
        if self.used.sum() < 2:
            raise DataError(
                "leave-one-out scores need two training clips to score against, found 1: "
                "add normal clips of this machine and section"
            )
        return self._one_each(self.left_out_scores(), len(self.points))

    def _one_each(self, scores: Float64[np.ndarray, " M"], clips: int) -> Float64[np.ndarray, " M"]:
        """The scores; `DataError` unless they are one finite real number for each clip."""
        import numpy as np

        found = np.asarray(scores)
        real = found.dtype.kind == "f" and found.shape == (clips,)
        if not (real and np.isfinite(found).all()):
            what = "not finite" if real else f"{found.dtype} of shape {found.shape}"
            raise DataError(
                f"backend {self.config.name}: its scores of {clips} clips are {what}: one finite "
                "number is needed for each clip"
            )
        return found


def fit(
    config: Backend,
    embeddings: Float[np.ndarray, "N D"],
    is_target: Bool[np.ndarray, " N"],
    bands: int = 1,
) -> Fitted:
    """Fit a backend.

    Args:
        config: Section `backend` of the configuration.
        embeddings: The normal training clips of one machine and section, rows sorted by path.
        is_target: True for clips of the target domain.
        bands: Frequency bands of the embeddings; a row holds them one after the other. For more
            than one, the setting `bands` of the backend says how they are scored.

    Raises:
        AsdjaxError: If the embeddings are empty or not finite, if the shapes do not match, or if
            the backend cannot be fitted to these clips.
    """
    import numpy as np

    from asdjax.scoring.distances import unit_length

    points = _checked(embeddings)
    flags = np.asarray(is_target)
    if flags.shape != points.shape[:1]:
        raise DataError(
            f"{len(points)} embeddings and domains of shape {flags.shape}: give one per clip"
        )
    if flags.dtype != bool:
        raise DataError(f"domains are of type {flags.dtype}: give booleans, true for target")
    if bands < 1 or points.shape[1] % bands:
        raise DataError(
            f"embeddings hold {points.shape[1]} values, which {bands} bands cannot share: give "
            "the number of bands they were made with"
        )
    if bands == 1 or config.bands == "joined":
        fitted = config.fitted(unit_length(points, config.metric), flags)
    elif config.divides_bands:
        fitted = config.fitted_to_bands(unit_length(points, config.metric), flags, bands)
    else:
        from asdjax.scoring.band_wise import BandWise

        fitted = BandWise(config, points, flags, bands)
    if not isinstance(fitted, Fitted):
        raise ConfigError(
            f"backend {config.name}: fitted returns {schema.shown(fitted)}: return an object of a "
            "class that extends asdjax.scoring.backends.Fitted"
        )
    _check_methods(type(fitted))
    return fitted


@functools.cache
def _check_methods(fitted: type[Fitted]) -> None:
    registry.check_methods(fitted, Fitted, fitted.__qualname__)


def nearer_domain(config: Backend) -> str | None:
    """What meta.yaml says of a backend that takes the smaller of two domains' distances."""
    if config.target_neighbours == 0:
        return None
    return "smaller of the distances to the source and to the target domain"


def _checked(embeddings: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "M D"]:
    """The embeddings; `DataError` unless they are finite numbers in rows."""
    import numpy as np

    points = np.ascontiguousarray(embeddings)
    if points.dtype not in (np.float32, np.float64):
        raise DataError(f"embeddings are of type {points.dtype}: give float32 or float64")
    if points.ndim != 2 or 0 in points.shape:
        raise DataError(
            f"embeddings are of shape {points.shape}: give one row per clip, and at least one"
        )
    bad = np.count_nonzero(~np.isfinite(points).all(axis=1))
    if bad:
        raise DataError(
            f"{bad} of {len(points)} embeddings hold values that are not finite: "
            "check the training's loss and the audio of these clips"
        )
    if max(float(points.max()), -float(points.min())) > _LARGEST:
        raise DataError(f"embeddings have values above {_LARGEST:g}: scale them down")
    return points

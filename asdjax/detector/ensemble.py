"""Anomaly scores by several backends on several features, made comparable and averaged.

A member is one backend on one feature. Its scores are standardised by the mean and the standard
deviation of its scores of normal windows, each scored against the other recordings. The score is
the mean over members, less its median over the normal windows: 0 is a typical normal window.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy.spatial.distance import cdist

from asdjax.config.interfaces import Backend
from asdjax.errors import ConfigError, DataError
from asdjax.scoring import backends
from asdjax.scoring.backends import Fitted, References
from asdjax.scoring.distances import unit_length
from asdjax.scoring.nearest_neighbours import NearestNeighbours, SmoteConfig

Tables = Mapping[str, Float[np.ndarray, "N D"]]
"""Vectors of windows by feature."""
_Rows = Bool[np.ndarray, " N"]

_FOLDS = 20  # of cross-validation by recording
_FOLDS_OF_BANK = 5  # likewise, if each fold chooses a bank, which takes time
_FEWEST = 3  # windows: with two, each is the other's neighbour and all scores are equal


class Ensemble:
    """Backends fitted to the windows of normal recordings.

    Attributes:
        tables: the vectors of the normal windows, by feature.
        bank: which of the windows the members are fitted to.
        metric: how vectors are compared: "cosine" or "euclidean".
        members: names of the members, as `bands/nearest_neighbours`.
    """

    def __init__(
        self,
        tables: Tables,
        chosen: Sequence[Backend],
        *,
        bands: int = 1,
        most: int | None = None,
        seed: int = 0,
    ):
        """Fit every backend to every feature.

        Args:
            tables: see the class.
            chosen: the backends.
            bands: frequency bands of the vectors, one after the other.
            most: windows in the bank, chosen by `spread_out`; None: all.
            seed: of this choice.

        Raises:
            AsdjaxError: there are fewer than three windows, or a backend cannot be fitted.
        """
        self.tables, self._chosen = tables, tuple(chosen)
        self.metric, self._bands = self._chosen[0].metric, bands
        self._most, self._seed = most, seed
        self.bank = self._choose(np.ones(len(next(iter(tables.values()))), bool))
        if self.bank.sum() < _FEWEST:
            raise DataError(
                f"{self.bank.sum()} normal windows of sound are too few to compare with: give at "
                f"least {_FEWEST}, better 20"
            )
        self.members = [f"{name}/{backend.name}" for name in tables for backend in self._chosen]
        self._fitted = self._fit(self.bank)

    def _fit(self, rows: Bool[np.ndarray, " N"]) -> list[Fitted]:
        no_targets = np.zeros(int(rows.sum()), bool)
        return [
            backends.fit(backend, table[rows], no_targets, self._bands)
            for table in self.tables.values()
            for backend in self._chosen
        ]

    def distances(self, tables: Tables) -> Float64[np.ndarray, "K M"]:
        """The scores of new windows by each member, not standardised."""
        return self._scored(self._fitted, tables)

    def _scored(self, fitted: Sequence[Fitted], tables: Tables) -> Float64[np.ndarray, "K M"]:
        of_members = [table for table in tables.values() for _ in self._chosen]
        return np.stack([m.score(t) for m, t in zip(fitted, of_members, strict=True)])

    def references(self) -> list[References]:
        """The members' scores as distances to reference points.

        Raises:
            AsdjaxError: those of a backend are not.
        """
        found = []
        for member, fitted in zip(self.members, self._fitted, strict=True):
            references = fitted.references()
            if references is None:
                raise ConfigError(
                    f"{member}: only distances to reference points can be exported: fit with the "
                    "backends nearest_neighbours or local_density"
                )
            found.append(references)
        return found

    def nearest(
        self, tables: Tables, count: int
    ) -> tuple[Int[np.ndarray, "M C"], Float64[np.ndarray, "M C"]]:
        """The nearest normal windows of the bank for each new window, and their distances.

        The distance is the mean over features of the Euclidean distances (of unit vectors for the
        cosine), each relative to the spread of the feature in the bank.
        """
        total = np.zeros((len(next(iter(tables.values()))), int(self.bank.sum())))
        for name, table in tables.items():
            reference, scale = self._references[name]
            total += cdist(unit_length(table, self.metric), reference) / scale
        order = np.argsort(total, axis=1, kind="stable")[:, :count]
        distances = np.take_along_axis(total, order, axis=1) / len(tables)
        return np.flatnonzero(self.bank)[order], distances

    def all_distances(self) -> Float64[np.ndarray, "N N"]:
        """The distances of `nearest` between all windows, in the bank or not."""
        total = np.zeros((len(self.bank),) * 2)
        for name, table in self.tables.items():
            points = unit_length(table, self.metric).astype(np.float64)
            total += cdist(points, points) / self._references[name][1]
        return total / len(self.tables)

    @functools.cached_property
    def _references(self) -> dict[str, tuple[Float[np.ndarray, "P D"], float]]:
        """The vectors of the bank, and their median distance from their median."""
        return {
            name: _with_scale(unit_length(table[self.bank], self.metric))
            for name, table in self.tables.items()
        }

    def held_out(self, recording: Int[np.ndarray, " N"]) -> Float64[np.ndarray, "K N"]:
        """The scores of the normal windows, each against those of other recordings.

        If each recording is one window, or there is one recording, each window is left out by
        itself. Otherwise recordings are left out together, in up to 20 folds. If the bank is a
        choice, each of five folds is scored against a bank chosen from the others: a window of the
        bank itself is far from the rest of the bank, because it was chosen so.

        Args:
            recording: the recording of each window, numbered from 0.
        """
        if self.bank.all() and len(np.unique(recording)) in (1, len(recording)):
            return np.stack([member.leave_one_out() for member in self._fitted])
        scores = np.empty((len(self.members), len(recording)))
        for rows, rest in self._folds(recording):
            left = {name: table[rows] for name, table in self.tables.items()}
            scores[:, rows] = self._scored(self._fit(self._choose(rest)), left)
        return scores

    def cost_of_bank(self, recording: Int[np.ndarray, " N"]) -> float:
        """How much farther windows are from the bank than from all others, 0.1 for 10 %.

        The mean over features of the distances to the nearest window, in the folds of `held_out`.
        """
        if self.bank.all():
            return 0.0
        backend = NearestNeighbours(metric=self.metric, smote=SmoteConfig(ratio=0))
        totals = np.zeros((len(self.tables), 2))
        for rows, rest in self._folds(recording):
            for j, used in enumerate((self._choose(rest), rest)):
                for i, table in enumerate(self.tables.values()):
                    no_targets = np.zeros(used.sum(), bool)
                    fitted = backends.fit(backend, table[used], no_targets, self._bands)
                    totals[i, j] += fitted.score(table[rows]).sum()
        return float(np.mean(totals[:, 0] / totals[:, 1] - 1))

    def _folds(self, recording: Int[np.ndarray, " N"]) -> Iterator[tuple[_Rows, _Rows]]:
        """The windows that are scored together, and those that they may be compared with."""
        groups = np.unique(recording, return_inverse=True)[1]
        if groups.max() == 0:
            groups = np.arange(len(recording))
        fold = groups % min(_FOLDS if self.bank.all() else _FOLDS_OF_BANK, groups.max() + 1)
        return ((fold == out, fold != out) for out in range(fold.max() + 1))

    def _choose(self, rows: _Rows) -> _Rows:
        """The windows to compare with, of some."""
        chosen = rows.copy()
        if self._most is not None and self._most < rows.sum():
            some = {name: table[rows] for name, table in self.tables.items()}
            chosen[rows] = spread_out(some, self.metric, self._most, self._seed)
        return chosen


def combined(
    standardised: Float64[np.ndarray, "K M"],
) -> Float64[np.ndarray, " M"]:
    """The mean over members, added in order: NumPy's sum depends on M in the last bit."""
    total = np.zeros(standardised.shape[1])
    for scores in standardised:
        total += scores
    return total / len(standardised)


def spread_out(tables: Tables, metric: str, count: int, seed: int) -> Bool[np.ndarray, " N"]:
    """A choice of `count` windows that leaves no window far from all of them (k-centre).

    The first is drawn; each next one is the window farthest from those already chosen (Gonzalez,
    1985). Distances are those of `Ensemble.nearest`.
    """
    scaled = [_with_scale(unit_length(table, metric)) for table in tables.values()]
    points = np.concatenate([table / scale for table, scale in scaled], axis=1)
    chosen = np.zeros(len(points), bool)
    newest = int(np.random.default_rng(seed).integers(len(points)))
    distance = np.full(len(points), np.inf)
    for _ in range(min(count, len(points))):
        chosen[newest] = True
        distance = np.minimum(distance, cdist(points, points[newest][None])[:, 0])
        distance[chosen] = -np.inf
        newest = int(np.argmax(distance))
    return chosen


def _with_scale(
    points: Float[np.ndarray, "N D"],
) -> tuple[Float64[np.ndarray, "N D"], float]:
    """Points in float64, and their median distance from their median (1 if that is 0)."""
    points = points.astype(np.float64)
    scale = float(np.median(np.linalg.norm(points - np.median(points, axis=0), axis=1)))
    return points, scale or 1.0

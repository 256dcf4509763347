"""Local densities: the mean distance of each reference to its nearest other references.

The same mean is the leave-one-out score of a reference by its nearest neighbours. With one
reference left out, only those change that have it among their neighbours.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float64, Int

from asdjax.scoring.distances import FLOOR, Pool, smallest

_AT_ONCE = 64  # references left out per block
Distances = Float64[np.ndarray, "..."]


class Densities:
    """The mean distance b of each reference to its K nearest others, at least 1e-12.

    Attributes:
        count: the number of references.
        values: b of each reference.
        order: the nearest others of each reference, the nearest first: `spare` more than b needs.
        distances: their distances.
    """

    def __init__(
        self,
        pool: Pool,
        neighbours: int,
        scaled: Callable[[Distances], Distances],
        *,
        decay: float = 1.0,
        spare: int = 1,
        alone: float,
    ):
        """Find the neighbours of every reference.

        Args:
            pool: the references.
            neighbours: K; fewer if there are not as many others.
            scaled: what is averaged, given Euclidean distances: these, their squares ...
            decay: r. The n-th neighbour, counted from 0, has the weight r^n.
            spare: how many references will be left out at once.
            alone: b of a single reference.
        """
        self.count, self._alone = len(pool), alone
        self._neighbours = min(neighbours, self.count - 1)
        self._weights = decay ** np.arange(self._neighbours)
        index = np.arange(self.count)

        def itself(rows: slice, columns: Int[np.ndarray, " C"]) -> Bool[np.ndarray, "B C"]:
            return columns == index[rows, None]

        kept = min(self._neighbours + spare, self.count - 1)
        nearest, self.order = smallest(pool.points, pool, kept, left_out=itself)
        self.distances = scaled(nearest)
        self.values = self._mean(self.distances[:, : self._neighbours])

    def blocks(self) -> list[slice]:
        """Blocks of references, for `left_out`."""
        return [slice(i, min(i + _AT_ONCE, self.count)) for i in range(0, self.count, _AT_ONCE)]

    def left_out(self, rows: slice) -> Float64[np.ndarray, "B P"]:
        """b of each reference, with one of a block of references left out."""
        found = np.tile(self.values, (rows.stop - rows.start, 1))
        for rank in range(self._neighbours):
            out = self.order[:, rank]
            here = np.flatnonzero((out >= rows.start) & (out < rows.stop))
            rest = np.delete(self.distances[here], rank, axis=1)[:, : self._neighbours]
            found[out[here] - rows.start, here] = self._mean(rest)
        return found

    def without(
        self, references: Int[np.ndarray, " N"], *out: Int[np.ndarray, " N"]
    ) -> Float64[np.ndarray, " N"]:
        """b of some references, each with certain others left out: at most `spare`."""
        order, distances = self.order[references], self.distances[references]
        kept = np.ones(order.shape, bool)
        for one in out:
            kept &= order != one[:, None]
        first = np.argsort(~kept, axis=1, kind="stable")[:, : self._neighbours]
        kept = np.take_along_axis(kept, first, axis=1)
        return self._mean(np.take_along_axis(distances, first, axis=1), kept)

    def _mean(
        self, distances: Float64[np.ndarray, "N K"], kept: Bool[np.ndarray, "N K"] | None = None
    ) -> Float64[np.ndarray, " N"]:
        """The weighted mean of sorted distances; `kept` marks those that count, the first ones."""
        width = distances.shape[1]
        if width == 0:
            return np.full(len(distances), self._alone)
        weights = self._weights[:width] * (np.ones(width) if kept is None else kept)
        total = weights.sum(axis=-1)
        mean = np.sum(distances * weights, axis=1) / np.where(total > 0, total, 1)
        return np.where(total > 0, np.maximum(mean, FLOOR), self._alone)

"""Approximate nearest neighbours with faiss: only the lists near a point are searched.

The points of a pool are shared out to lists by k-means (`faiss.IndexIVFFlat`; Sivic and Zisserman
2003). How many lists are searched follows from a comparison with the exact search.
"""

from __future__ import annotations

import importlib.util

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int
from scipy.spatial.distance import cdist

from asdjax.errors import ConfigError, DataError
from asdjax.scoring.distances import LeftOut, Pool, mean_nearest, progress, smallest

FEWEST = 10_000  # points; the exact search of fewer takes less time
_COMPARED = 256  # points
_PER_LIST = 40  # points at least: faiss warns at fewer than 39
_AT_ONCE = 1024
_LARGEST = 1e15  # value whose squares float32 can add up


def installed() -> bool:
    """Whether faiss is."""
    return importlib.util.find_spec("faiss") is not None


def require_faiss() -> None:
    """Raise `ConfigError` if faiss is not installed."""
    if not installed():
        raise ConfigError(
            "backend.index faiss needs faiss-cpu: pip install 'asdjax[faiss]', or set "
            "backend.index to exact"
        )


class InvertedLists:
    """Points in lists, of which as few are searched as find enough of the nearest.

    Attributes:
        lists: how many there are.
        searched: how many of them are searched for each point.
        recall: the share of nearest neighbours that were found: of up to 256 points of the pool,
            each among the others, those of the exact search.
    """

    def __init__(self, pool: Pool, k: int, recall: float):
        """Make the lists, and measure how many of them must be searched.

        Args:
            pool: at least 40 points.
            k: neighbours that will be asked for.
            recall: the least share of them to be found.

        Raises:
            AsdjaxError: faiss is not installed, or values are too large for float32.
        """
        require_faiss()
        import faiss

        self._pool, points = pool, pool.points
        self._centre = points.mean(axis=0, dtype=np.float64)
        if not np.abs(points).max() < _LARGEST:
            raise DataError(
                f"embeddings have values above {_LARGEST:g}, with which faiss cannot compute: "
                "set backend.index to exact, or scale them down"
            )
        count, size = points.shape
        self.lists = max(1, min(int(4 * count**0.5), count // _PER_LIST))
        # seeds are fixed in faiss
        self._index = faiss.IndexIVFFlat(faiss.IndexFlatL2(size), size, self.lists)
        centred = self._centred(points)
        self._index.train(centred)
        self._index.add(centred)
        rows = np.linspace(0, count - 1, min(count, _COMPARED)).astype(np.intp)

        def itself(block: slice, columns: Int[np.ndarray, "*C"]) -> Bool[np.ndarray, "B C"]:
            return columns == rows[block, None]

        nearest, _ = smallest(points[rows], pool, k, left_out=itself)
        self.searched = 1
        while True:
            found = self._nearest(points[rows], k, itself, 1)
            self.recall = float((found <= nearest[:, -1:]).mean())
            if self.recall >= recall or self.searched == self.lists:
                break
            self.searched = min(2 * self.searched, self.lists)

    def mean_distance(
        self,
        points: Float[np.ndarray, "M D"],
        k: int,
        left_out: LeftOut | None = None,
        *,
        most: int = 0,
        squared: bool = False,
    ) -> Float64[np.ndarray, " M"]:
        """Mean distance of each point to the `k` nearest that are found, in float64.

        Where the lists hold fewer than `k`, all points are searched.

        Args:
            points: any points.
            k: neighbours.
            left_out: which of the pool to ignore, as for `distances.mean_distance`.
            most: how many of the pool it leaves out for a point, at most.
            squared: whether the distances are squared before.
        """
        nearest = self._nearest(points, k, left_out, most)
        return mean_nearest(np.square(nearest) if squared else nearest, k)

    def _nearest(
        self, points: Float[np.ndarray, "M D"], k: int, left_out: LeftOut | None, most: int
    ) -> Float64[np.ndarray, "M K"]:
        """The distances to the `k` nearest that are found."""
        self._index.nprobe = self.searched
        k = min(k, len(self._pool))
        nearest = np.empty((len(points), k))
        with progress(len(points), len(self._pool)) as advance:
            for first in range(0, len(points), _AT_ONCE):
                block = points[first : first + _AT_ONCE]
                _, found = self._index.search(self._centred(block), min(k + most, len(self._pool)))
                for i, ids in enumerate(found, first):
                    row, columns = slice(i, i + 1), ids[ids >= 0]  # -1: there are no more
                    distances = cdist(points[row], self._pool.points[columns])
                    if left_out is not None:
                        distances = distances[~left_out(row, columns)][None]
                    if distances.shape[1] < k:
                        distances = self._of_all(points[row], k, left_out, row)
                    nearest[i] = np.sort(distances[0])[:k]
                advance(len(block), "")
        return nearest

    def _of_all(
        self, point: Float[np.ndarray, "1 D"], k: int, left_out: LeftOut | None, row: slice
    ) -> Float64[np.ndarray, "1 K"]:
        out = None if left_out is None else lambda _, columns: left_out(row, columns)
        return smallest(point, self._pool, k, left_out=out)[0]

    def _centred(self, points: Float[np.ndarray, "M D"]) -> Float32[np.ndarray, "M D"]:
        """As faiss takes them; without their mean, rounding errors are small."""
        return np.ascontiguousarray(points - self._centre, np.float32)

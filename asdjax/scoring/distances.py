"""Distances between embeddings, in float64.

They are computed from differences and not from inner products, so that equal embeddings have
distance 0.
"""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy.spatial.distance import cdist

from asdjax.runtime import console

FLOOR = 1e-12
"""Smallest divisor: of a norm or a local density."""
_AT_ONCE, _POOL_AT_ONCE = 256, 256  # points and references per block of products
_EXACT_AT_ONCE = 16  # points per block of distances
_LONG = 10**8  # distances of which progress is shown
_LARGEST = 1e30  # squared distance of which float32 has multiples
_Block = Float64[np.ndarray, "B C"]
LeftOut = Callable[[slice, Int[np.ndarray, " C"]], Bool[np.ndarray, "B C"]]
_Values = Callable[[_Block, Int[np.ndarray, " C"]], _Block]


def unit_length(points: Float[np.ndarray, "M D"], metric: str) -> Float[np.ndarray, "M D"]:
    """Rows scaled to unit length for the cosine, else unchanged; same dtype."""
    if metric == "euclidean":
        return points
    norms = np.linalg.norm(points.astype(np.float64), axis=1, keepdims=True)
    return (points / np.maximum(norms, FLOOR)).astype(points.dtype)


class Pool:
    """Points that others are compared with; what the search computes of them is kept.

    Attributes:
        points: the points [P, D].
    """

    def __init__(self, points: Float[np.ndarray, "P D"]):
        self.points = points

    def __len__(self) -> int:
        return len(self.points)

    @functools.cached_property
    def products(self) -> "_Products":
        """For the preselection: a copy of the points in float32."""
        return _Products(self.points)


def mean_distance(
    points: Float[np.ndarray, "M D"],
    pool: Pool,
    k: int,
    left_out: LeftOut | None = None,
    *,
    squared: bool = False,
) -> Float64[np.ndarray, " M"]:
    """Mean distance of each point to its `k` nearest points of a pool, as by `mean_nearest`.

    Args:
        points: any points.
        pool: what they are compared with.
        k: neighbours.
        left_out: which of the pool to ignore; called with the rows of a block of points and of some
            of the pool.
        squared: whether the distances are squared before.
    """
    if k == 0 or len(pool) == 0:
        return np.full(len(points), np.inf)
    nearest, _ = smallest(points, pool, k, left_out=left_out)
    return mean_nearest(np.square(nearest) if squared else nearest, k)


def smallest(
    points: Float[np.ndarray, "M D"],
    pool: Pool,
    k: int,
    values: Callable[[slice], _Values] | None = None,
    *,
    left_out: LeftOut | None = None,
) -> tuple[Float64[np.ndarray, "M K"], Int[np.ndarray, "M K"]]:
    """The `k` smallest values of each point over a pool, in order, and their rows in the pool.

    Blocks of points are compared with blocks of the pool, so that no array of all distances exists.
    Candidates are preselected with a matrix product in float32: all that can be among the smallest,
    given the largest possible rounding error. Their distances are then computed from differences,
    in float64. Commands show the progress of long searches.

    Args:
        points: any points.
        pool: what they are compared with.
        k: how many values are wanted; there are fewer if the pool is smaller.
        values: called with the rows of a block of points, it returns a function of the distances of
            these points to some of the pool, and of the rows of these in the pool. It computes each
            value from its distance, never decreasing with it; infinity leaves out. None: the values
            are the distances, which takes less time.
        left_out: which of the pool to ignore, as for `mean_distance`; their value is infinity.
    """
    count = min(k, len(pool))
    found, order = np.empty((len(points), count)), np.empty((len(points), count), np.intp)
    if count == 0:
        return found, order
    with progress(len(points), len(pool)) as advance:
        for start in range(0, len(points), _AT_ONCE):
            rows = slice(start, min(start + _AT_ONCE, len(points)))
            of = None if values is None else values(rows)
            out = None if left_out is None else functools.partial(left_out, rows)
            columns, possible = pool.products.candidates(points[rows], count, of, out)
            for first in range(start, rows.stop, _EXACT_AT_ONCE):
                few = slice(first, min(first + _EXACT_AT_ONCE, rows.stop))
                near = columns[possible[few.start - start : few.stop - start].any(axis=0)]
                exact = cdist(points[few], pool.points[near])  # in float64
                if values is not None:
                    exact = values(few)(exact, near)
                if left_out is not None:
                    exact[left_out(few, near)] = np.inf
                nearest = np.argsort(exact, axis=1, kind="stable")[:, :count]
                found[few] = np.take_along_axis(exact, nearest, axis=1)
                order[few] = near[nearest]
            advance(rows.stop - start, "")
    return found, order


def progress(points: int, pool: int) -> AbstractContextManager[console.Advance]:
    """Of a search that takes more than a moment."""
    if points * pool < _LONG:
        return nullcontext(lambda units, words: None)
    return console.progress("nearest references", points, "clips", minor=True)


class _Products:
    """Squared distances to a pool by a matrix product: |a - b|^2 = |a|^2 + |b|^2 - 2 a.b.

    The pool's mean is subtracted from all points, so that rounding errors are small beside their
    spread. With u = eps / 2, the error of a product of length D + 2 is at most (D + 2) u times the
    product of the absolute values, here at most 2 (|a|^2 + |b|^2); the factors' own rounding adds
    3 eps (|a|^2 + |b|^2). Twice this is taken off from both squares, also for the root and `of`, so
    that products are never too large; and what their D + 2 terms lose if all are rounded to 0.
    """

    @np.errstate(over="ignore", invalid="ignore")  # a NaN counts as a candidate
    def __init__(self, pool: Float[np.ndarray, "P D"]):
        self._centre = pool.mean(axis=0, dtype=np.float64)
        limits = np.finfo(np.float32)
        self._error = 2 * (pool.shape[1] + 5) * limits.eps
        self._lost = 4 * (pool.shape[1] + 2) * float(limits.tiny)
        self._squares = np.empty(len(pool))
        self._right = np.empty((len(pool), pool.shape[1] + 2), np.float32)
        for first in range(0, len(pool), _POOL_AT_ONCE):
            part = slice(first, first + _POOL_AT_ONCE)
            centred = pool[part] - self._centre
            self._squares[part] = squares = np.einsum("ij,ij->i", centred, centred)
            self._right[part, :-2] = centred
            self._right[part, -2] = 1
            self._right[part, -1] = squares * (1 - self._error)

    @np.errstate(over="ignore", invalid="ignore")
    def candidates(
        self,
        points: Float[np.ndarray, "B D"],
        count: int,
        of: _Values | None,
        left_out: Callable[[Int[np.ndarray, " C"]], Bool[np.ndarray, "B C"]] | None,
    ) -> tuple[Int[np.ndarray, " C"], Bool[np.ndarray, "B C"]]:
        """Rows of the pool that may have one of the `count` smallest values, and of which point."""
        centred = points - self._centre
        squares = np.einsum("ij,ij->i", centred, centred)[:, None]
        if not max(squares.max(), self._squares.max()) < _LARGEST:  # also if one is NaN
            return np.arange(len(self._right)), np.ones((len(points), len(self._right)), bool)
        less = squares * (1 - self._error) - self._lost
        left = np.column_stack([-2 * centred, less, np.ones_like(less)]).astype(np.float32)
        products = np.empty((len(points), _POOL_AT_ONCE), np.float32)
        # what the smallest values are at most; without `of`, the squares of the distances
        highest = np.full((len(points), count), np.inf)
        found, lowest = [], []
        for first in range(0, len(self._right), _POOL_AT_ONCE):
            right = self._right[first : first + _POOL_AT_ONCE]
            squared = np.matmul(left, right.T, out=products[:, : len(right)])
            if of is None:
                limit = np.nextafter(highest[:, -1:].astype(np.float32), np.float32(np.inf))
                near = np.flatnonzero((squared <= limit).any(axis=0))
                columns, low = first + near, squared[:, near].astype(np.float64)
            else:
                every = np.arange(first, first + len(right))
                low = of(np.sqrt(np.maximum(squared, 0)).astype(np.float64), every)
                near = np.flatnonzero(~(low > highest[:, -1:]).all(axis=0))
                columns, low = every[near], low[:, near]
            if not len(near):
                continue
            more = 2 * (self._error * (squares + self._squares[columns]) + self._lost)
            if of is None:
                high = low + more
            else:
                high = of(np.sqrt(np.maximum(squared[:, near], 0) + more), columns)
            if left_out is not None:
                out = left_out(columns)
                low[out] = high[out] = np.inf
            highest = np.partition(np.append(highest, high, axis=1), count - 1)[:, :count]
            found.append(columns)
            lowest.append(low)
        return np.concatenate(found), ~(np.concatenate(lowest, axis=1) > highest[:, -1:])


def mean_nearest(distances: Float64[np.ndarray, "M P"], k: int) -> Float64[np.ndarray, " M"]:
    """Mean of each row's k smallest finite distances, or of all if fewer; infinite if none."""
    if k < distances.shape[1]:
        distances = np.partition(distances, k, axis=1)
    nearest = np.sort(distances[:, :k], axis=1)
    finite = np.isfinite(nearest)
    count = finite.sum(axis=1)
    total = np.where(finite, nearest, 0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.inf)

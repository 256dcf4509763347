"""Distances between embeddings, in float64.

They are computed from differences and not from inner products, so that equal embeddings have
distance 0.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy.spatial.distance import cdist

FLOOR = 1e-12
"""Smallest divisor: of a norm or a local density."""
_AT_ONCE = 64  # points per block
_Block = Float64[np.ndarray, "B C"]
_Values = Callable[[_Block, Int[np.ndarray, " C"]], _Block]


def unit_length(points: Float[np.ndarray, "M D"], metric: str) -> Float[np.ndarray, "M D"]:
    """Rows scaled to unit length for the cosine, else unchanged; same dtype."""
    if metric == "euclidean":
        return points
    norms = np.linalg.norm(points.astype(np.float64), axis=1, keepdims=True)
    return (points / np.maximum(norms, FLOOR)).astype(points.dtype)


def mean_distance(
    points: Float[np.ndarray, "M D"],
    pool: Float[np.ndarray, "P D"],
    k: int,
    left_out: Bool[np.ndarray, "M P"] | None = None,
    *,
    squared: bool = False,
) -> Float64[np.ndarray, " M"]:
    """Mean distance of each point to its `k` nearest points of a pool, as by `mean_nearest`.

    Args:
        points: any points.
        pool: what they are compared with.
        k: neighbours.
        left_out: points of the pool to ignore, for each point.
        squared: whether the distances are squared before.
    """
    if k == 0 or len(pool) == 0:
        return np.full(len(points), np.inf)

    def values(rows: slice) -> _Values:
        def of(distances: _Block, columns: Int[np.ndarray, " C"]) -> _Block:
            found = np.square(distances) if squared else distances
            return found if left_out is None else np.where(left_out[rows, columns], np.inf, found)

        return of

    return mean_nearest(smallest(points, pool, k, values)[0], k)


@np.errstate(over="ignore", invalid="ignore")  # a NaN counts as a candidate
def smallest(
    points: Float[np.ndarray, "M D"],
    pool: Float[np.ndarray, "P D"],
    k: int,
    values: Callable[[slice], _Values],
) -> tuple[Float64[np.ndarray, "M K"], Int[np.ndarray, "M K"]]:
    """The `k` smallest values of each point over a pool, in order, and their rows in the pool.

    Points are compared in blocks, so that no array of all distances exists. Candidates are
    preselected with a matrix product, |a - b|^2 = |a|^2 + |b|^2 - 2 a.b: all that can be among the
    smallest, given the largest possible rounding error. Their distances are then computed from
    differences.

    Args:
        points: any points.
        pool: what they are compared with.
        k: how many values are wanted; there are fewer if the pool is smaller.
        values: called with the rows of a block of points, it returns a function of the distances of
            these points to some of the pool, and of the rows of these in the pool. It computes each
            value from its distance, never decreasing with it; infinity leaves out.
    """
    points, pool = points.astype(np.float64), pool.astype(np.float64)
    count, every = min(k, len(pool)), np.arange(len(pool))
    found, order = np.empty((len(points), count)), np.empty((len(points), count), np.intp)
    if count == 0:
        return found, order
    squares, pool_squares = (np.einsum("ij,ij->i", a, a) for a in (points, pool))
    # rounding error of |a - b|^2: some D eps (|a| + |b|)^2, at most 2 D eps (|a|^2 + |b|^2)
    rounding = 8 * (pool.shape[1] + 2) * np.finfo(np.float64).eps * (squares + pool_squares.max())
    for start in range(0, len(points), _AT_ONCE):
        rows = slice(start, min(start + _AT_ONCE, len(points)))
        of = values(rows)
        squared = squares[rows, None] + pool_squares - 2 * points[rows] @ pool.T
        low, high = (
            of(np.sqrt(np.maximum(squared + error, 0)), every)
            for error in (-rounding[rows, None], rounding[rows, None])
        )
        limit = np.partition(high, count - 1, axis=1)[:, count - 1]
        near = np.flatnonzero(~(low > limit[:, None]).all(axis=0))
        exact = of(cdist(points[rows], pool[near]), near)
        first = np.argsort(exact, axis=1, kind="stable")[:, :count]
        found[rows] = np.take_along_axis(exact, first, axis=1)
        order[rows] = near[first]
    return found, order


def mean_nearest(distances: Float64[np.ndarray, "M P"], k: int) -> Float64[np.ndarray, " M"]:
    """Mean of each row's k smallest finite distances, or of all if fewer; infinite if none."""
    if k < distances.shape[1]:
        distances = np.partition(distances, k, axis=1)
    nearest = np.sort(distances[:, :k], axis=1)
    finite = np.isfinite(nearest)
    count = finite.sum(axis=1)
    total = np.where(finite, nearest, 0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.inf)

"""Distances between embeddings, in float64.

They are computed from differences and not from inner products, so that equal embeddings have
distance 0.
"""

import numpy as np
from jaxtyping import Bool, Float, Float64
from scipy.spatial.distance import cdist

_FLOOR = 1e-12  # smallest divisor: of a norm or a local density
_AT_ONCE = 64  # points per block


def unit_length(points: Float[np.ndarray, "M D"], metric: str) -> Float[np.ndarray, "M D"]:
    """Rows scaled to unit length for the cosine, else unchanged; same dtype."""
    if metric == "euclidean":
        return points
    norms = np.linalg.norm(points.astype(np.float64), axis=1, keepdims=True)
    return (points / np.maximum(norms, _FLOOR)).astype(points.dtype)


@np.errstate(over="ignore", invalid="ignore")  # a NaN counts as a candidate
def mean_distance(
    points: Float[np.ndarray, "M D"],
    pool: Float[np.ndarray, "P D"],
    k: int,
    left_out: Bool[np.ndarray, "M P"] | None = None,
) -> Float64[np.ndarray, " M"]:
    """Mean distance of each point to its `k` nearest points of a pool, as by `mean_nearest`.

    Candidates are preselected with a matrix product, |a - b|^2 = |a|^2 + |b|^2 - 2 a.b: all points
    whose squared distance is at most the k-th smallest plus the largest possible rounding error.
    Their distances are then computed from differences.
    """
    found = np.full(len(points), np.inf)
    if k == 0 or len(pool) == 0:
        return found
    points, pool = points.astype(np.float64), pool.astype(np.float64)
    squares, pool_squares = (np.sum(np.square(a), axis=1) for a in (points, pool))
    # rounding error of |a - b|^2: some D eps (|a| + |b|)^2, at most 2 D eps (|a|^2 + |b|^2)
    rounding = 8 * (pool.shape[1] + 2) * np.finfo(np.float64).eps * (squares + pool_squares.max())
    for start in range(0, len(points), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        squared = squares[rows, None] + pool_squares - 2 * points[rows] @ pool.T
        if left_out is not None:
            squared[left_out[rows]] = np.inf
        last = min(k, len(pool)) - 1
        limit = np.partition(squared, last, axis=1)[:, last] + 2 * rounding[rows]
        near = np.flatnonzero(~(squared > limit[:, None]).all(axis=0))
        distances = cdist(points[rows], pool[near])
        if left_out is not None:
            distances[left_out[rows][:, near]] = np.inf
        found[rows] = mean_nearest(distances, k)
    return found


def mean_nearest(distances: Float64[np.ndarray, "M P"], k: int) -> Float64[np.ndarray, " M"]:
    """Mean of each row's k smallest finite distances, or of all if fewer; infinite if none."""
    if k < distances.shape[1]:
        distances = np.partition(distances, k, axis=1)
    nearest = np.sort(distances[:, :k], axis=1)
    finite = np.isfinite(nearest)
    count = finite.sum(axis=1)
    total = np.where(finite, nearest, 0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.inf)


def density(distances: Float64[np.ndarray, "P K"]) -> Float64[np.ndarray, " P"]:
    """Mean distance of each reference to its neighbours; 1 if there are none."""
    if distances.shape[1] == 0:
        return np.ones(len(distances))
    return np.maximum(distances.mean(axis=1), _FLOOR)

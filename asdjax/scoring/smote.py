"""Synthetic minority oversampling of the target clips (SMOTE, Chawla et al. 2002).

It runs in the embeddings' own precision, as in the reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from imblearn.over_sampling import SMOTE
from jaxtyping import Bool, Float
from sklearn.neighbors import NearestNeighbors

if TYPE_CHECKING:
    from asdjax.scoring.nearest_neighbours import SmoteConfig


def synthetic_points(
    config: SmoteConfig, points: Float[np.ndarray, "N D"], is_target: Bool[np.ndarray, " N"]
) -> tuple[Float[np.ndarray, "S D"], Bool[np.ndarray, "S T"], list[str]]:
    """Synthetic target points, the target clips that each was computed from, and notes.

    A synthetic point is (1 - t) a + t b of two target clips a and b, 0 <= t < 1. SMOTE returns
    neither a, b nor t. It computes all columns of a point in the same way: with an identity matrix
    appended to the target clips, column i holds the share of clip i in each synthetic point.
    """
    size, n_target = points.shape[1], int(is_target.sum())
    n_source = len(points) - n_target
    none = points[:0], np.empty((0, n_target), bool)
    if n_target == 1:
        return *none, ["SMOTE skipped: it needs two target clips, found 1"]
    if int(config.ratio * n_source - n_target) <= 0:
        return *none, [
            f"SMOTE skipped: backend.smote.ratio {config.ratio:g} asks for "
            f"{int(config.ratio * n_source)} target points, and there are {n_target} target clips"
        ]
    k = min(config.neighbours, n_target - 1)
    sentences = []
    if k < config.neighbours:
        sentences.append(
            f"SMOTE draws between {k} instead of {config.neighbours} neighbours: "
            f"there are {n_target} target clips"
        )
    shares = np.zeros((len(points), n_target), points.dtype)
    shares[is_target] = np.eye(n_target)
    sampler = SMOTE(
        sampling_strategy=config.ratio,
        k_neighbors=_FirstColumns(k + 1, size),  # a clip is the nearest to itself
        random_state=config.seed,
    )
    grown, _ = sampler.fit_resample(np.hstack([points, shares]), is_target.astype(int))
    new = grown[len(points) :]
    return new[:, :size], new[:, size:] > 0, sentences


class _FirstColumns(NearestNeighbors):
    """Nearest neighbours by the first `columns` columns, for SMOTE's `k_neighbors`."""

    def __init__(self, n_neighbors: int, columns: int):
        super().__init__(n_neighbors=n_neighbors)
        self.columns = columns

    def fit(self, X: Float[np.ndarray, "N E"], y: None = None) -> _FirstColumns:
        return super().fit(X[:, : self.columns])

    def kneighbors(self, X: Float[np.ndarray, "M E"], **options: bool) -> np.ndarray:
        return super().kneighbors(X[:, : self.columns], **options)

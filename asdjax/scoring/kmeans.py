"""Nearest k-means centres of the source clips."""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING, Annotated

from asdjax.config.interfaces import Backend
from asdjax.config.registry import register
from asdjax.config.schema import Count, Range
from asdjax.scoring.backends import Fitted, nearer_domain

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Float64


@register
@dataclasses.dataclass(frozen=True)
class KMeans(Backend):
    """Nearest neighbours with the source clips replaced by their k-means centres."""

    name: str = "kmeans"
    kmeans_clusters: Count = 16
    """Centres that stand for the source pool."""
    kmeans_seed: Annotated[int, Range(low=0, high=2**32 - 1)] = 0
    """Seed of k-means."""

    def fitted(
        self, points: Float[np.ndarray, "N D"], is_target: Bool[np.ndarray, " N"]
    ) -> FittedKMeans:
        return FittedKMeans(self, points, is_target)

    def sentence(self) -> str:
        return (
            f"{self.metric} distance to the nearest of {self.kmeans_clusters} k-means centres of "
            "the source clips"
        )

    def generalization(self) -> str | None:
        return nearer_domain(self)


class FittedKMeans(Fitted):
    """Centres of the source clips, and the target clips.

    The score is the distance to the nearest centre or the mean distance to the nearest target
    clips, the smaller one. For the cosine the centres are scaled to unit length. If there are no
    more different source clips than centres, every clip is a centre.
    """

    config: KMeans
    refitted_part = "k-means"

    def fit_points(self) -> None:
        import numpy as np
        from sklearn import cluster
        from sklearn.exceptions import ConvergenceWarning

        from asdjax.scoring.distances import Pool, unit_length

        clusters = self.config.kmeans_clusters
        centres = np.unique(self.points[self.source].astype(np.float64), axis=0)
        self.note_few(clusters, len(centres), "kmeans_clusters")
        if len(centres) > clusters:
            kmeans = cluster.KMeans(clusters, n_init=1, random_state=self.config.kmeans_seed)
            with warnings.catch_warnings():
                # of clips that differ by rounding only, which share a centre
                warnings.simplefilter("ignore", ConvergenceWarning)
                kmeans.fit(self.points[self.source].astype(np.float64))
            centres = unit_length(kmeans.cluster_centers_, self.config.metric)
        self._centres = Pool(centres)
        self._target_pool = Pool(self.points[self.target])
        self.note_few(self.config.target_neighbours, len(self.target), "target_neighbours")

    def score_points(self, points: Float[np.ndarray, "M D"]) -> Float64[np.ndarray, " M"]:
        import numpy as np

        from asdjax.scoring.distances import mean_distance

        nearest = np.minimum(
            mean_distance(points, self._centres, 1),
            mean_distance(points, self._target_pool, self.config.target_neighbours),
        )
        return nearest / 2 if self.config.metric == "cosine" else nearest

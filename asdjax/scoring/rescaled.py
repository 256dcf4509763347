"""Nearest neighbours by distances rescaled by the local density."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from asdjax.config.interfaces import Backend
from asdjax.config.registry import register
from asdjax.config.schema import Count
from asdjax.scoring.backends import Fitted, References

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Float64


@register
@dataclasses.dataclass(frozen=True)
class Rescaled(Backend):
    """Distances divided by the local density of each reference (Wilkinghoff et al. 2025).

    "Local density-based anomaly score normalization for domain generalization".
    """

    name: str = "rescaled"
    source_neighbours: Count = 1
    """Neighbours averaged, of both domains."""
    rescale_neighbours: Count = 4
    """Neighbours that measure the density around a reference."""

    def fitted(
        self, points: Float[np.ndarray, "N D"], is_target: Bool[np.ndarray, " N"]
    ) -> FittedRescaled:
        return FittedRescaled(self, points, is_target)

    def sentence(self) -> str:
        return f"{self.metric} nearest neighbours, rescaled by the references' local density"

    def generalization(self) -> str:
        return "local-density normalisation of the distances"

    def training_scores(self) -> str:
        return "leave-one-out scores"


class FittedRescaled(Fitted):
    """The references, the clips of both domains, and their local densities.

    The distance to a reference is divided by the mean distance of that reference to its
    `rescale_neighbours` nearest neighbours, floored at 1e-12, or by 1 for a single reference. The
    score is the mean of the `source_neighbours` smallest quotients. Leave-one-out scores also leave
    the clip out of the other references' densities.
    """

    config: Rescaled

    def fit_points(self) -> None:
        import numpy as np
        from scipy.spatial.distance import cdist

        from asdjax.scoring.distances import density

        self._pool = self.points[self.used]
        self.note_few(self.config.source_neighbours, len(self._pool), "source_neighbours")
        others = len(self._pool) - 1
        self._neighbours = min(self.config.rescale_neighbours, others)
        if others == 0:
            self.note("a single reference: its distance is not rescaled")
        self.note_few(self.config.rescale_neighbours, others, "rescale_neighbours")
        distances = cdist(self._pool, self._pool)
        np.fill_diagonal(distances, np.inf)
        # One neighbour more than the density needs, for when one of them is left out.
        kept = min(self._neighbours + 1, others)
        self._order = np.argsort(distances, axis=1, kind="stable")[:, :kept]
        self._distances = np.take_along_axis(distances, self._order, axis=1)
        self._density = density(self._distances[:, : self._neighbours])

    def score_points(self, points: Float[np.ndarray, "M D"]) -> Float64[np.ndarray, " M"]:
        from scipy.spatial.distance import cdist

        from asdjax.scoring.distances import mean_nearest

        quotients = cdist(points, self._pool) / self._density
        return mean_nearest(quotients, self.config.source_neighbours)

    def references(self) -> References:
        neighbours = min(self.config.source_neighbours, len(self._pool))
        return References(self._pool, self._density, neighbours, 1.0)

    def left_out_scores(self) -> Float64[np.ndarray, " N"]:
        import numpy as np
        from scipy.spatial.distance import cdist

        from asdjax.scoring.distances import density, mean_nearest

        references = np.arange(len(self._pool))
        densities = np.tile(self._density, (len(self._pool), 1))  # [left out, reference]
        for rank in range(self._neighbours):
            rest = np.delete(self._distances, rank, axis=1)[:, : self._neighbours]
            densities[self._order[:, rank], references] = density(rest)
        quotients = cdist(self._pool, self._pool) / densities
        np.fill_diagonal(quotients, np.inf)
        scores = self.score_points(self.points)  # right for clips that are not references
        scores[self.used] = mean_nearest(quotients, self.config.source_neighbours)
        return scores

"""Nearest neighbours by distances normalised by the local density."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

from asdjax.config.interfaces import Backend
from asdjax.config.registry import register
from asdjax.config.schema import Count, Range, digits
from asdjax.scoring.backends import Fitted, References

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Float64, Int


@register
@dataclasses.dataclass(frozen=True)
class LocalDensity(Backend):
    """Distances divided by, or less, the local density of each reference (Wilkinghoff et al. 2025).

    "Local density-based anomaly score normalization for domain generalization".
    """

    name: str = "local_density"
    source_neighbours: Count = 1
    """Neighbours averaged, of both domains."""
    rescale_neighbours: Count = 1
    """Neighbours that measure the density around a reference."""
    form: Literal["ratio", "difference"] = "ratio"
    """Whether distances are divided by the density (ratio), or it is subtracted (difference)."""
    decay: Annotated[float, Range(low=0, high=1, above=True)] = 1.0
    """The n-th of these neighbours, counted from 0, has the weight decay^n."""
    squared: bool = False
    """Square the distances: for the cosine (1 - cosine) / 2 instead of its root."""

    def fitted(
        self, points: Float[np.ndarray, "N D"], is_target: Bool[np.ndarray, " N"]
    ) -> FittedLocalDensity:
        return FittedLocalDensity(self, points, is_target)

    def sentence(self) -> str:
        how = "rescaled by" if self.form == "ratio" else "less"
        weights = "" if self.decay == 1 else f", neighbours weighted by {digits(self.decay)}^n"
        return f"{self.metric} nearest neighbours, {how} the references' local density{weights}"

    def generalization(self) -> str:
        return "local-density normalisation of the distances"

    def training_scores(self) -> str:
        return "leave-one-out scores"


class FittedLocalDensity(Fitted):
    """The references, the clips of both domains, and their local densities.

    The density of a reference is its mean distance to its `rescale_neighbours` nearest neighbours,
    at least 1e-12; for a single reference 1, or 0 for the difference. The score is the mean of the
    `source_neighbours` smallest quotients or differences. For the difference, distances of the
    cosine are halved, so that they lie in 0..1. Leave-one-out scores also leave the clip out of the
    other references' densities.
    """

    config: LocalDensity

    def fit_points(self) -> None:
        from asdjax.scoring.densities import Densities
        from asdjax.scoring.distances import Pool

        config = self.config
        self._pool = Pool(self.points[self.used])
        self.note_few(config.source_neighbours, len(self._pool), "source_neighbours")
        others = len(self._pool) - 1
        if others == 0:
            self.note("a single reference: its distance is not rescaled")
        self.note_few(config.rescale_neighbours, others, "rescale_neighbours")
        self._densities = Densities(
            self._pool,
            config.rescale_neighbours,
            self._scaled,
            decay=config.decay,
            alone=1.0 if config.form == "ratio" else 0.0,
        )

    def _scaled(self, distances: Float64[np.ndarray, ...]) -> Float64[np.ndarray, ...]:
        halved = self.config.form == "difference" and self.config.metric == "cosine"
        found = distances / 2 if halved else distances
        return found**2 if self.config.squared else found

    def score_points(self, points: Float[np.ndarray, "M D"]) -> Float64[np.ndarray, " M"]:
        return self._scores(points, lambda rows: self._densities.values[None])

    def references(self) -> References | None:
        if self.config.form == "difference" or self.config.squared:
            return None
        neighbours = min(self.config.source_neighbours, len(self._pool))
        return References(self._pool.points, self._densities.values, neighbours, 1.0)

    def left_out_scores(self) -> Float64[np.ndarray, " N"]:
        scores = self.score_points(self.points)  # right for clips that are not references
        scores[self.used] = self._scores(self._pool.points, self._densities.left_out, left_out=True)
        return scores

    def _scores(
        self,
        points: Float[np.ndarray, "M D"],
        densities: Callable[[slice], Float64[np.ndarray, "B P"]],
        left_out: bool = False,
    ) -> Float64[np.ndarray, " M"]:
        """Scores by the densities for each point; `left_out`: the points are the references."""
        import numpy as np

        from asdjax.scoring.distances import mean_nearest, smallest

        index = np.arange(len(self._pool))

        def values(rows: slice) -> Callable[..., Float64[np.ndarray, "B C"]]:
            of_rows = densities(rows)

            def of(
                distances: Float64[np.ndarray, "B C"], columns: Int[np.ndarray, " C"]
            ) -> Float64[np.ndarray, "B C"]:
                around = of_rows[:, columns]
                scaled = self._scaled(distances)
                found = scaled / around if self.config.form == "ratio" else scaled - around
                return np.where(columns == index[rows, None], np.inf, found) if left_out else found

            return of

        k = self.config.source_neighbours
        return mean_nearest(smallest(points, self._pool, k, values)[0], k)

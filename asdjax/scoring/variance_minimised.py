"""Nearest neighbours by distances less a fitted share of the local density."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from asdjax.config.interfaces import Backend
from asdjax.config.registry import register
from asdjax.config.schema import Count
from asdjax.scoring.backends import Fitted

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Float64, Int

_FEWEST = 50  # references: of fewer, the share is noise
_SMALLEST_VARIANCE = 1e-12  # of the densities


@register
@dataclasses.dataclass(frozen=True)
class VarianceMinimised(Backend):
    """Distances less the share of the local density that makes scores vary least (Matsumoto).

    The share is 0, which is said, for fewer than 50 reference clips.
    """

    name: str = "variance_minimised"
    density_neighbours: Count = 4
    """Neighbours that measure the density around a reference; 1 or 2 suit the log form."""
    form: Literal["plain", "log"] = "plain"
    """Whether distances and densities are used as they are (plain), or their logarithms (log)."""
    squared: bool = False
    """Square the distances: for the cosine (1 - cosine) / 2 instead of its root."""

    def fitted(
        self, points: Float[np.ndarray, "N D"], is_target: Bool[np.ndarray, " N"]
    ) -> FittedVarianceMinimised:
        return FittedVarianceMinimised(self, points, is_target)

    def sentence(self) -> str:
        log = "log of the " if self.form == "log" else ""
        return (
            f"{self.metric} nearest neighbour, {log}distance less the share of the {log}local "
            "density of the reference that minimises the variance of normal scores"
        )

    def generalization(self) -> str:
        return "local-density normalisation of the distances"

    def training_scores(self) -> str:
        return "leave-one-out scores"


class FittedVarianceMinimised(Fitted):
    """The references, the clips of both domains, their local densities b, and the share alpha.

    Let D be the distance (for the cosine halved, in 0..1) or, for the log form, the logarithm of
    the distance, and b likewise; distances and densities are at least 1e-12 then. For each
    reference z, let i be the nearest other one. alpha is the covariance of D(z, y_i) and b_i over
    all z, divided by the variance of b_i, where z is left out of b_i; it is 0 if that variance is
    at most 1e-12. The score is the smallest D - alpha b.

    Leave-one-out scores compute all of this again without the clip: alpha, the neighbours i and the
    densities. Whether there are enough references for alpha is decided once, with all of them.
    """

    config: VarianceMinimised

    def fit_points(self) -> None:
        import numpy as np

        from asdjax.scoring.densities import Densities
        from asdjax.scoring.distances import Pool

        self._pool = Pool(self.points[self.used])
        count = len(self._pool)
        self._densities = Densities(
            self._pool, self.config.density_neighbours, self._scaled, spare=2, alone=1.0
        )
        self._enough = count >= _FEWEST
        self._alpha = 0.0
        if self._enough:
            self.note_few(self.config.density_neighbours, count - 1, "density_neighbours")
            self._alpha = float(_alphas(*self._pairs()[:2], np.ones((1, count), bool))[0])
            if self._alpha == 0:
                self.note("the densities are all alike: distances are not normalised by them")
        else:
            self.note(
                f"{count} reference clips are fewer than {_FEWEST}: distances are not normalised "
                "by the density"
            )

    def _scaled(self, distances: Float64[np.ndarray, ...]) -> Float64[np.ndarray, ...]:
        found = distances / 2 if self.config.metric == "cosine" else distances
        return found**2 if self.config.squared else found

    def _of_form(self, values: Float64[np.ndarray, ...]) -> Float64[np.ndarray, ...]:
        """Distances or densities as they are compared."""
        import numpy as np

        from asdjax.scoring.distances import FLOOR

        return np.log(np.maximum(values, FLOOR)) if self.config.form == "log" else values

    def _pairs(
        self,
    ) -> tuple[
        Float64[np.ndarray, "1 P"],
        Float64[np.ndarray, "1 P"],
        list[tuple[Int[np.ndarray, " P"], Float64[np.ndarray, " P"], Float64[np.ndarray, " P"]]],
    ]:
        """D(z, y_i) and b_i of each reference z, and what they become without another reference c.

        Only those c matter that are i, or among the neighbours of i that b_i needs: a list of c for
        each z, with the values without it.
        """
        import numpy as np

        b = self._densities
        z = np.arange(b.count)
        nearest, second = b.order[:, 0], b.order[:, 1]
        distance = self._of_form(b.distances[:, 0])
        density = self._of_form(b.without(nearest, z))
        changes = [
            (
                nearest,
                self._of_form(b.distances[:, 1]),
                self._of_form(b.without(second, z, nearest)),
            )
        ]
        for c in b.order[nearest].T:
            changes.append((c, distance, self._of_form(b.without(nearest, z, c))))
        return distance[None], density[None], changes

    def score_points(self, points: Float[np.ndarray, "M D"]) -> Float64[np.ndarray, " M"]:
        normal = self._alpha * self._of_form(self._densities.values)[None]
        return self._scores(points, lambda rows: normal)

    def left_out_scores(self) -> Float64[np.ndarray, " N"]:
        import numpy as np

        b = self._densities
        alphas = np.zeros(b.count)
        if self._enough:
            distance, density, changes = self._pairs()
            for rows in b.blocks():
                left = np.arange(rows.start, rows.stop)
                d, of_i = (np.tile(values, (len(left), 1)) for values in (distance, density))
                for c, without, density_without in changes:
                    z = np.flatnonzero((c >= rows.start) & (c < rows.stop))
                    d[c[z] - rows.start, z] = without[z]
                    of_i[c[z] - rows.start, z] = density_without[z]
                alphas[rows] = _alphas(d, of_i, left[:, None] != np.arange(b.count))
        scores = self.score_points(self.points)  # right for clips that are not references
        scores[self.used] = self._scores(
            self._pool.points,
            lambda rows: alphas[rows, None] * self._of_form(b.left_out(rows)),
            left_out=True,
        )
        return scores

    def _scores(
        self,
        points: Float[np.ndarray, "M D"],
        normal: Callable[[slice], Float64[np.ndarray, "B P"]],
        left_out: bool = False,
    ) -> Float64[np.ndarray, " M"]:
        """The smallest D less `normal`; `left_out`: the points are the references."""
        import numpy as np

        from asdjax.scoring.distances import smallest

        index = np.arange(len(self._pool))

        def values(rows: slice) -> Callable[..., Float64[np.ndarray, "B C"]]:
            of_rows = normal(rows)

            def of(
                distances: Float64[np.ndarray, "B C"], columns: Int[np.ndarray, " C"]
            ) -> Float64[np.ndarray, "B C"]:
                found = self._of_form(self._scaled(distances)) - of_rows[:, columns]
                return np.where(columns == index[rows, None], np.inf, found) if left_out else found

            return of

        return smallest(points, self._pool, 1, values)[0][:, 0]


def _alphas(
    distance: Float64[np.ndarray, "B P"],
    density: Float64[np.ndarray, "B P"],
    kept: Bool[np.ndarray, "B P"],
) -> Float64[np.ndarray, " B"]:
    """The share of each row, over the pairs of distance and density that are kept."""
    import numpy as np

    count = kept.sum(axis=1, keepdims=True)
    distance, density = (
        np.where(kept, values - np.where(kept, values, 0).sum(axis=1, keepdims=True) / count, 0)
        for values in (distance, density)
    )
    variance = np.sum(density**2, axis=1) / count[:, 0]
    covariance = np.sum(distance * density, axis=1) / count[:, 0]
    usable = variance > _SMALLEST_VARIANCE
    return np.where(usable, covariance / np.where(usable, variance, 1), 0)

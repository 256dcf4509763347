"""Nearest neighbours by distances that are standardised within each domain."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from asdjax.config.interfaces import Backend
from asdjax.config.registry import register
from asdjax.config.schema import Count
from asdjax.scoring.backends import Fitted

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Float64, Int

    _Number = float | Float64[np.ndarray, " M"]

_FEWEST = 4  # clips of a domain: without one of them, three have distances that differ


@register
@dataclasses.dataclass(frozen=True)
class StandardisedDomains(Backend):
    """Mean distance to the nearest clips of a domain, standardised; the smaller one of two domains.

    The leave-one-out distances of the domain's own training clips standardise it.
    """

    name: str = "standardised_domains"
    source_neighbours: Count = 1
    """Neighbours averaged in the source pool."""
    squared: bool = False
    """Square the distances: for the cosine (1 - cosine) / 2 instead of its root."""

    def fitted(
        self, points: Float[np.ndarray, "N D"], is_target: Bool[np.ndarray, " N"]
    ) -> FittedStandardisedDomains:
        return FittedStandardisedDomains(self, points, is_target)

    def sentence(self) -> str:
        return f"{self.metric} nearest neighbours"

    def generalization(self) -> str | None:
        if self.target_neighbours == 0:
            return None
        return (
            "smaller of the distances to the source and to the target domain, each standardised by "
            "the leave-one-out distances of its training clips"
        )

    def training_scores(self) -> str:
        return "leave-one-out scores"


class FittedStandardisedDomains(Fitted):
    """The clips of each domain, and the mean m and deviation sigma of their own scores.

    Let s be the mean distance to the nearest clips of a domain. The score is the smaller one of
    (s - m) / sigma over the domains. A domain of fewer than four clips, or whose own scores are all
    alike, takes m and sigma of the other domain; if neither has its own, m is 0 and sigma 1.
    Leave-one-out scores compute m and sigma of the clip's domain again without the clip; which
    domains have enough clips is decided once, with all of them.
    """

    config: StandardisedDomains

    def fit_points(self) -> None:
        domains = {
            name: _Domain(self.points[rows], rows, neighbours, self.config)
            for name, rows, neighbours in (
                ("source", self.source, self.config.source_neighbours),
                ("target", self.target, self.config.target_neighbours),
            )
            if len(rows)
        }
        self._domains = list(domains.values())
        others = any(domain.deviation > 0 for domain in self._domains)
        for name, domain in domains.items():
            self.note_few(domain.neighbours, len(domain.pool), f"{name}_neighbours")
            if domain.deviation == 0:
                what = "the other domain's are used" if others else "nothing is standardised"
                self.note(
                    f"too few different {name} clips for a mean and a deviation of their scores: "
                    f"{what}"
                )

    def score_points(self, points: Float[np.ndarray, "M D"]) -> Float64[np.ndarray, " M"]:
        return self._smaller(
            [domain.distances(points) for domain in self._domains],
            [(domain.mean, domain.deviation) for domain in self._domains],
        )

    def left_out_scores(self) -> Float64[np.ndarray, " N"]:
        distances = [domain.distances(self.points) for domain in self._domains]
        for domain, of_all in zip(self._domains, distances, strict=True):
            of_all[domain.rows] = domain.densities.values
        return self._smaller(distances, [d.left_out(len(self.points)) for d in self._domains])

    @staticmethod
    def _smaller(
        distances: list[Float64[np.ndarray, " M"]], spreads: list[tuple[_Number, _Number]]
    ) -> Float64[np.ndarray, " M"]:
        """The smaller one of the standardised distances; a deviation of 0 stands for none."""
        import numpy as np

        scores = []
        for i, distance in enumerate(distances):
            mean, deviation = np.zeros(len(distance)), np.ones(len(distance))
            for m, sigma in (*spreads[:i], *spreads[i + 1 :], spreads[i]):  # the domain's own last
                mean = np.where(np.greater(sigma, 0), m, mean)
                deviation = np.where(np.greater(sigma, 0), sigma, deviation)
            scores.append((distance - mean) / deviation)
        return np.min(scores, axis=0)


class _Domain:
    """The clips of a domain.

    Attributes:
        rows: their rows among the training clips.
        densities: their own scores, each clip against the others; infinite for a single clip.
        mean: of these scores.
        deviation: likewise; 0 if there are too few clips, or all scores are alike.
    """

    def __init__(
        self,
        points: Float[np.ndarray, "N D"],
        rows: Int[np.ndarray, " N"],
        neighbours: int,
        config: StandardisedDomains,
    ):
        import numpy as np

        from asdjax.scoring.densities import Densities
        from asdjax.scoring.distances import Pool

        self.rows, self.neighbours, self._config = rows, neighbours, config
        self.pool = Pool(points)
        self.densities = Densities(self.pool, neighbours, self._scaled, alone=np.inf)
        self.mean = self.deviation = 0.0
        if len(points) >= _FEWEST:
            mean, deviation = _spread(self.densities.values[None])
            self.mean, self.deviation = float(mean[0]), float(deviation[0])

    def _scaled(self, distances: Float64[np.ndarray, ...]) -> Float64[np.ndarray, ...]:
        found = distances / 2 if self._config.metric == "cosine" else distances
        return found**2 if self._config.squared else found

    def distances(self, points: Float[np.ndarray, "M D"]) -> Float64[np.ndarray, " M"]:
        """The mean distance of points to the nearest clips."""
        from asdjax.scoring.distances import mean_nearest, smallest

        nearest, _ = smallest(points, self.pool, self.neighbours)
        return mean_nearest(self._scaled(nearest), self.neighbours)

    def left_out(self, clips: int) -> tuple[Float64[np.ndarray, " N"], Float64[np.ndarray, " N"]]:
        """Mean and deviation for each of the training clips, without it."""
        import numpy as np

        mean, deviation = np.full(clips, self.mean), np.full(clips, self.deviation)
        count = len(self.pool)
        for block in self.densities.blocks() if count >= _FEWEST else ():
            left = np.arange(block.start, block.stop)
            others = left[:, None] != np.arange(count)
            scores = self.densities.left_out(block)[others].reshape(len(left), count - 1)
            mean[self.rows[left]], deviation[self.rows[left]] = _spread(scores)
        return mean, deviation


def _spread(
    scores: Float64[np.ndarray, "B N"],
) -> tuple[Float64[np.ndarray, " B"], Float64[np.ndarray, " B"]]:
    """Mean and deviation of each row; 0 if its scores are all alike."""
    import numpy as np

    from asdjax.scoring import standardisation

    deviation = np.where(standardisation.alike(scores), 0, scores.std(axis=1))
    return scores.mean(axis=1), deviation

"""Nearest neighbours among the source and among the target clips."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

from asdjax.config.interfaces import Backend
from asdjax.config.registry import register
from asdjax.config.schema import Count, Range, digits
from asdjax.scoring.backends import Fitted, References, nearer_domain

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Float64


@dataclasses.dataclass(frozen=True)
class SmoteConfig:
    """Synthetic minority oversampling of the target domain's reference embeddings."""

    ratio: Annotated[float, Range(low=0, high=1)] = 0.1
    """Target points as a share of the source clips, rounded down; 0 turns SMOTE off."""
    neighbours: Count = 2
    """Neighbours between which synthetic points are drawn (fewer when there are fewer clips)."""
    seed: Annotated[int, Range(low=0, high=2**32 - 1)] = 0
    """Seed of the draws."""


@register
@dataclasses.dataclass(frozen=True)
class NearestNeighbours(Backend):
    """Mean distance to the nearest source clips or to the nearest target clips, the smaller one."""

    name: str = "nearest_neighbours"
    source_neighbours: Count = 1
    """Neighbours averaged in the source pool."""
    smote: SmoteConfig = SmoteConfig()

    def fitted(
        self, points: Float[np.ndarray, "N D"], is_target: Bool[np.ndarray, " N"]
    ) -> FittedNearestNeighbours:
        return FittedNearestNeighbours(self, points, is_target)

    def sentence(self) -> str:
        return f"{self.metric} nearest neighbours"

    def generalization(self) -> str | None:
        nearer = nearer_domain(self)
        if nearer is None or self.smote.ratio == 0:
            return nearer
        ratio = digits(self.smote.ratio)
        return f"{nearer}, SMOTE of the target embeddings to {ratio} of the source's"

    def training_scores(self) -> str:
        return "leave-one-out scores"


class FittedNearestNeighbours(Fitted):
    """Banks of source clips, and of target clips and the synthetic points that SMOTE adds to them.

    The leave-one-out score of a clip ignores the clip and all synthetic points computed from it;
    SMOTE is not repeated. If no clip of its domain remains, only the other domain is used.
    """

    config: NearestNeighbours

    def fit_points(self) -> None:
        import numpy as np

        from asdjax.scoring import smote
        from asdjax.scoring.distances import unit_length

        config = self.config
        new = self.points[:0]
        self._parents = np.empty((0, len(self.target)), bool)
        if config.smote.ratio > 0 and len(self.source) and len(self.target):
            new, self._parents, sentences = smote.synthetic_points(
                config.smote, self.points, self.is_target
            )
            new = unit_length(new, config.metric)
            for sentence in sentences:
                self.note(sentence)
        self._source_pool = self.points[self.source]
        self._target_pool = np.concatenate([self.points[self.target], new])
        self.note_few(config.source_neighbours, len(self._source_pool), "source_neighbours")
        self.note_few(config.target_neighbours, len(self._target_pool), "target_neighbours")

    def references(self) -> References | None:
        import numpy as np

        if len(self._target_pool):
            return None
        count = len(self._source_pool)
        neighbours = min(self.config.source_neighbours, count)
        factor = 0.5 if self.config.metric == "cosine" else 1.0
        return References(self._source_pool, np.ones(count), neighbours, factor)

    def left_out_scores(self) -> Float64[np.ndarray, " N"]:
        import numpy as np

        source = np.zeros((len(self.points), len(self._source_pool)), bool)
        target = np.zeros((len(self.points), len(self._target_pool)), bool)
        source[self.source, np.arange(len(self.source))] = True
        target[self.target, np.arange(len(self.target))] = True
        target[self.target, len(self.target) :] = self._parents.T
        return self.score_points(self.points, source, target)

    def score_points(
        self,
        points: Float[np.ndarray, "M D"],
        source_out: Bool[np.ndarray, "M P"] | None = None,
        target_out: Bool[np.ndarray, "M Q"] | None = None,
    ) -> Float64[np.ndarray, " M"]:
        """Scores of embeddings; `source_out` and `target_out` mark reference points to ignore."""
        import numpy as np

        from asdjax.scoring.distances import mean_distance

        k, k_target = self.config.source_neighbours, self.config.target_neighbours
        nearest = np.minimum(
            mean_distance(points, self._source_pool, k, source_out),
            mean_distance(points, self._target_pool, k_target, target_out),
        )
        return nearest / 2 if self.config.metric == "cosine" else nearest

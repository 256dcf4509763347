"""Nearest neighbours among the source and among the target clips."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

from asdjax.config.interfaces import Backend
from asdjax.config.registry import register
from asdjax.config.schema import Count, Probability, Range, digits
from asdjax.scoring.backends import Fitted, References, nearer_domain

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Float64, Int

    from asdjax.scoring.distances import LeftOut
    from asdjax.scoring.inverted_lists import InvertedLists


@dataclasses.dataclass(frozen=True)
class SmoteConfig:
    """Synthetic minority oversampling of the target domain's reference embeddings."""

    ratio: Annotated[float, Range(low=0, high=1)] = 0.1
    """Target points as a share of the source clips, rounded down; 0 turns SMOTE off."""
    neighbours: Count = 2
    """Neighbours between which synthetic points are drawn (fewer when there are fewer clips)."""
    seed: Annotated[int, Range(low=0, high=2**32 - 1)] = 0
    """Seed of the draws."""


@dataclasses.dataclass(frozen=True)
class MemoryMixupConfig:
    """Generated reference points between the target clips and source clips (GenRep's MemMixup)."""

    neighbours: Annotated[int, Range(low=0, high=1000)] = 0
    """Nearest source clips with which each target clip is mixed; 0 turns it off."""
    target_share: Probability = 0.9
    """Share of the target clip in each point."""


@register
@dataclasses.dataclass(frozen=True)
class NearestNeighbours(Backend):
    """Mean distance to the nearest source clips or to the nearest target clips, the smaller one."""

    name: str = "nearest_neighbours"
    source_neighbours: Count = 1
    """Neighbours averaged in the source pool."""
    smote: SmoteConfig = SmoteConfig()
    memory_mixup: MemoryMixupConfig = MemoryMixupConfig()
    squared: bool = False
    """Square the distances: for the cosine (1 - cosine) / 2 instead of its root."""
    index: Literal["exact", "faiss"] = "exact"
    """How the nearest source clips are found: all are compared (exact); or, if there are 10,000 or
    more, those in lists near the clip (faiss: pip install 'asdjax[faiss]'), which misses some."""
    index_recall: Annotated[float, Range(low=0.5, high=1)] = 0.99
    """Share of the nearest source clips that faiss has to find, as measured while fitting."""

    def fitted(
        self, points: Float[np.ndarray, "N D"], is_target: Bool[np.ndarray, " N"]
    ) -> FittedNearestNeighbours:
        return FittedNearestNeighbours(self, points, is_target)

    def sentence(self) -> str:
        approximate = ""
        if self.index == "faiss":
            share = digits(100 * self.index_recall)
            approximate = (
                f", of many source clips {share} % or more found for training clips (faiss)"
            )
        return f"{self.metric} nearest neighbours{approximate}"

    def generalization(self) -> str | None:
        said = nearer_domain(self)
        if said is None:
            return None
        if self.smote.ratio > 0:
            ratio = digits(self.smote.ratio)
            said += f", SMOTE of the target embeddings to {ratio} of the source's"
        if self.memory_mixup.neighbours > 0:
            said += (
                f", MemMixup of the target embeddings with {self.memory_mixup.neighbours} source "
                "neighbours"
            )
        return said

    def training_scores(self) -> str:
        return "leave-one-out scores"


class FittedNearestNeighbours(Fitted):
    """Banks of source clips, and of target clips and the points that SMOTE and MemMixup add.

    The leave-one-out score of a clip ignores the clip and all points computed from it; no new ones
    are computed. If no clip of its domain remains, only the other domain is used.
    """

    config: NearestNeighbours

    def fit_points(self) -> None:
        import numpy as np

        from asdjax.scoring.distances import Pool

        config = self.config
        self._source_pool = Pool(self.points[self.source])
        self._lists = self._inverted_lists() if config.index == "faiss" else None
        banks, parents = [self.points[self.target]], [np.stack([self.target] * 2, axis=1)]
        if config.smote.ratio > 0 and len(self.source) and len(self.target):
            from asdjax.scoring import smote  # imbalanced-learn takes a second to import

            new, of, sentences = smote.synthetic_points(config.smote, self.points, self.is_target)
            banks.append(self.prepared(new))
            first, last = of.argmax(axis=1), of.shape[1] - 1 - of[:, ::-1].argmax(axis=1)
            parents.append(self.target[np.stack([first, last], axis=1)])
            for sentence in sentences:
                self.note(sentence)
        if config.memory_mixup.neighbours > 0 and len(self.source) and len(self.target):
            from asdjax.scoring import memory_mixup

            mixup = config.memory_mixup
            new, pairs = memory_mixup.mixed_points(mixup, self._source_pool, banks[0])
            banks.append(self.prepared(new))
            parents.append(np.stack([self.source[pairs[:, 0]], self.target[pairs[:, 1]]], axis=1))
            self.note_few(mixup.neighbours, len(self.source), "memory_mixup.neighbours")
        self._target_pool = Pool(np.concatenate(banks))
        self._parents = np.concatenate(parents)  # the training rows that each of them is made of
        self.note_few(config.source_neighbours, len(self._source_pool), "source_neighbours")
        self.note_few(config.target_neighbours, len(self._target_pool), "target_neighbours")

    def _inverted_lists(self) -> InvertedLists | None:
        """The source clips in lists, if there are enough."""
        from asdjax.scoring import inverted_lists

        inverted_lists.require_faiss()  # also for few clips: others may have more
        count = len(self._source_pool)
        if count < inverted_lists.FEWEST:
            self.note(
                f"backend.index faiss has no effect on {count} source clips: fewer than "
                f"{inverted_lists.FEWEST} are searched exactly"
            )
            return None
        lists = inverted_lists.InvertedLists(
            self._source_pool, self.config.source_neighbours, self.config.index_recall
        )
        self.note(
            f"faiss searches {lists.searched} of {lists.lists} lists of source clips for each "
            f"clip, and finds {lists.recall:.2%} of the nearest of training clips"
        )
        return lists

    def references(self) -> References | None:
        import numpy as np

        if len(self._target_pool) or self.config.squared or self._lists is not None:
            return None
        count = len(self._source_pool)
        neighbours = min(self.config.source_neighbours, count)
        factor = 0.5 if self.config.metric == "cosine" else 1.0
        return References(self._source_pool.points, np.ones(count), neighbours, factor)

    def left_out_scores(self) -> Float64[np.ndarray, " N"]:
        import numpy as np

        clips = np.arange(len(self.points))

        def source_out(rows: slice, columns: Int[np.ndarray, " C"]) -> Bool[np.ndarray, "B C"]:
            return self.source[columns] == clips[rows, None]

        def target_out(rows: slice, columns: Int[np.ndarray, " C"]) -> Bool[np.ndarray, "B C"]:
            return (self._parents[columns] == clips[rows, None, None]).any(axis=2)

        return self.score_points(self.points, source_out, target_out)

    def score_points(
        self,
        points: Float[np.ndarray, "M D"],
        source_out: LeftOut | None = None,
        target_out: LeftOut | None = None,
    ) -> Float64[np.ndarray, " M"]:
        """Scores of embeddings; `source_out` and `target_out` mark reference points to ignore."""
        import numpy as np

        from asdjax.scoring.distances import mean_distance

        k, k_target = self.config.source_neighbours, self.config.target_neighbours
        squared = self.config.squared
        if self._lists is None:
            source = mean_distance(points, self._source_pool, k, source_out, squared=squared)
        else:  # `source_out` leaves out one clip
            source = self._lists.mean_distance(points, k, source_out, most=1, squared=squared)
        nearest = np.minimum(
            source, mean_distance(points, self._target_pool, k_target, target_out, squared=squared)
        )
        if self.config.metric == "euclidean":
            return nearest
        return nearest / (4 if self.config.squared else 2)

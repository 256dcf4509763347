"""The backend of a combination of runs: its points are the scores of the members."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar, Literal

from asdjax.config.interfaces import Backend
from asdjax.config.registry import register
from asdjax.errors import DataError
from asdjax.scoring.backends import Fitted

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Float64


@register
@dataclasses.dataclass(frozen=True)
class CombinedScores(Backend):
    """Scores of several runs, made comparable by their normal training clips; for asdjax combine.

    mean, minimum and maximum are of z-scores: scores less the mean of the training clips' scores,
    divided by their standard deviation. rank is the mean over runs of the score's rank among the
    training clips' scores, from 0 to 1, with linear interpolation between them.
    """

    of_scores: ClassVar[bool] = True
    name: str = "combined_scores"
    metric: Literal["euclidean"] = "euclidean"
    combine: Literal["mean", "minimum", "maximum", "rank"] = "mean"
    """How the members' scores become one."""

    def fitted(
        self, points: Float[np.ndarray, "N K"], is_target: Bool[np.ndarray, " N"]
    ) -> FittedCombinedScores:
        return FittedCombinedScores(self, points, is_target)

    def sentence(self) -> str:
        if self.combine == "rank":
            return "mean rank of the systems' scores among those of the training clips"
        return f"{self.combine} of the systems' scores, standardised by those of the training clips"

    def training_scores(self) -> str:
        return "combined scores, each clip left out"


class FittedCombinedScores(Fitted):
    """The members' scores of the training clips, each of which left the clip itself out.

    Beyond the training clips' scores, a rank goes on linearly with their range as the unit, so that
    equal ranks are as rare as equal scores.
    """

    config: CombinedScores

    def fit_points(self) -> None:
        import numpy as np

        scores = self.points[self.used].astype(np.float64)
        self._sorted = np.sort(scores, axis=0)
        self._mean, self._deviation = scores.mean(axis=0), scores.std(axis=0)
        if not (self._deviation > 1e-9 * np.abs(scores).max(axis=0)).all():
            raise DataError(
                "all training clips have equal scores in one of the combined runs: leave it out"
            )

    def score_points(self, points: Float[np.ndarray, "M K"]) -> Float64[np.ndarray, " M"]:
        import numpy as np

        points = points.astype(np.float64)
        if self.config.combine == "rank":
            columns = zip(self._sorted.T, points.T, strict=True)
            return np.mean([_rank(known, scores) for known, scores in columns], axis=0)
        z = (points - self._mean) / self._deviation
        combined = {"minimum": z.min, "maximum": z.max}.get(self.config.combine, z.mean)(axis=1)
        return np.asarray(combined)

    def left_out_scores(self) -> Float64[np.ndarray, " N"]:
        return self.score_points(self.points)  # the members have left the clip out


def _rank(
    known: Float64[np.ndarray, " N"], scores: Float64[np.ndarray, " M"]
) -> Float64[np.ndarray, " M"]:
    """The rank of scores among sorted ones: 0 at the smallest, 1 at the largest."""
    import numpy as np

    known, first = np.unique(known, return_index=True)
    inside = np.interp(scores, known, first / first[-1])
    beyond = np.maximum(scores - known[-1], 0) + np.minimum(scores - known[0], 0)
    return inside + beyond / (known[-1] - known[0])

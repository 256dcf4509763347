"""Thresholds of 0/1 decisions, fitted to the scores of normal training clips.

A clip is declared anomalous (1) if its score is above the threshold of its machine and section.
Test scores are never used. `level` is the intended share of normal clips at or below the threshold:
0.9 for a false-alarm rate of 10 %. The rate for new clips may differ, because the embedder was
trained on the training clips.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from asdjax.config.interfaces import Threshold
from asdjax.config.registry import register
from asdjax.config.schema import digits, shown
from asdjax.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float64

_LARGEST = 1e300  # of a score; above it, differences and quantiles may overflow


def fit(decision: Threshold, scores: Float64[np.ndarray, " N"]) -> float:
    """The threshold of one machine and section.

    Args:
        decision: section `decision` of the configuration.
        scores: scores of normal training clips; larger is more anomalous.

    Raises:
        AsdjaxError: no scores, a score that is not finite or above 1e300, too few scores for a
            conformal rank, or equal scores for a gamma distribution.

    Example:
        >>> fit(Quantile(level=0.9), np.arange(11.0))
        9.0
    """
    import numpy as np

    scores = np.asarray(scores, np.float64)
    if not len(scores) or not (np.abs(scores) < _LARGEST).all():
        raise DataError(
            f"a threshold needs training scores, all of them finite and below {_LARGEST:g}: "
            "score the training clips again"
        )
    threshold = decision.fit(scores)
    if not isinstance(threshold, float | np.floating) or not math.isfinite(threshold):
        raise DataError(f"threshold {decision.method}: {shown(threshold)} is not a finite number")
    return float(threshold)


@register
@dataclasses.dataclass(frozen=True)
class Quantile(Threshold):
    """The `level` quantile of the leave-one-out scores, with linear interpolation."""

    method: str = "quantile"

    def fit(self, scores: Float64[np.ndarray, " N"]) -> float:
        import numpy as np

        return float(np.quantile(scores, self.level))

    def sentence(self, scores: str) -> str:
        return f"{digits(self.level)} quantile of the normal training clips' {scores}"


@register
@dataclasses.dataclass(frozen=True)
class Gamma(Threshold):
    """The `level` quantile of a gamma distribution fitted to the leave-one-out scores."""

    method: str = "gamma"

    def fit(self, scores: Float64[np.ndarray, " N"]) -> float:
        from asdjax.scoring import gamma_fit

        return gamma_fit.quantile(scores, self.level)

    def sentence(self, scores: str) -> str:
        return (
            f"{digits(self.level)} quantile of a gamma distribution fitted to the normal training "
            f"clips' {scores}"
        )

    @property
    def why_far_from_level(self) -> str:
        return "these scores follow no gamma distribution: set decision.method to quantile"


@register
@dataclasses.dataclass(frozen=True)
class Conformal(Threshold):
    """The ceil((N + 1) * level)-th smallest score, as in split-conformal prediction.

    Lei et al. 2018. For scores of clips that the backend was not fitted to, at most 1 - level of
    new normal clips would exceed it on average; leave-one-out scores come close to that.
    """

    method: str = "conformal"

    def fit(self, scores: Float64[np.ndarray, " N"]) -> float:
        # rounded first: 0.9 * 10 must give rank 9, not the ceiling of 9.000000000000002
        rank = math.ceil(round((len(scores) + 1) * self.level, 9))
        if rank > len(scores):
            raise DataError(
                f"decision.method conformal: {len(scores)} training clips are too few for level "
                f"{self.level:g}: lower decision.level or set decision.method to quantile"
            )
        return float(sorted(scores)[rank - 1])

    def sentence(self, scores: str) -> str:
        level = digits(self.level)
        return f"conformal rank at level {level} of the normal training clips' {scores}"


@register
@dataclasses.dataclass(frozen=True)
class InSample(Quantile):
    """The `level` quantile of the scores of clips that are among their own references."""

    in_sample = True
    method: str = "in_sample"

    def sentence(self, scores: str) -> str:
        return (
            f"{digits(self.level)} quantile of the normal training clips' scores, each clip being "
            "among its own references"
        )

    @property
    def why_far_from_level(self) -> str:
        return "the threshold follows from scores of clips that the backend was fitted to"

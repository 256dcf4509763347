"""Thresholds: from the normal training clips' scores to 0/1 decisions.

A clip is declared anomalous (1) when its score lies above the threshold of its machine and section.
Test scores never enter a threshold. `level` is the share of normal clips meant to lie at or below
it, 0.9 for a false-alarm rate of 10 %: meant, for the training scores stand for new clips only as
far as the embedder, which has seen the training clips, treats both alike.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy import stats

from asdjax.config import DecisionConfig
from asdjax.errors import AsdjaxError

SCHEMA = "asdjax.thresholds/1"


def fit(config: DecisionConfig, scores: Float64[np.ndarray, " N"]) -> float:
    """The threshold that follows from a machine's training scores.

    * quantile: the `level` quantile, linear between scores.
    * in_sample: the same, of scores against a bank that holds the clips themselves.
    * gamma: the `level` quantile of a gamma distribution fitted by maximum likelihood with free
      shape, location and scale, the rule of the challenge's baseline. It leans to the right:
      scores that lean to the left get a threshold too high, which the printed rates show.
    * conformal: the ceil((N + 1) * level)-th smallest score, split-conformal prediction's rank (Lei
      et al. 2018). Were the scores those of clips that the bank does not know, at most 1 - level of
      new normal clips would exceed it on average; leave-one-out scores come close to that.

    Args:
        config: section `decision` of the configuration.
        scores: of normal training clips; larger is more anomalous.

    Raises:
        AsdjaxError: no scores, a score that is not finite, too few for a conformal rank, or scores
            to which no gamma distribution fits.
    """
    if not len(scores) or not np.isfinite(scores).all():
        raise AsdjaxError("a threshold needs training scores, all of them finite")
    if config.method == "gamma":
        return _gamma(scores, config.level)
    if config.method == "conformal":
        # in whole numbers where level has few digits: 0.9 * 10 must not become 9.000000000000002
        rank = math.ceil(round((len(scores) + 1) * config.level, 9))
        if rank > len(scores):
            raise AsdjaxError(
                f"decision.method conformal: {len(scores)} training clips are too few for level "
                f"{config.level:g}: lower decision.level or set decision.method to quantile"
            )
        return float(np.sort(scores)[rank - 1])
    return float(np.quantile(scores, config.level))


def _gamma(scores: Float64[np.ndarray, " N"], level: float) -> float:
    hint = "set decision.method to quantile"
    if np.ptp(scores) == 0:
        raise AsdjaxError(f"decision.method gamma: all training scores are equal: {hint}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of points that the search passes
            threshold = float(stats.gamma.ppf(level, *stats.gamma.fit(scores)))
    except (stats.FitError, ValueError) as error:
        raise AsdjaxError(f"decision.method gamma: no fit ({error}): {hint}") from error
    if not np.isfinite(threshold):
        raise AsdjaxError(f"decision.method gamma: the fit gives no finite threshold: {hint}")
    return threshold


def summary(rows: Sequence[Mapping[str, str]], config: DecisionConfig) -> dict[str, Any]:
    """What a machine's thresholds imply, from its rows of scores, by section.

    Returns:
        by section: method, level, `threshold`; `clips` and `false_alarm_rate` of the training clips
        of both domains by their leave-one-out scores, the rate None without clips.
    """
    result = {}
    for section in sorted({row["section"] for row in rows}):
        train = [r for r in rows if r["section"] == section and r["split"] == "train"]
        alarms = {
            domain: [row["decision"] == "1" for row in train if row["domain"] == domain]
            for domain in ("source", "target")
        }
        result[section] = {
            "method": config.method,
            "level": config.level,
            "threshold": float(train[0]["threshold"]),
            "clips": {domain: len(a) for domain, a in alarms.items()},
            "false_alarm_rate": {
                domain: sum(a) / len(a) if a else None for domain, a in alarms.items()
            },
        }
    return result


def sentence(facts: Mapping[str, Any]) -> str:
    """One section of `summary` in words."""
    rates = ", ".join(
        f"{domain} {100 * rate:.1f} % of {facts['clips'][domain]}"
        for domain, rate in facts["false_alarm_rate"].items()
        if rate is not None
    )
    return (
        f"threshold {facts['threshold']:.6g} ({facts['method']}, level {facts['level']:g}); false "
        f"alarms among leave-one-out scores: {rates} clips"
    )

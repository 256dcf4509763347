"""Thresholds of 0/1 decisions, fitted to the scores of normal training clips.

A clip is declared anomalous (1) if its score is above the threshold of its machine and section.
Test scores are never used. `level` is the intended share of normal clips at or below the threshold:
0.9 for a false-alarm rate of 10 %. The rate for new clips may differ, because the embedder was
trained on the training clips.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy import optimize, special, stats

from asdjax.config.recipe import DecisionConfig
from asdjax.errors import AsdjaxError

SCHEMA = "asdjax.thresholds/1"
_LARGEST = 1e300  # of a score; above it, differences and quantiles may overflow
_FAR = {
    "gamma": "these scores follow no gamma distribution: set decision.method to quantile",
    "in_sample": "the threshold follows from scores of clips that the backend was fitted to",
    "quantile": "many scores are equal",
    "conformal": "many scores are equal",
}
"""By method, why the rate of false alarms may be far from 1 - level."""


def fit(config: DecisionConfig, scores: Float64[np.ndarray, " N"]) -> float:
    """The threshold of one machine and section.

    * quantile: the `level` quantile with linear interpolation.
    * in_sample: the same; the caller gives scores of clips that the backend was fitted to.
    * gamma: the `level` quantile of the gamma distribution of maximum likelihood, with free shape
      (1 or more), location and scale, as in the challenge's baseline. With a shape below 1 the
      likelihood is unbounded: it grows as the location approaches the smallest score. The
      baseline's `scipy.stats.gamma.fit` searches from one start and sometimes ends there, depending
      on the scores' unit, with a threshold many times too high. If it finds a proper maximum, both
      agree. For scores of negative skewness the maximum is the limit of the gamma distribution, the
      normal distribution.
    * conformal: the ceil((N + 1) * level)-th smallest score, as in split-conformal prediction (Lei
      et al. 2018). For scores of clips that the backend was not fitted to, at most 1 - level of new
      normal clips would exceed it on average; leave-one-out scores come close to that.

    Args:
        config: section `decision` of the configuration.
        scores: scores of normal training clips; larger is more anomalous.

    Raises:
        AsdjaxError: no scores, a score that is not finite or above 1e300, too few scores for a
            conformal rank, or equal scores for a gamma distribution.
    """
    scores = np.asarray(scores, np.float64)
    if not len(scores) or not (np.abs(scores) < _LARGEST).all():
        raise AsdjaxError(
            f"a threshold needs training scores, all of them finite and below {_LARGEST:g}"
        )
    if config.method == "gamma":
        return _gamma(scores, config.level)
    if config.method == "conformal":
        # rounded first: 0.9 * 10 must give rank 9, not the ceiling of 9.000000000000002
        rank = math.ceil(round((len(scores) + 1) * config.level, 9))
        if rank > len(scores):
            raise AsdjaxError(
                f"decision.method conformal: {len(scores)} training clips are too few for level "
                f"{config.level:g}: lower decision.level or set decision.method to quantile"
            )
        return float(np.sort(scores)[rank - 1])
    return float(np.quantile(scores, config.level))


def _gamma(scores: Float64[np.ndarray, " N"], level: float) -> float:
    low, span = scores.min(), np.ptp(scores)
    if span == 0:
        raise AsdjaxError(
            "decision.method gamma: all training scores are equal: set decision.method to quantile"
        )
    scores = (scores - low) / span  # so that the squares of the next line do not overflow
    mean, deviation = scores.mean(), scores.std()
    quantile = _standard_gamma((scores - mean) / deviation, level)
    return float(low + span * (mean + deviation * quantile))


def _standard_gamma(scores: Float64[np.ndarray, " N"], level: float) -> float:
    """The `level` quantile of a gamma distribution fitted to scores of mean 0 and variance 1.

    The fit has maximum likelihood. Let the location be -1/v and w = v * scores. The best scale
    gives the distribution the mean of the scores. For a given shape the best location solves
    shape - 1 = 1 / r with r = mean(w^2 / (1 + w)). Since r increases with v, a search over v covers
    all shapes: from infinity (v = 0, the normal distribution) to 1 (the location is the smallest
    score, the exponential distribution). The mean log-likelihood is
    log v - (shape - 1) s + shape log shape - shape - log Gamma(shape), s = mean(w - log(1 + w)).
    It may have several maxima: a grid search finds the highest.
    """
    below = -scores.min()

    def at(logit: float) -> tuple[float, float, float]:
        """v, the shape and the mean log-likelihood for v = expit(logit) times its maximum."""
        v = special.expit(logit) / below
        w = v * scores
        r, s = np.mean(w**2 / (1 + w)), np.mean(w - np.log1p(w))
        return v, 1 + 1 / r, np.log(v) - s / r + _log_peak(1 + 1 / r)

    grid = np.linspace(-8, 20, 281)
    best = int(np.argmax([at(logit)[2] for logit in grid]))
    found = optimize.minimize_scalar(
        lambda logit: -at(logit)[2],
        bounds=(grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]),
        method="bounded",
        options={"xatol": 1e-9},
    )
    v, shape, likelihood = at(found.x)
    normal, exponential = -np.log(2 * np.pi) / 2 - 0.5, -np.log(below) - 1
    if normal >= max(likelihood, exponential):
        return float(special.ndtri(level))
    if exponential >= likelihood:
        return float(below * (-np.log1p(-level) - 1))
    return float((special.gammaincinv(shape, level) / shape - 1) / v)


def _log_peak(shape: float) -> float:
    """shape log shape - shape - log Gamma(shape); for large shapes by Stirling's series."""
    if shape < 30:
        return shape * np.log(shape) - shape - special.gammaln(shape)
    series = 1 / (12 * shape) - 1 / (360 * shape**3) + 1 / (1260 * shape**5)
    return np.log(shape / (2 * np.pi)) / 2 - series


def summary(rows: Sequence[Mapping[str, str]], config: DecisionConfig) -> dict[str, Any]:
    """The threshold and false alarms of each section of a machine, from its rows of scores.

    Returns:
        By section: `method`, `level`, `threshold`; by domain, the number of training `clips` and
        the `false_alarm_rate` of their leave-one-out scores, None without clips;
        `expected_false_alarms`, the bounds of the central 99 % interval of the binomial
        distribution of alarms with probability 1 - level, both domains together; and
        `far_from_level`, whether the number of alarms is outside. The threshold was fitted to the
        same scores, so that the number of alarms varies less than binomially: outside of the
        interval, the method does not suit the scores.
    """
    result = {}
    for section in sorted({row["section"] for row in rows}):
        train = [r for r in rows if r["section"] == section and r["split"] == "train"]
        alarms = {
            domain: [row["decision"] == "1" for row in train if row["domain"] == domain]
            for domain in ("source", "target")
        }
        both = alarms["source"] + alarms["target"]
        fewest, most = map(int, stats.binom.interval(0.99, len(both), 1 - config.level))
        result[section] = {
            "method": config.method,
            "level": config.level,
            "threshold": float(train[0]["threshold"]),
            "clips": {domain: len(a) for domain, a in alarms.items()},
            "false_alarm_rate": {
                domain: sum(a) / len(a) if a else None for domain, a in alarms.items()
            },
            "expected_false_alarms": [fewest, most],
            "far_from_level": not fewest <= sum(both) <= most,
        }
    return result


def sentence(facts: Mapping[str, Any]) -> str:
    """One section of `summary` as a sentence."""
    method, meant = facts["method"], 100 * (1 - facts["level"])
    rates = ", ".join(
        f"{domain} {100 * rate:.1f} % of {facts['clips'][domain]}"
        for domain, rate in facts["false_alarm_rate"].items()
        if rate is not None
    )
    fewest, most = facts["expected_false_alarms"]
    far = f"; far from the {meant:.3g} % meant, {fewest} to {most} clips: {_FAR[method]}"
    return (
        f"threshold {facts['threshold']:.6g} ({method}, level {facts['level']:g}); false alarms "
        f"among leave-one-out scores: {rates} clips{far if facts['far_from_level'] else ''}"
    )

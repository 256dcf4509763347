"""Thresholds: from the normal training clips' scores to 0/1 decisions.

A clip is declared anomalous (1) when its score lies above the threshold of its machine and section.
Test scores never enter a threshold. `level` is the share of normal clips meant to lie at or below
it, 0.9 for a false-alarm rate of 10 %: meant, for the training scores stand for new clips only as
far as the embedder, which has seen the training clips, treats both alike.
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
_LARGEST = 1e300  # of a score: beyond it differences and quantiles may overflow
_FAR = {
    "gamma": "these scores follow no gamma distribution: set decision.method to quantile",
    "in_sample": "the threshold is of scores against a bank that holds the clips",
    "quantile": "many scores are equal",
    "conformal": "many scores are equal",
}
"""By method, why a rate of false alarms may lie far from 1 - level."""


def fit(config: DecisionConfig, scores: Float64[np.ndarray, " N"]) -> float:
    """The threshold that follows from a machine's training scores.

    * quantile: the `level` quantile, linear between scores.
    * in_sample: the same, of scores against a bank that holds the clips themselves.
    * gamma: the `level` quantile of the likeliest gamma distribution, with free shape (1 or more),
      location and scale: the rule of the challenge's baseline. Without a bound on the shape the
      likelihood has no maximum: below 1 it grows without end as the location nears the smallest
      score. `scipy.stats.gamma.fit`, which the baseline calls, climbs from one start and sometimes
      ends there, by the scores' unit, with thresholds many times too high; where it ends at a
      proper maximum both agree. Scores that lean to the left get the normal distribution, which
      is the gamma distribution's limit.
    * conformal: the ceil((N + 1) * level)-th smallest score, split-conformal prediction's rank (Lei
      et al. 2018). Were the scores those of clips that the bank does not know, at most 1 - level of
      new normal clips would exceed it on average; leave-one-out scores come close to that.

    Args:
        config: section `decision` of the configuration.
        scores: of normal training clips; larger is more anomalous.

    Raises:
        AsdjaxError: no scores, a score that is not finite or beyond 1e300, too few for a conformal
            rank, or equal scores for a gamma distribution.
    """
    scores = np.asarray(scores, np.float64)
    if not len(scores) or not (np.abs(scores) < _LARGEST).all():
        raise AsdjaxError(
            f"a threshold needs training scores, all of them finite and below {_LARGEST:g}"
        )
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
    low, span = scores.min(), np.ptp(scores)
    if span == 0:
        raise AsdjaxError(
            "decision.method gamma: all training scores are equal: set decision.method to quantile"
        )
    scores = (scores - low) / span  # first, so that no square of the next line overflows
    mean, deviation = scores.mean(), scores.std()
    quantile = _standard_gamma((scores - mean) / deviation, level)
    return float(low + span * (mean + deviation * quantile))


def _standard_gamma(scores: Float64[np.ndarray, " N"], level: float) -> float:
    """The `level` quantile of the likeliest gamma distribution of scores of mean 0 and variance 1.

    With location -1/v and w = v * scores, the best scale gives the distribution the scores' mean,
    and a shape's best location solves shape - 1 = 1 / r with r = mean(w^2 / (1 + w)). As r rises
    with v, v alone runs through all shapes: from infinity (v = 0, a normal distribution) to 1 (the
    location is the smallest score, an exponential distribution). The mean log-likelihood on the way
    is log v - (shape - 1) s + shape log shape - shape - log Gamma(shape), s = mean(w - log(1 + w)).
    It may have several maxima: a grid finds the highest.
    """
    below = -scores.min()

    def at(logit: float) -> tuple[float, float, float]:
        """v, the shape and the mean log-likelihood where v is expit(logit) of its largest value."""
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
    """shape log shape - shape - log Gamma(shape); by Stirling's series where digits cancel."""
    if shape < 30:
        return shape * np.log(shape) - shape - special.gammaln(shape)
    series = 1 / (12 * shape) - 1 / (360 * shape**3) + 1 / (1260 * shape**5)
    return np.log(shape / (2 * np.pi)) / 2 - series


def summary(rows: Sequence[Mapping[str, str]], config: DecisionConfig) -> dict[str, Any]:
    """What a machine's thresholds imply, from its rows of scores, by section.

    Returns:
        by section: method, level, `threshold`; `clips` and `false_alarm_rate` of the training clips
        of both domains by their leave-one-out scores, the rate None without clips;
        `expected_false_alarms`, the fewest and the most alarms of both domains together in the
        binomial distribution's middle 99 %, were each clip to alarm with probability 1 - level; and
        `far_from_level`, whether there are fewer or more. Thresholds that follow from these very
        scores vary less than that, so that outside of it the rule does not suit the scores.
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
    """One section of `summary` in words."""
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

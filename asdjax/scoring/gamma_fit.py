"""The quantile of a gamma distribution fitted to scores by maximum likelihood.

The distribution has a free shape (1 or more), location and scale, as in the challenge's baseline.
With a shape below 1 the likelihood is unbounded: it grows as the location approaches the smallest
score. The baseline's `scipy.stats.gamma.fit` searches from one start and sometimes ends there,
depending on the scores' unit, with a threshold many times too high. If it finds a proper maximum,
both agree. For scores of negative skewness the maximum is the limit of the gamma distribution, the
normal distribution.
"""

import numpy as np
from jaxtyping import Float64
from scipy import optimize, special

from asdjax.errors import DataError


def quantile(scores: Float64[np.ndarray, " N"], level: float) -> float:
    """The `level` quantile of the fitted distribution.

    Raises:
        AsdjaxError: all scores are equal.
    """
    low, span = scores.min(), np.ptp(scores)
    if span == 0:
        raise DataError(
            "decision.method gamma: all training scores are equal: set decision.method to quantile"
        )
    scores = (scores - low) / span  # so that the squares of the next line do not overflow
    mean, deviation = scores.mean(), scores.std()
    standard = _standard_gamma((scores - mean) / deviation, level)
    return float(low + span * (mean + deviation * standard))


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

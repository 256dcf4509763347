"""Standardising scores by their mean and deviation over normal clips, each clip left out."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64

_SMALLEST_SPREAD = 1e-3  # of a member's scores, relative to their mean
_ALIKE = 1e-9  # the same, relative to the largest score: rounding


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a member's scores of normal clips or windows."""

    mean: float
    deviation: float


def spreads(
    held_out: Float64[np.ndarray, "K N"], smallest: float = _SMALLEST_SPREAD
) -> list[Spread]:
    """Mean and deviation of each member's scores; deviations are at least `smallest` means."""
    means = held_out.mean(axis=1)
    floors = np.maximum(smallest * np.abs(means), 1e-12)
    deviations = np.maximum(held_out.std(axis=1), floors)
    return [Spread(float(m), float(d)) for m, d in zip(means, deviations, strict=True)]


def alike(scores: Float64[np.ndarray, "K N"]) -> Bool[np.ndarray, " K"]:
    """Whether the scores of a member are all equal but for rounding: nothing can standardise them.

    Example:
        >>> alike(np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0]]))
        array([ True, False])
    """
    return ~(scores.std(axis=1) > _ALIKE * np.abs(scores).max(axis=1))


def standardised(
    scores: Float64[np.ndarray, "K M"], by: Sequence[Spread]
) -> Float64[np.ndarray, "K M"]:
    """The members' scores in standard deviations from their mean over normal ones."""
    means = np.array([[spread.mean] for spread in by])
    return (scores - means) / np.array([[spread.deviation] for spread in by])

"""Differences of two runs' figures on the same clips, by a paired bootstrap.

Both runs' figures are computed from the same resamples of the clips, so that the difficulty of a
clip for both runs cancels in the difference.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from asdjax.scoring import averages, bootstrap
from asdjax.scoring.labels import Machines

SCOPE = (
    "Valid for these two runs on these clips: the variation between training seeds is not included."
)
"""What the intervals do not say."""


def difference(a: Machines, b: Machines, resamples: int) -> dict[str, Any]:
    """The differences of figures of the same clips.

    Args:
        a: labelled clips with the scores of one run.
        b: the same clips with the scores of another.
        resamples: number of bootstrap resamples.

    Returns:
        The nesting of `averages.means`, where each figure is replaced by `a`, `b`, `difference`
        (a - b), its `interval` [low, high] (None if neither figure has one) and `probability`, or
        by None if it has no clips. `probability` is the share of resamples in which A is better;
        ties count half.
    """
    return _difference(
        (_figures(a), bootstrap.resample(a, resamples)),
        (_figures(b), bootstrap.resample(b, resamples)),
    )


def _figures(machines: Machines) -> dict[str, Any]:
    return averages.means(
        {m: {s: clips.figures() for s, clips in machines[m].items()} for m in machines}
    )


def _difference(a: tuple[Any, Any], b: tuple[Any, Any]) -> Any:
    """Compare two nested dictionaries of figures, each given with its resampled figures."""
    (value_a, drawn_a), (value_b, drawn_b) = a, b
    if isinstance(drawn_a, Mapping):
        return {
            key: _difference((value_a[key], drawn_a[key]), (value_b[key], drawn_b[key]))
            for key in drawn_a
        }
    if value_a is None:
        return None
    drawn = drawn_a - drawn_b
    varied = any(map(bootstrap.interval, (drawn_a, drawn_b)))
    better = np.sign(np.round(drawn, 12))  # rounding errors are no difference
    return {
        "a": value_a,
        "b": value_b,
        "difference": value_a - value_b,
        "interval": bootstrap.ends(drawn) if varied else None,
        "probability": float((1 + better.mean()) / 2),
    }

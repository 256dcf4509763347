"""Why a recording has its score."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from asdjax.detector.ensemble import Tables
from asdjax.detector.features import Features
from asdjax.detector.normal import Model
from asdjax.detector.prediction import Prediction

_MOST = 8  # deviations in an explanation
_SMALLEST = 0.1  # spread of a value, relative to the median over its feature's values


@dataclasses.dataclass(frozen=True)
class Deviation:
    """A frequency at which the worst window differs from the most similar normal ones."""

    feature: str
    """Name of the feature, as in `asdjax.signal.spectral_statistics`."""
    statistic: str
    """Which statistic over time: mean, deviation, or that of unusual frames (events)."""
    hertz: float
    """Centre of the band."""
    deviations: float
    """Difference from the mean of the nearest normal windows, in standard deviations of all normal
    windows; positive: louder, or varying more."""


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Why a recording has its score."""

    prediction: Prediction
    members: Mapping[str, float]
    """The members' scores of the worst window, in standard deviations."""
    frequencies: tuple[Deviation, ...]
    """The largest differences first; none for trained embedders, whose vectors have no
    frequencies."""


def explanation(
    prediction: Prediction, worst: Tables, model: Model, features: Features
) -> Explanation:
    """The explanation of a prediction, given the features of its worst window (one row each)."""
    scores = model.standardised(worst)[:, 0]
    members = {name: float(s) for name, s in zip(model.ensemble.members, scores, strict=True)}
    rows, _ = model.ensemble.nearest(worst, len(prediction.nearest))
    found = []
    for name, places in features.places().items():
        table = model.windows.tables[name].astype(np.float64)
        spread = table.std(axis=0)
        spread = np.maximum(spread, max(_SMALLEST * float(np.median(spread)), 1e-12))
        off = (worst[name][0] - table[rows[0]].mean(axis=0)) / spread
        for i in np.argsort(-np.abs(off))[:_MOST]:
            found.append(Deviation(name, *places[int(i)], float(off[i])))
    found.sort(key=lambda deviation: -abs(deviation.deviations))
    return Explanation(prediction, members, tuple(found[:_MOST]))

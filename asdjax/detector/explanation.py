"""Why a recording has its score: members, frequencies, and a map of what differs when and where."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64

from asdjax.detector.ensemble import Tables
from asdjax.detector.features import Features
from asdjax.detector.normal import Model
from asdjax.detector.prediction import Prediction
from asdjax.detector.spectra import Spectra
from asdjax.signal import spectral_map
from asdjax.signal import spectral_statistics as statistics

SCHEMA = "asdjax.explanation/1"

_MOST = 8  # deviations in an explanation
_MOST_AREAS = 3
_SMALLEST_AREA = 5.0  # standard deviations; the first area is always given
_SMALLEST = 0.1  # spread of a value, relative to the median over its feature's values
_COMPARED = 10  # normal windows; of fewer, the variance between recordings is unknown
_SHOWN = 1  # size of the map's areas in time, of `spectral_map.FRAMES`


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
class Area:
    """A stretch of time and frequency in which a recording differs from similar normal ones."""

    start: float
    """Seconds from the beginning of the recording."""
    end: float
    """Likewise. An area that lasts as long as the window is something that is always there."""
    low: float
    """Hertz."""
    high: float
    """Hertz. From the lowest to the highest: all frequencies."""
    deviations: float
    """Its mean level, in standard deviations from the normal windows; positive: louder."""


@dataclasses.dataclass(frozen=True)
class DeviationMap:
    """Levels of the worst window by time and frequency, compared with similar normal windows."""

    seconds: Float64[np.ndarray, " S"]
    """Centres in time, from the beginning of the recording."""
    hertz: Float64[np.ndarray, " M"]
    """Centres of the bands."""
    level_db: Float64[np.ndarray, "S M"]
    """Power in the bands, decibels."""
    deviations: Float64[np.ndarray, "S M"]
    """Standard deviations from the normal windows; positive: louder."""


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Why a recording has its score."""

    prediction: Prediction
    members: Mapping[str, float]
    """The members' scores of the worst window, in standard deviations."""
    frequencies: tuple[Deviation, ...]
    """The largest differences first; none for trained embedders, whose vectors have no
    frequencies."""
    areas: tuple[Area, ...]
    """When, and at which frequencies, the worst window differs most; the largest first."""
    map: DeviationMap

    def document(self) -> dict[str, Any]:
        """The explanation as a JSON document, schema asdjax.explanation/1."""
        found = {"schema": SCHEMA, **dataclasses.asdict(self)}
        return found | {"map": {name: array.tolist() for name, array in found["map"].items()}}


def explanation(
    prediction: Prediction,
    worst: Tables,
    window: np.ndarray,
    model: Model,
    features: Features,
    spectra: Spectra,
    longest: int,
) -> Explanation:
    """The explanation of a prediction.

    Args:
        prediction: of a recording.
        worst: features of its worst window, one row each.
        window: the worst window [T], int16 or float, at the detector's sample rate.
        model: of the detector.
        features: of the detector.
        spectra: of the detector.
        longest: length of the longest window of the detector, samples.
    """
    scores = model.standardised(worst)[:, 0]
    members = {name: float(s) for name, s in zip(model.ensemble.members, scores, strict=True)}
    near = model.ensemble.nearest(worst, _COMPARED)[0][0]
    averages = [values.astype(np.float64) for values in spectra.averages(window, longest)]
    off = spectral_map.deviations(averages, model.windows.spectra[near].astype(np.float64))
    rate, seconds = features.sample_rate, len(window) / features.sample_rate
    return Explanation(
        prediction,
        members,
        _frequencies(worst, near[: len(prediction.nearest)], model, features),
        _areas(off, rate, prediction.start, seconds),
        _map(averages, off, rate, prediction.start),
    )


def _frequencies(
    worst: Tables, near: np.ndarray, model: Model, features: Features
) -> tuple[Deviation, ...]:
    found = []
    for name, places in features.places().items():
        table = model.windows.tables[name].astype(np.float64)
        spread = table.std(axis=0)
        spread = np.maximum(spread, max(_SMALLEST * float(np.median(spread)), 1e-12))
        off = (worst[name][0] - table[near].mean(axis=0)) / spread
        for i in np.argsort(-np.abs(off))[:_MOST]:
            found.append(Deviation(name, *places[int(i)], float(off[i])))
    found.sort(key=lambda deviation: -abs(deviation.deviations))
    return tuple(found[:_MOST])


def _areas(
    off: list[Float64[np.ndarray, "S P"]], sample_rate: int, start: float, seconds: float
) -> tuple[Area, ...]:
    """The areas with the largest deviations, of those that overlap the largest alone."""
    ranges = spectral_map.ranges(sample_rate)
    chosen: list[Area] = []
    sizes = [*spectral_map.FRAMES, None]
    flat = np.concatenate([np.abs(values).ravel() for values in off])
    places = [(i, *place) for i, values in enumerate(off) for place in np.ndindex(values.shape)]
    for index in np.argsort(-flat, kind="stable"):
        if chosen and (len(chosen) == _MOST_AREAS or flat[index] < _SMALLEST_AREA):
            break
        size, row, column = places[int(index)]
        begin, end = _time(row, sizes[size], sample_rate, seconds)
        low, high = ranges[column]
        area = Area(start + begin, start + end, low, high, float(off[size][row, column]))
        if not any(_overlap(area, other) for other in chosen):
            chosen.append(area)
    return tuple(chosen)


def _time(row: int, frames: int | None, sample_rate: int, seconds: float) -> tuple[float, float]:
    """When an area of `frames` frames begins and ends; None: the whole window."""
    if frames is None:
        return 0.0, seconds
    length, step = statistics.frame_seconds(sample_rate)
    begin = row * max(1, frames // 2) * step
    return begin, min(begin + (frames - 1) * step + length, seconds)


def _overlap(one: Area, other: Area) -> bool:
    return (
        min(one.end, other.end) > max(one.start, other.start)
        and min(one.high, other.high) > max(one.low, other.low)
    )  # fmt: skip


def _map(
    averages: list[Float64[np.ndarray, "S P"]],
    off: list[Float64[np.ndarray, "S P"]],
    sample_rate: int,
    start: float,
) -> DeviationMap:
    size = _SHOWN if len(off[_SHOWN]) else 0
    bands = len(statistics.edges(sample_rate))
    frames = spectral_map.FRAMES[size]
    times = [_time(row, frames, sample_rate, np.inf) for row in range(len(off[size]))]
    hertz = [place for _, place in statistics.places(sample_rate)["bands"][:bands]]
    return DeviationMap(
        start + np.array(times).mean(axis=1),
        np.array(hertz),
        averages[size][:, :bands] * (10 / np.log(10)),
        off[size][:, :bands],
    )

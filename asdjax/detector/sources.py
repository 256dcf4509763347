"""What a user gives a detector: paths of sound files and folders, or arrays; read when needed."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils.validation import check_array

from asdjax.data import audio, sound_search
from asdjax.data.read_ahead import in_order
from asdjax.detector import recordings
from asdjax.detector.recordings import Recording
from asdjax.errors import AsdjaxError, DataError

_MOST_CHANNELS, _SHORTEST = 16, 1000
"""An array with at most so many values on one axis, and more than so many on the other, is one
recording of several channels."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A recording that has not been read."""

    name: str
    """The path as given, or the number of the array."""
    read: Callable[[], Recording]
    """Raises `AsdjaxError` if the recording is faulty."""
    samples: Callable[[], int]
    """Their number in all channels."""


@dataclasses.dataclass(frozen=True)
class Faulty:
    """A recording that could not be read."""

    name: str
    error: str


_GIVEN = str | Path | np.ndarray | Source


def sources(X: Any, sample_rate: int, channel: int, to: str) -> list[Source]:
    """The recordings in `X`.

    Args:
        X: the path of a sound file or folder, or an array [T]; or a list of paths, of arrays [T]
            or [T, channels], and of such sources; or a matrix [N, T] of N recordings.
        sample_rate: of arrays, hertz.
        channel: to be used, counted from 1.
        to: what is done with the recordings, for messages.

    Raises:
        AsdjaxError: a folder has no sound files, or there are no recordings. A path that leads
            nowhere is an error when it is read.
        ValueError: `X` is neither of these, or a matrix with values that are not finite.
    """
    if isinstance(X, str | Path):
        X = [X]
    elif isinstance(X, np.ndarray) and (X.dtype.kind in "UO" or X.ndim == 1):
        X = [X] if X.dtype.kind in "biuf" else X.tolist()
    if isinstance(X, list | tuple) and not X:
        raise DataError(f"nothing to {to}: give recordings")
    if isinstance(X, Iterator | Set | bytes):
        raise DataError(
            f"recordings cannot be given as {type(X).__name__}: give a list of paths and arrays"
        )
    if not (isinstance(X, list | tuple) and all(isinstance(x, _GIVEN) for x in X)):
        X = _rows(X)
    found: list[Source] = []
    for i, one in enumerate(X):
        if isinstance(one, Source):
            found.append(one)
        elif isinstance(one, str | Path) and os.path.isdir(one):
            files = sound_search.find([Path(one)], to)
            found += [_of_file(name, path, channel) for name, path in files]
        elif isinstance(one, str | Path):
            if not str(one) or "\0" in str(one):
                raise DataError(f"{str(one)!r} is no path: give those of sound files and folders")
            found.append(_of_file(sound_search.shown(Path(one)), Path(one), channel))
        else:
            found.append(_of_array(f"recording {i}", one, sample_rate, channel))
    return found


def _rows(X: Any) -> list[np.ndarray]:
    """The rows of a matrix, each a recording."""
    if isinstance(X, np.ndarray) and X.dtype.kind in "iu" and X.dtype != np.int16:
        raise DataError(f"an array of type {X.dtype}: give int16, or float in [-1, 1]")
    rows = check_array(X, dtype=[np.float32, np.float64, np.int16])
    if rows.shape[1] <= _MOST_CHANNELS and len(rows) > _SHORTEST:
        raise DataError(
            f"an array of shape {rows.shape} is {len(rows)} recordings of {rows.shape[1]} samples: "
            "for one recording [T, channels], give a list with this array"
        )
    return list(rows)


def of_recording(recording: Recording) -> Source:
    """A recording that is in memory already."""
    return Source(recording.name, lambda: recording, lambda: 0)


def read(given: Sequence[Source]) -> Iterator[Recording]:
    """The recordings, in order; later ones are read meanwhile.

    Raises:
        AsdjaxError: one is faulty.
    """
    return in_order(lambda source: source.read(), given, (one.samples() for one in given))


def read_or_name(given: Sequence[Source]) -> Iterator[Recording | Faulty]:
    """As `read`, with `Faulty` in the place of faulty recordings."""
    return in_order(_read_or_name, given, (source.samples() for source in given))


def _read_or_name(source: Source) -> Recording | Faulty:
    try:
        return source.read()
    except AsdjaxError as error:
        return Faulty(source.name, sound_search.as_text(str(error)))


def _of_file(name: str, path: Path, channel: int) -> Source:
    read_file = partial(recordings.read, path, name, channel)
    return Source(name, read_file, partial(audio.samples_in, path))


def _of_array(name: str, array: np.ndarray, rate: int, channel: int) -> Source:
    if array.ndim == 2 and array.shape[0] <= _MOST_CHANNELS and array.shape[1] > _SHORTEST:
        raise DataError(
            f"{name}: an array of shape {array.shape} has {array.shape[0]} samples of "
            f"{array.shape[1]} channels: transpose it to [T, channels]"
        )
    read_array = partial(recordings.of_array, array, rate, name, channel)
    return Source(name, read_array, lambda: array.size)

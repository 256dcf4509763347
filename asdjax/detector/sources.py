"""What a user gives a detector: paths of sound files and folders, or arrays; read when needed."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils.validation import check_array

from asdjax.data import audio, sound_search
from asdjax.data.read_ahead import in_order
from asdjax.data.sound_files import HIGHEST_RATE, LOWEST_RATE
from asdjax.detector import recordings
from asdjax.detector.recordings import Recording
from asdjax.errors import AsdjaxError, ConfigError


@dataclasses.dataclass(frozen=True)
class Source:
    """A recording that has not been read."""

    name: str
    """The path as given, or the number of the array."""
    read: Callable[[], Recording]
    """Raises `AsdjaxError` if the recording is faulty."""
    seconds: Callable[[], float]
    """Its length; of a file, from the header."""
    size: int
    """About the number of samples."""


@dataclasses.dataclass(frozen=True)
class Faulty:
    """A recording that could not be read."""

    name: str
    error: str


def sources(X: Any, sample_rate: int, channel: int, to: str) -> list[Source]:
    """The recordings in `X`.

    Args:
        X: the path of a sound file or folder, or several; or a list of arrays [T] or [T, channels];
            or a matrix [N, T] of N recordings.
        sample_rate: of arrays, hertz.
        channel: to be used, counted from 1.
        to: what is done with the recordings, for messages.

    Raises:
        AsdjaxError: a path leads nowhere, or a folder has no sound files.
        ValueError: `X` is neither of these, or a matrix with values that are not finite.
    """
    paths = _paths(X)
    if paths is not None:
        return [_of_file(name, path, channel) for name, path in sound_search.find(paths, to)]
    if not LOWEST_RATE <= sample_rate <= HIGHEST_RATE:
        raise ConfigError(
            f"sample_rate {sample_rate}: give hertz, from {LOWEST_RATE} to {HIGHEST_RATE}"
        )
    if isinstance(X, list | tuple) and X and all(isinstance(x, np.ndarray) for x in X):
        arrays = list(X)
    else:
        arrays = list(check_array(X, dtype=[np.float32, np.float64, np.int16]))
    return [_of_array(f"recording {i}", a, sample_rate, channel) for i, a in enumerate(arrays)]


def of_recording(recording: Recording) -> Source:
    """A recording that is in memory already."""
    return Source(recording.name, lambda: recording, lambda: recording.seconds, 0)


def read(given: Sequence[Source]) -> Iterator[Recording]:
    """The recordings, in order; later ones are read meanwhile.

    Raises:
        AsdjaxError: one is faulty.
    """
    return in_order(lambda source: source.read(), given, [source.size for source in given])


def read_or_name(given: Sequence[Source]) -> Iterator[Recording | Faulty]:
    """As `read`, with `Faulty` in the place of faulty recordings."""
    return in_order(_read_or_name, given, [source.size for source in given])


def _read_or_name(source: Source) -> Recording | Faulty:
    try:
        return source.read()
    except AsdjaxError as error:
        return Faulty(source.name, str(error))


def _of_file(name: str, path: Path, channel: int) -> Source:
    try:
        size = os.stat(path).st_size
    except OSError:
        size = 0  # reading the file will say why
    read_file = partial(recordings.read, path, name, channel)
    return Source(name, read_file, lambda: audio.inspect_any(path).seconds, size)


def _of_array(name: str, array: np.ndarray, rate: int, channel: int) -> Source:
    read_array = partial(recordings.of_array, array, rate, name, channel)
    return Source(name, read_array, lambda: len(array) / rate, array.size)


def _paths(X: Any) -> list[Path] | None:
    """The paths in `X`; None if it holds arrays."""
    if isinstance(X, str | Path):
        return [Path(X)]
    if isinstance(X, np.ndarray) and X.dtype.kind in "UO":
        X = X.tolist()
    if isinstance(X, list | tuple) and X and all(isinstance(x, str | Path) for x in X):
        return [Path(x) for x in X]
    return None

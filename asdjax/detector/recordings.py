"""Recordings of any length and sample rate, and the stretches of sound that a detector compares."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from asdjax.data import audio
from asdjax.data.samples import to_float
from asdjax.errors import DataError
from asdjax.files.copied_files import Copied
from asdjax.store.detector_file import NormalRecording

IGNORED, HALF = 0.1, 0.5
"""Rest of a recording, as a share of a clip, below which it gets no window of its own: when
scoring, and when fitting."""
_FEWEST_FOR_OFFSET = 1000  # samples; of fewer the mean may be sound, of more it is an offset
_FULL_SCALE = 0.999  # samples above count as clipped


@dataclasses.dataclass(frozen=True)
class Recording:
    """One channel of a recording at its own sample rate."""

    name: str
    """Path as given, or the number of an array."""
    waveform: np.ndarray
    """[T], int16 or float32 in [-1, 1]."""
    rate: int
    """Hertz."""
    channels: int
    """Of the recording that the channel is from."""

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return len(self.waveform) / self.rate

    def facts(self) -> NormalRecording:
        """Digest, level, clipping and format."""
        total, power, clipped, step = 0.0, 0.0, 0, 2**20  # in parts: an hour as float64 takes 1 GB
        for first in range(0, len(self.waveform), step):
            part = to_float(self.waveform[first : first + step], np.float64)
            total += float(np.sum(part))
            power += float(np.sum(np.square(part)))
            clipped += int(np.count_nonzero(np.abs(part) >= _FULL_SCALE))
        count = len(self.waveform)
        offset = total / count if count >= _FEWEST_FOR_OFFSET else 0.0
        level = 10 * math.log10(max(power / count - offset**2, 1e-20))
        return NormalRecording(
            name=self.name, digest=self.digest(), rate=self.rate, channels=self.channels,
            seconds=self.seconds, level_db=level, clipped=clipped / count,
        )  # fmt: skip

    def digest(self) -> str:
        """A digest of samples and rate: equal for copies of any name and sample type."""
        hashed = hashlib.blake2b(f"{self.rate} ".encode(), digest_size=16)
        step = 2**20
        for first in range(0, len(self.waveform), step):
            samples = to_float(self.waveform[first : first + step]) + np.float32(0)  # no -0
            hashed.update(np.ascontiguousarray(samples).view(np.uint8).data)
        return hashed.hexdigest()


@dataclasses.dataclass(frozen=True)
class Windowing:
    """How recordings are cut into windows."""

    clip_seconds: float
    """Length of a window."""
    hop_seconds: float
    """Step between windows."""
    sample_rate: int
    """Hertz, to which every window is resampled."""

    @property
    def longest(self) -> int:
        """Samples of a window."""
        return max(1, round(self.clip_seconds * self.sample_rate))

    def at(self, rate: int) -> tuple[int, int]:
        """Length of a window and step between windows, samples at another rate."""
        return max(1, round(self.clip_seconds * rate)), max(1, round(self.hop_seconds * rate))

    def cut(self, recording: Recording, ignored: float) -> Iterator[tuple[float, np.ndarray]]:
        """The windows of a recording at `sample_rate`, with their beginnings in seconds.

        Args:
            recording: of any rate.
            ignored: see `starts`.
        """
        length, hop = self.at(recording.rate)
        for start in starts(len(recording.waveform), length, hop, ignored):
            yield start / recording.rate, self._window(recording, start)

    def at_second(self, recording: Recording, start: float) -> np.ndarray:
        """The window of `cut` that begins at `start` seconds."""
        return self._window(recording, round(start * recording.rate))

    def _window(self, recording: Recording, start: int) -> np.ndarray:
        part = recording.waveform[start : start + self.at(recording.rate)[0]]
        if recording.rate != self.sample_rate:
            part = audio.resample(part, recording.rate, self.sample_rate)
        return part[: self.longest]


def read(path: Path | Copied, name: str, channel: int) -> Recording:
    """A channel, counted from 1, of a sound file.

    Raises:
        AsdjaxError: the file is faulty, or has no such channel.
    """
    header = audio.inspect_any(path)
    samples = audio.read_any(path, header.rate)
    return of_samples(samples, header.rate, name, channel)


def of_array(samples: Any, rate: int, name: str, channel: int) -> Recording:
    """A channel of an array [T] or [T, channels]: int16, or float with full scale 1.

    Raises:
        AsdjaxError: the array has another shape or type, or has no such channel or no samples.
    """
    array = _two_axes(samples, name)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{name}: some samples are NaN or infinite: repair the recording")
    if array.dtype != np.int16:
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise DataError(f"{name}: far beyond full scale, which is 1: repair the recording")
    return of_samples(array, rate, name, channel)


def of_samples(samples: np.ndarray, rate: int, name: str, channel: int) -> Recording:
    """A channel of samples [T, channels] that are checked already but for their number."""
    _require_channel(samples, name, channel)
    if not len(samples):
        raise DataError(f"{name}: no samples: leave it out")
    return Recording(name, samples[:, channel - 1].copy(), rate, samples.shape[1])


def starts(samples: int, length: int, hop: int, ignored: float) -> list[int]:
    """The first samples of the windows of a recording.

    Windows of `length` samples follow each other by `hop`. If more than the share `ignored` of a
    window is left at the end, one more window ends with the recording. A recording that is shorter
    than a window is one window.

    Example:
        >>> starts(25, 10, 10, ignored=0.1)
        [0, 10, 15]
    """
    last = samples - length
    found = list(range(0, max(last, 0) + 1, hop))
    if last - found[-1] > ignored * length:
        found.append(last)
    return found


def windows_of_stream(
    chunks: Iterable[Any], channel: int, length: int, hop: int, rate: int
) -> Iterator[tuple[Callable[[], Recording], float]]:
    """The windows of endless sound, and their beginnings in seconds, in bounded memory.

    A window is a function that makes a recording of it; it raises an exception if there are samples
    that are not finite.

    Args:
        chunks: consecutive samples [T] or [T, channels], of any lengths.
        channel: to be used, counted from 1.
        length: of a window, samples.
        hop: step between windows, samples; at most `length`.
        rate: hertz.

    Raises:
        AsdjaxError: a chunk has no such channel, or differs in channels or type from the first.
    """
    kind: tuple[int, np.dtype] | None = None
    held = np.zeros(0)
    begin = 0  # of what is held, samples
    for chunk in chunks:
        samples = _two_axes(chunk, "stream")
        if len(samples) == 0:
            continue
        _require_channel(samples, "stream", channel)
        kind = kind or (samples.shape[1], samples.dtype)
        if (samples.shape[1], samples.dtype) != kind:
            raise DataError("stream: the chunks differ in channels or type: give equal ones")
        held = np.concatenate([held.astype(samples.dtype), samples[:, channel - 1]])
        while len(held) >= length:
            yield partial(_window, held[:length].copy(), rate, samples.shape[1]), begin / rate
            held, begin = held[hop:], begin + hop


def _window(samples: np.ndarray, rate: int, channels: int) -> Recording:
    return dataclasses.replace(of_array(samples, rate, "stream", 1), channels=channels)


def _two_axes(samples: Any, name: str) -> np.ndarray:
    """Samples [T, channels] of an array [T] or [T, channels]: int16, or float with full scale 1."""
    array = np.asarray(samples)
    if array.ndim not in (1, 2) or not (array.dtype == np.int16 or array.dtype.kind == "f"):
        raise DataError(
            f"{name}: an array of shape {array.shape} and type {array.dtype}: give samples [T] or "
            "[T, channels], as int16 or as float in [-1, 1]"
        )
    return array if array.ndim == 2 else array[:, None]


def _require_channel(samples: np.ndarray, name: str, channel: int) -> None:
    if not 1 <= channel <= samples.shape[1]:
        has = f"{samples.shape[1]} channel{'s' * (samples.shape[1] != 1)}"
        raise DataError(f"{name}: no channel {channel}, the recording has {has}: choose another")

"""Audio files of a data set: their problems, their samples, and clips of a fixed length.

Samples of 16-bit PCM files, as in the challenge, remain int16 to halve the transfer to the device,
where they are scaled by 1/32768.
"""

import dataclasses
import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int16

from asdjax.config.recipe import AudioConfig
from asdjax.data.dcase import Clip, Dataset, FaultyFile, Problem
from asdjax.data.editions import OWN, find_edition
from asdjax.data.resampling import resample
from asdjax.data.sound_files import (
    FAR_BEYOND_1,
    Header,
    has_known_format,
    inspect,
    inspect_any,
    read_any,
    read_wav,
    samples_in,
    to_mp3,
)
from asdjax.data.sound_layout import fault
from asdjax.errors import DataError
from asdjax.files.user_files import open_regular, unreadable

__all__ = [
    "FAR_BEYOND_1",
    "SUFFIXES",
    "Header",
    "check",
    "clip_samples",
    "crop_start",
    "fingerprint",
    "fit_length",
    "has_known_format",
    "is_resampled",
    "inspect",
    "inspect_any",
    "read",
    "read_any",
    "resample",
    "samples_in",
    "to_mp3",
    "words_on_loudness",
]

_LOG = logging.getLogger(__name__)
CHANNELS = {"near": 1, "far": 2}
"""The channel of each value of `audio.channel`, counted from 1."""

SUFFIXES = frozenset(
    ".aif .aifc .aiff .au .caf .flac .mp3 .oga .ogg .opus .rf64 .snd .w64 .wav .wave".split()
)
"""Suffixes of audio files, in lower case."""


def fingerprint(path: Path) -> str:
    """A digest of a file's content.

    Raises:
        AsdjaxError: the file is missing or cannot be read.
    """
    with open_regular(path) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
        except OSError as error:
            raise DataError(unreadable(path, error)) from error


def check(dataset: Dataset, audio: AudioConfig) -> tuple[Dataset, dict[str, Header]]:
    """Open every clip and add its problems to those of the data set.

    Only headers are read, except that files with float samples are read for NaN, infinity and
    values far above 1. The number of channels must be the edition's, with one exception: in a
    two-channel edition, all files of a machine may be mono if audio.channel is near; its views are
    then raw. Data of a user's own may have any number of channels, and any format of `inspect_any`.

    Args:
        dataset: from `layouts.find`.
        audio: the files must have its `channel`, and its `sample_rate` unless they are resampled.

    Returns:
        The data set with its problems sorted by path, and the headers of readable files by path, as
        the samples are after resampling and choice of a channel.
    """
    own = dataset.edition == OWN

    def open_clip(clip: Clip) -> Header | Problem:
        try:
            header = (inspect_any if own else inspect)(dataset.root / clip.path)
            if header.subtype in ("FLOAT", "DOUBLE"):
                _require_in_range(dataset.root / clip.path, header.rate)
        except FaultyFile as fault:
            return dataclasses.replace(fault.problem, path=clip.path)
        return header

    with ThreadPoolExecutor() as pool:
        results = list(pool.map(open_clip, dataset.clips))
    problems = list(dataset.problems) + [r for r in results if isinstance(r, Problem)]
    headers = {
        clip.path: result
        for clip, result in zip(dataset.clips, results, strict=True)
        if isinstance(result, Header)
    }
    for path, header in headers.items():
        if not header.stated:
            reason = (
                f"the header states no length, as streaming recorders write it; {header.frames} "
                "samples follow: save the file again"
            )
            problems.append(Problem(path, "unstated_length", reason))
        if header.rate != audio.sample_rate and not is_resampled(dataset, audio):
            reason = f"{header.rate} Hz, but audio.sample_rate is {audio.sample_rate} Hz"
            problems.append(Problem(path, "wrong_rate", reason))
    problems += _wrong_channels(dataset, headers, audio.channel)
    of_one = {clip.path for clip in dataset.clips if clip.channel is not None} & headers.keys()
    if own:
        _say_conversions(headers, of_one, audio)
    if is_resampled(dataset, audio):
        headers = {path: _resampled(header, audio.sample_rate) for path, header in headers.items()}
    headers |= {path: dataclasses.replace(headers[path], channels=1) for path in of_one}
    return dataclasses.replace(dataset, problems=tuple(sorted(problems))), headers


def is_resampled(dataset: Dataset, audio: AudioConfig) -> bool:
    """Whether files of other rates than `audio.sample_rate` are resampled, else refused."""
    return audio.resample == "always" or (audio.resample == "auto" and dataset.edition == OWN)


def _say_conversions(headers: Mapping[str, Header], of_one: Set[str], audio: AudioConfig) -> None:
    """Log how many files of a user's own data are resampled, and how many have further channels.

    Of the files in `of_one` a table chose the channel that is used.
    """
    rates = Counter(header.rate for header in headers.values())
    rates.pop(audio.sample_rate, None)
    if rates and audio.resample != "never":
        counts = ", ".join(f"{count} of {rate} Hz" for rate, count in sorted(rates.items()))
        _LOG.warning(
            f"{rates.total()} of {len(headers)} files are resampled to {audio.sample_rate} Hz: "
            f"{counts}"
        )
    several = sum(h.channels > 2 for path, h in headers.items() if path not in of_one)
    if several:
        _LOG.warning(
            f"{several} of {len(headers)} files have more than two channels: the first is the near "
            "one, the second the far one, the others are not used"
        )


def _resampled(header: Header, sample_rate: int) -> Header:
    """The header of the samples that `resample` makes of a file; unchanged at equal rates."""
    if header.rate == sample_rate:
        return header
    frames = -(-header.frames * sample_rate // header.rate)  # rounded up
    return dataclasses.replace(header, frames=frames, rate=sample_rate, subtype="FLOAT")


def read(
    path: Path,
    *,
    channel: Literal["near", "far"] | int | None,
    sample_rate: int | None = None,
) -> Int16[np.ndarray, "T *channels"] | Float32[np.ndarray, "T *channels"]:
    """The samples of a file.

    Args:
        path: a WAV file; with `sample_rate`, a file of any format.
        channel: near for the first channel, far for the second, None for the first two (or the
            only one); or a number, counted from 1.
        sample_rate: hertz, to which the file is resampled; None: it is not.

    Returns:
        [T], or [T, 1 or 2] if `channel` is None: int16 for 16-bit PCM files, otherwise float32,
        with integers scaled to [-1, 1).

    Raises:
        FaultyFile: the file cannot be read or has no such channel.
    """
    samples = read_wav(path) if sample_rate is None else read_any(path, sample_rate)
    if channel is None:
        return samples[:, :2]
    index = (CHANNELS[channel] if isinstance(channel, str) else channel) - 1
    if index >= samples.shape[1]:
        raise fault(path, "wrong_channels", f"no {channel} channel: set audio.channel to near")
    return np.ascontiguousarray(samples[:, index])


def clip_samples(audio: AudioConfig, headers: Iterable[Header]) -> int:
    """The number of samples of a waveform: `clip_seconds`, or the longest clip's if it is auto.

    Raises:
        AsdjaxError: the number is 0.
    """
    if audio.clip_seconds == "auto":
        samples = max((h.frames for h in headers), default=0)
    else:
        samples = round(audio.clip_seconds * audio.sample_rate)
    if samples < 1:
        raise DataError(
            f"audio.clip_seconds: {audio.clip_seconds} gives clips of 0 samples: set it higher"
        )
    return samples


def crop_start(n_frames: int, n_samples: int, u: float) -> int:
    """The first sample of a crop, uniform over its n_frames - n_samples + 1 possible positions.

    Args:
        n_frames: length of the clip.
        n_samples: length of the crop; if the clip is not longer, the result is 0.
        u: uniform random number in [0, 1).
    """
    positions = max(n_frames - n_samples, 0) + 1
    # floor(u * positions), exact as u is a multiple of 2^-53: rounding could give `positions`
    return (int(u * 2**53) * positions) >> 53


def fit_length(
    waveform: Int16[np.ndarray, "T"] | Float32[np.ndarray, "T"], n_samples: int, start: int = 0
) -> Int16[np.ndarray, "n_samples"] | Float32[np.ndarray, "n_samples"]:
    """A waveform of exactly n_samples: a longer one is cut from `start`, a shorter one repeated.

    Raises:
        ValueError: the waveform is empty, or the crop is not inside it.
    """
    if len(waveform) == 0 or not 0 <= start <= max(len(waveform) - n_samples, 0):
        raise ValueError(f"no crop of {n_samples} samples at {start} from {len(waveform)} samples")
    if len(waveform) < n_samples:
        return np.resize(waveform, n_samples)  # NumPy's resize repeats
    return waveform[start : start + n_samples]


def _require_in_range(path: Path, rate: int) -> None:
    samples = read_any(path, rate)
    peak = float(np.max(np.abs(samples)))
    if not np.isfinite(peak):
        raise fault(path, "not_finite", "some samples are NaN or infinite")
    if peak > FAR_BEYOND_1:
        raise fault(path, "out_of_range", f"the peak is {peak:g}, {_OF_INTEGERS}")


_OF_INTEGERS = (
    "where full scale is 1: divide integers stored as floats by their full scale (32768 for 16 "
    "bits)"
)


def words_on_loudness(peaks: Mapping[str, float]) -> str:
    """A warning about recordings far above full scale, whose peaks are given by name."""
    name, peak = max(peaks.items(), key=lambda item: item[1])
    several = f" (the loudest of {len(peaks)} such recordings)" if len(peaks) > 1 else ""
    return f"{name}{several}: the peak is {peak:g}, {_OF_INTEGERS}; the embeddings may be useless"


def _wrong_channels(
    dataset: Dataset, headers: dict[str, Header], channel: Literal["near", "far"]
) -> list[Problem]:
    expected = find_edition(dataset.edition).channels
    counts: dict[str, set[int]] = {}
    for clip in dataset.clips:
        if clip.path in headers:
            counts.setdefault(clip.machine, set()).add(headers[clip.path].channels)
    problems = []
    for clip in dataset.clips:
        if clip.path not in headers:
            continue
        found = headers[clip.path].channels
        if clip.channel is not None or expected == 0:
            if (clip.channel or CHANNELS[channel]) <= found:
                continue
            has = f"{found} channel{'' if found == 1 else 's'}"
            reason = f"{has}, but channel {clip.channel or CHANNELS[channel]} is to be used"
        elif found < CHANNELS[channel]:
            reason = f"{found} channels, but audio.channel is {channel}"
        elif found == expected or (found == 1 and counts[clip.machine] == {1}):
            continue
        else:
            mixed = len(counts[clip.machine]) > 1
            others = "; other clips of this machine have another number" if mixed else ""
            has = f"{found} channel{'' if found == 1 else 's'}"
            reason = f"{has}, but {dataset.edition} has {expected}{others}"
        problems.append(Problem(clip.path, "wrong_channels", reason))
    return problems

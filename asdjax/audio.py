"""Audio files: what their headers say, what is wrong with them, and their samples.

Headers are parsed here rather than by libsndfile, which shortens a cut-off WAV file without a word.
Waveforms stay as stored, int16 for the challenge's PCM 16-bit files: half the transfer; the device
scales them by 1/32768.
"""

import dataclasses
import functools
import hashlib
import math
import os
import re
import struct
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import soundfile
from jaxtyping import Float32, Int16

from asdjax.config import AudioConfig, ProblemKind
from asdjax.dcase import EDITIONS, Clip, Dataset, FaultyFile, Problem
from asdjax.errors import AsdjaxError

_CHANNEL = {"near": 0, "far": 1}
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_SUBTYPES = {  # (format tag, bytes per sample) -> libsndfile's name
    (_PCM, 1): "PCM_U8",
    (_PCM, 2): "PCM_16",
    (_PCM, 3): "PCM_24",
    (_PCM, 4): "PCM_32",
    (_FLOAT, 4): "FLOAT",
    (_FLOAT, 8): "DOUBLE",
}

SUFFIXES = frozenset(
    ".aif .aifc .aiff .au .caf .flac .mp3 .oga .ogg .opus .rf64 .snd .w64 .wav .wave".split()
)
"""How the names of audio files end, in lower case."""
_SHORTENED = re.compile(r"(\d+) \(should be (\d+)\)")  # in libsndfile's log: promised, held
_OGG_PAGE, _LAST_PAGE = 65307, 4  # bytes at most; the flag of a stream's last page
_PASS_BAND, _STOP_DB = 0.9, 110.0  # of resampling
_MOST_FACTOR = 100_000  # 44101 Hz to 16000 Hz: 44101; a filter has some 128 taps times that


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """What a WAV file's header says."""

    frames: int
    """Samples per channel."""
    rate: int
    """Hertz."""
    channels: int
    subtype: str
    """Sample format, in libsndfile's words: PCM_16, FLOAT, ..."""

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.frames / self.rate


def inspect(path: Path) -> Header:
    """Read the header of a WAV file (RIFF, RF64 or BW64; PCM or float; plain or extensible).

    Raises:
        FaultyFile: the file is unreadable, empty, or shorter than its header promises.
    """
    try:
        with open(path, "rb") as file:
            return _parse(file, os.fstat(file.fileno()).st_size, path)
    except OSError as error:
        raise _fault(path, "unreadable", error.strerror or str(error)) from error


def fingerprint(path: Path) -> str:
    """A digest of a file's size and of its first, middle and last 4 KiB: quick, and enough to tell
    other sound under the same name.
    """
    size, block = path.stat().st_size, 4096
    state = hashlib.blake2b(str(size).encode(), digest_size=8)
    with open(path, "rb") as file:
        for start in (0, size // 2, max(size - block, 0)):
            file.seek(start)
            state.update(file.read(block))
    return state.hexdigest()


def check(dataset: Dataset, audio: AudioConfig) -> tuple[Dataset, dict[str, Header]]:
    """Open every clip and add what is wrong to the data set's problems.

    Headers tell all but NaN and infinity, for which the files with float samples are read. The
    number of channels is the edition's, with one exception: in a two-channel edition a machine
    whose files are all mono passes (its views fall back to raw) while audio.channel is near.

    Args:
        dataset: as `dcase.scan` found it.
        audio: its `sample_rate` and `channel` are what the files must have.

    Returns:
        The data set with its problems sorted by path, and the readable files' headers by path.
    """

    def open_clip(clip: Clip) -> Header | Problem:
        try:
            header = inspect(dataset.root / clip.path)
            if header.subtype in ("FLOAT", "DOUBLE"):
                _require_finite(dataset.root / clip.path)
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
        if header.rate != audio.sample_rate:
            reason = f"{header.rate} Hz where audio.sample_rate asks for {audio.sample_rate} Hz"
            problems.append(Problem(path, "wrong_rate", reason))
    problems += _wrong_channels(dataset, headers, audio.channel)
    return dataclasses.replace(dataset, problems=tuple(sorted(problems))), headers


def read(
    path: Path, *, channel: Literal["near", "far"] | None
) -> Int16[np.ndarray, "T *channels"] | Float32[np.ndarray, "T *channels"]:
    """Read a file's samples.

    Args:
        path: a WAV file.
        channel: near is the file's first channel, far its second; None reads all.

    Returns:
        [T], or [T, channels] where `channel` is None; int16 as stored for PCM 16-bit files, else
        float32 (integers scaled to [-1, 1)).

    Raises:
        FaultyFile: the file cannot be read or has no such channel.
    """
    try:
        with soundfile.SoundFile(path) as file:
            # libsndfile reads float files as int16 without scaling: only PCM 16 may be int16.
            dtype = "int16" if file.subtype == "PCM_16" else "float32"
            samples = file.read(dtype=dtype, always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise _fault(path, "unreadable", str(error)) from error
    if channel is None:
        return samples
    if _CHANNEL[channel] >= samples.shape[1]:
        raise _fault(path, "wrong_channels", f"no {channel} channel: set audio.channel to near")
    return np.ascontiguousarray(samples[:, _CHANNEL[channel]])


def inspect_any(path: Path) -> Header:
    """Read the header of any audio file that libsndfile knows: WAV, FLAC, Ogg, MP3, AIFF, ...

    The length of an MP3 file is libsndfile's estimate where the file does not state it.

    Raises:
        FaultyFile: the file is unreadable or empty, or ends before its samples do; in formats whose
            samples have to be decoded for that (FLAC, MP3), `read_any` finds it.
    """
    plain = True
    try:
        inspect(path)  # libsndfile reads what is left of a cut-off WAV file without a word
    except FaultyFile as fault:
        if fault.problem.kind != "unreadable":  # else perhaps of another format
            raise
        plain = False
    if path.suffix.lower() == ".raw":
        raise _fault(path, "unreadable", "samples without a header: store them as WAV")
    try:
        with soundfile.SoundFile(path) as file:
            header = Header(file.frames, file.samplerate, file.channels, file.subtype)
            log, container = file.extra_info, file.format
    except (soundfile.LibsndfileError, OSError) as error:
        raise _fault(path, "unreadable", str(error)) from error
    cut = any(int(promised) > int(held) for promised, held in _SHORTENED.findall(log))
    if not plain and (cut or container == "OGG" and _ogg_is_cut(path)):
        raise _fault(path, "truncated", "the file ends before its sound does: restore it")
    if header.frames == 0:
        raise _fault(path, "empty", "the file has 0 samples")
    return header


def read_any(
    path: Path, sample_rate: int
) -> Int16[np.ndarray, "T channels"] | Float32[np.ndarray, "T channels"]:
    """Read all channels of any audio file, at a sample rate of one's choice.

    Args:
        path: a file that `inspect_any` takes.
        sample_rate: hertz; a file of another rate is resampled (see `resample`).

    Returns:
        int16 as stored where samples have 16 bits and the rate is the file's own, else float32 in
        [-1, 1].

    Raises:
        FaultyFile: the file is faulty, or has NaN or infinite samples.
    """
    header = inspect_any(path)
    samples = read(path, channel=None)
    if len(samples) < header.frames and not header.subtype.startswith("MPEG"):
        reason = f"the header promises {header.frames} samples, the file holds {len(samples)}"
        raise _fault(path, "truncated", reason)
    if samples.dtype.kind == "f" and not np.isfinite(samples).all():
        raise _fault(path, "not_finite", "some samples are NaN or infinite")
    if header.rate == sample_rate:
        return samples
    try:
        return resample(samples, header.rate, sample_rate)
    except ValueError as error:
        raise _fault(path, "wrong_rate", str(error)) from error


def resample(
    waveform: Int16[np.ndarray, "T *channels"] | Float32[np.ndarray, "T *channels"],
    rate: int,
    wanted: int,
) -> Float32[np.ndarray, "S *channels"]:
    """Resample by `scipy.signal.resample_poly` with a Kaiser window's low-pass filter.

    Up to 0.9 of the lower one of both Nyquist frequencies nothing changes (within 1e-5); what lies
    above that Nyquist frequency is attenuated by more than 100 dB.

    Returns:
        T * wanted / rate samples, rounded up, integers scaled to [-1, 1).

    Raises:
        ValueError: the ratio of the rates is no fraction of moderate integers.
    """
    from scipy import signal  # a second to import, which most commands need not wait for

    common = math.gcd(rate, wanted)
    up, down = wanted // common, rate // common
    if max(up, down) > _MOST_FACTOR:
        raise ValueError(f"{rate} Hz cannot be resampled to {wanted} Hz: resample the file first")
    if waveform.dtype == np.int16:
        waveform = waveform.astype(np.float32) / np.float32(32768)
    return signal.resample_poly(waveform, up, down, window=_low_pass(max(up, down)))


@functools.lru_cache(maxsize=8)
def _low_pass(factor: int) -> Float32[np.ndarray, " taps"]:
    """A filter of unit gain for a rate `factor` times the lower one."""
    from scipy import signal

    taps, beta = signal.kaiserord(_STOP_DB, (1 - _PASS_BAND) / factor)
    cutoff = (1 + _PASS_BAND) / 2 / factor
    return signal.firwin(taps | 1, cutoff, window=("kaiser", beta)).astype(np.float32)


def clip_samples(audio: AudioConfig, headers: Iterable[Header]) -> int:
    """Samples of every waveform: `clip_seconds`, or the longest of the clips where it is auto.

    Raises:
        AsdjaxError: that is no sample at all.
    """
    if audio.clip_seconds == "auto":
        samples = max((h.frames for h in headers), default=0)
    else:
        samples = round(audio.clip_seconds * audio.sample_rate)
    if samples < 1:
        raise AsdjaxError(f"audio.clip_seconds: {audio.clip_seconds} gives clips without a sample")
    return samples


def crop_start(n_frames: int, n_samples: int, u: float) -> int:
    """Where a crop starts: uniform over the n_frames - n_samples + 1 places it fits.

    Args:
        n_frames: length of the clip.
        n_samples: length of the crop; a clip that is no longer starts at 0.
        u: uniform draw from [0, 1).
    """
    places = max(n_frames - n_samples, 0) + 1
    return (int(u * 2**53) * places) >> 53  # u is a multiple of 2^-53: exact, never `places`


def fit_length(
    waveform: Int16[np.ndarray, "T"] | Float32[np.ndarray, "T"], n_samples: int, start: int = 0
) -> Int16[np.ndarray, "n_samples"] | Float32[np.ndarray, "n_samples"]:
    """Repeat a shorter waveform, then cut it; cut a longer one from `start`.

    Raises:
        ValueError: an empty waveform, or a crop that leaves it.
    """
    if len(waveform) == 0 or not 0 <= start <= max(len(waveform) - n_samples, 0):
        raise ValueError(f"no crop of {n_samples} samples at {start} from {len(waveform)} samples")
    if len(waveform) < n_samples:
        return np.resize(waveform, n_samples)  # NumPy's resize repeats
    return waveform[start : start + n_samples]


def _fault(path: Path, kind: ProblemKind, reason: str) -> FaultyFile:
    return FaultyFile(Problem(str(path), kind, reason))


def _parse(file: BinaryIO, size: int, path: Path) -> Header:
    """Walk the chunks of a RIFF file up to its samples."""
    if size == 0:
        raise _fault(path, "empty", "the file has 0 bytes")
    start = file.read(12)
    container, promised = start[:4], int.from_bytes(start[4:8], "little")
    if container not in (b"RIFF", b"RF64", b"BW64") or not b"WAVE".startswith(start[8:]):
        raise _fault(path, "unreadable", "not a WAV file")
    layout, data_size = None, None
    while len(head := file.read(8)) == 8:
        name, length = struct.unpack("<4sI", head)
        if name == b"data":
            if layout is None:
                raise _fault(path, "unreadable", "the header does not say the sample format")
            held = size - file.tell()
            return _header(path, *layout, length if data_size is None else data_size, held)
        end = file.tell() + length
        if end > size:
            break
        if name == b"fmt ":
            layout = _format(path, file.read(min(length, 40)))
        elif name == b"ds64":  # 64-bit sizes of RF64: of the file, then of the samples
            data_size = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
        file.seek(end + length % 2)  # chunks are padded to an even length
    if len(start) == 12 and promised + 8 <= size:
        raise _fault(path, "unreadable", "the file has no samples (no data chunk)")
    raise _fault(path, "truncated", "the file ends before its samples begin")


def _format(path: Path, chunk: bytes) -> tuple[int, int, int, str]:
    """Channels, rate, bytes per frame and sample format from a `fmt ` chunk."""
    tag, channels, rate, _, frame = struct.unpack("<HHIIH", chunk[:14].ljust(14, b"\0"))
    if tag == _EXTENSIBLE and len(chunk) >= 26:
        tag = int.from_bytes(chunk[24:26], "little")
    subtype = _SUBTYPES.get((tag, frame // channels)) if channels else None
    if subtype is None or rate == 0:
        raise _fault(path, "unreadable", "neither PCM nor float samples")
    return channels, rate, frame, subtype


def _header(
    path: Path, channels: int, rate: int, frame: int, subtype: str, promised: int, held: int
) -> Header:
    """The header, once the promised bytes of samples are known to be there."""
    if promised > held:
        reason = f"the header promises {promised} bytes of samples, the file holds {held}"
        raise _fault(path, "truncated", reason)
    if promised < frame:
        raise _fault(path, "empty", "the file has 0 samples")
    return Header(promised // frame, rate, channels, subtype)


def _ogg_is_cut(path: Path) -> bool:
    """Whether an Ogg file ends otherwise than with the whole of a stream's last page."""
    with open(path, "rb") as file:
        file.seek(-min(_OGG_PAGE, path.stat().st_size), os.SEEK_END)
        tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or not page[5] & _LAST_PAGE:
        return True
    lengths = page[27 : 27 + page[26]]
    return len(page) < 27 + page[26] + sum(lengths)


def _require_finite(path: Path) -> None:
    if not np.isfinite(read(path, channel=None)).all():
        raise _fault(path, "not_finite", "some samples are NaN or infinite")


def _wrong_channels(
    dataset: Dataset, headers: dict[str, Header], channel: Literal["near", "far"]
) -> list[Problem]:
    expected = EDITIONS[dataset.edition].channels
    counts: dict[str, set[int]] = {}
    for clip in dataset.clips:
        if clip.path in headers:
            counts.setdefault(clip.machine, set()).add(headers[clip.path].channels)
    problems = []
    for clip in dataset.clips:
        if clip.path not in headers:
            continue
        found = headers[clip.path].channels
        if found <= _CHANNEL[channel]:
            reason = f"{found} channels, but audio.channel asks for {channel}"
        elif found == expected or (found == 1 and counts[clip.machine] == {1}):
            continue
        else:
            mixed = ", others of this machine differ" if len(counts[clip.machine]) > 1 else ""
            reason = f"{found} channels where {dataset.edition} has {expected}{mixed}"
        problems.append(Problem(clip.path, "wrong_channels", reason))
    return problems

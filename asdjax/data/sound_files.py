"""Reading sound files of any format, with checks of the header against the content.

libsndfile silently shortens truncated files and trusts headers that count too few samples.
Therefore headers and lengths are also parsed here, and a file is refused if the two differ.
"""

import dataclasses
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
from jaxtyping import Float32, Int16

from asdjax.data import resampling, sound_chunks, sound_streams
from asdjax.data.sound_layout import Layout, WavLayout, fault, require_whole
from asdjax.errors import AsdjaxError, ConfigError
from asdjax.files.copied_files import Copied
from asdjax.files.user_files import open_regular

Samples = Int16[np.ndarray, "T channels"] | Float32[np.ndarray, "T channels"]

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
"""Hertz. Rates outside are taken for damaged headers."""
MOST_SAMPLES = 2**30
"""Samples of all channels read at once: 4 GiB as float32, 18 hours at 16 kHz."""
FAR_BEYOND_1 = 16.0
"""Float samples above are an error or a warning. Full scale is 1, and float recordings may exceed
it by some dB, not by 24; 16-bit integers stored as floats exceed 16 unless they are faint."""

_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_WAV = (b"RIFF", b"RF64")
_BEGINNINGS = (
    *_WAV,
    sound_chunks.W64,
    b"FORM",
    b"caff",
    b".snd",
    b"dns.",
    b"OggS",
    b"ID3",
    b"fLaC",
)
_PLAIN = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")  # WAV: read without libsndfile
_BYTES = {  # bytes per sample of the formats with a fixed size, by libsndfile's name
    **dict.fromkeys(("PCM_S8", "PCM_U8", "ULAW", "ALAW"), 1),
    **{"PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8},
}


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """Length, sample rate, channels and sample format of a sound file."""

    frames: int
    """Samples per channel."""
    rate: int
    """Hertz."""
    channels: int
    subtype: str
    """Sample format by libsndfile's name: PCM_16, FLOAT, ..."""
    stated: bool = True
    """False: a WAV file of a streaming recorder, without a length in its header."""

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.frames / self.rate


def inspect(path: Path) -> Header:
    """Read the header of a WAV file (RIFF, RF64 or W64; PCM or float; plain or extensible).

    Raises:
        FaultyFile: another format, or a fault as in `inspect_any`.
    """
    with _opened(path) as file:
        header, _ = _inspect(file, path, wav=True)
    return header


def inspect_any(path: Path | Copied) -> Header:
    """Read the header of a WAV, RF64, W64, AIFF, AU, CAF, FLAC, Ogg or MP3 file.

    What is in an archive or in memory is copied to a temporary file for that.

    Raises:
        FaultyFile: the file is unreadable, empty or truncated, has more samples than its header
            states, or an impossible sample rate.
    """
    with _opened(path) as file:
        header, _ = _inspect(file, _place(path))
    return header


def has_known_format(path: Path) -> bool:
    """Whether a file begins as one of the formats of `inspect_any`."""
    with _opened(path) as file:
        start = file.read(16)
    return start.startswith(_BEGINNINGS) or (start[:1] == b"\xff" and start[1:2] >= b"\xe0")


def samples_in(path: Path) -> int:
    """The number of samples of all channels in a sound file; 0 if it is faulty.

    A small compressed file may have very many.
    """
    try:
        header = inspect_any(path)
    except AsdjaxError:
        return 0
    return header.frames * header.channels


def to_mp3(wave: Float32[np.ndarray, " T"], rate: int) -> bytes:
    """One channel as the content of an MP3 file; of a rate that MP3 lacks, resampled."""
    if rate not in _MP3_RATES:
        new = min((r for r in _MP3_RATES if r >= rate), default=max(_MP3_RATES))
        wave, rate = resampling.resample(wave, rate, new), new
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format="MP3")
    return buffer.getvalue()


def read_wav(path: Path, first: int = 0, most: int | None = None) -> Samples:
    """Read the samples of a WAV file, or a part of them.

    Args:
        path: a file that `inspect` accepts.
        first: samples per channel to skip.
        most: samples per channel to read at most; None: all.

    Returns:
        [T, channels]; int16 as stored for 16-bit PCM, else float32 (integers scaled to [-1, 1)).

    Raises:
        FaultyFile: the file cannot be read.
    """
    with _opened(path) as file:
        layout = _plain_layout(file, path)
        frames = max(layout.frames - first, 0)
        frames = frames if most is None else min(frames, most)
        _require_readable(path, frames, layout.channels)
        return _plain(file, path, layout, frames, first)


def checked_rate(given: Any) -> int:
    """A sample rate that a program states, hertz.

    Raises:
        AsdjaxError: it is no whole number, or no sensible one.
    """
    rate = int(given) if isinstance(given, np.integer) else given
    if type(rate) is not int or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise ConfigError(
            f"sample_rate {rate!r}: give hertz, a whole number from {LOWEST_RATE} to {HIGHEST_RATE}"
        )
    return rate


def read_any(path: Path | Copied, sample_rate: int, *, most: int | None = None) -> Samples:
    """Read all channels of any sound file at the given sample rate.

    Args:
        path: a file that `inspect_any` accepts.
        sample_rate: hertz; a file of another rate is resampled (see `resample`).
        most: samples per channel to return at most; only as much of the file as needed is read.

    Returns:
        [T, channels]; int16 as stored for 16-bit samples at the file's rate, else float32, of full
        scale 1.

    Raises:
        FaultyFile: the file is faulty, or some of the samples read are NaN or infinite.
    """
    place = _place(path)
    with _opened(path) as file:
        header, layout = _inspect(file, place)
        try:
            needed = resampling.samples_needed(most or 1, header.rate, sample_rate)
        except ValueError as error:
            raise fault(place, "wrong_rate", str(error)) from error
        frames = header.frames if most is None else min(header.frames, needed)
        longest = max(frames, frames * sample_rate // header.rate)  # before or after resampling
        _require_readable(place, longest, header.channels)
        if isinstance(layout, WavLayout) and layout.subtype in _PLAIN:
            samples = _plain(file, place, layout, frames)
        else:
            samples = _decoded(file, place, layout, frames)
    if samples.dtype.kind == "f" and not np.isfinite(samples).all():
        raise fault(place, "not_finite", "some samples are NaN or infinite: record it again")
    if header.rate != sample_rate:
        samples = resampling.resample(samples, header.rate, sample_rate)
    return samples[:most]


@contextmanager
def _opened(path: Path | Copied) -> Iterator[io.BufferedReader]:
    """Open a regular file, or the copy of one; `OSError` becomes `FaultyFile`."""
    place = _place(path)
    try:
        file = path.open() if isinstance(path, Copied) else open_regular(path)
    except AsdjaxError as error:
        raise fault(place, "unreadable", str(error).removeprefix(f"{path}: ")) from error
    except OSError as error:
        raise fault(place, "unreadable", error.strerror or str(error)) from error
    with file:
        try:
            yield file
        except OSError as error:
            raise fault(place, "unreadable", error.strerror or str(error)) from error


def _place(path: Path | Copied) -> Path:
    """The path for messages."""
    return path.path if isinstance(path, Copied) else path


def _inspect(file: BinaryIO, path: Path, *, wav: bool = False) -> tuple[Header, Layout]:
    """Header and layout, checked against libsndfile's reading of the header."""
    layout = _plain_layout(file, path) if wav else _layout(file, path)
    if isinstance(layout, WavLayout):
        _require_rate(path, layout.rate)
        if not layout.frames:
            raise fault(path, "empty", "the file has 0 samples: record it again")
        if layout.misread and layout.subtype in _PLAIN:
            return _wav_header(layout), layout
    found = _libsndfile_header(file, path, layout)
    _require_rate(path, found.rate)
    if found.subtype in ("VORBIS", "OPUS") and found.channels > 2:
        reason = f"{found.channels} channels, whose order in Ogg files depends on the program that"
        raise fault(path, "unreadable", f"{reason} wrote them: convert it to WAV or FLAC")
    if isinstance(layout, WavLayout):
        found = _agreed(path, layout, found)
    elif layout.size:
        _require_all(path, layout, found)
        found = dataclasses.replace(found, stated=layout.stated)
    elif layout.frames is not None:  # counted frame by frame; decoders may drop encoder padding
        if found.frames < layout.least:
            reason = f"the file has {layout.frames} samples, the decoder finds {found.frames}"
            raise fault(path, "wrong_length", f"{reason}: convert it to WAV")
        found = dataclasses.replace(found, frames=min(found.frames, layout.frames))
    if not found.frames:
        raise fault(path, "empty", "the file has 0 samples: record it again")
    return found, layout


def _wav_header(layout: WavLayout) -> Header:
    """The header of a WAV, RF64 or W64 file without libsndfile."""
    return Header(layout.frames, layout.rate, layout.channels, layout.subtype, layout.stated)


def _agreed(path: Path, layout: WavLayout, found: Header) -> Header:
    """The header of a WAV, RF64 or W64 file; `FaultyFile` if libsndfile reads another one."""
    parsed = _wav_header(layout)
    # Without a stated length, libsndfile's length matters only if libsndfile reads the samples.
    frames = found.frames if parsed.stated or parsed.subtype not in _PLAIN else parsed.frames
    if parsed != dataclasses.replace(found, frames=frames, stated=parsed.stated):
        raise fault(
            path,
            "unreadable",
            f"ambiguous header: {_description(parsed)}, or by libsndfile {_description(found)}: "
            "convert it to WAV again",
        )
    return parsed


def _require_all(path: Path, layout: Layout, found: Header) -> None:
    """`FaultyFile` unless header and libsndfile count all samples in the file."""
    width = _BYTES.get(found.subtype)
    if width is None:
        reason = f"samples of format {found.subtype}: convert it to WAV"
        raise fault(path, "unreadable", reason)
    held, rest = divmod(layout.size, width * found.channels)
    if rest and layout.frames is None:
        raise fault(path, "truncated", "the file ends within a frame: restore it")
    for stated in (layout.frames, found.frames):
        if stated is not None:
            require_whole(path, stated, held, "samples")


def _description(header: Header) -> str:
    return (
        f"{header.frames} samples of {header.channels} channels, {header.rate} Hz, {header.subtype}"
    )


def _layout(file: BinaryIO, path: Path) -> Layout:
    """The layout of a file, whose format is recognised by its first bytes."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(16)
    if not size:
        raise fault(path, "empty", "the file has 0 bytes")
    if start.startswith(b"FORM") and start[8:12] in (b"AIFF", b"AIFC"):
        return sound_chunks.aiff(file, size, path)
    if start.startswith(b"caff"):
        return sound_chunks.caf(file, size, path)
    if start.startswith((b".snd", b"dns.")):
        return sound_chunks.au(file, size, path)
    if start.startswith(b"OggS"):
        return sound_streams.ogg(file, size, path)
    if start.startswith((b"ID3", b"fLaC")) or start[0] == 0xFF and start[1:2] >= b"\xe0":
        place, _ = sound_streams.tagged(file, size)
        file.seek(place)
        if file.read(4) == b"fLaC":
            return sound_streams.flac(file, size, path)
        return sound_streams.mp3(file, size, path)
    if path.suffix.lower() == ".raw":
        raise fault(path, "unreadable", "samples without a header: convert it to WAV")
    if not start.startswith((*_WAV, sound_chunks.W64)):
        reason = "not a WAV, RF64, W64, AIFF, AU, CAF, FLAC, Ogg or MP3 file: convert it to WAV"
        raise fault(path, "unreadable", reason)
    file.seek(0)
    return _wav_layout(file, path)


def _plain_layout(file: BinaryIO, path: Path) -> WavLayout:
    layout = _wav_layout(file, path)
    if layout.subtype not in _PLAIN:
        reason = f"neither PCM nor float samples, but {layout.subtype}: convert it to 16-bit PCM"
        raise fault(path, "unreadable", reason)
    return layout


def _wav_layout(file: BinaryIO, path: Path) -> WavLayout:
    size = os.fstat(file.fileno()).st_size
    if not size:
        raise fault(path, "empty", "the file has 0 bytes")
    start = file.read(40)
    if start.startswith(sound_chunks.W64):
        return sound_chunks.wav(file, size, path, w64=True)
    if not start.startswith(_WAV) or not b"WAVE".startswith(start[8:12]):
        raise fault(path, "unreadable", "not a WAV file: convert it to WAV")
    return sound_chunks.wav(file, size, path)


def _require_rate(path: Path, rate: int) -> None:
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise fault(
            path,
            "wrong_rate",
            f"sample rate {rate} Hz in the header, not between {LOWEST_RATE} and {HIGHEST_RATE} "
            "Hz: correct it or convert the file to WAV again",
        )


def _require_readable(path: Path, frames: int, channels: int) -> None:
    if frames * channels > MOST_SAMPLES:
        raise fault(
            path,
            "unreadable",
            f"{frames} samples of {channels} channels, more than {MOST_SAMPLES} in all: split the "
            "recording",
        )


@contextmanager
def _libsndfile(file: BinaryIO, path: Path, layout: Layout) -> Iterator[soundfile.SoundFile]:
    """Open a file with libsndfile; the position of `file` is restored afterwards.

    It is opened by its descriptor, because another file may have replaced it at its path.
    """
    source: int | _FlacWithLength = file.fileno()
    if not (layout.stated or isinstance(layout, WavLayout)) and layout.start and layout.frames:
        source = _FlacWithLength(file, layout.start, layout.frames)
    place = os.lseek(file.fileno(), 0, os.SEEK_CUR)
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    try:
        with soundfile.SoundFile(source, closefd=False) as sound:
            yield sound
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
        reason = f"{reason}: restore the file or convert it to WAV"
        raise fault(path, "unreadable", reason) from error
    finally:
        os.lseek(file.fileno(), place, os.SEEK_SET)


class _FlacWithLength(io.RawIOBase):
    """A FLAC file with its length inserted, because libsndfile does not find the end without it."""

    def __init__(self, file: BinaryIO, start: int, frames: int):
        self._file, self._at = file.fileno(), 0
        self._size = os.fstat(self._file).st_size
        self._place = start + 14  # the length is the last 36 bits of these eight bytes
        stored = os.pread(self._file, 8, self._place)
        self._length = (int.from_bytes(stored, "big") | frames).to_bytes(8, "big")

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        content = bytearray(os.pread(self._file, len(buffer), self._at))
        for place, byte in enumerate(self._length, self._place - self._at):
            if 0 <= place < len(content):
                content[place] = byte
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


def _libsndfile_header(file: BinaryIO, path: Path, layout: Layout) -> Header:
    with _libsndfile(file, path, layout) as sound:
        return Header(sound.frames, sound.samplerate, sound.channels, sound.subtype)


def _decoded(file: BinaryIO, path: Path, layout: Layout, frames: int) -> Samples:
    """The first `frames` samples [T, channels], decoded by libsndfile."""
    with _libsndfile(file, path, layout) as sound:
        # int16 only for 16-bit PCM: libsndfile converts floats to int16 without scaling.
        dtype = "int16" if sound.subtype == "PCM_16" else "float32"
        samples = sound.read(frames, dtype=dtype, always_2d=True)
    if len(samples) < frames:
        require_whole(path, frames, len(samples), "samples")
    return samples


def _plain(
    file: io.BufferedReader, path: Path, layout: WavLayout, frames: int, first: int = 0
) -> Samples:
    """Samples `first` to `first + frames` [T, channels] of a WAV file."""
    stored = np.empty(frames * layout.frame, np.uint8)
    file.seek(layout.start + first * layout.frame)
    if file.readinto(stored.data) < len(stored):
        raise fault(path, "truncated", "the file was changed while it was read")
    match layout.subtype:
        case "PCM_16":
            samples: np.ndarray = stored.view("<i2").astype(np.int16, copy=False)
        case "PCM_U8":
            samples = (stored.astype(np.float32) - 128) / np.float32(128)
        case "PCM_24":
            wide = np.zeros((len(stored) // 3, 4), np.uint8)
            wide[:, 1:] = stored.reshape(-1, 3)
            samples = wide.view("<i4").astype(np.float32) / np.float32(2**31)
        case "PCM_32":
            samples = stored.view("<i4").astype(np.float32) / np.float32(2**31)
        case _:
            with np.errstate(over="ignore"):  # overflow gives infinity, which is reported later
                samples = stored.view(f"<f{layout.frame // layout.channels}").astype(np.float32)
    return samples.reshape(frames, layout.channels)

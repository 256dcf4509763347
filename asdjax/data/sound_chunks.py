"""Readers of sound files made of chunks (WAV, RF64, W64, AIFF, CAF), and of AU: their layouts.

If a header states too few bytes of samples, a part of the recording would be lost silently.
Therefore every byte after the samples must belong to another chunk.
"""

import dataclasses
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from asdjax.data.sound_layout import Layout, WavLayout, fault, require_whole

W64 = bytes.fromhex("72696666 2e91 cf11 a5d6 28db04c10000")
"""GUID of W64's riff chunk, with which a file begins."""
_PCM, _FLOAT, _ALAW, _ULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_SUBTYPES = {  # (format tag, bytes per sample) -> libsndfile's name
    (_PCM, 1): "PCM_U8",
    (_PCM, 2): "PCM_16",
    (_PCM, 3): "PCM_24",
    (_PCM, 4): "PCM_32",
    (_FLOAT, 4): "FLOAT",
    (_FLOAT, 8): "DOUBLE",
    (_ALAW, 1): "ALAW",
    (_ULAW, 1): "ULAW",
}
_GUID = bytes.fromhex("0000 0000 1000 8000 00aa 0038 9b71")  # follows the tag, if extensible
_FILES = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"riff", b"FORM", b"caff")  # begin another file
_HEADER = re.compile(  # of any sound file; at most 32 bytes that chance hardly makes
    rb"RIFF....WAVE|RIFX....WAVE|RF64....WAVE|BW64....WAVE|FORM....AIF[FC]|caff\x00\x01\x00\x00"
    rb"|fLaC[\x00\x80]\x00\x00\x22|OggS\x00\x02\x00{8}"
    rb"|\.snd\x00\x00......\x00\x00\x00[\x01-\x1b]\x00...\x00\x00\x00."
    rb"|dns\...\x00\x00....[\x01-\x1b]\x00\x00\x00...\x00.\x00\x00\x00|" + re.escape(W64),
    re.DOTALL,
)
_MOST_PADDING = 4096  # bytes; a block of a file system
_MOST_CHUNKS = 10_000  # per file, to limit the time
_TO_PIPE = (
    0x7F000000  # bytes; sox states these, and a header, in AIFF files that it cannot complete
)
_NO_FORMAT = "no sample format in the header: restore the file"
_NO_SAMPLES = "the file ends before its samples begin: restore it"


@dataclasses.dataclass(frozen=True, slots=True)
class _Chunks:
    """How a file format stores its chunks."""

    first: int
    """Byte offset of the first chunk."""
    name: int
    """Bytes of a chunk's name; the first four are text."""
    length: str
    """`struct` format of the length field."""
    align: int
    """Chunks begin at multiples of this number of bytes."""
    counted_head: int = 0
    """Bytes of name and length, if the length field includes them."""

    @property
    def head(self) -> int:
        return self.name + struct.calcsize(self.length)

    def aligned(self, place: int) -> int:
        return -(-place // self.align) * self.align

    def chunks(self, file: BinaryIO, size: int, place: int) -> Iterator[tuple[bytes, int, int]]:
        """Name, offset of the content and stated length of each chunk, also a truncated one."""
        for _ in range(_MOST_CHUNKS):
            if place >= size:
                return
            file.seek(place)
            head = file.read(self.head)
            if len(head) < self.head:
                return
            (length,) = struct.unpack(self.length, head[self.name :])
            content, length = place + self.head, length - self.counted_head
            yield head[:4], content, length
            if length < 0:
                return
            place = self.aligned(content + length)

    def no_samples_follow(self, file: BinaryIO, size: int, place: int) -> bool:
        """Whether only other chunks, then zeros or an ID3v1 tag, follow to the end of the file."""
        for name, content, length in self.chunks(file, size, place):
            text = all(32 <= byte < 127 for byte in name)
            complete = 0 <= length and content + length <= size
            if not (text and complete) or name in (*_FILES, b"data", b"SSND", b"fmt "):
                break
            place = self.aligned(content + length)
        if place >= size:
            return True
        file.seek(place)
        rest = file.read(_MOST_PADDING)
        tag = len(rest) == 128 and rest.startswith(b"TAG")
        return place + len(rest) >= size and (tag or len(rest) < _MOST_PADDING and not any(rest))


_RIFF = _Chunks(first=12, name=4, length="<I", align=2)
_W64 = _Chunks(first=40, name=16, length="<q", align=8, counted_head=24)
_AIFF = _Chunks(first=12, name=4, length=">I", align=2)
_CAF = _Chunks(first=8, name=4, length=">q", align=1)


def wav(file: BinaryIO, size: int, path: Path, *, w64: bool = False) -> WavLayout:
    """The layout of a RIFF, RF64 or W64 file with PCM, float, A-law or mu-law samples.

    Raises:
        FaultyFile: other or no samples, or a header that is inconsistent or has a wrong length.
    """
    form = _W64 if w64 else _RIFF
    layout, data_size = None, None
    for name, start, length in form.chunks(file, size, form.first):
        if name == b"data":
            if layout is None:
                raise fault(path, "unreadable", _NO_FORMAT)
            if data_size is not None and length == 0xFFFFFFFF:
                length = data_size
            return _samples(file, size, path, form, layout, start, length)
        if not start <= start + length <= size:
            break
        file.seek(start)
        if name == b"fmt ":
            if layout is not None:
                raise fault(path, "unreadable", "the header has two fmt chunks: restore the file")
            chunk = file.read(min(length, 40))
            extensible = chunk[:2] == _EXTENSIBLE.to_bytes(2, "little")
            layout = dataclasses.replace(_format(path, chunk), misread=w64 and extensible)
        elif name == b"ds64":  # RF64: 64-bit sizes of the file and of the samples
            data_size = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
    file.seek(0)
    head = file.read(8)
    if not w64 and len(head) == 8 and int.from_bytes(head[4:], "little") + 8 <= size:
        raise fault(path, "unreadable", "no samples (no data chunk): restore the file")
    raise fault(path, "truncated", _NO_SAMPLES)


def aiff(file: BinaryIO, size: int, path: Path) -> Layout:
    """The layout of an AIFF or AIFF-C file.

    Raises:
        FaultyFile: no samples, or a wrong length in the header.
    """
    frames, sound = None, None
    for name, start, length in _AIFF.chunks(file, size, _AIFF.first):
        file.seek(start)
        if name == b"COMM" and frames is None:
            frames = struct.unpack(">2xI", file.read(6).ljust(6, b"\0"))[0]
        elif name == b"SSND" and sound is None:
            offset = struct.unpack(">I", file.read(4).ljust(4, b"\0"))[0]
            if start + length > size and length >= _TO_PIPE:
                reason = "no length in the header, as written to a pipe: convert it to WAV"
                raise fault(path, "unreadable", reason)
            _require_end(file, size, path, _AIFF, start, length)
            sound = start + 8 + offset, max(length - 8 - offset, 0)
        elif name in (b"COMM", b"SSND"):
            reason = f"the header has two {name.decode()} chunks: restore the file"
            raise fault(path, "unreadable", reason)
        elif start + length > size:
            reason = f"the chunk at byte {start} exceeds the file"
            raise fault(path, "truncated", f"{reason}: restore the file or convert it to WAV")
    if frames is None or sound is None:
        raise fault(path, "truncated", _NO_SAMPLES)
    return Layout(*sound, frames=frames)


def caf(file: BinaryIO, size: int, path: Path) -> Layout:
    """The layout of a CAF file with linear PCM, A-law or mu-law samples.

    Raises:
        FaultyFile: other or no samples, or a wrong length in the header.
    """
    frame = None
    for name, start, length in _CAF.chunks(file, size, _CAF.first):
        file.seek(start)
        if name == b"desc":
            _, code, _, packet, _, channels, bits = struct.unpack(
                ">d4sIIIII", file.read(32).ljust(32, b"\0")
            )
            if code not in (b"lpcm", b"alaw", b"ulaw"):
                reason = "neither linear PCM nor A-law or mu-law samples: convert it to WAV"
                raise fault(path, "unreadable", reason)
            frame = channels * (-(-bits // 8) if code == b"lpcm" else 1)
            if not frame or packet != frame:
                raise fault(path, "unreadable", _misfit(channels, bits, packet))
        elif name == b"data":
            if frame is None:
                raise fault(path, "unreadable", _NO_FORMAT)
            if length == -1:
                reason = "no length in the header, which libsndfile needs: convert it to WAV"
                raise fault(path, "unreadable", reason)
            _require_end(file, size, path, _CAF, start, length)
            return Layout(start + 4, max(length - 4, 0))
        elif length < 0 or start + length > size:
            break
    raise fault(path, "truncated", _NO_SAMPLES)


def au(file: BinaryIO, size: int, path: Path) -> Layout:
    """The layout of an AU file, whose samples extend to the end of the file.

    Raises:
        FaultyFile: no samples, or a wrong length in the header.
    """
    file.seek(0)
    head = file.read(24)
    if len(head) < 24:
        raise fault(path, "truncated", _NO_SAMPLES)
    order = ">" if head.startswith(b".snd") else "<"
    start, length = struct.unpack(f"{order}4xII", head[:12])
    if start < 24 or start > size:
        raise fault(path, "truncated", _NO_SAMPLES)
    stated = length != 0xFFFFFFFF
    if stated:
        require_whole(path, length, size - start, "bytes of samples")
    else:
        _require_one_header(file, path, start)
    return Layout(start, size - start, stated)


def _format(path: Path, chunk: bytes) -> WavLayout:
    """Rate, channels, bytes per frame and sample format from a `fmt ` chunk."""
    if len(chunk) < 16:
        raise fault(path, "unreadable", _NO_FORMAT)
    tag, channels, rate, _, frame, bits = struct.unpack("<HHIIHH", chunk[:16])
    valid = bits
    if tag == _EXTENSIBLE and len(chunk) == 40 and chunk[26:] == _GUID:
        valid, tag = struct.unpack("<H4xH", chunk[18:26])
    subtype = _SUBTYPES.get((tag, -(-bits // 8)))
    if subtype is None or not channels or not rate or bits < 8 or (tag != _PCM and bits % 8):
        reason = "no channels, no sample rate, or neither PCM nor float samples"
        raise fault(path, "unreadable", f"{reason}: convert it to 16-bit PCM")
    if frame != channels * -(-bits // 8):
        raise fault(path, "unreadable", _misfit(channels, bits, frame))
    if valid > bits:
        reason = f"the header states {valid} valid bits per sample of {bits} bits"
        raise fault(path, "unreadable", f"{reason}: convert it to WAV again")
    return WavLayout(frame=frame, rate=rate, channels=channels, subtype=subtype)


def _misfit(channels: int, bits: int, frame: int) -> str:
    return (
        f"the header states {frame} bytes per frame (block align), but {channels} channels of "
        f"{bits} bits: convert it to WAV again"
    )


def _samples(
    file: BinaryIO, size: int, path: Path, form: _Chunks, layout: WavLayout, start: int, length: int
) -> WavLayout:
    """The layout with offset and length of the samples, after a check of the stated length."""
    held = size - start
    stated = not _is_unknown(length, held)
    if length == 0:  # no samples, or a header that was never completed
        stated = _is_end(file, size, form, start)
    if stated:
        _require_end(file, size, path, form, start, length)
    else:
        length = held
        _require_one_header(file, path, start)
        if held % layout.frame:
            reason = "no length in the header, and the file ends within a frame: restore the file"
            raise fault(path, "truncated", reason)
    excess = length % layout.frame
    if 0 < excess < form.align and length % form.align == 0:  # ffmpeg includes the padding
        file.seek(start + length - excess)
        length -= 0 if any(file.read(excess)) else excess
    if length % layout.frame:
        reason = f"{length} bytes of samples are not a multiple of {layout.frame} bytes per frame"
        raise fault(path, "wrong_length", f"{reason}: restore the file or correct its header")
    return dataclasses.replace(
        layout, start=start, size=length, stated=stated, frames=length // layout.frame
    )


def _require_end(
    file: BinaryIO, size: int, path: Path, form: _Chunks, start: int, length: int
) -> None:
    """`FaultyFile` unless the chunk of samples is complete and only other chunks follow."""
    held = size - start
    if not 0 <= length <= held:
        reason = f"the header states {length} bytes of samples, the file has {held}"
        raise fault(path, "truncated", f"{reason}: restore the file")
    if not _is_end(file, size, form, start + length):
        raise fault(
            path,
            "wrong_length",
            f"the header states {length} bytes of samples; the {held - length} bytes after them "
            "are not all in other chunks (sound, or a tag): restore the file or convert it to WAV "
            "again",
        )


def _is_end(file: BinaryIO, size: int, form: _Chunks, end: int) -> bool:
    """Whether only other chunks follow samples that end there, with or without padding."""
    return any(form.no_samples_follow(file, size, place) for place in (form.aligned(end), end))


def _require_one_header(file: BinaryIO, path: Path, start: int) -> None:
    """`FaultyFile` if a sound file's header is among samples whose length is not stated.

    Files that were joined have one, and W64 that libsndfile writes to a pipe has three headers.
    """
    file.seek(start)
    before = b""
    while block := file.read(2**20):
        if _HEADER.search(before + block):
            reason = "no length in the header, and another header among the samples (joined files?)"
            raise fault(path, "wrong_length", f"{reason}: convert each file to WAV again")
        before = (before + block)[-32:]


def _is_unknown(length: int, held: int) -> bool:
    """Whether a stated length means that it was not known.

    Recorders that write to a pipe state 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, or one of
    these minus the size of the header: always close to a multiple of 2 GiB.
    """
    near = 2**16
    if length < 0:  # only in W64
        return True
    return length > held and length >= 2**31 - near and (length + near) % 2**31 < 2 * near

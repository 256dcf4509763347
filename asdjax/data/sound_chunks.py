"""Files made of chunks (WAV, RF64, W64, AIFF, CAF), and AU: where their samples are.

A header that counts fewer bytes of samples than there are would hide a part of the recording. So
every byte behind the samples has to belong to another chunk.
"""

import dataclasses
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from asdjax.data.sound_layout import Layout, WavLayout, fault, require_whole

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
_GUID = bytes.fromhex("0000 0000 1000 8000 00aa 0038 9b71")  # follows a tag in extensible headers
_FILES = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"riff", b"FORM", b"caff")  # begin another file
_MOST_PADDING = 4096  # bytes; a block of a file system
_MOST_CHUNKS = 10_000  # of a file; more would take long to walk


@dataclasses.dataclass(frozen=True, slots=True)
class _Form:
    """How a format writes its chunks."""

    first: int
    """Bytes in front of the first chunk."""
    name: int
    """Bytes of a chunk's name, of which four are text."""
    length: str
    """Of the chunk's content, in the words of `struct`."""
    align: int
    """Chunks begin at multiples of so many bytes."""
    own_head: int = 0
    """Bytes of name and length, where the length counts them."""

    @property
    def head(self) -> int:
        return self.name + struct.calcsize(self.length)

    def aligned(self, place: int) -> int:
        return -(-place // self.align) * self.align

    def chunks(self, file: BinaryIO, size: int, place: int) -> Iterator[tuple[bytes, int, int]]:
        """Each chunk's name, place of its content, and stated length; also one that is cut off."""
        for _ in range(_MOST_CHUNKS):
            if place >= size:
                return
            file.seek(place)
            head = file.read(self.head)
            if len(head) < self.head:
                return
            (length,) = struct.unpack(self.length, head[self.name :])
            content, length = place + self.head, length - self.own_head
            yield head[:4], content, length
            if length < 0:
                return
            place = self.aligned(content + length)

    def is_claimed(self, file: BinaryIO, size: int, place: int) -> bool:
        """Whether all that follows is chunks other than samples, padding, or an ID3v1 tag."""
        for name, content, length in self.chunks(file, size, place):
            text = all(32 <= byte < 127 for byte in name)
            whole = 0 <= length and content + length <= size
            if not (text and whole) or name in (*_FILES, b"data", b"SSND", b"fmt "):
                break
            place = self.aligned(content + length)
        if place >= size:
            return True
        file.seek(place)
        rest = file.read(_MOST_PADDING)
        tag = len(rest) == 128 and rest.startswith(b"TAG")
        return place + len(rest) >= size and (tag or len(rest) < _MOST_PADDING and not any(rest))


_RIFF = _Form(first=12, name=4, length="<I", align=2)
_W64 = _Form(first=40, name=16, length="<q", align=8, own_head=24)
_AIFF = _Form(first=12, name=4, length=">I", align=2)
_CAF = _Form(first=8, name=4, length=">q", align=1)


def wav(file: BinaryIO, size: int, path: Path, *, w64: bool = False) -> WavLayout:
    """The samples of a RIFF, RF64 or W64 file: PCM, float, A-law or mu-law.

    Raises:
        FaultyFile: no such samples, a header that contradicts itself or the file's length.
    """
    form = _W64 if w64 else _RIFF
    layout, data_size = None, None
    for name, start, length in form.chunks(file, size, form.first):
        if name == b"data":
            if layout is None:
                raise fault(path, "unreadable", "the header does not say the sample format")
            if data_size is not None and length == 0xFFFFFFFF:
                length = data_size
            return _samples(file, size, path, form, layout, start, length)
        if not start <= start + length <= size:
            break
        file.seek(start)
        if name == b"fmt ":
            if layout is not None:
                raise fault(path, "unreadable", "the header says the sample format twice")
            chunk = file.read(min(length, 40))
            extensible = chunk[:2] == _EXTENSIBLE.to_bytes(2, "little")
            layout = dataclasses.replace(_format(path, chunk), misread=w64 and extensible)
        elif name == b"ds64":  # 64-bit sizes of RF64: of the file, then of the samples
            data_size = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
    file.seek(0)
    head = file.read(8)
    if not w64 and len(head) == 8 and int.from_bytes(head[4:], "little") + 8 <= size:
        raise fault(path, "unreadable", "the file has no samples (no data chunk)")
    raise fault(path, "truncated", "the file ends before its samples begin")


def aiff(file: BinaryIO, size: int, path: Path) -> Layout:
    """The samples of an AIFF or AIFF-C file.

    Raises:
        FaultyFile: it has none, or states another length than it holds.
    """
    frames, sound = None, None
    for name, start, length in _AIFF.chunks(file, size, _AIFF.first):
        file.seek(start)
        if name == b"COMM" and frames is None:
            frames = struct.unpack(">2xI", file.read(6).ljust(6, b"\0"))[0]
        elif name == b"SSND" and sound is None:
            offset = struct.unpack(">I", file.read(4).ljust(4, b"\0"))[0]
            _require_end(file, size, path, _AIFF, start, length)
            sound = start + 8 + offset, max(length - 8 - offset, 0)
        elif name in (b"COMM", b"SSND"):
            raise fault(path, "unreadable", f"the file has two {name.decode()} chunks")
        elif start + length > size:
            reason = f"the chunk at byte {start} goes beyond the file's end"
            raise fault(path, "truncated", f"{reason}: restore the file, or convert it to WAV")
    if frames is None or sound is None:
        raise fault(path, "truncated", "the file ends before its samples begin")
    return Layout(*sound, frames=frames)


def caf(file: BinaryIO, size: int, path: Path) -> Layout:
    """The samples of a CAF file whose coding is linear, A-law or mu-law.

    Raises:
        FaultyFile: another coding, no samples, or another length than the file holds.
    """
    frame = None
    for name, start, length in _CAF.chunks(file, size, _CAF.first):
        file.seek(start)
        if name == b"desc":
            _, code, _, packet, _, channels, bits = struct.unpack(
                ">d4sIIIII", file.read(32).ljust(32, b"\0")
            )
            if code not in (b"lpcm", b"alaw", b"ulaw"):
                words = "coded neither as linear PCM nor as A-law or mu-law: store it as WAV"
                raise fault(path, "unreadable", words)
            frame = channels * (-(-bits // 8) if code == b"lpcm" else 1)
            if not frame or packet != frame:
                raise fault(path, "unreadable", _misfit(channels, bits, packet))
        elif name == b"data":
            if frame is None:
                raise fault(path, "unreadable", "the header does not say the sample format")
            if length == -1:
                reason = "the header states no length, without which libsndfile does not read CAF"
                raise fault(path, "unreadable", f"{reason}: store it as WAV")
            _require_end(file, size, path, _CAF, start, length)
            return Layout(start + 4, max(length - 4, 0))
        elif length < 0 or start + length > size:
            break
    raise fault(path, "truncated", "the file ends before its samples begin")


def au(file: BinaryIO, size: int, path: Path) -> Layout:
    """The samples of an AU file, which go on to its end.

    Raises:
        FaultyFile: the file states another length than it holds.
    """
    file.seek(0)
    head = file.read(24)
    if len(head) < 24:
        raise fault(path, "truncated", "the file ends before its samples begin")
    order = ">" if head.startswith(b".snd") else "<"
    start, length = struct.unpack(f"{order}4xII", head[:12])
    if start < 24 or start > size:
        raise fault(path, "truncated", "the file ends before its samples begin")
    if length != 0xFFFFFFFF:  # which stands for any length
        require_whole(path, length, size - start, "bytes of samples")
    return Layout(start, size - start)


def _format(path: Path, chunk: bytes) -> WavLayout:
    """Rate, channels, bytes per frame and sample format from a `fmt ` chunk."""
    if len(chunk) < 16:
        raise fault(path, "unreadable", "the header does not say the sample format")
    tag, channels, rate, _, frame, bits = struct.unpack("<HHIIHH", chunk[:16])
    valid = bits
    if tag == _EXTENSIBLE and len(chunk) == 40 and chunk[26:] == _GUID:
        valid, tag = struct.unpack("<H4xH", chunk[18:26])
    subtype = _SUBTYPES.get((tag, -(-bits // 8)))
    if subtype is None or not channels or not rate or bits < 8 or (tag != _PCM and bits % 8):
        reason = "no channels, no sample rate, or samples neither PCM nor float"
        raise fault(path, "unreadable", f"{reason}: store it as 16-bit PCM")
    if frame != channels * -(-bits // 8):
        raise fault(path, "unreadable", _misfit(channels, bits, frame))
    if valid > bits:
        reason = f"samples of {bits} bits of which {valid} are said to be valid: store it again"
        raise fault(path, "unreadable", reason)
    return WavLayout(frame=frame, rate=rate, channels=channels, subtype=subtype)


def _misfit(channels: int, bits: int, frame: int) -> str:
    return (
        f"the header states {frame} bytes per frame (block align), which {channels} times {bits} "
        "bits do not make: store the file again"
    )


def _samples(
    file: BinaryIO, size: int, path: Path, form: _Form, layout: WavLayout, start: int, length: int
) -> WavLayout:
    """The layout with the place of the samples, once their stated length is known to be true."""
    held = size - start
    stated = not _is_open(length, held)
    if length == 0:  # nothing, or a header that was never completed
        stated = _is_end(file, size, form, start)
    if stated:
        _require_end(file, size, path, form, start, length)
    else:
        length = held
        if held % layout.frame:
            reason = "the header states no length, and the file ends inside a sample: restore it"
            raise fault(path, "truncated", reason)
    excess = length % layout.frame
    if excess and form is _W64 and length % 8 == 0 and excess < 8:  # ffmpeg counts the padding
        file.seek(start + length - excess)
        length -= 0 if any(file.read(excess)) else excess
    if length % layout.frame:
        reason = f"{length} bytes of samples are no multiple of the {layout.frame} bytes per frame"
        raise fault(path, "wrong_length", f"{reason}: restore the file or correct its header")
    return dataclasses.replace(
        layout, start=start, size=length, stated=stated, frames=length // layout.frame
    )


def _require_end(
    file: BinaryIO, size: int, path: Path, form: _Form, start: int, length: int
) -> None:
    """`FaultyFile` unless the chunk of samples is whole and no more sound lies behind it."""
    held = size - start
    if not 0 <= length <= held:
        reason = f"the header promises {length} bytes of samples, the file holds {held}"
        raise fault(path, "truncated", reason)
    if not _is_end(file, size, form, start + length):
        raise fault(
            path,
            "wrong_length",
            f"the header states {length} bytes of samples, and of the {held - length} behind them "
            "some belong to no other chunk (sound, or a tag): restore the file, or convert it to "
            "WAV again",
        )


def _is_end(file: BinaryIO, size: int, form: _Form, end: int) -> bool:
    """Whether nothing but other chunks follows samples that end there, padded or not."""
    return form.is_claimed(file, size, form.aligned(end)) or form.is_claimed(file, size, end)


def _is_open(length: int, held: int) -> bool:
    """Whether a length stands for "not known yet".

    Recorders that write to a pipe state 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, or such a
    number less their header: always next to a multiple of 2 GiB.
    """
    near = 2**16
    if length < 0:  # of W64
        return True
    return length > held and length >= 2**31 - near and (length + near) % 2**31 < 2 * near

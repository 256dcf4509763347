"""Readers of FLAC, Ogg and MP3 files, whose frames or pages are counted one by one.

libsndfile reads as many samples as the header states, or as it estimates, and skips data that it
cannot decode. A count of the frames or pages finds truncated and damaged files.
"""

import dataclasses
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from asdjax.data.sound_layout import Layout, fault, require_whole

_BLOCK = 2**20
_ID3V1 = 128  # bytes at the end of a file
_MOST_TAGS = 100  # per file, to limit the time
_MOST_BLOCKS = 10_000  # metadata blocks of a FLAC file, to limit the time
_CONVERT = "restore the file or convert it to WAV"
_CUT_OFF = "the file ends before its sound does: restore it"


def tagged(file: BinaryIO, size: int) -> tuple[int, int]:
    """Byte offsets of the beginning and end of a file's sound, without ID3 tags around it."""
    start, end = 0, size
    file.seek(0)
    for _ in range(_MOST_TAGS):
        head = file.read(10)
        if not head.startswith(b"ID3") or len(head) < 10:
            break
        start += 10 + _synchsafe(head[6:10]) + 10 * bool(head[5] & 0x10)
        file.seek(start)
    if end - start >= _ID3V1:
        file.seek(end - _ID3V1)
        if file.read(3) == b"TAG":
            end -= _ID3V1
    if end - start >= 20:
        file.seek(end - 10)
        footer = file.read(10)
        if footer.startswith(b"3DI"):
            end -= 20 + _synchsafe(footer[6:])
    return start, max(start, end)


def _synchsafe(four: bytes) -> int:
    """The value of an ID3 size field: four bytes of seven bits each."""
    return sum((byte & 127) << shift for byte, shift in zip(four, (21, 14, 7, 0), strict=True))


# FLAC (RFC 9639)


def _remainders(polynomial: int, bits: int) -> list[int]:
    """The lookup table of a CRC: the remainder of each byte."""
    table = []
    for byte in range(256):
        value = byte << (bits - 8)
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> (bits - 1) else 0)
            value &= (1 << bits) - 1
        table.append(value)
    return table


_CRC8, _CRC16 = _remainders(0x07, 8), _remainders(0x8005, 16)
_FLAC_SYNC = re.compile(rb"\xff[\xf8\xf9]")  # f8: numbered by frame; f9: by first sample
_FLAC_HEAD = 16  # bytes of a frame's header at most
_FLAC_FRAME = 2**22  # bytes of a frame at most: twice 65535 samples of 8 channels of 32 bits
_FLAC_HERTZ = (0, 88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)
_FLAC_BITS = (0, 8, 12, 0, 16, 20, 24, 32)  # per sample; 0: as in STREAMINFO


@dataclasses.dataclass(frozen=True, slots=True)
class _FlacHead:
    """The header of a FLAC frame."""

    sync: bytes
    coded: bytes
    """The frame's number, encoded."""
    samples: int
    form: tuple[int, int, int]
    """Hertz, channels, bits; 0: as in STREAMINFO."""


def flac(file: BinaryIO, size: int, path: Path) -> Layout:
    """The layout of a FLAC file, by its frames' headers; `start` is the offset of STREAMINFO.

    The content of the frames and bytes between them are checked by the decoder.

    Raises:
        FaultyFile: the stated length is wrong, the file is truncated or has several streams, a
            frame is missing, or a frame has another rate or sample format.
    """
    begin, end = tagged(file, size)
    place = begin + 4
    file.seek(place)
    information = file.read(4 + 34)
    if len(information) < 38 or information[0] & 127 or information[1:4] != b"\0\0\x22":
        reason = "no STREAMINFO block, with which a FLAC file begins: restore the file"
        raise fault(path, "unreadable", reason)
    for _ in range(_MOST_BLOCKS):
        file.seek(place)
        head = file.read(4)
        place += 4 + int.from_bytes(head[1:], "big")
        if len(head) < 4 or head[0] & 128:
            break
    else:
        reason = f"more than {_MOST_BLOCKS:,} metadata blocks: {_CONVERT}"
        raise fault(path, "unreadable", reason)
    if len(head) < 4 or place > end:
        raise fault(path, "truncated", _CUT_OFF)
    form_and_length = int.from_bytes(information[14:22], "big")
    stated = form_and_length & (1 << 36) - 1
    form = form_and_length >> 44, (form_and_length >> 41 & 7) + 1, (form_and_length >> 36 & 31) + 1
    fixed = int.from_bytes(information[6:8], "big")
    frames, complete = _flac_length(file, path, place, end, form, fixed)
    if stated:
        require_whole(path, stated, frames, "samples")
    if not frames:
        raise fault(path, "empty", "the file has 0 samples")
    if not complete:
        reason = "the file does not end with a complete frame (truncated, or a tag follows)"
        raise fault(path, "truncated", f"{reason}: {_CONVERT}")
    return Layout(begin + 4, frames=frames, least=frames, stated=bool(stated))


def _flac_length(
    file: BinaryIO, path: Path, place: int, end: int, form: tuple[int, int, int], fixed: int
) -> tuple[int, bool]:
    """Samples of the consecutive frames, and whether the last one ends at `end`.

    The next frame begins where a valid header has the expected number and format. Another valid
    header may be compressed data by chance; it is a frame if the CRC of the bytes before it is 0,
    because a frame ends with its CRC.

    Args:
        file: the file.
        path: its path, for errors.
        place: byte offset of the first frame.
        end: byte offset of the end of the sound.
        form: hertz, channels and bits of all frames.
        fixed: samples of all frames but the last, if frames are numbered one by one; a decoder
            computes a frame's time from it.

    Raises:
        FaultyFile: a frame is not the expected next one.
    """
    count = frames = crc = 0
    sync, begun = b"", place
    known = place  # `crc` covers the last frame's bytes up to here
    for start, head in _flac_heads(file, place, end):
        if start - begun >= _FLAC_FRAME or not count and start != place:
            break
        if head is None:
            continue
        sync = sync or head.sync
        by_count = sync == b"\xff\xf8"
        regular = not by_count or (frames == count * fixed and head.samples <= fixed)
        number = _coded(count if by_count else frames)
        found = tuple(one or other for one, other in zip(head.form, form, strict=True))
        if (head.sync, head.coded, found) == (sync, number, form) and regular:
            count, frames = count + 1, frames + head.samples
            crc, begun, known = 0, start, start
            continue
        crc, known = _flac_checksum(file, known, start, crc), start
        if crc == 0:
            reason = f"the frame at byte {start} does not continue the one before it"
            if found != form:
                reason = (
                    f"the frame at byte {start} has {_flac_format(found)}, but the file's header "
                    f"{_flac_format(form)}"
                )
            raise fault(path, "unreadable", f"{reason}: restore the file")
    complete = end - begun < _FLAC_FRAME and _flac_checksum(file, known, end, crc) == 0
    return frames, complete


def _flac_format(form: tuple[int, ...]) -> str:
    return "{} Hz, {} channels and {} bits".format(*form)


def _flac_heads(file: BinaryIO, place: int, end: int) -> Iterator[tuple[int, _FlacHead | None]]:
    """Offset and content of each possible frame header; also (offset, None) before each block."""
    for begin in range(place, end, _BLOCK):
        yield begin, None
        file.seek(begin)
        block = file.read(min(_BLOCK + _FLAC_HEAD, end - begin))
        for match in _FLAC_SYNC.finditer(block):
            found = match.start()
            head = _flac_head(block[found : found + _FLAC_HEAD])
            if head and found < _BLOCK:
                yield begin + found, head


def _flac_head(head: bytes) -> _FlacHead | None:
    """The frame header at a sync code; None if its fields or its CRC are invalid."""
    if len(head) < 6:
        return None
    size, hertz, channels, bits = head[2] >> 4, head[2] & 15, head[3] >> 4, head[3] >> 1 & 7
    place = 4 + max(8 - (head[4] ^ 255).bit_length(), 1)  # leading ones: bytes of the number
    behind = place + {6: 1, 7: 2}.get(size, 0)
    crc = behind + {12: 1, 13: 2, 14: 2}.get(hertz, 0)
    if not size or hertz == 15 or channels > 10 or bits == 3 or head[3] & 1 or crc >= len(head):
        return None
    value = 0
    for byte in head[: crc + 1]:
        value = _CRC8[value ^ byte]
    if value:
        return None
    if behind > place:
        samples = int.from_bytes(head[place:behind], "big") + 1
    else:
        samples = 192 if size == 1 else 576 << (size - 2) if size < 6 else 256 << (size - 8)
    if crc > behind:
        rate = int.from_bytes(head[behind:crc], "big") * {12: 1000, 13: 1, 14: 10}[hertz]
    else:
        rate = _FLAC_HERTZ[hertz]
    form = rate, channels + 1 if channels < 8 else 2, _FLAC_BITS[bits]
    return _FlacHead(head[:2], head[4:place], samples, form)


def _flac_checksum(file: BinaryIO, place: int, end: int, crc: int) -> int:
    """The CRC `crc`, continued over the bytes from `place` to `end`; 0 at the end of a frame."""
    file.seek(place)
    for byte in file.read(end - place):
        crc = (crc << 8 & 0xFFFF) ^ _CRC16[crc >> 8 ^ byte]
    return crc


def _coded(number: int) -> bytes:
    """A number of up to 36 bits in the encoding of UTF-8, extended to seven bytes."""
    if number < 128:
        return bytes([number])
    rest: list[int] = []
    while number >= 1 << (6 - len(rest)):
        rest.append(128 | number & 63)
        number >>= 6
    return bytes([0xFF << (7 - len(rest)) & 0xFF | number, *reversed(rest)])


# Ogg (RFC 3533)

_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_FIRST_PAGE, _LAST_PAGE, _NO_GRANULE = 2, 4, 2**64 - 1
_MOST_SKIPPED = 12_000  # samples at 48 kHz at the beginning of Opus; encoders have up to 3840
_OPUS_FRAME = (480, 960, 1920, 2880) * 3 + (480, 960) * 2 + (120, 240, 480, 960) * 4


class _Opus:
    """Lengths of Opus packets, in samples at 48 kHz (RFC 6716, section 3.1)."""

    def __init__(self) -> None:
        self.longest, self._headers = 0, 2

    def samples(self, packet: bytes) -> int:
        """Of the next packet."""
        if self._headers or not packet:
            self._headers = max(0, self._headers - 1)
            return 0
        count = (1, 2, 2, packet[1] & 63 if len(packet) > 1 else 0)[packet[0] & 3]
        samples = count * _OPUS_FRAME[packet[0] >> 3]
        self.longest = max(self.longest, samples)
        return samples


class _Vorbis:
    """Lengths of Vorbis packets in samples (Vorbis I, section 4.3).

    A packet's block and the one before overlap by half of each. The modes are those of all known
    encoders: the first for short blocks, the second for long ones.
    """

    def __init__(self, short: int, long: int) -> None:
        self.longest = long // 2
        self._blocks, self._before, self._headers = (short, long), 0, 3

    def samples(self, packet: bytes) -> int:
        """Of the next packet."""
        if self._headers or not packet or packet[0] & 1:  # not sound
            self._headers = max(0, self._headers - 1)
            return 0
        short, long = self._blocks
        block = long if packet[0] & 2 or short == long else short
        samples = (self._before + block) // 4 if self._before else 0
        self._before = block
        return samples


def ogg(file: BinaryIO, size: int, path: Path) -> Layout:
    """The layout of an Ogg file of one Vorbis or Opus stream, after a check of all its pages.

    A decoder returns what the pages' times (granule positions) state, so they must be the sums of
    the packets' lengths. The last may be less by a part of a packet: the encoder's padding.

    Raises:
        FaultyFile: another stream, several streams, a damaged or missing page, or a wrong time.
    """
    place = number = total = missing = 0
    serial, flags, begun = None, 0, b""
    packets: _Vorbis | _Opus | None = None
    file.seek(0)
    while place < size:
        page = file.read(27)
        lengths = file.read(page[26]) if len(page) == 27 and page.startswith(b"OggS") else b""
        content = file.read(sum(lengths))
        if not page.startswith(b"OggS"):
            cut = b"OggS".startswith(page) or (place and not flags & _LAST_PAGE)
            reason = "other data than sound" if place else "not an Ogg file"
            reason = f"{reason} at byte {place}: {_CONVERT}"
            raise fault(path, "truncated" if cut else "unreadable", reason)
        if len(page) < 27 or len(lengths) < page[26] or len(content) < sum(lengths):
            raise fault(path, "truncated", _CUT_OFF)
        blank = page[:22] + bytes(4) + page[26:] + lengths + content
        if _ogg_checksum(blank) != int.from_bytes(page[22:26], "little"):
            reason = f"the page at byte {place} does not match its checksum: restore the file"
            raise fault(path, "unreadable", reason)
        if packets is None:
            serial, packets = page[14:18], _ogg_packets(content, path)
        elif serial != page[14:18] or page[5] & _FIRST_PAGE or flags & _LAST_PAGE:
            reason = "several Ogg streams, of which only one would be read: split the file"
            raise fault(path, "unreadable", reason)
        if int.from_bytes(page[18:22], "little") != number:
            reason = f"a page is missing before byte {place}: restore the file"
            raise fault(path, "unreadable", reason)
        flags, number = page[5], number + 1
        *whole, begun = _ogg_divided(lengths, content, begun)
        timed = (end := int.from_bytes(page[6:14], "little")) != _NO_GRANULE
        wrong = bool(whole) and (missing > 0 or not timed)
        total += sum(map(packets.samples, whole))
        if timed:
            missing = total - end
            wrong |= not 0 <= missing < max(packets.longest, 1)
        if wrong:
            reason = f"the page at byte {place} has an impossible time: {_CONVERT}"
            raise fault(path, "wrong_length", reason)
        place += len(blank)
    if not flags & _LAST_PAGE:
        raise fault(path, "truncated", _CUT_OFF)
    return Layout()


def _ogg_divided(lengths: bytes, content: bytes, begun: bytes) -> list[bytes]:
    """The beginnings of the packets that end in a page, and of one that does not (or nothing)."""
    packets, place = [begun], 0
    for length in lengths:
        packets[-1] = packets[-1] or content[place : place + min(length, 2)]
        place += length
        if length < 255:
            packets.append(b"")
    return packets


def _ogg_packets(first: bytes, path: Path) -> _Vorbis | _Opus:
    """The lengths of packets, by the first packet of a stream."""
    if first.startswith(b"OpusHead") and len(first) >= 19:
        if int.from_bytes(first[10:12], "little") > _MOST_SKIPPED:
            reason = f"a player would skip more than 0.25 s at its beginning: {_CONVERT}"
            raise fault(path, "wrong_length", reason)
        return _Opus()
    if first.startswith(b"\x01vorbis") and len(first) >= 30:
        return _Vorbis(1 << (first[28] & 15), 1 << (first[28] >> 4))
    reason = "an Ogg file of other than Vorbis or Opus sound: convert it to WAV"
    raise fault(path, "unreadable", reason)


def _ogg_checksum(page: bytes) -> int:
    """A page's CRC: zlib's polynomial with the bits of bytes and result reversed, initially 0."""
    mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


# MP3 (ISO 11172-3, 13818-3)

_KBIT = {  # MPEG 1 or later, layer
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_DECODER = 529  # samples of libmpg123's own delay
_MOST_DELAY = 1160  # samples; LAME's, of the oldest versions
_HERTZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


@dataclasses.dataclass(frozen=True, slots=True)
class _Frame:
    """The header of an MP3 frame."""

    size: int
    samples: int
    kind: tuple[int, int, int, bool]
    """Version, layer, hertz, mono: the same in all frames of a recording."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Tag:
    """An encoder's tag in the first frame."""

    stated: int
    """The number of frames; 0: not stated."""
    silent: bool
    """Whether libmpg123 skips the tag's frame; a tag that it does not know is decoded as sound."""
    delay: int | None = None
    """Samples that the encoder added before the sound; None: not stated."""
    padding: int = 0
    """Samples that it added after the sound."""


def mp3(file: BinaryIO, size: int, path: Path) -> Layout:
    """The layout of an MP3 file, by its frames.

    Raises:
        FaultyFile: the stated length is wrong, the file is truncated, or it contains several
            recordings or other data.
    """
    place, end = tagged(file, size)
    first, count, tag, tags = None, 0, None, 0
    while place < end:
        file.seek(place)
        head = file.read(4)
        frame = _mp3_frame(head)
        if frame is None:
            if _only_zeros(file, place, end):
                if tag is None or not tag.stated:
                    reason = "it ends in zeros, and states no length: sound may be missing"
                    raise fault(path, "truncated", f"{reason}: {_CONVERT}")
                break
            after = _after_tag(file, place, end) if tags < _MOST_TAGS else 0
            if after:
                place, tags = after, tags + 1
                continue
            what = "an ID3 tag within the sound" if head.startswith(b"ID3") else _NO_FRAME
            raise fault(path, "unreadable", f"{what}, at byte {place}: {_CONVERT}")
        if place + frame.size > end:
            raise fault(path, "truncated", _CUT_OFF)
        found = _mp3_tag(head, file.read(frame.size - 4))
        if first is None:
            first, tag = frame, found
        elif frame.kind != first.kind or found:
            raise fault(path, "unreadable", _JOINED)
        count += 1
        place += frame.size
    if first is None:
        raise fault(path, "truncated", _CUT_OFF)
    if tag and tag.stated and tag.stated not in (count, count - 1):  # some count the tag's frame
        require_whole(path, tag.stated, count - 1, "frames")
    silent = tag is not None and tag.silent
    frames = (count - silent) * first.samples
    trimmed = 0
    if tag and tag.silent and tag.stated and tag.delay is not None:
        if tag.delay > _MOST_DELAY or tag.padding > 2 * first.samples:
            raise fault(
                path,
                "wrong_length",
                f"its tag states {tag.delay} samples before the sound and {tag.padding} after it, "
                f"more than an encoder adds, which would not be read: {_CONVERT}",
            )
        trimmed = tag.delay + max(tag.padding, _DECODER)
    return Layout(frames=frames, least=frames - trimmed, stated=bool(tag and tag.stated))


_NO_FRAME = "neither an MP3 frame with a bit rate nor a known tag"
_JOINED = "several recordings joined in one file, of which only one would be read: split it"


def _mp3_frame(head: bytes) -> _Frame | None:
    if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    code, hertz = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or code in (0, 15) or hertz == 3:
        return None
    rate = _HERTZ[version][hertz]
    bits = 1000 * _KBIT[version == 3, layer if version == 3 else min(layer, 2)][code]
    padding = head[2] >> 1 & 1
    if layer == 1:
        size, samples = (12 * bits // rate + padding) * 4, 384
    else:
        samples = 576 if layer == 3 and version != 3 else 1152
        size = samples // 8 * bits // rate + padding
    return _Frame(size, samples, (version, layer, rate, head[3] >> 6 == 3))


def _mp3_tag(head: bytes, rest: bytes) -> _Tag | None:
    """The encoder's tag in a frame (Xing, Info, VBRI); None if it has none."""
    mono = head[3] >> 6 == 3
    side = (17 if mono else 32) if head[1] >> 3 & 3 == 3 else (9 if mono else 17)
    for place in (side, side + 2):  # a checksum of two bytes may precede it
        tag = rest[place : place + 12]
        if tag[:4] in (b"Xing", b"Info") and len(tag) == 12:
            stated = int.from_bytes(tag[8:], "big") if tag[7] & 1 else 0
            parts = zip((1, 2, 4, 8), (4, 4, 100, 4), strict=True)
            lame = place + 8 + sum(size for flag, size in parts if tag[7] & flag)
            delay, padding = None, 0
            if len(rest) >= lame + 24 and rest[lame]:
                both = int.from_bytes(rest[lame + 21 : lame + 24], "big")
                delay, padding = both >> 12, both & 0xFFF
            return _Tag(stated, place == side and not any(rest[2:side]), delay, padding)
    if rest[32:36] == b"VBRI":
        return _Tag(int.from_bytes(rest[46:50], "big"), silent=False)
    return None


def _only_zeros(file: BinaryIO, place: int, end: int) -> bool:
    """Whether zeros follow to the end, at most a block of them."""
    file.seek(place)
    rest = file.read(_BLOCK)[: end - place]
    return len(rest) == end - place and not any(rest)


def _after_tag(file: BinaryIO, place: int, end: int) -> int:
    """The offset after an APE tag at `place`; 0: there is none."""
    file.seek(place)
    head = file.read(32)
    if not head.startswith(b"APETAGEX") or len(head) < 32 or place + 32 > end:
        return 0
    has_header = head[23] & 0x20  # else it is the footer
    return place + 32 + (int.from_bytes(head[12:16], "little") if has_header else 0)

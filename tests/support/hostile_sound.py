"""Sound files as broken recorders, cut copies and attackers leave them, made byte by byte."""

import io
import re
import struct
from collections.abc import Iterator

import numpy as np
import soundfile

FRAMES = 1000
SAMPLES = (np.random.default_rng(7).integers(-3000, 3000, FRAMES)).astype("<i2")
PCM = SAMPLES.tobytes()
GUID = bytes.fromhex("0000 0000 1000 8000 00aa 0038 9b71")


def riff(*chunks: tuple[bytes, bytes] | tuple[bytes, bytes, int], magic: bytes = b"RIFF") -> bytes:
    """A WAV file of chunks: name, content, and the stated length where it is another one."""
    body = b"WAVE"
    for name, content, *length in chunks:
        stated = length[0] if length else len(content)
        body += name + struct.pack("<I", stated) + content + b"\0" * (len(content) % 2)
    return magic + struct.pack("<I", len(body)) + body


def fmt(
    tag: int = 1,
    channels: int = 1,
    rate: int = 16000,
    bits: int = 16,
    frame: int | None = None,
    more: bytes = b"",
) -> tuple[bytes, bytes]:
    """A `fmt ` chunk."""
    frame = channels * -(-bits // 8) if frame is None else frame
    per_second = min(rate * frame, 2**32 - 1)
    return b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, per_second, frame, bits) + more


def extensible(bits: int = 16, valid: int = 16, tag: int = 1, guid: bytes = GUID):
    """A `fmt ` chunk of WAVE_FORMAT_EXTENSIBLE."""
    return fmt(0xFFFE, bits=bits, more=struct.pack("<HHIH", 22, valid, 0, tag) + guid)


def w64_of_ffmpeg(samples: bytes, channels: int, bits: int, tag: int) -> bytes:
    """A W64 file with an extensible header whose samples' stated size counts their padding."""
    rest = bytes.fromhex("f3ac d311 8cd1 00c0 4f8e db8a")  # of all chunks' names
    _, head = fmt(0xFFFE, channels, 16000, bits, more=struct.pack("<HHIH", 22, bits, 3, tag) + GUID)
    body = b"wave" + rest
    for name, content in ((b"fmt ", head), (b"data", samples + bytes(-len(samples) % 8))):
        body += name + rest + struct.pack("<q", len(content) + 24) + content
    riff_name = bytes.fromhex("7269 6666 2e91 cf11 a5d6 28db 04c1 0000")
    return riff_name + struct.pack("<q", len(body) + 24) + body


DATA = (b"data", PCM)

GOOD_WAVS = {
    "plain": riff(fmt(), DATA),
    "extensible": riff(extensible(), DATA),
    "12 bits of 16": riff(fmt(bits=12), DATA),
    "12 valid bits of 16": riff(extensible(valid=12), DATA),
    "a wrong byte rate": riff((b"fmt ", struct.pack("<HHIIHH", 1, 1, 16000, 7, 2, 16)), DATA),
    "odd LIST before": riff(fmt(), (b"LIST", b"INFOISFT\5\0\0\0abcde"), DATA),
    "odd LIST behind": riff(fmt(), DATA, (b"LIST", b"INFOISFT\5\0\0\0abcde")),
    "many behind": riff(
        fmt(),
        DATA,
        (b"id3 ", b"x" * 31),
        (b"bext", bytes(602)),
        (b"cue ", bytes(4)),
        (b"iXML", b""),
    ),
    "a last chunk without its pad": riff(fmt(), DATA, (b"LIST", b"INFOx"))[:-1],
    "zeros behind": riff(fmt(), DATA) + bytes(300),
    "an ID3v1 tag": riff(fmt(), DATA) + b"TAG" + bytes(125),
}
"""All hold SAMPLES."""

BAD_WAVS = {
    "a quarter stated": (riff(fmt(), (b"data", PCM, 500)), "wrong_length"),
    "a quarter stated, LIST": (
        riff(fmt(), (b"data", PCM, 500), (b"LIST", b"INFO")),
        "wrong_length",
    ),
    "half a sample stated": (riff(fmt(), (b"data", PCM, 1999)), "wrong_length"),
    "two data chunks": (
        riff(fmt(), (b"data", PCM[:1000]), (b"LIST", b"INFO"), (b"data", PCM[1000:])),
        "wrong_length",
    ),
    "two files joined": (2 * riff(fmt(), DATA), "wrong_length"),
    "cut": (riff(fmt(), DATA)[:-2], "truncated"),
    "double the length stated": (riff(fmt(), (b"data", PCM, 4000)), "truncated"),
    "no lengths, joined": (2 * riff(fmt(), (b"data", PCM, 0xFFFFFFFF)), "wrong_length"),
    "no length, half a sample": (riff(fmt(), (b"data", PCM, 0xFFFFFFFF))[:-1], "truncated"),
    "24 bits in 4 bytes": (riff(fmt(bits=24, frame=4), DATA), "unreadable"),
    "20 bits in 4 bytes": (riff(fmt(bits=20, frame=4), DATA), "unreadable"),
    "16 bits in 4 bytes": (riff(fmt(frame=4), DATA), "unreadable"),
    "8 bits in 2 bytes": (riff(fmt(bits=8, frame=2), DATA), "unreadable"),
    "32 bits in 3 bytes": (riff(fmt(bits=32, frame=3), DATA), "unreadable"),
    "block align of one channel": (riff(fmt(channels=2, frame=2), DATA), "unreadable"),
    "4 bits": (riff(fmt(bits=4), DATA), "unreadable"),
    "0 bits": (riff(fmt(bits=0, frame=2), DATA), "unreadable"),
    "float of 16 bits": (riff(fmt(tag=3), DATA), "unreadable"),
    "more bits valid than stored": (riff(extensible(valid=17), DATA), "unreadable"),
    "another GUID": (riff(extensible(guid=GUID[::-1]), DATA), "unreadable"),
    "an extensible header cut short": (riff(fmt(0xFFFE), DATA), "unreadable"),
    "fmt twice": (riff(fmt(), fmt(channels=2), DATA), "unreadable"),
    "fmt behind": (riff(DATA, fmt()), "unreadable"),
    "chunks without an end": (
        riff((b"JUNK", b""), fmt(), DATA).replace(b"JUNK\0\0\0\0", b"JUNK\0\0\0\0" * 20_000),
        "unreadable",
    ),
    "no channel": (riff(fmt(channels=0), DATA), "unreadable"),
    "a LIST that libsndfile loses its way in": (
        riff(fmt(), (b"LIST", b"INFOISFT\xff\xff\xff\xffabcde"), DATA),
        "unreadable",
    ),
    "a chunk that libsndfile reads beyond": (riff(fmt(), (b"acid", b""), DATA), "unreadable"),
    "1 Hz": (riff(fmt(rate=1), DATA), "wrong_rate"),
    "999 Hz": (riff(fmt(rate=999), DATA), "wrong_rate"),
    "768001 Hz": (riff(fmt(rate=768001), DATA), "wrong_rate"),
    "4294967295 Hz": (riff(fmt(rate=2**32 - 1), DATA), "wrong_rate"),
}
"""A file, and the kind of its problem."""

OPEN_LENGTHS = (0xFFFFFFFF, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0, 0xFFFFFFFF - 36, 0x7FFFFFFF - 44)


def open_length(length: int) -> bytes:
    """What a recorder leaves that writes to a pipe and so never knows its length."""
    return riff(fmt(), (b"data", PCM, length))


def encoded(container: str, subtype: str = "PCM_16", rate: int = 16000, **options) -> bytes:
    """Two channels of noise of 20,000 samples in another format."""
    rng = np.random.default_rng(8)
    samples = rng.uniform(-0.5, 0.5, (20_000, 2)) * np.linspace(0.001, 1, 20_000)[:, None]
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=container, subtype=subtype, **options)
    return buffer.getvalue()


def patched(content: bytes, behind: bytes, offset: int, value: bytes) -> bytes:
    """The file with other bytes so far behind the place of a name."""
    place = content.index(behind) + offset
    return content[:place] + value + content[place + len(value) :]


def flac(total: int | None = None) -> bytes:
    """A FLAC file, with the stated number of samples replaced; 0: not known."""
    content = encoded("FLAC")
    if total is None:
        return content
    value = int.from_bytes(content[18:26], "big") >> 36 << 36 | total
    return content[:18] + value.to_bytes(8, "big") + content[26:]


EMPTY_APE = b"APETAGEX" + struct.pack("<IIII8x", 2000, 32, 0, 0x80000000)


def damaged_flacs() -> Iterator[tuple[str, bytes]]:
    """FLAC files whose frames contradict each other or the file's header, whole by themselves."""
    content = flac()
    start = content.index(b"\xff\xf8")
    full = [match.start() for match in re.finditer(re.escape(content[start : start + 4]), content)]
    assert len(full) == 4  # and a shorter one at the end
    yield "a frame twice", content[: full[2]] + content[full[1] :]
    yield "a later frame twice", content[: full[3]] + content[full[2] :]
    yield "the first frame twice", content[: full[1]] + content[full[0] :]
    yield "frames exchanged", (
        content[: full[1]] + content[full[2] : full[3]] + content[full[1] : full[2]]
        + content[full[3] :]
    )  # fmt: skip
    yield "without the first frame", content[: full[0]] + content[full[1] :]
    form = int.from_bytes(content[18:26], "big")  # 20 bits of hertz, 3 of channels, 5 of bits
    for name, change in (
        ("hertz", (16000 ^ 22050) << 44), ("channels", 1 << 41), ("bits", (16 - 1 ^ 24 - 1) << 36)
    ):  # fmt: skip
        yield f"other {name}", content[:18] + (form ^ change).to_bytes(8, "big") + content[26:]
    yield "a longer block", content[:8] + b"\x20\0\x20\0" + content[12:]
    yield "a shorter block", content[:8] + b"\x08\0\x08\0" + content[12:]


def mp3(mode: str = "VARIABLE") -> tuple[bytes, bytes]:
    """An MP3 file's first frame, which states the length, and the rest."""
    content = encoded("MP3", "MPEG_LAYER_III", bitrate_mode=mode, compression_level=0.5)
    size = next(i for i in range(40, len(content)) if content[i : i + 2] == content[:2])
    return content[:size], content[size:]


def pages(content: bytes) -> list[bytes]:
    """The pages of an Ogg file."""
    first, *others = content.split(b"OggS")
    assert not first
    return [b"OggS" + page for page in others]


def timed(page: bytes, time: int) -> bytes:
    """A page of an Ogg file with another time (granule position), and the checksum of that."""
    blank = page[:6] + struct.pack("<q", time) + page[14:22] + bytes(4) + page[26:]
    crc = 0
    for byte in blank:
        crc ^= byte << 24
        for _ in range(8):
            crc = crc << 1 ^ (0x104C11DB7 if crc >> 31 else 0)
    return blank[:22] + struct.pack("<I", crc) + blank[26:]


def mistimed(found: list[bytes]) -> Iterator[tuple[int, int | None, list[bytes]]]:
    """Of each page with sound another time (None: no time), of which a decoder would lose some."""
    times = [struct.unpack("<q", page[6:14])[0] for page in found]
    for i, time in enumerate(times):
        last = i == len(times) - 1
        for off in (1024, -1024, None) if last else (1, -1, None):
            new = -1 if off is None else time + off
            if time > 0:
                yield i, off, [*found[:i], timed(found[i], new), *found[i + 1 :]]


def skipping(found: list[bytes], samples: int) -> bytes:
    """An Opus file whose first samples are not to be heard."""
    head = bytearray(found[0])
    head[38:40] = struct.pack("<H", samples)
    return b"".join([timed(bytes(head), 0), *found[1:]])


APE = (
    b"APETAGEX" + struct.pack("<IIII8x", 2000, 72, 1, 0xA0000000) + bytes(40)
    + b"APETAGEX" + struct.pack("<IIII8x", 2000, 72, 1, 0x80000000)
)  # fmt: skip


def other_formats() -> Iterator[tuple[str, bytes, str]]:
    """Name, content and the kind of the problem of files that are not WAV."""
    first, rest = mp3()
    ogg, opus = encoded("OGG", "VORBIS"), encoded("OGG", "OPUS")
    damaged = bytearray(ogg)
    damaged[len(ogg) // 2] ^= 1
    au, aiff, caf, w64, rf64 = map(encoded, ("AU", "AIFF", "CAF", "W64", "RF64"))
    quarter = 20_000
    small_aiff = patched(aiff, b"SSND", 4, struct.pack(">I", quarter + 8))
    open_au = patched(au, b".snd", 8, b"\xff" * 4)
    to_pipe = patched(w64, b"data", 16, struct.pack("<q", -1))
    head = w64[: len(w64) - 80_000]
    yield from (
        ("W64 of libsndfile from a pipe", to_pipe + head, "wrong_length"),
        *(
            (f"AU without a length, joined with {name}", open_au + other, "wrong_length")
            for name, other in (
                ("itself", open_au), ("another AU", encoded("AU", "ULAW", 8000)),
                ("AU of the other byte order", encoded("AU", "FLOAT", endian="LITTLE")),
                ("WAV", encoded("WAV")), ("RIFX", encoded("WAV", endian="BIG")), ("W64", w64),
                ("AIFF", aiff), ("CAF", caf), ("FLAC", flac()), ("Ogg", ogg), ("Opus", opus),
            )
        ),
        ("AIFF of sox from a pipe",
         patched(aiff, b"SSND", 4, struct.pack(">I", 0x7F000007)), "unreadable"),
        ("variable MP3 without its length", rest, "wrong_length"),
        ("MP3 that states too few frames", patched(first, b"Xing", 8, b"\0\0\0\5") + rest,
         "wrong_length"),
        *(
            (f"MP3 that leaves out {words}", patched(first, b"LAME", 21, skipped) + rest,
             "wrong_length")
            for words, skipped in (
                ("its beginning", b"\xff\xf2\xe0"), ("its end", b"\x24\x0f\xff"),
                ("both", b"\xff\xff\xff"),
            )
        ),
        ("MP3 whose end is zeros", rest[:3000] + bytes(len(rest) - 3000), "truncated"),
        ("MP3 before many zeros", rest + bytes(2**21), "unreadable"),
        ("joined MP3", 2 * (first + rest), "unreadable"),
        ("MP3 joined with another rate", rest + encoded("MP3", "MPEG_LAYER_III", 44100),
         "unreadable"),
        ("MP3 joined behind an APE tag", first + rest + APE + first + rest, "unreadable"),
        ("cut MP3", (first + rest)[:-30], "truncated"),
        ("MP3 with a hole", first + rest[:3000] + bytes(500) + rest[3500:], "unreadable"),
        ("chained Ogg", ogg + ogg, "unreadable"),
        ("chained Opus", opus + opus, "unreadable"),
        ("Ogg of two kinds", ogg + opus, "unreadable"),
        ("Ogg with a damaged page", bytes(damaged), "unreadable"),
        *(
            (f"{subtype}, page {i} off by {off}", b"".join(changed), "wrong_length")
            for subtype, content in (("Vorbis", ogg), ("Opus", opus))
            for i, off, changed in mistimed(pages(content))
        ),
        ("Opus that skips its beginning", skipping(pages(opus), 60_000), "wrong_length"),
        ("Ogg without a page", b"".join(pages(ogg)[:-2] + pages(ogg)[-1:]), "unreadable"),
        ("Ogg without its last page", b"".join(pages(ogg)[:-1]), "truncated"),
        ("FLAC that states too little", flac(1000), "wrong_length"),
        ("FLAC that states too much", flac(20_001), "truncated"),
        ("FLAC that states 20 GB", flac(5 * 2**30), "truncated"),
        ("joined FLAC", flac(0) + flac(0), "truncated"),
        *((f"FLAC with {name}", content, "unreadable") for name, content in damaged_flacs()),
        ("cut FLAC", flac()[:-100], "truncated"),
        ("cut FLAC without a length", flac(0)[:-100], "truncated"),
        ("AU without a length that ends within a frame",
         open_au[:-1], "truncated"),
        ("AU that ends within a frame",
         patched(au, b".snd", 8, struct.pack(">I", len(au) - 24 - 1))[:-1], "truncated"),
        ("AU that states too little", patched(au, b".snd", 8, struct.pack(">I", quarter)),
         "wrong_length"),
        ("AIFF that states too few samples", patched(aiff, b"COMM", 10, struct.pack(">I", 5000)),
         "wrong_length"),
        ("AIFF that states too few bytes", small_aiff, "wrong_length"),
        ("AIFF that states too little twice",
         patched(small_aiff, b"COMM", 10, struct.pack(">I", 5000)), "wrong_length"),
        ("CAF that states too little", patched(caf, b"data", 4, struct.pack(">q", quarter + 4)),
         "wrong_length"),
        ("W64 that states too little", patched(w64, b"data", 16, struct.pack("<q", quarter + 24)),
         "wrong_length"),
        ("RF64 that states too little", patched(rf64, b"ds64", 16, struct.pack("<q", quarter)),
         "wrong_length"),
        ("CAF without a length", patched(caf, b"data", 4, b"\xff" * 8), "unreadable"),
        ("MP3 with 640 kB of tags", first + rest + EMPTY_APE * 20_000 + b"x", "unreadable"),
        ("MP3 behind 1 MB of tags", b"ID3\3\0\0\0\0\0\0" * 100_000 + first + rest, "unreadable"),
        ("FLAC with 5 MB of zeros", flac() + bytes(5 * 2**20), "truncated"),
        ("ADPCM", encoded("WAV", "IMA_ADPCM"), "unreadable"),
        ("another format", encoded("VOC"), "unreadable"),
    )  # fmt: skip

"""Sound files are read completely or refused, by the data set's checks, embed and training."""

import os
import socket
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from support import hostile_sound as hostile

from asdjax.config.recipe import AudioConfig
from asdjax.data import audio, batches, resampling, sound_files, sound_streams
from asdjax.data.dcase import FaultyFile, scan
from asdjax.errors import AsdjaxError

NAME = "section_00_source_train_normal_{:04d}_noAttribute.wav"


def kind_of(read, *args, **keys) -> str | None:
    """The kind of the problem for which a file is refused; None if it is read."""
    try:
        read(*args, **keys)
    except FaultyFile as fault:
        assert "\n" not in str(fault)
        return fault.problem.kind
    return None


def verdicts(tmp_path, files: dict[str, bytes]) -> tuple[dict[str, str], dict[str, str | None]]:
    """The kind of problem that a data set's check and that embed find in each WAV file."""
    folder = tmp_path / "fan" / "train"
    folder.mkdir(parents=True)
    paths = {}
    for i, (name, content) in enumerate(files.items()):
        paths[name] = folder / NAME.format(i)
        paths[name].write_bytes(content)
    dataset, _ = audio.check(scan(tmp_path, "dcase2023"), AudioConfig())
    found = {problem.path.rpartition("/")[2]: problem.kind for problem in dataset.problems}
    return (
        {name: found.pop(path.name, None) for name, path in paths.items()},
        {name: kind_of(audio.read_any, path, 16000) for name, path in paths.items()},
    )


def test_valid_wav_files_are_read_completely(tmp_path):
    in_data, in_embed = verdicts(tmp_path, hostile.GOOD_WAVS)
    assert set(in_data.values()) == set(in_embed.values()) == {None}
    paths = sorted(tmp_path.rglob("*.wav"))
    for path in paths:
        found = audio.read_any(path, 16000)
        assert found.dtype == np.int16 and np.array_equal(found[:, 0], hostile.SAMPLES)
        assert audio.inspect(path) == audio.inspect_any(path)
    # training reads every file that passes the check
    frames = [audio.inspect(path).frames for path in paths]
    ((batch, count),) = batches.inference_batches(
        paths, frames, AudioConfig(), batch_size=len(paths), room=1000, two_channels=False,
        pcm16=True,
    )  # fmt: skip
    assert count == len(paths) and (batch["waveform"][:, 0] == hostile.SAMPLES).all()


def test_check_and_embed_refuse_wav_files_with_the_same_kind(tmp_path):
    files = {name: content for name, (content, _) in hostile.BAD_WAVS.items()}
    kinds = {name: kind for name, (_, kind) in hostile.BAD_WAVS.items()}
    in_data, in_embed = verdicts(tmp_path, files)
    assert in_data == kinds and in_embed == kinds
    for path in tmp_path.rglob("*.wav"):
        assert kind_of(audio.inspect_any, path) == kind_of(audio.inspect, path) is not None


@pytest.mark.parametrize("length", hostile.OPEN_LENGTHS)
def test_wav_files_without_a_stated_length(tmp_path, length):
    in_data, in_embed = verdicts(tmp_path, {"a": hostile.open_length(length)})
    assert in_data == {"a": "unstated_length"} and in_embed == {"a": None}
    (path,) = tmp_path.rglob("*.wav")
    assert audio.inspect_any(path) == audio.Header(1000, 16000, 1, "PCM_16", stated=False)
    assert np.array_equal(audio.read_any(path, 16000)[:, 0], hostile.SAMPLES)
    assert np.array_equal(audio.read(path, channel="near"), hostile.SAMPLES)


def test_a_file_without_samples_is_empty(tmp_path):
    files = {
        "nothing": hostile.riff(hostile.fmt(), (b"data", b"")),
        "a comment": hostile.riff(hostile.fmt(), (b"data", b""), (b"LIST", b"INFO")),
    }
    in_data, in_embed = verdicts(tmp_path, files)
    assert set(in_data.values()) == set(in_embed.values()) == {"empty"}


def test_other_formats_that_are_refused(tmp_path):
    path = tmp_path / "a.dat"
    for name, content, kind in hostile.other_formats():
        path.write_bytes(content)
        assert kind_of(audio.read_any, path, 16000) == kind, name
        assert kind_of(audio.inspect_any, path) == kind, name
        assert kind_of(audio.read_any, path, 16000, most=100) == kind, name


def test_formats_that_may_lack_a_length(tmp_path):
    path = tmp_path / "a.dat"
    whole, _ = soundfile.read(hostile.io.BytesIO(hostile.flac()), dtype="int16")
    for content in (
        hostile.flac(0),
        hostile.flac(0) + b"TAG" + bytes(125),
        b"ID3\3\0\0\0\0\0\x0a" + bytes(10) + hostile.flac(0),
    ):
        path.write_bytes(content)
        assert audio.inspect_any(path).frames == 20_000
        assert np.array_equal(audio.read_any(path, 16000), whole)
        assert np.array_equal(audio.read_any(path, 16000, most=70), whole[:70])
    au = hostile.encoded("AU")
    path.write_bytes(hostile.patched(au, b".snd", 8, b"\xff\xff\xff\xff"))
    assert len(audio.read_any(path, 16000)) == 20_000 and not audio.inspect_any(path).stated
    first, rest = hostile.mp3("CONSTANT")
    for content, least in (
        (first + rest, 20_000),
        (first + rest + bytes(4096), 20_000),
        (first + rest + hostile.APE + b"TAG" + bytes(125), 20_000),
        (rest, 20_000),
        (2 * rest, 40_000),
    ):
        path.write_bytes(content)
        assert len(audio.read_any(path, 16000)) >= least


LYRICS = b"LYRICSBEGININD0000200000029LYRICS200"


@pytest.mark.parametrize("container", ["MP3", "FLAC", "OGG", "WAV", "AIFF", "CAF", "W64"])
@pytest.mark.parametrize(
    ("tag", "in_front"),
    [
        (LYRICS, False),
        (LYRICS + b"TAG" + bytes(125), False),
        (b"ID3\4\0\0\0\0\0\x10" + bytes(16) + b"TAG" + bytes(125), False),
        (hostile.APE, False),
        (LYRICS, True),
        (b"ID3\4\0\0\0\0\0\x10" + bytes(16) + hostile.APE, True),
    ],
)
def test_unknown_tags_are_not_called_truncation(tmp_path, container, tag, in_front):
    """The message does not claim a truncated or joined file, and names a remedy."""
    subtype = {"MP3": "MPEG_LAYER_III", "OGG": "VORBIS"}.get(container, "PCM_16")
    content, path = hostile.encoded(container, subtype), tmp_path / "a.dat"
    path.write_bytes(tag + content if in_front else content + tag)
    try:
        frames = audio.inspect_any(path).frames
    except FaultyFile as fault:
        reason = fault.problem.reason
        assert "WAV" in reason and "ends before" not in reason and "joined" not in reason
    else:  # an APE tag
        assert container == "MP3" and frames >= 20_000 and hostile.APE in tag


def test_the_time_for_hostile_files_is_bounded(tmp_path):
    path, content = tmp_path / "a.dat", hostile.flac(0)
    first, rest = hostile.mp3()
    start = content.index(b"\xff\xf8")
    blocks = content[: 4 + 38] + b"\1\0\0\0" * 2**20 + content[4 + 38 :]
    syncs = content[:start] + b"\xff\xf8" * 2**25
    for hostile_content, seconds in (
        (blocks, 1), (content + b"\xff\xf8" * 2**25, 20), (syncs, 20),
        (first + rest + hostile.EMPTY_APE * 2**20, 1),
    ):  # fmt: skip
        path.write_bytes(hostile_content)
        began = time.process_time()
        with pytest.raises(FaultyFile):
            audio.inspect_any(path)
        assert time.process_time() - began < seconds


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_tag_that_the_decoder_plays_as_sound(tmp_path, mode):
    """After damage before the tag, or with an unknown tag, the decoder plays one frame more."""
    first, rest = hostile.mp3(mode)
    tag, path = first.index(b"Xing" if mode == "VARIABLE" else b"Info"), tmp_path / "a.mp3"
    vbri = first[:4] + bytes(32) + b"VBRI" + bytes(len(first) - 40)
    shifted = first[: tag - 2] + b"\0\0\0\0" + first[tag : len(first) - 2]
    dirty = [first[:i] + b"\1" + first[i + 1 :] for i in range(6, tag)]
    read = 0
    for start in (first, vbri, shifted, *dirty):
        path.write_bytes(start + rest)
        with soundfile.SoundFile(path) as file:
            played = len(file.read(10**6))
        try:
            complete = len(audio.read_any(path, 16000)) == played
        except FaultyFile:  # the decoder's estimate of the length is too short
            assert start != first
            continue
        assert complete
        read += 1
    assert read > (1 if mode == "CONSTANT" else 0)


def test_a_frame_that_is_missing_from_a_flac_file_without_a_length(tmp_path):
    content, path = hostile.flac(0), tmp_path / "a.flac"
    path.write_bytes(content)
    with open(path, "rb") as file:
        start = content.index(b"\xff\xf8")
        heads = list(sound_streams._flac_heads(file, start, len(content)))
    frames = [place for place, head in heads if head and head.form == (16000, 2, 16)]
    assert len(frames) == 5
    path.write_bytes(content[: frames[1]] + content[frames[2] :])
    assert kind_of(audio.inspect_any, path) == "unreadable"


def test_bytes_between_flac_frames(tmp_path):
    content, path = hostile.flac(), tmp_path / "a.flac"
    start = content.index(b"\xff\xf8")
    place = content.index(content[start : start + 4], start + 1)
    for between in (b"x", bytes(100), b"\xff" * 5, content[start : place - 2], content[:start]):
        path.write_bytes(content[:place] + between + content[place:])
        assert kind_of(audio.read_any, path, 16000) == "unreadable"


@pytest.mark.parametrize(
    ("dtype", "tag", "subtype"), [("<i4", 1, "PCM_24"), ("<f4", 3, "FLOAT"), ("<f8", 3, "DOUBLE")]
)
def test_w64_files_of_ffmpeg(tmp_path, rng, dtype, tag, subtype):
    """Floats, which libsndfile reads as integers, and samples that end within 8 bytes."""
    values = rng.integers(-(2**23), 2**23, (1001, 3)) / 2**23
    stored = (values * 2**23 if tag == 1 else values).astype(dtype)
    content, bits = stored.tobytes(), stored.itemsize * 8
    if subtype == "PCM_24":
        content, bits = stored.view(np.uint8).reshape(-1, 4)[:, :3].tobytes(), 24
    path = tmp_path / "a.w64"
    path.write_bytes(hostile.w64_of_ffmpeg(content, 3, bits, tag))
    assert audio.inspect_any(path) == audio.inspect(path)
    assert audio.inspect(path) == audio.Header(1001, 16000, 3, subtype)
    assert np.array_equal(audio.read_any(path, 16000), values)
    if subtype == "PCM_24":  # a last byte that is not padding
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        assert kind_of(audio.inspect_any, path) == "wrong_length"


@pytest.mark.parametrize("container", ["RIFF", "RF64"])
def test_a_padding_byte_that_the_stated_length_counts(tmp_path, container):
    """As ffmpeg writes RF64."""
    sound, path = bytes(range(1, 152)) * 3, tmp_path / "a.wav"  # 151 samples of 24 bits
    for last, expected in ((b"\0", None), (b"x", "wrong_length")):
        content = hostile.riff(hostile.fmt(bits=24), (b"data", sound + last))
        if container == "RF64":
            sizes = struct.pack("<QQQI", len(content) + 28, len(sound) + 1, 0, 0)
            content = b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<I", 28) + sizes + content[12:]
        path.write_bytes(content)
        assert kind_of(audio.inspect_any, path) == kind_of(audio.read_any, path, 16000) == expected
        if expected is None:
            assert len(audio.read_any(path, 16000)) == 151


def test_flac_frames_of_any_rate_and_block_size_are_read(tmp_path):
    """Encoders write rates and block sizes in several ways, also in a file of few samples."""
    path = tmp_path / "a.flac"
    for rate in (8000, 11025, 12345, 44100, 96000, 192000, 250000):
        for frames, channels, subtype in (
            (3, 1, "PCM_S8"),
            (9000, 2, "PCM_16"),
            (700, 3, "PCM_24"),
        ):
            samples = np.linspace(-0.5, 0.5, frames * channels).reshape(frames, channels)
            soundfile.write(path, samples, rate, subtype=subtype)
            assert audio.inspect_any(path) == audio.Header(frames, rate, channels, subtype)
            expected, _ = soundfile.read(path, always_2d=True)
            found = audio.read_any(path, rate)
            scale = 32768 if found.dtype == np.int16 else 1
            assert np.array_equal(found / scale, expected)


@given(st.integers(0, 2**36 - 1))
def test_frame_numbers_are_encoded_as_in_utf_8(number):
    coded = sound_streams._coded(number)
    if number < 0xD800:
        assert coded == chr(number).encode()
    bits = "".join(f"{byte:08b}"[2:] for byte in coded[1:])
    lead = f"{coded[0]:08b}"[len(coded) + 1 :] if len(coded) > 1 else f"{coded[0]:08b}"
    assert int(lead + bits, 2) == number


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64", "W64"])
def test_samples_are_those_that_libsndfile_reads(tmp_path, container, subtype):
    path = tmp_path / "a.wav"
    try:
        path.write_bytes(hostile.encoded(container, subtype))
    except ValueError:
        pytest.skip("no such format")
    whole, _ = soundfile.read(path, dtype="int16" if subtype == "PCM_16" else "float32")
    for found, expected in (
        (audio.read(path, channel=None), whole),
        (audio.read_any(path, 16000), whole),
        (audio.read_any(path, 16000, most=1234), whole[:1234]),
    ):
        assert found.dtype == expected.dtype and np.array_equal(found, expected)


# how much is read


@pytest.mark.parametrize("rate", [16000, 44100, 48000, 8000, 11025, 192000])
@pytest.mark.parametrize("container", ["WAV", "FLAC"])
def test_a_part_is_the_beginning_of_the_file(tmp_path, rng, rate, container):
    path = tmp_path / "a.dat"
    wave = rng.integers(-30000, 30000, (2 * rate, 2), dtype=np.int16)
    soundfile.write(path, wave, rate, "PCM_16", format=container)
    whole = audio.read_any(path, 16000)
    for most in (1, 777, 16000, 31999, 32000, 99999):
        assert np.array_equal(audio.read_any(path, 16000, most=most), whole[:most]), most
    assert resampling.samples_needed(16000, rate, 16000) < 1.1 * rate


MEASURE = """
import resource, sys
from pathlib import Path
from asdjax.data import audio
import scipy.signal
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(len(audio.read_any(Path(sys.argv[1]), 16000, most=int(sys.argv[2]) or None)))
except audio.FaultyFile as fault:
    print(fault.problem.kind)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def measured(path, most: int) -> tuple[str, int]:
    """Number of samples or kind of problem, and the MiB used by reading."""
    command = [sys.executable, "-c", MEASURE, str(path), str(most)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result, mib = done.stdout.split()
    return result, int(mib)


def test_the_memory_that_hostile_and_long_files_take(tmp_path):
    hour = tmp_path / "hour.wav"  # 48 kHz, two channels, float: 1.4 GB, sparse
    frames = 3600 * 48000
    head = hostile.riff(hostile.fmt(3, channels=2, rate=48000, bits=32), (b"data", b"", frames * 8))
    with open(hour, "wb") as file:
        file.write(head)
        file.truncate(len(head) + frames * 8)
    assert audio.inspect_any(hour).frames == frames
    result, mib = measured(hour, 12 * 16000)
    assert result == "192000" and mib < 100
    hole = tmp_path / "hole.flac"
    empty = bytearray(hostile.flac(0)[: 4 + 38])
    empty[4] |= 128  # the last block before the frames
    hole.write_bytes(empty)
    os.truncate(hole, 400 * 2**20)
    assert measured(hole, 0) < ("empty", 50)
    path = tmp_path / "a.dat"
    for content, kind in (
        (hostile.flac(5 * 2**30), "truncated"),
        (hostile.riff(hostile.fmt(rate=1), hostile.DATA), "wrong_rate"),
        (hostile.riff(hostile.fmt(), (b"data", hostile.PCM, 2**31 - 2**20)), "truncated"),
    ):
        path.write_bytes(content)
        result, mib = measured(path, 0)
        assert result == kind and mib < 50
    many = tmp_path / "many.wav"
    with open(many, "wb") as file:
        size = sound_files.MOST_SAMPLES * 2 + 2
        file.write(hostile.riff(hostile.fmt(), (b"data", b"", size)))
        file.truncate(44 + size)
    result, mib = measured(many, 0)
    assert result == "unreadable" and mib < 50
    assert measured(many, 100)[0] == "100"


# not regular files


def test_only_regular_files_are_opened(tmp_path, monkeypatch):
    folder = tmp_path / "fan" / "train"
    folder.mkdir(parents=True)
    fifo, device, sock = folder / NAME.format(0), folder / "device.wav", folder / "socket.wav"
    os.mkfifo(fifo)
    device.symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(folder)  # the name of a socket must be short
        server.bind(sock.name)
        for path, what in ((fifo, "a FIFO"), (device, "a device"), (sock, "a socket")):
            for read in (
                audio.inspect,
                audio.inspect_any,
                lambda path: audio.read(path, channel=None),
                lambda path: audio.read_any(path, 16000),
            ):
                with pytest.raises(FaultyFile, match=f"is {what}") as caught:
                    read(path)
                assert str(caught.value).count(str(path)) == 1
            with pytest.raises(AsdjaxError, match=f"is {what}"):
                audio.fingerprint(path)


def test_missing_files_are_named(tmp_path):
    absent = tmp_path / "absent.wav"
    for read in (
        audio.inspect_any,
        audio.fingerprint,
        lambda path: audio.read(path, channel="near"),
        lambda path: audio.read_any(path, 16000),
    ):
        with pytest.raises(AsdjaxError, match="absent.wav: .*No such file"):
            read(absent)


# levels


@pytest.mark.parametrize(
    ("peak", "kind"), [(1.0, None), (15.9, None), (16.1, "out_of_range"), (3e38, "out_of_range")]
)
def test_floats_far_beyond_1_are_refused_in_a_data_set(tmp_path, peak, kind):
    wave = np.linspace(-1, 1, 1000, dtype="<f4") * np.float32(peak)
    content = hostile.riff(hostile.fmt(3, bits=32), (b"data", wave.tobytes()))
    in_data, in_embed = verdicts(tmp_path, {"a": content})
    assert in_data == {"a": kind} and in_embed == {"a": None}


def test_doubles_beyond_floats_are_infinite(tmp_path):
    content = hostile.riff(hostile.fmt(3, bits=64), (b"data", struct.pack("<2d", 0.5, 1e300)))
    in_data, in_embed = verdicts(tmp_path, {"a": content})
    assert in_data == in_embed == {"a": "not_finite"}


# mutations


SEEDS = [
    *(hostile.encoded(name) for name in ("WAV", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC")),
    hostile.encoded("OGG", "VORBIS"),
    hostile.encoded("OGG", "OPUS"),
    b"".join(hostile.mp3()),
    b"".join(hostile.mp3("CONSTANT")),
]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_mutated_headers_are_refused_or_read_completely(tmp_path_factory, data):
    content = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, 119))
        content[place] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, content[place] ^ 1]))
    path = tmp_path_factory.mktemp("mutated") / "a.dat"
    path.write_bytes(content)
    try:
        header = audio.inspect_any(path)
        samples = audio.read_any(path, header.rate)
    except FaultyFile:
        return
    assert samples.shape == (header.frames, header.channels)
    if not content.startswith(b".snd"):  # AU: another number of channels is consistent, too
        assert samples.size > 40_000 - 2 * 4 * 576  # at most the padding of MP3 is missing


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_files_of_more_than_two_channels_are_refused(subtype, tmp_path):
    """Some programs store them in the order of the Vorbis specification, libsndfile as given."""
    for channels in 1, 2, 3, 6:
        path = tmp_path / f"{channels}.ogg"
        soundfile.write(path, np.zeros((48000, channels)), 48000, subtype, format="OGG")
        if channels <= 2:
            assert audio.inspect_any(path).channels == channels
            continue
        for read in audio.inspect_any, lambda path: audio.read_any(path, 16000):
            with pytest.raises(FaultyFile, match=f"{channels} channels.*convert it to WAV"):
                read(path)

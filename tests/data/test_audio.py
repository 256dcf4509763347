import re
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asdjax.config.recipe import AudioConfig
from asdjax.data.audio import (
    Header,
    check,
    clip_samples,
    crop_start,
    fit_length,
    inspect,
    read,
)
from asdjax.data.dcase import Dataset, FaultyFile, scan
from asdjax.errors import AsdjaxError

NAME = "section_00_source_train_normal_{:04d}_noAttribute.wav"


def write(path: Path, samples: np.ndarray, rate: int = 16000, **keys) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    keys.setdefault("subtype", "PCM_16")
    keys.setdefault("format", "WAV")
    soundfile.write(path, samples, rate, **keys)
    return path


def noise(rng, *shape: int) -> np.ndarray:
    return rng.integers(-32768, 32768, shape, dtype=np.int16)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A RIFF file of the given chunks."""
    body = b"WAVE"
    for name, content in chunks:
        body += name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def fmt(tag: int = 1, channels: int = 2, rate: int = 16000, width: int = 2) -> tuple[bytes, bytes]:
    frame = channels * width
    return b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, rate * frame, frame, 8 * width)


# headers


@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64"])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_headers_as_libsndfile_reads_them(tmp_path, rng, container, subtype, channels):
    samples = rng.uniform(-1, 1, (101, channels))
    path = write(tmp_path / "a.wav", samples, 44100, format=container, subtype=subtype)
    info = soundfile.info(path)
    assert inspect(path) == Header(info.frames, info.samplerate, info.channels, info.subtype)
    assert inspect(path).seconds == 101 / 44100


def test_other_chunks_are_passed_over(tmp_path):
    path = tmp_path / "a.wav"
    chunks = [
        (b"JUNK", b"odd"),
        fmt(),
        (b"LIST", b"x" * 6000),
        (b"data", bytes(40)),
        (b"id3 ", b""),
    ]
    path.write_bytes(riff(*chunks))
    assert inspect(path) == Header(10, 16000, 2, "PCM_16")
    assert read(path, channel=None).shape == (10, 2)


@pytest.mark.parametrize(
    ("content", "kind", "reason"),
    [
        (b"", "empty", "0 bytes"),
        (riff(fmt(), (b"data", b"")), "empty", "0 samples"),
        (b"file_name,d1p,d1v\n", "unreadable", "not a WAV file"),
        (b"fLaC" + bytes(50), "unreadable", "not a WAV file"),
        (b"RIFF\0\0\0\0AVI LIST", "unreadable", "not a WAV file"),
        (riff(fmt()), "unreadable", "no data chunk"),
        (riff((b"data", bytes(4)), fmt()), "unreadable", "sample format"),
        (riff(fmt(tag=2), (b"data", bytes(4))), "unreadable", "neither PCM nor float"),
        (riff(fmt(channels=0), (b"data", bytes(4))), "unreadable", "neither PCM nor float"),
        (riff(fmt(rate=0), (b"data", bytes(4))), "unreadable", "neither PCM nor float"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, content, kind, reason):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(FaultyFile, match=reason) as caught:
        inspect(path)
    assert caught.value.problem.kind == kind
    assert caught.value.problem.path == str(path)


def test_absent_files_are_unreadable(tmp_path):
    for path in [tmp_path, tmp_path / "absent.wav"]:
        with pytest.raises(FaultyFile) as caught:
            inspect(path)
        assert caught.value.problem.kind == "unreadable"


@pytest.mark.parametrize("container", ["WAV", "RF64"])
def test_every_cut_is_noticed(tmp_path, rng, container):
    path = write(tmp_path / "a.wav", noise(rng, 50, 2), format=container)
    whole = path.stat().st_size
    for size in range(4, whole):
        write(path, noise(rng, 50, 2), format=container)
        cut(path, size)
        with pytest.raises(FaultyFile) as caught:
            inspect(path)
        assert caught.value.problem.kind == "truncated", size


# the whole data set


def machine(root: Path, rng, channels: int, name: str = "fan", clips: int = 4) -> None:
    for i in range(clips):
        write(root / name / "train" / NAME.format(i), noise(rng, 160, channels))


def checked(root: Path, edition: str = "dcase2026", **keys) -> tuple[Dataset, dict[str, Header]]:
    return check(scan(root, edition), AudioConfig(**keys))


def kinds(dataset: Dataset) -> dict[str, str]:
    return {p.path: p.kind for p in dataset.problems}


def test_a_clean_data_set(tmp_path, rng):
    machine(tmp_path, rng, 2)
    dataset, headers = checked(tmp_path)
    assert dataset.problems == ()
    assert headers == {c.path: Header(160, 16000, 2, "PCM_16") for c in dataset.clips}


def test_every_problem_is_reported_with_its_path(tmp_path, rng):
    machine(tmp_path, rng, 2, clips=10)
    folder = tmp_path / "fan" / "train"
    paths = [folder / NAME.format(i) for i in range(10)]
    cut(paths[0], 300)
    cut(paths[1], 0)
    paths[2].write_text("not audio at all, only text")
    write(paths[3], noise(rng, 0, 2))
    write(paths[4], noise(rng, 160, 2), rate=8000)
    write(paths[5], noise(rng, 160, 3))
    wave = np.zeros((160, 2))
    for path, value in [(paths[6], np.nan), (paths[7], np.inf), (paths[8], 0.5)]:
        wave[77, 1] = value
        write(path, wave, subtype="FLOAT")
    write(folder / "noise.wav", noise(rng, 160, 2))
    dataset, headers = checked(tmp_path)
    expected = ["truncated", "empty", "unreadable", "empty", "wrong_rate", "wrong_channels"]
    expected += ["not_finite", "not_finite"]
    paths = [f"fan/train/{NAME.format(i)}" for i in range(10)]
    assert kinds(dataset) == {
        "fan/train/noise.wav": "misnamed",
        **dict(zip(paths, expected, strict=False)),
    }
    assert list(headers) == paths[4:6] + paths[8:]
    assert list(dataset.problems) == sorted(dataset.problems)
    reasons = {p.kind: p.reason for p in dataset.problems}
    for word in ("8000 Hz", "audio.sample_rate", "16000 Hz"):
        assert word in reasons["wrong_rate"]
    assert "640 bytes" in reasons["truncated"]


def test_a_file_may_have_two_problems(tmp_path, rng):
    machine(tmp_path, rng, 2)
    write(tmp_path / "fan" / "train" / NAME.format(0), noise(rng, 160, 3), rate=8000)
    dataset, _ = checked(tmp_path)
    assert [p.kind for p in dataset.problems] == ["wrong_channels", "wrong_rate"]


def test_a_mono_machine_in_a_two_channel_edition(tmp_path, rng):
    machine(tmp_path, rng, 1)
    machine(tmp_path, rng, 2, name="valveEmu")
    assert checked(tmp_path)[0].problems == ()
    far, _ = checked(tmp_path, channel="far")
    assert kinds(far) == {f"fan/train/{NAME.format(i)}": "wrong_channels" for i in range(4)}
    # Among two-channel files of its machine a mono file is a mistake.
    write(tmp_path / "valveEmu" / "train" / NAME.format(2), noise(rng, 160, 1))
    assert kinds(checked(tmp_path)[0]) == {f"valveEmu/train/{NAME.format(2)}": "wrong_channels"}


def test_earlier_editions_are_mono(tmp_path, rng):
    machine(tmp_path, rng, 1)
    machine(tmp_path, rng, 2, name="valve", clips=1)
    dataset, _ = checked(tmp_path, "dcase2023")
    assert kinds(dataset) == {f"valve/train/{NAME.format(0)}": "wrong_channels"}
    assert re.search("^2 channels.*dcase2023 has 1", dataset.problems[0].reason)


# samples


def test_pcm16_stays_as_stored(tmp_path, rng):
    samples = noise(rng, 300, 2)
    samples[:2] = [[-32768, 32767], [32767, -32768]]
    path = write(tmp_path / "a.wav", samples)
    for channel, column in [("near", 0), ("far", 1)]:
        wave = read(path, channel=channel)
        assert wave.dtype == np.int16 and wave.flags.c_contiguous
        np.testing.assert_array_equal(wave, samples[:, column])
    np.testing.assert_array_equal(read(path, channel=None), samples)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_other_formats_become_float(tmp_path, rng, subtype):
    samples = rng.uniform(-0.9, 0.9, (300, 2))
    wave = read(write(tmp_path / "a.wav", samples, subtype=subtype), channel="far")
    assert wave.dtype == np.float32
    step = {"PCM_U8": 2.0**-7, "PCM_24": 2.0**-23}.get(subtype, 2.0**-24)
    np.testing.assert_allclose(wave, samples[:, 1], rtol=0, atol=step)


def test_a_file_that_cannot_be_read_is_named(tmp_path, rng):
    mono = write(tmp_path / "mono.wav", noise(rng, 10))
    assert read(mono, channel="near").shape == (10,)
    with pytest.raises(AsdjaxError, match="mono.wav: .*far channel.*audio.channel"):
        read(mono, channel="far")
    (tmp_path / "text.wav").write_text("only text")
    for name in ["text.wav", "absent.wav"]:
        with pytest.raises(AsdjaxError, match=name):
            read(tmp_path / name, channel="near")


# length


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_shorter_clips_are_repeated_then_cut(dtype):
    wave = np.arange(1, 4).astype(dtype)
    for n, expected in [(3, [1, 2, 3]), (7, [1, 2, 3, 1, 2, 3, 1]), (4, [1, 2, 3, 1])]:
        fitted = fit_length(wave, n)
        np.testing.assert_array_equal(fitted, expected)
        assert fitted.dtype == dtype


def test_longer_clips_are_cut_from_start():
    wave = np.arange(10, dtype=np.int16)
    for start in range(7):
        np.testing.assert_array_equal(fit_length(wave, 4, start), wave[start : start + 4])
    for bad in [(wave, 4, 7), (wave, 4, -1), (wave, 12, 1), (wave[:0], 4, 0)]:
        with pytest.raises(ValueError, match="samples at"):
            fit_length(*bad)


def test_crops_start_at_every_place_equally_often(rng):
    starts = [crop_start(23, 19, u) for u in rng.random(50_000)]
    counts = np.bincount(starts, minlength=5)
    assert len(counts) == 5
    # Each count is binomial(50000, 1/5): standard deviation 89.4.
    np.testing.assert_array_less(np.abs(counts - 10_000), 5 * 89.4)


def test_crop_starts_are_exact_at_both_ends():
    last = 1 - 2**-53
    for frames in [5, 6, 96_001, 192_000, 10**9 + 7]:
        assert crop_start(frames, 5, 0.0) == 0
        assert crop_start(frames, 5, last) == frames - 5
    assert crop_start(5, 5, last) == crop_start(4, 5, last) == 0
    # u = k/8 over 8 places starts at k exactly, the next smaller u one place earlier.
    for k in range(1, 8):
        assert crop_start(12, 5, k / 8) == k
        assert crop_start(12, 5, np.nextafter(k / 8, 0)) == k - 1


def test_clip_length():
    headers = [Header(n, 16000, 2, "PCM_16") for n in (96_001, 160_000, 96_000)]
    assert clip_samples(AudioConfig(clip_seconds=12.0), headers) == 192_000
    assert clip_samples(AudioConfig(clip_seconds=4.48), []) == 71_680
    assert clip_samples(AudioConfig(clip_seconds="auto"), headers) == 160_000
    for audio in [AudioConfig(clip_seconds="auto"), AudioConfig(clip_seconds=1e-6)]:
        with pytest.raises(AsdjaxError, match="audio.clip_seconds"):
            clip_samples(audio, [])

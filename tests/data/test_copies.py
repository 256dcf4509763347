import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asdjax.cli import main
from asdjax.config.recipe import AudioConfig, Config, DatasetConfig
from asdjax.data import corpus
from asdjax.data.audio import check
from asdjax.data.copies import find
from asdjax.data.corpus import open_corpus
from asdjax.data.dcase import scan
from asdjax.errors import AsdjaxError

TRAIN = "{}/train/section_00_source_train_normal_{:04d}_a_1.wav"
TEST = "{}/test/section_00_source_test_{}_{:04d}_a_1.wav"


@pytest.fixture
def root(tmp_path, rng) -> Path:
    """Two machines of four clips each, all different."""
    for machine in ("fan", "valveEmu"):
        paths = [TRAIN.format(machine, 0), TRAIN.format(machine, 1)]
        paths += [TEST.format(machine, label, 0) for label in ("normal", "anomaly")]
        for path in paths:
            write(tmp_path / path, rng.integers(-9000, 9000, (160, 2), np.int16))
    return tmp_path


def write(path: Path, samples, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, 16000, **({"subtype": "PCM_16"} | options))


def problems(root: Path, edition: str = "dcase2026") -> dict[str, str]:
    found, _ = corpus.survey(root, DatasetConfig(edition=edition), AudioConfig())
    assert len({p.path for p in found.problems}) == len(found.problems)
    return {p.path: p.kind for p in found.problems}


def test_different_clips_are_no_copies(root):
    assert problems(root) == {}


@pytest.mark.parametrize("copied", [shutil.copy, os.link, os.symlink])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (TRAIN.format("fan", 0), "fan/train/section_00_source_train_normal_0000_a_1_copy.wav"),
        (TRAIN.format("fan", 0), TRAIN.format("fan", 7)),
        (TRAIN.format("fan", 0), TRAIN.format("valveEmu", 7)),
        (TEST.format("fan", "anomaly", 0), TEST.format("fan", "anomaly", 51)),
        (TEST.format("fan", "normal", 0), TEST.format("fan", "anomaly", 51)),
    ],
)
def test_one_of_two_equal_clips_is_a_copy(root, copied, first, second):
    copied(root / first, root / second)
    assert problems(root) == {second: "copy"}


@pytest.mark.parametrize("machine", ["fan", "valveEmu"])
def test_a_training_clip_that_is_a_test_clip_is_an_error(root, machine, caplog):
    clean = open_corpus(root, Config()).dataset
    shutil.copy(root / TEST.format("fan", "normal", 0), root / TRAIN.format(machine, 8))
    shutil.copy(root / TEST.format("fan", "normal", 0), root / TRAIN.format(machine, 9))
    assert problems(root) == dict.fromkeys([TRAIN.format(machine, n) for n in (8, 9)], "shared")
    with pytest.raises(AsdjaxError, match=r"\(2 shared\).*0008.*fan/test/.*0000"):
        open_corpus(root, Config())
    skipping = Config(dataset=DatasetConfig(skip=("shared",)))
    assert open_corpus(root, skipping).dataset == clean
    (warning,) = caplog.messages
    assert str(root) in warning and "dataset.skip: 2 shared" in warning


def test_an_unlabelled_test_clip_counts_as_a_test_clip(tmp_path, rng):
    samples = rng.integers(-9000, 9000, (160, 2), np.int16)
    write(tmp_path / "Sander/test/section_00_0000.wav", samples)
    write(tmp_path / TRAIN.format("Sander", 0), samples)
    assert problems(tmp_path) == {TRAIN.format("Sander", 0): "shared"}


def test_another_header_makes_no_other_clip(root):
    """A chunk before or after the samples, or another container, leaves the sound as it is."""
    source = (root / TRAIN.format("fan", 0)).read_bytes()
    extra = b"LIST" + (7).to_bytes(4, "little") + b"INFOabc\0"
    for number, content in [(5, source[:36] + extra + source[36:]), (6, source + extra)]:
        size = (len(content) - 8).to_bytes(4, "little")
        (root / TRAIN.format("fan", number)).write_bytes(content[:4] + size + content[8:])
    samples, _ = soundfile.read(root / TRAIN.format("fan", 0), dtype="int16")
    write(root / TRAIN.format("fan", 7), samples, format="RF64")
    write(root / TRAIN.format("fan", 8), samples, format="WAVEX")
    assert problems(root) == {TRAIN.format("fan", n): "copy" for n in (5, 6, 7, 8)}


@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64", "W64"])
def test_another_sample_format_makes_no_other_clip(root, container):
    """Of values that all these formats hold, negative zero among them; the halves of 8 bits."""
    values = np.linspace(-128, 127, 5000).round().reshape(-1, 2) / 128
    subtypes = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")
    for n, subtype in enumerate(subtypes):
        write(root / TRAIN.format("fan", 50 + n), values, format=container, subtype=subtype)
    write(root / TRAIN.format("fan", 56), np.where(values, values, -0.0), subtype="FLOAT")
    write(root / TEST.format("valveEmu", "normal", 60), values, format="WAV")
    assert problems(root) == {TRAIN.format("fan", n): "shared" for n in range(50, 57)}


def test_a_stream_s_header_makes_no_other_clip(root):
    source = (root / TRAIN.format("fan", 0)).read_bytes()
    assert source[36:40] == b"data"
    (root / TRAIN.format("fan", 5)).write_bytes(source[:40] + b"\xff" * 4 + source[44:])
    dataset, headers = check(scan(root, "dcase2026"), AudioConfig())
    copy = TRAIN.format("fan", 5)
    assert [(p.path, p.kind) for p in find(dataset, headers, "near")] == [(copy, "copy")]


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("place", [0, 4999, 9999])
def test_one_other_sample_makes_another_clip(tmp_path, rng, subtype, place):
    samples = rng.uniform(-0.5, 0.5, (10_000, 2))
    write(tmp_path / TRAIN.format("fan", 0), samples, subtype=subtype)
    samples[place, 0] += 0.1
    write(tmp_path / TRAIN.format("fan", 1), samples, subtype=subtype)
    assert problems(tmp_path) == {}
    shutil.copy(tmp_path / TRAIN.format("fan", 1), tmp_path / TRAIN.format("fan", 2))
    assert problems(tmp_path) == {TRAIN.format("fan", 2): "copy"}


def test_the_channel_in_use_alone_is_compared(root):
    """Embeddings of the near channel would be equal, whatever the far one has."""
    samples, _ = soundfile.read(root / TEST.format("fan", "normal", 0), dtype="int16")
    samples[:, 1] //= 3
    write(root / TEST.format("fan", "normal", 7), samples)
    assert problems(root) == {TEST.format("fan", "normal", 7): "copy"}
    found, _ = corpus.survey(root, DatasetConfig(edition="dcase2026"), AudioConfig(channel="far"))
    assert found.problems == ()


def test_equal_bytes_of_other_channels_are_other_sound(tmp_path, rng):
    samples = rng.integers(-9000, 9000, 320, np.int16)
    write(tmp_path / TRAIN.format("fan", 0), samples.reshape(160, 2))
    write(tmp_path / TRAIN.format("fan", 1), samples)
    assert set(problems(tmp_path).values()) == {"wrong_channels"}


def test_silence_is_named(root):
    for n in (5, 6):
        write(root / TRAIN.format("fan", n), np.zeros((160, 2), np.int16))
    assert problems(root) == {TRAIN.format("fan", 6): "copy"}


def test_unreadable_files_are_not_compared(root):
    for n in (5, 6):
        (root / TRAIN.format("fan", n)).write_text("only text")
    assert set(problems(root).values()) == {"unreadable"}


def test_a_file_that_vanishes_is_named(root):
    dataset, headers = check(scan(root, "dcase2026"), AudioConfig())
    (root / TRAIN.format("fan", 1)).unlink()
    with pytest.raises(AsdjaxError, match="fan/train/.*0001.*No such file"):
        find(dataset, headers, "near")


@pytest.mark.parametrize(
    "name",
    [" (1)", " - Copy", " copy", "_copy", " (kopie)", " - Kopie (2)", "~", "(1)", "_1", "1", " 2"]
    + [".wav", "\uff081\uff09", " - \u526f\u672c"],
)
def test_a_copy_by_any_name_stops_data_and_training(root, name, capsys):
    first = root / TEST.format("fan", "anomaly", 0)
    shutil.copy(first, first.with_name(f"{first.stem}{name}.wav"))
    assert main(["data", str(root)]) == 1
    assert "problems: 1 " in capsys.readouterr().out
    with pytest.raises(AsdjaxError, match=rf"copy.*{re.escape(first.stem)}"):
        open_corpus(root, Config())

"""Event files of TensorBoard, read back byte by byte: each step once, and as in the log."""

import dataclasses
import json
import shutil
import struct
import sys

import pytest
from conftest import TESTS
from support.training_steps import kill_at_step
from tensorboardX.proto import event_pb2

from asdjax.cli import main
from asdjax.commands import train as command
from asdjax.config import recipe as configs
from asdjax.data.corpus import open_corpus
from asdjax.errors import AsdjaxError
from asdjax.store.event_files import EventFiles
from asdjax.store.runs import Run

pytestmark = pytest.mark.usefixtures("compiled_fast")

ROW = {
    "step": 0, "epoch": 0, "loss": 2.5, "accuracy": 0.25, "learning_rate": 0.5, "seconds": 0.125,
    "clips_per_second": 128.0,
}  # fmt: skip


def crc32c(content):
    """The Castagnoli checksum, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def checked(content, stored):
    """A part of a record, if its masked checksum is right."""
    crc = crc32c(content)
    assert (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF == struct.unpack("<I", stored)[0]
    return content


def events(folder):
    """The events of the only file in a folder."""
    (file,) = folder.iterdir()
    content, found = file.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", checked(content[:8], content[8:12]))
        record = checked(content[12 : 12 + length], content[12 + length : 16 + length])
        found.append(event_pb2.Event.FromString(record))
        content = content[16 + length :]
    return found


def shown(folder):
    """What a reader shows: for each tag (step, value) in the order of the file."""
    first, *others = events(folder)
    assert first.file_version == "brain.Event:2"
    times = [event.wall_time for event in others]
    assert times == sorted(times)
    curves = {}
    for event in others:
        for value in event.summary.value:
            curves.setdefault(value.tag, []).append((event.step, value.simple_value))
    return curves


def check_against_log(run):
    """The event file has the values of log.jsonl, each step once."""
    rows = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(len(rows)))
    curves = shown(run.path / "tensorboard")
    names = {
        "loss/training": "loss",
        "loss/validation": "validation_loss",
        "accuracy/training": "accuracy",
        "accuracy/validation": "validation_accuracy",
        "learning_rate": "learning_rate",
        "clips_per_second": "clips_per_second",
    }
    for tag, key in names.items():
        expected = [(row["step"], row[key]) for row in rows if key in row]
        assert [step for step, _ in curves.get(tag, [])] == [step for step, _ in expected]
        values = [value for _, value in curves.get(tag, [])]
        assert values == pytest.approx([value for _, value in expected], rel=1e-6)
    return rows, curves


@pytest.fixture(scope="module")
def corpus(corpus_root):
    return open_corpus(corpus_root, recipe(1))


def recipe(epochs, validation=0.2):
    config = configs.load(str(TESTS / "tiny.yaml"))
    changed = dataclasses.replace(config.train, epochs=epochs, validation=validation, log_every=1)
    return dataclasses.replace(config, train=changed)


def train(epochs, corpus, run, **options):
    command.train(recipe(epochs), corpus, run, log="tensorboard", **options)


def test_a_row_and_its_tags(tmp_path):
    files = EventFiles(tmp_path / "tensorboard")
    files.check()
    files.begin([])
    files.add([ROW, {**ROW, "step": 1, "validation_loss": 3.5, "clips_per_second": 64.5}])
    assert shown(files.folder) == {
        "loss/training": [(0, 2.5), (1, 2.5)],
        "loss/validation": [(1, 3.5)],
        "accuracy/training": [(0, 0.25), (1, 0.25)],
        "learning_rate": [(0, 0.5), (1, 0.5)],
        "clips_per_second": [(0, 128), (1, 64.5)],
    }
    files.close()


def test_a_log_that_was_changed_is_copied_as_far_as_it_can_be(tmp_path):
    files = EventFiles(tmp_path / "tensorboard")
    odd = [{"step": -1}, {"step": 2**70}, {**ROW, "loss": "x", "accuracy": True, "seconds": None}]
    odd[2]["clips_per_second"] = float("nan")
    files.begin(odd)
    assert shown(files.folder) == {"learning_rate": [(0, 0.5)]}
    files.close()


def test_an_interrupted_run_shows_each_step_once(corpus, tmp_path, monkeypatch):
    run = Run(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(
            "support.training_steps.train", lambda config, corpus, run: train(2, corpus, run)
        )
        kill_at_step(run, recipe(2), corpus, 6)  # one of these is validation
    before = shown(run.path / "tensorboard")
    assert [step for step, _ in before["loss/training"]] == [0, 1, 2, 3]  # 3 is repeated
    train(2, corpus, run)
    rows, curves = check_against_log(run)
    assert len(rows) == 6 and [step for step, _ in curves["loss/validation"]] == [2, 5]
    train(3, corpus, run)  # more epochs
    assert len(check_against_log(run)[0]) == 9
    train(3, corpus, run)  # finished: written once more
    assert len(check_against_log(run)[0]) == 9
    assert run.foreign_files() == []
    command.train(recipe(1), corpus, run, resume=False)
    assert [*(run.path / "tensorboard").iterdir()] == []


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    """A run of one epoch without event files."""
    run = Run(tmp_path_factory.mktemp("finished") / "run")
    command.train(recipe(1), corpus, run)
    return run


def copy(run, folder):
    shutil.copytree(run.path, folder / "run")
    return Run(folder / "run")


def test_a_finished_run_without_event_files_gets_them(corpus, finished, tmp_path):
    run = copy(finished, tmp_path)
    assert not (run.path / "tensorboard").exists()
    train(1, corpus, run)
    assert len(check_against_log(run)[0]) == 3


NAMES = ["events.out.tfevents.1700000000.host", "notes.txt", "a/b.txt"]


def foreign(run, name):
    file = run.path / "tensorboard" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("mine")
    return file


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_other_origin_is_neither_used_nor_deleted(corpus, finished, tmp_path, name):
    run = copy(finished, tmp_path)
    file = foreign(run, name)
    before = (run.path / "training.json").read_bytes()
    for options in {}, {"resume": False}:
        with pytest.raises(AsdjaxError, match=f"{name}: not written by asdjax.*omit --log"):
            train(2, corpus, run, **options)
    assert file.read_text() == "mine" and before == (run.path / "training.json").read_bytes()


def test_a_training_without_the_option_leaves_a_folder_of_other_origin(corpus, finished, tmp_path):
    run = copy(finished, tmp_path)
    files = [foreign(run, name) for name in NAMES]
    command.train(recipe(1), corpus, run, resume=False)
    assert [file.read_text() for file in files] == ["mine"] * 3
    assert len([*(run.path / "tensorboard").rglob("*")]) == 4  # and the folder a


def test_links_and_files_in_its_place_are_refused(corpus, finished, tmp_path):
    run, target = copy(finished, tmp_path), tmp_path / "elsewhere"
    target.mkdir()
    (run.path / "tensorboard").symlink_to(target)
    theirs = target / "events.out.tfevents.1700000000000.asdjax"
    theirs.write_text("of another run")
    with pytest.raises(AsdjaxError, match="tensorboard: is a link"):
        train(1, corpus, run)
    command.train(recipe(1), corpus, run, resume=False)
    assert theirs.read_text() == "of another run"
    (run.path / "tensorboard").unlink()
    (run.path / "tensorboard").write_text("")
    with pytest.raises(AsdjaxError, match="tensorboard: is not a folder"):
        train(1, corpus, run)


def test_without_tensorboardx_the_sentence_has_the_command(
    corpus_root, tmp_path, monkeypatch, capsys
):
    for module in "tensorboardX", "tensorboardX.proto", "tensorboardX.record_writer":
        monkeypatch.setitem(sys.modules, module, None)
    where = ["--data", str(corpus_root), "--run", str(tmp_path / "run")]
    for verb in "train", "run":
        assert main([verb, str(TESTS / "tiny.yaml"), *where, "--log", "tensorboard"]) == 1
        said = capsys.readouterr().err.splitlines()
        assert "pip install 'asdjax[tensorboard]'" in said[-1] and not (tmp_path / "run").exists()
    with pytest.raises(SystemExit, match="2"):
        main(["train", str(TESTS / "tiny.yaml"), *where, "--log", "wandb"])

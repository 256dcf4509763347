"""Checkpoints: round trip, strictness, survivors of interrupted saves."""

import _thread
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest
from support.permissions import open_folder as open_folder  # a fixture
from support.permissions import permissions

from asdjax.errors import AsdjaxError
from asdjax.store import checkpoint
from asdjax.store.checkpoint import Checkpoints, digest


@pytest.fixture
def state(rng):
    kernel = rng.normal(size=(3, 4)).astype(np.float32)
    weights = {"params": {"model": {"0": {"kernel": kernel}}}, "stats": {}}
    return {"weights": weights, "progress": {"step": np.asarray(7, np.int32), "empty": {}}}


def test_round_trip_newest_kept_and_meta_alone(tmp_path, state):
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest() is None
    for step in (1, 2, 3):
        checkpoints.save(step, state, {"classes": ["a", "b"], "iterator": {"next_index": step}})
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest() == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "3"]
    assert checkpoints.meta(2)["iterator"] == {"next_index": 2}
    restored = checkpoints.restore(3, state)
    assert digest(restored) == digest(state)
    assert isinstance(restored["progress"]["step"], np.ndarray)
    weights = checkpoints.restore(3, {"weights": state["weights"]})
    assert digest(weights["weights"]) == digest(state["weights"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s["weights"]["params"]["model"].update(more=np.zeros(1)), "model/more: absent"),
        (lambda s: s["weights"]["params"].clear(), "expected nothing"),
        (
            lambda s: s["weights"]["params"]["model"]["0"].update(kernel=np.zeros((4, 3), "f4")),
            r"float32\[3, 4\], expected float32\[4, 3\]",
        ),
        (lambda s: s["progress"].update(step=np.asarray(7, np.int64)), "expected int64"),
    ],
)
def test_another_models_checkpoint_is_refused(tmp_path, state, change, words):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state, {})
    change(state)
    with pytest.raises(AsdjaxError, match=words):
        checkpoints.restore(1, state)


def test_an_interrupted_save_is_passed_over(tmp_path, state):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state, {})
    broken = tmp_path / ".2.asdjax-partial"
    broken.mkdir()
    (broken / "junk").write_text("half")
    checkpoints = Checkpoints(tmp_path, keep=1)
    assert checkpoints.latest() == 1
    assert not broken.exists()
    checkpoints.save(2, state, {})
    assert checkpoints.latest() == 2


def test_no_pickles(tmp_path, state):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state, {"a": 1})
    for file in tmp_path.rglob("*"):
        assert file.suffix not in {".pkl", ".pickle"}
    assert json.loads((tmp_path / "1" / "meta.json").read_text()) == {"a": 1}


def test_digest_sees_names_shapes_dtypes_and_values(state):
    base = state["weights"]["params"]["model"]["0"]["kernel"]

    def of(array, name="kernel"):
        return digest({name: array})

    changed = base.copy()
    changed[0, 0] += 1e-6
    digests = {
        of(base), of(base, "bias"), of(base.T), of(base.reshape(4, 3)), of(changed),
        of(base.astype(np.float64)),
    }  # fmt: skip
    assert len(digests) == 6
    assert of(np.asfortranarray(base)) == of(base)


def test_every_damaged_file_of_a_checkpoint_is_named(tmp_path, state, capfd):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state, {})
    damages = {
        "delete": lambda file: file.unlink(),
        "empty": lambda file: file.write_bytes(b""),
        "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
        "foreign": lambda file: file.write_text('{"tree_metadata": [1]}'),
        "folder": lambda file: (file.unlink(), file.mkdir()),
        "fifo": lambda file: (file.unlink(), os.mkfifo(file)),
        "link": lambda file: (file.rename(away), file.symlink_to(away)),
    }
    away = tmp_path / "away"
    for file in [p for p in (tmp_path / "1").rglob("*") if p.is_file()]:
        for damage in damages.values():
            content = file.read_bytes()
            damage(file)
            with pytest.raises(AsdjaxError, match="1: this checkpoint is missing or damaged"):
                read(tmp_path, 1, state)
            (file.rmdir if file.is_dir() and not file.is_symlink() else delete(file))()
            away.unlink(missing_ok=True)
            file.write_bytes(content)
    (tmp_path / "1" / "weights" / "more").write_text("x")
    with pytest.raises(AsdjaxError, match="weights/more is not expected"):
        read(tmp_path, 1, state)
    (tmp_path / "1" / "weights" / "more").unlink()
    assert digest(read(tmp_path, 1, state)) == digest(state)
    for folder in ("weights", "progress/d", "."):
        shutil.rmtree(tmp_path / "1" / folder)
        with pytest.raises(AsdjaxError, match="1: this checkpoint is missing or damaged"):
            read(tmp_path, 1, state)
    assert capfd.readouterr() == ("", "")


def delete(file):
    return lambda: file.unlink(missing_ok=True)


def read(path, step, state):
    checkpoints = Checkpoints(path)
    checkpoints.meta(step)
    return checkpoints.restore(step, state)


@pytest.mark.parametrize("defect", [KeyError, AttributeError, TypeError, ValueError, OSError])
@pytest.mark.parametrize("call", ["metadata", "restore", "save"])
def test_a_defect_keeps_its_traceback(tmp_path, state, monkeypatch, defect, call):
    def fail(*_, **__):
        raise defect("a defect")

    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state, {})
    monkeypatch.setattr(ocp.Checkpointer, call, fail)
    if (call, defect) == ("save", OSError):
        defect = AsdjaxError  # a save meets the file system
    with pytest.raises(defect, match="a defect"):
        checkpoints.save(2, state, {}) if call == "save" else checkpoints.restore(1, state)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


@pytest.mark.parametrize("tree", [{"weights": {"a": "text"}}, {"weights": [np.zeros(2)]}, {}])
def test_what_others_saved_is_refused_in_words(tmp_path, state, monkeypatch, tree):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state, {})
    monkeypatch.setattr(checkpoint, "_stored", lambda place: tree.get(place.name))
    with pytest.raises(AsdjaxError, match="1: not a checkpoint of this configuration"):
        checkpoints.restore(1, state)


def test_a_list_of_arrays_is_refused(tmp_path):
    checkpoint.save_weights(tmp_path / "list", [np.zeros(2)])
    with pytest.raises(AsdjaxError, match="list: not weights of this architecture"):
        checkpoint.load_weights(tmp_path / "list", {"a": np.zeros(2)})


def test_the_older_checkpoint_goes_on_where_the_newest_is_deleted(tmp_path, state):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, state, {"at": step})
    (tmp_path / "3" / "weights" / "_METADATA").write_text("{}")
    with pytest.raises(AsdjaxError, match="delete it and train again, which continues"):
        read(tmp_path, 3, state)
    shutil.rmtree(tmp_path / "3")
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest() == 2 and checkpoints.meta(2) == {"at": 2}
    assert digest(checkpoints.restore(2, state)) == digest(state)
    checkpoints.save(3, state, {"at": 3})
    with pytest.raises(AsdjaxError, match="checkpoint 3 exists already"):
        checkpoints.save(3, state, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, state, rng, capfd):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state, {})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = {"weights": {"a": rng.normal(size=10_000)}, "progress": {"step": np.zeros(3)}}
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(AsdjaxError, match="/2/weights: cannot be written .File too large"):
            checkpoints.save(2, big, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["1"] and checkpoints.latest() == 1
    assert digest(checkpoints.restore(1, state)) == digest(state)
    assert capfd.readouterr() == ("", "")


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from asdjax.store import checkpoint
root, count, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
tree = {f"a{i}": np.random.default_rng(i).normal(size=(size, size)) for i in range(count)}
state = {"weights": tree, "progress": {"step": np.zeros(3)}}
for i in range(18):
    most = (0, 100, 500, 2000, 20_000, 100_000)[i % 6]
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    try:
        checkpoints = checkpoint.Checkpoints(root, keep=1)
        checkpoints.save(1, state, {})
    except checkpoint.AsdjaxError as error:
        print(error)
    print(*root.iterdir())
"""


@pytest.mark.parametrize("count, size", [(3, 200), (40, 200), (200, 100)])
def test_many_arrays_and_a_full_disk_make_one_sentence_and_leave_nothing(count, size, tmp_path):
    """Also none of the writers that were at work when the first failed, once all is over."""
    program = [sys.executable, "-c", FULL, str(tmp_path), str(count), str(size)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    sentence = r".*/1/weights: cannot be written \(File too large\): .*\n\n"
    assert re.fullmatch(f"({sentence}){{18}}", done.stdout), done.stdout
    assert not list(tmp_path.iterdir())


def test_reading_makes_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path / "absent")
    assert checkpoints.latest() is None
    assert not (tmp_path / "absent").exists()


def test_an_interruption_waits_for_orbaxs_writers(tmp_path, state, monkeypatch):
    done, original = [], ocp.Checkpointer.save

    def slow(self, *given, **named):
        time.sleep(0.1)
        _thread.interrupt_main()
        time.sleep(0.2)
        original(self, *given, **named)
        done.append(given)

    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state, {})
    monkeypatch.setattr(ocp.Checkpointer, "save", slow)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(2, state, {})
    assert done and [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_record_that_is_none_is_said(tmp_path, state):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state, [1, 2])
    with pytest.raises(AsdjaxError, match=r"1: .*meta\.json"):
        checkpoints.meta(1)


def test_folders_with_files_of_other_origin_are_not_deleted(tmp_path, state, caplog):
    """Neither a user's folder that is named by a number, nor a checkpoint with a user's file."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(2, state, {})
    for mine in (tmp_path / "1" / "mine.txt", tmp_path / "2" / "mine.txt"):
        mine.parent.mkdir(exist_ok=True)
        mine.write_text("mine")
    for step in (3, 4, 5):
        checkpoints.save(step, state, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "5"]
    for folder in "12":
        assert (tmp_path / folder / "mine.txt").read_text() == "mine"
        assert caplog.text.count(f"{tmp_path / folder} is not deleted") == 1


def test_a_read_only_checkpoint_does_not_stop_the_training(open_folder, state, caplog):
    folder = open_folder / "checkpoints"
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(2, state, {})
    for path in [open_folder, folder, *folder.rglob("*")]:
        os.chown(path, 65534, -1) if os.geteuid() == 0 else None
    with permissions(folder / "2", 0o555):
        checkpoints.save(3, state, {})
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3"]
    assert f"{folder / '2'} is not deleted" in caplog.text
    checkpoints.save(4, state, {})
    assert [path.name for path in folder.iterdir()] == ["4"]

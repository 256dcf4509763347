"""Checkpoints: round trip, strictness, survivors of interrupted saves."""

import json
import shutil

import numpy as np
import pytest

from asdjax.checkpoint import Checkpoints, digest
from asdjax.errors import AsdjaxError


@pytest.fixture
def state(rng):
    kernel = rng.normal(size=(3, 4)).astype(np.float32)
    weights = {"params": {"model": {"0": {"kernel": kernel}}}, "stats": {}}
    return {"weights": weights, "progress": {"step": np.asarray(7, np.int32), "empty": {}}}


def test_round_trip_newest_kept_and_meta_alone(tmp_path, state):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest() is None
        for step in (1, 2, 3):
            checkpoints.save(step, state, {"classes": ["a", "b"], "iterator": {"next_index": step}})
    with Checkpoints(tmp_path, keep=2) as checkpoints:
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
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state, {})
        change(state)
        with pytest.raises(AsdjaxError, match=words):
            checkpoints.restore(1, state)


def test_an_interrupted_save_is_passed_over(tmp_path, state):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state, {})
    broken = tmp_path / ".2.asdjax-partial"
    broken.mkdir()
    (broken / "junk").write_text("half")
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert checkpoints.latest() == 1
        assert not broken.exists()
        checkpoints.save(2, state, {})
        assert checkpoints.latest() == 2


def test_no_pickles(tmp_path, state):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
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


@pytest.mark.parametrize("damage", ["part", "data"])
def test_a_damaged_checkpoint_is_named(tmp_path, state, damage):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state, {})
    if damage == "part":
        shutil.rmtree(tmp_path / "1" / "weights")
    else:
        for file in (tmp_path / "1" / "weights").rglob("*"):
            if file.is_file():
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(AsdjaxError, match="1: this checkpoint is missing or damaged"):
            checkpoints.restore(1, {"weights": state["weights"]})


def test_reading_makes_nothing(tmp_path):
    with Checkpoints(tmp_path / "absent") as checkpoints:
        assert checkpoints.latest() is None
    assert not (tmp_path / "absent").exists()

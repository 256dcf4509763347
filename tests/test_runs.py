"""The run directory: atomic writes, artefacts, the log."""

import multiprocessing
import os
import signal

import numpy as np
import pytest

from asdjax import runs
from asdjax.config import Config, to_tree
from asdjax.errors import AsdjaxError
from asdjax.runs import Embeddings, Run


def begun(path):
    """A run with the standard configuration."""
    run = Run(path)
    run.write_config(Config())
    return run


def table(n=5, d=3):
    text = np.array([f"fan/train/{i}.wav" for i in range(n)])
    words = np.full(n, "00")
    clips, facts = [text, words, words, words, words], [np.zeros(n, np.float32)] * 4
    others = np.zeros((n, 2), bool), np.ones((2, 9), np.float32)
    return Embeddings(*clips, np.ones((n, d), np.float32), *facts, *others)


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    runs.write_json(path, {"a": 1})

    def power_cut(_):
        raise OSError("power cut")

    monkeypatch.setattr(os, "fsync", power_cut)
    with pytest.raises(OSError, match="power cut"):
        runs.write_json(path, {"a": 2})
    assert runs.read_json(path) == {"a": 1}


def test_json_refuses_what_json_cannot_say(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        runs.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_embeddings_round_trip_and_equal_bytes(tmp_path):
    run = begun(tmp_path)
    a, b = run.embeddings_path("raw", "fan"), run.embeddings_path("raw", "pump")
    run.write_embeddings({a: (table(), "x")})
    run.write_embeddings({b: (table(), "x")})
    assert a.read_bytes() == b.read_bytes()
    read = run.read_embeddings("raw", "fan")
    assert np.array_equal(read.embedding, np.ones((5, 3))) and read.path[4] == "fan/train/4.wav"
    assert list(read.rows(np.arange(5) > 2).path) == ["fan/train/3.wav", "fan/train/4.wav"]


def test_damaged_embeddings_are_named(tmp_path):
    run = begun(tmp_path)
    path = run.embeddings_path("raw", "fan")
    run.write_embeddings({path: (table(), "x")})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(AsdjaxError, match="fan.npz"):
        run.read_embeddings("raw", "fan")


def test_artefacts_are_current_only_as_they_were_made(tmp_path):
    run = begun(tmp_path)
    path = run.scores_path("fan")
    made_from = runs.fingerprint("weights", [1, 2])
    assert not run.is_current(path, made_from)
    run.write_artefact(path, b"score\n1.5\n", made_from)
    assert run.is_current(path, made_from)
    assert not run.is_current(path, runs.fingerprint("weights", [1, 3]))
    path.write_bytes(b"score\n1.6\n")
    assert not run.is_current(path, made_from)
    path.unlink()
    assert not run.is_current(path, made_from)


def test_a_kill_between_result_and_record_leaves_no_false_record(tmp_path, monkeypatch):
    run = begun(tmp_path)
    path = run.scores_path("fan")
    run.write_artefact(path, b"old", "old inputs")
    original = runs.write_json

    def killed(where, document):
        if "scores/fan.csv" in document:
            raise KeyboardInterrupt
        original(where, document)

    monkeypatch.setattr(runs, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        run.write_artefact(path, b"new", "new inputs")
    assert path.read_bytes() == b"new"
    assert not run.is_current(path, "old inputs") and not run.is_current(path, "new inputs")


def test_log_is_cut_where_a_run_continues(tmp_path):
    run = begun(tmp_path)
    run.append_log([{"step": step, "loss": 1.0} for step in range(6)])
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # killed while writing
    run.truncate_log(4)
    run.append_log([{"step": 4, "loss": 2.0}])
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert len(lines) == 5 and '"step": 4' in lines[-1] and '"asdjax.log/1"' in lines[-1]


def test_not_a_run(tmp_path):
    with pytest.raises(AsdjaxError, match="asdjax train"):
        Run(tmp_path).config()
    run = Run(tmp_path)
    run.write_config(Config())
    assert run.config() == Config()
    with pytest.raises(AsdjaxError, match="has not finished"):
        run.finished_training()
    with pytest.raises(AsdjaxError, match="asdjax extract"):
        run.machines()
    with pytest.raises(AsdjaxError, match="has not finished"):
        run.read_scores("fan")
    run.write_training({"digest": "x", "config": to_tree(Config())})
    with pytest.raises(AsdjaxError, match="asdjax score"):
        run.read_scores("fan")


def _hold(path, ready, release):
    with Run(path).lock():
        ready.set()
        release.wait(30)


def test_lock_keeps_others_out_and_dies_with_its_process(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, ready, release))
    other.start()
    assert ready.wait(30)
    with pytest.raises(AsdjaxError, match="another process"), Run(tmp_path).lock():
        pass
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    with Run(tmp_path).lock():
        pass

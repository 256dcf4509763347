"""The run directory: atomic writes, artefacts, the log."""

import collections
import dataclasses
import io
import json
import multiprocessing
import os
import shutil
import signal
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support.permissions import open_folder as open_folder  # a fixture
from support.permissions import permissions
from support.scored_runs import make_run, score_rows

from asdjax.commands import evaluate, score
from asdjax.config.recipe import Config, to_tree
from asdjax.errors import AsdjaxError
from asdjax.files import documents, user_files
from asdjax.report import facts
from asdjax.scoring import false_alarms
from asdjax.scoring.kmeans import KMeans
from asdjax.store import run_manifest
from asdjax.store.embeddings import Embeddings, MadeFrom
from asdjax.store.runs import Run
from asdjax.store.scores import CLIP_COLUMNS

TRAINING = {
    "classes": ["fan"], "n_samples": 8000, "step": 2, "seed": 0, "data": "d", "digest": "x",
    "frozen": None, "config": to_tree(Config()),
}  # fmt: skip


def begun(path):
    """A run with the standard configuration."""
    run = Run(path)
    run.write_config(Config())
    return run


def table(n=5, d=3):
    text = np.array([f"fan/train/{i}.wav" for i in range(n)])
    words = np.full(n, "00"), np.full(n, "source"), np.full(n, "normal")
    split = np.array(["test", *["train"] * (n - 1)])
    clips, facts = [text, split, *words], [np.zeros(n, np.float32)] * 4
    others = np.zeros((n, 2), bool), np.ones((2, 9), np.float32)
    return Embeddings(*clips, np.ones((n, d), np.float32), *facts, *others)


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    documents.write_json(path, {"a": 1})

    def power_cut(_):
        raise OSError("power cut")

    monkeypatch.setattr(os, "fsync", power_cut)
    with pytest.raises(AsdjaxError, match="x.json: cannot be written .power cut."):
        documents.write_json(path, {"a": 2})
    assert documents.read_json(path) == {"a": 1}


def test_json_refuses_what_json_cannot_say(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        documents.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("sign", ["", "-"])
def test_numbers_of_thousands_of_digits_in_a_document(tmp_path, sign):
    path = tmp_path / "x.json"
    path.write_text(f'{{"seed": {sign}{"9" * 5000}}}')
    with pytest.raises(AsdjaxError) as refusal:
        documents.read_json(path)
    message = str(refusal.value)
    assert "(a number of more than 100 digits: " in message and len(message) < 300
    assert "limit" not in message  # of Python's own, which nobody should have to know
    path.write_text(f'{{"seed": {sign}{"9" * 90}}}')
    assert documents.read_json(path) == {"seed": int(sign + "9" * 90)}


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
    made_from = documents.fingerprint("weights", [1, 2])
    assert not run.is_current(path, made_from)
    run.write_artefact(path, b"score\n1.5\n", made_from)
    assert run.is_current(path, made_from)
    assert not run.is_current(path, documents.fingerprint("weights", [1, 3]))
    path.write_bytes(b"score\n1.6\n")
    assert not run.is_current(path, made_from)
    path.unlink()
    assert not run.is_current(path, made_from)


def test_a_kill_between_result_and_record_leaves_no_false_record(tmp_path, monkeypatch):
    run = begun(tmp_path)
    path = run.scores_path("fan")
    run.write_artefact(path, b"old", "old inputs")
    original = documents.write_json

    def killed(where, document):
        if "scores/fan.csv" in document:
            raise KeyboardInterrupt
        original(where, document)

    monkeypatch.setattr(run_manifest, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        run.write_artefact(path, b"new", "new inputs")
    assert path.read_bytes() == b"new"
    assert not run.is_current(path, "old inputs") and not run.is_current(path, "new inputs")


def test_log_is_cut_where_a_run_continues(tmp_path):
    run = begun(tmp_path)
    run.append_log([{"step": step, "loss": 1.0} for step in range(6)])
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write("[" * 100_000 + '\n{"step": "0"}\n{"step": ' + "9" * 5000 + "}\n")
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
    for question in run.machines, lambda: run.read_scores("fan"):
        with pytest.raises(AsdjaxError, match="has not finished .no training.json"):
            question()
    run.write_training(TRAINING)
    with pytest.raises(AsdjaxError, match="asdjax extract"):
        run.machines()
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


def finished(path):
    """A run with a file of every kind that verbs read."""
    run = begun(path)
    run.write_training(TRAINING)
    recipe = run.embedding_recipes()[run.config().extract.views[0]]
    made_from = str(MadeFrom(recipe, "float32", "clips", "train", "00:test;01:test"))
    tables = {run.embeddings_path("raw", m): (table(), made_from) for m in ("fan", "pump")}
    run.begin_extraction({place: made_from for place, (_, made_from) in tables.items()})
    run.write_embeddings(tables)
    run.append_log([{"step": 0}])
    run.write_diagnostics("fan", [{**dict.fromkeys(CLIP_COLUMNS, ""), "level_db": "1"}])
    run.write_scores("fan", [{"score": 1.0}])
    documents.write_json(run.metrics / "metrics.json", {})
    documents.write_json(run.thresholds, {})
    documents.write_json(run.checkpoints / "2" / "meta.json", {})
    documents.write_json(run.checkpoints / "2" / "files.json", {"meta.json": "x"})
    with run.lock(existing=True):
        assert run.machines() == ["fan", "pump"]
    return run


OURS = (
    ".lock", "config.yaml", "training.json", "log.jsonl", "artefacts.json", "thresholds.json",
    "metrics", "metrics/.metrics.json.partial", "metrics/metrics.json", "scores", "scores/fan.csv",
    "diagnostics", "diagnostics/fan.csv", "embeddings", "embeddings/machines.json",
    "embeddings/raw", "embeddings/raw/fan.npz", "embeddings/other", "checkpoints", "checkpoints/2",
    "checkpoints/2/meta.json", "checkpoints/2/files.json", ".embeddings.discarded",
    ".checkpoints.discarded",
)  # fmt: skip


@pytest.mark.parametrize("name", OURS)
def test_no_verb_writes_through_what_a_received_run_holds(tmp_path, name):
    victim, place = tmp_path / "victim", tmp_path / "run" / name
    run = finished(tmp_path / "run")
    away = tmp_path / "away"
    if place.exists():
        place.rename(away)
    kinds = [lambda: place.symlink_to(victim), lambda: os.mkfifo(place)]
    if away.is_dir():
        kinds.append(lambda: place.symlink_to(away))
    else:
        victim.write_text("precious")
    before = contents(victim), contents(away)
    for make in kinds:
        make()
        for verb in (score.score, train_anew):
            with pytest.raises(
                AsdjaxError, match="is a link|neither a file|not a run directory|not a regular file"
            ):
                verb(run)
        with pytest.raises(AsdjaxError, match=str(tmp_path)):
            evaluate.evaluate(run)
        assert (contents(victim), contents(away)) == before
        place.unlink()


@pytest.mark.parametrize("name", ["log.jsonl", "config.yaml", "training.json", "artefacts.json"])
def test_no_verb_reads_through_a_link_in_a_received_run(tmp_path, name):
    run = finished(tmp_path / "run")
    (tmp_path / "secret").write_bytes((run.path / name).read_bytes())
    (run.path / name).unlink()
    (run.path / name).symlink_to(tmp_path / "secret")
    for verb in (run.config, run.finished_training, run.machines, lambda: facts.read(run)):
        with pytest.raises(AsdjaxError, match=f"{name}: is a link"):
            verb()


def train_anew(run):
    """What training with --no-resume does first."""
    with run.lock():
        run.forget_training()


def contents(path):
    files = [path, *sorted(path.rglob("*"))] if path.exists() else []
    return {str(file): file.read_bytes() for file in files if file.is_file()}


def test_a_run_that_is_itself_named_by_a_link_is_fine(tmp_path):
    finished(tmp_path / "run")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with Run(tmp_path / "link").lock(existing=True):
        Run(tmp_path / "link").write_config(Config())


@pytest.mark.parametrize("name", ["../../x", "/x", "..", ".", "", ".x", "a/b", "x\0"])
def test_machines_name_no_other_places(tmp_path, name):
    run = finished(tmp_path / "run")
    machines = ["fan", name]
    listed, made_from = run.path / "embeddings" / "machines.json", run._listed(machines)
    run.write_artefact(listed, documents.json_bytes(machines), made_from)
    for verb in (score.score, evaluate.evaluate):
        with pytest.raises(AsdjaxError, match="not the name of a machine or a view"):
            verb(run)
    with pytest.raises(AsdjaxError, match="not the name of a machine or a view"):
        run.write_diagnostics(name, [{"a": 1}])


@pytest.mark.parametrize("name", ["artefacts.json", "training.json", "embeddings/machines.json"])
@pytest.mark.parametrize(
    "text",
    [
        "", "[", "1", '"x"', "[1]", '["fan", {}]', '{"a": 1}', '{"a": {"made_from": 1}}', "\xff",
        "[" * 100_000, '{"a":' * 100_000, "1" * 5000, '{"schema": "asdjax.training/2"}',
        '{"schema": "asdjax.training/2", "fingerprint": []}',
    ],
    ids=range(14),
)  # fmt: skip
def test_malformed_documents_give_one_sentence(tmp_path, name, text):
    run = finished(tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(text.encode("latin-1"))
    for verb in (score.score, evaluate.evaluate):
        with pytest.raises(AsdjaxError) as caught:
            verb(run)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "change", [{"classes": [1]}, {"n_samples": 10**12}, {"n_samples": True}, {"frozen": []}]
)
def test_a_training_of_wrong_types_is_refused(tmp_path, change):
    run = finished(tmp_path)
    run.write_training(TRAINING | change)
    with pytest.raises(AsdjaxError, match=rf"training\.json: .*{next(iter(change))}"):
        run.training()


def test_a_table_with_a_fitting_record_is_still_checked(tmp_path):
    run = finished(tmp_path)
    path = run.embeddings_path("raw", "fan")
    whole = path.read_bytes()
    few, wide = io.BytesIO(), io.BytesIO()
    np.savez(few, embedding=np.ones((2, 3), np.float32))
    np.savez(wide, **{**vars(table()), "section": np.ones((5, 2))})
    for content in (b"", b"x" * 100, whole[:-30], few.getvalue(), wide.getvalue()):
        run.write_artefact(path, content, "x")
        with pytest.raises(AsdjaxError, match="fan.npz: missing or changed"):
            run.read_embeddings("raw", "fan")


def forged(**changes):
    """The bytes of a file of embeddings with other arrays or members."""
    arrays, buffer = vars(table()), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, changes.get(name, array))
            archive.writestr(f"{name}.npy", changes.get(f"{name}.npy", member.getvalue()))
        for name, content in changes.items():
            if name not in arrays and name.removesuffix(".npy") not in arrays:
                archive.writestr(name, content)
    return buffer.getvalue()


def header(text):
    """An array's file with a given header and no values."""
    line = text.encode().ljust(2 ** len(bin(len(text))), b" ")
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line


def one(of, value):
    """A column of text with one other value."""
    array = getattr(table(), of).astype("U20")
    array[1] = value
    return array


FORGED = {
    "no rows": {name: a[:0] for name, a in vars(table()).items() if name != "calibration"},
    "split": {"split": one("split", "tset")},
    "no test clip": {"split": np.full(5, "train")},
    "section": {"section": one("section", "../../victim")},
    "other digits": {"section": one("section", "\u0661\u0661")},
    "domain": {"domain": one("domain", "weird")},
    "label": {"label": one("label", "broken")},
    "one clip twice": {"path": one("path", "fan/train/0.wav")},
    "line break": {"path": one("path", "fan/train/\n.wav")},
    "surrogate": {"path": one("path", "fan/train/\udc80.wav")},
    "not an array": {"gain.npy": b"gain"},
    "another member": {"more.txt": b"more"},
    "huge shape": {
        "gain.npy": header("{'descr': '<f4', 'fortran_order': False, 'shape': (9007199254740992,)}")
    },
    "huge text": {
        "path.npy": header("{'descr': '<U500000000', 'fortran_order': False, 'shape': (32,)}")
    },
    "parentheses": {"gain.npy": header("{'descr': " + "(" * 4500)},
    "objects": {"gain.npy": header("{'descr': '|O', 'fortran_order': False, 'shape': (5,)}")},
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_embeddings_with_a_fitting_record_are_refused(tmp_path, name):
    run = finished(tmp_path)
    path = run.embeddings_path("raw", "fan")
    run.write_artefact(path, forged(), "x")
    assert len(run.read_embeddings("raw", "fan").path) == 5
    run.write_artefact(path, forged(**FORGED[name]), "x")
    with pytest.raises(AsdjaxError, match="fan.npz: missing or changed"):
        run.read_embeddings("raw", "fan")


def test_a_zip_file_of_another_version_or_with_a_member_twice(tmp_path):
    run = finished(tmp_path)
    path = run.embeddings_path("raw", "fan")
    other = bytearray(forged())
    other[other.index(b"PK\x01\x02") + 6] = 99  # version needed to extract
    twice = io.BytesIO(forged())
    with zipfile.ZipFile(twice, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("gain.npy", b"x")
    for content in bytes(other), twice.getvalue():
        run.write_artefact(path, content, "x")
        with pytest.raises(AsdjaxError, match="fan.npz: missing or changed"):
            run.read_embeddings("raw", "fan")


@pytest.mark.parametrize(
    "change",
    [
        {"decision": None}, {"threshold": None}, {"decision": "2"}, {"threshold": "nan"},
        {"split": "tset"}, {"section": "../x"}, {"domain": "x"}, {"label": "x"}, {"path": ""},
    ],
    ids=str,
)  # fmt: skip
def test_forged_scores_with_a_fitting_record_are_refused(tmp_path, rng, change):
    run = make_run(tmp_path, {"fan": score_rows(rng, "fan")})
    rows = run.read_scores("fan")
    for row in rows:
        for name, value in change.items():
            if value is None:
                del row[name]
            else:
                row[name] = value
    forge_scores(run, rows)
    for verb in (score.score, evaluate.evaluate, evaluate.by_view):
        with pytest.raises(AsdjaxError, match="fan.csv: "):
            verb(run)


@pytest.mark.parametrize("cut", ["no train", "no test", "nothing", "twice"])
def test_forged_scores_of_other_rows_are_refused(tmp_path, rng, cut):
    run = make_run(tmp_path, {"fan": score_rows(rng, "fan")})
    rows = run.read_scores("fan")
    kept = {"no train": "test", "no test": "train", "nothing": "none"}.get(cut)
    rows = rows + rows[:1] if cut == "twice" else [row for row in rows if row["split"] == kept]
    forge_scores(run, rows)
    with pytest.raises(AsdjaxError, match="fan.csv: "):
        evaluate.evaluate(run)


def forge_scores(run, rows):
    """Scores of another origin with a record that fits: digests are no secret."""
    content = documents.csv_bytes(rows) if rows else b"path,split\n"
    run.write_artefact(run.scores_path("fan"), content, run.scores_made_from("fan"))
    run.write_thresholds({"schema": false_alarms.SCHEMA})


def test_files_of_other_origin_stay_in_a_run(tmp_path):
    run = finished(tmp_path)
    mine = [
        tmp_path / "notes.txt", tmp_path / "metrics" / "plot.txt", tmp_path / "scores" / "mine.csv",
        tmp_path / "embeddings" / "raw" / "backup.npz", tmp_path / "diagnostics" / "mine.csv",
    ]  # fmt: skip
    for path in mine:
        path.write_text("mine")
    assert run.foreign_files() == sorted(mine)
    recipe = run.embedding_recipes()[run.config().extract.views[0]]
    expected = {run.embeddings_path("raw", "pump"): f"{recipe}/other"}
    with run.lock(existing=True):
        run.begin_extraction(expected)
    gone = run.embeddings_path("raw", "fan"), run.scores_path("fan"), run.diagnostics_path("fan")
    assert not any(path.exists() for path in gone)
    assert all(path.read_text() == "mine" for path in mine)
    train_anew(run)
    assert all(path.read_text() == "mine" for path in mine)
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(
        [*mine, tmp_path / "config.yaml", tmp_path / ".lock"]
    )


@pytest.mark.parametrize(
    "name",
    [
        "embeddings/../../victim.txt", "../victim.txt", "embeddings/../config.yaml", "config.yaml",
        "training.json", "scores/../../victim.csv", "embeddings/a\0b/x.npz", "scores/\ud800.csv",
        "", "/etc/passwd", "embeddings/raw/.x.npz", "embeddings/x.npz", "scores/a/b.csv",
        "notes.txt", f"scores/{'x' * 300}.csv", f"embeddings/{'x' * 300}/fan.npz",
    ],
)  # fmt: skip
def test_a_record_of_a_file_that_is_no_result_is_refused(tmp_path, name):
    """What has a record is deleted when it is outdated, and a run may come from anybody."""
    run = finished(tmp_path / "run")
    for victim in tmp_path / "victim.txt", tmp_path / "victim.csv", tmp_path / "run" / "notes.txt":
        victim.write_text("precious")
    path = tmp_path / "run" / "artefacts.json"
    records = documents.read_json(path)
    path.write_text(json.dumps({**records, name: {"made_from": "x", "content": "y"}}))
    before = contents(tmp_path)
    with pytest.raises(AsdjaxError, match="artefacts.json: not a valid record"):
        with run.lock(existing=True):
            run.begin_extraction({})
    assert contents(tmp_path) == before
    train_anew(run)
    kept = {p: c for p, c in before.items() if "victim" in p or "notes" in p}
    assert kept.items() <= contents(tmp_path).items()


@pytest.mark.parametrize(
    "name", ["best/weights.npz", "2.bak/meta.json", "2024-notes/n.txt", "7/mine.txt", "2/mine.txt"]
)
def test_a_new_training_deletes_no_checkpoints_of_other_origin(tmp_path, name):
    run = finished(tmp_path)
    mine = run.checkpoints / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(AsdjaxError, match=f"{name}: not written by asdjax"):
        train_anew(run)
    assert mine.exists() and run.training() is not None
    mine.unlink()
    train_anew(run)


@pytest.mark.parametrize("rows", [[], [{"path": "x"}]])
def test_diagnostics_of_other_origin_stay(tmp_path, rows):
    run = finished(tmp_path)
    mine = run.diagnostics_path("fan")
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("my own notes on the fan\n")
    with pytest.raises(AsdjaxError, match="fan.csv: not written by asdjax"):
        run.write_diagnostics("fan", rows)
    assert mine.read_text() == "my own notes on the fan\n"


@pytest.mark.parametrize("name", ["checkpoints", "embeddings", "scores", "diagnostics", "metrics"])
def test_a_file_in_the_place_of_a_folder_is_refused_before_anything_is_deleted(tmp_path, name):
    run = finished(tmp_path)
    if (tmp_path / name).is_dir():
        shutil.rmtree(tmp_path / name)
    (tmp_path / name).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(AsdjaxError, match=f"{name}: is not a folder"), run.lock(existing=True):
        pass
    assert contents(tmp_path) == before


def test_a_read_only_folder_of_results_is_refused_before_records_are_lost(open_folder):
    run = finished(open_folder / "run")
    for path in [run.path, *run.path.rglob("*")]:
        os.chown(path, 65534, -1) if os.geteuid() == 0 else None
    before = contents(run.path)
    with permissions(run.path / "scores", 0o555), run.lock(existing=True):
        with pytest.raises(AsdjaxError, match="scores: is read-only"):
            run.write_artefact(run.scores_path("fan"), b"new", "new")
        with pytest.raises(AsdjaxError, match="scores: is read-only"):
            run.forget_training()
    assert contents(run.path) == before


def test_metrics_go_before_the_results_they_are_of(tmp_path, monkeypatch):
    """Else those of a machine that is no longer there would stay after a kill in between."""
    run = finished(tmp_path)
    recipe = run.embedding_recipes()[run.config().extract.views[0]]
    expected = {run.embeddings_path("raw", "pump"): f"{recipe}/other"}
    monkeypatch.setattr(run_manifest.Manifest, "keep", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), run.lock(existing=True):
        run.begin_extraction(expected)
    assert not (run.metrics / "metrics.json").exists() and not run.thresholds.exists()


def test_an_invalid_record_of_results_does_not_stop_a_new_training(tmp_path):
    run = finished(tmp_path)
    (tmp_path / "artefacts.json").write_text("[")
    train_anew(run)
    assert not (tmp_path / "artefacts.json").exists() and run.training() is None


def test_a_data_set_with_a_nul_byte_in_its_path_is_refused(tmp_path):
    run = finished(tmp_path)
    run.write_training(TRAINING | {"data": "/tmp/\0x"})
    with pytest.raises(AsdjaxError, match="training.json: .*data"):
        run.training()


def test_a_verb_on_nothing_leaves_nothing(tmp_path):
    for verb in (score.score, evaluate.evaluate):
        with pytest.raises(AsdjaxError, match="not a run directory"):
            verb(Run(tmp_path / "nope"))
    with pytest.raises(KeyboardInterrupt), Run(tmp_path / "new").lock():
        raise KeyboardInterrupt
    (tmp_path / "file").write_text("x")
    with pytest.raises(AsdjaxError, match="file: cannot be written"), Run(tmp_path / "file").lock():
        pass
    with pytest.raises(AsdjaxError, match="cannot be"), Run(tmp_path / ("x" * 300)).lock():
        pass
    with pytest.raises(AsdjaxError, match="cannot be read"):
        Run(tmp_path / ("x" * 300)).config()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


FOREIGN = {
    "config.yaml": "mine: 1\n",
    "log.jsonl": '{"epoch": 1}\n',
    "scores/mine.csv": "a\n",
    "embeddings/words/glove.npz": "e",
    "checkpoints/3/x": "e",
}


@pytest.mark.parametrize("names", [tuple(FOREIGN), *((name,) for name in FOREIGN)])
def test_a_directory_of_others_is_never_a_run(names, tmp_path):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(FOREIGN.get(name, "seed: 1"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with (
        pytest.raises(AsdjaxError, match="not a run directory, and a run would overwrite"),
        Run(tmp_path).lock(),
    ):
        pass
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("schema", ["asdjax.data/1", "asdjax.training_plan/1", "asdjax.x", None])
def test_a_document_of_another_kind_does_not_make_a_run(schema, tmp_path):
    """Such as what another command printed, and a user saved as training.json."""
    file = tmp_path / "training.json"
    documents.write_json(file, {"schema": schema})
    run = Run(tmp_path)
    with pytest.raises(AsdjaxError, match="would overwrite its training.json"), run.lock():
        pass
    for version in (1, 2, 3):  # a run of another version of asdjax stays one
        documents.write_json(file, {"schema": f"asdjax.training/{version}"})
        with run.lock():
            pass


def test_a_directory_with_the_users_own_log_may_become_a_run(tmp_path):
    """A job's log is often redirected into it; a new file system has lost+found."""
    (tmp_path / "train.log").touch()
    (tmp_path / "lost+found").mkdir()
    with Run(tmp_path).lock():
        begun(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock", "config.yaml", "lost+found", "train.log",
    ]  # fmt: skip


def test_a_run_stays_one_whatever_became_of_it(tmp_path):
    run = begun(tmp_path)
    (tmp_path / "notes.txt").touch()
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("epochs: 16", "epochs: of another version"))
    with run.lock():
        pass
    (tmp_path / "config.yaml").write_text("broken: [")
    run.write_training({"config": {}})
    with run.lock():
        pass
    (tmp_path / "training.json").unlink()
    with pytest.raises(AsdjaxError, match="not a run directory"), run.lock():
        pass


def test_what_a_killed_command_was_deleting_goes_with_the_next(tmp_path):
    run = begun(tmp_path)
    (tmp_path / ".embeddings.discarded" / "raw").mkdir(parents=True)
    for others in ".notes.discarded", ".corpus.asdjax-partial":
        (tmp_path / others).mkdir()
    with run.lock():
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".corpus.asdjax-partial", ".lock", ".notes.discarded", "config.yaml",
    ]  # fmt: skip


# one reading of the documents


def reads(monkeypatch):
    """How often each document of a run is read from now on, by name."""
    counts = collections.Counter()

    def counted(path, **limits):
        counts[Path(path).name] += 1
        return read_text(path, **limits)

    read_text = user_files.read_text
    monkeypatch.setattr(user_files, "read_text", counted)
    return counts


DOCUMENTS = ("config.yaml", "training.json", "artefacts.json")


@pytest.mark.parametrize("scope", [Run.lock, Run.snapshot])
def test_documents_are_read_once_in_a_lock_or_snapshot(tmp_path, monkeypatch, scope):
    run = finished(tmp_path)
    before = run.config(), run.training(), run.machines()
    counts = reads(monkeypatch)
    with scope(run):
        counts.clear()
        for _ in range(3):
            assert (run.config(), run.training(), run.machines()) == before
            assert run.has_scores("fan") and run.read_embeddings("raw", "pump") is not None
        assert [counts[name] for name in DOCUMENTS] == [1, 1, 1]


def test_what_is_written_in_a_lock_is_seen_in_it(tmp_path, monkeypatch):
    run = finished(tmp_path)
    with run.lock():
        assert run.has_scores("fan")
        run.write_config(dataclasses.replace(Config(), backend=KMeans()))
        assert run.config().backend == KMeans() and not run.has_scores("fan")
        counts = reads(monkeypatch)
        run.write_scores("fan", [{"score": 2.0}])
        assert run.has_scores("fan") and counts["artefacts.json"] <= 1
        run.write_training(TRAINING | {"digest": "other"})
        assert run.finished_training()["digest"] == "other" and not run.has_scores("fan")
        run.forget_training()
        assert run.training() is None and not run.is_current(run.thresholds, "x")
    assert Run(tmp_path).config() == run.config() and run.training() is None


def test_a_lock_starts_from_what_others_wrote(tmp_path):
    """A session keeps its Run while another one works on the directory: no record is lost."""
    run, other = finished(tmp_path), Run(tmp_path)
    with run.lock():
        assert run.machines() and not run.has_scores("pump")
    with other.lock():
        other.write_scores("pump", [{"score": 1.0}])
        other.write_artefact(other.scores_path("fan"), b"others", "others")
    assert run.has_scores("pump")
    with run.lock():
        run.write_artefact(run.thresholds, b"{}", "x")
    for each in (run, other, Run(tmp_path)):
        assert each.has_scores("pump") and each.is_current(each.thresholds, "x")
        assert each.is_current(each.scores_path("fan"), "others")


def test_a_snapshot_mixes_no_results_of_two_states(tmp_path):
    run, other = finished(tmp_path), Run(tmp_path)
    with run.snapshot():
        assert run.has_scores("fan")
        with other.lock():
            other.write_artefact(other.embeddings_path("raw", "fan"), b"others", "others")
            other.write_config(dataclasses.replace(Config(), backend=KMeans()))
        assert run.config() == Config()
        with pytest.raises(AsdjaxError, match="fan.npz: missing or changed"):
            run.read_embeddings("raw", "fan")  # though its new record fits
        with run.lock():  # which reads again
            assert run.config().backend == KMeans()
    assert run.config().backend == KMeans()


def test_a_record_that_could_not_be_written_is_not_remembered(tmp_path, monkeypatch):
    run = finished(tmp_path)
    with run.lock():
        assert run.has_scores("fan")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fails)
            with pytest.raises(AsdjaxError, match="disk is full"):
                run.write_scores("fan", [{"score": 2.0}])
        assert run.has_scores("fan") and Run(tmp_path).has_scores("fan")


def fails(_):
    raise OSError("disk is full")

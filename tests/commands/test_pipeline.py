"""Every verb, through the command line, on a tiny corpus."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from conftest import LAYER, TESTS, relative

import asdjax
from asdjax.cli import VERBS, main
from asdjax.commands import evaluate, score
from asdjax.config import interfaces, registry
from asdjax.config import recipe as configs
from asdjax.errors import AsdjaxError
from asdjax.files import user_files
from asdjax.runtime import host_memory
from asdjax.scoring import of_views
from asdjax.scoring.kmeans import KMeans
from asdjax.scoring.mahalanobis import Mahalanobis
from asdjax.store.checkpoint import Checkpoints
from asdjax.store.runs import Run

pytestmark = pytest.mark.usefixtures("compiled_fast")

TINY = str(TESTS / "tiny.yaml")


@pytest.fixture(scope="module")
def run_path(corpus_root, tmp_path_factory):
    """A finished run on the shared corpus; tests that change it work on a copy."""
    path = tmp_path_factory.mktemp("runs") / "run"
    assert main(["run", TINY, "--data", str(corpus_root), "--run", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def other_seed_path(corpus_root, tmp_path_factory):
    """The same with another seed."""
    path = tmp_path_factory.mktemp("runs") / "other"
    args = ["run", TINY, "--data", str(corpus_root), "--run", str(path), "--seed", "1"]
    assert main(args) == 0
    return path


@pytest.fixture
def other_seed_copy(other_seed_path, tmp_path):
    return Path(shutil.copytree(other_seed_path, tmp_path / "other"))


@pytest.fixture
def run_copy(run_path, tmp_path):
    return Path(shutil.copytree(run_path, tmp_path / "run"))


@pytest.fixture
def data_copy(corpus_root, tmp_path):
    return Path(shutil.copytree(corpus_root, tmp_path / "data"))


def snapshot(path):
    """Contents of every result file, without times and places."""
    return {
        p.relative_to(path).as_posix(): p.read_bytes()
        for pattern in ("embeddings/*/*.npz", "scores/*.csv", "metrics/*", "config.yaml")
        for p in path.glob(pattern)
    }


def stamps(path):
    return {p: p.stat().st_mtime_ns for p in path.rglob("*") if p.is_file() and p.name != ".lock"}


def test_metrics_document(run_path):
    document = json.loads((run_path / "metrics" / "metrics.json").read_text())
    assert document["schema"] == "asdjax.metrics/2"
    assert set(document["machines"]) == {"fan", "bearingEmu"}  # ToothBrush has no labels
    for figures in document["machines"].values():
        for family, names in {
            "within": ("auc_source", "auc_target"),
            "official": ("auc_source", "auc_target", "pauc"),
        }.items():
            assert all(0 <= figures[family][name] <= 1 for name in names)
    assert 0 < document["official_score"] <= 1


def test_scores_cover_every_clip_once(run_path, corpus_root):
    for machine in ("fan", "bearingEmu", "ToothBrush"):
        rows = Run(run_path).read_scores(machine)
        files = sorted(
            p.relative_to(corpus_root).as_posix() for p in corpus_root.glob(f"{machine}/*/*.wav")
        )
        assert [row["path"] for row in rows] == files
        scores = np.array([float(row["score"]) for row in rows])
        assert (
            np.isfinite(scores).all() and (scores > 0).all()
        )  # leave-one-out: no clip finds itself
        assert all(row["score"] == row["raw"] for row in rows)


def test_repeating_the_command_repeats_nothing(run_path, corpus_root, capsys):
    before = stamps(run_path)
    assert main(["run", TINY, "--data", str(corpus_root), "--run", str(run_path)]) == 0
    after = stamps(run_path)
    rewritten = {p.name for p in after if after[p] != before.get(p)}
    assert rewritten <= {"metrics.json", "metrics.csv", "config.yaml", "thresholds.json"}
    assert "training has finished" in capsys.readouterr().err


def test_a_rule_chosen_by_score_is_named_when_the_recipe_s_is_used_again(
    run_copy, corpus_root, capsys
):
    args = ["run", TINY, "--data", str(corpus_root), "--run", str(run_copy)]
    assert main(args) == 0
    assert main(["score", str(run_copy), "--decision", "conformal", "--decision.level", "0.8"]) == 0
    assert main([*args, "--decision", "conformal", "--decision.level", "0.8"]) == 0
    assert "changed by this command" not in capsys.readouterr().err
    assert main(args) == 0
    (said,) = [x for x in capsys.readouterr().err.splitlines() if "changed by this command" in x]
    assert "decision.method: conformal -> quantile" in said and "level: 0.8 -> 0.9" in said
    assert Run(run_copy).config().decision.method == "quantile"
    fusion = "{name: fusion, members: [mahalanobis, kmeans]}"
    assert main(["score", str(run_copy), "--backend", fusion]) == 0
    capsys.readouterr()
    assert main(args) == 0
    (said,) = [x for x in capsys.readouterr().err.splitlines() if "changed by this command" in x]
    assert "backend.name: fusion -> nearest_neighbours" in said and "backend.members" in said
    assert len(said) < 400 and "kmeans_clusters" not in said


@pytest.mark.parametrize("verb", ["score", "evaluate", "compare", "submit", "report"])
def test_results_without_their_record_are_not_read(verb, run_copy, run_path, tmp_path, capsys):
    (run_copy / "artefacts.json").unlink()
    more = {
        "compare": [str(run_path)],
        "submit": ["--info", str(TESTS / "submission.yaml"), "--out", str(tmp_path / "out")],
        "report": ["--out", str(tmp_path / "page.html")],
    }
    before = stamps(run_copy)
    assert main([verb, str(run_copy), *more.get(verb, ())]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"artefacts.json: missing record of results: run asdjax extract {run_copy}" in said
    assert stamps(run_copy) == before and sorted(tmp_path.iterdir()) == [run_copy]


def test_two_runs_give_identical_files(run_path, corpus_root, tmp_path):
    again = tmp_path / "again"
    assert main(["run", TINY, "--data", str(corpus_root), "--run", str(again)]) == 0
    assert snapshot(again) == snapshot(run_path)


def test_the_stored_configuration_reproduces_the_run(run_path, corpus_root, tmp_path):
    again, recipe = tmp_path / "again", str(run_path / "config.yaml")
    assert main(["run", recipe, "--data", str(corpus_root), "--run", str(again)]) == 0
    assert snapshot(again) == snapshot(run_path)


def test_another_backend_rescores_without_embedding_again(run_copy, corpus_root):
    before = stamps(run_copy)
    args = ["run", TINY, "--data", str(corpus_root), "--run", str(run_copy)]
    assert main([*args, "--backend.name", "rescaled"]) == 0
    after = stamps(run_copy)
    changed = {p.relative_to(run_copy).parts[0] for p in after if after[p] != before.get(p)}
    assert changed == {
        "scores", "metrics", "artefacts.json", "config.yaml", "thresholds.json",
    }  # fmt: skip
    assert main(["score", str(run_copy)]) == 0  # keeps the run's own backend
    assert Run(run_copy).config().backend.name == "rescaled"
    clusters = ["--backend.kmeans-clusters", "3"]
    assert main(["score", str(run_copy), "--backend.name", "kmeans", *clusters]) == 0
    assert Run(run_copy).config().backend == KMeans(kmeans_clusters=3)
    assert main(["score", str(run_copy), "--backend", "mahalanobis", "--backend.folds", "4"]) == 0
    assert Run(run_copy).config().backend == Mahalanobis(folds=4)


def test_embedder_of_a_run(run_path, corpus_root):
    embedder, table = asdjax.Embedder.load(run_path), Run(run_path).read_embeddings("raw", "fan")
    waveforms = []
    for path in table.path[:3]:
        samples, _ = soundfile.read(corpus_root / path, dtype="int16")
        waveforms.append(np.resize(samples[:, 0], embedder.n_samples))
    for batch in (np.stack(waveforms), np.stack(waveforms) / np.float32(32768)):
        assert relative(embedder(batch), table.embedding[:3]) < LAYER


def test_other_weights_than_training_left_are_refused(run_copy, corpus_root):
    run = Run(run_copy)
    run.write_training({**run.finished_training(), "digest": "0" * 32})
    with pytest.raises(asdjax.AsdjaxError, match="not those that training.json states"):
        asdjax.Embedder.load(run_copy)


AFTER_TRAINING = {
    "extract": ["extract", "{}"],
    "score": ["score", "{}"],
    "evaluate": ["evaluate", "{}"],
    "compare": ["compare", "{}", "{}"],
    "submit": ["submit", "{}", "--info", "info.yaml", "--out", "package"],
    "embed": ["embed", "{}", "clip.wav", "--out", "clip.npz"],
    "train": ["train", TINY, "--data", "{data}", "--run", "{}"],
}


def refusals(run, corpus_root, folder, monkeypatch, capsys, verbs=tuple(AFTER_TRAINING)):
    """What each verb says when it refuses a run."""
    monkeypatch.chdir(folder)
    shutil.copy(TESTS / "submission.yaml", "info.yaml")
    shutil.copy(next(corpus_root.glob("fan/train/*.wav")), "clip.wav")
    before, said = stamps(run), {}
    for verb in verbs:
        words = [word.format(run, data=corpus_root) for word in AFTER_TRAINING[verb]]
        assert main(words) == 1, verb
        said[verb] = capsys.readouterr().err
    assert stamps(run) == before and not Path("clip.npz").exists() and not Path("package").exists()
    return said


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        (None, "seed", 7),
        ("augment", "mixup", {"probability": 0.9}),
        ("optim", "learning_rate", 0.5),
        ("audio", "clip_seconds", 0.3),
        ("dataset", "label", "machine_section_attributes"),
    ],
)
def test_settings_edited_after_training_are_refused(
    section, key, value, run_copy, corpus_root, tmp_path, monkeypatch, capsys
):
    """No verb states of a training what was never trained."""
    path = run_copy / "config.yaml"
    tree = yaml.safe_load(path.read_text())
    (tree if section is None else tree[section])[key] = value
    path.write_text(yaml.safe_dump(tree))
    name = key if section is None else f"{section}.{key}"
    for words in refusals(run_copy, corpus_root, tmp_path, monkeypatch, capsys).values():
        assert f"{path}: not the settings that the run was trained with ({name}" in words


def test_an_edited_training_is_refused(run_copy, corpus_root, tmp_path, monkeypatch, capsys):
    path = run_copy / "training.json"
    record = json.loads(path.read_text())
    for change in {"n_samples": 6000}, {"seed": 3}, {"classes": ["fan/00"]}, {"fingerprint": None}:
        path.write_text(json.dumps({**record, **change}))
        for words in refusals(run_copy, corpus_root, tmp_path, monkeypatch, capsys).values():
            assert f"{path}: changed since training: " in words


@pytest.mark.parametrize("edit", [None, lambda text: text.replace("0.9", "0.8")])
def test_changed_thresholds_are_refused(edit, run_copy, corpus_root, tmp_path, monkeypatch, capsys):
    path = run_copy / "thresholds.json"
    good = path.read_text()
    path.unlink() if edit is None else path.write_text(edit(good))
    verbs = "evaluate", "compare", "submit"
    for words in refusals(run_copy, corpus_root, tmp_path, monkeypatch, capsys, verbs).values():
        assert f"{path}: missing, changed, or of other scores: run asdjax score" in words
    assert main(["score", str(run_copy)]) == 0
    assert path.read_text() == good and main(["evaluate", str(run_copy)]) == 0


def test_a_shortened_list_of_machines_is_refused(
    run_copy, corpus_root, tmp_path, monkeypatch, capsys
):
    path = run_copy / "embeddings" / "machines.json"
    good = path.read_bytes()
    path.write_text(json.dumps(json.loads(good)[:1]))
    verbs = "score", "evaluate", "compare", "submit"
    for words in refusals(run_copy, corpus_root, tmp_path, monkeypatch, capsys, verbs).values():
        assert f"{path}: missing, changed since extraction, or" in words
    before = stamps(run_copy)
    assert main(["extract", str(run_copy)]) == 0
    assert path.read_bytes() == good
    changed = {p.relative_to(run_copy).as_posix() for p, s in stamps(run_copy).items()
               if s != before.get(p)}  # fmt: skip
    assert changed == {"embeddings/machines.json", "artefacts.json"}  # nothing is embedded again
    assert main(["evaluate", str(run_copy)]) == 0


def test_a_new_training_leaves_no_old_results(run_copy, corpus_root, capsys):
    args = ["--data", str(corpus_root), "--run", str(run_copy), "--no-resume", "--seed", "5"]
    assert main(["train", TINY, *args]) == 0
    assert main(["score", str(run_copy)]) == 1
    assert "asdjax extract" in capsys.readouterr().err
    assert main(["evaluate", str(run_copy)]) == 1


def test_changed_or_foreign_scores_are_refused(run_copy, capsys):
    path = Run(run_copy).scores_path("fan")
    content = path.read_text()
    path.write_text(content.replace("fan/test", "fan/tset"))
    assert main(["evaluate", str(run_copy)]) == 1
    assert "fan.csv" in capsys.readouterr().err
    assert main(["score", str(run_copy)]) == 0
    assert path.read_text() == content
    recipe = (run_copy / "config.yaml").read_text()
    (run_copy / "config.yaml").write_text(recipe.replace("metric: cosine", "metric: euclidean"))
    assert main(["evaluate", str(run_copy)]) == 1
    assert "asdjax score" in capsys.readouterr().err


def test_an_unfinished_extraction_is_not_scored(run_copy, capsys):
    Run(run_copy).embeddings_path("raw", "fan").unlink()
    assert main(["score", str(run_copy)]) == 1
    assert "not of all machines" in capsys.readouterr().err


def test_other_sound_under_the_same_names_is_noticed(run_copy, tmp_path, data_copy, capsys):
    for path in (data_copy / "fan" / "train").glob("*.wav"):
        samples, rate = soundfile.read(path, dtype="int16")
        soundfile.write(path, samples[::-1], rate, "PCM_16")
    assert main(["run", TINY, "--data", str(data_copy), "--run", str(run_copy)]) == 1
    assert "training clips or their batches changed" in capsys.readouterr().err


def test_options_may_come_before_the_recipe(corpus_root, capsys, monkeypatch):
    def check(config, corpus):
        found = [config.train.drop_last, config.optim.betas, config.loss.dynamic]
        return {"found": found, "fits": True}

    monkeypatch.setattr("asdjax.commands.check.check", check)
    plain = configs.load(TINY)
    before = [plain.train.drop_last, list(plain.optim.betas), plain.loss.dynamic]
    cases = ["--train.drop-last"], ["--optim.betas", "0.8", "0.99"], ["--loss.dynamic"]
    for i, (options, value) in enumerate(zip(cases, (True, [0.8, 0.99], True), strict=True)):
        assert main(["check", "--data", str(corpus_root), "--json", *options, TINY]) == 0
        expected = [*before[:i], value, *before[i + 1 :]]
        assert expected != before
        assert json.loads(capsys.readouterr().out)["found"] == expected


@pytest.mark.parametrize("run", ["/dev/null", "/dev/null/run", "/proc/run"])
def test_impossible_places_are_one_sentence(corpus_root, run, capsys):
    args = ["train", TINY, "--data", str(corpus_root), "--run", run]
    assert main(args) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("asdjax: ")


def test_z_scored_views(run_copy):
    before = {r["path"]: float(r["score"]) for r in Run(run_copy).read_scores("fan")}
    assert main(["score", str(run_copy), "--backend.combine-views", "z_score"]) == 0
    rows = Run(run_copy).read_scores("fan")
    train = np.array([before[r["path"]] for r in rows if r["split"] == "train"])
    for row in rows:
        expected = (before[row["path"]] - train.mean()) / train.std()
        assert float(row["score"]) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_a_changed_clip_is_embedded_again(run_copy, data_copy, capsys):
    assert main(["extract", str(run_copy), "--data", str(data_copy)]) == 0
    before = {m: Run(run_copy).read_embeddings("raw", m) for m in ("fan", "bearingEmu")}
    path = sorted((data_copy / "fan" / "test").glob("*.wav"))[0]
    samples, rate = soundfile.read(path, dtype="int16")
    soundfile.write(path, samples[::-1], rate, "PCM_16")
    capsys.readouterr()
    assert main(["extract", str(run_copy), "--data", str(data_copy)]) == 0
    after = {m: Run(run_copy).read_embeddings("raw", m) for m in ("fan", "bearingEmu")}
    assert np.array_equal(before["bearingEmu"].embedding, after["bearingEmu"].embedding)
    differs = (before["fan"].embedding != after["fan"].embedding).any(axis=1)
    assert list(after["fan"].path[differs]) == [path.relative_to(data_copy).as_posix()]


def test_faulty_files_are_refused_or_skipped_and_counted(data_copy, tmp_path, capsys):
    bad = sorted((data_copy / "fan" / "train").glob("*.wav"))[3]
    bad.write_bytes(bad.read_bytes()[:500])
    args = ["run", TINY, "--data", str(data_copy), "--run", str(tmp_path / "run")]
    assert main(args) == 1
    message = capsys.readouterr().err
    assert bad.name in message and "truncated" in message and "--dataset.skip" in message
    assert not (tmp_path / "run").exists()
    shorter = ["--train.epochs", "1", "--train.drop-last"]
    assert main([*args, "--dataset.skip", "truncated", *shorter]) == 0
    assert Run(tmp_path / "run").finished_training()["skipped"] == {"truncated": 1}
    assert "1 truncated" in capsys.readouterr().err


def test_data_document(corpus_root, capsys):
    assert main(["data", str(corpus_root), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "asdjax.data/1" and set(document["machines"]) == {
        "fan", "bearingEmu", "ToothBrush",
    }  # fmt: skip
    assert main(["data", str(corpus_root)]) == 0
    assert "ToothBrush" in capsys.readouterr().out


def test_check(corpus_root, capsys):
    assert main(["check", TINY, "--data", str(corpus_root), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["steps"] == 3 * 3 and len(facts["classes"]) == 3 and facts["n_samples"] == 6400
    assert facts["step_memory_bytes"] > facts["parameters"] * 4
    assert facts["fits"] and facts["step_memory_bytes"] < facts["needed_bytes"]


def test_check_says_whether_training_fits(corpus_root, capsys, monkeypatch):
    monkeypatch.setattr(host_memory, "total", lambda: 2**26)
    small = ["--train.batch-size", "4"]  # few parts of which to try the memory
    assert main(["check", TINY, "--data", str(corpus_root), *small]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("training does not fit: needs about ")
    assert "this machine has 0.0625 GiB: lower train.batch_size" in last


def test_check_names_settings_with_which_training_fits(corpus_root, tmp_path, capsys, monkeypatch):
    args = ["check", TINY, "--data", str(corpus_root), "--json"]

    def checked(*more):
        code = main([*args, *more])
        return code, json.loads(capsys.readouterr().out)

    _, at_once = checked()
    monkeypatch.setattr(host_memory, "resident", lambda: 0)
    beside = at_once["audio_buffer_bytes"]
    monkeypatch.setattr(host_memory, "total", lambda: at_once["step_memory_bytes"] + beside - 1)
    code, facts = checked()
    assert code == 1 and facts["remedy"] == "--train.accumulate 2" and not facts["fits"]
    code, fitting = checked(*facts["remedy"].split())
    assert code == 0 and fitting["fits"] and fitting["remedy"] is None
    assert fitting["step_memory_bytes"] < at_once["step_memory_bytes"]
    assert main([arg for arg in args if arg != "--json"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert "fits with --train.accumulate 2 (batch normalisation is then by the part)" in last


def test_a_batch_that_cannot_be_divided_into_parts_is_refused(corpus_root, capsys):
    args = ["check", TINY, "--data", str(corpus_root), "--train.batch-size", "10"]
    assert main([*args, "--train.accumulate", "4"]) == 1
    assert "train.accumulate" in capsys.readouterr().err
    assert main([*args, "--train.accumulate", "10"]) == 1
    assert "choose at most 5" in capsys.readouterr().err
    assert main([*args, "--train.accumulate", "2", "--loss.dynamic"]) == 2
    assert "sub_cluster_adacos" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["check", "run"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "need two training clips"),
        (("--backend.name", "mahalanobis"), "mahalanobis needs three"),
        (("--decision.method", "conformal"), "too few for level 0.9"),
    ],
)
def test_what_cannot_be_scored_is_said_before_training(
    verb, options, words, data_copy, tmp_path, capsys
):
    keep = 1 if not options else 2
    for path in sorted(data_copy.glob("fan/train/*.wav"))[keep:]:
        path.unlink()
    where = ["--run", str(tmp_path / "run")] if verb == "run" else []
    assert main([verb, TINY, "--data", str(data_copy), *where, *options]) == 1
    said = capsys.readouterr().err
    assert "fan section 00: " in said and words in said and not (tmp_path / "run").exists()


def test_clips_of_which_little_is_scored(corpus_root, capsys):
    once = ["check", TINY, "--data", str(corpus_root), "--audio.clip-seconds"]
    assert main([*once, "0.3"]) == 0
    assert "only the first 0.3 s are scored" in capsys.readouterr().out
    assert main([*once, "auto"]) == 0
    assert "are scored" not in capsys.readouterr().out


def test_a_run_in_use_is_neither_compared_nor_written(run_copy, corpus_root, capsys):
    train = ["train", TINY, "--data", str(corpus_root), "--run", str(run_copy)]
    before = stamps(run_copy)
    with Run(run_copy).lock():
        for options in [], ["--seed", "1"], ["--no-resume"]:
            assert main([*train, *options]) == 1
            assert "another process is writing to this run" in capsys.readouterr().err
    assert stamps(run_copy) == before


def test_deleting_the_newest_checkpoint_continues_from_the_older_one(run_copy, corpus_root, capsys):
    """As the sentence on a damaged one promises: to the same weights, without scoring anew."""
    training = Run(run_copy).finished_training()
    newest = run_copy / "checkpoints" / str(training["step"])
    next(path for path in newest.rglob("*") if path.is_file()).write_bytes(b"damaged")
    (run_copy / "artefacts.json").unlink()
    assert main(["extract", str(run_copy)]) == 1
    assert f"{newest}: this checkpoint is missing or damaged" in capsys.readouterr().err
    shutil.rmtree(newest)
    assert main(["run", TINY, "--data", str(corpus_root), "--run", str(run_copy)]) == 0
    said = capsys.readouterr().err
    assert f"{newest}: this checkpoint is gone" in said and "continuing after step 6 of 9" in said
    assert Run(run_copy).finished_training()["digest"] == training["digest"]


def test_an_augmentation_that_the_encoder_does_not_apply_is_said(corpus_root, capsys):
    check = ["check", TINY, "--data", str(corpus_root), "--augment.spec-augment.probability"]
    assert main([*check, "0.5"]) == 0
    assert "augment.spec_augment: multiresnet does not apply it" in capsys.readouterr().out
    assert main([*check, "0"]) == 0
    assert "spec_augment" not in capsys.readouterr().out


def test_one_class_trains_nothing(corpus_root, tmp_path, capsys):
    one = ["--data", str(corpus_root), "--dataset.train-machines", "fan", "--train.epochs", "1"]
    for verb in ["check"], ["train", "--run", str(tmp_path / "no")], ["run", "--run", "no"]:
        assert main([verb[0], TINY, *one, *verb[1:]]) == 1
        said = capsys.readouterr().err
        assert "all 16 training clips are of one class (fan/00)" in said
        assert "dataset.label to machine_section_attributes or" in said and "beats_frozen" in said
    assert not (tmp_path / "no").exists() and not Path("no").exists()
    run = ["--run", str(tmp_path / "run")]
    assert main(["train", TINY, *one, *run, "--train.allow-one-class"]) == 0
    assert "of one class (fan/00): nothing is learned" in capsys.readouterr().err
    again = [*one[:2], *one[-2:], *run, "--train.allow-one-class", "--no-resume"]
    assert main(["train", TINY, *again]) == 0
    assert "one class" not in capsys.readouterr().err


def test_evaluate_several_runs(run_path, run_copy, other_seed_copy, corpus_root, capsys):
    assert main(["evaluate", str(run_path), str(run_copy)]) == 1
    assert "different seeds" in capsys.readouterr().err
    other = other_seed_copy
    args = ["run", TINY, "--data", str(corpus_root), "--run", str(other), "--seed", "1"]
    assert main([*args, "--json"]) == 0
    single = json.loads(capsys.readouterr().out)
    assert main(["evaluate", str(run_path), str(other), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    first = json.loads((run_path / "metrics" / "metrics.json").read_text())
    scores = [first["official_score"], single["official_score"]]
    assert document["seed"] == [0, 1] and document["seeds"] == 2
    assert document["official_score"]["mean"] == pytest.approx(np.mean(scores))
    assert document["official_score"]["std"] == pytest.approx(np.std(scores, ddof=1))
    assert main(["score", str(other), "--backend.name", "rescaled"]) == 0
    assert main(["evaluate", str(run_path), str(other)]) == 1
    assert "backend.name" in capsys.readouterr().err
    assert main(["evaluate", str(run_path), "--markdown"]) == 0
    out = capsys.readouterr().out
    assert "official AUC source" in out and "within AUC target" in out and "| fan |" in out


def test_data_without_labels_says_so(corpus_root, tmp_path, capsys):
    args = ["run", TINY, "--data", str(corpus_root), "--run", str(tmp_path / "run")]
    assert main([*args, "--dataset.score-machines", "ToothBrush", "--train.epochs", "1"]) == 0
    printed = capsys.readouterr()
    assert "no scored clip has a label" in printed.out
    assert f"the anomaly scores are in {tmp_path / 'run' / 'scores'}" in printed.out
    assert not (tmp_path / "run" / "metrics").exists()
    assert (tmp_path / "run" / "scores" / "ToothBrush.csv").exists()


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        ([], 2, "usage"),
        (["dance"], 2, "no command 'dance'"),
        (["runn"], 2, "no command 'runn': did you mean 'run'?"),
        (["run", "system9", "--data", "d", "--run", "r"], 1, "system1"),
        (["run", "system1", "--data", "nowhere", "--run", "r"], 1, "nowhere"),
        (["extract", "nowhere"], 1, "nowhere: there is no such run directory"),
        (["score", "nowhere"], 1, "nowhere: there is no such run directory"),
        (["evaluate", "nowhere"], 1, "nowhere: there is no such run directory"),
        (["compare", "nowhere", "there"], 1, "nowhere: there is no such run directory"),
        (["submit", "nowhere", "--info", "i", "--out", "o"], 1, "no such run directory"),
        (["embed", "nowhere", "a.wav", "--out", "e.npz"], 1, "nowhere: there is no such run"),
        (["evaluate"], 2, "name run directories"),
        (["train", "system1", "--data", "d", "--run", "r", "--optim.eps", "inf"], 2, "optim.eps"),
    ],
)
def test_wrong_use(args, code, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(args) == code
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "code", "words"),
    [
        (["--audio.clip-seconds", "0.1"], 1, "too short for multiresnet"),
        (["--train.epochs", "0"], 2, "train.epochs: must be at least 1"),
        (["--train.batch-size", "1000", "--train.drop-last"], 1, "train.batch_size"),
        (["--dataset.train-machines", "pump"], 1, "pump"),
        (["--loss.name", "adacos", "--dataset.train-machines", "fan"], 1, "loss"),
    ],
)
def test_impossible_training_leaves_nothing(corpus_root, tmp_path, override, code, words, capsys):
    args = ["train", TINY, "--data", str(corpus_root), "--run", str(tmp_path / "run")]
    assert main([*args, *override]) == code
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("asdjax: ") and words in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_help(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        sys.exit(main([verb, "--help"]))
    assert stop.value.code == 0 and "usage: asdjax" in capsys.readouterr().out


def test_help_of_a_recipe_shows_its_values(capsys):
    with pytest.raises(SystemExit):
        main(["train", TINY, "--help-all"])
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "CONFIG" in out and "(default: 0.4)" in out and "--optim.learning-rate FLOAT" in out


def test_unknown_option_is_a_usage_error(corpus_root):
    with pytest.raises(SystemExit) as stop:
        main(["train", TINY, "--data", str(corpus_root), "--run", "r", "--optim.learning-rat", "1"])
    assert stop.value.code == 2


def test_help_imports_no_jax():
    program = (
        "import sys; from asdjax.cli import main; main(['--help'])\n"
        "print('loaded', *{'jax', 'flax', 'numpy', 'scipy', 'sklearn'} & set(sys.modules))"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert out.stdout.splitlines()[-1] == "loaded"


@pytest.mark.parametrize("verb", [["score"], ["evaluate"]])
def test_scoring_needs_no_jax(run_copy, verb):
    program = (
        "import sys\n"
        "for name in ('jax', 'jaxlib', 'flax', 'orbax'): sys.modules[name] = None\n"
        "from asdjax.cli import main\n"
        f"sys.exit(main({[*verb, str(run_copy)]!r}))"
    )
    if verb == ["score"]:
        shutil.rmtree(run_copy / "scores")
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_embeddings_of_another_precision_are_made_again(run_copy, capsys, monkeypatch):
    """As on a device whose products are not float32; embeddings of both are never compared."""
    assert Run(run_copy).finished_training()["compute_dtype"] == "float32"
    facts = json.loads((run_copy / "thresholds.json").read_text())
    assert facts["compute_dtype"] == "float32"
    before = {path: path.stat().st_mtime_ns for path in run_copy.glob("embeddings/*/*.npz")}
    monkeypatch.setattr(interfaces, "precision_on", lambda platform, dtype: "tensorfloat32")
    assert main(["extract", str(run_copy)]) == 0
    assert all(path.stat().st_mtime_ns > before[path] for path in before)
    assert main(["evaluate", str(run_copy)]) == 1 and "asdjax score" in capsys.readouterr().err
    assert main(["score", str(run_copy)]) == 0
    facts = json.loads((run_copy / "thresholds.json").read_text())
    assert facts["compute_dtype"] == "tensorfloat32"


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_changed_clip_is_noticed_whatever_its_size_and_time(split, run_copy, data_copy, capsys):
    args = ["run", TINY, "--data", str(data_copy), "--run", str(run_copy)]
    assert main(args) == 0  # a copy of the data set: nothing is made again
    assert "embeddings are up to date" in capsys.readouterr().err
    before = snapshot(run_copy)
    for path in sorted((data_copy / "fan" / split).glob("*.wav")):
        times, content = path.stat(), bytearray(path.read_bytes())
        middle = len(content) // 3 // 4 * 4
        content[middle : middle + 4000] = bytes(4000)
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    code = main(args)
    printed = capsys.readouterr().err
    if split == "train":  # what was trained on
        assert code == 1 and "the training clips" in printed and "clips" in printed
    else:
        assert code == 0 and "embeddings are up to date" not in printed
        assert snapshot(run_copy)["embeddings/raw/fan.npz"] != before["embeddings/raw/fan.npz"]


def test_metrics_are_not_written_next_to_newer_scores(run_copy, capsys, monkeypatch):
    """Another process scores the run while the bootstrap resamples are computed."""
    real = evaluate.bootstrap.intervals

    def meanwhile(*args, **more):
        monkeypatch.setattr(evaluate.bootstrap, "intervals", real)
        run = Run(run_copy)
        decision = registry.find("threshold", "gamma")()
        score.score(run, dataclasses.replace(run.config(), decision=decision))
        return real(*args, **more)

    monkeypatch.setattr(evaluate.bootstrap, "intervals", meanwhile)
    assert main(["evaluate", str(run_copy)]) == 1
    printed = capsys.readouterr().err
    assert "scores: changed meanwhile" in printed and "asdjax evaluate" in printed
    assert not (run_copy / "metrics" / "metrics.json").exists()
    assert main(["evaluate", str(run_copy)]) == 0


def test_a_run_directory_that_is_replaced_meanwhile(run_copy, capsys, monkeypatch):
    real = score._decide

    def replaced(*args):
        run_copy.rename(run_copy.with_name("elsewhere"))
        shutil.copytree(run_copy.with_name("elsewhere"), run_copy)
        return real(*args)

    monkeypatch.setattr(score, "_decide", replaced)
    assert main(["score", str(run_copy), "--decision", "gamma"]) == 1
    assert f"{run_copy}: was moved or replaced" in capsys.readouterr().err


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize(
    "verb, owner, function",
    [
        ("score", Run, "write_scores"),
        ("score", Run, "write_thresholds"),
        ("extract", Run, "write_embeddings"),
        ("evaluate", evaluate, "_document"),
        ("train", Checkpoints, "save"),
        ("train", Run, "append_log"),
    ],
)
def test_a_run_directory_that_is_moved_is_not_made_again(
    verb, owner, function, relative, run_copy, corpus_root, capsys, monkeypatch
):
    real, elsewhere = getattr(owner, function), run_copy.with_name("elsewhere")
    named = Path(run_copy.name) if relative else run_copy
    monkeypatch.chdir(run_copy.parent)
    args = {
        "score": [str(named), "--backend", "kmeans"],
        "train": [TINY, "--data", str(corpus_root), "--run", str(named), "--train.epochs", "4"],
    }.get(verb, [str(named)])
    if verb == "extract":
        shutil.rmtree(run_copy / "embeddings")
    left = {}

    def moved(*args, **options):
        run_copy.rename(elsewhere)
        left.update(stamps(elsewhere))
        return real(*args, **options)

    monkeypatch.setattr(owner, function, moved)
    assert main([verb, *args]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"{named}: was moved or replaced" in said or f"{named}: not a run directory" in said
    assert not run_copy.exists() and stamps(elsewhere) == left


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e20])
def test_the_mean_embedding_has_unit_vectors_at_any_scale(scale):
    rng = np.random.default_rng(3)
    views = rng.standard_normal((2, 5, 7)).astype(np.float32)
    unit = views / np.linalg.norm(views.astype(np.float64), axis=2, keepdims=True)
    mean = of_views.mean([np.float32(scale) * view for view in views], "cosine")
    np.testing.assert_allclose(mean, unit.mean(axis=0), rtol=0, atol=1e-6)


def test_another_choice_of_machines_is_noticed(run_copy, corpus_root, capsys):
    args = [TINY, "--data", str(corpus_root), "--run", str(run_copy)]
    assert main(["train", *args, "--dataset.score-machines", "fan"]) == 0
    for verb in "score", "evaluate":
        assert main([verb, str(run_copy)]) == 1
        assert "asdjax extract" in capsys.readouterr().err
    for verb in "extract", "score":
        assert main([verb, str(run_copy)]) == 0
    assert not (run_copy / "metrics" / "metrics.json").exists()  # of more machines
    assert main(["evaluate", str(run_copy)]) == 0
    metrics = json.loads((run_copy / "metrics" / "metrics.json").read_text())
    assert list(metrics["machines"]) == ["fan"]


def test_scores_that_change_between_check_and_reading_are_refused(run_copy, monkeypatch):
    run, path = Run(run_copy), run_copy / "scores" / "fan.csv"
    other = path.read_bytes().replace(b"normal", b"anomaly")
    real = user_files.open_regular

    def replaced(file):
        if file == path:
            path.write_bytes(other)
        return real(file)

    with run.snapshot():
        run.scored_machines()
        monkeypatch.setattr(user_files, "open_regular", replaced)
        with pytest.raises(AsdjaxError, match="asdjax score"):
            run.read_scores("fan")


def test_runs_of_other_test_clips_are_not_averaged(
    run_copy, other_seed_copy, data_copy, tmp_path, capsys
):
    runs = [run_copy, other_seed_copy]
    clips = sorted((data_copy / "fan" / "test").glob("*normal*.wav"))
    for seed, run in enumerate(runs):
        elsewhere = clips[seed].rename(tmp_path / "clip.wav")  # another clip is missing
        args = ["run", TINY, "--data", str(data_copy), "--run", str(run), "--seed", str(seed)]
        assert main(args) == 0, capsys.readouterr().err
        elsewhere.rename(clips[seed])
    capsys.readouterr()
    assert main(["evaluate", *map(str, runs)]) == 1
    assert "other clips" in capsys.readouterr().err


def test_test_clips_of_other_contents_are_neither_averaged_nor_compared(
    run_path, other_seed_copy, data_copy, tmp_path, capsys
):
    first, second = sorted((data_copy / "fan" / "test").glob("*normal*.wav"))[:2]
    first.rename(tmp_path / "clip.wav")
    second.rename(first)
    (tmp_path / "clip.wav").rename(second)
    other = str(other_seed_copy)
    args = ["run", TINY, "--data", str(data_copy), "--run", other, "--seed", "1"]
    assert main(args) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert main(["evaluate", str(run_path), other]) == 1
    assert "other clips" in capsys.readouterr().err
    assert main(["compare", str(run_path), other]) == 1
    assert "its test clips of fan have other contents" in capsys.readouterr().err
    assert main(["compare", other, other]) == 0
    assert "contents" not in capsys.readouterr().err


def test_a_copy_of_the_data_set_in_another_layout_has_the_same_clips(
    run_path, corpus_root, tmp_path, capsys
):
    shutil.copytree(corpus_root, tmp_path / "data" / "dev_data" / "raw")
    other = str(tmp_path / "other")
    args = ["run", TINY, "--data", str(tmp_path / "data"), "--run", other, "--seed", "1"]
    code = main(args)
    assert code == 0, capsys.readouterr().err
    capsys.readouterr()
    assert main(["compare", str(run_path), other]) == 0
    assert "contents" not in capsys.readouterr().err


def test_other_training_clips_are_said(run_path, run_copy, data_copy, capsys):
    args = ["extract", str(run_copy), "--data", str(data_copy)]
    assert main(args) == 0
    assert "trained on" not in capsys.readouterr().err
    path = next((data_copy / "fan" / "train").glob("*.wav"))
    samples, rate = soundfile.read(path, dtype="int16")
    soundfile.write(path, samples // 2, rate, "PCM_16")
    assert main(args) == 0
    assert f"not those that {run_copy} was trained on" in capsys.readouterr().err
    assert main(["score", str(run_copy)]) == 0
    assert main(["compare", str(run_path), str(run_copy)]) == 0
    assert "other training clips of fan:" in capsys.readouterr().err


def test_a_run_remembers_where_its_data_set_is_now(run_copy, data_copy, tmp_path):
    args = ["--run", str(run_copy), "--data", str(data_copy)]
    assert main(["train", TINY, *args]) == 0
    assert Run(run_copy).finished_training()["data"] == str(data_copy)
    assert main(["extract", str(run_copy)]) == 0
    assert main(["score", str(run_copy)]) == 0

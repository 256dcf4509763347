"""The loss on held-out clips: against NumPy, on one and on eight devices, and in whole runs."""

import dataclasses
import json
import shutil
import types

import numpy as np
import pytest
import soundfile
from conftest import DEVICES_LOSS, TESTS
from support.training_steps import in_float64, kill_at_step

import asdjax
from asdjax.commands.check import check
from asdjax.commands.train import train
from asdjax.config import recipe as configs
from asdjax.data.corpus import open_corpus
from asdjax.runtime import parallel
from asdjax.store.runs import Run
from asdjax.training import step_log, weights
from asdjax.training.plan import plan
from asdjax.training.step_log import StepLog
from asdjax.training.validation import Validation

pytestmark = pytest.mark.usefixtures("compiled_fast")


def recipe(name="tiny", **changes):
    config = configs.load(str(TESTS / f"{name}.yaml"))
    train_section = dataclasses.replace(config.train, **{"validation": 0.2, "epochs": 2, **changes})
    return dataclasses.replace(config, train=train_section)


def rows(run):
    """The log without the times."""
    lines = map(json.loads, (run.path / "log.jsonl").read_text().splitlines())
    times = "seconds", "clips_per_second"
    return [{key: value for key, value in row.items() if key not in times} for row in lines]


def by_numpy(run, root):
    """Mean loss and accuracy of a finished run's held-out clips, from its embeddings."""
    training = run.finished_training()
    trained, _ = weights.parts(run)
    centres = trained["params"]["head"]["centres"].astype(np.float64)
    scale = float(trained["stats"]["head"]["scale"])
    waves = [soundfile.read(root / path)[0][: training["n_samples"], 0] for path in held_out(run)]
    embedding = asdjax.Embedder.load(run.path)(np.array(waves, np.float32)).astype(np.float64)
    cosine = (embedding / np.linalg.norm(embedding, axis=1, keepdims=True)) @ (
        centres / np.linalg.norm(centres, axis=0)
    )
    exponentials = np.exp(scale * cosine).reshape(len(waves), len(training["classes"]), -1).sum(2)
    probability = exponentials / exponentials.sum(1, keepdims=True)
    label = np.array(
        [
            next(i for i, name in enumerate(training["classes"]) if name.startswith(path[:3]))
            for path in held_out(run)
        ]
    )
    loss = -np.log(probability[np.arange(len(waves)), label])
    return loss.mean(), (probability.argmax(1) == label).mean()


@pytest.fixture(scope="module")
def whole(corpus_root, tmp_path_factory):
    """A finished run."""
    config, run = recipe(), Run(tmp_path_factory.mktemp("whole") / "run")
    train(config, open_corpus(corpus_root, config), run)
    return run


def held_out(run):
    return run.finished_training()["held_out"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "devices"), [("tiny", 8), ("tiny_beats", 1)])
def test_the_last_validation_is_that_of_other_final_weights(corpus_root, tmp_path, name, devices):
    config, run = recipe(name, devices=devices), Run(tmp_path / "run")
    train(config, open_corpus(corpus_root, config), run)
    check_last_validation(corpus_root, run, config)


def test_the_last_validation_is_that_of_the_final_weights(corpus_root, whole):
    check_last_validation(corpus_root, whole, recipe())


def check_last_validation(corpus_root, run, config):
    log = rows(run)
    measured = [row for row in log if "validation_loss" in row]
    assert [row["epoch"] for row in measured] == list(range(config.train.epochs))
    assert measured[-1] is log[-1]
    loss, accuracy = by_numpy(run, corpus_root)
    assert measured[-1]["validation_loss"] == pytest.approx(loss, rel=1e-5)
    assert measured[-1]["validation_accuracy"] == pytest.approx(accuracy, abs=1e-12)
    assert len({row["validation_loss"] for row in measured}) == len(measured)


def test_one_and_eight_devices_agree_in_float64(corpus_root, float64):
    """Batches of 8 for 10 clips: the last one has padding."""
    found = []
    for devices, parallel_by in ((1, "pmap"), (8, "pmap"), (8, "shard_map")):
        config = recipe(devices=devices, batch_size=8, parallel=parallel_by)
        work = plan(config, open_corpus(corpus_root, config))
        learner = work.learner()
        state = parallel.replicate(in_float64(learner.start()), work.devices)
        found.append(Validation(work, learner)(state))
    assert len(work.held_out) == 10
    assert found[0]["validation_loss"] == pytest.approx(
        found[1]["validation_loss"], rel=DEVICES_LOSS
    )
    assert found[0]["validation_accuracy"] == found[1]["validation_accuracy"]
    assert found[1] == found[2]


def test_padding_and_batch_size_change_nothing(corpus_root, float64):
    found = set()
    for batch_size, accumulate in ((2, 1), (3, 1), (16, 1), (16, 4)):
        config = recipe(batch_size=batch_size, accumulate=accumulate)
        work = plan(config, open_corpus(corpus_root, config))
        learner = work.learner()
        state = parallel.replicate(in_float64(learner.start()), work.devices)
        held_out = range(len(work.held_out))
        shapes = {b["waveform"].shape for b, _ in Validation(work, learner)._batches(held_out)}
        assert len(shapes) == 1 and shapes.pop()[0] <= batch_size // accumulate
        found.add(round(Validation(work, learner)(state)["validation_loss"], 12))
    assert len(found) == 1


def test_held_out_clips_are_not_trained_on(corpus_root, whole, tmp_path):
    """Training is that on a data set without them; test clips are never held out."""
    out = held_out(whole)
    assert len(out) == 10 and all("/train/" in path for path in out)
    shutil.copytree(corpus_root, tmp_path / "data")
    for path in out:
        (tmp_path / "data" / path).unlink()
    without, other = recipe(validation=0.0), Run(tmp_path / "other")
    train(without, open_corpus(tmp_path / "data", without), other)
    assert other.finished_training()["digest"] == whole.finished_training()["digest"]
    assert held_out(other) == [] and "validation_loss" not in rows(other)[-1]


@pytest.mark.slow
def test_an_interrupted_run_of_beats_has_the_log_of_an_uninterrupted_one(corpus_root, tmp_path):
    config, whole = recipe("tiny_beats"), Run(tmp_path / "whole")
    train(config, open_corpus(corpus_root, config), whole)
    check_interrupted(corpus_root, tmp_path, whole, config)


def test_an_interrupted_run_has_the_log_of_an_uninterrupted_one(corpus_root, tmp_path, whole):
    check_interrupted(corpus_root, tmp_path, whole, recipe())


def check_interrupted(corpus_root, tmp_path, whole, config):
    corpus, halved = open_corpus(corpus_root, config), Run(tmp_path / "halved")
    kill_at_step(halved, config, corpus, 6)  # in the second epoch
    train(config, corpus, halved)
    assert rows(halved) == rows(whole)
    assert halved.finished_training()["digest"] == whole.finished_training()["digest"]


def test_what_the_recipe_without_validation_computed_before(corpus_root, tmp_path):
    """Losses of the version before there was validation; later ones also depend on rounding."""
    config = recipe(validation=0.0)
    model = dataclasses.replace(config.model, stage_channels=(8, 16))  # as the recipe was then
    config = dataclasses.replace(config, model=model)
    run = Run(tmp_path / "run")
    train(config, open_corpus(corpus_root, config), run)
    expected = [1.2468039989471436, 1.173340082168579, 1.0928817987442017, 1.0532101392745972]
    assert [row["loss"] for row in rows(run)][:4] == pytest.approx(expected, rel=1e-4)


def test_a_validation_loss_that_is_not_finite_stops_the_run(corpus_root, tmp_path, monkeypatch):
    config = recipe()
    corpus = open_corpus(corpus_root, config)
    monkeypatch.setattr(
        Validation,
        "__call__",
        lambda *_: {"validation_loss": float("nan"), "validation_accuracy": 0.5},
    )
    with pytest.raises(asdjax.AsdjaxError, match="the validation loss is nan at step 2; "):
        train(config, corpus, Run(tmp_path / "run"))


def test_check_and_the_console_say_how_many(corpus_root, tmp_path, capsys):
    config = recipe()
    corpus = open_corpus(corpus_root, config)
    facts = check(config, corpus)
    assert (facts["clips"], facts["held_out"], facts["steps"]) == (48, 10, 6)
    train(config, corpus, Run(tmp_path / "run"))
    said = capsys.readouterr().err
    assert "training on 38 clips" in said and "10 clips held out" in said
    assert "(validation " in said


def test_rates_are_those_of_the_steps_without_validation(corpus_root, tmp_path, monkeypatch):
    """Steps of 16, 16 and 6 clips; the validation takes two seconds."""
    clock = [0.0]
    measure, add = Validation.__call__, StepLog.add

    def slowly(self, state):
        clock[0] += 2
        return measure(self, state)

    def step(self, number, metrics):
        clock[0] += 0.25
        add(self, number, metrics)

    monkeypatch.setattr(step_log, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(Validation, "__call__", slowly)
    monkeypatch.setattr(StepLog, "add", step)
    config, run = recipe(), Run(tmp_path / "run")
    train(config, open_corpus(corpus_root, config), run)
    log = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    last = log[3:6]  # read together, at the end of the epoch
    assert [row["seconds"] for row in last] == [0.25] * 3
    assert [row["clips_per_second"] for row in last] == [pytest.approx(38 / 0.75, rel=1e-3)] * 3

"""More epochs for a run: as if trained in one go, interrupted or not; fewer are refused."""

import dataclasses
import json
import shutil

import pytest
from conftest import TESTS
from support.training_steps import kill_at_step

from asdjax.cli import main
from asdjax.commands.train import train
from asdjax.config import recipe as configs
from asdjax.data.corpus import open_corpus
from asdjax.errors import AsdjaxError
from asdjax.store.runs import Run

pytestmark = pytest.mark.usefixtures("compiled_fast")

TINY, TINY_BEATS = TESTS / "tiny.yaml", TESTS / "tiny_beats.yaml"


def recipe(epochs, path=TINY, **changes):
    config = configs.load(str(path))
    changed = dataclasses.replace(config.train, epochs=epochs, **changes)
    return dataclasses.replace(config, train=changed)


def log(run):
    """The log without the times."""
    lines = map(json.loads, (run.path / "log.jsonl").read_text().splitlines())
    times = "seconds", "clips_per_second"
    return [{key: value for key, value in row.items() if key not in times} for row in lines]


def content(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def corpus(corpus_root):
    return open_corpus(corpus_root, recipe(1))


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """Three epochs in one go."""
    run = Run(tmp_path_factory.mktemp("whole") / "run")
    train(recipe(3), corpus, run)
    return run


@pytest.fixture(scope="module")
def one_epoch(corpus, tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("one") / "run")
    train(recipe(1), corpus, run)
    return run


@pytest.fixture
def one(one_epoch, tmp_path):
    """A copy of a finished run of one epoch, which has three steps."""
    shutil.copytree(one_epoch.path, tmp_path / "one")
    return Run(tmp_path / "one")


def test_a_finished_run_goes_on_as_if_trained_in_one_go(corpus, one, whole, capsys):
    train(recipe(2), corpus, one)
    said = capsys.readouterr().err
    assert "train.epochs was 1 and is 2 now" in said and "after step 3 of 6" in said
    assert "of the earlier weights" not in said  # there are no results
    train(recipe(3), corpus, one)
    ours, theirs = one.finished_training(), whole.finished_training()
    assert log(one) == log(whole) and len(log(one)) == 9
    different = {key for key in ours if ours[key] != theirs[key]}
    assert different == {"stages"}
    assert theirs["stages"] == [{"epochs": 3, "first_step": 0}]
    assert ours["stages"] == [
        {"epochs": 1, "first_step": 0},
        {"epochs": 2, "first_step": 3},
        {"epochs": 3, "first_step": 6},
    ]
    assert one.config() == recipe_of(whole) and ours["steps"] == ours["step"] == 9


def recipe_of(run):
    return configs.parse((run.path / "config.yaml").read_text(), "config.yaml")


def test_the_warm_up_is_not_repeated(corpus, tmp_path):
    """Four steps of warm-up, of which an epoch has three, all of one shape; with held-out clips."""

    def config(epochs):
        made = recipe(epochs, validation=0.5, batch_size=8)
        return dataclasses.replace(made, optim=dataclasses.replace(made.optim, warmup_steps=4))

    runs = Run(tmp_path / "two"), Run(tmp_path / "staged")
    train(config(2), corpus, runs[0])
    for epochs in 1, 2:
        train(config(epochs), corpus, runs[1])
    rates = [row["learning_rate"] for row in log(runs[1])]
    full = config(1).optim.learning_rate
    assert rates == pytest.approx([full * step / 4 for step in (0, 1, 2, 3, 4, 4)], rel=1e-5)
    assert log(runs[0]) == log(runs[1])
    assert runs[0].finished_training()["digest"] == runs[1].finished_training()["digest"]


@pytest.mark.parametrize("steps", [1, 4])
def test_an_interrupted_continuation_goes_on(corpus, one, whole, steps):
    """In its first epoch, when there is no new checkpoint yet, and in its second."""
    kill_at_step(one, recipe(3), corpus, steps)
    with pytest.raises(AsdjaxError, match="training has not finished"):
        one.finished_training()
    train(recipe(3), corpus, one)
    assert one.finished_training()["digest"] == whole.finished_training()["digest"]
    assert log(one) == log(whole)
    stages = [{"epochs": 1, "first_step": 0}, {"epochs": 3, "first_step": 3}]
    assert one.finished_training()["stages"] == stages


def test_a_continuation_without_a_checkpoint_can_be_taken_back(corpus, one):
    before = one.finished_training()
    kill_at_step(one, recipe(3), corpus, 1)
    train(recipe(1), corpus, one)
    assert one.finished_training() == before and len(log(one)) == 3


def test_an_unfinished_run_may_be_made_longer_or_shorter(corpus, tmp_path, whole):
    run = Run(tmp_path / "run")
    kill_at_step(run, recipe(9), corpus, 4)
    train(recipe(2), corpus, run)
    assert [stage["epochs"] for stage in run.finished_training()["stages"]] == [9, 2]
    train(recipe(3), corpus, run)
    assert run.finished_training()["digest"] == whole.finished_training()["digest"]


def test_fewer_epochs_than_were_trained_are_refused(corpus, one):
    train(recipe(2), corpus, one)
    before = content(one.path)
    words = "train.epochs: 1, but this run has been trained for 2 epochs: set it to 2 or more"
    with pytest.raises(AsdjaxError, match=words):
        train(recipe(1), corpus, one)
    assert content(one.path) == before
    kill_at_step(one, recipe(9), corpus, 4)  # unfinished, with a checkpoint of the third epoch
    before = content(one.path)
    with pytest.raises(AsdjaxError, match="trained for 3 epochs"):
        train(recipe(2), corpus, one)
    assert content(one.path) == before


def test_nothing_else_may_change(corpus, one):
    before = content(one.path)
    with pytest.raises(AsdjaxError, match=r"other settings \(train.batch_size: 16 -> 8\)"):
        train(recipe(3, batch_size=8), corpus, one)
    gone = next(clip for clip in corpus.dataset.clips if clip.split == "train")
    clips = tuple(clip for clip in corpus.dataset.clips if clip != gone)
    fewer = dataclasses.replace(corpus, dataset=dataclasses.replace(corpus.dataset, clips=clips))
    with pytest.raises(AsdjaxError, match="clips or their batches changed"):
        train(recipe(3), fewer, one)
    assert content(one.path) == before


def test_an_encoder_that_does_not_train_takes_any_number_of_epochs(corpus, tmp_path):
    run, config = Run(tmp_path / "run"), recipe(2, TINY_BEATS)
    model = dataclasses.replace(config.model, adaptation="frozen", embedding_size=0)
    pooled = dataclasses.replace(model, pooling=configs.load("beats_frozen").model.pooling)
    for epochs in 2, 4, 1:
        config = recipe(epochs, TINY_BEATS)
        train(dataclasses.replace(config, model=pooled), corpus, run)
        assert run.config().train.epochs == epochs and run.finished_training()["step"] == 0


def test_results_of_the_earlier_weights_are_made_again(corpus_root, tmp_path, capsys):
    def command(run, epochs, verb="run"):
        at = ["--data", str(corpus_root), "--run", str(tmp_path / run)]
        return main([verb, str(TINY), *at, "--train.epochs", epochs])

    assert command("staged", "1") == 0
    metrics = tmp_path / "staged" / "metrics" / "metrics.json"
    assert metrics.exists()
    capsys.readouterr()
    assert command("staged", "2", "train") == 0
    assert "of the earlier weights" in capsys.readouterr().err and not metrics.exists()
    for verb in "score", "evaluate":
        assert main([verb, str(tmp_path / "staged")]) == 1
        assert "run asdjax extract" in capsys.readouterr().err
    assert command("staged", "2") == 0 and command("whole", "2") == 0
    for folder in "embeddings", "scores", "metrics":
        ours, theirs = (content(tmp_path / run / folder) for run in ("staged", "whole"))
        assert [*ours.values()] == [*theirs.values()] and ours

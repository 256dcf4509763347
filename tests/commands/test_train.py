"""Training: the golden trace, device counts, interruptions, and what stops it."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from conftest import (
    DEVICES_EMBEDDING,
    DEVICES_GRADIENT,
    DEVICES_LOSS,
    FLOAT64,
    GRADIENT,
    TESTS,
    TRACE,
    relative,
    relative_l2,
)
from flax.traverse_util import flatten_dict
from support.training_steps import (
    SMALL_SAMPLES,
    embedded,
    in_float64,
    kill_at_step,
    noise,
    run_steps,
)

from asdjax.commands.train import train
from asdjax.config import recipe as configs
from asdjax.config.recipe import Config
from asdjax.convert import asdkit
from asdjax.data.corpus import open_corpus
from asdjax.errors import AsdjaxError
from asdjax.models.multiresnet_encoder import MultiResNetConfig, SpectrogramConfig
from asdjax.runtime import interruption
from asdjax.store.checkpoint import Checkpoints
from asdjax.store.runs import Run
from asdjax.training import mixup
from asdjax.training.learner import Learner

pytestmark = pytest.mark.usefixtures("compiled_fast")

TINY = TESTS / "tiny.yaml"
SMALL = MultiResNetConfig(
    fft_branch=False,
    spectrograms=(SpectrogramConfig(256, 128),),
    branch_size=16,
    stage_channels=(4, 8),
)


def learner(model=SMALL, n_samples=SMALL_SAMPLES, n_classes=3, **loss):
    config = Config(model=model)
    config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, **loss))
    return Learner(config, n_classes=n_classes, n_samples=n_samples)


def trace_start(golden):
    """The learner, state and batch of the golden training trace."""
    trace = golden("train_trace")
    n_samples, n_classes = trace["wave"].shape[1], trace["onehot"].shape[1]
    work = learner(MultiResNetConfig(), n_samples, n_classes)
    params, stats = asdkit.multiresnet_from_torch(
        golden("multiresnet_state"), work.config.model, n_samples, 16000
    )
    state = work.start()
    head = {"centres": trace["head_W_init"].astype(np.float32)}
    state = dataclasses.replace(
        state,
        params={"model": params, "head": head},
        stats={**state.stats, "model": stats},
    )
    batch = {"waveform": trace["wave"], "label": trace["label"].astype(np.int32)}
    return trace, work, state, batch


def stored_draws(monkeypatch, trace):
    draws = mixup.MixupDraws(
        np.asarray(trace["lam"]), np.asarray(trace["perm"], np.int32), trace["dec"] > 0
    )
    monkeypatch.setattr(mixup, "mixup_draws", lambda *_: jax.tree.map(jax.numpy.asarray, draws))


def test_golden_trace(golden, monkeypatch, optimised):
    """In float32; where rounding decides which of two nearly equal values is a maximum, in float64.

    On some processors (seen with AVX-512) one loss of eleven is 0.2 per cent from the reference.
    """
    trace, work, state, batch = trace_start(golden)
    stored_draws(monkeypatch, trace)
    _, losses = run_steps(work, state, [batch] * 11, devices=1)
    difference = np.abs(np.array(losses) / trace["loss_f64"] - 1)
    assert (difference < 0.01).all(), difference
    if not (difference < TRACE).all():
        with jax.enable_x64(True):
            check_trace_in_float64(golden)


@pytest.mark.slow  # ten full-size steps in double precision
def test_golden_trace_in_float64(golden, monkeypatch, float64, optimised):
    stored_draws(monkeypatch, trace_start(golden)[0])
    check_trace_in_float64(golden)


def check_trace_in_float64(golden):
    trace, work, state, batch = trace_start(golden)
    state = in_float64(state)
    batch["waveform"] = batch["waveform"].astype(np.float64)
    after, losses = run_steps(work, state, [batch], devices=1)
    names = asdkit.multiresnet_to_torch(
        after.params["model"], after.stats["model"], work.config.model
    )
    for name, value in names.items():
        key = f"after_step0/l2/extractor.{name}"
        if key in trace and value.dtype.kind == "f":
            assert np.linalg.norm(value) == pytest.approx(float(trace[key]), rel=1e-6), name
    after, rest = run_steps(work, after, [batch] * 10, devices=1)
    assert relative(losses + rest, trace["loss_f64"]) < FLOAT64


@pytest.mark.parametrize("dynamic", [pytest.param(False, marks=pytest.mark.slow), True])
def test_one_and_eight_devices_agree_in_float64(rng, float64, dynamic):
    batches = noise(rng, 8, 10)
    work = learner(dynamic=dynamic)
    start = in_float64(work.start())
    one, losses_one = run_steps(work, start, batches, devices=1)
    eight, losses_eight = run_steps(work, start, batches, devices=8)
    assert np.allclose(losses_one, losses_eight, rtol=DEVICES_LOSS, atol=0)
    wave = batches[0]["waveform"].astype(np.float64) / 32768
    embeddings = [embedded(work, state.weights, state.frozen, wave) for state in (one, eight)]
    assert relative(embeddings[1], embeddings[0]) < DEVICES_EMBEDDING
    scales = [state.stats["head"]["scale"] for state in (one, eight)]
    assert scales[0] == pytest.approx(scales[1], rel=DEVICES_LOSS)
    assert (scales[0] != work.start().stats["head"]["scale"]) == dynamic


# on one device slow: there the step has no collectives
@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_pmap_and_shard_map_give_equal_bits(rng, devices):
    work = learner(dynamic=True)
    runs = [
        run_steps(work, work.start(), noise(np.random.default_rng(5), 16, 3), devices, how)
        for how in ("pmap", "shard_map")
    ]
    (one, losses_one), (other, losses_other) = runs
    assert losses_one == losses_other and len(set(losses_one)) == 3
    jax.tree.map(np.testing.assert_array_equal, one, other)


def gradient(work, state, batch, devices):
    """One step's gradient, flat: Adam's first moment is the gradient times 1 - beta1."""
    after, _ = run_steps(work, state, [batch], devices)
    moment = jax.tree.leaves(after.optimiser[0].mu)
    return np.concatenate([leaf.ravel() for leaf in moment])


def test_gradients_on_eight_devices_are_one_devices(rng):
    """The median of several batches: a ReLU or maximum that nearly ties may tip in one of them."""
    work = learner(dynamic=True)
    start = work.start()
    differences = []
    for batch in noise(rng, 16, 5):
        one, eight = (gradient(work, start, batch, devices) for devices in (1, 8))
        differences.append(relative_l2(eight, one))
    assert np.median(differences) < DEVICES_GRADIENT
    assert max(differences) < GRADIENT


def test_a_state_goes_through_a_checkpoint_by_the_names_of_its_items(rng, tmp_path):
    work = learner(dynamic=True)
    after, _ = run_steps(work, work.start(), noise(rng, 16, 2), devices=1)
    items = after.to_items()
    assert {"/".join(path[:3]) for path in flatten_dict(items)} == {
        "weights/params/model", "weights/params/head", "weights/stats/model", "weights/stats/head",
        "progress/step", "progress/optimiser/0", "progress/optimiser/2",
    }  # fmt: skip
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(2, items, {})
    restored = work.start().with_items(checkpoints.restore(2, work.shapes().to_items()))
    jax.tree.map(np.testing.assert_array_equal, restored, after)  # of one structure, too
    assert after.step == 2 and after.step.dtype == np.int32


# the loop on a corpus


@pytest.fixture
def tiny(corpus_root):
    """A small recipe and its corpus."""
    config = configs.load(str(TINY))
    return config, open_corpus(corpus_root, config)


@pytest.fixture(scope="module")
def whole(corpus_root, tmp_path_factory):
    """An uninterrupted run."""
    config, run = configs.load(str(TINY)), Run(tmp_path_factory.mktemp("whole") / "run")
    train(config, open_corpus(corpus_root, config), run)
    return run


def weights(run):
    """The final weights' digest, which training.json states."""
    return run.finished_training()["digest"]


def test_repeated_and_resumed_runs_are_bit_identical(tiny, whole, tmp_path):
    config, corpus = tiny
    again = Run(tmp_path / "again")
    train(config, corpus, again)
    assert weights(whole) == weights(again)

    halved = Run(tmp_path / "halved")
    kill_at_step(halved, config, corpus, 5)
    assert halved.training() is None
    train(config, corpus, halved)
    assert weights(halved) == weights(whole)
    logs = [(run.path / "log.jsonl").read_text().splitlines() for run in (whole, halved)]
    assert [line_values(line) for line in logs[0]] == [line_values(line) for line in logs[1]]


def test_told_to_end_it_saves_first_and_goes_on_exactly(tiny, whole, tmp_path, monkeypatch):
    (config, corpus), told = tiny, Run(tmp_path / "told")
    steps = len((whole.path / "log.jsonl").read_text().splitlines())
    asked = iter([False] * 4 + [True])  # in the middle of an epoch
    with monkeypatch.context() as patch:
        patch.setattr(interruption, "is_told", lambda: next(asked))
        for name in ("_first", "_raised", "lost"):  # what `stop` sets is restored
            patch.setattr(interruption, name, getattr(interruption, name))
        with pytest.raises(interruption.Interrupted):
            train(config, corpus, told)
        assert interruption.lost.startswith(f"step 5 of {steps} is saved")
    assert Checkpoints(told.checkpoints).latest() == 5
    train(config, corpus, told)
    assert weights(told) == weights(whole)
    logs = [(run.path / "log.jsonl").read_text().splitlines() for run in (whole, told)]
    assert [line_values(line) for line in logs[0]] == [line_values(line) for line in logs[1]]


def test_a_run_of_an_earlier_version_with_fewer_settings_goes_on(
    tiny, whole, tmp_path, monkeypatch
):
    (config, corpus), halved = tiny, Run(tmp_path / "halved")
    with monkeypatch.context() as patch:
        patch.setattr("asdjax.training.plan.settings", lambda *_: {"seed": config.seed})
        kill_at_step(halved, config, corpus, 5)
    for _ in range(2):
        train(config, corpus, halved)
    assert weights(halved) == weights(whole)


def line_values(line):
    row = json.loads(line)
    return {k: v for k, v in row.items() if k not in ("seconds", "clips_per_second")}


def test_other_settings_or_clips_are_refused(tiny, tmp_path, monkeypatch):
    config, corpus = tiny
    run = Run(tmp_path / "run")
    kill_at_step(run, config, corpus, 4)
    other = dataclasses.replace(config, seed=5)
    with pytest.raises(AsdjaxError, match="seed: 0 -> 5"):
        train(other, corpus, run)
    gone = next(clip for clip in corpus.dataset.clips if clip.split == "train")
    clips = tuple(clip for clip in corpus.dataset.clips if clip != gone)
    fewer = dataclasses.replace(corpus, dataset=dataclasses.replace(corpus.dataset, clips=clips))
    with monkeypatch.context() as patch:
        patch.setattr("asdjax.training.plan.settings", lambda *_: {"model.of_later": 1})
        patch.setattr("asdjax.commands.train.plugins", lambda _: {"loss": "mine"})
        with pytest.raises(AsdjaxError, match="another version of a plugin"):
            train(config, corpus, run)
    with pytest.raises(AsdjaxError, match="clips or their batches changed"):
        train(config, fewer, run)
    train(other, corpus, run, resume=False)
    assert run.finished_training()["seed"] == 5


def test_a_loss_that_is_not_finite_stops_the_run(tiny, tmp_path, monkeypatch):
    """From weights that are not numbers: the program is that of the other runs."""
    (config, corpus), start = tiny, Learner.start

    def faulty(self, weights=None):
        state = start(self, weights)
        return dataclasses.replace(state, params=jax.tree.map(lambda a: a * np.nan, state.params))

    monkeypatch.setattr(Learner, "start", faulty)
    with pytest.raises(AsdjaxError, match=r"loss is .* at step \d+; .*checkpoint"):
        train(config, corpus, Run(tmp_path / "run"))


def test_devices_that_cannot_share_the_batch_are_named(tiny, tmp_path):
    config, corpus = tiny
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, devices=8, batch_size=12)
    )
    with pytest.raises(AsdjaxError, match="nearest batch sizes are 8 or 16"):
        train(config, corpus, Run(tmp_path / "run"))
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, devices=9))
    with pytest.raises(AsdjaxError, match="9 devices"):
        train(config, corpus, Run(tmp_path / "run"))

"""The BEATs systems: what trains, what a checkpoint holds, and every verb on random weights."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from conftest import DEVICES_EMBEDDING, DEVICES_LOSS, FLOAT64, TESTS, relative
from support.converted_beats import folder as folder  # a fixture
from support.training_steps import embedded, in_float64, kill_at_step, noise, run_steps

from asdjax.cli import main
from asdjax.commands.train import train
from asdjax.config import recipe as configs
from asdjax.config.beats_architecture import LoRAConfig
from asdjax.data.corpus import open_corpus
from asdjax.embedder import Embedder
from asdjax.errors import AsdjaxError
from asdjax.models import building, parameters
from asdjax.models.beats_encoder import BEATsConfig
from asdjax.models.poolings import Mean
from asdjax.store import converted_weights
from asdjax.store.checkpoint import Checkpoints, digest
from asdjax.store.runs import Run
from asdjax.training.learner import Learner
from asdjax.training.plan import Plan, plan

pytestmark = pytest.mark.usefixtures("compiled_fast")

TINY = TESTS / "tiny_beats.yaml"
LORA = LoRAConfig(rank=4, dropout=0.1)
FROZEN = {"pooling": Mean(), "embedding_size": 0}


def tiny(**model):
    """One layer compiles in two thirds of the time of the recipe's two."""
    config = configs.load(str(TINY))
    encoder = dataclasses.replace(config.model.encoder, encoder_layers=1)
    model = {"encoder": encoder, **model}
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **model))


def leaves(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def parts(adaptation, **model):
    module = building.skeleton(tiny(adaptation=adaptation, **model).model, 6400, 16000)
    _, params, _ = parameters.split(module)
    trained, frozen = building.partition(tiny(adaptation=adaptation, **model).model, params)
    return leaves(params), leaves(trained), leaves(frozen)


@pytest.mark.parametrize("verb", ["check", "train"])
def test_clips_that_are_too_short_are_refused_before_compiling(verb, corpus_root, tmp_path, capsys):
    run = [] if verb == "check" else ["--run", str(tmp_path / "run")]
    options = ["--data", str(corpus_root), "--audio.clip-seconds", "0.1"]
    assert main([verb, str(TINY), *options, *run]) == 1
    said = capsys.readouterr().err
    assert "audio.clip_seconds: clips of 1600 samples are too short for beats, which needs" in said
    assert "set it to 0.18 or more" in said
    assert "compiling" not in said and "training on" not in said


@pytest.mark.parametrize("platform, fused", [("gpu", True), ("cpu", False), ("tpu", False)])
def test_the_devices_in_use_choose_the_kernels_of_training(platform, fused):
    """Not JAX's default; the configuration, which the run keeps, stays as it is."""
    config = tiny(compute_dtype="bfloat16", fused_attention=True)
    work = Plan(
        config, None, (), ("a", "b"), np.zeros(0, np.int32), 6400,
        [SimpleNamespace(platform=platform)], None, None, (),
    )  # fmt: skip
    assert work.learner().config.model.fused_attention == fused
    assert work.config.model.fused_attention


def test_the_devices_in_use_choose_the_kernels_of_embedding(rng):
    """On CPUs, which have no fused attention, separate operations are used."""
    waves = rng.standard_normal((2, 6400)).astype(np.float32) / 9
    found = []
    for fused in False, True:
        config = tiny(compute_dtype="bfloat16", fused_attention=fused)
        _, params, stats = parameters.split(building.build(config.model, 6400, 16000, seed=0))
        weights = {"params": {"model": params}, "stats": {"model": stats}}
        embedder = Embedder(config, 6400, jax.tree.map(np.asarray, weights))
        assert embedder.config == config
        found.append(embedder(waves))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("adaptation", ["full", "lora", "frozen"])
def test_every_weight_is_in_exactly_one_group(adaptation):
    whole, trained, frozen = parts(adaptation, **(FROZEN if adaptation == "frozen" else {}))
    assert not trained.keys() & frozen.keys() and {**trained, **frozen}.keys() == whole.keys()
    if adaptation == "full":
        assert not frozen
    elif adaptation == "frozen":
        assert not trained
    else:
        inside = {name for name in trained if name.startswith("['encoder']")}
        names = [f"'{p}']['lora_{x}']" for p in ("q_proj", "v_proj") for x in "ab"]
        assert len(inside) == 4 and all(any(n in i for n in names) for i in inside)
        assert all(not name.startswith("['encoder']") for name in trained.keys() - inside)
        assert {"['projection']['kernel']", "['projection']['bias']"} <= trained.keys()
        assert all(name.startswith("['encoder']") for name in frozen)


def test_full_size_numbers():
    """Systems 2 and 4 as they are, without computing their weights."""
    counts = {}
    for name in ("system2", "system4"):
        model = configs.load(name).model
        _, params, _ = parameters.split(building.skeleton(model, 160000, 16000))
        trained, frozen = building.partition(model, params)
        counts[name] = [sum(x.size for x in jax.tree.leaves(t)) for t in (trained, frozen)]
        encoder = sum(x.size for x in jax.tree.leaves(params["encoder"]))
        if name == "system2":
            head = counts[name][0] - encoder
            assert encoder == 90_311_792
    assert counts["system4"] == [4_718_592 + head, 90_311_792]


def test_settings_of_the_systems():
    two, three, four = (configs.load(f"system{i}") for i in (2, 3, 4))
    assert [c.optim.learning_rate for c in (two, three, four)] == [5e-5, 1e-4, 1e-4]
    assert [c.train.epochs for c in (two, three, four)] == [25, 25, 40]
    for config in (two, three, four):
        assert config.optim.warmup_steps == 5000 and config.optim.weight_decay == 0.01
        assert config.train.batch_size == 8 and config.extract.view_names == ("raw",)
        assert config.augment.mixup.probability == 0.5
        assert config.augment.spec_augment.probability == 0 and config.model.embedding_size == 256
    assert four.model.lora == LoRAConfig(128, 8.0, 0.0, ("q_proj", "v_proj"))
    assert configs.load("asdkit_lora").model.lora.rank == 64


@pytest.mark.parametrize("adaptation", ["full", "lora"])
def test_only_trained_weights_change(rng, adaptation):
    config = tiny(adaptation=adaptation, lora=LORA)
    work = Learner(config, n_classes=3, n_samples=6400)
    start = work.start()
    after, losses = run_steps(work, start, noise(rng, 8, 3, 6400), devices=1)
    assert np.isfinite(losses).all()
    jax.tree.map(np.testing.assert_array_equal, after.frozen, start.frozen)
    before, now = (leaves(s.params) for s in (start, after))
    same = {name for name in now if np.array_equal(before[name], now[name])}
    # the gradient of a bias that shifts all logits of a softmax is noise; a biasless centre is not
    assert not {name for name in same if "k_proj" not in name}, same
    for name, value in leaves(after.stats["model"]).items():
        assert not np.array_equal(value, leaves(start.stats["model"])[name])


def test_the_first_update_of_a_warm_up_changes_nothing(rng):
    work = Learner(tiny(), n_classes=3, n_samples=6400)
    start = work.start()
    after, _ = run_steps(work, start, noise(rng, 8, 1, 6400), devices=1)
    jax.tree.map(np.testing.assert_array_equal, after.params, start.params)


@pytest.mark.parametrize("adaptation", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_one_and_eight_devices_agree_in_float64(rng, float64, adaptation):
    """With dropouts, layer drop, SpecAugment and mixup: draws know the clips' global places."""
    config = tiny(adaptation=adaptation, lora=LORA, encoder_layerdrop=0.3)
    work = Learner(config, n_classes=3, n_samples=6400)
    start = in_float64(work.start())
    batches = noise(rng, 8, 6, 6400)
    one, losses_one = run_steps(work, start, batches, devices=1)
    eight, losses_eight = run_steps(work, start, batches, devices=8)
    np.testing.assert_allclose(losses_one, losses_eight, rtol=DEVICES_LOSS, atol=0)
    wave = batches[0]["waveform"].astype(np.float64) / 32768
    embeddings = [embedded(work, state.weights, state.frozen, wave) for state in (one, eight)]
    assert relative(embeddings[1], embeddings[0]) < DEVICES_EMBEDDING


@pytest.mark.parametrize("clips", [8, pytest.param(4, marks=pytest.mark.slow)])
def test_a_batch_in_parts_is_the_batch_at_once_in_float64(rng, float64, clips):
    """With dropouts, layer drop, SpecAugment and mixup; two parts on each of two devices.

    Without batch normalisation, which is by the part.
    """
    devices = 2
    config = tiny(adaptation="lora", lora=LORA, encoder_layerdrop=0.3, pooling=Mean())
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=8))
    train = dataclasses.replace(config.train, accumulate=2)
    work = Learner(config, n_classes=3, n_samples=6400)
    in_parts = Learner(dataclasses.replace(config, train=train), n_classes=3, n_samples=6400)
    start = in_float64(work.start())
    batches = noise(rng, clips, 3, 6400)
    (one, losses_one), (other, losses_other) = (
        run_steps(learner, start, batches, devices) for learner in (work, in_parts)
    )
    np.testing.assert_allclose(losses_other, losses_one, rtol=FLOAT64, atol=0)
    before, after, now = (leaves(s.params) for s in (start, one, other))
    for name, value in after.items():
        assert relative(now[name] - before[name], value - before[name]) < 1e-9, name


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_pmap_and_shard_map_give_equal_bits(rng, devices):
    """With dropouts, layer drop, SpecAugment and mixup."""
    work = Learner(
        tiny(adaptation="lora", lora=LORA, encoder_layerdrop=0.3), n_classes=3, n_samples=6400
    )
    batches, runs = noise(rng, 8, 2, 6400), []
    for how in "pmap", "shard_map":
        runs.append(run_steps(work, work.start(), batches, devices, how))
    (one, losses_one), (other, losses_other) = runs
    assert losses_one == losses_other
    jax.tree.map(np.testing.assert_array_equal, one, other)


# runs


def test_a_lora_checkpoint_holds_what_trains_and_the_hash_of_the_rest(
    corpus_root, folder, tmp_path
):
    path, weights = folder
    config = tiny(adaptation="lora", lora=LORA, weights=str(path), random_init=False)
    config = dataclasses.replace(
        config, model=dataclasses.replace(config.model, encoder=BEATsConfig().encoder)
    )
    run = Run(tmp_path / "run")
    corpus = open_corpus(corpus_root, config)
    train(config, corpus, run)
    training = run.finished_training()
    assert training["pretrained"] == training["frozen"] == digest(weights)
    count = sum(leaf.size for leaf in jax.tree.leaves(weights))
    assert training["parameters"] == count + training["trained_parameters"]
    learner = Learner(run.config(), n_classes=len(training["classes"]), n_samples=6400)
    stored = learner.shapes().params["model"]["encoder"]
    assert all("lora_" in name for name in leaves(stored))
    checkpoints = Checkpoints(run.checkpoints)
    state = checkpoints.restore(training["step"], {"weights": learner.shapes().weights})
    embedder = Embedder.load(run)
    model, params = run.config().model.for_inference(
        parameters.join(
            state["weights"]["params"]["model"], learner.frozen(converted_weights.read(path))
        ),
    )
    assert model.adaptation == "full" and not any("lora_" in name for name in leaves(params))

    # the folder's weights are no longer those: neither training nor extraction goes on
    moved = shutil.copytree(path, tmp_path / "moved")
    document = json.loads((moved / converted_weights.DOCUMENT).read_text())
    document["digest"] = "0" * 32
    converted_weights.write_description(moved / converted_weights.DOCUMENT, document)
    elsewhere = dataclasses.replace(
        run.config(), model=dataclasses.replace(run.config().model, weights=str(moved))
    )
    with pytest.raises(AsdjaxError, match="begun with other weights"):
        train(elsewhere, corpus, run)
    run.write_config(elsewhere)
    with pytest.raises(AsdjaxError, match="the weights have changed"):
        Embedder.load(run)
    shutil.rmtree(moved)
    with pytest.raises(AsdjaxError, match="that this run starts from are gone"):
        Embedder.load(run)
    assert embedder(np.zeros((1, 6400), np.float32)).shape == (1, 16)


@pytest.fixture(scope="module")
def adapted(corpus_root, tmp_path_factory, compiled_fast):
    """A finished run with adapters in attention and feed-forward layers, its recipe and corpus."""
    lora = dataclasses.replace(LORA, targets=("q_proj", "fc1"))
    config = tiny(adaptation="lora", lora=lora)
    corpus = open_corpus(corpus_root, config)
    run = Run(tmp_path_factory.mktemp("adapted") / "run")
    train(config, corpus, run)
    return run, config, corpus


def test_merged_adapters_give_the_same_embeddings(rng, adapted):
    run = adapted[0]
    training = run.finished_training()
    learner = Learner(run.config(), n_classes=len(training["classes"]), n_samples=6400)
    checkpoints = Checkpoints(run.checkpoints)
    state = checkpoints.restore(training["step"], {"weights": learner.shapes().weights})
    wave = rng.normal(0, 0.1, (4, 6400)).astype(np.float32)
    found = embedded(learner, state["weights"], learner.frozen(None), wave)
    assert relative(Embedder.load(run)(wave), found) < 1e-5


def test_resumed_training_is_bit_identical(adapted, tmp_path):
    whole, config, corpus = adapted
    halved = Run(tmp_path / "halved")
    kill_at_step(halved, config, corpus, 4)
    train(config, corpus, halved)
    assert whole.finished_training()["digest"] == halved.finished_training()["digest"]


@pytest.mark.parametrize(
    ("adaptation", "options"),
    [
        pytest.param("full", (), marks=pytest.mark.slow),
        # the program of `adapted`
        ("lora", ("--model.encoder.encoder-layers", "1", "--model.lora.rank", "4",
                  "--model.lora.dropout", "0.1", "--model.lora.targets", "q_proj", "fc1")),
        ("frozen", ("--model.pooling", "mean", "--model.embedding-size", "0",
                    "--model.layers", "1", "2")),
    ],
)  # fmt: skip
def test_every_verb(corpus_root, tmp_path, capsys, adaptation, options):
    run = tmp_path / "run"
    command = ["run", str(TINY), "--data", str(corpus_root), "--run", str(run)]
    assert main([*command, "--model.adaptation", adaptation, *options]) == 0
    said = capsys.readouterr().err
    assert "random weights" in said and "warm-up" not in said
    metrics = json.loads((run / "metrics" / "metrics.json").read_text())
    assert set(metrics["machines"]) == {"fan", "bearingEmu"}
    marked = [metrics, json.loads((run / "thresholds.json").read_text())]
    marked += json.loads((run / "artefacts.json").read_text()).values()
    assert len(marked) > 6 and all(document["random_init"] for document in marked)
    with np.load(run / "embeddings" / "raw" / "fan.npz") as arrays:
        size = 64 if adaptation == "frozen" else 16
        assert arrays["embedding"].shape[1] == size and np.isfinite(arrays["embedding"]).all()
    assert main([*command, "--model.adaptation", adaptation, *options]) == 0  # all of it is there
    assert "finished" in capsys.readouterr().err


def test_pretrained_weights_are_asked_for(corpus_root, tmp_path, capsys):
    for system in {*configs.names()} - {"system1", "quickstart"}:
        run = tmp_path / system
        assert main(["run", system, "--data", str(corpus_root), "--run", str(run)]) == 1
        assert "asdjax convert beats" in capsys.readouterr().err and not run.exists()


def test_a_run_shorter_than_the_warm_up_warns(corpus_root):
    config = tiny()
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, warmup_steps=5000))
    notes = plan(config, open_corpus(corpus_root, config)).notes
    assert any("before the warm-up of 5000" in note for note in notes)


def test_clips_too_short_for_a_patch(corpus_root, tmp_path):
    config = tiny()
    config = dataclasses.replace(config, audio=dataclasses.replace(config.audio, clip_seconds=0.1))
    with pytest.raises(AsdjaxError, match=r"1600 samples are too short .* needs 2800"):
        train(config, open_corpus(corpus_root, config), Run(tmp_path / "run"))
    assert not (tmp_path / "run").exists()

"""Runs from ASDKit's checkpoints, and PyTorch's names and shapes for ours."""

import dataclasses
from collections import OrderedDict

import jax
import numpy as np
import pytest
from conftest import COSINE, EMBEDDING, TESTS, relative
from support.conversions import TINY, arrays, assert_equal, refused
from support.conversions import nano as nano  # fixtures
from support.conversions import tiny as tiny
from support.torch_writer import Call, Global, write

from asdjax.cli import main
from asdjax.config import recipe as configs
from asdjax.convert import asdkit, state_dict, torch_file, trained
from asdjax.embedder import Embedder
from asdjax.errors import AsdjaxError
from asdjax.models.poolings import Mean
from asdjax.store.checkpoint import Checkpoints, digest
from asdjax.store.runs import Run
from asdjax.training.learner import Learner


def foreign(name="DictConfig"):
    """An object of another library, as its training leaves beside the weights."""
    made = Call(Global("omegaconf.dictconfig", name), (), new=True)
    return Call(made.function, (), {"_content": {"sec": 12.0}, "_metadata": made}, new=True)


def lightning(path, state):
    content = {
        "epoch": 16,
        "global_step": 4000,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": OrderedDict(state),
        "hyper_parameters": {"config": foreign()},
        "callbacks": {"ModelCheckpoint": {"best": Call(Global("pathlib", "PosixPath"), ("x",))}},
    }
    write(path, content)
    return path


@pytest.fixture
def multiresnet(golden, tmp_path):
    """ASDKit's own names, from the reference: extractor and head."""
    state = {f"extractor.{k}": v for k, v in golden("multiresnet_state").items()}
    state = {k: v.astype(np.float32) if v.dtype == np.float16 else v for k, v in state.items()}
    state["head_dict.main.W"] = golden("train_trace")["head_W_init"].astype(np.float32)
    state["head_dict.main.s"] = np.array(6.1793324, np.float64)
    return lightning(tmp_path / "asdkit.ckpt", state), state


def test_multiresnet_goes_round(multiresnet, golden, tmp_path, capsys):
    source, state = multiresnet
    run = tmp_path / "run"
    arguments = ["asdkit", source, run, "--clip-seconds", "4.48"]
    assert main(["convert", *map(str, arguments)]) == 0
    training = Run(run).finished_training()
    assert Run(run).config().dataset.edition == "dcase2026"  # not auto: there are no data yet
    assert training["converted_from"] == {
        "toolkit": "ASDKit",
        "file": "asdkit.ckpt",
        "sha256": torch_file.sha256(source),
        "batch_norm": "stored",
    }
    assert training["classes"] == [f"class {i}" for i in range(5)]
    assert training["n_samples"] == 71680 and training["parameters"] == 4_918_512
    embedder = Embedder.load(run)
    expected = asdkit.multiresnet_from_torch(
        golden("multiresnet_state"), embedder.config.model, 71680, 16000
    )
    learner = Learner(embedder.config, n_classes=5, n_samples=71680)
    stored = Checkpoints(Run(run).checkpoints)
    weights = stored.restore(0, {"weights": learner.shapes().weights})["weights"]
    assert_equal(arrays(weights["params"]["model"]), arrays(expected[0]))
    assert_equal(arrays(weights["stats"]["model"]), arrays(expected[1]))
    assert main(["convert", "torch", str(run), str(tmp_path / "back.npz")]) == 0
    with np.load(tmp_path / "back.npz") as file:
        back = dict(file)
    counters = {name for name in state if name.endswith("num_batches_tracked")}
    assert counters
    expected = {n: np.zeros((), np.int64) if n in counters else a for n, a in state.items()}
    expected["head_dict.main.s"] = expected["head_dict.main.s"].astype(np.float32)
    assert_equal(back, expected)
    assert "exists already" in refused(capsys, *arguments)
    (run / "notes.txt").write_text("mine")
    assert "notes.txt: not written by asdjax" in refused(capsys, *arguments, "--overwrite")
    (run / "notes.txt").unlink()
    assert main(["convert", *map(str, arguments), "--overwrite"]) == 0


def test_multiresnet_that_does_not_fit(multiresnet, tmp_path, capsys):
    source, state = multiresnet
    err = refused(capsys, "asdkit", source, tmp_path / "run")  # 12 s
    assert "aggregate_layer.1.weight has shape (128, 128)" in err and "--clip-seconds" in err
    del state["extractor.fft_layer.layer.last_layer.12.weight"]
    state["extractor.stft_layer_list.0.stft.stft.window"] = np.hamming(256)
    state["model.other"] = np.zeros(3, np.float32)
    wrong = lightning(tmp_path / "wrong.ckpt", state)
    arguments = ("asdkit", wrong, tmp_path / "run", "--clip-seconds", "4.48")
    err = refused(capsys, *arguments)
    for words in (
        "missing extractor.fft_layer.layer.last_layer.12.weight",
        "unexpected model.other",
        "extractor.stft_layer_list.0.stft.stft.window is not the periodic Hann window",
    ):
        assert words in err
    state["head_dict.main.W"] = np.zeros((512, 81), np.float32)
    err = refused(capsys, "asdkit", lightning(wrong, state), *arguments[2:])
    assert "81 class centres are not 16 for each class" in err
    assert "omit --beats" in refused(capsys, *arguments, "--beats", tmp_path)
    assert "omit --bn-stats" in refused(capsys, *arguments, "--bn-stats", "fresh")
    assert "name another --config" in refused(capsys, *arguments, "--config", "system4")
    assert not (tmp_path / "run").exists()


def test_other_files_are_no_asdkit(tmp_path, capsys, nano):
    assert "has no state_dict" in refused(capsys, "asdkit", TINY, tmp_path / "run")
    source = lightning(tmp_path / "x.ckpt", {"extractor.a": np.zeros(2, np.float32)})
    assert "neither ASDKit's MultiResNet nor" in refused(capsys, "asdkit", source, tmp_path / "run")
    source = lightning(tmp_path / "y.ckpt", {"extractor.a": foreign()})
    assert "omegaconf" in refused(capsys, "asdkit", source, tmp_path / "run")
    # placeholders are for this command alone
    write(tmp_path / "z.pt", nano | {"hyper_parameters": foreign()})
    assert "omegaconf" in refused(capsys, "beats", tmp_path / "z.pt", tmp_path / "out")


def test_a_converted_run_is_extracted_scored_and_evaluated(corpus_root, tmp_path, capsys):
    recipe = str(TESTS / "tiny.yaml")
    config = configs.load(recipe)
    learner = Learner(config, n_classes=3, n_samples=6400)
    weights = jax.tree.map(np.asarray, learner.start().weights)
    state = state_dict.to_torch(asdkit.table(config.model, weights), weights)
    source, run = lightning(tmp_path / "small.ckpt", state), tmp_path / "run"
    assert main(["convert", "asdkit", str(source), str(run), "--config", recipe]) == 0
    capsys.readouterr()
    assert main(["extract", str(run)]) == 1
    assert "the training data of small.ckpt" in capsys.readouterr().err
    for verb in (["extract", "--data", str(corpus_root)], ["score"], ["evaluate"]):
        assert main([verb[0], str(run), *verb[1:]]) == 0
    assert (run / "metrics" / "metrics.json").is_file()
    assert main(["train", recipe, "--data", str(corpus_root), "--run", str(run)]) == 1
    # a training's own run is never replaced
    training = Run(run).finished_training()
    del training["converted_from"]
    Run(run).write_training(training)
    err = refused(capsys, "asdkit", source, run, "--config", recipe, "--overwrite")
    assert "not a result of this command" in err


# ASDKit's BEATs with adapters


def adapters(golden, case):
    arrays = golden("lora_tiny")
    prefix = f"{case}/peft/base_model.model."
    return {
        f"{asdkit.ADAPTED}{name.removeprefix(prefix).replace('.weight', '.default.weight')}": value
        for name, value in arrays.items()
        if name.startswith(prefix)
    }


@pytest.fixture
def linear(golden):
    """What ASDKit saves of the reference's case with a linear projection."""
    state = {k: v.astype(np.float32) for k, v in adapters(golden, "r64_linear").items()}
    for leaf in ("weight", "bias"):
        state[f"extractor.projection_net.{leaf}"] = golden("lora_tiny")[
            f"r64_linear/projection_net/{leaf}"
        ].astype(np.float32)
    columns = np.random.default_rng(1).normal(size=(32, 3 * 16))
    return state | {"head_dict.main.W": columns.astype(np.float32)}


@pytest.fixture
def pooled(golden):
    """The reference's case of rank 8, with a pooling and its statistics."""
    state = {k: v.astype(np.float32) for k, v in adapters(golden, "r8_pool").items()}
    for name, value in golden("lora_tiny_pool").items():
        if "projection_net/" in name:
            value = value if name.endswith("num_batches_tracked") else value.astype(np.float32)
            state[name.replace("r8_pool/projection_net/", "extractor.projection_net.")] = value
    columns = np.random.default_rng(1).normal(size=(32, 2 * 16))
    return state | {"head_dict.main.W": columns.astype(np.float32)}


def test_adapters_give_the_references_embeddings(linear, tiny, golden, tmp_path):
    source, run = lightning(tmp_path / "lora.ckpt", linear), tmp_path / "run"
    arguments = ["convert", "asdkit", source, run, "--beats", tiny[0], "--clip-seconds", "1.25"]
    assert main([*map(str, arguments)]) == 0
    config, training = Run(run).config(), Run(run).finished_training()
    assert config.model.lora.rank == 64 and config.model.lora.targets == ("q_proj", "v_proj")
    assert config.model.pooling == Mean() and config.model.embedding_size == 32
    assert config.loss.sub_clusters * len(training["classes"]) == 48
    assert training["frozen"] == tiny[1]["digest"]
    lora = golden("lora_tiny")
    found = Embedder.load(run)(lora["wave"])
    assert relative(found, lora["r64_linear/out"]) < EMBEDDING
    for a, b in zip(found, lora["r64_linear/out"], strict=True):
        assert a @ b > COSINE * np.linalg.norm(a) * np.linalg.norm(b)
    # and back: all of it, the base weights included
    assert main(["convert", "torch", str(run), str(tmp_path / "back.npz")]) == 0
    with np.load(tmp_path / "back.npz") as file:
        back = dict(file)
    base = {}
    for name, array in torch_file.read(TINY)["model"].items():
        for projection in ("q_proj.", "v_proj."):
            name = name.replace(projection, f"{projection}base_layer.")
        base[f"extractor.model.base_model.model.{name}"] = array
    scale = np.float32(np.sqrt(2) * np.log(47))
    assert_equal(back, linear | base | {"head_dict.main.s": scale})
    # which is a checkpoint again, of the base weights too
    again = lightning(tmp_path / "again.ckpt", back)
    second = tmp_path / "second"
    arguments[2:4] = again, second
    assert main([*map(str, arguments)]) == 0
    assert Run(second).finished_training()["digest"] == training["digest"]


def test_base_weights_must_be_the_pretrained_ones(linear, tiny, tmp_path, capsys):
    name = "encoder.layers.1.self_attn.v_proj.base_layer.bias"
    linear[asdkit.ADAPTED + name] = np.ones(64, np.float32)
    linear["extractor.projection_net.bias"] = np.ones(31, np.float32)
    linear["extractor.surplus"] = np.ones(31, np.float32)
    source = lightning(tmp_path / "lora.ckpt", linear)
    arguments = ("asdkit", source, tmp_path / "run", "--clip-seconds", "1.25")
    err = refused(capsys, *arguments, "--beats", tiny[0])
    for words in (
        f"{name} differs from that in {tiny[0]}",
        "projection_net.bias has shape (31,), not (32,)",
        "unexpected extractor.surplus",
    ):
        assert words in err
    assert "with --beats" in refused(capsys, *arguments)
    err = refused(capsys, *arguments, "--beats", tmp_path)
    assert "not a folder of converted weights" in err
    recipe = tmp_path / "auto.yaml"
    recipe.write_text("audio: {clip_seconds: auto}\nmodel: {name: beats}\n")
    err = refused(capsys, *arguments[:3], "--beats", tiny[0], "--config", recipe)
    assert "--clip-seconds" in err


def test_the_poolings_statistics(pooled, tiny, golden, tmp_path, capsys):
    more = ("--beats", tiny[0], "--clip-seconds", "1.25")
    stored = lightning(tmp_path / "stored.ckpt", pooled)
    assert main(["convert", *map(str, ("asdkit", stored, tmp_path / "stored", *more))]) == 0
    found = Embedder.load(tmp_path / "stored")(golden("lora_tiny")["wave"])
    assert relative(found, golden("lora_tiny_pool")["r8_pool/out"]) < EMBEDDING
    err = refused(capsys, "asdkit", stored, tmp_path / "run", *more, "--bn-stats", "fresh")
    assert "omit --bn-stats" in err
    ends = ("running_mean", "running_var", "num_batches_tracked")
    bare = {name: value for name, value in pooled.items() if not name.endswith(ends)}
    assert len(pooled) - len(bare) == 9
    source = lightning(tmp_path / "bare.ckpt", bare)
    err = refused(capsys, "asdkit", source, tmp_path / "run", *more)
    assert "lacks the running statistics" in err and "--bn-stats fresh" in err
    arguments = ("asdkit", source, tmp_path / "fresh", *more, "--bn-stats", "fresh")
    assert main(["convert", *map(str, arguments)]) == 0
    assert "running statistics are set to 0 and 1" in capsys.readouterr().err
    assert Run(tmp_path / "fresh").finished_training()["converted_from"]["batch_norm"] == "fresh"
    states = {}
    for run in ("stored", "fresh"):
        config = Run(tmp_path / run).config()
        assert config.model.lora.rank == 8 and config.model.embedding_size == 32
        assert main(["convert", "torch", str(tmp_path / run), str(tmp_path / f"{run}.npz")]) == 0
        with np.load(tmp_path / f"{run}.npz") as file:
            states[run] = dict(file)
        for name, value in pooled.items():
            found = states[run][name]
            if run == "stored" and not name.endswith("num_batches_tracked") or name in bare:
                np.testing.assert_array_equal(found, value, err_msg=name)
            elif not name.endswith("num_batches_tracked"):
                np.testing.assert_array_equal(found, np.full_like(value, name.endswith("var")))
    assert states["stored"].keys() == states["fresh"].keys() >= pooled.keys()
    # a file with some statistics lacks the others
    some = bare | {n: v for n, v in pooled.items() if "attention.2.running" in n}
    err = refused(capsys, "asdkit", lightning(tmp_path / "s.ckpt", some), tmp_path / "run", *more)
    assert "missing extractor.projection_net.0.last_layer.0.running_mean" in err


# back to PyTorch


def finished_run(path, config, weights=None):
    """A run whose training ended where it started."""
    learner = Learner(config, n_classes=3, n_samples=6400)
    state = learner.start(weights)
    run = Run(path)
    run.path.mkdir()
    run.write_config(config)
    frozen = state.frozen
    if not config.model.trains_nothing:
        checkpoints = Checkpoints(run.checkpoints, keep=1)
        checkpoints.save(0, state.to_items(), {})
    run.write_training(
        {
            "classes": list("abc"), "n_samples": 6400, "step": 0, "config": configs.to_tree(config),
            "seed": 0, "data": "data",
            "digest": digest(state.weights), "frozen": digest(frozen) if frozen else None,
        }
    )  # fmt: skip
    return run


@pytest.mark.parametrize("adaptation", ["full", "frozen"])
def test_a_run_of_the_whole_encoder_in_pytorchs_names(adaptation, tiny, tmp_path, golden):
    text = f"model: {{name: beats, weights: {tiny[0]}, adaptation: {adaptation}"
    text += ", pooling: mean, embedding_size: 0}" if adaptation == "frozen" else "}"
    config = configs.parse("audio: {clip_seconds: 0.4}\n" + text, "test")
    model, weights = config.model.resolved()
    config = dataclasses.replace(config, model=model)
    run = finished_run(tmp_path / "run", config, weights)
    assert main(["convert", "torch", str(run.path), str(tmp_path / "out.npz")]) == 0
    with np.load(tmp_path / "out.npz") as file:
        state = dict(file)
    theirs = torch_file.read(TINY)["model"]
    encoder = {f"extractor.model.{name}": array for name, array in theirs.items()}
    assert_equal({name: state.pop(name) for name in encoder}, encoder)
    if adaptation == "frozen":
        assert not state
        return
    pool = golden("attnstatpool")
    names = {n.replace("state/", "extractor.projection_net.") for n in pool if "state/" in n}
    assert state.keys() == names | {"head_dict.main.W", "head_dict.main.s"}
    assert state["extractor.projection_net.0.attention.0.weight"].shape == (4, 192, 1)


def test_torch_refuses(tiny, tmp_path, capsys):
    file = tmp_path / "out.npz"
    assert "must end in .npz" in refused(capsys, "torch", tiny[0], tmp_path / "out.pt")
    assert "not a run directory" in refused(capsys, "torch", tmp_path, file)
    file.write_text("x")
    assert "exists already" in refused(capsys, "torch", tiny[0], file)
    assert main(["convert", "torch", str(tiny[0]), str(file), "--overwrite"]) == 0
    with np.load(file) as found:
        assert_equal(dict(found), torch_file.read(TINY)["model"])
    folder = tmp_path / "folder.npz"
    folder.mkdir()
    assert "not a regular file" in refused(capsys, "torch", tiny[0], folder, "--overwrite")
    config = configs.load(str(TESTS / "tiny.yaml"))
    run = finished_run(tmp_path / "run", config)
    run.write_training({**run.finished_training(), "digest": "0" * 32})
    err = refused(capsys, "torch", run.path, tmp_path / "a.npz")
    assert "not those that training.json states" in err


def test_messages_of_a_missing_name(multiresnet, tmp_path):
    source, state = multiresnet
    del state["head_dict.main.W"]
    with pytest.raises(AsdjaxError, match=r"missing head_dict.main.W"):
        trained.from_asdkit(
            lightning(tmp_path / "w.ckpt", state), tmp_path / "run", clip_seconds=4.48
        )

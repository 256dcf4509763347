"""The converters: arrays against the references', refusals, and what a kill leaves."""

import json
import shutil
import subprocess
import sys
import time
from collections import OrderedDict

import jax
import numpy as np
import pytest
from conftest import GOLDEN, POOLED_ATOL, VARIANTS
from hypothesis import given, settings
from hypothesis import strategies as st
from support.conversions import TINY, arrays, assert_equal, converted, refused
from support.conversions import nano as nano  # fixtures
from support.conversions import tiny as tiny
from support.torch_writer import parameter, write

from asdjax.cli import main
from asdjax.config.beats_architecture import BEATsEncoderConfig
from asdjax.convert import beats, state_dict, torch_file, weights_folder
from asdjax.embedder import load as load_embedder
from asdjax.errors import AsdjaxError
from asdjax.models import building, parameters
from asdjax.models.beats_encoder import BEATsConfig
from asdjax.models.poolings import Mean
from asdjax.store import checkpoint, converted_weights
from asdjax.store.checkpoint import digest

FINETUNED = GOLDEN / "beats_tiny_finetuned.pt"
BIAS = "encoder.layers.{}.self_attn.relative_attention_bias.weight"


def written(tmp_path, content):
    write(tmp_path / "changed.pt", content)
    return tmp_path / "changed.pt"


# BEATs


def test_embeddings_are_the_references(tiny, golden):
    io = golden("beats_tiny_io")
    embedder = load_embedder(tiny[0])
    for samples in (16000, 52800):
        found = embedder.embed(list(io[f"n{samples}/wave"]))
        np.testing.assert_allclose(found, io[f"n{samples}/pooled"], rtol=0, atol=POOLED_ATOL)


def test_a_folder_says_what_it_holds(tiny, capsys):
    folder, document = tiny
    content = torch_file.read(TINY)
    assert document["schema"] == "asdjax.beats/1" and document["source"] == "beats_tiny.pt"
    assert document["sha256"] == torch_file.sha256(TINY) and document["recognised"] is None
    assert document["parameters"] == 150_724 and document["dtype"] == "float32"
    assert content["cfg"].items() <= document["encoder"].items()
    assert document["cfg_assumed"] == {} and document["cfg_ignored"] == []
    tensors = {t["name"]: t for t in document["tensors"]}
    assert {n: (t["shape"], t["dtype"]) for n, t in tensors.items()} == {
        n: (list(a.shape), "float32") for n, a in content["model"].items()
    }
    ours = arrays(weights_folder.load(converted_weights.read(folder)))
    assert {t["place"]: t["place_shape"] for t in tensors.values()} == {
        path: list(array.shape) for path, array in ours.items()
    }
    assert {tensors[BIAS.format(i)]["place"] for i in range(3)} == {
        "encoder.encoder.relative_attention_bias"
    }
    # weight norm keeps its two parameters
    for part in ("weight_g", "weight_v"):
        theirs = content["model"][f"encoder.pos_conv.0.{part}"]
        place = ours[f"encoder.encoder.pos_conv.{part}"]
        np.testing.assert_array_equal(place, theirs[0, 0] if part == "weight_g" else theirs.T)
    assert main(["convert", "verify", str(folder)]) == 0
    assert "differs by 0.0e+00" in capsys.readouterr().out


def test_a_published_file_is_recognised(tmp_path, monkeypatch, capsys):
    assert beats.KNOWN == {
        "8d1b234032a9ccff353612dc6c20982346dc2968b205b79d97303eb5e77bfb34": "BEATs_iter3.pt"
    }
    source = VARIANTS / "nano_zip.pt"
    _, document = converted(source, tmp_path / "unknown")
    assert f"not a known file: SHA-256 {document['sha256']}" in capsys.readouterr().err
    monkeypatch.setitem(beats.KNOWN, document["sha256"], "BEATs_iter3.pt")
    _, document = converted(source, tmp_path / "known")
    assert document["recognised"] == "BEATs_iter3.pt"
    assert "recognised: BEATs_iter3.pt" in capsys.readouterr().err


def test_a_fine_tuned_checkpoint_keeps_its_classifier(tmp_path, golden, capsys):
    folder, document = converted(FINETUNED, tmp_path / "out")
    assert document["encoder"]["finetuned_model"] and (folder / "predictor").is_dir()
    io = golden("beats_tiny_finetuned_io")
    embedder = load_embedder(folder)
    waves = list(io["wave"])
    tokens = embedder.embed(waves, "none")
    np.testing.assert_allclose(tokens, io["hidden"], rtol=0, atol=5e-4)
    np.testing.assert_allclose(embedder.embed(waves, "head"), io["probs"], rtol=0, atol=1e-5)
    # a recipe takes the encoder alone
    model, found = BEATsConfig(weights=str(folder)).resolved()
    assert not model.encoder.finetuned_model and found.digest == document["digest"]
    assert main(["convert", "verify", str(folder)]) == 0
    loaded = checkpoint.load_weights(
        folder / "predictor",
        {"predictor": weights_folder.load(converted_weights.read(folder))["encoder"]["predictor"]},
    )
    loaded["predictor"]["bias"] = loaded["predictor"]["bias"] + np.float32(1)
    shutil.rmtree(folder / "predictor")
    checkpoint.save_weights(folder / "predictor", loaded)
    assert "the classifier has changed" in refused(capsys, "verify", folder)
    with pytest.raises(AsdjaxError, match="the classifier has changed"):
        load_embedder(folder)


def test_verify_hears_another_scale_of_distances(tmp_path, capsys):
    folder, _ = converted(TINY, tmp_path / "out")
    file = folder / "beats.json"
    document = json.loads(file.read_text())
    distance = document["encoder"]["max_distance"]
    document["encoder"]["max_distance"] = distance // 2
    converted_weights.write_description(file, document)
    assert "the probe's embedding differs by" in refused(capsys, "verify", folder)
    document["encoder"]["max_distance"] = 1
    converted_weights.write_description(file, document)
    assert "max_distance: too small" in refused(capsys, "verify", folder)
    document["encoder"]["max_distance"] = distance
    for probe in (["a"], [[0.5]], [0.0] * len(document["probe"])):
        converted_weights.write_description(file, document | {"probe": probe})
        assert "no embedding of the probe" in refused(capsys, "verify", folder)


def test_a_link_leads_to_what_is_replaced(tmp_path):
    folder, _ = converted(TINY, tmp_path / "out")
    (tmp_path / "link").symlink_to(folder)
    before = (folder / "beats.json").stat().st_mtime_ns
    for _ in range(2):
        assert main(["convert", "beats", str(TINY), str(tmp_path / "link"), "--overwrite"]) == 0
    assert (folder / "beats.json").stat().st_mtime_ns > before
    assert (tmp_path / "link").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"out", "link"}


def test_a_source_that_is_missing_makes_no_directories(tmp_path, capsys):
    assert str(tmp_path / "no.pt") in refused(
        capsys, "beats", tmp_path / "no.pt", tmp_path / "a" / "b"
    )
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "name",
    ["nano_zip_nometa_unshared", "nano_legacy_nonzip", "nano_zip_oldlayout", "nano_zip_deflated",
     "nano_params", "nano_extra_keys"],
)  # fmt: skip
def test_every_container_gives_the_same_weights(name, tmp_path, golden):
    folder, _ = converted(VARIANTS / f"{name}.pt", tmp_path / "out")
    with np.load(VARIANTS / "expected.npz") as file:
        expected = {k.removeprefix("nano::"): file[k] for k in file if k.startswith("nano::")}
    back = tmp_path / "back.npz"
    assert main(["convert", "torch", str(folder), str(back)]) == 0
    with np.load(back) as file:
        assert_equal(dict(file), expected)


def test_half_precision_becomes_float32(tmp_path):
    folder, document = converted(VARIANTS / "nano_halfprec.pt", tmp_path / "out")
    assert {t["dtype"] for t in document["tensors"]} <= {"float16", "bfloat16", "float32"}
    ours = arrays(weights_folder.load(converted_weights.read(folder)))
    assert {array.dtype for array in ours.values()} == {np.dtype(np.float32)}
    state = torch_file.read(VARIANTS / "nano_halfprec.pt")["model"]
    assert any(array.dtype == np.float16 for array in state.values())
    tree = weights_folder.load(converted_weights.read(folder))
    found = state_dict.to_torch(beats.table(tree["encoder"]), tree)
    assert_equal(found, {name: array.astype(np.float32) for name, array in state.items()})


def test_bfloat16_takes_half_the_room(tiny, tmp_path, golden):
    folder, document = converted(TINY, tmp_path / "half", "--dtype", "bfloat16")
    assert document["dtype"] == "bfloat16"
    exact, rounded = (
        arrays(weights_folder.load(converted_weights.read(f))) for f in (tiny[0], folder)
    )
    for name, array in exact.items():
        assert rounded[name].dtype == np.float32
        np.testing.assert_array_equal(rounded[name], array.astype(jax.numpy.bfloat16), name)
    sizes = [
        sum(f.stat().st_size for f in (path / "weights").rglob("*/d/*"))
        for path in (tiny[0], folder)
    ]
    assert sizes[1] < 0.55 * sizes[0]
    assert main(["convert", "verify", str(folder)]) == 0
    waves = list(golden("beats_tiny_io")["n16000/wave"])
    one, other = (load_embedder(path).embed(waves) for path in (tiny[0], folder))
    for a, b in zip(one, other, strict=True):
        assert 0.999 * np.linalg.norm(a) * np.linalg.norm(b) < a @ b
        assert not np.array_equal(a, b)


def test_verify_finds_what_was_changed(tiny, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(tiny[0], folder)
    weights = weights_folder.load(converted_weights.read(folder))
    table = weights["encoder"]["encoder"]["layers"]["1"]["fc1"]["kernel"]
    weights["encoder"]["encoder"]["layers"]["1"]["fc1"]["kernel"] = table * np.float32(1.05)
    shutil.rmtree(folder / "weights")
    checkpoint.save_weights(folder / "weights", weights)
    assert "the weights have changed" in refused(capsys, "verify", folder)
    file = folder / "beats.json"
    document = json.loads(file.read_text()) | {"digest": digest(weights)}
    converted_weights.write_description(file, document)
    assert "the probe's embedding differs by" in refused(capsys, "verify", folder)
    for probe in ([], None, [0.5], "x"):
        converted_weights.write_description(file, document | {"probe": probe})
        assert "no embedding of the probe" in refused(capsys, "verify", folder)
    assert "not a folder of converted weights" in refused(capsys, "verify", tmp_path)


def test_the_configuration_is_the_files_own(nano, tmp_path, capsys):
    nano["cfg"] |= {"max_distance": 640, "expand_attention_head_size": -1}
    for key in ("dropout_input", "finetuned_model"):
        del nano["cfg"][key]
    _, document = converted(written(tmp_path, nano), tmp_path / "out")
    assert document["encoder"]["max_distance"] == 640
    assert document["cfg_ignored"] == ["expand_attention_head_size"]
    assert document["cfg_assumed"] == {"finetuned_model": False, "dropout_input": 0.0}
    out = capsys.readouterr().err
    assert "ignored: expand_attention_head_size" in out and "dropout_input 0.0" in out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"deep_norm": None, "max_distance": None}, "cfg lacks deep_norm, max_distance"),
        ({"finetuned_model": True}, "cfg lacks predictor_class"),
        ({"layer_norm_first": True}, "cfg.layer_norm_first: expected one of False"),
        ({"activation_fn": "relu"}, "cfg.activation_fn: expected one of gelu"),
        ({"conv_pos": "wide"}, "cfg.conv_pos: expected a whole number"),
        ({"encoder_layers": 0}, "cfg.encoder_layers: must be at least 1"),
        ({"encoder_attention_heads": 3}, "cfg.encoder_attention_heads: must divide"),
        ({"encoder_layers": 3}, f"missing {BIAS.format(2)}"),
        ({"embed_dim": 32}, "unexpected post_extract_proj.bias"),
        ({"conv_bias": True}, "missing patch_embedding.bias"),
        ({"encoder_layers": 2**20}, "cfg.encoder_layers is 1048576"),
        ({"encoder_embed_dim": 2**20}, "cfg.encoder_embed_dim is 1048576"),
        ({"finetuned_model": True, "predictor_class": 5}, "missing predictor.weight"),
    ],
)
def test_impossible_configurations(nano, change, words, tmp_path, capsys):
    kept = {key: value for key, value in (nano["cfg"] | change).items() if value is not None}
    source = written(tmp_path, nano | {"cfg": kept})
    err = refused(capsys, "beats", source, tmp_path / "out")
    assert str(source) in err and words in err
    assert sorted(tmp_path.iterdir()) == [source]


def test_without_cfg_nothing_is_guessed(nano, tmp_path, capsys):
    for content in (nano["model"], {"model": nano["model"]}, nano | {"cfg": 3}, nano["cfg"], [1]):
        source = written(tmp_path, content)
        assert "has no cfg" in refused(capsys, "beats", source, tmp_path / "out")
    bare = VARIANTS / "nano_bare_state_dict.pt"
    assert f"{bare}: has no cfg" in refused(capsys, "beats", bare, tmp_path / "out")


def test_all_mismatches_are_named_together(nano, tmp_path, capsys):
    state = nano["model"]
    del state["encoder.layers.0.fc1.bias"]
    state["predictor.weight"] = np.zeros((4, 32), np.float32)
    state["layer_norm.weight"] = np.zeros(3, np.float32)
    state["layer_norm.bias"] = np.arange(16)
    state["encoder.layer_norm.bias"] = np.full(32, np.nan, np.float32)
    state["encoder.layer_norm.weight"] = np.full(32, 1e300)
    state[BIAS.format(1)] = state[BIAS.format(0)] + np.float32(1)
    state["encoder.layers.1.self_attn.grep_a"] = np.ones(2, np.float32)
    err = refused(capsys, "beats", written(tmp_path, nano), tmp_path / "out")
    for words in (
        "missing encoder.layers.0.fc1.bias;",
        "unexpected predictor.weight;",
        "layer_norm.weight has shape (3,), not (16,)",
        "layer_norm.bias has type int64, which is not floating point",
        "encoder.layer_norm.bias holds values that are not finite",
        "encoder.layer_norm.weight holds values that are not finite",
        f"{BIAS.format(1)} differs from {BIAS.format(0)}",
        "encoder.layers.1.self_attn.grep_a has shape (2,), not (1, 2, 1, 1)",
    ):
        assert words in err
    state[BIAS.format(1)] = "text"
    err = refused(capsys, "beats", written(tmp_path, nano), tmp_path / "out")
    assert f"'{BIAS.format(1)}' is not an array" in err


def test_weights_that_overflow(nano, tmp_path, capsys):
    nano["model"]["layer_norm.weight"] = np.full(16, 3e38, np.float32)
    err = refused(capsys, "beats", written(tmp_path, nano), tmp_path / "out")
    assert "its embeddings are not finite" in err and not (tmp_path / "out").exists()


def test_parameters_are_arrays(nano, tmp_path):
    state = OrderedDict((name, parameter(np.array(array))) for name, array in nano["model"].items())
    _, document = converted(written(tmp_path, nano | {"model": state}), tmp_path / "out")
    assert document["digest"] == converted(VARIANTS / "nano_zip.pt", tmp_path / "nano")[1]["digest"]


@given(data=st.data())
@settings(max_examples=15)
def test_names_and_axes_are_a_bijection(data):
    def choose(*values):
        return data.draw(st.sampled_from(values))

    encoder = BEATsEncoderConfig(
        encoder_layers=choose(1, 2, 3), encoder_embed_dim=16, encoder_ffn_embed_dim=choose(8, 24),
        encoder_attention_heads=choose(1, 2), embed_dim=choose(8, 16), conv_pos=choose(4, 7),
        conv_pos_groups=choose(1, 4), conv_bias=choose(True, False),
        relative_position_embedding=choose(True, False), gru_rel_pos=choose(True, False),
        input_patch_size=choose(8, 16), num_buckets=8,
        finetuned_model=choose(True, False), predictor_class=3,
    )  # fmt: skip
    model = BEATsConfig(
        encoder=encoder, adaptation="frozen", pooling=Mean(), embedding_size=0, random_init=True
    )
    _, tree, _ = parameters.split(building.build(model, 16000, 16000, seed=choose(0, 1)))
    tree = jax.tree.map(np.asarray, tree)
    table = beats.table(tree["encoder"])
    state = state_dict.to_torch(table, tree)
    assert state_dict.mismatches(table, state, tree) == []
    assert_equal(arrays(state_dict.from_torch(table, state, tree)), arrays(tree))
    width, layers = 16, encoder.encoder_layers
    assert state["patch_embedding.weight"].shape == (
        encoder.embed_dim, 1, encoder.input_patch_size, encoder.input_patch_size,
    )  # fmt: skip
    groups = (width, width // encoder.conv_pos_groups, encoder.conv_pos)
    assert state["encoder.pos_conv.0.weight_v"].shape == groups
    assert state["encoder.pos_conv.0.weight_g"].shape == (1, 1, encoder.conv_pos)
    assert ("post_extract_proj.weight" in state) == (encoder.embed_dim != width)
    found = sum("relative_attention_bias" in name for name in state)
    assert found == layers * encoder.relative_position_embedding


# what stands in the way


def test_nothing_is_replaced_unasked(tmp_path, capsys):
    source, folder = VARIANTS / "nano_zip.pt", tmp_path / "out"
    _, first = converted(source, folder)
    assert "exists already" in refused(capsys, "beats", source, folder)
    converted(source, folder, "--dtype", "bfloat16", "--overwrite")
    assert json.loads((folder / "beats.json").read_text())["dtype"] == "bfloat16"
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("x")
    err = refused(capsys, "beats", source, precious, "--overwrite")
    assert "not a result of this command" in err and (precious / "thesis.tex").is_file()
    # a refused conversion leaves the earlier one alone
    bare = VARIANTS / "nano_bare_state_dict.pt"
    assert "has no cfg" in refused(capsys, "beats", bare, folder, "--overwrite")
    assert json.loads((folder / "beats.json").read_text())["dtype"] == "bfloat16"
    assert {p.name for p in tmp_path.iterdir()} == {"out", "precious"}


def test_a_full_disk_ends_in_one_sentence_each_time(tmp_path):
    """Also if orbax's last thread fails after the first error was raised."""
    program = "import resource, sys; from asdjax import __main__\n"
    program += "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))\n"
    program += "sys.exit(__main__.main())"
    command = [sys.executable, "-c", program, "convert", "beats", str(TINY), str(tmp_path / "out")]
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "")
        *cache, sentence = done.stderr.splitlines()
        assert "Traceback" not in "".join(cache), done.stderr
        assert "weights: cannot be written (File too large)" in sentence
        assert not list(tmp_path.iterdir())


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch, capsys):
    source, folder = VARIANTS / "nano_zip.pt", tmp_path / "out"
    arguments = ["convert", "beats", str(source), str(folder)]
    save = checkpoint.save_weights

    def stop(error):
        def saved(*given):
            save(*given)
            raise error

        monkeypatch.setattr(checkpoint, "save_weights", saved)

    stop(KeyboardInterrupt)
    assert main(arguments) == 130
    assert "interrupted: nothing is half written" in capsys.readouterr().err
    stop(AsdjaxError("out: cannot be written (No space left on device)"))
    assert "No space left on device" in refused(capsys, *arguments[1:])
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(checkpoint, "save_weights", save)
    for left in ("made", "earlier"):  # of a process that was killed
        (tmp_path / ".out.asdjax-partial" / left).mkdir(parents=True)
    (tmp_path / ".out.asdjax-partial" / "earlier" / "beats.json").write_text(
        '{"schema": "asdjax.beats/1"}'
    )
    assert "exists already" in refused(capsys, *arguments[1:])  # back in its place
    converted(source, folder, "--overwrite")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_overwrite_replaces_a_conversion_and_nothing_else(tmp_path, capsys):
    source, folder = VARIANTS / "nano_zip.pt", tmp_path / "out"
    arguments = ["beats", str(source), str(folder), "--overwrite"]
    folder.mkdir()
    (folder / "beats.json").write_text('{"my": "config"}')
    assert "not a result of this command" in refused(capsys, *arguments)
    (folder / "beats.json").unlink()
    folder.rmdir()
    converted(source, folder)
    for mine in folder / "notes.txt", folder / ".git" / "x", folder / "weights" / "mine.txt":
        mine.parent.mkdir(exist_ok=True)
        mine.write_text("mine")
        assert f"{mine}: not written by asdjax" in refused(capsys, *arguments)
        mine.unlink()
    inside = folder / "nano.pt"
    shutil.copy(source, inside)
    arguments[1] = str(inside)
    assert f"{inside}: not written by asdjax" in refused(capsys, *arguments)
    inside.unlink()
    (folder / "weights" / "files.json").write_text("[")  # a damaged conversion can be replaced
    converted(source, folder, "--overwrite")


def test_refused_files_stay_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    index = json.loads((VARIANTS / "index.json").read_text())
    for name, entry in index.items():
        source = VARIANTS / name
        if entry["expect"].startswith("refuse") and source.is_file():
            for kind in ("beats", "asdkit"):
                assert name in refused(capsys, kind, source, tmp_path / "out")
    assert "cannot be read" in refused(capsys, "beats", tmp_path / "nothing.pt", tmp_path / "out")
    assert not list(tmp_path.iterdir())


# the command line


def test_help_is_light_and_the_module_runs():
    program = (
        "import sys, asdjax.convert.__main__ as m\n"
        "try: m.carry_out(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "print('loaded', *{'jax', 'flax', 'numpy', 'scipy', 'sklearn'} & set(sys.modules))"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert out.stdout.splitlines()[-1] == "loaded" and "usage: asdjax convert" in out.stdout
    out = subprocess.run(
        [sys.executable, "-m", "asdjax.convert", "verify", "nothing"],
        capture_output=True,
        text=True,
    )
    assert out.returncode == 1 and out.stderr.startswith("asdjax: nothing: not a folder")


@pytest.mark.parametrize("arguments", [[], ["beats"], ["bets", "a", "b"], ["verify", "a", "b"]])
def test_wrong_usage(arguments):
    with pytest.raises(SystemExit) as stop:
        main(["convert", *arguments])
    assert stop.value.code == 2


@pytest.mark.parametrize("command", ["beats", "verify", "asdkit", "torch"])
def test_help_of_each_command(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["convert", command, "--help"])
    assert stop.value.code == 0 and f"usage: asdjax convert {command}" in capsys.readouterr().out


@pytest.mark.slow
def test_full_size_in_time_and_memory(tmp_path, rng):
    model = BEATsConfig(random_init=True, adaptation="frozen", pooling=Mean(), embedding_size=0)
    _, like, _ = parameters.split(building.skeleton(model, None, 16000))
    table = beats.table(like["encoder"])
    tree = jax.tree.map(lambda a: rng.normal(0, 0.02, a.shape).astype(np.float32), like)
    state = state_dict.to_torch(table, tree)
    for i in range(1, 12):
        state[BIAS.format(i)] = state[BIAS.format(0)]  # one storage, as torch writes it
    cfg = {
        key: value for key, value in vars(BEATsEncoderConfig()).items() if "predictor" not in key
    }
    source, folder = tmp_path / "full.pt", tmp_path / "out"
    write(source, {"cfg": cfg, "model": OrderedDict(state)})
    assert source.stat().st_size == pytest.approx(361.3e6, rel=1e-3)
    del tree, state
    command = [sys.executable, "-m", "asdjax.convert", "beats", str(source), str(folder)]
    # by a small process between: on Linux a child's most memory is at least its parent's
    between = (
        "import os, subprocess, sys\n"
        "_, status, used = os.wait4(subprocess.Popen(sys.argv[1:]).pid, 0)\n"
        "print(status, used.ru_maxrss)"
    )
    began = time.monotonic()
    run = subprocess.run([sys.executable, "-c", between, *command], capture_output=True, check=True)
    seconds = time.monotonic() - began
    status, most = map(int, run.stdout.split()[-2:])
    assert status == 0
    assert json.loads((folder / "beats.json").read_text())["parameters"] == 90_311_792
    assert most * 1024 < 1.5e9
    assert seconds < 15, seconds
    assert main(["convert", "verify", str(folder)]) == 0

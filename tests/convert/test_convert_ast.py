"""AST: embeddings against Hugging Face's network, both layouts, and what is refused."""

import json
import struct

import numpy as np
import pytest
from conftest import GOLDEN, HIDDEN_ATOL, POOLED_ATOL
from safetensors.numpy import load_file, save_file
from support.conversions import refused
from support.torch_writer import write

from asdjax.cli import main
from asdjax.embedder import load
from asdjax.errors import AsdjaxError
from asdjax.models.ast_encoder import ASTConfig
from asdjax.models.beats_encoder import BEATsConfig
from asdjax.store import converted_weights

AST = GOLDEN / "ast_tiny.safetensors"
PREFIX = "audio_spectrogram_transformer."


def convert(source, folder, *options):
    return main(["convert", "ast", str(source), str(folder), "--heads", "4", *options])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The references' small AST, converted."""
    folder = tmp_path_factory.mktemp("weights") / "ast"
    assert convert(AST, folder) == 0
    return folder


def of_its_authors():
    """The same arrays with the names of the authors' file."""
    state = load_file(AST)
    renamed = {
        "v.cls_token": state[f"{PREFIX}embeddings.cls_token"],
        "v.dist_token": state[f"{PREFIX}embeddings.distillation_token"],
        "v.pos_embed": state[f"{PREFIX}embeddings.position_embeddings"],
        "v.head.weight": np.zeros((7, 32), np.float32),
        "mlp_head.1.bias": np.zeros(7, np.float32),
    }
    for leaf in "weight", "bias":
        patches = f"{PREFIX}embeddings.patch_embeddings.projection.{leaf}"
        renamed[f"v.patch_embed.proj.{leaf}"] = state[patches]
        renamed[f"v.norm.{leaf}"] = state[f"{PREFIX}layernorm.{leaf}"]
        for i in range(3):
            old, new = f"{PREFIX}encoder.layer.{i}.", f"v.blocks.{i}."
            fused = [
                state[f"{old}attention.attention.{p}.{leaf}"] for p in ("query", "key", "value")
            ]
            renamed[f"{new}attn.qkv.{leaf}"] = np.concatenate(fused)
            renamed[f"{new}attn.proj.{leaf}"] = state[f"{old}attention.output.dense.{leaf}"]
            renamed[f"{new}norm1.{leaf}"] = state[f"{old}layernorm_before.{leaf}"]
            renamed[f"{new}norm2.{leaf}"] = state[f"{old}layernorm_after.{leaf}"]
            renamed[f"{new}mlp.fc1.{leaf}"] = state[f"{old}intermediate.dense.{leaf}"]
            renamed[f"{new}mlp.fc2.{leaf}"] = state[f"{old}output.dense.{leaf}"]
    return {f"module.{name}": array for name, array in renamed.items()}


def test_tokens_are_the_references(tiny, golden):
    io, embedder = golden("ast_tiny_io"), load(tiny)
    waves = list(io["n20000/wave"])
    found = embedder.embed(waves, "none")
    np.testing.assert_allclose(found, io["n20000/tokens"], rtol=0, atol=HIDDEN_ATOL)
    pooled = io["n20000/tokens"].mean(axis=1, dtype=np.float64)
    np.testing.assert_allclose(embedder.embed(waves), pooled, rtol=0, atol=POOLED_ATOL)
    whole = embedder.embed(list(io["n164080/wave"]))
    np.testing.assert_allclose(whole, io["n164080/mean"], rtol=0, atol=POOLED_ATOL)
    lower = load(tiny, layers=(1, 3)).embed(waves, "none")
    both = np.concatenate([io["n20000/layer_1"], io["n20000/tokens"]], axis=2)
    np.testing.assert_allclose(lower, both, rtol=0, atol=HIDDEN_ATOL)


def test_the_layout_of_its_authors_gives_the_same(tmp_path, golden, capsys):
    write(tmp_path / "audioset_0.4593.pth", of_its_authors())
    assert convert(tmp_path / "audioset_0.4593.pth", tmp_path / "out") == 0
    out = capsys.readouterr().err
    assert "layout of its authors" in out
    assert "do not need" not in out and "left out, as the encoder does not need them" in out
    assert "module.v.head.weight" in out and "module.mlp_head.1.bias" in out
    io = golden("ast_tiny_io")
    found = load(tmp_path / "out").embed(list(io["n20000/wave"]), "none")
    np.testing.assert_allclose(found, io["n20000/tokens_eps6"], rtol=0, atol=HIDDEN_ATOL)


def test_a_folder_says_what_it_holds(tiny, capsys):
    document = json.loads((tiny / "encoder.json").read_text())
    assert document["schema"] == "asdjax.encoder/1" and document["name"] == "ast"
    assert document["layout"] == "of Hugging Face"
    assert document["left_out"] == [
        "classifier.dense.bias", "classifier.dense.weight", "classifier.layernorm.bias",
        "classifier.layernorm.weight",
    ]  # fmt: skip
    assert document["encoder"] == {
        "depth": 3, "width": 32, "hidden": 64, "heads": 4, "stride": 10, "columns": 101,
        "norm_epsilon": 1e-12, "published_as": "AST",
    }  # fmt: skip
    kept = {t["name"].removesuffix(" (patches)").removesuffix(" (class tokens)")
            for t in document["tensors"]}  # fmt: skip
    assert kept | set(document["left_out"]) == load_file(AST).keys()
    assert main(["convert", "verify", str(tiny)]) == 0
    assert "differs by 0.0e+00" in capsys.readouterr().out
    assert "only those of BEATs" in refused(capsys, "torch", tiny, tiny.parent / "back.npz")
    model, weights = ASTConfig(weights=str(tiny)).resolved()
    assert model.encoder.columns == 101 and weights.digest == document["digest"]


def test_bfloat16_and_half_precision(tiny, tmp_path, golden):
    assert convert(AST, tmp_path / "half", "--dtype", "bfloat16") == 0
    save_file({k: a.astype(np.float16) for k, a in load_file(AST).items()}, tmp_path / "h.st")
    assert convert(tmp_path / "h.st", tmp_path / "exact") == 0  # the weights are float16
    waves = list(golden("ast_tiny_io")["n20000/wave"])
    one, half, exact = (load(f).embed(waves) for f in (tiny, tmp_path / "half", tmp_path / "exact"))
    np.testing.assert_array_equal(one, exact)
    assert not np.array_equal(one, half)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layernorm.bias": None, "layernorm.weight": np.ones(3, np.float32)},
         ("missing audio_spectrogram_transformer.layernorm.bias",
          "layernorm.weight has shape (3,), not (32,)")),
        ({"more": np.ones(3, np.float32)}, ("unexpected audio_spectrogram_transformer.more",)),
        ({"layernorm.bias": np.full(32, np.nan, np.float32)}, ("that are not finite",)),
        ({"layernorm.bias": np.ones(32, np.int32)},
         ("layernorm.bias has type int32, which is not floating point",)),
        ({"embeddings.position_embeddings": np.zeros((1, 146, 32), np.float32)},
         ("position_embeddings has shape (1, 146, 32), not one of (1, 1214, D)",)),
        ({"embeddings.position_embeddings": None}, ("missing", "position_embeddings")),
        ({"encoder.layer.1.output.dense.bias": None}, ("missing", "layer.1.output.dense.bias")),
        ({"embeddings.patch_embeddings.projection.weight": None},
         ("an unknown layout", "module.v.patch_embed.proj.weight (of its authors)")),
    ],
)  # fmt: skip
def test_other_arrays_are_refused(change, words, tmp_path, capsys):
    state = load_file(AST) | {PREFIX + name: array for name, array in change.items()}
    source = tmp_path / "model.safetensors"
    save_file({name: array for name, array in state.items() if array is not None}, source)
    err = refused(capsys, "ast", source, tmp_path / "out", "--heads", "4")
    assert str(source) in err and all(word in err for word in words)
    assert list(tmp_path.iterdir()) == [source]


def test_sizes_that_nobody_publishes_are_refused_before_anything_is_built(tmp_path, capsys):
    state = load_file(AST)
    many = {f"{PREFIX}encoder.layer.{i}.a": np.zeros(0, np.float32) for i in range(3, 300)}
    wide = f"{PREFIX}embeddings.patch_embeddings.projection.weight"
    hidden = f"{PREFIX}encoder.layer.0.intermediate.dense.weight"
    for change, size, most in (
        (many, "depth", 256),
        ({wide: np.zeros((2**30, 1, 16, 0), np.float32)}, "width", 2**20),
        ({hidden: np.zeros((2**30, 0), np.float32)}, "hidden", 2**20),
    ):
        save_file(state | change, tmp_path / "model.safetensors")
        err = refused(
            capsys, "ast", tmp_path / "model.safetensors", tmp_path / "out", "--heads", "4"
        )
        assert f"encoder.{size}: must be at least 1 and at most {most}" in err


def test_heads_are_not_guessed(tmp_path, capsys):
    assert "state it with --heads" in refused(capsys, "ast", AST, tmp_path / "out")
    err = refused(capsys, "ast", AST, tmp_path / "out", "--heads", "5")
    assert "heads: must divide width" in err


def test_hostile_safetensors_are_refused(tmp_path, capsys):
    whole = AST.read_bytes()
    size = struct.unpack("<Q", whole[:8])[0]
    header = whole[8 : 8 + size]
    twice = header.replace(b"embeddings.cls_token", b"embeddings.cls_token", 1)
    name, rest = twice[1:].split(b":", 1)
    twice = b"{" + name + b':{"dtype":"F32","shape":[0],"data_offsets":[0,0]},' + twice[1:]
    files = {
        "truncated": (whole[: len(whole) // 2], "damaged"),
        "huge": (struct.pack("<Q", 2**40) + header, "more than 16777216"),
        "longer": (struct.pack("<Q", len(whole)) + header + whole[8 + size :], "damaged"),
        "twice": (struct.pack("<Q", len(twice)) + twice + whole[8 + size :], "twice"),
        "no_json": (struct.pack("<Q", 12) + b"{0123456789}" + whole, "damaged"),
        "deep": (struct.pack("<Q", 400_001) + b"{" + b"[" * 400_000 + whole, "damaged"),
        "offsets": (whole.replace(b'"data_offsets":[0,', b'"data_offsets":[9,', 1), "damaged"),
        "tail": (whole + b"0", "damaged"),
        "short": (b"abc", "not a PyTorch checkpoint"),
        "empty": (b"", "empty"),
    }
    for what, (content, words) in files.items():
        source = tmp_path / what
        source.write_bytes(content)
        err = refused(capsys, "ast", source, tmp_path / "out", "--heads", "4")
        assert str(source) in err and words in err, (what, err)
    assert not (tmp_path / "out").exists()
    err = refused(capsys, "ast", tmp_path / "nothing", tmp_path / "out")
    assert "cannot be read" in err


def test_weights_of_another_encoder_are_refused(tiny):
    with pytest.raises(AsdjaxError, match="weights of the encoder ast, not of beats"):
        BEATsConfig(weights=str(tiny)).resolved()


def test_a_damaged_description_is_refused(tiny, tmp_path):
    document = json.loads((tiny / "encoder.json").read_text())
    for change, words in (
        ({"name": "other"}, "unknown encoder 'other'"),
        ({"name": ["ast"]}, "unknown encoder"),
        ({"schema": "asdjax.beats/1"}, "not written by this version"),
        ({"encoder": document["encoder"] | {"heads": 5}}, "must divide width"),
    ):
        converted_weights.write_description(tmp_path / "encoder.json", document | change)
        with pytest.raises(AsdjaxError, match=words):
            converted_weights.read(tmp_path)
    (tmp_path / "beats.json").write_text("{}")
    with pytest.raises(AsdjaxError, match="beats.json and encoder.json"):
        converted_weights.read(tmp_path)

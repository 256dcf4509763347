"""EAT and SSLAM: tokens against PyTorch's, both layouts, and what is refused."""

import argparse
import json

import numpy as np
import pytest
from conftest import GOLDEN, HIDDEN_ATOL, POOLED_ATOL
from safetensors.numpy import save_file
from support.conversions import refused
from support.spectrogram_weights import embedded, folder
from support.torch_writer import write

from asdjax.cli import main
from asdjax.convert import torch_file
from asdjax.embedder import load
from asdjax.models.eat_encoder import EATConfig

EAT = GOLDEN / "eat_tiny.pt"
IMAGE = "modality_encoders.IMAGE."
HUGGING_FACE = {
    f"{IMAGE}context_encoder.norm": "pre_norm",
    IMAGE: "",
}


def arrays():
    """The golden file's arrays by fairseq's names, without those of the teacher."""
    model = torch_file.read(EAT, placeholders_outside="model")["model"]
    return {name: array for name, array in model.items() if name != "_ema"}


def of_hugging_face(tmp_path, **change):
    """The same encoder as Hugging Face's file."""
    state = {k: np.array(a) for k, a in arrays().items() if not k.startswith(f"{IMAGE}decoder")}
    for old, new in HUGGING_FACE.items():
        state = {name.replace(old, new): array for name, array in state.items()}
    state = {f"model.{name}": array for name, array in state.items()} | change
    file = tmp_path / "model.safetensors"
    save_file({name: array for name, array in state.items() if array is not None}, file)
    return file


def test_tokens_are_pytorchs(golden):
    io, embedder = golden("eat_tiny_io"), load(folder("eat"))
    waves = list(io["n20000/wave"])
    found = embedder.embed(waves, "none")
    np.testing.assert_allclose(found, io["n20000/tokens"], rtol=0, atol=HIDDEN_ATOL)
    pooled = io["n20000/tokens"].mean(axis=1, dtype=np.float64)
    np.testing.assert_allclose(embedder.embed(waves), pooled, rtol=0, atol=POOLED_ATOL)
    # positions go on beyond the 64 columns of the file
    long = embedder.embed(list(io["n176400/wave"]))
    np.testing.assert_allclose(long, io["n176400/mean"], rtol=0, atol=POOLED_ATOL)
    lower = load(folder("eat"), layers=(1,)).embed(waves, "none")
    np.testing.assert_allclose(lower, io["n20000/layer_1"], rtol=0, atol=HIDDEN_ATOL)
    for samples in (20000, 176400):
        published = embedded("eat", io[f"n{samples}/wave"], class_tokens=True)
        expected = io[f"n{samples}/published"]
        np.testing.assert_allclose(published, expected, rtol=0, atol=POOLED_ATOL)


def test_what_pretraining_needs_is_left_out():
    document = json.loads((folder("eat") / "encoder.json").read_text())
    assert document["layout"] == "of fairseq" and document["encoder"]["published_as"] == "EAT"
    assert document["left_out"] == [
        "_ema", f"{IMAGE}decoder.blocks.0.0.weight", f"{IMAGE}decoder.proj.bias",
    ]  # fmt: skip


@pytest.mark.parametrize("columns", [0, 64, 768])
def test_the_layout_of_hugging_face_gives_the_same(tmp_path, golden, columns):
    """Its table of positions has 768 columns."""
    from asdjax.models.vision_transformer import sines

    table = sines(columns, 8, 32).reshape(1, -1, 32) if columns else None
    name = "model.fixed_positional_encoder.positions"
    source = of_hugging_face(tmp_path, **{name: table, "model.head.bias": np.ones(5, np.float32)})
    assert main(["convert", "sslam", str(source), str(tmp_path / "out"), "--heads", "4"]) == 0
    document = json.loads((tmp_path / "out" / "encoder.json").read_text())
    assert document["layout"] == "of Hugging Face" and document["left_out"] == ["model.head.bias"]
    one, other = (load(f).embed(list(golden("eat_tiny_io")["n20000/wave"]))
                  for f in (folder("eat"), tmp_path / "out"))  # fmt: skip
    np.testing.assert_array_equal(one, other)
    model, _ = EATConfig(weights=str(tmp_path / "out")).resolved()
    assert model.sentences()[2] == "SSLAM"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fixed_positional_encoder.positions": np.zeros((1, 512, 32), np.float32)},
         "is not the table of fixed sines"),
        ({"fixed_positional_encoder.positions": np.zeros((1, 500, 32), np.float32)},
         "has shape (1, 500, 32), not (1, 8 columns, D)"),
        ({"fixed_positional_encoder.positions": np.full((1, 8, 32), np.nan, np.float32)},
         "is not the table of fixed sines"),
        ({"extra_tokens": np.zeros((1, 2, 32), np.float32)},
         "model.extra_tokens has shape (1, 2, 32), not (1, 1, 32)"),
        ({"blocks.0.attn.qkv.bias": np.zeros(95, np.float32)},
         "missing model.blocks.0.attn.qkv.bias (q)"),
        ({"alibi_scale": np.ones(1, np.float32)}, "unexpected model.alibi_scale"),
        ({"norm.weight": np.ones(32, np.float32)}, "unexpected model.norm.weight"),
        ({"local_encoder.proj.weight": np.zeros((32, 1, 16, 8), np.float32)},
         "proj.weight has shape (32, 1, 16, 8), not (32, 1, 16, 16)"),
        ({"blocks.2.mlp.fc1.bias": None}, "missing model.blocks.2.mlp.fc1.bias"),
    ],
)  # fmt: skip
def test_other_arrays_are_refused(change, words, tmp_path, capsys):
    source = of_hugging_face(tmp_path, **{f"model.{name}": a for name, a in change.items()})
    err = refused(capsys, "eat", source, tmp_path / "out", "--heads", "4")
    assert str(source) in err and words in err
    assert list(tmp_path.iterdir()) == [source]


def test_other_pytorch_files_are_refused(tmp_path, capsys):
    content = torch_file.read(EAT, placeholders_outside="model")
    for name, changed, words in (
        ("no_model.pt", {"cfg": 1}, "has no model"),
        ("no_dict.pt", {"model": [1]}, "holds no arrays by name"),
        ("no_array.pt", {"model": {"a": 1}}, "'a' is not an array"),
        ("half.pt", {"model": {k: a for k, a in arrays().items() if "blocks.1" not in k}},
         "missing blocks.1.attn.proj.bias"),
        ("beats.pt", torch_file.read(GOLDEN / "beats_tiny.pt"), "an unknown layout"),
    ):  # fmt: skip
        write(tmp_path / name, changed)
        err = refused(capsys, "eat", tmp_path / name, tmp_path / "out", "--heads", "4")
        assert words in err, name
    assert content["cfg"] and argparse.Namespace.__name__ == content["cfg"].name

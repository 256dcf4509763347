"""Dasheng: tokens against its authors' package, both layouts, and what is refused."""

import json

import jax
import numpy as np
import pytest
from conftest import GOLDEN, HIDDEN_ATOL, POOLED_ATOL
from safetensors.numpy import save_file
from support.conversions import refused
from support.spectrogram_weights import FROZEN, folder, model, network

from asdjax.cli import main
from asdjax.convert import torch_file
from asdjax.embedder import load
from asdjax.models import building, parameters

DASHENG = GOLDEN / "dasheng_tiny.pt"
FRONT = "front_end.0."


def of_hugging_face(tmp_path, **change):
    """The same encoder as Hugging Face's file, which has no spectrogram but a counter."""
    state = {k: np.array(a) for k, a in torch_file.read(DASHENG)["model"].items()}
    state = {f"encoder.{k}": a for k, a in state.items() if not k.startswith(FRONT)} | change
    file = tmp_path / "model.safetensors"
    save_file({name: array for name, array in state.items() if array is not None}, file)
    return file


def test_tokens_are_the_authors(golden):
    io, embedder = golden("dasheng_tiny_io"), load(folder("dasheng"))
    waves = list(io["n20000/wave"])
    found = embedder.embed(waves, "none")
    np.testing.assert_allclose(found, io["n20000/tokens"], rtol=0, atol=HIDDEN_ATOL)
    pooled = io["n20000/tokens"].mean(axis=1, dtype=np.float64)
    np.testing.assert_allclose(embedder.embed(waves), pooled, rtol=0, atol=POOLED_ATOL)
    # 300 columns: the table of positions has 252, and the rest is a part of its own
    long = list(io["n192100/wave"])
    np.testing.assert_allclose(embedder.embed(long), io["n192100/mean"], rtol=0, atol=POOLED_ATOL)
    last = embedder.embed(long, "none")[0][-8:]
    np.testing.assert_allclose(last, io["n192100/last"][0], rtol=0, atol=HIDDEN_ATOL)


def test_in_float64(golden, float64):
    io = golden("dasheng_tiny_io")
    _, graphdef, params = network("dasheng", **FROZEN)
    params = jax.tree.map(lambda a: a.astype(np.float64), params)
    encoder = parameters.merged(graphdef, params, {}).encoder
    spectrogram = io["n20000/decibels"].astype(np.float64)
    found = jax.jit(lambda x: encoder(x).layers[0])(spectrogram)
    np.testing.assert_allclose(found, io["n20000/tokens_f64"], rtol=0, atol=1e-8)


def test_the_layout_of_hugging_face_gives_the_same(tmp_path, golden):
    source = of_hugging_face(tmp_path, **{"outputlayer.0.weight": np.ones((5, 32), np.float32)})
    assert main(["convert", "dasheng", str(source), str(tmp_path / "out"), "--heads", "4"]) == 0
    documents = [json.loads((f / "encoder.json").read_text())
                 for f in (folder("dasheng"), tmp_path / "out")]  # fmt: skip
    assert [d["layout"] for d in documents] == ["of its authors", "of Hugging Face"]
    assert [d["left_out"] for d in documents] == [[], ["outputlayer.0.weight"]]
    assert documents[0]["digest"] == documents[1]["digest"]
    assert documents[0]["encoder"] == {
        "depth": 3, "width": 32, "hidden": 64, "heads": 4, "stride": 4, "columns": 252,
        "norm_epsilon": 1e-6, "published_as": "Dasheng",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"time_pos_embed": None}, "no encoder.time_pos_embed of shape (1, D, 1, columns)"),
        ({"time_pos_embed": np.zeros((1, 32, 1, 0), np.float32)}, "no encoder.time_pos_embed"),
        ({"freq_pos_embed": np.zeros((1, 32, 4, 1), np.float32)},
         "freq_pos_embed has shape (1, 32, 4, 1), not (1, 32, 1, 1)"),
        ({"front_end.0.mel_scale.fb": np.zeros((257, 128), np.float32)}, "is not that of 64 bands"),
        ({"front_end.0.spectrogram.window": np.ones(512, np.float32)}, "is not that of 64 bands"),
        ({"patch_embed.proj.weight": np.zeros((32, 1, 16, 16), np.float32)},
         "has shape (32, 1, 16, 16), not (32, 1, 64, 4)"),
        ({"cls_token": np.zeros((1, 1, 32), np.float32)}, "unexpected encoder.cls_token"),
        ({"init_bn.1.running_var": None}, "missing encoder.init_bn.1.running_var"),
    ],
)  # fmt: skip
def test_other_arrays_are_refused(change, words, tmp_path, capsys):
    source = of_hugging_face(tmp_path, **{f"encoder.{name}": a for name, a in change.items()})
    err = refused(capsys, "dasheng", source, tmp_path / "out", "--heads", "4")
    assert str(source) in err and words in err
    assert list(tmp_path.iterdir()) == [source]


def test_the_bands_statistics_are_not_trained():
    encoder = model("dasheng")
    _, params, _ = parameters.split(building.skeleton(encoder, None, 16000))
    trained, frozen = building.partition(encoder, params)
    assert set(frozen["encoder"]) == {"band_norm"} and "band_norm" not in trained["encoder"]
    assert any("no class tokens" in what
               for possible, _, what in model("dasheng", class_tokens=True).checks(16000)
               if not possible)  # fmt: skip

"""Every verb with the transformers on spectrograms: adapters, frozen weights, detectors."""

import json

import numpy as np
import pytest
from support import machines, spectrogram_weights

from asdjax.cli import main
from asdjax.embedder import load

pytestmark = pytest.mark.usefixtures("compiled_fast")

RECIPE = """
audio: {{clip_seconds: 0.4}}
model: {{name: {name}, weights: {weights}, pooling_ratio: 4, embedding_size: 16}}
optim: {{learning_rate: 1e-3, warmup_steps: 2}}
train: {{epochs: 1, batch_size: 16, devices: 1}}
"""


@pytest.fixture
def recipe(request, tmp_path):
    name = request.param
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE.format(name=name, weights=spectrogram_weights.folder(name)))
    return name, file


@pytest.mark.parametrize("recipe", spectrogram_weights.FILES, indirect=True)
@pytest.mark.parametrize(
    ("adaptation", "options"),
    [
        ("full", ("--model.remat", "full")),
        ("lora", ("--model.lora.rank", "2", "--model.lora.dropout", "0.1")),
        ("frozen", ("--model.pooling", "mean", "--model.embedding-size", "0",
                    "--model.layers", "1", "3")),
    ],
)  # fmt: skip
def test_every_verb(corpus_root, tmp_path, recipe, adaptation, options):
    name, file = recipe
    run = tmp_path / "run"
    command = ["run", str(file), "--data", str(corpus_root), "--run", str(run)]
    assert main([*command, "--model.adaptation", adaptation, *options]) == 0
    metrics = json.loads((run / "metrics" / "metrics.json").read_text())
    assert set(metrics["machines"]) == {"fan", "bearingEmu"} and not metrics.get("random_init")
    with np.load(run / "embeddings" / "raw" / "fan.npz") as arrays:
        stored, size = arrays["embedding"], 64 if adaptation == "frozen" else 16
        assert stored.shape[1] == size and np.isfinite(stored).all()
    assert load(run).embed([np.zeros(6400, np.float32)])[0].shape == (size,)
    frozen = load(spectrogram_weights.folder(name), layers=(1, 3))
    if adaptation == "frozen":
        wave = np.random.default_rng(0).normal(0, 0.1, 6400).astype(np.float32)
        np.testing.assert_allclose(load(run).embed([wave]), frozen.embed([wave]), atol=1e-4)


@pytest.mark.parametrize("name", spectrogram_weights.FILES)
def test_embed_and_fit(tmp_path, name):
    weights = str(spectrogram_weights.folder(name))
    machines.folder(tmp_path / "normal", range(12))
    out = tmp_path / "e.npz"
    assert main(["embed", weights, str(tmp_path / "normal"), "--out", str(out)]) == 0
    with np.load(out) as arrays:
        assert arrays["embedding"].shape == (12, 32)
    detector = tmp_path / "d.asd"
    fit = ["fit", str(tmp_path / "normal"), "--out", str(detector), "--embedder", weights]
    assert main(fit) == 0
    machines.folder(tmp_path / "faulty", range(20, 22), fault="tone")
    assert main(["predict", str(detector), str(tmp_path / "faulty")]) in (0, 3)


@pytest.mark.parametrize("name", spectrogram_weights.FILES)
def test_pretrained_weights_are_asked_for(corpus_root, tmp_path, capsys, name):
    file = tmp_path / "recipe.yaml"
    file.write_text(f"model: {{name: {name}}}\n")
    run = tmp_path / "run"
    assert main(["run", str(file), "--data", str(corpus_root), "--run", str(run)]) == 1
    assert f"asdjax convert {name}" in capsys.readouterr().err and not run.exists()

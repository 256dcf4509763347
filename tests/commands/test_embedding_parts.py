"""Runs whose embedding has several parts and bands: training, extraction, scores of a part."""

import dataclasses
import shutil

import numpy as np
import pytest
import yaml
from conftest import TESTS, relative

import asdjax
from asdjax.challenge import meta_yaml
from asdjax.cli import main
from asdjax.config.recipe import load
from asdjax.detector.features import TrainedFeatures
from asdjax.embedder import Embedder
from asdjax.errors import AsdjaxError
from asdjax.models.pooling_relative_deviation import RelativeDeviation
from asdjax.models.poolings import Mean
from asdjax.report import facts
from asdjax.scoring import backends
from asdjax.scoring.distances import unit_length
from asdjax.scoring.nearest_neighbours import NearestNeighbours
from asdjax.store.runs import Run

pytestmark = pytest.mark.usefixtures("compiled_fast")

SIZE = 32
MEMBERS = (RelativeDeviation(gamma=4.0, keep_bands=True), Mean())
PLACES = {"relative_deviation_4_bands": (0, 8 * SIZE, 8), "mean": (8 * SIZE, 9 * SIZE, 1)}
RECIPE = {
    "extends": str(TESTS / "tiny_beats.yaml"),
    "model": {
        "adaptation": "lora",
        "lora": {"rank": 2},
        "embedding_size": 0,
        "pooling": {
            "name": "several",
            "members": [{"name": "relative_deviation", "gamma": 4, "keep_bands": True}, "mean"],
        },
    },
    "extract": {"views": [{"name": "raw", "method": "raw"}, {"name": "clean", "method": "cancel"}]},
    "train": {"epochs": 1},
}


@pytest.fixture(scope="module")
def made(corpus_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    command = [str(recipe), "--data", str(corpus_root), "--run", str(folder / "run")]
    assert main(["train", *command]) == 0 and main(["extract", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def test_extraction_equals_the_poolings_one_by_one(made, corpus_root):
    table = Run(made).read_embeddings("raw", "fan")
    assert table.embedding.dtype == np.float32 and table.embedding.shape[1] == 9 * SIZE
    embedder = Embedder.load(made)
    files = [corpus_root / path for path in table.path[:5]]
    for member, (start, stop, _) in zip(MEMBERS, PLACES.values(), strict=True):
        found = np.stack(embedder.embed(files, member))
        assert relative(table.embedding[:5, start:stop], found) < 1e-5


@pytest.mark.parametrize("part", [None, *PLACES])
@pytest.mark.parametrize("combine", ["mean", "embeddings"])
@pytest.mark.parametrize("bands", ["each", "joined"])
def test_scores_are_those_of_the_part(part, combine, bands, run, capsys):
    options = ["--backend.combine-views", combine, "--backend.bands", bands]
    options += [] if part is None else ["--backend.part", part]
    assert main(["score", str(run), *options]) == 0
    capsys.readouterr()
    config = Run(run).config().backend
    start, stop, n_bands = PLACES[part or "relative_deviation_4_bands"]
    tables = [Run(run).read_embeddings(view, "fan") for view in ("raw", "clean")]
    vectors = [table.embedding[:, start:stop] for table in tables]
    if combine == "embeddings":
        size = SIZE if bands == "each" else stop - start
        shape = vectors[0].shape
        rows = [unit_length(v.astype(np.float64).reshape(-1, size), "cosine") for v in vectors]
        vectors = [np.mean(rows, axis=0).reshape(shape)]
    train = tables[0].split == "train"
    expected = np.zeros(len(train))
    for vector in vectors:
        fitted = backends.fit(config, vector[train], tables[0].domain[train] == "target", n_bands)
        expected[train] += fitted.leave_one_out() / len(vectors)
        expected[~train] += fitted.score(vector[~train]) / len(vectors)
    found = [float(row["score"]) for row in Run(run).read_scores("fan")]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_part_that_is_not_there(run, capsys):
    assert main(["score", str(run), "--backend.part", "mean"]) == 0
    before = (run / "scores" / "fan.csv").read_bytes()
    capsys.readouterr()
    assert main(["score", str(run), "--backend.part", "median"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no part 'median'" in said
    assert "choose one of relative_deviation_4_bands, mean" in said
    assert (run / "scores" / "fan.csv").read_bytes() == before
    assert Run(run).config().backend.part == "mean"
    assert main(["evaluate", str(run)]) == 0  # the scores of before are still those of the run


def test_a_part_is_refused_before_training(corpus_root, tmp_path, capsys):
    command = ["run", str(TESTS / "tiny_beats.yaml"), "--data", str(corpus_root)]
    command += ["--run", str(tmp_path / "run"), "--backend.part", "mean"]
    assert main(command) == 1
    assert "it has no parts" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_meta_yaml_says_what_is_scored(made):
    config = Run(made).config()
    said = meta_yaml.describe(config, ["fan/00"])["embeddings"]
    assert said.endswith(
        "relative deviation pooling (gamma 4) of each frequency band and mean over the tokens of "
        "the last layer, 288 values, of which relative_deviation_4_bands is scored"
    )
    chosen = dataclasses.replace(config.backend, part="mean")
    said = meta_yaml.describe(dataclasses.replace(config, backend=chosen), ["fan/00"])
    assert said["embeddings"].endswith("of which mean is scored")


def test_a_detector_compares_the_first_part(made):
    features = TrainedFeatures(str(made))
    assert features.bands == 8
    rng = np.random.default_rng(0)
    waves = [rng.uniform(-0.1, 0.1, 6400).astype(np.float32) for _ in range(2)]
    found = features(waves, ["a", "b"], 6400)["embedding"]
    whole = np.stack(Embedder.load(made).embed(waves, alike=True))
    assert whole.shape[1] == 9 * SIZE
    np.testing.assert_array_equal(found, whole[:, : 8 * SIZE])


@pytest.mark.parametrize("name", ["frozen_best", "lora_best"])
def test_the_recipes_have_bands(name):
    (part,) = load(name).model.embedding_parts
    assert part.bands == 8 and part.size == 8 * 768


def test_the_report_shows_the_part_that_is_scored(run):
    table = Run(run).read_embeddings("raw", "fan")
    train = np.flatnonzero(table.split == "train")
    found = {}
    for part, (start, stop, _) in PLACES.items():
        assert main(["score", str(run), "--backend.part", part]) == 0
        (section,) = (of for of in facts.read(Run(run)).sections if of.machine == "fan")
        points = unit_length(table.embedding[:, start:stop].astype(np.float64), "cosine")
        distance = np.linalg.norm(points[:, None] - points[None, train], axis=2)
        distance[train, np.arange(len(train))] = np.inf
        nearest = distance[np.arange(len(points)), np.searchsorted(train, section.nearest)]
        np.testing.assert_allclose(nearest, distance.min(axis=1), atol=1e-6)
        found[part] = section.nearest
    assert not np.array_equal(*found.values())


def test_a_detector_takes_no_part(made):
    backend = NearestNeighbours(part="mean")
    with pytest.raises(AsdjaxError, match="uses the first part"):
        asdjax.Detector(embedder=str(made), backend=backend).fit([np.zeros(16000)])

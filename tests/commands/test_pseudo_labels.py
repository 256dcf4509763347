"""dataset.label pseudo: classes of clips without attributes, stored with the run."""

import csv
import dataclasses
import shutil

import numpy as np
import pytest
from conftest import TESTS
from support.scored_runs import make_run, score_rows

from asdjax.cli import main
from asdjax.commands.pseudo_labels import labelled
from asdjax.commands.train import train
from asdjax.config import recipe as configs
from asdjax.config.recipe import Config, PseudoLabelConfig, SynthConfig
from asdjax.data import dcase
from asdjax.data.corpus import open_corpus, resolved
from asdjax.errors import AsdjaxError
from asdjax.store.runs import Run
from asdjax.synth import corpus as synth
from asdjax.training.plan import plan
from asdjax.training.pseudo_labels import clusters

pytestmark = pytest.mark.usefixtures("compiled_fast")

TINY = TESTS / "tiny.yaml"


def blobs(rng, *sizes):
    return np.concatenate([10 * i + rng.standard_normal((n, 3)) for i, n in enumerate(sizes)])


def test_clusters_are_those_of_well_separated_groups(rng):
    points = blobs(rng, 12, 8, 10)
    truth = np.repeat([0, 1, 2], [12, 8, 10])
    for number in (3, "silhouette"):
        found = clusters(points, PseudoLabelConfig(clusters=number))
        np.testing.assert_array_equal(found, truth)


def test_clusters_are_numbered_in_order_and_of_four_clips_on_average(rng):
    points = rng.standard_normal((24, 3))
    found = clusters(points, PseudoLabelConfig())
    assert found.max() == 5
    firsts = [np.flatnonzero(found == k)[0] for k in range(6)]
    assert firsts == sorted(firsts)
    assert clusters(points[:3], PseudoLabelConfig()).tolist() == [0, 0, 0]
    assert clusters(np.zeros((9, 2)), PseudoLabelConfig(clusters="silhouette")).tolist() == [0] * 9


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Synthetic machines, of which bearingEmu and valveEmu have no attributes."""
    root = tmp_path_factory.mktemp("data")
    counts = dict(train_source=12, train_target=4, test_per_cell=1, seconds=2.0)
    synth.write(root, SynthConfig(**counts))
    return root


@pytest.fixture(scope="module")
def recipe():
    dataset = dataclasses.replace(
        Config().dataset, label="pseudo", pseudo=PseudoLabelConfig(clusters=3)
    )
    return dataclasses.replace(Config(), dataset=dataset)


def test_what_is_refused_is_refused_before_pseudo_labels_are_made(data, recipe, capsys):
    short = dataclasses.replace(recipe.audio, clip_seconds=0.05)
    large = dataclasses.replace(recipe.train, batch_size=999, drop_last=True)
    for changes, what in (({"audio": short}, "too short for"), ({"train": large}, "batch_size")):
        changed = dataclasses.replace(recipe, **changes)
        with pytest.raises(AsdjaxError, match=what):
            labelled(open_corpus(data, changed), changed)
    assert "pseudo-classes" not in capsys.readouterr().err


def test_other_settings_are_refused_before_pseudo_labels_are_made(data, tmp_path, rng, capsys):
    run = make_run(tmp_path / "run", {"fan": score_rows(rng, "fan")}, seed=3)
    arguments = [str(TINY), "--data", str(data), "--run", str(run.path)]
    for verb in "train", "run":
        assert main([verb, *arguments, "--dataset.label", "pseudo"]) == 1
        said = capsys.readouterr().err
        assert "begun with other settings" in said and "pseudo-classes" not in said


def test_classes_of_one_clip_are_said(data, recipe):
    corpus = labelled(open_corpus(data, recipe), recipe)

    def note_with(classes):
        pseudo = dataclasses.replace(corpus.pseudo, classes=classes)
        notes = plan(recipe, dataclasses.replace(corpus, pseudo=pseudo)).notes
        return [note for note in notes if "have a single training clip" in note]

    two = {path: f"fan/00/pseudo_0{i % 2}" for i, path in enumerate(corpus.pseudo.classes)}
    assert note_with(two) == []
    (note,) = note_with({**two, next(iter(two)): "fan/00/pseudo_99"})
    assert note.startswith("1 of 3 classes") and "(the first: fan/00/pseudo_99)" in note
    assert note.endswith("lower dataset.pseudo.clusters")


def test_only_clips_without_attributes_get_pseudo_labels(data, recipe):
    corpus = open_corpus(data, recipe)
    with pytest.raises(AsdjaxError, match="have not been computed"):
        plan(resolved(recipe, corpus), corpus)
    corpus = labelled(corpus, recipe)
    clips = dcase.training_clips(corpus.dataset, recipe.dataset)
    names = dict(zip(clips, corpus.classes(clips, "pseudo"), strict=True))
    for clip, name in names.items():
        if clip.attributes:
            assert name == f"{clip.machine}/{clip.section}/{clip.attributes}"
        else:
            assert name.startswith(f"{clip.machine}/{clip.section}/pseudo_0")
    machines = {clip.machine for clip in clips if not clip.attributes}
    assert machines
    for machine in machines:
        assert len({n for c, n in names.items() if c.machine == machine}) == 3
    work = plan(resolved(recipe, corpus), corpus)
    assert [work.classes[i] for i in work.labels] == list(names.values())


def test_pseudo_labels_do_not_depend_on_test_clips(data, recipe, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    for clip in copy.glob("*/test/*.wav"):
        clip.unlink()
    with_tests, without = (labelled(open_corpus(root, recipe), recipe) for root in (data, copy))
    assert with_tests.pseudo.classes == without.pseudo.classes


def test_they_are_stored_and_used_again(corpus_root, tmp_path, monkeypatch):
    config = configs.load(str(TINY))
    chosen = PseudoLabelConfig(clusters=2)
    dataset = dataclasses.replace(config.dataset, label="pseudo", pseudo=chosen)
    config = dataclasses.replace(config, dataset=dataset)
    corpus = open_corpus(corpus_root, config)
    config = resolved(config, corpus)
    run = Run(tmp_path / "run")
    first = labelled(corpus, config, run)
    train(config, first, run)
    with open(run.path / "pseudo_labels.csv", newline="") as file:
        assert {row["path"]: row["class"] for row in csv.DictReader(file)} == first.pseudo.classes
    assert set(run.finished_training()["classes"]) == set(first.pseudo.classes.values())

    def never(*_):
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        patch.setattr("asdjax.commands.pseudo_labels.open_features", never)
        again = labelled(corpus, config, run)
    assert again.pseudo == first.pseudo
    train(config, again, run)  # a second start

    (run.path / "pseudo_labels.csv").write_text("path,class\na.wav,other\n")
    assert labelled(corpus, config, run).pseudo == first.pseudo
    train(config, first, run)
    assert run.pseudo_labels(first.pseudo.made_from) == first.pseudo.classes

    swapped = dict(zip(first.pseudo.classes, [*first.pseudo.classes.values()][::-1], strict=True))
    other = dataclasses.replace(first, pseudo=dataclasses.replace(first.pseudo, classes=swapped))
    with pytest.raises(AsdjaxError, match="pseudo"):
        train(config, other, run)

"""asdjax select: a backend for each machine, chosen without test clips; score follows it."""

import json
import shutil

import numpy as np
import pytest
from conftest import TESTS
from sklearn.metrics import roc_auc_score

from asdjax import cli
from asdjax.challenge import meta_yaml
from asdjax.config import recipe as configs
from asdjax.scoring import backends
from asdjax.store.runs import Run

RECIPE = f"""extends: {TESTS / "tiny_beats.yaml"}
model:
  adaptation: frozen
  embedding_size: 0
  pooling:
    name: several
    members:
      - mean
      - {{name: relative_deviation, gamma: 8, keep_bands: true}}
"""
VIEWS = "[{name: raw, method: raw}, {name: cancel, method: cancel}]"


@pytest.fixture(scope="module")
def extracted(tmp_path_factory, corpus_root):
    """A run of frozen BEATs with two poolings and two views."""
    folder = tmp_path_factory.mktemp("select")
    recipe = folder / "recipe.yaml"
    recipe.write_text(f"{RECIPE}extract: {{views: {VIEWS}}}\n")
    arguments = [str(recipe), "--data", str(corpus_root), "--run", str(folder / "run")]
    assert cli.main(["train", *arguments]) == 0
    assert cli.main(["extract", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def run(extracted, tmp_path):
    return Run(shutil.copytree(extracted, tmp_path / "run"))


def selected(run, *options):
    assert cli.main(["select", str(run.path), *options]) == 0
    return json.loads(run.selection.read_text())


def test_the_best_candidate_of_each_machine_is_chosen_and_scored(run, capsys):
    document = selected(run)
    names = [of["name"] for of in document["candidates"]]
    assert names[:4] == [
        "nearest_neighbours", "local_density", "variance_minimised", "standardised_domains"
    ]  # fmt: skip
    parts = {(of["part"], of["bands"]) for of in document["candidates"]}
    banded = "relative_deviation_8_bands"
    assert parts == {("mean", "each"), (banded, "each"), (banded, "joined")}
    config = run.config()
    assert config.backend.name == "chosen"
    assert config.backend.sections == tuple(document["sections"])
    for name, of in document["sections"].items():
        means = [np.mean(list(kinds.values())) for kinds in of["evidence"]]
        assert of["chosen"] == int(np.argmax(means))
        member = config.backend.of(*name.split("/"))
        tree = document["candidates"][of["chosen"]]
        assert (member.name, member.part, member.bands) == (
            tree["name"], tree["part"], tree["bands"]
        )  # fmt: skip
    assert cli.main(["score", str(run.path)]) == 0
    assert "chosen with other embeddings" not in capsys.readouterr().err
    machine, section = config.backend.sections[0].split("/")
    member = config.backend.of(machine, section)
    part = next(p for p in config.model.embedding_parts if p.name == member.part)
    expected = []
    for view in config.extract.view_names:
        table = run.read_embeddings(view, machine).of_part(part)
        train = table.rows(table.split == "train")
        fitted = backends.fit(member, train.embedding, train.domain == "target", part.bands)
        expected.append(fitted.score(table.embedding[table.split == "test"]))
    found = [float(r["score"]) for r in run.read_scores(machine) if r["split"] == "test"]
    np.testing.assert_allclose(found, np.mean(expected, axis=0), rtol=1e-12)
    method = meta_yaml.describe(config, classes=())["machine_learning_method"]
    assert "by pseudo-anomalies" in method and config.backend.sections[0] in method
    described = meta_yaml.describe(config, classes=())
    assert member.part in method and "is scored" not in described["embeddings"]
    for options in (["--backend.part", "mean"], ["--backend.metric", "euclidean"]):
        assert cli.main(["score", str(run.path), *options]) == 2
        assert "name another backend" in capsys.readouterr().err


def test_candidates_that_are_equal_and_their_notes_are_said(run, capsys):
    document = selected(
        run, "--backends", "nearest_neighbours", "variance_minimised", "local_density"
    )
    lines = capsys.readouterr().out.splitlines()
    nearest, of_few, several = document["candidates"][:3]
    names = [of["name"] for of in (nearest, of_few, several)]
    assert names == ["nearest_neighbours", "variance_minimised", "local_density"]
    for name, of in document["sections"].items():
        assert of["equal_to"][:3] == [None, 0, None]  # too few target clips for SMOTE
        assert of["evidence"][1] == of["evidence"][0]
        assert any("are fewer than 50" in note for note in of["notes"][1])
        said = [line for line in lines if line.partition(": ")[0].find(name) >= 0]
        assert any("variance_minimised part mean bands each: ranks all clips as" in x for x in said)
        assert any("fewer than 50" in x for x in said)


def test_evidence_of_other_machines_is_an_auc_of_training_clips(run):
    document = selected(run, "--kinds", "machines", "--backends", "nearest_neighbours")
    config = run.config()
    config_of_first = configs.load(str(TESTS / "tiny_beats.yaml")).backend
    machine = document["sections"].popitem()[0].partition("/")[0]
    tables = {}
    for name in run.machines():
        whole = run.read_embeddings("raw", name).of_part(config.model.embedding_parts[0])
        tables[name] = whole.rows(whole.split == "train")
    cancelled = {}
    for name in run.machines():
        whole = run.read_embeddings("cancel", name).of_part(config.model.embedding_parts[0])
        cancelled[name] = whole.rows(whole.split == "train")
    scores = []
    for of_view in (tables, cancelled):
        bank = of_view[machine]
        fitted = backends.fit(config_of_first, bank.embedding, bank.domain == "target")
        others = np.concatenate([of.embedding for n, of in of_view.items() if n != machine])
        scores.append(np.concatenate([fitted.leave_one_out(), fitted.score(others)]))
    normal = len(tables[machine].path)
    total = np.mean(scores, axis=0)
    expected = roc_auc_score(np.arange(len(total)) >= normal, total)
    document = json.loads(run.selection.read_text())
    assert document["sections"][f"{machine}/00"]["evidence"][0]["machines"] == expected


def test_test_clips_have_no_influence(run):
    before = selected(run)
    first = run.config()
    rng = np.random.default_rng(0)
    for view in first.extract.view_names:
        for machine in run.machines():
            path = run.embeddings_path(view, machine)
            record = run.made_from()[machine]
            table = run.read_embeddings(view, machine)
            test = table.split == "test"
            table.embedding[test] = rng.standard_normal(table.embedding[test].shape)
            made_from = str(record)
            recipe = run.embedding_recipes()[next(v for v in first.extract.views if v.name == view)]
            with run.lock():
                run.write_embeddings({path: (table, made_from.replace(record.recipe, recipe))})
    assert selected(run) == before
    assert run.config() == first


def test_a_dry_run_changes_nothing_and_a_second_start_the_same(run, capsys):
    config = (run.path / "config.yaml").read_bytes()
    assert cli.main(["select", str(run.path), "--dry-run"]) == 0
    assert not run.selection.exists() and (run.path / "config.yaml").read_bytes() == config
    assert "stored" not in capsys.readouterr().out
    first = selected(run), (run.path / "config.yaml").read_bytes()
    assert (selected(run), (run.path / "config.yaml").read_bytes()) == first


def test_a_choice_for_other_embeddings_is_said_and_another_backend_can_be_named(run, capsys):
    selected(run)
    document = json.loads(run.selection.read_text())
    run.selection.write_text(json.dumps({**document, "seed": 1}))
    assert cli.main(["score", str(run.path)]) == 0
    assert "asdjax select" in capsys.readouterr().err
    assert cli.main(["score", str(run.path), "--backend.name", "nearest_neighbours"]) == 0
    assert run.config().backend.name == "nearest_neighbours"
    assert "asdjax select" not in capsys.readouterr().err


def test_what_cannot_be_tried_is_said(run, capsys):
    assert cli.main(["select", str(run.path), "--backends", "nearest"]) == 2
    assert "choose among" in capsys.readouterr().err
    for name in "chosen", "combined_scores":
        assert cli.main(["select", str(run.path), "--backends", name]) == 2
        assert cli.main(["score", str(run.path), "--backend.name", name]) == 2
    assert "only asdjax combine writes combined_scores" in capsys.readouterr().err
    assert cli.main(["select", str(run.path), "--kinds", "attributes"]) == 1
    assert "no pseudo-anomalies of the kinds attributes" in capsys.readouterr().err

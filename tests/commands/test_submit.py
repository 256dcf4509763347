"""Packages of runs: their content, what they refuse, and that they are whole or absent."""

import dataclasses
import json
import os
import zipfile
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import TESTS
from support.scored_runs import CHALLENGE, make_run, score_rows

from asdjax.challenge import submission, verification
from asdjax.challenge.meta_yaml import describe, read_info
from asdjax.cli import main
from asdjax.commands.submit import submit
from asdjax.config import recipe as configs
from asdjax.config import registry
from asdjax.config.recipe import Config
from asdjax.data.editions import find_edition
from asdjax.errors import AsdjaxError
from asdjax.files import atomic, documents
from asdjax.scoring import false_alarms, metrics
from asdjax.signal.view_raw import RAW
from asdjax.signal.view_wiener import Wiener
from asdjax.store.embeddings import MadeFrom
from asdjax.store.runs import Run

INFO = TESTS / "submission.yaml"
CELLS = list(product(("source", "target"), ("normal", "anomaly")))
THREE_VIEWS = (
    RAW,
    Wiener("mild", alpha=0.5, beta=0.05),
    Wiener("strong", alpha=1.0, beta=0.01),
)


def rows_of(machine, rng, threshold=0.5):
    """Rows as scoring leaves them: labelled, but for the evaluation machine."""
    clips = [(f"section_00_source_train_normal_{i:04d}_volt_2", "train", "source", "normal")
             for i in range(3)]  # fmt: skip
    if machine == "ToothBrush":
        clips += [(f"section_00_{i:04d}", "test", "", "") for i in range(8)]
    else:
        clips += [
            (f"section_00_{d}_test_{x}_{i:04d}_volt_2", "test", d, x)
            for d, x in CELLS
            for i in range(5)
        ]
    rows = []
    for name, split, domain, label in clips:
        score = float(rng.uniform())
        rows.append(
            {
                "path": f"{machine}/{split}/{name}.wav",
                "split": split,
                "section": "00",
                "domain": domain,
                "label": label,
                "score": repr(score),
                "threshold": repr(threshold),
                "decision": str(int(score > threshold)),
                "raw": repr(score),
            }
        )
    return rows


class FakeRun(Run):
    """A run whose scores are given."""

    test = "clips"

    def __init__(self, path, rows, config=None, training=None):
        super().__init__(path)
        self.rows, self._own = rows, config or CHALLENGE
        self._done = {"classes": ["ToothBrush/00", "fan/00"], "parameters": 1234}
        self._done |= training or {}

    def config(self):
        return self._own

    def scored_machines(self):
        return sorted(self.rows)

    def made_from(self):
        return {
            m: MadeFrom("recipe", "float32", "clips", "train", f"00:{self.test}") for m in self.rows
        }

    def read_scores(self, machine):
        return self.rows[machine]

    def finished_training(self):
        return self._done


@pytest.fixture
def run(tmp_path, rng):
    return FakeRun(tmp_path / "run", {m: rows_of(m, rng) for m in ("fan", "ToothBrush")})


@pytest.fixture
def scored(tmp_path, rng):
    """A run on disk."""
    return make_run(tmp_path / "scored", {"fan": score_rows(rng, "fan")})


@pytest.fixture
def other(tmp_path, rng):
    return FakeRun(tmp_path / "other", {m: rows_of(m, rng) for m in ("fan", "ToothBrush")})


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")
            if p.is_file()}  # fmt: skip


def meta_of(out, label="Doe_ABC_task2_1"):
    return yaml.safe_load((out / "task2" / label / f"{label}.meta.yaml").read_text("utf-8"))


def write_info(path, **changes):
    tree = yaml.safe_load(INFO.read_text("utf-8")) | changes
    path.write_text(yaml.safe_dump({k: v for k, v in tree.items() if v is not ...}))
    return path


# the package


def test_package_of_one_run(run, tmp_path, capsys):
    out = tmp_path / "sub" / "out"
    package = submit([run], INFO, out)
    assert package == out / "Doe_ABC_task2.zip" and package.is_file()
    assert {p.name for p in out.iterdir()} == {"task2", "expected.json", package.name}
    for path in (out, package):
        what, faults = verification.verify(path)
        assert faults == [] and "expected.json" in what
    found = submission.scores(out / "task2" / "Doe_ABC_task2_1")
    for machine, rows in run.rows.items():
        expected = sorted(
            (Path(row["path"]).name, float(row["score"]), int(row["decision"]))
            for row in rows
            if row["split"] == "test"
        )
        assert found[machine, "00"] == expected
    said = capsys.readouterr().err
    assert "the challenge would refuse it: " in said and str(out) in said  # 8 clips, not 200


def test_a_package_ends_as_its_verification_does(scored, tmp_path, capsys):
    """Also one that the challenge would refuse, for want of machines: the package has no fault."""
    out = tmp_path / "out"
    scored.write_training({**scored.training(), "parameters": 9, "trained_parameters": 9})
    assert main(["submit", str(scored.path), "--info", str(INFO), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "the challenge would refuse it" in said.err
    assert said.err.endswith("_task2.zip: made; no faults in the package itself\n")
    assert main(["submit", "--verify", str(out)]) == 0
    assert capsys.readouterr().out.endswith("\nno faults in the package itself\n")


def test_zip_layout_and_equal_bytes(run, other, tmp_path):
    package = submit([run, other], INFO, tmp_path / "out")
    with zipfile.ZipFile(package) as archive:
        names = archive.namelist()
        assert names == sorted(names)
        assert {name.rsplit("/", 1)[0] for name in names} == {
            "task2/Doe_ABC_task2_1",
            "task2/Doe_ABC_task2_2",
        }
        assert len(names) == 2 * (2 * 2 + 1)
        for name in names:
            assert archive.read(name) == (tmp_path / "out" / name).read_bytes()
    again = submit([run, other], INFO, tmp_path / "again")
    assert again.read_bytes() == package.read_bytes()
    swapped = submit([other, run], INFO, tmp_path / "swapped")
    assert swapped.read_bytes() != package.read_bytes()


def test_subsets_choose_machines(run, tmp_path):
    for subset, machine in (("evaluation", "ToothBrush"), ("development", "fan")):
        submit([run], INFO, tmp_path / subset, (subset,))
        folder = tmp_path / subset / "task2" / "Doe_ABC_task2_1"
        assert {m for m, _ in submission.read_system(folder).keys} == {machine}
        assert set(meta_of(tmp_path / subset)["results"]["development_dataset"]) == {"fan"}
    del run.rows["fan"]
    with pytest.raises(
        AsdjaxError,
        match="none of its scored machines belongs to development: .*--subsets evaluation",
    ):
        submit([run], INFO, tmp_path / "out", ("development",))


def test_the_challenge_s_own_package_gets_no_note(tmp_path, rng, capsys):
    rows = {}
    for machine in find_edition("dcase2026").evaluation:
        row = rows_of("ToothBrush", rng)[-1]
        rows[machine] = [
            row | {"path": f"{machine}/test/section_00_{i:04d}.wav"} for i in range(200)
        ]
    submit([FakeRun(tmp_path / "run", rows)], INFO, tmp_path / "out")
    said = capsys.readouterr().err
    assert "refuse" not in said and "no results" in said
    assert "results" not in meta_of(tmp_path / "out")


def test_a_machine_that_the_edition_does_not_know(tmp_path, rng):
    labelled, unlabelled = rows_of("Pump", rng), rows_of("ToothBrush", rng)
    unlabelled = [r | {"path": r["path"].replace("ToothBrush", "Drill")} for r in unlabelled]
    run = FakeRun(tmp_path / "run", {"Pump": labelled, "Drill": unlabelled})
    submit([run], INFO, tmp_path / "out", ("development",))
    assert set(meta_of(tmp_path / "out")["results"]["development_dataset"]) == {"Pump"}
    folder = tmp_path / "out" / "task2" / "Doe_ABC_task2_1"
    assert submission.read_system(folder).keys == {("Pump", "00")}


# meta.yaml


def test_meta(run, tmp_path):
    submit([run], INFO, tmp_path / "out")
    meta = meta_of(tmp_path / "out")
    assert meta["submission"]["label"] == "Doe_ABC_task2_1"
    assert [a["corresponding"] for a in meta["submission"]["authors"]] == [True, False]
    assert meta["submission"]["authors"][1]["lastname"] == "Müller"
    assert meta["system"]["complexity"] == {"total_parameters": 1234}
    assert meta["system"]["source_code"] == "https://abc.example/code"
    assert tuple(meta["system"]["description"]) == verification.DESCRIPTION
    tests = [row for row in run.rows["fan"] if row["split"] == "test"]
    expected = metrics.figures(
        np.array([float(row["score"]) for row in tests]),
        np.array([row["label"] == "anomaly" for row in tests]),
        np.array([row["domain"] == "target" for row in tests]),
    )["official"]
    results = meta["results"]["development_dataset"]
    assert results == {"fan": {k: round(100 * v, 2) for k, v in expected.items()}}


def test_a_machine_without_normal_clips_states_no_results(run, tmp_path, capsys):
    run.rows["fan"] = [row for row in run.rows["fan"] if row["label"] != "anomaly"]
    submit([run], INFO, tmp_path / "out")
    assert "fan: too few labelled clips" in capsys.readouterr().err
    assert "results" not in meta_of(tmp_path / "out")


def test_names_per_run(run, other, tmp_path):
    info = write_info(tmp_path / "info.yaml", name=["One", "Two"])
    submit([run, other], info, tmp_path / "out")
    metas = [meta_of(tmp_path / "out", f"Doe_ABC_task2_{i}")["submission"] for i in (1, 2)]
    assert [m["name"] for m in metas] == ["One", "Two"]
    assert [m["abbreviation"] for m in metas] == ["MRN-1", "MRN-1"]
    with pytest.raises(AsdjaxError, match="name: 2 values for 1 runs"):
        submit([run], info, tmp_path / "out2")


def words(tree, about=None, classes=("fan/00", "ToyCar/00")):
    """The description of a configuration given as nested dictionaries."""
    sets = about or read_info(INFO, 1)
    external = [one.name for one in sets.external_datasets]
    challenge = {"dataset": {"edition": "dcase2026", **tree.get("dataset", {})}}
    return describe(configs.from_tree({**tree, **challenge}, "test"), classes, external)


def test_description_of_the_defaults():
    said = words({})
    assert set(said) == set(verification.DESCRIPTION)
    assert said["input_sampling_rate"] == "16 kHz"
    assert "mixup of waveforms (probability 0.5)" in said["data_augmentation"]
    assert said["front_end"] == "channel 1 (near) as it is"
    assert "512 values" in said["embeddings"] and "from scratch" in said["embeddings"]
    assert "256/128, 1024/512, 4096/2048" in said["acoustic_features"]
    assert "sub-cluster AdaCos" in said["machine_learning_method"]
    assert "cosine nearest neighbours" in said["machine_learning_method"]
    assert "SMOTE" in said["domain_generalization_method"]
    assert said["aggregation_method"] is said["attribute_usage"] is None
    assert said["ensemble_method_subsystem_count"] == 1
    assert "0.9 quantile" in said["decision_making"] and "leave-one-out" in said["decision_making"]
    assert said["external_data_usage"] is None
    assert "ToyCar, fan" in said["development_data_usage"]


@pytest.mark.parametrize(
    "tree, key, present, absent",
    [
        ({"augment": {"mixup": {"probability": 0}}}, "data_augmentation", "crop", "mixup"),
        ({"audio": {"train_crop": "start"}}, "data_augmentation", "mixup", "crop"),
        ({"audio": {"clip_seconds": "auto"}}, "data_augmentation", "mixup", "crop"),
        ({"audio": {"channel": "far"}}, "front_end", "channel 2", "channel 1"),
        ({"dataset": {"edition": "dcase2024"}}, "front_end", "the only channel", "channel 1"),
        ({"model": {"fft_branch": False}}, "acoustic_features", "spectrograms", "whole clip"),
        ({"model": {"spectrograms": []}}, "acoustic_features", "whole clip", "spectrograms"),
        ({"model": {"fft_branch": False}}, "embeddings", "384 values", "512"),
        ({"loss": {"name": "arcface"}}, "machine_learning_method", "ArcFace", "AdaCos"),
        ({"backend": {"name": "kmeans"}}, "machine_learning_method", "16 k-means", "neighbours"),
        ({"backend": {"name": "kmeans"}}, "domain_generalization_method", "target", "SMOTE"),
        ({"backend": {"name": "kmeans"}}, "decision_making", "10-fold", "leave-one-out"),
        ({"backend": {"name": "rescaled"}}, "domain_generalization_method", "density", "SMOTE"),
        ({"backend": {"name": "mahalanobis"}}, "machine_learning_method", "Ledoit", "neighbours"),
        ({"backend": {"smote": {"ratio": 0}}}, "domain_generalization_method", "target", "SMOTE"),
        ({"decision": {"method": "gamma"}}, "decision_making", "gamma", "conformal"),
        ({"decision": {"method": "conformal"}}, "decision_making", "conformal", "quantile"),
        ({"decision": {"method": "in_sample"}}, "decision_making", "its own", "leave-one-out"),
        ({"decision": {"level": 0.95}}, "decision_making", "0.95", "0.9 "),
        (
            {"dataset": {"label": "machine_section_attributes"}},
            "attribute_usage",
            "attributes",
            "domain",
        ),
        (
            {"dataset": {"label": "machine_section_attributes_domain"}},
            "attribute_usage",
            "domain",
            "none",
        ),
    ],
)
def test_description_follows_the_configuration(tree, key, present, absent):
    said = words(tree)[key]
    assert present in said and absent not in said


def test_description_of_nothing():
    nothing = {"augment": {"mixup": {"probability": 0}}, "audio": {"train_crop": "start"}}
    assert words(nothing)["data_augmentation"] is None
    alone = {"backend": {"target_neighbours": 0}}
    assert words(alone)["domain_generalization_method"] is None


def test_description_of_views():
    config = dataclasses.replace(
        CHALLENGE, extract=dataclasses.replace(Config().extract, views=THREE_VIEWS)
    )
    said = describe(config, ["fan/00"])
    assert said["front_end"].count("Wiener") == 2 and "alpha 0.5, beta 0.05" in said["front_end"]
    assert said["aggregation_method"] == "mean of the views' scores"
    assert said["ensemble_method_subsystem_count"] == 3
    joined = dataclasses.replace(
        config, backend=dataclasses.replace(config.backend, combine_views="embeddings")
    )
    said = describe(joined, ["fan/00"])
    assert "embeddings" in said["aggregation_method"]
    assert said["ensemble_method_subsystem_count"] == 1


@pytest.mark.parametrize("method", ["raw", "wiener", "cancel", "calibrated", "far", "difference"])
def test_every_view_has_its_words(method):
    views = (registry.find("view", method)("x"),)
    config = dataclasses.replace(
        CHALLENGE, extract=dataclasses.replace(Config().extract, views=views)
    )
    said = describe(config, ["fan/00"])["front_end"]
    assert ("Wiener" in said) == (method == "wiener")
    assert ("calibrated" in said) == (method == "calibrated")


def test_external_data(tmp_path):
    sets = [{"name": "AudioSet", "url": "https://x.example"}]
    about = read_info(write_info(tmp_path / "i.yaml", external_datasets=sets), 1)
    assert words({}, about)["external_data_usage"] == "AudioSet"


# the authors' part

AUTHOR = yaml.safe_load(INFO.read_text("utf-8"))["authors"][0]


@pytest.mark.parametrize(
    "changes, wrong",
    [
        ({"institut": "X"}, "unknown key 'institut': did you mean 'institute'?"),
        ({"institute": ...}, "institute: this key is missing"),
        ({"institute": "A B"}, "'A B' .*label.*: set institute to"),
        ({"institute": "É"}, "'É' .*label.*: set institute to"),
        ({"name": " "}, r"name\[0\]: empty"),
        ({"name": 3}, "name: expected a list"),
        ({"name": []}, "name: 0 values"),
        ({"authors": []}, "authors: 0 with corresponding"),
        ({"authors": [AUTHOR, AUTHOR]}, "authors: 2 with corresponding"),
        ({"authors": [AUTHOR | {"lastname": "Müller"}]}, "'Müller' .*: set label_lastname to"),
        ({"authors": [AUTHOR | {"lastname": "van Doe"}]}, "'van Doe' .*: set label_lastname to"),
        (
            {"authors": [AUTHOR | {"mail": "x"}]},
            "unknown key 'authors.*mail': did you mean 'email'",
        ),
        (
            {"external_datasets": [{"name": "X"}]},
            r"external_datasets\[0\].url: this key is missing",
        ),
    ],
)
def test_faults_of_the_authors_part(run, tmp_path, changes, wrong):
    info = write_info(tmp_path / "info.yaml", **changes)
    with pytest.raises(AsdjaxError, match=wrong) as caught:
        submit([run], info, tmp_path / "out")
    assert str(info) in str(caught.value)
    assert not list(tmp_path.glob("*out*"))


def test_the_authors_part_that_cannot_be_read(run, tmp_path):
    for text in ("a: [", "a: \xff"):
        (tmp_path / "info.yaml").write_text(text, "latin-1")
        with pytest.raises(AsdjaxError, match=r"info\.yaml: "):
            submit([run], tmp_path / "info.yaml", tmp_path / "out")
    with pytest.raises(AsdjaxError, match=r"absent\.yaml: "):
        submit([run], tmp_path / "absent.yaml", tmp_path / "out")


def test_another_spelling_for_the_label(run, tmp_path):
    authors = [AUTHOR | {"lastname": "Müller"}]
    info = write_info(tmp_path / "info.yaml", authors=authors, label_lastname="Mueller")
    assert submit([run], info, tmp_path / "out").name == "Mueller_ABC_task2.zip"
    meta = meta_of(tmp_path / "out", "Mueller_ABC_task2_1")
    assert meta["submission"]["authors"][0]["lastname"] == "Müller"


# runs that cannot be submitted


def test_wrong_numbers_of_runs(run, tmp_path):
    for count in (0, 5):
        with pytest.raises(AsdjaxError, match=f"{count} runs: submit 1 to 4"):
            submit([run] * count, INFO, tmp_path / "out")
    with pytest.raises(AsdjaxError, match="named twice"):
        submit([run, FakeRun(run.path / ".", run.rows)], INFO, tmp_path / "out")


def test_runs_that_scored_other_recordings_of_equal_names(run, other, tmp_path):
    other.test = "other"
    with pytest.raises(AsdjaxError, match="other: its test clips of ToothBrush have other cont"):
        submit([run, other], INFO, tmp_path / "out")


@pytest.mark.parametrize("section", ["../../../victim", "0", "000", "00/../..", "\u0661\u0661"])
def test_no_file_of_a_strangers_scores_leaves_the_package(section, scored, tmp_path, capsys):
    """Digests in a run directory are no secret: whoever forges scores can forge them."""
    rows = scored.read_scores("fan")
    for row in rows:
        row["section"] = section
    scored.write_artefact(
        scored.scores_path("fan"), documents.csv_bytes(rows), scored.scores_made_from("fan")
    )
    scored.write_thresholds({"schema": false_alarms.SCHEMA})
    before = contents(tmp_path)
    assert (
        main(["submit", str(scored.path), "--info", str(INFO), "--out", str(tmp_path / "o")]) == 1
    )
    assert "fan.csv: not a table of training and test clips" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_training_of_an_older_version(run, tmp_path):
    del run._done["parameters"]
    with pytest.raises(AsdjaxError, match="training.json .*parameters"):
        submit([run], INFO, tmp_path / "out")


def test_scores_that_are_not_finite(run, tmp_path):
    run.rows["ToothBrush"][-1]["score"] = "nan"
    with pytest.raises(AsdjaxError, match="ToothBrush: section_00_0007.wav: .* nan"):
        submit([run], INFO, tmp_path / "out")


def test_runs_of_other_clips_or_editions(run, other, tmp_path):
    gone = other.rows["fan"].pop()
    with pytest.raises(AsdjaxError, match=f"other: not the clips of .*{Path(gone['path']).name}"):
        submit([run, other], INFO, tmp_path / "out")
    del other.rows["fan"]
    with pytest.raises(AsdjaxError, match="other: .* of fan .*19"):
        submit([run, other], INFO, tmp_path / "out")
    other._own = configs.from_tree({"dataset": {"edition": "dcase2025"}}, "test")
    with pytest.raises(AsdjaxError, match="dcase2025 and dcase2026"):
        submit([run, other], INFO, tmp_path / "out")


def test_clips_of_one_name(run, tmp_path):
    run.rows["fan"].append(
        run.rows["fan"][-1] | {"path": "eval_data/" + run.rows["fan"][-1]["path"]}
    )
    with pytest.raises(AsdjaxError, match=r"fan\.csv: .* section_00_target"):
        submit([run], INFO, tmp_path / "out")


def test_decisions_of_no_single_threshold(run, tmp_path):
    rows = sorted((r for r in run.rows["fan"] if r["split"] == "test"), key=lambda r: r["score"])
    rows[0]["decision"] = "1"
    with pytest.raises(AsdjaxError, match=r"decision_result_fan_.*: row .* threshold") as caught:
        submit([run], INFO, tmp_path / "out")
    assert "partial" not in str(caught.value)
    assert not list(tmp_path.glob("*out*"))


# the place


def test_an_earlier_package_is_replaced_as_a_whole(run, other, tmp_path, capsys):
    out = tmp_path / "out"
    submit([run, other], INFO, out)
    submit([run, other], INFO, out)
    submit([other], INFO, tmp_path / "fresh")
    assert "earlier package" not in capsys.readouterr().err
    submit([other], INFO, out)
    assert f"{out}: held an earlier package, which this one replaces" in capsys.readouterr().err
    assert contents(out) == contents(tmp_path / "fresh")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["mine.txt", "task2/Doe_ABC_task2_1/report.pdf", ".notes"])
def test_a_folder_with_anything_else_is_refused(run, tmp_path, name):
    out = tmp_path / "out"
    submit([run], INFO, out)
    (out / name).write_text("precious")
    with pytest.raises(AsdjaxError, match=f"{name}: not from asdjax submit"):
        submit([run], INFO, out)
    assert (out / name).read_text() == "precious" and len(list(out.iterdir())) >= 3


def test_a_package_edited_by_hand_is_refused(run, tmp_path):
    submit([run], INFO, tmp_path / "out")
    meta = tmp_path / "out" / "task2" / "Doe_ABC_task2_1" / "Doe_ABC_task2_1.meta.yaml"
    meta.write_text(meta.read_text() + "# mine\n")
    with pytest.raises(AsdjaxError, match=r"meta\.yaml: not from asdjax submit"):
        submit([run], INFO, tmp_path / "out")
    assert meta.read_text().endswith("# mine\n")


def test_places_of_others(run, tmp_path):
    (tmp_path / "empty").mkdir()
    submit([run], INFO, tmp_path / "empty")
    (tmp_path / "file").write_text("x")
    with pytest.raises(AsdjaxError, match="is a file"):
        submit([run], INFO, tmp_path / "file")
    (tmp_path / "folder").mkdir()
    for text in ("[1]", json.dumps({"schema": "x", "files": [1]})):
        (tmp_path / "folder" / "expected.json").write_text(text)
        with pytest.raises(AsdjaxError, match=r"expected\.json: not from asdjax submit"):
            submit([run], INFO, tmp_path / "folder")


def fail_at(monkeypatch, owner, name, when):
    """Make a function raise KeyboardInterrupt at its n-th call."""
    original, calls = getattr(owner, name), []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) == when:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, failing)


@pytest.mark.parametrize(
    "owner, name, when",
    [(atomic, "write_bytes", 1), (atomic, "write_bytes", 4), (verification, "verify", 2)],
)
@pytest.mark.parametrize("earlier", [False, True])
def test_an_interruption_leaves_the_place_as_it_was(
    run, other, tmp_path, monkeypatch, owner, name, when, earlier
):
    out = tmp_path / "out"
    if earlier:
        submit([other], INFO, out)
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        fail_at(patch, owner, name, when)
        with pytest.raises(KeyboardInterrupt):
            submit([run], INFO, out)
    assert contents(tmp_path) == before and not list(tmp_path.glob(".*"))
    submit([run], INFO, out)
    assert verification.verify(out)[1] == []


def test_an_interruption_between_the_renames_restores_the_earlier(
    run, other, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    submit([other], INFO, out)
    before, original = contents(tmp_path), Path.rename

    def failing(self, target):
        if self.name == "made":
            raise KeyboardInterrupt
        return original(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(KeyboardInterrupt):
        submit([run], INFO, out)
    assert contents(tmp_path) == before and not list(tmp_path.glob(".*"))


def test_a_kill_between_the_renames_is_repaired(run, other, tmp_path):
    out = tmp_path / "out"
    submit([other], INFO, out)
    (out / "mine.txt").write_text("precious")
    left = tmp_path / ".out.asdjax-partial"
    left.mkdir()
    out.rename(left / "earlier")
    with pytest.raises(AsdjaxError, match="mine.txt"):
        submit([run], INFO, out)
    assert (out / "mine.txt").read_text() == "precious"
    (out / "mine.txt").unlink()
    (left / "made").mkdir(parents=True)  # of a kill while writing
    submit([run], INFO, out)
    assert verification.verify(out)[1] == [] and not list(tmp_path.glob(".*"))


def test_links_and_fifos_in_an_earlier_package_are_refused(run, tmp_path):
    out, victim = tmp_path / "out", tmp_path / "victim"
    submit([run], INFO, out)
    victim.mkdir()
    (victim / "precious").write_text("x")
    for make in (lambda path: path.symlink_to(victim), os.mkfifo):
        make(out / "more")
        with pytest.raises(AsdjaxError, match="out/more: is"):
            submit([run], INFO, out)
        (out / "more").unlink()
    assert (victim / "precious").exists()
    link = tmp_path / "link"
    link.symlink_to(out)
    submit([run], INFO, link)
    assert link.is_symlink() and verification.verify(out)[1] == []
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    with pytest.raises(AsdjaxError, match="dangling: is a file"):
        submit([run], INFO, tmp_path / "dangling")

"""The script that measures views: its figures, and that nothing finished is repeated."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, TESTS

from asdjax.commands import evaluate
from asdjax.config import recipe as configs
from asdjax.errors import AsdjaxError
from asdjax.scoring.metrics import pauc
from asdjax.store.runs import Run

pytestmark = pytest.mark.usefixtures("compiled_fast")

TINY = TESTS / "tiny.yaml"
SCRIPT = ROOT / "scripts" / "measure_views.py"


@pytest.fixture
def script(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    spec = importlib.util.spec_from_file_location("measure_views", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Scored:
    """Scores of a finished run: two machines, a training clip and test clips of each cell."""

    def __init__(self, rng):
        cells = [(d, a) for d in ("source", "target") for a in ("normal", "anomaly")] * 5
        self.rows = {
            machine: [{"split": "train", "label": "normal", "section": "00"}]
            + [
                {"split": "test", "section": "00", "domain": domain, "label": label}
                | {view: repr(rng.normal()) for view in ("raw", "cancel")}
                for domain, label in cells
            ]
            for machine in ("fan", "ToyCar")
        }

    def machines(self):
        return list(self.rows)

    def read_scores(self, machine):
        return self.rows[machine]


def test_a_set_is_the_mean_of_its_views_scores(script, rng):
    run = Scored(rng)
    found = script._figures(run, {"raw": ["raw"], "both": ["raw", "cancel"]})
    for name, members in {"raw": ["raw"], "both": ["raw", "cancel"]}.items():
        aucs = []
        for rows in run.rows.values():
            for domain in ("source", "target"):
                normal, anomaly = (
                    np.array(
                        [
                            sum(float(row[view]) for view in members)
                            for row in rows[1:]
                            if (row["domain"], row["label"]) == (domain, label)
                        ]
                    )
                    for label in ("normal", "anomaly")
                )
                aucs.append(pauc(normal, anomaly, max_fpr=1))
        assert found[name][1] == pytest.approx(np.mean(aucs), abs=1e-12)
    assert found["raw"] != found["both"]


def test_table(script):
    columns = {"noise 0 dB": [{"raw": (0.5, 0.6)}, {"raw": (0.7, 0.6)}], "-8": [{"raw": (1, 0)}]}
    assert script._table(0, ["raw"], columns)[-1] == "| raw | 60.00 ± 14.14 | 100.00 |"
    assert script._table(1, ["raw"], columns)[-1] == "| raw | 60.00 ± 0.00 | 0.00 |"


def measure(folder, *leakage):
    """Run the script on the smallest corpus and recipe; where it left its runs, and its table."""
    recipe, out = folder / "recipe.yaml", folder / "out"
    recipe.write_text(TINY.read_text().replace("[8]", "[4]"))
    corpus = "--machines fan bearingEmu --train-source 5 --train-target 2 --test-per-cell 4"
    done = subprocess.run(
        [
            sys.executable,
            SCRIPT.with_name("start.py"),
            "measure_views",
            "--out",
            out,
            "--seeds",
            "3",
            "--noise",
            "-8",
            "--leakage",
        ]
        + [*leakage, "--recipe", recipe, "--views", "raw", "cancel"]
        + ["--", *corpus.split(), "--seconds", "0.5"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = (out / "views.md").read_text()
    assert done.stdout == text + "\n"
    return out / "noise-8" / "seed3", text


def check(text, title, document):
    """A column of official scores holds what the run's own evaluation finds."""
    official = text[text.index("## Official score") : text.index("## Mean within-domain AUC")]
    lines = [line for line in official.splitlines() if line.startswith("| ")]
    header, _, *rows = (line.strip("| ").split(" | ") for line in lines)
    combination = {"raw + cancel": document["combination"]}
    assert {row[0]: row[header.index(title)] for row in rows} == {
        name: f"{100 * figures['official_score']:.2f}"
        for name, figures in {**document["views"], **combination}.items()
    }


@pytest.mark.slow  # six processes
def test_table_of_runs_whose_training_serves_another_leakage_level(tmp_path):
    here, _ = measure(tmp_path, "-12")
    kept = [here / "trained_leakage-12" / "training.json", here / "run_leakage-12" / "log.jsonl"]
    kept += [here / "run_leakage-12" / "embeddings" / "raw" / "fan.npz"]
    before = [path.stat().st_mtime_ns for path in kept]
    here, text = measure(tmp_path, "0", "-12")
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert [path.name for path in here.glob("trained*")] == ["trained_leakage-12"]
    near, far = (evaluate.by_view(Run(here / f"run_leakage{level}")) for level in (0, -12))
    assert near["views"]["raw"] == far["views"]["raw"]  # the near channel is the same
    assert near["views"]["cancel"] != far["views"]["cancel"]
    check(text, "noise -8 dB, leakage 0 dB", near)
    check(text, "noise -8 dB, leakage -12 dB", far)


def test_a_run_follows_its_training(script, tmp_path):
    trained, run = tmp_path / "trained", tmp_path / "run"
    trained.mkdir()
    (trained / "config.yaml").write_text("seed: 4\n")
    for version in ("one", "two"):
        tree = configs.to_tree(configs.load(str(trained / "config.yaml")))
        facts = {"classes": [], "n_samples": 1, "step": 0, "seed": 4, "data": "", "frozen": None}
        Run(trained).write_training({**facts, "digest": version, "config": tree})
        for views in (script.VIEWS, script.VIEWS[:2]):
            script._copy(trained, run, views)
            (run / version).touch()
            assert Run(run).finished_training()["digest"] == version
            assert Run(run).config().extract.views == views and Run(run).config().seed == 4
    assert (run / "two").exists() and not (run / "one").exists()  # results of other weights
    assert Run(trained).config().extract.views != script.VIEWS


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--noise", "0", "0"], "given twice"),
        (["--views", "wet"], "invalid choice"),
        (["--", "--leakage-db", "-3"], "--leakage-db not possible after --"),
        (["--", "--second", "3"], "Unrecognized options"),
    ],
)
def test_wrong_use(script, arguments, words, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main(["--out", str(tmp_path / "out"), *arguments])
    assert stop.value.code == 2 and words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--recipe", "nowhere"], "no recipe or file 'nowhere'"),
        (["--recipe", "system3"], "^system3: model.weights: beats starts from pretrained"),
        (["--recipe", "far.yaml"], "far.yaml: .*: wiener takes channel 1 as the signal"),
        (["--seeds", "0", "-1"], "seed: must be at least 0 and at most 2147483647, found -1"),
        (["--noise", "-8", "30"], "noise_db: must be .* at most 6, found 30"),
        (["--leakage", "0", "nan"], "leakage_db: must be .* found nan"),
        (["--", "--machines", "fan", "cat"], "machine 'cat'"),
        (["--", "--seconds", "0"], "seconds: must be at least 0.5"),
    ],
)
def test_all_steps_are_checked_before_the_first(script, arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("far.yaml").write_text("audio: {channel: far}\n")
    with pytest.raises(AsdjaxError, match=words):
        script.main(["--out", "out", *arguments])
    assert not Path("out").exists()


def test_a_table_that_could_not_be_written_at_the_end(script, tmp_path):
    (tmp_path / "views.md").mkdir()
    with pytest.raises(AsdjaxError, match="views.md: is not a regular file"):
        script.main(["--out", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["views.md"]


def test_a_failed_step_is_one_sentence(tmp_path):
    (tmp_path / "out").write_text("in the way")
    command = [
        sys.executable,
        SCRIPT.with_name("start.py"),
        "measure_views",
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("asdjax: asdjax synth ended with code 1")


def test_a_copy_is_complete_and_replaces_no_other_files(script, tmp_path, monkeypatch):
    """Other files at its path are refused, also a link to another folder."""
    trained = Run(tmp_path / "trained")
    trained.write_config(configs.Config())
    (trained.path / "training.json").write_text("{}")
    (trained.path / "checkpoints").mkdir()
    (trained.path / "checkpoints" / "x").write_text("weights")
    monkeypatch.setattr(script.Run, "config", lambda _: configs.Config())
    monkeypatch.setattr(script.Run, "write_config", lambda *_: None)
    view = script.VIEWS[:1]
    victim, run = tmp_path / "victim", tmp_path / "run"
    victim.mkdir()
    (victim / "training.json").write_text("another")
    for make in (run.touch, run.mkdir, lambda: run.symlink_to("nowhere"),
                 lambda: run.symlink_to(victim)):  # fmt: skip
        make()
        with pytest.raises(AsdjaxError, match="/run: (not a copy|cannot be written)"):
            script._copy(trained.path, run, view)
        run.rmdir() if run.is_dir() and not run.is_symlink() else run.unlink()
    assert (victim / "training.json").read_text() == "another"
    for text in ("{}", "{ }"):
        (trained.path / "training.json").write_text(text)
        script._copy(trained.path, run, view)
        assert (run / "training.json").read_text() == text
    assert (run / "checkpoints" / "x").read_text() == "weights"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "trained", "victim"]

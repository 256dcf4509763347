"""The script that runs recipes over seeds: failures, resuming, its table, the report's figures."""

import csv
import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, TESTS
from support.converted_beats import folder as folder  # a fixture

from asdjax.cli import main
from asdjax.config import recipe as configs
from asdjax.errors import AsdjaxError, UsageError
from asdjax.models.poolings import Mean
from asdjax.report import published
from asdjax.scoring.averages import harmonic_mean
from asdjax.store.runs import Run

pytestmark = pytest.mark.usefixtures("compiled_fast")

TINY = str(TESTS / "tiny.yaml")
INFO = str(TESTS / "submission.yaml")
TABLE1 = Path(published.__file__).with_name("table1.csv")
SCRIPT = ROOT / "scripts" / "all_systems.py"
QUICK = ("--train.epochs", "1", "--model.stage-channels", "4")
SYSTEMS = ("system1", "system2", "system3", "system4")
FROZEN = {"adaptation": "frozen", "pooling": Mean(), "embedding_size": 0}
FIGURES = ("auc_source", "auc_target", "pauc", "score")


@pytest.fixture
def script(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    spec = importlib.util.spec_from_file_location("all_systems", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def start(corpus_root):
    """Start the script on the small corpus."""

    def begin(out, seeds, *systems, options=("--", *QUICK)):
        where = ["--data", str(corpus_root), "--out", str(out), "--seeds", *map(str, seeds)]
        return subprocess.Popen(
            [
                sys.executable,
                SCRIPT.with_name("start.py"),
                "all_systems",
                *where,
                "--systems",
                *systems,
                *options,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def expected(documents, machine, family, figure):
    """Mean and sample standard deviation of a figure, straight from the runs' metrics."""
    values = []
    for document in documents:
        if machine == "all":
            table = {**document["mean"], f"{family}_score": document[f"{family}_score"]}
        else:
            table = document["machines"][machine]
        values.append(table[f"{family}_score"] if figure == "score" else table[family][figure])
    return np.mean(values), np.std(values, ddof=1) if len(values) > 1 else None


def check_table(out, seeds):
    documents = [
        json.loads((out / "tiny" / f"seed{seed}" / "metrics" / "metrics.json").read_text())
        for seed in seeds
    ]
    table, text = rows(out / "table.csv"), (out / "table.md").read_text()
    assert [(r["machine"], r["figure"]) for r in table] == [
        (machine, figure) for machine in ("bearingEmu", "fan", "all") for figure in FIGURES
    ]
    for row in table:
        assert row["system"] == "tiny" and row["seeds"] == str(len(seeds)) and row["report"] == ""
        cells = []
        for family in ("official", "within"):
            mean, std = expected(documents, row["machine"], family, row["figure"])
            assert float(row[f"{family}_mean"]) == pytest.approx(mean, abs=1e-12)
            cells.append(f"{100 * mean:.2f}")
            if std is None:
                assert row[f"{family}_std"] == ""
            else:
                assert float(row[f"{family}_std"]) == pytest.approx(std, abs=1e-12)
                cells[-1] += f" ± {100 * std:.2f}"
        words = {"auc_source": "AUC source", "auc_target": "AUC target", "pauc": "pAUC"}
        name = words.get(row["figure"], "harmonic mean")
        assert f"| tiny | {row['machine']} | {name} | {' | '.join(cells)} | - |" in text
    return text


@pytest.mark.slow  # four processes that train, and the table of a whole one
def test_goes_on_after_a_failure_and_resumes_after_its_repair(start, tmp_path):
    obstacle = tmp_path / "tiny" / "seed1"
    obstacle.parent.mkdir()
    obstacle.write_text("in the way")
    other = tmp_path / "other.yaml"  # whose machine the corpus does not have
    other.write_text(Path(TINY).read_text() + "dataset: {train_machines: [ToyCar]}\n")
    process = start(tmp_path, [1, 0], TINY, str(other))
    out, errors = process.communicate()
    assert process.returncode == 1
    lines = errors.splitlines()
    assert lines[0] == "[1/4] tiny seed 1: started"
    assert lines[1].startswith("[1/4] tiny seed 1: failed after ")
    assert lines[3].startswith("[2/4] tiny seed 0: finished in "), errors
    failed = [line for line in lines if line.startswith("failed: ")]
    assert [line.split(": ")[1] for line in failed] == [
        "tiny seed 1", "other seed 1", "other seed 0",
    ]  # fmt: skip
    assert str(obstacle) in failed[0] and "ToyCar" in failed[1]
    assert str(obstacle) in (tmp_path / "tiny" / "seed1.log").read_text()
    assert check_table(tmp_path, [0]) == out.removesuffix("\n")
    assert "* tiny: 1 of 2 seeds; failed: 1\n" in out and "* other: 0 of 2 seeds" in out
    assert "Warning: the report's AUCs are within-domain" in out

    finished = tmp_path / "tiny" / "seed0" / "training.json"
    before = finished.stat().st_mtime_ns
    obstacle.unlink()
    process = start(tmp_path, [0, 1], TINY)
    out, errors = process.communicate()
    assert process.returncode == 0 and "failed" not in errors + out
    assert finished.stat().st_mtime_ns == before
    assert "* tiny: 2 of 2 seeds\n" in check_table(tmp_path, [0, 1])


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)]
)
def test_an_interruption_ends_the_run_at_work(number, start, tmp_path):
    (tmp_path / "table.md").write_text("of other runs")
    process, lock = start(tmp_path, [0], TINY), tmp_path / "tiny" / "seed0" / ".lock"
    while not lock.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)  # not SIGINT, which a background job may ignore
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    *_, last = errors.splitlines()
    assert last == "asdjax: interrupted: the same command continues where it stopped"
    with Run(lock.parent).lock():  # refused while another process works on the run
        assert not (tmp_path / "table.md").exists()


@pytest.mark.parametrize(
    ("systems", "model"),
    [
        pytest.param(("system1", "system4"), FROZEN, id="two"),
        pytest.param(SYSTEMS, {}, id="four", marks=pytest.mark.slow),  # four processes that train
    ],
)
def test_systems_in_one_table_and_one_package(start, folder, tmp_path, capsys, systems, model):
    """The report's, on a small encoder with converted (random) weights; of two, only one trains."""
    recipes = [tmp_path / f"{system}.yaml" for system in systems]
    recipes[0].write_text(Path(TINY).read_text().replace("[8]", "[4]"))
    for system, recipe in zip(systems[1:], recipes[1:], strict=True):
        config = configs.load(system)
        changed = {
            "audio": dataclasses.replace(config.audio, clip_seconds=0.4),
            "model": dataclasses.replace(config.model, **model),
        }
        recipe.write_text(configs.dump(dataclasses.replace(config, **changed)))
    out = tmp_path / "out"
    weights = ["--beats", str(folder[0])]
    process = start(out, [0], *map(str, recipes), options=[*weights, "--", "--train.epochs", "1"])
    text, errors = process.communicate()
    assert process.returncode == 0, errors
    reports = dict(zip(SYSTEMS, ("71.92", "62.08", "64.28", "59.16"), strict=True))
    for system in systems:
        (line,) = (x for x in text.splitlines() if x.startswith(f"| {system} | fan | AUC source"))
        assert line.endswith(f" {reports[system]} |")
        assert "threshold" in (out / system / "seed0" / "scores" / "fan.csv").read_text()
    runs = [str(out / system / "seed0") for system in systems]
    package = tmp_path / "package"
    assert main(["submit", *runs, "--info", INFO, "--out", str(package)]) == 0
    assert len(list((package / "task2").iterdir())) == len(systems)
    assert main(["submit", "--verify", str(package)]) == 0
    assert "no faults" in capsys.readouterr().out


def test_the_last_words_of_a_failed_run_and_its_log(script, tmp_path, monkeypatch):
    def run(program):
        monkeypatch.setattr(script.driver, "ASDJAX", (sys.executable, "-c", program))
        return script._run(["run", "a b"], tmp_path / "folder" / "run.log")

    say = "import os, sys; print('table'); print('one\\ntwo words\\n', file=sys.stderr, flush=True)"
    assert run(say) is None
    assert run(f"{say}; sys.exit(3)") == "two words"
    assert run(f"{say}; os.kill(os.getpid(), 9)") == "two words (killed by signal 9)"
    assert run("raise SystemExit(3)") == "exit code 3"
    log = (tmp_path / "folder" / "run.log").read_text()
    assert log.count("$ asdjax run 'a b'\n") == 4 and log.count("two words") == 3 and "table" in log


def test_runs_without_labels_are_named(script, tmp_path, monkeypatch):
    for program, words in (
        ("print('no scored clip has a label')", "no scored clip has a label"),
        ("import sys; sys.exit('warning\\nthe runs differ')", "the runs differ"),
    ):
        monkeypatch.setattr(script.driver, "ASDJAX", (sys.executable, "-c", program))
        with pytest.raises(script.AsdjaxError, match=f"^{words}$"):
            script._evaluate([tmp_path])


def document(machines):
    figures = {family: dict.fromkeys(FIGURES[:3], 0.5) for family in ("official", "within")}
    scores = {"official_score": 0.5, "within_score": None}
    return {"machines": {m: {**figures, **scores} for m in machines}, "mean": figures, **scores}


def test_the_reports_means_are_shown_for_the_same_machines_only(script):
    report = script._report()["system2"]
    ours = sorted({machine for machine, _ in report} - {"all"})
    shown = {
        (row["machine"], row["figure"]): row["report"]
        for row in script._rows("system2", document(ours), 1, report)
    }
    assert shown == report and shown["all", "score"] == 0.622
    rows = script._rows("system2", document(["fan", "ToothBrush"]), 1, report)
    assert [row["report"] for row in rows] == [0.6208, 0.4592, 0.5373, 0.531] + 8 * [None]
    text = script._markdown(rows, [])
    assert "| system2 | fan | AUC target | 50.00 | 50.00 | 45.92 |" in text
    assert "| system2 | ToothBrush | harmonic mean | 50.00 | - | - |" in text
    assert '"all" has no figure of the report' in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds", "0", "0"], "given twice"),
        (["--systems", "1", "elsewhere/system1.yaml"], "given twice"),
        (["--seeds", "-1"], "0 or more"),
        (["--", "--seed=3"], "--seed not possible after --"),
        (["--systems", "1", "--", "--train.epoch", "3"], "Unrecognized options"),
    ],
)
def test_wrong_use(script, arguments, words, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main(["--data", str(tmp_path / "a"), "--out", str(tmp_path / "out"), *arguments])
    assert stop.value.code == 2 and words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--systems", "1", "9"], "no recipe or file 'system9'"),
        (["--systems", "1", "2"], "^system2: model.weights: beats starts from pretrained"),
        (
            ["--systems", "1", "4", "--beats", "nowhere"],
            "^system4: nowhere: not a folder of converted weights",
        ),
        (["--systems", "1", "--", "--train.epochs", "0"], "train.epochs: must be at least 1"),
    ],
)
def test_all_runs_are_checked_before_the_first(script, arguments, words, tmp_path):
    with pytest.raises(AsdjaxError, match=words):
        script.main(["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), *arguments])
    assert not list(tmp_path.iterdir())


def test_impossible_places(script, tmp_path, monkeypatch):
    """The rules of asdjax's own paths; a link or FIFO in the place of a log or table is refused."""
    out, data = tmp_path / "out", tmp_path / "data"
    data.mkdir()
    given = ["--data", str(data), "--seeds", "0", "--systems", TINY, "--out"]
    for place in ("s3://bucket/out", str(data / "out")):
        with pytest.raises((UsageError, SystemExit)):
            script.main([*given, place])
    monkeypatch.setattr(os.path, "expanduser", lambda path: path.replace("~", str(out)))
    out.write_text("in the way")
    with pytest.raises(AsdjaxError, match="out/table.md: cannot be written"):
        script.main([*given, "~"])
    out.unlink()
    log = out / "tiny" / "seed0.log"
    log.parent.mkdir(parents=True)
    for make in (lambda: log.symlink_to(tmp_path / "victim"), lambda: os.mkfifo(log)):
        make()
        with pytest.raises(AsdjaxError, match="seed0.log: cannot be written"):
            script.main([*given, str(out)])
        log.unlink()
    assert sorted(tmp_path.iterdir()) == [data, out]


def test_figures_of_the_report():
    table = {(r["machine"], r["figure"]): r for r in rows(TABLE1)}
    machines = {machine for machine, _ in table} - {"all"}
    assert machines == {
        "bearingEmu", "fan", "gearboxEmu", "sliderEmu", "ToyCar", "ToyCarEmu", "valveEmu",
    }  # fmt: skip
    assert table.keys() == {(m, figure) for m in (*machines, "all") for figure in FIGURES}
    assert [table["fan", "auc_target"][s] for s in SYSTEMS] == ["55.88", "45.92", "45.20", "46.44"]
    assert [table["valveEmu", "pauc"][s] for s in SYSTEMS] == ["84.75", "68.32", "67.76", "74.49"]
    assert table["ToyCarEmu", "auc_target"]["system1"] == "96.52"
    assert [table["all", "score"][s] for s in SYSTEMS] == ["65.96", "62.20", "62.19", "62.11"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_harmonic_means_of_the_report(system):
    """From figures that were rounded to two decimals: within 0.01."""
    table = {(row["machine"], row["figure"]): float(row[system]) for row in rows(TABLE1)}
    machines = sorted({machine for machine, _ in table} - {"all"})
    for machine in machines:
        mean = harmonic_mean(table[machine, figure] for figure in FIGURES[:3])
        assert mean == pytest.approx(table[machine, "score"], abs=0.01)
    for figure in FIGURES[:3]:
        mean = harmonic_mean(table[machine, figure] for machine in machines)
        assert mean == pytest.approx(table["all", figure], abs=0.01)
    mean = harmonic_mean(table[machine, f] for machine in machines for f in FIGURES[:3])
    assert mean == pytest.approx(table["all", "score"], abs=0.01)


@pytest.mark.parametrize("name", ["all_systems", "measure_views"])
def test_signals_at_the_start_are_one_sentence(name, tmp_path):
    """While the script imports what it needs; before that, Python itself starts."""
    for delay in (0.15, 0.4, 0.8):
        process = subprocess.Popen(
            [sys.executable, SCRIPT.with_name("start.py"), name, "--data", "nowhere",
             "--out", str(tmp_path / "out"), "--systems", "1"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        time.sleep(delay)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert "Traceback" not in errors
        assert process.returncode in (2, 143, -signal.SIGTERM)  # done before, or not yet begun


@pytest.mark.slow  # a minute of two cores: four runs
def test_the_ensemble_combines_the_other_systems_seed_by_seed(start, tmp_path):
    recipe = f"extends: {TESTS / 'tiny_beats.yaml'}\nmodel: {{adaptation: frozen, embedding_size: 0"
    for name, pooling in (("one", "mean"), ("two", "relative_deviation")):
        (tmp_path / f"{name}.yaml").write_text(f"{recipe}, pooling: {pooling}}}\n")
    systems = ["ensemble", *(str(tmp_path / f"{name}.yaml") for name in ("one", "two"))]
    out = tmp_path / "out"
    for _ in range(2):
        process = start(out, (0, 1), *systems, options=())
        said = process.communicate()[1]
        assert process.returncode == 0, said
        assert [row["system"] for row in rows(out / "table.csv")[:: 3 * len(FIGURES)]] == [
            "one", "two", "ensemble"
        ]  # fmt: skip
    combined = Run(out / "ensemble" / "seed1").config()
    assert combined.model.members == (
        "one/seed1",
        "two/seed1",
    )
    assert (
        start(out, (0,), "ensemble", systems[1], options=())
        .communicate()[1]
        .endswith("ensemble needs two other systems\n")
    )

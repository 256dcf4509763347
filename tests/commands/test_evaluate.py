"""Evaluation of runs and of submissions: documents, files, printed tables."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from rich.console import Console
from support.scored_runs import make_run, numbers, score_rows, write_truth

from asdjax.commands import evaluate
from asdjax.commands.compare import compare
from asdjax.config import recipe as configs
from asdjax.errors import AsdjaxError
from asdjax.files.documents import write_json
from asdjax.scoring import averages, metrics


def write_submission(folder, machines, decisions=True):
    folder.mkdir(parents=True, exist_ok=True)
    for machine, rows in machines.items():
        tests = [row for row in rows if row["split"] == "test"]
        for kind, column in (("anomaly_score", "score"), ("decision_result", "decision")):
            if kind == "anomaly_score" or decisions:
                lines = [f"{row['path'].rpartition('/')[2]},{row[column]}\n" for row in tests]
                path = folder / f"{kind}_{machine}_section_00_test.csv"
                path.write_text("".join(lines[::-1]))
    return folder


@pytest.fixture
def unnamed(rng):
    return {m: score_rows(rng, m, named=False) for m in ("Sander", "ToothBrush")}


def expected_figures(rows, column="score"):
    tests = [row for row in rows if row["split"] == "test"]
    return metrics.figures(
        np.array([float(row[column]) for row in tests]),
        np.array([row["label"] == "anomaly" for row in tests]),
        np.array([row["domain"] == "target" for row in tests]),
        np.array([row["decision"] == "1" for row in tests]) if column == "score" else None,
    )


def test_the_document_and_the_files_of_a_run(rng, tmp_path, capsys):
    rows = {m: score_rows(rng, m) for m in ("fan", "valve")}
    rows["pump"] = score_rows(rng, "pump", named=False)
    run = make_run(tmp_path, rows, seed=3)
    document = evaluate.evaluate(run, resamples=200)
    assert "pump section 00: 24 of 24 test clips have no label" in capsys.readouterr().err
    assert (document["schema"], document["seed"]) == ("asdjax.metrics/2", 3)
    assert (document["resamples"], document["level"]) == (200, 0.95)
    assert list(document["machines"]) == ["fan", "valve"]
    expected = averages.summary({m: {"00": expected_figures(rows[m])} for m in ("fan", "valve")})
    assert {key: document[key] for key in expected} == expected
    assert "f1_target" in document["machines"]["fan"]["decisions"]
    low, high = document["intervals"]["machines"]["fan"]["official"]["auc_source"]
    assert low < document["machines"]["fan"]["official"]["auc_source"] < high
    assert json.loads((tmp_path / "metrics" / "metrics.json").read_text()) == document
    with (tmp_path / "metrics" / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == [
        "machine", "section", "family", "figure", "value", "low", "high", "seed",
    ]  # fmt: skip
    score = next(r for r in table if (r["machine"], r["figure"]) == ("all", "score"))
    assert float(score["value"]) == document["official_score"]
    bounds = [float(score["low"]), float(score["high"])]
    assert bounds == document["intervals"]["official_score"]


def test_figures_of_0_are_written_as_0(rng, tmp_path):
    upside_down = {m: score_rows(rng, m, lift=-20, sections=("00", "01")) for m in ("fan", "valve")}
    upside_down["pump"] = score_rows(rng, "pump", lift=20)
    run = make_run(tmp_path / "a", upside_down)
    document = evaluate.evaluate(run, resamples=100)
    assert document["machines"]["fan"]["official"]["auc_source"] == 0
    assert document["official_score"] == 0 == document["within_score"]
    assert document["intervals"]["official_score"] is None
    other = make_run(tmp_path / "b", upside_down, seed=1)
    seeds = evaluate.evaluate_runs([run, other], resamples=100)
    assert seeds["official_score"] == {"mean": 0, "std": 0}
    with (run.metrics / "metrics.csv").open(newline="") as file:
        columns = ("value", "low", "high")
        written = [float(r[c]) for r in csv.DictReader(file) for c in columns if r[c]]
    documents = [
        document, seeds, evaluate.by_view(run, resamples=100), compare(run, other, resamples=100)
    ]  # fmt: skip
    assert not [x for x in [*written, *numbers(documents)] if 0 < abs(x) < 1e-9]


@pytest.mark.parametrize("key", ["classes", "n_samples", "clips", "pretrained"])
def test_runs_that_were_trained_on_other_things_are_not_averaged(rng, tmp_path, key):
    rows = {m: score_rows(rng, m) for m in ("fan", "valve")}
    run, other = make_run(tmp_path / "a", rows), make_run(tmp_path / "b", rows, seed=1)
    training = dict(other.finished_training())
    training[key] = {"classes": ["fan"], "n_samples": 7}.get(key, "other")
    del training["schema"]
    other.write_training(training)
    with pytest.raises(AsdjaxError, match=f"b: was not trained on the same .*{key}"):
        evaluate.evaluate_runs([run, other], resamples=100)


def test_a_run_that_cannot_be_written_to_is_evaluated(rng, tmp_path, capsys, monkeypatch):
    run = make_run(tmp_path, {"fan": score_rows(rng, "fan")})
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere
    document = evaluate.evaluate(run, resamples=100)
    assert document["machines"]["fan"] and not run.metrics.exists()
    assert "printed and not stored" in capsys.readouterr().err


def test_runs_without_labels_leave_no_metrics(rng, tmp_path, unnamed):
    run = make_run(tmp_path, unnamed)
    write_json(run.metrics / "metrics.json", "of old labels")
    assert evaluate.evaluate(run) is None
    assert not (run.metrics / "metrics.json").exists()
    assert evaluate.by_view(run) is None


def test_missing_figures_and_single_clips_are_said(rng, tmp_path, capsys):
    rows = score_rows(rng, "fan", per_cell=3)
    few = [r for r in rows if r["domain"] == "source" or r["label"] == "normal"]
    del few[-2]  # the last one is a training clip
    few = [r for r in few if not r["path"].endswith(("normal_0004.wav", "normal_0008.wav"))]
    evaluate.evaluate(make_run(tmp_path, {"fan": few}), resamples=100)
    said = capsys.readouterr().err
    assert "fan section 00: within auc_target: no clips, left out of every mean" in said
    assert "fan section 00: source_normal: a single clip" in said


def test_a_submission_gets_the_figures_of_its_run(tmp_path, unnamed):
    truth = write_truth(tmp_path / "truth", unnamed)
    run = make_run(tmp_path / "run", unnamed, seed=4)
    of_run = evaluate.evaluate(run, resamples=150, truth=truth)
    folder = write_submission(tmp_path / "system", unnamed)
    submitted = evaluate.evaluate_submission(folder, truth, resamples=150)
    assert submitted == {**of_run, "seed": None}
    labels = np.tile([0, 1, 0, 1], 6), np.tile([0, 0, 1, 1], 6)
    tests = [row for row in unnamed["Sander"] if row["split"] == "test"]
    scores, decided = (np.array([float(r[c]) for r in tests]) for c in ("score", "decision"))
    expected = metrics.figures(scores, *labels, decided.astype(int))
    assert submitted["machines"]["Sander"]["sections"]["00"] == expected
    assert evaluate.markdown(submitted) == evaluate.markdown(of_run)


def test_decisions_of_a_submission_need_all_files(tmp_path, unnamed, capsys):
    truth = write_truth(tmp_path / "truth", unnamed)
    folder = write_submission(tmp_path / "system", unnamed, decisions=False)
    document = evaluate.evaluate_submission(folder, truth, resamples=100)
    assert "decisions" not in document["mean"] and "decisions" not in capsys.readouterr().err
    assert "precision" not in evaluate.markdown(document)
    write_submission(folder, {"Sander": unnamed["Sander"]})
    document = evaluate.evaluate_submission(folder, truth, resamples=100)
    assert "decisions" not in document["mean"]
    said = capsys.readouterr().err
    assert "there is no decision_result_ToothBrush_section_00_test.csv" in said


def test_machines_that_only_the_submission_has_are_said(tmp_path, unnamed, capsys):
    truth = write_truth(tmp_path / "truth", {"Sander": unnamed["Sander"]})
    folder = write_submission(tmp_path / "system", unnamed)
    document = evaluate.evaluate_submission(folder, truth, resamples=100)
    assert list(document["machines"]) == ["Sander"]
    assert "ToothBrush section 00: not in the ground truth, left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[2:], "no row for section_00_0000.wav (and 1 others)"),
        (
            lambda rows: [{**rows[0], "path": "x/test/section_00_9999.wav"}, *rows],
            "not in the ground truth: section_00_9999.wav",
        ),
        (None, "no scores of Sander section 00"),
    ],
)
def test_submissions_of_other_clips_are_refused(tmp_path, unnamed, change, words):
    truth = write_truth(tmp_path / "truth", unnamed)
    changed = {"ToothBrush": unnamed["ToothBrush"]}
    if change:
        changed["Sander"] = change(unnamed["Sander"])
    folder = write_submission(tmp_path / "system", changed)
    with pytest.raises(AsdjaxError) as raised:
        evaluate.evaluate_submission(folder, truth, resamples=100)
    assert words in str(raised.value) and str(folder) in str(raised.value)
    assert "anomaly_score_Sander_section_00_test.csv" in str(raised.value)


def test_each_view_and_their_combination(rng, tmp_path):
    rows = {m: score_rows(rng, m) for m in ("fan", "valve")}
    run = make_run(tmp_path, rows)
    document = evaluate.by_view(run, resamples=100)
    assert document["schema"] == "asdjax.views/1" and list(document["views"]) == ["raw", "mild"]
    table = evaluate.markdown(document)
    for view, found in document["views"].items():
        expected = averages.summary({m: {"00": expected_figures(rows[m], view)} for m in rows})
        low, high = found.pop("intervals")["official_score"]
        assert low < found["official_score"] < high
        assert found == {k: v for k, v in expected.items() if k != "schema"}
        assert f"[{100 * low:.2f}, {100 * high:.2f}]" in table
    combined, whole = document["combination"], evaluate.evaluate(run, resamples=100)
    assert combined["name"] == "mean" and combined["machines"] == whole["machines"]
    assert combined["intervals"] == whole["intervals"] and document["resamples"] == 100
    lines = table.splitlines()
    assert [line.split(" | ")[0] for line in lines if line.startswith("| ")] == [
        "| view", "| ---", "| raw", "| mild", "| combined: mean",
    ]  # fmt: skip
    assert f"{100 * document['views']['mild']['official_score']:.2f}" in table


def shown(document):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(evaluate.terminal_table(document))
    return console.export_text()


def test_printed_tables(rng, tmp_path):
    rows = {"fan": score_rows(rng, "fan"), "valve": score_rows(rng, "valve", lift=-1)}
    document = evaluate.evaluate(make_run(tmp_path, rows), resamples=100)
    printed, terminal = evaluate.markdown(document), shown(document)
    value = document["machines"]["fan"]["official"]["auc_source"]
    low, high = document["intervals"]["machines"]["fan"]["official"]["auc_source"]
    assert f"| {100 * value:.2f} [{100 * low:.2f}, {100 * high:.2f}] |" in printed
    assert f"[{100 * low:.2f}, {100 * high:.2f}]" in terminal
    assert f"{100 * value:.2f} [" not in terminal  # there it is a line of its own
    value = document["machines"]["valve"]["official"]["auc_source"]
    assert value < 0.5 and f"| {100 * value:.2f}! [" in printed
    recall = document["mean"]["decisions"]["recall_target"]
    for text in (printed, terminal):
        assert "95 % bootstrap interval over 100 resamples" in text
        assert f"{100 * recall:.2f}" in text and "precision" in text
        assert text.count("ranking is inverted") == 1
    rows["valve"] = score_rows(rng, "valve", lift=2)
    upright = evaluate.evaluate(make_run(tmp_path / "upright", rows), resamples=100)
    assert upright["inverted"] == [] and "!" not in evaluate.markdown(upright)
    assert "inverted" not in shown(upright)


def test_an_interval_that_no_resample_gives_is_printed_as_none(rng, tmp_path, capsys):
    document = evaluate.evaluate(
        make_run(tmp_path, {"fan": score_rows(rng, "fan", per_cell=1, lift=20)}), resamples=100
    )
    for text in (evaluate.markdown(document), shown(document)):
        assert "[-]" in text and "[100.00" not in text
        assert "([-] where these do not differ)" in " ".join(text.split())
    assert "false alarms among normal test clips: source 0.0 % of 1 [-]" in capsys.readouterr().err
    with (tmp_path / "metrics" / "metrics.csv").open(newline="") as file:
        assert {row["low"] + row["high"] for row in csv.DictReader(file)} == {""}


def test_sections_have_rows_of_their_own(rng, tmp_path):
    rows = {"fan": score_rows(rng, "fan", sections=("00", "01"))}
    document = evaluate.evaluate(make_run(tmp_path, rows), resamples=100)
    printed = evaluate.markdown(document)
    for name in ("fan 00", "fan 01", "fan", "harmonic mean"):
        assert printed.count(f"| {name} |") == 2  # figures and decisions


def test_runs_of_several_seeds(rng, tmp_path):
    made = [
        make_run(tmp_path / str(seed), {"fan": score_rows(rng, "fan")}, seed) for seed in (0, 1)
    ]
    document = evaluate.evaluate_runs(made, resamples=100)
    singles = [json.loads((run.metrics / "metrics.json").read_text()) for run in made]
    assert (document["schema"], document["seed"]) == ("asdjax.metrics_spread/2", [0, 1])
    scores = [single["official_score"] for single in singles]
    assert document["official_score"]["mean"] == pytest.approx(np.mean(scores), abs=1e-12)
    assert "intervals" not in document and singles[0]["resamples"] == 100
    assert "±" in evaluate.markdown(document) and "[" not in evaluate.markdown(document)
    assert "over 2 runs" in shown(document)
    other = dataclasses.replace(made[1].config(), optim=configs.OptimConfig(learning_rate=0.1))
    made[1].write_config(other)
    with pytest.raises(AsdjaxError, match="optim.learning_rate"):
        evaluate.evaluate_runs(made)


def test_runs_of_other_machines_are_named(rng, tmp_path):
    rows = {machine: score_rows(rng, machine) for machine in ("fan", "ToyCar")}
    made = [
        make_run(tmp_path / "one", rows), make_run(tmp_path / "two", {"fan": rows["fan"]}, seed=1)
    ]  # fmt: skip
    with pytest.raises(AsdjaxError, match="two: scored fan, .*one ToyCar, fan: "):
        evaluate.evaluate_runs(made, resamples=100)


@pytest.mark.parametrize(("column", "value"), [("score", "high"), ("raw", ""), ("score", "nan")])
def test_a_forged_table_of_scores_is_one_sentence(column, value, tmp_path, rng):
    rows = score_rows(rng, "fan")
    rows[3][column] = value
    run = make_run(tmp_path / "run", {"fan": rows})
    with pytest.raises(AsdjaxError, match="fan.csv: line 5"):
        evaluate.evaluate(run)

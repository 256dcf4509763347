"""The paired comparison of two runs."""

import functools
import io

import numpy as np
import pytest
from conftest import EXACT_METRIC
from rich.console import Console
from support.scored_runs import make_run, score_rows, write_truth

from asdjax.commands.compare import _parts, compare, markdown, terminal_table
from asdjax.commands.evaluate import evaluate
from asdjax.errors import AsdjaxError
from asdjax.scoring import averages, bootstrap, comparison, labels, metrics


def shifted(rng, rows, noise, lift=0.0):
    """The same clips, scored a little differently."""

    def score(row):
        change = noise * rng.normal() + lift * (row["label"] == "anomaly")
        return repr(float(row["score"]) + change)

    return [{**row, "score": score(row)} for row in rows]


@pytest.fixture
def pair(rng, tmp_path):
    b = {m: score_rows(rng, m, per_cell=12) for m in ("fan", "valve")}
    a = {m: shifted(rng, rows, 0.2, lift=0.4) for m, rows in b.items()}
    return make_run(tmp_path / "a", a, seed=1), make_run(tmp_path / "b", b, seed=2)


def leaves(document, path=()):
    for key in ("machines", "mean", "official_score", "within_score"):
        yield from _leaves(document[key], (*path, key))


def _leaves(value, path):
    if value is None or "difference" in value:
        yield path, value
    else:
        for key in value:
            yield from _leaves(value[key], (*path, key))


def clips(run):
    rows = {machine: run.read_scores(machine) for machine in run.machines()}
    return labels.labelled(rows)[0]


def test_differences_over_explicit_resamples(pair):
    document = compare(*pair, resamples=100)
    assert (document["schema"], document["resamples"]) == ("asdjax.compare/1", 100)
    assert document["a"] == {"run": str(pair[0].path), "seed": 1}
    scores, fan = [], []
    for run in pair:
        machines = clips(run)
        drawn = [bootstrap.draw(c["00"], m, "00", 100) for m, c in machines.items()]
        tables = []
        for i in range(100):
            repeated = {}
            for (machine, sections), weights in zip(machines.items(), drawn, strict=True):
                one = sections["00"]
                k = np.repeat(np.arange(len(one.name)), weights[i])
                repeated[machine] = {
                    "00": metrics.figures(
                        one.score[k], one.is_anomaly[k], one.is_target[k], one.decision[k]
                    )
                }
            tables.append(averages.summary(repeated))
        scores.append(np.array([table["official_score"] for table in tables]))
        fan.append(np.array([table["machines"]["fan"]["within"]["auc_target"] for table in tables]))
    for found, (a, b) in (
        (document["official_score"], scores),
        (document["machines"]["fan"]["within"]["auc_target"], fan),
    ):
        expected = np.quantile(a - b, [0.025, 0.975])
        assert found["interval"] == pytest.approx(expected, abs=EXACT_METRIC, rel=0)
        tied = np.abs(a - b) < EXACT_METRIC
        probability = np.mean(~tied & (a > b)) + np.mean(tied) / 2
        assert found["probability"] == pytest.approx(probability, abs=EXACT_METRIC)
    figures = [
        averages.means({m: {"00": c["00"].figures()} for m, c in clips(r).items()}) for r in pair
    ]
    for path, value in leaves(document):
        a, b = figures
        for key in path:
            a, b = a[key], b[key]
        assert (value["a"], value["b"], value["difference"]) == (a, b, a - b)
    assert {path[0] for path, _ in leaves(document)} == {
        "machines", "mean", "official_score", "within_score",
    }  # fmt: skip


def test_exchanging_the_runs_turns_the_signs(pair):
    forth, back = compare(*pair, resamples=100), compare(*pair[::-1], resamples=100)
    for (path, a), (other, b) in zip(leaves(forth), leaves(back), strict=True):
        assert path == other and a["difference"] == -b["difference"]
        turned = [-end for end in (b["interval"] or [])[::-1]]
        assert (a["interval"] or []) == pytest.approx(turned, abs=1e-12)
        assert a["probability"] == pytest.approx(1 - b["probability"], abs=EXACT_METRIC)
    assert forth["official_score"]["probability"] > 0.5 > back["official_score"]["probability"]


def test_a_run_equals_itself_on_any_scale(rng, pair, tmp_path):
    b = pair[1]
    rows = {m: b.read_scores(m) for m in b.machines()}
    image = {
        m: [{**row, "score": repr(4 * float(row["score"]))} for row in of_machine]
        for m, of_machine in rows.items()
    }
    for other in (b, make_run(tmp_path / "image", image)):
        certainty = evaluate(b, resamples=100)["intervals"]
        for path, value in leaves(compare(other, b, resamples=100)):
            known = functools.reduce(lambda table, key: table[key], path, certainty)
            assert value["interval"] == (None if known is None else [0, 0])
            assert value["probability"] == 0.5


def test_pairing_cancels_what_both_runs_share(pair):
    document = compare(*pair, resamples=200)
    low, high = document["official_score"]["interval"]
    drawn = [
        bootstrap.interval(bootstrap.resample(clips(run), 200)["official_score"]) for run in pair
    ]
    unpaired = np.hypot(*(end[1] - end[0] for end in drawn))
    assert high - low < 0.7 * unpaired


def test_figures_without_clips_stay_none(rng, tmp_path):
    rows = [r for r in score_rows(rng, "fan") if r["domain"] == "source" or r["label"] == "normal"]
    run = make_run(tmp_path, {"fan": rows})
    document = compare(run, run, resamples=100)
    assert document["mean"]["within"]["auc_target"] is None
    assert "| within AUC target | - | - | - | - | - |" in markdown(document)


def test_single_clips_are_said(rng, tmp_path, capsys):
    run = make_run(tmp_path, {"fan": score_rows(rng, "fan", per_cell=1)})
    assert len(compare(run, run, resamples=100)["single_clip_strata"]) == 4
    assert "fan section 00: target_anomaly: a single clip" in capsys.readouterr().err


def test_other_clips_are_refused(rng, pair, tmp_path):
    rows = {m: pair[0].read_scores(m) for m in pair[0].machines()}
    fewer = make_run(tmp_path / "fewer", {**rows, "fan": rows["fan"][2:]})
    names = [row["path"] for row in rows["fan"][:2]]
    words = rf"{names[0]} \(section 00\) \(and 1 others\), which .*fewer did not"
    with pytest.raises(AsdjaxError, match=words):
        compare(pair[0], fewer)
    with pytest.raises(AsdjaxError, match=rf"a: scored {names[0]}"):
        compare(fewer, pair[0])
    alone = make_run(tmp_path / "alone", {"fan": rows["fan"]})
    with pytest.raises(AsdjaxError, match="b: scored valve/test"):
        compare(alone, pair[1])
    with pytest.raises(AsdjaxError, match="at least 100"):
        compare(*pair, resamples=5)


def test_labels_may_come_from_the_ground_truth(rng, tmp_path, capsys):
    rows = {"Sander": score_rows(rng, "Sander", named=False)}
    a = make_run(tmp_path / "a", rows)
    b = make_run(tmp_path / "b", {"Sander": shifted(rng, rows["Sander"], 0.5)})
    with pytest.raises(AsdjaxError, match="no scored clip has a label"):
        compare(a, b)
    document = compare(a, b, resamples=100, truth=write_truth(tmp_path / "truth", rows))
    assert document["machines"]["Sander"]["official"]["pauc"]["a"] > 0
    assert document["official_score"]["difference"] != 0


def test_printed_tables(pair):
    document = compare(*pair, resamples=100)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(terminal_table(document))
    value = document["official_score"]
    low, high = (f"{100 * end:+.2f}" for end in value["interval"])
    difference, share = f"{100 * value['difference']:+.2f}", f"{100 * value['probability']:.0f}"
    a, b = (f"{100 * value[key]:.2f}" for key in "ab")
    row = f"| official score | {a} | {b} | {difference} | [{low}, {high}] | {share} |"
    assert row in markdown(document)
    assert f"{difference} [{low}, {high}] {share} |" in markdown(document)
    for text in (markdown(document), console.export_text()):
        words = " ".join(text.split())
        assert document["scope"] in words and "F1" in words
        assert f"[{low}, {high}]" in words and str(pair[0].path.name) in words


@pytest.mark.parametrize("difference", [0.0, -0.0, -1e-17, 1e-17, -4e-5])
def test_no_difference_is_printed_with_one_sign(difference):
    value = {"difference": difference, "interval": [-1e-17, 0.25], "probability": 0.5}
    assert _parts(value, True) == ["+0.00", "[+0.00, +25.00]", "50"]
    assert _parts({**value, "difference": -0.012}, False) == ["-1.20", "50"]
    assert _parts({**value, "interval": None}, True) == ["+0.00", "[-]", "50"]


def test_figures_that_differ_by_rounding_alone_are_tied():
    drawn = np.array([0.1 + 0.2, 0.5, 0.6]), np.array([0.3, 0.5, 0.4])
    assert drawn[0][0] > drawn[1][0]
    found = comparison._difference((0.5, drawn[0]), (0.25, drawn[1]))
    assert found["probability"] == pytest.approx(2 / 3, abs=EXACT_METRIC)

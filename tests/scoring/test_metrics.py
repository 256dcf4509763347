import itertools
import json
import re

import numpy as np
import pytest
from conftest import EXACT_METRIC
from hypothesis import given
from hypothesis import strategies as st
from support.scored_runs import numbers

from asdjax.errors import AsdjaxError
from asdjax.scoring import averages, metrics
from asdjax.scoring.averages import harmonic_mean, spread, summary
from asdjax.scoring.layout import rows
from asdjax.scoring.metrics import figures, pauc

EPS = np.finfo(float).eps

few_values = st.integers(-3, 3).map(float)  # many ties
any_values = st.floats(-1e6, 1e6)
scores = st.one_of(
    st.lists(few_values, min_size=1, max_size=40), st.lists(any_values, min_size=1, max_size=40)
).map(np.array)


def auc(normal, anomaly):
    return pauc(normal, anomaly, max_fpr=1)


def pairwise_auc(normal, anomaly):
    wins = [(a > n) + 0.5 * (a == n) for a, n in itertools.product(anomaly, normal)]
    return sum(wins) / len(wins)


def partial_roc(normal, anomaly, max_fpr=0.1):
    """The ROC curve point by point, its area up to max_fpr by trapezoids, McClish's standard."""
    points = [(0.0, 0.0)]
    for threshold in sorted({*normal, *anomaly}, reverse=True):
        false = sum(n >= threshold for n in normal) / len(normal)
        true = sum(a >= threshold for a in anomaly) / len(anomaly)
        points.append((false, true))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= max_fpr or x1 == x0:
            continue
        end = min(x1, max_fpr)
        y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
        area += (end - x0) * (y0 + y_end) / 2
    chance = max_fpr**2 / 2
    return 0.5 * (1 + (area - chance) / (max_fpr - chance))


def cells(rng, counts=(50, 50, 50, 50), decimals=1):
    """Scores (many ties) of source normal, source anomaly, target normal, target anomaly."""
    is_anomaly = np.repeat([False, True, False, True], counts)
    is_target = np.repeat([False, False, True, True], counts)
    scores = np.round(rng.normal(size=sum(counts)) + is_anomaly + 0.5 * is_target, decimals)
    return scores, is_anomaly, is_target


@given(scores, scores)
def test_auc_counts_pairs(normal, anomaly):
    assert auc(normal, anomaly) == pytest.approx(
        pairwise_auc(normal, anomaly), abs=EXACT_METRIC, rel=0
    )


@given(scores, scores, st.sampled_from([0.1, 0.05, 0.37]))
def test_pauc_is_the_standardised_partial_area(normal, anomaly, max_fpr):
    assert pauc(normal, anomaly, max_fpr) == pytest.approx(
        partial_roc(normal, anomaly, max_fpr), abs=EXACT_METRIC, rel=0
    )


def test_scores_that_differ_by_the_smallest_step_are_not_tied():
    normal = np.array([1.0, 0.0])
    anomaly = np.nextafter(normal, 2)
    assert auc(normal, anomaly) == pairwise_auc(normal, anomaly) == 0.75


def test_perfect_worst_and_constant():
    low, high, same = np.arange(20.0), np.arange(20.0, 40.0), np.ones(20)
    assert (auc(low, high), auc(high, low), auc(same, same)) == (1, 0, 0.5)
    assert pauc(low, high) == pytest.approx(1, abs=EXACT_METRIC)
    assert pauc(same, same) == pytest.approx(0.5, abs=EXACT_METRIC)
    assert pauc(high, low) == pytest.approx(9 / 19, abs=EXACT_METRIC)  # 0.4737


@given(st.lists(few_values, min_size=4, max_size=40).map(np.array), st.randoms())
def test_figures_do_not_depend_on_scale_or_order(values, random):
    flags = np.arange(len(values))
    is_anomaly, is_target = flags % 2 == 1, flags // 2 % 2 == 1
    plain = figures(values, is_anomaly, is_target)
    order = np.array(random.sample(range(len(values)), len(values)))
    assert figures(values[order], is_anomaly[order], is_target[order]) == plain
    assert figures(np.exp(values) - 7, is_anomaly, is_target) == plain


def test_both_families_against_the_definitions(rng):
    values, is_anomaly, is_target = cells(rng, (41, 23, 17, 30))
    result = figures(values, is_anomaly, is_target)
    normal, anomaly = values[~is_anomaly], values[is_anomaly]
    source_normal, target_normal = values[:41], values[64:81]
    expected = {
        "official": {
            "auc_source": pairwise_auc(source_normal, anomaly),
            "auc_target": pairwise_auc(target_normal, anomaly),
            "pauc": partial_roc(normal, anomaly),
        },
        "within": {
            "auc_source": pairwise_auc(source_normal, values[41:64]),
            "auc_target": pairwise_auc(target_normal, values[81:]),
            "pauc": partial_roc(normal, anomaly),
        },
    }
    for family, values in expected.items():
        assert result[family] == pytest.approx(values, abs=EXACT_METRIC, rel=0)
    assert result["official"]["auc_source"] != result["within"]["auc_source"]
    assert result["clips"] == {
        "source_normal": 41,
        "source_anomaly": 23,
        "target_normal": 17,
        "target_anomaly": 30,
    }


def test_equal_cells_average_to_the_auc_over_everything(rng):
    values, is_anomaly, is_target = cells(rng)
    official = figures(values, is_anomaly, is_target)["official"]
    overall = auc(values[~is_anomaly], values[is_anomaly])
    mean = (official["auc_source"] + official["auc_target"]) / 2
    assert mean == pytest.approx(overall, abs=EXACT_METRIC, rel=0)


def test_precision_recall_and_f1_per_domain():
    #          source: 2 normal, 3 anomalous   target: 1 normal, 1 anomalous
    anomaly = np.array([0, 0, 1, 1, 1, 0, 1])
    target = np.array([0, 0, 0, 0, 0, 1, 1])
    decided = np.array([0, 1, 1, 0, 1, 0, 0])
    result = figures(np.zeros(7), anomaly, target, decided)["decisions"]
    assert result == pytest.approx(
        {
            "precision_source": 2 / 3,
            "recall_source": 2 / 3,
            "f1_source": 2 / 3,
            "precision_target": 0,
            "recall_target": 0,
            "f1_target": 0,
        },
        abs=EXACT_METRIC,
    )
    assert "decisions" not in figures(np.zeros(7), anomaly, target)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_f1_is_the_harmonic_mean_of_precision_and_recall(pairs):
    anomaly = np.array([True, False, *(p[0] for p in pairs)])
    decided = np.array([True, False, *(p[1] for p in pairs)])
    zeros = np.zeros(len(anomaly))
    result = figures(zeros, anomaly, zeros.astype(bool), decided)["decisions"]
    precision, recall = result["precision_source"], result["recall_source"]
    assert precision == pytest.approx(anomaly[decided].mean(), abs=EXACT_METRIC)
    assert recall == pytest.approx(decided[anomaly].mean(), abs=EXACT_METRIC)
    assert result["f1_source"] == pytest.approx(
        2 * precision * recall / (precision + recall), abs=EXACT_METRIC
    )
    assert result["f1_target"] is None


def test_empty_cells_are_none_and_said(rng):
    no_target_anomaly = figures(*cells(rng, (5, 5, 5, 0)))
    assert no_target_anomaly["official"]["auc_target"] is not None
    assert no_target_anomaly["within"]["auc_target"] is None
    no_target_normal = figures(*cells(rng, (5, 5, 0, 5)))
    assert no_target_normal["official"]["auc_target"] is None
    only_normal = figures(*cells(rng, (5, 0, 5, 0)))
    assert set(only_normal["official"].values()) == {None}

    document = summary({"fan": {"00": no_target_normal}, "valve": {"00": only_normal}})
    assert document["missing"] == [
        "fan section 00: official auc_target",
        "fan section 00: within auc_target",
        *(
            f"valve section 00: {family} {name}"
            for family in ("official", "within")
            for name in ("auc_source", "auc_target", "pauc")
        ),
    ]
    official = no_target_normal["official"]
    assert document["official_score"] == pytest.approx(
        2 / (1 / official["auc_source"] + 1 / official["pauc"]), abs=EXACT_METRIC
    )
    assert document["machines"]["valve"]["official_score"] is None
    assert document["mean"]["official"]["auc_target"] is None


def test_harmonic_mean():
    assert harmonic_mean([0.5, 1.0]) == pytest.approx(2 / 3, abs=EXACT_METRIC)
    assert harmonic_mean([0.5, None]) == 0.5
    assert harmonic_mean([None]) is None
    arrays = harmonic_mean([np.array([0.5, 0.0]), np.array([1.0, 1.0])])
    assert arrays == pytest.approx([2 / 3, 0], abs=EXACT_METRIC) and arrays[1] == 0


@given(st.lists(st.sampled_from([0.0, 1e-4, 0.3, 0.5, 1.0]), min_size=1, max_size=60))
def test_harmonic_mean_is_the_challenges_and_0_where_a_figure_is_0(values):
    challenge = len(values) / sum(1 / max(value, EPS) for value in values)
    assert harmonic_mean(values) == pytest.approx(challenge, abs=EXACT_METRIC, rel=1e-12)
    assert (harmonic_mean(values) == 0) == (0 in values)


def test_a_figure_of_0_is_0_in_every_mean():
    is_anomaly, is_target = np.array([0, 0, 1, 1] * 2), np.repeat([0, 1], 4)
    scores = np.array([3.0, 4, 1, 2, 3, 4, 5, 6])  # upside down in the source domain
    tables = {"00": figures(scores, is_anomaly, is_target, np.zeros(8, int))}
    document = summary({"fan": tables, "valve": {**tables, "01": tables["00"]}})
    fan = document["machines"]["fan"]
    assert fan["within"]["auc_source"] == 0 == document["mean"]["within"]["auc_source"]
    assert document["within_score"] == 0 == fan["within_score"]
    assert document["mean"]["decisions"]["f1_target"] == 0
    assert document["official_score"] > 0.3
    assert not [x for x in numbers([document, rows(document)]) if 0 < x < 1e-9]


def test_spread_of_equal_figures_is_0():
    clips = np.arange(7.0), np.array([0, 1, 0, 0, 1, 0, 1]), np.array([0, 0, 0, 0, 1, 1, 1])
    document = summary({"fan": {"00": figures(*clips)}})
    result = spread([document] * 3)
    value = document["official_score"]
    assert result["official_score"] == {"mean": value, "std": 0}
    assert not [x for x in numbers(result) if 0 < x < 1e-9]


def report(auc_source, auc_target, pauc):
    """Figures as published: within-domain, in per cent."""
    family = dict(zip(metrics.FIGURES, np.array([auc_source, auc_target, pauc]) / 100, strict=True))
    clips = dict.fromkeys(
        ["source_normal", "source_anomaly", "target_normal", "target_anomaly"], 50
    )
    return {"official": dict.fromkeys(metrics.FIGURES, 0.5), "within": family, "clips": clips}


def test_the_technical_reports_harmonic_means():
    # System 1 on the development machines; its means are recomputed from rounded figures.
    published = {
        "bearingEmu": ((59.04, 54.76, 49.78), 54.26),
        "fan": ((71.92, 55.88, 53.43), 59.39),
        "gearboxEmu": ((74.00, 74.52, 57.45), 67.66),
        "sliderEmu": ((75.84, 75.52, 55.60), 67.55),
        "ToyCar": ((69.72, 76.76, 57.29), 66.92),
        "ToyCarEmu": ((65.84, 96.52, 50.22), 65.99),
        "valveEmu": ((98.60, 86.32, 84.75), 89.48),
    }
    document = summary({name: {"00": report(*values)} for name, (values, _) in published.items()})
    for name, (_, mean) in published.items():
        assert 100 * document["machines"][name]["within_score"] == pytest.approx(mean, abs=0.01)
    assert 100 * document["within_score"] == pytest.approx(65.96, abs=0.01)
    means = [100 * document["mean"]["within"][name] for name in metrics.FIGURES]
    assert means == pytest.approx([72.01, 71.58, 56.74], abs=0.01)
    assert document["official_score"] == pytest.approx(0.5, abs=EXACT_METRIC)  # never mixed


def test_summary_of_several_sections(rng):
    one, two, three = (figures(*cells(rng)) for _ in range(3))
    document = summary({"fan": {"00": one, "01": two}, "valve": {"00": three}})
    fan, valve = document["machines"]["fan"], document["machines"]["valve"]
    assert document["schema"] == "asdjax.metrics/2"
    assert fan["sections"] == {"00": one, "01": two}
    assert fan["clips"]["source_normal"] == 100
    assert {k: valve[k] for k in ("official", "within", "clips")} == three
    for family, name in itertools.product(("official", "within"), metrics.FIGURES):
        expected = 2 / (1 / one[family][name] + 1 / two[family][name])
        assert fan[family][name] == pytest.approx(expected, abs=EXACT_METRIC)
    everything = [s["official"][n] for s in (one, two, three) for n in metrics.FIGURES]
    expected = 9 / sum(1 / v for v in everything)
    assert document["official_score"] == pytest.approx(expected, abs=EXACT_METRIC)
    assert averages.score([one, two, three], "official") == document["official_score"]
    assert averages.score([one, two, three], "within") == document["within_score"]
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def decided_summary(rng):
    values, is_anomaly, is_target = cells(rng)
    tables = {"00": figures(values, is_anomaly, is_target, values > 0.8)}
    return summary({"fan": tables, "valve": tables})


def test_rows_hold_every_figure_once(rng):
    document = decided_summary(rng)
    table = rows(document)
    keys = [(r["machine"], r["section"], r["family"], r["figure"]) for r in table]
    assert len(set(keys)) == len(keys) == 2 * (12 + 14) + 14
    found = {key: row["value"] for key, row in zip(keys, table, strict=True)}
    fan = document["machines"]["fan"]
    assert found["fan", "00", "within", "auc_target"] == fan["within"]["auc_target"]
    assert found["fan", "all", "official", "score"] == fan["official_score"]
    assert found["all", "all", "official", "score"] == document["official_score"]
    assert found["all", "all", "decisions", "f1_source"] == pytest.approx(
        fan["decisions"]["f1_source"], abs=EXACT_METRIC
    )


def test_rows_hold_the_intervals(rng):
    document = decided_summary(rng)
    document["missing"] = []

    def bounds(value):
        if isinstance(value, dict):
            return {key: bounds(inside) for key, inside in value.items() if key != "clips"}
        return [value - 0.25, value + 0.25]

    nested = {key: document[key] for key in ("machines", "official_score", "within_score", "mean")}
    document["intervals"] = bounds(nested)
    document["intervals"]["mean"]["official"]["pauc"] = None
    table = rows(document)
    assert len(table) == len(rows(decided_summary(rng)))
    for row in table:
        if (row["machine"], row["family"], row["figure"]) == ("all", "official", "pauc"):
            assert row["low"] is None and row["high"] is None
        else:
            assert (row["low"], row["high"]) == (row["value"] - 0.25, row["value"] + 0.25)


def test_aucs_below_chance_are_listed(rng):
    values, is_anomaly, is_target = cells(rng)
    upright = figures(values, is_anomaly, is_target)
    half = figures(np.where(is_target, -values, values) + 9 * is_target, is_anomaly, is_target)
    document = summary({"fan": {"00": upright, "01": half}, "valve": {"00": upright}})
    assert document["inverted"] == [
        f"fan section 01: {family} {name}"
        for family in ("official", "within")
        for name in ("auc_source", "auc_target")
        if half[family][name] < 0.5
    ]
    assert document["inverted"] and half["official"]["pauc"] < 0.5  # a pAUC is never listed
    constant = figures(np.ones(len(values)), is_anomaly, is_target)
    assert summary({"fan": {"00": constant}})["inverted"] == []  # 0.5 is chance, not below


def test_means_of_arrays_are_those_of_their_elements(rng):
    tables = [{"00": figures(*cells(rng)), "01": figures(*cells(rng))} for _ in range(3)]
    stacked = {
        section: {
            family: {
                name: np.array([t[section][family][name] for t in tables])
                for name in metrics.FIGURES
            }
            for family in ("official", "within")
        }
        for section in ("00", "01")
    }
    together = averages.means({"fan": stacked})
    for i, table in enumerate(tables):
        alone = averages.means({"fan": table})
        assert together["official_score"][i] == alone["official_score"]
        fan, expected = together["machines"]["fan"], alone["machines"]["fan"]
        assert fan["within"]["auc_source"][i] == expected["within"]["auc_source"]
        assert fan["within_score"][i] == expected["within_score"]


def test_spread_leaves_out_what_is_about_one_run(rng):
    document = decided_summary(rng)
    extra = {"intervals": {"mean": 1}, "resamples": 9, "level": 0.95, "single_clip_strata": ["x"]}
    assert spread([{**document, **extra, "seed": 3}]) == spread([document])
    assert "inverted" not in spread([document])


def test_spread_over_seeds(rng):
    documents = [decided_summary(rng) for _ in range(4)]
    result = spread(documents)
    assert (result["schema"], result["seeds"]) == ("asdjax.metrics_spread/2", 4)
    assert result["machines"].keys() == documents[0]["machines"].keys()

    def values(path):
        found = documents
        for key in path:
            found = [d[key] for d in found]
        return found

    for path in (
        ("official_score",),
        ("mean", "within", "auc_source"),
        ("machines", "fan", "official", "pauc"),
        ("machines", "valve", "sections", "00", "decisions", "recall_target"),
    ):
        leaf = result
        for key in path:
            leaf = leaf[key]
        mean = sum(values(path)) / 4
        std = (sum((v - mean) ** 2 for v in values(path)) / 3) ** 0.5
        assert leaf == pytest.approx({"mean": mean, "std": std}, abs=EXACT_METRIC)
    assert result["machines"]["fan"]["clips"] == documents[0]["machines"]["fan"]["clips"]
    row = rows(result)[0]
    assert row.keys() == {"machine", "section", "family", "figure", "mean", "std"}


def test_spread_of_one_seed_and_of_missing_figures(rng):
    document = summary({"fan": {"00": figures(*cells(rng, (5, 5, 0, 5)))}})
    result = spread([document])
    assert result["official_score"] == {"mean": document["official_score"], "std": None}
    assert result["machines"]["fan"]["official"]["auc_target"] is None
    assert result["missing"] == document["missing"]
    missing = [r for r in rows(result) if r["mean"] is None]
    assert {r["figure"] for r in missing} == {"auc_target"}


def test_spread_refuses_different_runs(rng):
    fan = figures(*cells(rng))
    fewer = figures(*cells(rng, (50, 50, 50, 49)))
    with pytest.raises(AsdjaxError, match="metrics.machines: the runs differ"):
        spread([summary({"fan": {"00": fan}}), summary({"valve": {"00": fan}})])
    with pytest.raises(AsdjaxError, match="target_anomaly: the runs differ"):
        spread([summary({"fan": {"00": fan}}), summary({"fan": {"00": fewer}})])
    with pytest.raises(AsdjaxError, match="at least one run"):
        spread([])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, np.nan], [0, 1], [0, 0]), "1 of 2 scores are not finite"),
        (([1.0, 2.0], [0, 1, 1], [0, 0]), "2 scores and anomaly labels of shape (3,)"),
        (([1.0, 2.0], [0, 1], [0]), "2 scores and domains of shape (1,)"),
        (([1.0, 2.0], [0, 2], [0, 0]), "anomaly labels: must all be 0 or 1"),
        (([1.0, 2.0], ["a", "b"], [0, 0]), "anomaly labels: must all be 0 or 1"),
        (([1.0, 2.0], [0, 1], [0, 0], [0.5, 1.0]), "decisions: must all be 0 or 1"),
        (([[1.0, 2.0]], [0, 1], [0, 0]), "one number per clip"),
        ((["1", "2"], [0, 1], [0, 0]), "one number per clip"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(AsdjaxError, match=re.escape(message)):
        figures(*map(np.array, arguments))


def test_impossible_summaries_are_refused(rng):
    values, is_anomaly, is_target = cells(rng)
    plain = figures(values, is_anomaly, is_target)
    decided = figures(values, is_anomaly, is_target, values > 1)
    with pytest.raises(AsdjaxError, match="found 0 and 1"):
        auc(np.array([]), np.array([1.0]))
    for nothing in ({}, {"fan": {}}, {"fan": {"00": plain}, "valve": {}}):
        with pytest.raises(AsdjaxError, match="no figures"):
            summary(nothing)
    with pytest.raises(AsdjaxError, match="some sections only"):
        summary({"fan": {"00": plain}, "valve": {"00": decided}})

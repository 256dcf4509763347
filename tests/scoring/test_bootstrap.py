"""Bootstrap intervals, against explicit resamples."""

import dataclasses

import numpy as np
import pytest
from conftest import EXACT_METRIC
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from asdjax.errors import AsdjaxError
from asdjax.scoring import averages, bootstrap
from asdjax.scoring.bootstrap import draw, intervals, replicate
from asdjax.scoring.labels import Clips


def clips(rng, counts=(50, 50, 50, 50), decimals=1, lift=1.0):
    """Clips of source normal, source anomaly, target normal, target anomaly."""
    is_anomaly = np.repeat([False, True, False, True], counts)
    is_target = np.repeat([False, False, True, True], counts)
    score = np.round(rng.normal(size=sum(counts)) + lift * is_anomaly + 0.5 * is_target, decimals)
    names = tuple(f"{i:05d}" for i in range(len(score)))
    return Clips(names, score, is_anomaly, is_target, score > 0.8)


def repeated(source, weights):
    """The clips of one resample, each as often as it counts."""
    index = np.repeat(np.arange(len(source.name)), weights)
    parts = (source.score, source.is_anomaly, source.is_target, source.decision)
    return Clips(tuple(source.name[i] for i in index), *(part[index] for part in parts))


def assert_replicates(source, weights):
    found = replicate(source, weights)
    for i, row in enumerate(weights):
        expected = repeated(source, row).figures()
        del expected["clips"]
        assert found.keys() == expected.keys()
        for family, figures in expected.items():
            assert found[family].keys() == figures.keys()
            for name, value in figures.items():
                if value is None:
                    assert found[family][name] is None
                else:
                    assert abs(found[family][name][i] - value) <= EXACT_METRIC, (family, name)


one_clip = st.tuples(st.integers(-3, 3), st.booleans(), st.booleans(), st.booleans())


@given(st.lists(one_clip, min_size=1, max_size=40), st.integers(0, 99))
def test_replicates_are_the_figures_of_the_repeated_clips(rows, section):
    score, is_anomaly, is_target, decision = map(np.array, zip(*rows, strict=True))
    names = tuple(map(str, range(len(rows))))
    source = Clips(names, score.astype(float), is_anomaly, is_target, decision)
    assert_replicates(source, draw(source, "fan", f"{section:02d}", 5))


@pytest.mark.parametrize("decimals", [0, 1, 9])
@pytest.mark.parametrize(
    "counts", [(50, 50, 50, 50), (41, 23, 17, 30), (3, 2, 1, 2), (1, 1, 1, 1), (9, 0, 7, 5)]
)
def test_replicates_of_many_draws(rng, counts, decimals):
    source = clips(rng, counts, decimals)
    assert_replicates(source, draw(source, "fan", "00", 40))


@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_pauc_of_resamples_is_scikit_learns(rng, decimals):
    source = clips(rng, (33, 20, 14, 27), decimals)
    weights = draw(source, "fan", "00", 200)
    found = replicate(source, weights)["official"]["pauc"]
    for row, value in zip(weights, found, strict=True):
        chosen = repeated(source, row)
        expected = roc_auc_score(chosen.is_anomaly, chosen.score, max_fpr=0.1)
        assert abs(value - expected) <= EXACT_METRIC


def test_scores_that_differ_by_the_smallest_step_are_not_tied():
    score = np.array([1.0, 0.0, *np.nextafter([1.0, 0.0], 2), 1e308, -1e308])
    flags = np.array([False, False, True, True, True, False])
    source = Clips(tuple("abcdef"), score, flags, np.zeros(6, bool), flags)
    assert_replicates(source, draw(source, "fan", "00", 20))


def test_draws_are_with_replacement_inside_each_stratum(rng):
    source = clips(rng, (20, 10, 5, 1))
    weights = draw(source, "fan", "00", 4000)
    for stratum in source.strata().values():
        size = np.count_nonzero(stratum)
        inside = weights[:, stratum]
        assert (inside.sum(axis=1) == size).all()
        assert np.allclose(inside.mean(axis=0), 1, atol=5 / np.sqrt(4000))
        # multinomial: variance 1 - 1/n; none for a single clip
        assert np.allclose(inside.var(axis=0), 1 - 1 / size, atol=0.15 if size > 1 else 0)


def test_draws_follow_from_the_names_alone(rng):
    one, other = clips(rng), clips(rng)
    assert np.array_equal(draw(one, "fan", "00"), draw(other, "fan", "00"))
    assert not np.array_equal(draw(one, "fan", "00"), draw(one, "fan", "01"))
    assert not np.array_equal(draw(one, "fan", "00"), draw(one, "valve", "00"))
    alone = intervals({"fan": {"00": one}}, 200)["intervals"]
    both = intervals({"bearing": {"00": other}, "fan": {"00": one}}, 200)["intervals"]
    assert alone["machines"]["fan"] == both["machines"]["fan"]
    assert alone["official_score"] != both["official_score"]


def test_intervals_are_quantiles_of_explicit_summaries(rng):
    machines = {
        "fan": {"00": clips(rng, (9, 8, 7, 6)), "01": clips(rng, (5, 5, 5, 5))},
        "valve": {"00": clips(rng, (6, 6, 6, 6))},
    }
    drawn = {(m, s): draw(c, m, s, 100) for m in machines for s, c in machines[m].items()}
    summaries = [
        averages.summary(
            {
                m: {s: repeated(c, drawn[m, s][i]).figures() for s, c in machines[m].items()}
                for m in machines
            }
        )
        for i in range(100)
    ]
    document = intervals(machines, 100)

    def check(bounds, values):
        if isinstance(bounds, dict):
            for key in bounds:
                check(bounds[key], [value[key] for value in values])
            return
        expected = np.quantile(values, [0.025, 0.975])
        if np.ptp(expected) <= EXACT_METRIC:
            assert bounds is None
            return
        assert bounds == pytest.approx(expected, abs=EXACT_METRIC, rel=0)

    check(document["intervals"], summaries)
    low, high = document["intervals"]["official_score"]
    assert low < high
    figures = averages.summary(
        {m: {s: c.figures() for s, c in machines[m].items()} for m in machines}
    )
    fan, of_fan = document["intervals"]["machines"]["fan"], figures["machines"]["fan"]
    assert {*fan} == {*of_fan} - {"clips"} and {*fan["sections"]["01"]} == {
        *("official", "within", "decisions")
    }
    assert (document["resamples"], document["level"]) == (100, 0.95)
    assert document["single_clip_strata"] == []


def test_a_figure_without_clips_has_no_interval(rng):
    document = intervals({"fan": {"00": clips(rng, (5, 5, 0, 5))}}, 100)
    fan = document["intervals"]["machines"]["fan"]
    assert fan["official"]["auc_target"] is fan["within"]["auc_target"] is None
    assert fan["decisions"]["f1_target"] is None
    assert fan["official"]["auc_source"][0] < fan["official"]["auc_source"][1]


def test_a_single_clip_does_not_vary_and_is_named(rng):
    document = intervals({"fan": {"00": clips(rng, (1, 1, 5, 5))}}, 100)
    fan = document["intervals"]["machines"]["fan"]
    assert fan["within"]["auc_source"] is None and len(fan["within"]["auc_target"]) == 2
    assert document["single_clip_strata"] == [
        "fan section 00: source_normal",
        "fan section 00: source_anomaly",
    ]


def test_resamples_that_do_not_differ_give_no_interval(rng):
    """Single clips, figures of 0 and 1: no width would be no certainty."""
    apart = clips(rng, (9, 8, 7, 6), decimals=9, lift=99.0)
    apart = dataclasses.replace(apart, decision=apart.is_anomaly)
    upside_down = dataclasses.replace(apart, score=-apart.score)
    for source in (apart, upside_down, clips(rng, (1, 1, 1, 1))):
        machines = {"fan": {"00": source}}
        found = intervals(machines, 100)["intervals"]
        assert found["official_score"] is None
        assert {*found["machines"]["fan"]["official"].values()} == {None}
        alarms = bootstrap.false_alarms(machines, 100)
        assert {*alarms["false_alarm_interval"]["fan"]["00"].values()} == {None}
        assert None not in alarms["false_alarm_rate"]["fan"]["00"].values()


def test_too_few_resamples_are_refused(rng):
    with pytest.raises(AsdjaxError, match="at least 100, not 99"):
        intervals({"fan": {"00": clips(rng)}}, 99)


def test_intervals_cover_the_true_auc(rng):
    """Share of 300 data sets whose interval holds the truth, within three binomial errors."""
    sets, size, lift = 300, 50, 1.0
    truth = norm.cdf(lift / np.sqrt(2))
    covered = 0
    for i in range(sets):
        is_anomaly, is_target = np.tile([[False, False, True, True], [False, True] * 2], size)
        score = rng.normal(size=4 * size) + lift * is_anomaly
        source = Clips(tuple(map(str, range(4 * size))), score, is_anomaly, is_target)
        drawn = replicate(source, draw(source, "fan", str(i), 300))
        low, high = bootstrap.interval(drawn["official"]["auc_source"])
        covered += low <= truth <= high
    assert abs(covered / sets - 0.95) <= 3 * np.sqrt(0.95 * 0.05 / sets)


def test_false_alarm_intervals_against_a_loop(rng):
    source = clips(rng)
    found = bootstrap.false_alarms({"fan": {"00": source}}, resamples=200)
    weights = bootstrap.draw(source, "fan", "00", 200)
    for domain, is_target in (("source", False), ("target", True)):
        normal = ~source.is_anomaly & (source.is_target == is_target)
        alarms = [np.repeat(source.decision[normal], row[normal]).mean() for row in weights]
        low, high = found["false_alarm_interval"]["fan"]["00"][domain]
        assert [low, high] == pytest.approx(np.quantile(alarms, [0.025, 0.975]), abs=1e-12)
        assert low <= found["false_alarm_rate"]["fan"]["00"][domain] <= high and low < high


def test_no_false_alarms_without_decisions(rng):
    source = dataclasses.replace(clips(rng), decision=None)
    found = bootstrap.false_alarms({"fan": {"00": source}}, resamples=100)
    nothing = {"fan": {"00": {"source": None, "target": None}}}
    assert found == {"false_alarm_rate": nothing, "false_alarm_interval": nothing}

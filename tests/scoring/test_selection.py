"""Choosing backends by pseudo-anomalies: the trials, their evidence, the choice."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from asdjax.scoring import selection
from asdjax.scoring.selection import Bank, best, evidence, trials


def bank_of(rng, clips=20, views=2, targets=4, attributes=()):
    is_target = np.arange(clips) >= clips - targets
    return Bank([rng.standard_normal((clips, 3)) for _ in range(views)], is_target, attributes)


def by_kind(found):
    kinds = {}
    for trial in found:
        kinds.setdefault(trial.kind, []).append(trial)
    return kinds


def test_the_trials_are_those_of_the_docstring(rng):
    attributes = ("a",) * 8 + ("b",) * 8 + ("",) * 4
    bank = bank_of(rng, attributes=attributes)
    others = [[rng.standard_normal((n, 3)) for _ in range(2)] for n in (5, 7)]
    found = by_kind(trials(bank, others, selection.KINDS, seed=0))
    (machines,) = found["machines"]
    for view, expected in enumerate(np.concatenate(pair) for pair in zip(*others, strict=True)):
        np.testing.assert_array_equal(machines.anomalies[view], expected)
        assert machines.views[view] is bank.views[view]
    (draws,) = found["draws"]
    for view, drawn in zip(bank.views, draws.anomalies, strict=True):
        assert drawn.shape == (80, 3)
        for column in range(3):
            assert set(drawn[:, column]) <= set(view[:, column])
        whole_rows = {tuple(row) for row in view}
        assert sum(tuple(row) in whole_rows for row in drawn) < 20
    (domains,) = found["domains"]
    np.testing.assert_array_equal(domains.anomalies[1], bank.views[1][16:])
    np.testing.assert_array_equal(domains.views[1], bank.views[1][:16])
    assert not domains.is_target.any()
    first, second = found["attributes"]
    np.testing.assert_array_equal(first.anomalies[0], bank.views[0][:8])
    np.testing.assert_array_equal(second.anomalies[0], bank.views[0][8:16])
    np.testing.assert_array_equal(second.views[0], bank.views[0][[*range(8), *range(16, 20)]])
    np.testing.assert_array_equal(second.is_target, [False] * 8 + [True] * 4)


def test_trials_that_are_impossible_are_left_out(rng):
    bank = bank_of(rng, targets=0, attributes=("a",) * 20)
    assert by_kind(trials(bank, [], selection.KINDS, seed=0)).keys() == {"draws"}
    few_sources = bank_of(rng, clips=10, targets=6)
    assert by_kind(trials(few_sources, [], ("domains",), seed=0)) == {}


def test_many_clips_are_sampled_by_the_seed(rng):
    bank = bank_of(rng)
    others = [[rng.standard_normal((500, 3)) for _ in range(2)]]
    found = [next(trials(bank, others, ("machines",), seed)).anomalies for seed in (0, 0, 1)]
    assert found[0][0].shape == (200, 3)
    np.testing.assert_array_equal(found[0][1], found[1][1])
    assert not np.array_equal(found[0][0], found[2][0])
    rows = [np.flatnonzero((others[0][0] == row).all(axis=1))[0] for row in found[0][0]]
    for row, chosen in zip(rows, found[0][1], strict=True):  # the same clips in every view
        np.testing.assert_array_equal(others[0][1][row], chosen)


def test_evidence_is_the_mean_auc_of_a_kind(rng):
    bank = bank_of(rng, attributes=("a",) * 10 + ("b",) * 10)

    def candidate(views, is_target, anomalies):
        return views[0][:, 0].astype(float), anomalies[0][:, 0].astype(float)

    some = list(trials(bank, [], ("attributes", "draws"), seed=0))
    expected = {}
    for trial in some:
        scores = np.concatenate([trial.views[0][:, 0], trial.anomalies[0][:, 0]])
        truth = [0] * len(trial.views[0]) + [1] * len(trial.anomalies[0])
        expected.setdefault(trial.kind, []).append(roc_auc_score(truth, scores))
    found = evidence(candidate, some)
    assert found == pytest.approx({kind: np.mean(aucs) for kind, aucs in expected.items()})


def test_of_equal_candidates_the_first_is_chosen():
    assert best([{"draws": 0.5}, {"draws": 0.9}, {"draws": 0.9}]) == 1
    assert best([{"draws": 0.7, "domains": 0.7}, {"draws": 0.9, "domains": 0.4}]) == 0

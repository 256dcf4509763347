"""The members, their standardisation, and leaving recordings out: against brute force."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from asdjax.detector import ensemble
from asdjax.detector.ensemble import Ensemble
from asdjax.detector.features import SpectralFeatures, TrainedFeatures
from asdjax.errors import AsdjaxError
from asdjax.scoring import standardisation


def tables(rng, n, sizes=(5, 3)):
    return {
        f"f{i}": rng.standard_normal((n, size)).astype(np.float32) for i, size in enumerate(sizes)
    }


def scores(reference, points, density):
    """Nearest neighbour, and the smallest distance over local density (K = 2), by brute force."""
    distances = cdist(points, reference)
    if not density:
        return distances.min(axis=1)
    inside = cdist(reference, reference)
    np.fill_diagonal(inside, np.inf)
    local = np.sort(inside, axis=1)[:, :2].mean(axis=1)
    return (distances / local).min(axis=1)


def test_distances_are_those_of_each_member(rng):
    normal, new = tables(rng, 12), tables(rng, 4)
    fitted = Ensemble(normal, SpectralFeatures.backends)
    expected = [scores(normal[f], new[f], d) for f in ("f0", "f1") for d in (False, True)]
    np.testing.assert_allclose(fitted.distances(new), expected, rtol=1e-6)
    assert fitted.members == [
        f"{f}/{b}" for f in ("f0", "f1") for b in ("nearest_neighbours", "rescaled")
    ]


@pytest.mark.parametrize("recordings", ["one each", "one", "several"])
def test_held_out_scores_are_brute_force(rng, recordings):
    normal = tables(rng, 12)
    recording = {
        "one each": np.arange(12),
        "one": np.zeros(12, int),
        "several": np.array([0, 0, 0, 1, 2, 2, 3, 3, 3, 3, 4, 4]),
    }[recordings]
    found = Ensemble(normal, SpectralFeatures.backends).held_out(recording)
    rows = iter(found)
    for feature in ("f0", "f1"):
        for density in (False, True):
            expected = np.empty(12)
            for i in range(12):
                out = recording == recording[i] if recordings == "several" else np.arange(12) == i
                table = normal[feature].astype(np.float64)
                expected[i] = scores(table[~out], table[[i]], density)[0]
            np.testing.assert_allclose(next(rows), expected, rtol=1e-5)


@pytest.mark.parametrize("recording", [np.arange(20), np.repeat(np.arange(10), 2)])
def test_with_a_chosen_bank_each_fold_is_scored_against_a_bank_of_the_others(rng, recording):
    normal = tables(rng, 20)
    fitted = Ensemble(normal, SpectralFeatures.backends, most=7, seed=2)
    assert fitted.bank.sum() == 7
    found, cost = fitted.held_out(recording), []
    for out in range(5):
        left = recording % 5 == out
        rest = {name: table[~left] for name, table in normal.items()}
        bank = ensemble.spread_out(rest, "euclidean", 7, seed=2)
        rows = iter(found)
        for name, table in normal.items():
            reference, points = (t.astype(np.float64) for t in (rest[name][bank], table[left]))
            for density in (False, True):
                expected = scores(reference, points, density)
                np.testing.assert_allclose(next(rows)[left], expected, rtol=1e-5)
            cost.append([expected_distance(points, r) for r in (reference, rest[name])])
    totals = np.array(cost).reshape(5, 2, 2).sum(axis=0)  # folds, features, (bank, all)
    assert fitted.cost_of_bank(recording) == pytest.approx((totals[:, 0] / totals[:, 1]).mean() - 1)


def expected_distance(points, reference):
    return cdist(points, reference).min(axis=1).sum()


def test_no_window_is_compared_with_its_own_recording(rng):
    normal = tables(rng, 12)
    recording = np.repeat(np.arange(4), 3)
    found = Ensemble(normal, SpectralFeatures.backends).held_out(recording)
    table = normal["f0"].astype(np.float64)
    for i in range(12):
        rest = recording != recording[i]
        for row, density in ((0, False), (1, True)):
            (expected,) = scores(table[rest], table[[i]], density)
            np.testing.assert_allclose(found[row, i], expected, rtol=1e-5)


def test_standardised_scores_have_mean_0_and_deviation_1(rng):
    held_out = rng.gamma(2.0, size=(4, 50)) * np.array([[1e-9], [1.0], [1e6], [3.0]])
    found = standardisation.standardised(held_out, standardisation.spreads(held_out))
    np.testing.assert_allclose(found.mean(axis=1), 0, atol=1e-9)
    np.testing.assert_allclose(found.std(axis=1), 1, rtol=1e-9)


def test_equal_scores_do_not_divide_by_zero():
    held_out = np.full((2, 6), 3.0)
    held_out[1] = 0
    assert np.isfinite(
        standardisation.standardised(held_out, standardisation.spreads(held_out))
    ).all()


def test_too_few_windows_are_refused(rng):
    with pytest.raises(AsdjaxError, match="2 normal windows"):
        Ensemble(tables(rng, 2), SpectralFeatures.backends)


@pytest.mark.parametrize("features", [SpectralFeatures, TrainedFeatures])
def test_the_nearest_windows_of_known_ones_are_these_themselves(rng, features):
    normal = tables(rng, 12)
    fitted = Ensemble(normal, features.backends)
    rows, distances = fitted.nearest({name: t[3:6] for name, t in normal.items()}, 2)
    assert rows[:, 0].tolist() == [3, 4, 5]
    assert (distances[:, 0] < 1e-6).all() and (distances[:, 1] > 0.01).all()


def test_a_chosen_bank_covers_the_windows(rng):
    """k-centre: with a window of each cluster, none is far; the seed alone decides."""
    centres = 100 * rng.standard_normal((5, 4))
    points = (centres[np.arange(50) % 5] + 0.1 * rng.standard_normal((50, 4))).astype(np.float32)
    chosen = ensemble.spread_out({"f": points}, "euclidean", 5, seed=1)
    assert sorted(np.flatnonzero(chosen) % 5) == [0, 1, 2, 3, 4]
    again = ensemble.spread_out({"f": points}, "euclidean", 5, seed=1)
    assert np.array_equal(chosen, again)
    assert ensemble.spread_out({"f": points}, "euclidean", 99, seed=0).all()

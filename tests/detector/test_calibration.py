"""Thresholds and p-values of recordings: exact ranks, and the level that they keep."""

import numpy as np
import pytest

from asdjax.detector import calibration
from asdjax.errors import AsdjaxError


def test_ranks_of_one_window():
    scores = np.arange(1.0, 20.0)  # 19 of them
    assert calibration.threshold(scores, 0.9) == 18
    assert calibration.threshold(scores[::-1], 0.5) == 10
    assert calibration.threshold(np.arange(1.0, 10.0), 0.9) == 9  # 0.9 * 10 is not above 9
    assert calibration.p_value(scores, 18.5) == pytest.approx(2 / 20)
    assert calibration.p_value(scores, 18.0) == pytest.approx(3 / 20)
    assert calibration.p_value(scores, 100.0) == pytest.approx(1 / 20)
    assert calibration.p_value(scores, -1.0) == 1


def test_an_alarm_of_one_window_is_a_small_p_value(rng):
    scores = rng.standard_normal(37)
    for level in (0.5, 0.8, 0.9, 0.95):
        threshold = calibration.threshold(scores, level)
        for worst in rng.standard_normal(200) * 2:
            p = calibration.p_value(scores, worst)
            assert (worst > threshold) == (p <= 1 - level + 1e-12)


def test_too_few_scores_are_refused_with_the_number_and_level_that_work():
    for count in (1, 5, 8):
        with pytest.raises(AsdjaxError, match=f"needs 9 normal windows or more, found {count}"):
            calibration.threshold(np.arange(float(count)), 0.9)
        lower = round(count / (count + 1) - 0.005, 2)
        assert calibration.threshold(np.arange(float(count)), max(lower, 0.4)) <= count
    assert calibration.smallest_bank(0.9) == 9 and calibration.smallest_bank(0.95) == 19
    assert calibration.smallest_bank(0.5) == 1


@pytest.mark.parametrize("windows", [1, 2, 6])
def test_the_level_is_kept_on_independent_windows(windows, rng):
    """Over many draws, 1 - level of the normal recordings alarm, up to the rank's rounding."""
    alarms = []
    for _ in range(4000):
        scores = rng.standard_normal(200)
        worst = rng.standard_normal(windows).max()
        alarms.append(worst > calibration.threshold(scores, 0.9, windows))
    assert 0.08 < np.mean(alarms) <= 0.115


def test_thresholds_rise_with_the_number_of_windows_up_to_the_largest_score(rng):
    scores = rng.standard_normal(50)
    thresholds = [calibration.threshold(scores, 0.9, n) for n in range(1, 30)]
    assert thresholds == sorted(thresholds) and thresholds[-1] == scores.max()
    most = calibration.longest_calibrated(50, 0.9)
    rank = np.ceil(round(51 * 0.9 ** (1 / most), 9))
    assert rank <= 50 < np.ceil(round(51 * 0.9 ** (1 / (most + 1)), 9))


def test_p_values_of_several_windows(rng):
    scores = rng.standard_normal(99)
    one = calibration.p_value(scores, 1.5)
    assert calibration.p_value(scores, 1.5, 4) == pytest.approx(1 - (1 - one) ** 4, abs=1e-12)

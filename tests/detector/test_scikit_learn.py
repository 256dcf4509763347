"""scikit-learn's own checks of an estimator, but for those that make no sense for recordings."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from asdjax import Detector

NOT_FOR_SOUND = {
    "check_n_features_in": "recordings may have any length, so there is no number of features",
    "check_n_features_in_after_fitting": "recordings may have any length",
    "check_estimators_dtypes": "its random integers have rows of zeros, which are silence",
    "check_outliers_fit_predict": "a recording that was learned is normal, so none is an outlier",
    "check_outliers_train": "a recording that was learned is normal, so none is an outlier",
    "check_fit1d": "an array [T] is one recording",
    "check_fit2d_predict1d": "an array [T] is one recording",
    "check_classifier_data_not_an_array": "integers that are not int16 have no known full scale",
    "check_fit2d_1sample": "the refusal is a sentence for people and not a ValueError",
}
"""Checks that are left out, with the reason."""

pytestmark = pytest.mark.usefixtures("compiled_fast")


@pytest.mark.filterwarnings("ignore")  # the checks' own data is no sound
@parametrize_with_checks([Detector()], expected_failed_checks=lambda estimator: NOT_FOR_SOUND)
def test_scikit_learn(estimator, check):
    check(estimator)

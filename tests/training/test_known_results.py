"""Computations with known results: right here, and found if they are wrong."""

import numpy as np
import pytest

from asdjax.training import known_results


def test_this_machine_computes_the_known_results():
    found = known_results.compare()
    assert len(found) == 3 and all(one.right for one in found)
    assert all(0 <= one.difference < one.allowed / 10 for one in found)


@pytest.mark.parametrize("factor", [1.01, -1, np.nan])
def test_a_wrong_result_is_found(factor, monkeypatch):
    for name, key in (
        ("_statistics", "spectral statistics"),
        ("_embedding", "embedding of a network"),
        ("_losses", "training steps"),
    ):
        values = np.array(known_results._KNOWN[key])
        wrong = values * (factor if name == "_embedding" else 1)
        monkeypatch.setattr(known_results, name, lambda *_, wrong=wrong: wrong)
    assert [one.right for one in known_results.compare()] == [True, False, True]

"""The search by faiss: beside the exact search, with the share of references that it finds."""

import re

import numpy as np
import pytest

from asdjax.errors import ConfigError, DataError
from asdjax.scoring import backends, inverted_lists
from asdjax.scoring.nearest_neighbours import NearestNeighbours, SmoteConfig

needs_faiss = pytest.mark.skipif(
    not inverted_lists.installed(), reason="faiss-cpu is missing: pip install 'asdjax[faiss]'"
)
CLIPS = 10_100
IS_TARGET = np.arange(CLIPS) < 20


@pytest.fixture
def clips(rng):
    """Training clips of many states, two of each, and new ones."""
    states = rng.normal(size=(CLIPS // 2, 8))
    train = np.repeat(states, 2, axis=0) + rng.normal(0, 0.01, (CLIPS, 8))
    return train.astype(np.float32), rng.normal(size=(50, 8)).astype(np.float32)


def both(train, is_target=IS_TARGET, **settings):
    """The same backend with the exact search and with faiss."""
    settings = {"smote": SmoteConfig(ratio=0.01), **settings}
    exact, faiss = (NearestNeighbours(index=of, **settings) for of in ("exact", "faiss"))
    return backends.fit(exact, train, is_target), backends.fit(faiss, train, is_target)


@needs_faiss
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("squared", [False, True])
def test_scores_of_what_is_found_are_equal_to_the_bit(clips, metric, squared):
    train, new = clips
    exact, faiss = both(train, metric=metric, squared=squared, source_neighbours=2, index_recall=1)
    found = re.search(r"searches (\d+) of (\d+) lists .* finds 100.00% of", faiss.notes[-1])
    assert int(found[1]) < int(found[2]), "not all lists"
    near = exact.score(new) == faiss.score(new)
    assert near.mean() > 0.9
    equal = exact.leave_one_out() == faiss.leave_one_out()
    assert equal.mean() > 0.99


@needs_faiss
def test_what_is_missed_makes_scores_larger(rng):
    train = rng.normal(size=(CLIPS, 64)).astype(np.float32)
    exact, faiss = both(train, index_recall=0.5, target_neighbours=0)
    (percent,) = re.findall(r"finds (\d+\.\d\d)% of", faiss.notes[-1])
    expected, found = exact.leave_one_out(), faiss.leave_one_out()
    assert np.all(found >= expected)
    assert 50 <= float(percent) < 90
    assert abs((found == expected)[~IS_TARGET].mean() - float(percent) / 100) < 0.1


@needs_faiss
def test_with_too_few_in_the_lists_all_are_searched(clips):
    train, new = clips
    exact, faiss = both(train, source_neighbours=500, index_recall=0.5, target_neighbours=0)
    faiss._lists.searched = 1  # of about 40 clips
    np.testing.assert_array_equal(faiss.score(new), exact.score(new))


@needs_faiss
def test_equal_input_gives_equal_scores(clips):
    train, new = clips
    first, second = (both(train)[1] for _ in range(2))
    np.testing.assert_array_equal(first.score(new), second.score(new))
    assert first.notes == second.notes


@needs_faiss
def test_few_are_searched_exactly(clips):
    train, new = clips
    exact, faiss = both(train[:500], IS_TARGET[:500])
    np.testing.assert_array_equal(faiss.score(new), exact.score(new))
    said = "backend.index faiss has no effect on 480 source clips: fewer than 10000 are searched"
    assert [note for note in faiss.notes if note not in exact.notes] == [f"{said} exactly"]


@needs_faiss
def test_values_that_float32_cannot_square(clips):
    with pytest.raises(DataError, match=r"above 1e\+15.*set backend.index to exact"):
        both(clips[0].astype(np.float64) * 1e20, metric="euclidean")


def test_missing_faiss_is_named(clips, monkeypatch):
    monkeypatch.setattr(inverted_lists, "installed", lambda: False)
    with pytest.raises(ConfigError, match=r"pip install 'asdjax\[faiss\]'"):
        both(clips[0][:500], IS_TARGET[:500])


def test_it_is_described():
    said = NearestNeighbours(index="faiss", index_recall=0.95).sentence()
    assert said == (
        "cosine nearest neighbours, of many source clips 95 % or more found for training clips "
        "(faiss)"
    )

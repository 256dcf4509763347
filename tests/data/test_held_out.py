"""Which training clips are held out: shares of the classes, seeds, the order of the files."""

import numpy as np
import pytest

from asdjax.data import held_out
from asdjax.errors import AsdjaxError


def paths(count):
    return [f"fan/train/clip_{i:03d}.wav" for i in range(count)]


def counts(sizes, share, seed=0):
    """Clips that are held out of each class, for classes of these sizes."""
    labels = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    chosen = held_out.choose(paths(len(labels)), labels, share, seed)
    assert (np.diff(chosen) > 0).all()
    return np.bincount(labels[chosen], minlength=len(sizes)).tolist()


@pytest.mark.parametrize(
    ("sizes", "share", "expected"),
    [
        ([10, 20, 30], 0.1, [1, 2, 3]),
        ([10, 20, 30], 0.0, [0, 0, 0]),
        ([15, 15, 15, 15], 0.1, [2, 2, 1, 1]),  # 6 of 60: 1.5 each
        ([14, 11], 0.25, [3, 3]),  # 6 of 25: 3.5 and 2.75, and the larger remainder gets one
        ([1, 100], 0.5, [0, 51]),  # the only clip of its class stays, and another gives one more
        ([2, 2], 0.5, [1, 1]),
        ([1, 3, 1], 0.5, [0, 2, 0]),
        ([10, 10], 0.001, [1, 0]),  # at least one
    ],
)
def test_shares_of_classes(sizes, share, expected):
    assert counts(sizes, share) == expected


def test_the_choice_depends_on_seed_and_path_alone(rng):
    labels = rng.integers(0, 4, 60).astype(np.int32)
    names = np.array(paths(60))
    chosen = {seed: {*names[held_out.choose(names, labels, 0.2, seed)]} for seed in range(5)}
    assert len({frozenset(one) for one in chosen.values()}) == 5
    for seed, expected in chosen.items():
        order = rng.permutation(60)
        again = names[order][held_out.choose(names[order], labels[order], 0.2, seed)]
        assert {*again} == expected and len(again) == 12


def test_every_clip_may_be_chosen(rng):
    labels = np.zeros(10, np.int32)
    seen = np.zeros(10)
    for seed in range(400):
        seen[held_out.choose(paths(10), labels, 0.2, seed)] += 1
    assert seen.sum() == 800 and (abs(seen - 80) < 40).all()  # five standard deviations


def test_classes_of_single_clips_are_refused():
    with pytest.raises(AsdjaxError, match="train.validation: each of the 3 classes has a single"):
        counts([1, 1, 1], 0.1)

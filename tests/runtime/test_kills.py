"""Signals at random moments of verbs that write, in real processes; see support/kills.py.

The slow tests send them to every verb, three times each.
"""

import random

import pytest
from conftest import VARIANTS
from support.kills import VERBS, Kills


@pytest.fixture(scope="module")
def kills(tmp_path_factory):
    return Kills(tmp_path_factory.mktemp("kills"), VARIANTS)


WRITING = "train more", "extract", "embed", "batch run", "synth", "convert beats"
"""Each writes in another way: checkpoints and a log, files of a run, one file, shards, folders."""


@pytest.mark.parametrize(
    ("verb", "seed"),
    [
        *((verb, 0) for verb in WRITING),
        *(pytest.param(verb, n, marks=pytest.mark.slow) for verb in VERBS for n in (1, 2, 3)),
    ],
)
def test_signals(kills, verb, seed):
    assert kills.send(verb, random.Random(f"{verb} {seed}")) == []

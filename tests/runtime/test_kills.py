"""Signals at random moments of every verb, in real processes; see support/kills.py."""

import random

import pytest
from conftest import VARIANTS
from support.kills import VERBS, Kills


@pytest.fixture(scope="module")
def kills(tmp_path_factory):
    return Kills(tmp_path_factory.mktemp("kills"), VARIANTS)


WRITING = (
    "train",
    "train more",
    "run",
    "extract",
    "score",
    "embed",
    "batch run",
    "synth",
    "convert beats",
    "convert asdkit",
)


@pytest.mark.parametrize(
    ("verb", "seed"),
    [
        *((verb, 0) for verb in WRITING),
        *(pytest.param(verb, n, marks=pytest.mark.slow) for verb in VERBS for n in (1, 2, 3)),
    ],
)
def test_signals(kills, verb, seed):
    assert kills.send(verb, random.Random(f"{verb} {seed}")) == []

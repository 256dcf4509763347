"""Spectrograms as text."""

import numpy as np
import pytest

from asdjax.report import terminal


@pytest.mark.parametrize(
    ("encoding", "blocks"),
    [
        ("utf-8", True),
        ("cp437", True),
        ("ascii", False),
        ("latin-1", False),
        (None, False),
        ("x", False),
    ],
)
def test_characters_that_the_encoding_has(encoding, blocks):
    found = terminal.characters(encoding)
    assert ("█" in found) == blocks and found.isascii() != blocks


def test_the_lowest_frequency_is_below_and_the_loudest_is_darkest():
    cells = np.array([[0.0, -60.0, -30.0], [-60.0, -90.0, -60.0]])
    lines = terminal.spectrogram(cells, 1.5, 8000, " .#", (-60, 0))
    assert lines == ["8 kHz |   |", "0 kHz |# .|", "       0 s1.5 s"]


def test_limits():
    loud = np.linspace(-200, 0, 1001).reshape(1, -1)
    assert terminal.limits([loud]) == (-60, 0)
    assert terminal.limits([np.full((2, 2), -50.0)]) == (-56, -50)
    low, high = terminal.limits([np.linspace(-40, -10, 1001).reshape(1, -1)])
    assert (low, high) == (pytest.approx(-38.5), -10)

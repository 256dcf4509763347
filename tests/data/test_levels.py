"""Levels of a channel: of sines, clipping, offsets and silence."""

import numpy as np
import pytest

from asdjax.data import levels
from asdjax.data.levels import measure


@pytest.mark.parametrize("part", [1000, 2**20])
def test_a_sine_with_an_offset(part, monkeypatch):
    monkeypatch.setattr(levels, "_PART", part)
    wave = 0.5 * np.sin(2 * np.pi * np.arange(16000) / 100) + 0.25
    found = measure(wave.astype(np.float32))
    assert found.level_db == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=1e-3)
    assert found.peak_db == pytest.approx(20 * np.log10(0.75), abs=1e-3)
    assert found.offset == pytest.approx(0.25, abs=1e-6) and found.clipped == 0


def test_clipping():
    samples = np.zeros(100, np.int16)
    samples[:5], samples[5:10] = 32767, -32768
    assert measure(samples).clipped == 0.1 and measure(samples).peak_db == 0


def test_silence_and_a_constant():
    silent = measure(np.zeros(10, np.int16))
    assert (silent.level_db, silent.peak_db, silent.offset) == (None, None, 0)
    constant = measure(np.full(10, 0.5, np.float32))
    assert constant.level_db is None and constant.peak_db == pytest.approx(-6.02, abs=0.01)

"""The spectrogram of a few cells: levels, places, and recordings of any length."""

import numpy as np
import pytest

from asdjax.report.overview import spectrogram

RATE = 16000


def tone(hertz, seconds, amplitude=1.0):
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)


@pytest.mark.parametrize("samples", [tone(1000, 3.0), (32767 * tone(1000, 3.0)).astype(np.int16)])
def test_a_sine_of_full_scale_has_0_db(samples):
    cells = spectrogram(samples, 30, 16)
    assert cells.shape == (16, 30)
    assert np.abs(cells[2]).max() < 0.1  # 1 to 1.5 kHz
    assert cells[4:].max() < -60


def test_time_runs_from_left_to_right():
    samples = np.concatenate([tone(7500, 1.0, 0.1), np.zeros(RATE)])
    cells = spectrogram(samples, 20, 8)
    assert np.abs(cells[7, :9] + 20).max() < 0.1
    assert (cells[:, 11:] == -120).all()


@pytest.mark.parametrize("count", [1, 100, 1023, 1024, 1025, 5_000_000])
def test_any_length(count):
    cells = spectrogram(np.ones(count, np.float32) / 2, 7, 5)
    assert cells.shape == (5, 7) and np.isfinite(cells).all()
    assert (cells[0] >= cells[4]).all() and (cells[0] > -100).all()

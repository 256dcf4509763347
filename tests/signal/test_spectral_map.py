"""Averages over areas of spectra and their deviations: against plain NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from asdjax.signal import spectral_map, spectral_statistics

RATE = 16_000


def oracle(wave):
    """Log-mel frames [L, M] in float64."""
    weights = spectral_statistics.mel_bank(1024, RATE, 128)
    window = np.hanning(1025)[:-1]
    window /= np.sqrt(np.sum(window**2))
    if len(wave) < 1024:
        wave = np.pad(wave, (0, 1024 - len(wave)))
    frames = np.lib.stride_tricks.sliding_window_view(wave, 1024)[::512] * window
    return np.log(np.maximum(np.abs(np.fft.rfft(frames)) ** 2 @ weights, 1e-12))


def ranges(bands):
    step = [(i, i + 8) for i in range(0, bands - 7, 4)]
    return [*((i, i + 1) for i in range(bands)), *step, (0, bands)]


def expected(wave):
    frames = oracle(wave)
    over = np.stack([frames[:, a:b].mean(axis=1) for a, b in ranges(frames.shape[1])], axis=1)
    found = [over]
    for count in (4, 16):
        begins = range(0, len(over) - count + 1, count // 2)
        found.append(np.array([over[b : b + count].mean(axis=0) for b in begins]))
    return [*found, over.mean(axis=0, keepdims=True)]


@pytest.mark.parametrize("samples", [16000, 9000, 3000, 700])
def test_averages_and_summary_are_those_of_numpy(rng, samples):
    """Of the clip alone, whatever padding follows."""
    waves = 0.1 * rng.standard_normal((2, 16000))
    waves[0, samples:] = 0
    length = jnp.array([samples, 16000], jnp.int32)
    given = jnp.asarray(waves, jnp.float32)
    found = spectral_map.averages(given, length, sample_rate=RATE)
    summary = np.asarray(spectral_map.summary(given, length, sample_rate=RATE))
    for row, wave in enumerate((waves[0, :samples], waves[1])):
        right = expected(wave)
        for (values, inside), other in zip(found, right, strict=True):
            values = np.asarray(values)[row][np.asarray(inside)[row]]
            assert len(values) == len(other)
            if len(other):
                np.testing.assert_allclose(values, other, atol=2e-3)
        np.testing.assert_allclose(summary[row, 0], right[-1][0], atol=2e-3)
        deviation = np.zeros(right[0].shape[1])
        for i, values in enumerate(right[:-1]):
            deviation = values.std(axis=0) if len(values) > 1 else deviation
            np.testing.assert_allclose(summary[row, i + 1], deviation, atol=2e-3)


def test_ranges_hold_the_frequencies_of_their_bands():
    found = spectral_map.ranges(RATE)
    hertz = [hz for _, hz in spectral_statistics.places(RATE)["bands"]]
    bands = len(hertz) // 2
    assert len(found) == len(ranges(bands))
    for (low, high), (first, last) in zip(found, ranges(bands), strict=True):
        inside = hertz[first:last]
        assert 0 <= low < min(inside) <= max(inside) < high <= RATE / 2


def test_deviations_are_in_units_of_time_and_clips(rng):
    near = np.abs(rng.standard_normal((10, 4, 5))) + 1
    found = [rng.standard_normal((s, 5)) for s in (6, 3, 1, 1)]
    result = spectral_map.deviations(found, near)
    between = near[:, 0].var(axis=0)
    for i, (values, off) in enumerate(zip(found, result, strict=True)):
        within = (near[:, i + 1] ** 2).mean(axis=0) if i < 3 else 0
        spread = np.sqrt(within + between)
        spread = np.maximum(spread, 0.3 * np.median(spread))
        np.testing.assert_allclose(off, (values - near[:, 0].mean(axis=0)) / spread)

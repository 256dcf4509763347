"""The STFT against its definition, written out sample by sample in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import FLOAT64, STFT, relative
from scipy.signal import get_window

from asdjax.errors import AsdjaxError
from asdjax.signal.stft import (
    bins,
    hann,
    inverse_rfft,
    magnitude_spectrogram,
    magnitude_spectrum,
    stft,
)


def oracle(waveform, n_fft, hop, mode="constant"):
    padded = np.pad(waveform, ((0, 0), (n_fft, n_fft)), mode=mode)
    starts = n_fft - n_fft // 2 + hop * np.arange(1 + waveform.shape[1] // hop)
    frames = [padded[:, start : start + n_fft] * get_window("hann", n_fft) for start in starts]
    return np.stack([np.fft.rfft(frame) for frame in frames], axis=-1)


SIZES = [
    (71680, 256, 128),
    (12001, 1024, 512),
    (10007, 400, 160),  # prime length, hop does not divide the window
    (5000, 255, 100),  # odd window, hop divides the length
    (3000, 64, 100),  # gaps between frames
    (700, 512, 512),
    (300, 1024, 512),  # shorter than one window
]


@pytest.mark.parametrize(
    "size, mode",
    [(size, "constant") for size in SIZES] + [(size, "reflect") for size in SIZES[:-1]],
)
def test_stft(size, mode, rng):
    n_samples, n_fft, hop = size
    waveform = rng.standard_normal((2, n_samples))
    expected = oracle(waveform, n_fft, hop, mode)
    compiled = jax.jit(partial(stft, n_fft=n_fft, hop=hop, pad_mode=mode))
    single = compiled(waveform.astype(np.float32))
    assert single.shape == (2, n_fft // 2 + 1, 1 + n_samples // hop)
    assert single.dtype == jnp.complex64
    assert np.max(np.abs(single - expected)) < STFT * np.max(np.abs(expected))
    with jax.enable_x64(True):
        double = compiled(waveform)
    assert np.max(np.abs(np.asarray(double) - expected)) < FLOAT64 * np.max(np.abs(expected))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_magnitude_spectrogram(size, rng):
    n_samples, n_fft, hop = size
    waveform = rng.standard_normal((2, n_samples)).astype(np.float32)
    norm = np.sqrt(np.sum(get_window("hann", n_fft) ** 2))
    value = magnitude_spectrogram(waveform, n_fft=n_fft, hop=hop)
    assert value.dtype == jnp.float32
    assert relative(value, np.abs(oracle(waveform, n_fft, hop)) / norm) < STFT


def test_magnitude_spectrogram_of_white_noise_has_the_level_of_the_noise(rng):
    waveform = 0.3 * rng.standard_normal((4, 100_000)).astype(np.float32)
    for n_fft in 256, 4096:
        power = jnp.square(magnitude_spectrogram(waveform, n_fft=n_fft, hop=n_fft // 2))
        assert float(jnp.mean(power)) == pytest.approx(0.09, rel=0.02)


@pytest.mark.parametrize("n_samples", [1000, 1009, 71681])
def test_magnitude_spectrum(n_samples, rng):
    waveform = rng.standard_normal((3, n_samples)).astype(np.float32)
    value = magnitude_spectrum(waveform)
    assert value.shape == (3, n_samples // 2 + 1)
    assert relative(value, np.abs(np.fft.rfft(waveform.astype(np.float64)))) < STFT


def test_golden_spectrograms(golden):
    reference = golden("multiresnet_io")
    waveform = reference["wave"][:2]
    for i, n_fft in enumerate((256, 1024, 4096)):
        key = f"eval/spec_{i}"
        band = bins(n_fft, 16000, 200, 8000)
        value = magnitude_spectrogram(waveform, n_fft=n_fft, hop=n_fft // 2)[:, band]
        thinned = np.asarray(value).ravel()[:: reference[f"stride/{key}"]]
        assert relative(thinned, reference[key]) < STFT
    thinned = np.asarray(magnitude_spectrum(waveform)).ravel()[:: reference["stride/eval/fft_mag"]]
    assert relative(thinned, reference["eval/fft_mag"]) < STFT


@pytest.mark.parametrize("n_fft", [2, 255, 256, 1000])
def test_hann_is_scipys_periodic_window(n_fft):
    np.testing.assert_allclose(hann(n_fft), get_window("hann", n_fft), rtol=0, atol=1e-15)


def test_bins():
    assert bins(256, 16000, 200, 8000) == slice(4, 129)
    assert bins(1024, 16000, 200, 8000) == slice(13, 513)
    assert bins(4096, 16000, 200, 8000) == slice(52, 2049)
    assert bins(1024, 16000, 15.625, 31.25) == slice(1, 3)  # edges included
    assert bins(255, 16000, 0, 8000) == slice(0, 128)  # an odd transform has no Nyquist bin
    for n_fft, rate, low, high in [(441, 44100, 300, 700), (1000, 48000, 144, 144)]:
        frequency = np.arange(n_fft // 2 + 1) * rate / n_fft
        kept = frequency[bins(n_fft, rate, low, high)]
        assert kept[0] == low and kept[-1] == high


def test_an_empty_band_is_refused():
    with pytest.raises(AsdjaxError, match="n_fft 256 at 16000 Hz lies between 100 and 120 Hz"):
        bins(256, 16000, 100, 120)


@pytest.mark.parametrize("n", [2, 6, 7, 512, 1024])
def test_inverse_transform_of_half_the_length(n, rng, float64):
    signal = rng.normal(size=(2, 3, n))
    compiled = jax.jit(partial(inverse_rfft, n=n))
    found = compiled(np.fft.rfft(signal))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, signal, rtol=0, atol=1e-13)
    single = compiled(np.fft.rfft(signal).astype(np.complex64))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, signal, rtol=0, atol=2e-6)

"""Dasheng's spectrogram: torchaudio's, an oracle in float64, and padding."""

import jax
import numpy as np

from asdjax.signal.mel_decibels import frames, mel_bank, mel_decibels, samples


def oracle(wave):
    """Frame by frame and band by band, in double precision."""
    wave = np.asarray(wave, np.float64)
    count = len(wave) // 160 + 1
    mel_top = 2595 * np.log10(1 + 8000 / 700)
    points = [700 * (10 ** (mel_top * i / 65 / 2595) - 1) for i in range(66)]
    spectrogram = np.zeros((count, 64))
    for frame in range(count):
        cut = np.zeros(512)
        for i in range(512):
            place = 160 * frame - 256 + i
            place = abs(place)
            if place >= len(wave):
                place = 2 * (len(wave) - 1) - place
            cut[i] = wave[place] * np.sin(np.pi * i / 512) ** 2
        power = np.abs(np.fft.fft(cut)[:257]) ** 2
        for band in range(64):
            low, middle, high = points[band : band + 3]
            energy = 0.0
            for k in range(257):
                hertz = k * 31.25
                if low < hertz <= middle:
                    energy += power[k] * (hertz - low) / (middle - low)
                elif middle < hertz < high:
                    energy += power[k] * (high - hertz) / (high - middle)
            spectrogram[frame, band] = 10 * np.log10(max(energy, 1e-10))
    return np.maximum(spectrogram, spectrogram.max() - 120)


def test_it_is_torchaudios(golden):
    io = golden("dasheng_tiny_io")
    found, expected = np.asarray(mel_decibels(io["n20000/wave"])), io["n20000/decibels"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    energies, largest = 10.0 ** (expected / 10), 10.0 ** (expected.max() / 10)
    np.testing.assert_allclose(10.0 ** (found / 10), energies, rtol=0, atol=1e-5 * largest)


def test_oracle_in_float64(rng, float64):
    wave = 0.1 * rng.standard_normal(2000)
    wave[600:1300] = 0
    np.testing.assert_allclose(mel_decibels(wave[None])[0], oracle(wave), rtol=0, atol=1e-8)


def test_a_loud_clip_hides_what_is_120_decibels_lower(float64):
    wave = np.zeros(3200)
    wave[:800] = np.sin(np.arange(800))
    found = np.asarray(mel_decibels(wave[None])[0])
    assert found.min() == found.max() - 120 > -100
    np.testing.assert_allclose(found, oracle(wave), rtol=0, atol=1e-8)


def test_padding_has_no_influence(rng):
    lengths = np.array([480, 1111, 2400], np.int32)
    waves = [rng.normal(0, 0.1, n).astype(np.float32) for n in lengths]
    rows = np.full((3, 3000), 0.7, np.float32)
    for row, wave in zip(rows, waves, strict=True):
        row[: len(wave)] = wave
    together = jax.jit(mel_decibels)(rows, lengths)
    for row, wave in zip(np.asarray(together), waves, strict=True):
        alone = mel_decibels(wave[None])[0]
        np.testing.assert_allclose(row[: len(alone)], alone, rtol=0, atol=1e-4)


def test_numbers_of_frames():
    assert [frames(n) for n in (480, 639, 640, 16000)] == [4, 4, 5, 101]
    assert [samples(n) for n in (1, 4, 101)] == [257, 480, 16000]
    assert mel_bank().shape == (257, 64) and (mel_bank().sum(axis=0) > 0).all()

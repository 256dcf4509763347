"""Spectral statistics: against an oracle in float64, and independent of padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asdjax.signal.spectral_statistics import FEATURES, mel_bank, places, spectral_statistics

RATE = 16_000


def oracle(wave, rate=RATE):
    """The features of one clip, in NumPy and float64, written from the definitions."""

    def log_mel(n_fft, bands):
        hz = np.arange(n_fft // 2 + 1) * rate / n_fft
        mel = 2595 * np.log10(1 + hz / 700)
        edges = np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), bands + 2)
        bank = np.array([np.interp(mel, edges[b : b + 3], [0, 1, 0]) for b in range(bands)]).T
        used = edges[2:] <= 2595 * np.log10(1 + 0.45 * rate / 700)
        bank = bank[:, (bank.max(axis=0) > 0) & used]
        window = np.sin(np.pi * np.arange(n_fft) / n_fft) ** 2
        window = window / np.linalg.norm(window)
        padded = np.pad(wave, (0, max(0, n_fft - len(wave))))
        begins = range(0, len(padded) - n_fft + 1, n_fft // 2)
        spectra = [np.fft.rfft(padded[b : b + n_fft] * window) for b in begins]
        return np.log(np.maximum(np.abs(spectra) ** 2 @ bank, 1e-12))

    def both(frames):
        return np.concatenate([frames.mean(axis=0), frames.std(axis=0)])

    medium = log_mel(1024, 128)
    frames = medium - medium.mean()
    distance = np.linalg.norm(frames - frames.mean(axis=0), axis=1)
    largest = distance.max()
    weight = (1 + (distance / largest if largest > 1e-8 else 0 * distance)) ** 8
    events = (weight / weight.sum()) @ frames
    found = both(medium), events, both(log_mel(4096, 128)), both(log_mel(256, 32))
    return dict(zip(FEATURES, found, strict=True))


def computed(waves, length, dtype, rate=RATE):
    batch = np.zeros((len(waves), length), dtype)
    for row, wave in enumerate(waves):
        batch[row, : len(wave)] = wave
    lengths = jnp.array([len(wave) for wave in waves], jnp.int32)
    return compiled(jnp.asarray(batch), lengths, sample_rate=rate)


compiled = jax.jit(spectral_statistics, static_argnames="sample_rate")


def clips(rng):
    time = np.arange(RATE) / RATE
    return [
        0.1 * rng.standard_normal(RATE),
        0.5 * np.sin(2 * np.pi * 440 * time) + 1e-3 * rng.standard_normal(RATE),
        0.01 * rng.standard_normal(5000) * (np.arange(5000) % 1000 < 50),
        0.1 * rng.standard_normal(700),  # shorter than the medium window
    ]


@pytest.mark.parametrize("rate", [16_000, 44_100, 8_000])
def test_float64_is_the_oracle(rng, rate):
    with jax.enable_x64(True):
        found = computed(waves := clips(rng), RATE, np.float64, rate)
    for row, wave in enumerate(waves):
        for name, expected in oracle(wave, rate).items():
            np.testing.assert_allclose(found[name][row], expected, rtol=0, atol=1e-8, err_msg=name)


def test_float32_is_near(rng):
    found = computed(waves := clips(rng)[:2], RATE, np.float32)
    for row, wave in enumerate(waves):
        for name, expected in oracle(wave).items():
            assert found[name].dtype == np.float32
            np.testing.assert_allclose(found[name][row], expected, rtol=0, atol=2e-3, err_msg=name)


def test_neither_padding_nor_neighbours_matter(rng):
    waves = clips(rng)
    together = computed(waves, RATE, np.float32)
    for row, wave in enumerate(waves):
        alone = computed([wave], RATE, np.float32)
        for name in FEATURES:
            assert np.array_equal(alone[name][0], together[name][row]), name
    longer = computed(waves, 2 * RATE, np.float32)
    for name in FEATURES:
        np.testing.assert_allclose(longer[name], together[name], rtol=0, atol=1e-4)


def test_all_machines_compute_the_same_clip_by_clip_and_at_once(rng):
    waves = clips(rng)
    batch = np.stack([np.resize(wave, RATE) for wave in waves]).astype(np.float32)
    lengths = jnp.full(len(waves), RATE, jnp.int32)
    found = compiled(jnp.asarray(batch), lengths, sample_rate=RATE)
    from asdjax.signal import spectral_statistics as module

    at_once = jax.jit(jax.vmap(lambda wave, n: module._of_clip(RATE, wave, n)))(batch, lengths)
    for name in FEATURES:
        np.testing.assert_allclose(at_once[name], found[name], rtol=0, atol=1e-3)


def test_silence_and_constants_are_finite():
    waves = [np.zeros(RATE), np.ones(RATE), np.zeros(10)]
    for table in computed(waves, RATE, np.float32).values():
        assert np.isfinite(table).all()


def test_events_ignore_the_level(rng):
    wave = 0.01 * rng.standard_normal(RATE)
    found = computed([wave, 10 * wave], RATE, np.float32)
    np.testing.assert_allclose(found["events"][0], found["events"][1], atol=1e-4)
    np.testing.assert_allclose(
        found["bands"][1, :118] - found["bands"][0, :118], np.log(100), atol=1e-3
    )


def test_every_value_has_a_place():
    found = computed([np.ones(RATE)], RATE, np.float32)
    for name, of_values in places(RATE).items():
        assert len(of_values) == found[name].shape[1]
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    values = np.asarray(computed([tone], RATE, np.float32)["bands"][0])
    means = [i for i, (kind, _) in enumerate(places(RATE)["bands"]) if kind == "mean"]
    loudest = means[int(np.argmax(values[means]))]
    assert abs(places(RATE)["bands"][loudest][1] - 1000) < 20


def test_bands_cover_all_frequencies_below_0_45_of_the_sample_rate():
    bank = mel_bank(4096, RATE, 128)
    hertz = np.arange(len(bank)) * RATE / 4096
    covered = bank.sum(axis=1) > 0
    assert covered[(hertz > 0) & (hertz < 0.43 * RATE)].all() and bank.shape[1] <= 128
    assert not covered[hertz >= 0.45 * RATE].any()

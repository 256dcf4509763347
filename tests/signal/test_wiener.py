"""The calibrated gain: compared with a float64 oracle, and its effect on machine and noise."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
from conftest import STFT, relative
from support.view_oracle import inverse, spectrum

from asdjax.signal import views, wiener
from asdjax.signal.channels import Channels
from asdjax.signal.view_calibrated import Calibrated
from asdjax.signal.view_far import Far
from asdjax.signal.view_wiener import Wiener

VIEW = Calibrated("calibrated", alpha=0.8, beta=0.05, n_fft=256, hop=128, context=5)
make = jax.jit(views.make, static_argnums=0)
RATE = 16000


@partial(jax.jit, static_argnums=0)
def ratios(view, waveform, length):
    return view.observe(Channels(waveform, length))


def batch(clips):
    """Clips [2, T] as one batch."""
    length = np.array([clip.shape[1] for clip in clips], np.int32)
    waveform = np.zeros((len(clips), 2, length.max()), np.float32)
    for row, clip in zip(waveform, clips, strict=True):
        row[:, : clip.shape[1]] = clip
    return waveform, length


def summed(power, context):
    """Sums over `context` frames around each, [F, L]."""
    before = context // 2
    padded = np.pad(power, ((0, 0), (before, context - 1 - before)))
    return np.stack([padded[:, i : i + context].sum(1) for i in range(power.shape[1])], 1)


def oracle_ratios(clip, view):
    near, far = (np.abs(spectrum(c.astype(np.float64), view.n_fft, view.hop)) ** 2 for c in clip)
    return summed(far, view.context) / summed(near, view.context)


@pytest.fixture
def clips(rng):
    return [rng.normal(0, 0.1, (2, t)).astype(np.float32) for t in (4000, 4097, 2000)]


def test_ratios_agree_with_the_oracle(clips):
    waveform, length = batch(clips)
    waveform[:, 1] *= 3  # as recorded, not as levelled
    found, valid = map(np.asarray, ratios(VIEW, waveform, length))
    for clip, values, own in zip(clips, found, valid, strict=True):
        expected = 9 * oracle_ratios(clip, VIEW)[:, VIEW.context // 2 :: VIEW.context]
        assert own.sum() == expected.shape[1]
        assert np.allclose(values[own], expected.T, rtol=1e-4)


def test_silent_clips_calibrate_nothing(clips):
    waveform, length = batch(clips)
    waveform[0, 0], waveform[1, 1] = 0, 0
    _, valid = ratios(VIEW, waveform, length)
    assert list(np.asarray(valid).any(axis=1)) == [False, False, True]


def test_view_agrees_with_the_oracle(clips, rng):
    waveform, length = batch(clips)
    low = rng.uniform(0.2, 0.8, 129).astype(np.float32)
    calibration = np.stack([low, low + rng.uniform(0, 2, 129).astype(np.float32)])
    sounds, facts = make((VIEW,), waveform, length, {"calibrated": calibration})
    for i, clip in enumerate(clips):
        share = (oracle_ratios(clip, VIEW) - calibration[0][:, None]) / (
            calibration[1] - calibration[0]
        )[:, None]
        gain = np.clip(1 - VIEW.alpha * np.clip(share, 0, 1), VIEW.beta, 1)
        near = spectrum(clip[0].astype(np.float64), VIEW.n_fft, VIEW.hop)
        expected = inverse(gain * near, VIEW.n_fft, VIEW.hop, clip.shape[1])
        assert relative(sounds[0, i, : length[i]], expected) < 10 * STFT  # ratios divide
        assert facts["gain"][0, i] == pytest.approx(gain.mean(), rel=1e-4)


def test_gain_is_bounded_and_alpha_0_is_the_identity(clips):
    waveform, length = batch(clips)
    calibration = np.stack([np.full(129, 0.9, np.float32), np.full(129, 0.9001, np.float32)])
    for alpha in (0.0, 1.0, 100.0):
        view = dataclasses.replace(VIEW, alpha=alpha, beta=0.3)
        sounds, facts = make((view,), waveform, length, {"calibrated": calibration})
        assert np.all(facts["gain"] >= 0.3) and np.all(facts["gain"] <= 1)
        if alpha == 0:
            assert relative(sounds[0], waveform[:, 0]) < STFT


@pytest.mark.parametrize("silent", [0, 1])
def test_silence_is_safe(clips, silent):
    waveform, length = batch(clips)
    waveform[:, silent] = 0
    calibration = np.stack([np.full(129, 0.5, np.float32), np.full(129, 2.0, np.float32)])
    sounds, _ = make((VIEW,), waveform, length, {"calibrated": calibration})
    assert relative(sounds[0] + 1, waveform[:, 0] + 1) < STFT


def test_without_contrast_the_gain_is_1(clips):
    waveform, length = batch(clips)
    flat = np.ones((2, 129), np.float32)
    sounds, _ = make((VIEW,), waveform, length, {"calibrated": flat})
    assert relative(sounds[0], waveform[:, 0]) < STFT


def machine_in_noise(rng, seconds=4):
    """A steady line at 1 kHz, louder far than near, and bursts of noise, louder far too."""
    time = np.arange(seconds * RATE) / RATE
    line = np.sin(2 * np.pi * 1000 * time + rng.uniform(0, 6))
    loudness = np.repeat(rng.uniform(0, 1, seconds * 2) < 0.5, RATE // 2)
    noise = rng.normal(0, 0.3, (2, len(time))) * loudness + rng.normal(0, 0.003, (2, len(time)))
    return np.stack([line + noise[0], 1.5 * line + 2 * noise[1]]).astype(np.float32) / 8


def test_a_line_that_leaks_is_kept_where_the_wiener_gain_removes_it(rng):
    view = Calibrated("calibrated", beta=0.05)
    strong = Wiener("strong")
    training = batch([machine_in_noise(rng) for _ in range(12)])
    values, valid = map(np.asarray, ratios(view, *training))
    calibration = view.learned(values[valid])
    bin_1k = 1000 * 1024 // RATE
    assert calibration[0][bin_1k] == pytest.approx(1.5**2, rel=0.1)
    test = batch([machine_in_noise(rng) for _ in range(4)])
    sounds, _ = make((view, strong), *test, {"calibrated": calibration})

    def level(sound, low, high):
        power = np.abs(np.fft.rfft(sound, axis=-1)) ** 2
        hz = np.fft.rfftfreq(sound.shape[-1], 1 / RATE)
        return power[:, (hz > low) & (hz < high)].sum()

    near = test[0][:, 0]
    kept = [level(np.asarray(s), 990, 1010) / level(near, 990, 1010) for s in sounds]
    noise = [level(np.asarray(s), 2000, 7000) / level(near, 2000, 7000) for s in sounds]
    assert kept[0] > 0.8 and kept[1] < 0.1
    assert noise[0] < 0.6


def test_calibration_of_a_machine_that_never_pauses(rng):
    """Where only the machine is seen, the environment's ratio is that of the neighbours."""
    environment = rng.uniform(3.8, 4.2, 513)
    machine = np.full(513, 0.5)
    share = rng.uniform(0, 1, (400, 513))
    share[:, 200:203] = 0  # the machine's own lines
    values = machine + (environment - machine) * share
    low, high = wiener.calibrate(values)
    assert np.allclose(low, 0.5 + 0.1 * (environment - 0.5) * (share.max(0) > 0), atol=0.3)
    assert np.all(high[200:203] > 3)


FAR = (Far("far"),)


def facts(waveform):
    length = np.full(len(waveform), waveform.shape[2], np.int32)
    return {name: np.asarray(value) for name, value in make(FAR, waveform, length)[1].items()}


def test_a_constant_offset_does_not_spoil_the_correlation(rng):
    sound = rng.normal(0, 1, (4, 2, 160000))
    waveform = (np.round((0.1 + 1e-3 * sound) * 32768) / 32768).astype(np.float32)
    expected = [np.corrcoef(w.astype(np.float64))[0, 1] for w in waveform]
    assert np.allclose(facts(waveform)["correlation"], expected, atol=1e-4)


def test_a_clip_with_one_nonzero_sample_is_not_silent():
    waveform = np.zeros((4, 2, 16000), np.float32)
    waveform[0, 0, 5] = waveform[1, 1, 5] = waveform[2, :, 5] = 2.0**-15
    silent = facts(waveform)["silent"]
    assert silent.tolist() == [[False, True], [True, False], [False, False], [True, True]]


def test_a_lag_is_reported_only_if_its_peak_is_clear(rng):
    unrelated = rng.normal(0, 0.05, (180, 2, 16000)).astype(np.float32)
    assert np.isnan(facts(unrelated)["lag"]).mean() > 0.98
    source = rng.normal(0, 0.05, (20, 16200))
    for delay in (17, -5):
        own = rng.normal(0, 0.03, (20, 2, 16000))
        heard = own + np.stack([source[:, 100:16100], source[:, 100 - delay : 16100 - delay]], 1)
        assert np.all(facts(heard.astype(np.float32))["lag"] == delay)


@pytest.mark.parametrize("silent", [[0], [1], [0, 1]])
def test_frames_of_digital_silence_do_not_calibrate(rng, silent):
    view, t = Calibrated("c"), 64000
    environment, machine = 0.05 * rng.standard_normal((2, 8, t))
    machine = machine * (np.arange(t) // 8000 % 2)
    sounds = [machine + 0.5 * environment, 0.2 * machine + environment]
    waveform, length = np.stack(sounds, 1).astype(np.float32), np.full(8, t, np.int32)

    def calibration():
        values, valid = map(np.asarray, ratios(view, waveform, length))
        return view.learned(values[valid])

    expected = np.median(calibration(), axis=1)
    waveform[:, silent, : t // 5] = 0
    assert np.allclose(np.median(calibration(), axis=1), expected, rtol=0.3)

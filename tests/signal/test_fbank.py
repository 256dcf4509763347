"""The filterbank, compared with torchaudio's arrays and with its definition in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asdjax.errors import AsdjaxError
from asdjax.signal.fbank import HANN, fbank, frames, mel_bank, normalised, window

SIGNALS = [
    "silence", "impulse", "impulse_first_sample", "full_scale_sine_1k", "full_scale_square_200",
    "full_scale_noise", "dc_offset", "dc_plus_noise", "one_lsb_noise", "nyquist", "low_30hz",
    "chirp", "half_silent", "machine",
]  # fmt: skip
FLOOR = np.float32(np.log(np.finfo(np.float32).eps))
EVERYWHERE, PURE_TONE = 2e-3, {"full_scale_sine_1k": 1.5e-2, "low_30hz": 9e-3}
LOUD_TONES = {"nyquist", "chirp"}  # their far bands hold the rounding of the transform
NEAR = 14  # nats below a frame's loudest band

single = jax.jit(fbank)


def double(waveform):
    with jax.enable_x64(True):
        return np.asarray(single(np.asarray(waveform, np.float64)))


def oracle(waveform):
    """The definition in float64, frame by frame, on the float32 mel bank."""
    result = []
    for clip in np.asarray(waveform, np.float64) * 32768:
        rows = np.lib.stride_tricks.sliding_window_view(clip, 400)[::160]
        rows = rows - rows.mean(1, keepdims=True)
        before = np.concatenate([rows[:, :1], rows[:, :-1]], axis=1)
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)
        spectrum = np.fft.rfft((rows - 0.97 * before) * hann**0.85, 512)[:, :256]
        energy = np.abs(spectrum) ** 2 @ mel_bank().astype(np.float64)
        result.append(np.log(np.maximum(energy, 2.0**-23)))
    return np.stack(result)


def on_grid(waveform):
    """Rounded to 16 bits."""
    return np.round(np.clip(waveform, -1, 1 - 2**-15) * 32768).astype(np.float32) / 32768


def test_a_hann_window_and_samples_within_1_are_those_of_ast_and_eat(golden):
    for name, mean, std in (("ast", -4.2677393, 4.5689974), ("eat", -4.268, 4.569)):
        io = golden(f"{name}_tiny_io")
        found = normalised(fbank(io["n20000/wave"], HANN), mean, std)
        np.testing.assert_allclose(found, io["n20000/fbank"], rtol=0, atol=1e-4)


def test_mel_bank(golden):
    reference = golden("fbank")
    bank = mel_bank()
    np.testing.assert_array_equal(bank.T, reference["mel_banks"])
    assert bank.dtype == np.float32
    assert not np.any(bank[:, 3])


def test_window(golden):
    np.testing.assert_allclose(window(), golden("fbank")["povey_window"], rtol=0, atol=2e-7)
    assert window()[0] == window()[-1] == 0


@pytest.mark.parametrize("name", SIGNALS)
def test_golden(golden, name):
    g = golden("fbank")
    waveform, exact = g[f"sig/{name}/wave"][None], g[f"sig/{name}/fbank_f64"][None]
    np.testing.assert_allclose(double(waveform), exact, rtol=0, atol=1e-6)  # stored as float32

    value, reference = np.asarray(single(waveform)), g[f"sig/{name}/fbank"][None]
    assert value.dtype == np.float32
    np.testing.assert_array_equal(value == FLOOR, reference == FLOOR)
    # against the reference in float32, which has rounding of its own, near the loudest band
    near = reference > reference.max(axis=2, keepdims=True) - NEAR
    np.testing.assert_allclose(value[near], reference[near], rtol=0, atol=EVERYWHERE)
    near_norm = g[f"sig/{name}/normalised"][None][near]
    np.testing.assert_allclose(normalised(value)[near], near_norm, rtol=0, atol=1e-4)
    if name not in LOUD_TONES:
        atol = PURE_TONE.get(name, EVERYWHERE)
        np.testing.assert_allclose(value, exact, rtol=0, atol=atol)
        if name != "full_scale_sine_1k":  # there the reference is itself 1.5e-2 away
            np.testing.assert_allclose(value, reference, rtol=0, atol=atol)


@pytest.mark.parametrize("samples", [400, 559, 560, 16000])
def test_golden_lengths(golden, samples):
    g = golden("fbank")
    value = single(g[f"len/{samples}/wave"][None])
    assert value.shape == (1, frames(samples), 128)
    np.testing.assert_allclose(value[0], g[f"len/{samples}/fbank"], rtol=0, atol=EVERYWHERE)


def test_golden_batch(golden):
    g = golden("beats_tiny_io")
    value = normalised(single(g["n16000/wave"]))
    np.testing.assert_allclose(value, g["n16000/fbank_norm"], rtol=0, atol=EVERYWHERE / 13)


# batches of fewer, as many and more clips than are computed at once
@pytest.mark.parametrize("clips, samples", [(1, 400), (3, 719), (4, 720), (8, 1001), (9, 879)])
def test_shapes(clips, samples, rng):
    check(0.3 * rng.standard_normal((clips, samples)))


@pytest.mark.parametrize("clips", [1, 5])
def test_an_accelerator_takes_all_clips_at_once(clips, rng, monkeypatch):
    waveform = on_grid(0.3 * rng.standard_normal((clips, 2000)))
    expected = single(waveform)
    traced = jax.jit(fbank).trace(waveform)
    for platform in "cpu", "cuda", "rocm", "tpu":  # the program's own, whatever JAX's default is
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("while" in text) == (platform == "cpu")
    monkeypatch.setattr(
        jax.lax, "platform_dependent", lambda waveform, *, default, **others: default(waveform)
    )
    program = jax.jit(lambda w: fbank(w))  # a program of its own
    assert "while" not in program.lower(waveform).as_text()
    np.testing.assert_allclose(program(waveform), expected, rtol=0, atol=2e-5)


@given(
    offset=st.floats(-0.5, 0.5),
    tone=st.floats(20, 7900),
    loudness=st.sampled_from([0, 1e-2, 0.4]),
    noise=st.sampled_from([0, 1e-3, 1e-2, 0.1]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=50)
def test_definition(offset, tone, loudness, noise, seed):
    rng = np.random.default_rng(seed)
    hum = np.sin(2 * np.pi * tone * np.arange(1500) / 16000)
    check(offset + loudness * hum + noise * rng.standard_normal((1, 1500)))


def check(waveform):
    """Compare the filterbank in both precisions with its definition."""
    waveform = on_grid(waveform)
    expected, value = oracle(waveform), np.asarray(single(waveform))
    assert expected.shape == value.shape == (len(waveform), frames(waveform.shape[1]), 128)
    np.testing.assert_allclose(double(waveform), expected, rtol=0, atol=1e-8)
    near = expected > expected.max(axis=2, keepdims=True) - NEAR
    np.testing.assert_allclose(value[near], expected[near], rtol=0, atol=EVERYWHERE)


def test_constants_are_at_the_floor(rng):
    """At any level, representable in 16 bits or not, and at any place in the clip."""
    levels = np.repeat(rng.uniform(-1, 1, (5, 10)).astype(np.float32), 1000, axis=1)
    for waveform, value in ((levels, single(levels)), (on_grid(levels), single(on_grid(levels)))):
        inside = [
            [len(set(clip[160 * i : 160 * i + 400])) == 1 for i in range(value.shape[1])]
            for clip in waveform
        ]
        assert 0.5 < np.mean(inside) < 1
        assert np.all(np.asarray(value)[np.array(inside)] == FLOOR)
        assert np.all(np.max(value, axis=2)[~np.array(inside)] > FLOOR)


def test_padding_does_not_change_the_frames_of_a_clip(rng):
    lengths, row = np.array([400, 559, 560, 3000, 4321, 5000]), 5000
    waveform = on_grid(0.2 * rng.standard_normal((len(lengths), row)))
    value = np.asarray(single(waveform))
    counts = np.asarray(frames(jnp.asarray(lengths)))
    np.testing.assert_array_equal(counts, [1, 1, 2, 17, 25, 29])
    for clip, n, features, count in zip(waveform, lengths, value, counts, strict=True):
        alone = single(clip[None, :n])[0]
        assert len(alone) == count
        np.testing.assert_allclose(features[:count], alone, rtol=0, atol=2e-5)
        assert np.all(np.isfinite(features))


def test_frames():
    expected = {0: 0, 1: 0, 239: 0, 240: 0, 399: 0, 400: 1, 559: 1, 560: 2, 160000: 998}
    for samples, count in expected.items():
        assert frames(samples) == count and isinstance(frames(samples), int)
    several = frames(jnp.asarray(list(expected), jnp.int32))
    assert several.dtype == jnp.int32
    np.testing.assert_array_equal(several, list(expected.values()))


def test_short_and_integer_waveforms_are_refused():
    with pytest.raises(AsdjaxError, match=r"399 samples are too short .* 400 \(0.025 s\)"):
        single(jnp.zeros((2, 399)))
    with pytest.raises(TypeError, match="int16"):
        single(jnp.zeros((2, 400), jnp.int16))

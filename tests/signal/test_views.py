"""The two-channel views, compared with a float64 oracle, and their properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from conftest import STFT, relative
from hypothesis import given, settings
from hypothesis import strategies as st
from support.view_oracle import Clip, inverse, mirrored, spectrum

from asdjax.config.interfaces import View
from asdjax.signal import views
from asdjax.signal.stft import istft, stft
from asdjax.signal.view_cancel import Cancel
from asdjax.signal.view_difference import Difference
from asdjax.signal.view_far import Far
from asdjax.signal.view_raw import RAW
from asdjax.signal.view_wiener import Wiener

pytestmark = pytest.mark.usefixtures("compiled_fast")

DOUBLE = 1e-10  # float64 against the float64 oracle
MILD = Wiener("mild", alpha=0.5, beta=0.05)
STRONG = Wiener("strong", alpha=1.0, beta=0.01)
CANCEL = Cancel("cancel")
FAR = Far("far")
DIFFERENCE = Difference("difference")
NONE = Wiener("none", alpha=0.0)
FLOORED = Wiener("floored", alpha=1000.0, beta=0.2)
CLOSED = Wiener("closed", alpha=1000.0, beta=0.0)
OPEN = Wiener("open", alpha=1.0, beta=1.0)
SIX = (RAW, MILD, STRONG, CANCEL, FAR, DIFFERENCE)
ALL = (*SIX, NONE, FLOORED, CLOSED, OPEN)
LENGTHS = (1, 2, 3, 100, 511, 512, 513, 1023, 1024, 1025, 1536, 5000, 16000, 16001, 48017, 80000)
LSB = 2.0**-15

make = jax.jit(views.make, static_argnums=0)
property_test = settings(max_examples=25)


def channels(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Test sounds float32 [B, 2, T] within full scale."""
    time = np.arange(shape[1]) / 16000
    shared, near, far = 0.1 * rng.standard_normal((3, *shape))
    hum = 0.3 * np.sin(2 * np.pi * 120.5 * time) + 0.1 * np.sin(2 * np.pi * 3001.3 * time + 1)
    if kind == "noise":
        pair = [near, 0.4 * far]
    elif kind == "correlated":
        pair = [near + 0.7 * shared, far - 0.5 * shared]
    elif kind == "tones":  # no noise floor: most bins of channel 1 are next to empty
        pair = [hum + 0 * near, 0.2 * np.sin(2 * np.pi * 450 * time) + 1e-3 * far]
    elif kind == "machine":
        pair = [hum + 0.5 * near + shared, 0.2 * hum + 0.7 * far + np.roll(shared, 7, axis=1)]
    elif kind == "offset":
        pair = [0.2 + near + shared, shared - 0.1]
    elif kind == "clicks":
        pair = [
            near * (np.abs(near) > 0.25) + 1e-4 * shared,
            far * (np.abs(far) > 0.3) + 1e-3 * far,
        ]
    elif kind == "pcm16":
        pair = [np.round(3 * near / LSB) * LSB, np.round(3 * (far + near) / LSB) * LSB]
    elif kind == "one_lsb":
        pair = [np.clip(np.round(10 * near), -1, 1) * LSB, np.clip(np.round(10 * far), -1, 1) * LSB]
    elif kind == "full_scale":
        pair = [np.sign(near + shared), np.sign(far + shared)]
    elif kind == "faint":  # so low that the absolute bound of eps rules
        pair = [1e-10 * near, 1e-10 * (far + near)]
    else:
        raise ValueError(kind)
    # One sample that no kind leaves at zero keeps even the shortest clips from silence.
    sounds = np.clip(np.stack(pair, axis=1), -1, 1)
    sounds[:, :, 0] = np.where(sounds[:, :, 0] == 0, np.abs(sounds).max(axis=2), sounds[:, :, 0])
    return sounds.astype(np.float32)


KINDS = (
    "noise", "correlated", "tones", "machine", "offset", "clicks", "pcm16", "one_lsb",
    "full_scale", "faint",
)  # fmt: skip


def garbled(sounds: np.ndarray, length: np.ndarray, size: float = 1e9) -> np.ndarray:
    """The clips with something else after their ends."""
    beyond = np.arange(sounds.shape[2]) >= length[:, None, None]
    other = size * np.random.default_rng(0).standard_normal(sounds.shape)
    return np.where(beyond, other, sounds).astype(sounds.dtype)


def clips(sounds: np.ndarray, length: np.ndarray) -> list[Clip]:
    return [Clip(*sound[:, :end]) for sound, end in zip(sounds, length, strict=True)]


def conditioned(config: View, length: np.ndarray) -> np.ndarray:
    """Mask of the clips whose view is well-conditioned in float32.

    The mirrored extension of a clip much shorter than a window is periodic. Between the lines of
    its spectrum, `cancel` divides rounding errors by rounding errors. SciPy's float32 and float64
    transforms differ by as much (6e-4 of channel 1 for some clips of 5 samples).
    """
    if config.method != "cancel":
        return np.full(length.shape, True)
    return length >= config.n_fft // 2


def check(configs, sounds, length, tolerance, gain_tolerance):
    """Compare every view of every clip with the oracle, relative to the view's largest value.

    Views of clips of up to three samples may have rounding errors only: for these, relative to the
    largest value of channel 1.
    """
    made, facts = make(configs, garbled(sounds, length), length)
    assert made.shape == (len(configs), len(length), sounds.shape[2])
    assert made.dtype == sounds.dtype
    for name in "gain", "level_db", "correlation":
        assert facts[name].dtype == sounds.dtype
    made, gain = np.asarray(made), np.asarray(facts["gain"])
    assert gain.shape == made.shape[:2]
    faults = []
    for i, clip in enumerate(clips(sounds, length)):
        assert not np.any(made[:, i, length[i] :])
        for j, config in enumerate(configs):
            expected = clip.view(config)
            error = np.max(np.abs(made[j, i, : length[i]] - expected))
            error /= np.max(np.abs(expected if length[i] > 3 else clip.near))
            if not error <= tolerance:
                if tolerance < STFT or conditioned(config, length[i]):
                    faults.append(f"{config.name} of {length[i]} samples: {error:.1e}")
            if config.method == "wiener":
                error = abs(gain[j, i] - clip.gain(config).mean())
                if not error <= gain_tolerance:
                    faults.append(f"gain, {config.name} of {length[i]} samples: {error:.1e}")
            elif config.method == "raw":
                assert gain[j, i] == 1
    assert not faults


# The oracle itself.


def test_mirrored_is_numpys_reflection(rng):
    signal = rng.standard_normal(9)
    np.testing.assert_array_equal(mirrored(signal, 5, 8), np.pad(signal, (5, 8), mode="reflect"))
    np.testing.assert_array_equal(mirrored(signal[:3], 0, 6), signal[[0, 1, 2, 1, 0, 1, 2, 1, 0]])
    np.testing.assert_array_equal(mirrored(signal[:1], 2, 3), np.repeat(signal[:1], 6))


@pytest.mark.parametrize("n_fft, hop", [(1024, 512), (1000, 300), (255, 100), (8, 3)])
def test_oracle_spectrum(n_fft, hop, rng):
    signal = rng.standard_normal(4 * hop + 1)
    frame = 2  # written out: centred on sample 2 hop
    whole = mirrored(mirrored(signal, 0, hop - 1), n_fft, n_fft)
    cut = whole[n_fft + frame * hop - n_fft // 2 :][:n_fft]
    expected = np.fft.rfft(cut * scipy.signal.get_window("hann", n_fft))
    value = spectrum(signal, n_fft, hop)
    assert value.shape == (n_fft // 2 + 1, 6)
    np.testing.assert_allclose(value[:, frame], expected, rtol=0, atol=1e-11)
    np.testing.assert_allclose(inverse(value, n_fft, hop, len(signal)), signal, atol=1e-12)


# The inverse STFT.


@pytest.mark.parametrize(
    "n_fft, hop, count, pad_mode",
    [
        (1024, 512, 1, "reflect"),
        (1024, 512, 9, "reflect"),
        (1024, 512, 9, "constant"),
        (256, 64, 30, "reflect"),
        (1000, 300, 5, "reflect"),
        (255, 100, 1, "reflect"),
        (255, 100, 4, "constant"),
    ],
)
def test_istft_undoes_stft(n_fft, hop, count, pad_mode, rng):
    @jax.jit
    def there_and_back(signal):
        return istft(stft(signal, n_fft=n_fft, hop=hop, pad_mode=pad_mode), n_fft=n_fft, hop=hop)

    signal = rng.standard_normal((2, count * hop))
    single = there_and_back(signal.astype(np.float32))
    assert single.dtype == jnp.float32
    assert relative(single, signal.astype(np.float32)) < STFT
    with jax.enable_x64(True):
        double = there_and_back(signal)
    assert relative(double, signal) < DOUBLE


@pytest.mark.parametrize("n_fft, hop, count", [(8, 4, 5), (8, 3, 6), (9, 4, 4)])
@pytest.mark.parametrize("name", ["hann", "hamming"])
def test_istft_is_the_least_squares_signal(n_fft, hop, count, name, rng, float64):
    window = scipy.signal.get_window(name, n_fft)
    bins = n_fft // 2 + 1
    values = rng.standard_normal((2, bins, count)) + 1j * rng.standard_normal((2, bins, count))
    values[:, 0].imag = 0
    if n_fft % 2 == 0:
        values[:, -1].imag = 0
    # Every frame's windowed samples as a linear function of the padded signal.
    analysis = np.zeros((count, n_fft, n_fft + hop * (count - 1)))
    for i in range(count):
        analysis[i, np.arange(n_fft), i * hop + np.arange(n_fft)] = window
    target = np.fft.irfft(values, n_fft, axis=1).transpose(0, 2, 1).reshape(2, -1)
    padded = np.linalg.lstsq(analysis.reshape(count * n_fft, -1), target.T, rcond=None)[0].T
    expected = padded[:, n_fft // 2 :][:, : hop * (count - 1)]
    given_window = None if name == "hann" else jnp.asarray(window)
    invert = jax.jit(istft, static_argnames=("n_fft", "hop"))
    value = invert(jnp.asarray(values), n_fft=n_fft, hop=hop, window=given_window)
    assert relative(value, expected) < DOUBLE


# The views against the oracle.


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("kind", KINDS)
def test_views(kind, rng):
    length = np.array(LENGTHS, np.int32)
    sounds = channels(kind, (len(length), 80128), rng)
    # In float32 the nearly empty bins of pure tones have powers of which few digits are right;
    # they carry next to no sound but count in the mean of the gain. float64 tests them.
    check(SIX, sounds, length, STFT, 1e-4 if kind == "tones" else STFT)


@pytest.mark.parametrize("kind", KINDS)
def test_views_in_float64(kind, rng, float64):
    length = np.array([1, 2, 3, 100, 511, 512, 513, 1025, 4000, 5000], np.int32)
    sounds = channels(kind, (len(length), 5001), rng).astype(np.float64)
    check(SIX, sounds, length, DOUBLE, DOUBLE)


@pytest.mark.parametrize("n_fft, hop", [(256, 64), (512, 128), (1000, 300), (255, 100)])
def test_other_frames(n_fft, hop, rng, float64):
    configs = (
        Wiener("mild", alpha=0.5, beta=0.05, n_fft=n_fft, hop=hop),
        Cancel("cancel", n_fft=n_fft, hop=hop),
    )
    length = np.array([1, 2, hop - 1, hop, hop + 1, n_fft, n_fft + 1, 2999, 3000, 3001], np.int32)
    sounds = channels("machine", (len(length), 3100), rng).astype(np.float64)
    check(configs, sounds, length, DOUBLE, DOUBLE)


def test_views_with_different_frames_together(rng):
    configs = (
        STRONG,
        Wiener("short", n_fft=256, hop=64),
        Cancel("long", n_fft=4096, hop=1000),
        RAW,
    )
    length = np.array([5, 2500, 5000], np.int32)
    check(configs, channels("machine", (3, 5000), rng), length, STFT, STFT)


@pytest.mark.parametrize("kind", ["noise", "correlated", "machine", "offset", "pcm16"])
def test_level_and_correlation(kind, rng):
    length = np.array([3, 100, 1025, 16000, 20000], np.int32)
    sounds = channels(kind, (len(length), 20000), rng)
    facts = make((RAW,), garbled(sounds, length), length)[1]
    expected = clips(sounds, length)
    level, correlation = ([getattr(c, n) for c in expected] for n in ("level_db", "correlation"))
    np.testing.assert_allclose(facts["level_db"], level, rtol=0, atol=1e-4)
    np.testing.assert_allclose(facts["correlation"], correlation, rtol=0, atol=STFT)


# Properties. Every drawn batch has the same shape and the same views: one program.

SAMPLES = 2100
drawn_lengths = st.lists(st.integers(1, SAMPLES), min_size=4, max_size=4).map(
    lambda values: np.array(values, np.int32)
)
batch = st.tuples(
    st.sampled_from([kind for kind in KINDS if kind != "faint"]),
    st.integers(0, 2**32 - 1),
    drawn_lengths,
).map(lambda t: (channels(t[0], (4, SAMPLES), np.random.default_rng(t[1])), t[2]))


def view(made, config: View) -> np.ndarray:
    return np.asarray(made)[ALL.index(config)]


def peak(sounds: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Largest value of each clip's channel 1, [B, 1]."""
    inside = np.arange(sounds.shape[2]) < length[:, None]
    return np.max(np.abs(sounds[:, 0]) * inside, axis=1, keepdims=True)


def only_clip(sounds: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Channel 1 with zeros after each clip's end."""
    return np.where(np.arange(sounds.shape[2]) < length[:, None], sounds[:, 0], 0)


@given(batch)
@property_test
def test_without_strength_or_with_full_floor_a_view_is_channel_1(drawn):
    sounds, length = drawn
    made, facts = make(ALL, garbled(sounds, length), length)
    expected, size = only_clip(sounds, length), peak(sounds, length)
    np.testing.assert_array_equal(view(made, RAW), expected)
    for config in NONE, OPEN:
        assert np.all(np.abs(view(made, config) - expected) <= STFT * size)
        np.testing.assert_array_equal(facts["gain"][ALL.index(config)], 1)


@given(batch)
@property_test
def test_gain_lies_between_its_floor_and_one(drawn):
    sounds, length = drawn
    gain = np.asarray(make(ALL, sounds, length)[1]["gain"])
    for config in MILD, STRONG, NONE, FLOORED, CLOSED, OPEN:
        mean = gain[ALL.index(config)]
        assert np.all(mean >= config.beta * (1 - 1e-6)) and np.all(mean <= 1)
    assert np.all(gain[ALL.index(MILD)] >= gain[ALL.index(STRONG)])


@given(batch)
@property_test
def test_two_equal_channels_leave_the_floor(drawn):
    sounds, length = drawn
    sounds = np.stack([sounds[:, 0]] * 2, axis=1)
    made, facts = make(ALL, sounds, length)
    size = peak(sounds, length)
    noisy = size[:, 0] > 0
    assert np.all(noisy)
    # Where |X1|^2 is below eps / 999 the gain is larger, but there is nothing to hear.
    for config in FLOORED, CLOSED:
        error = np.abs(view(made, config) - config.beta * only_clip(sounds, length))
        assert np.all(error <= STFT * size)
    for config in CANCEL, DIFFERENCE:
        assert np.all(np.abs(view(made, config)) <= STFT * size)
    assert np.all(np.abs(view(made, FAR) - only_clip(sounds, length)) <= STFT * size)
    np.testing.assert_allclose(facts["level_db"], 0, rtol=0, atol=1e-4)


@given(batch, st.floats(-25, 25), st.booleans())
@property_test
def test_the_level_of_channel_2_does_not_matter(drawn, exponent, negative):
    sounds, length = drawn
    factor = np.float32(10**exponent)
    scaled = sounds * np.array([[[1.0], [-factor if negative else factor]]], np.float32)
    made, facts = make(ALL, sounds, length)
    again, scaled_facts = make(ALL, scaled, length)
    size = peak(sounds, length)
    signed = {FAR, DIFFERENCE} if negative else set()
    for config in set(ALL) - signed:
        same = np.abs(view(again, config) - view(made, config)) <= STFT * size
        assert np.all(same[conditioned(config, length)]), config
    if negative:
        assert np.all(np.abs(view(again, FAR) + view(made, FAR)) <= STFT * size)
    if abs(exponent) <= 6:
        level = facts["level_db"] + np.float32(20 * exponent)
        np.testing.assert_allclose(scaled_facts["level_db"], level, rtol=0, atol=1e-3)


@given(batch, st.floats(-3, 3), st.booleans())
@property_test
def test_a_view_scales_with_the_clip(drawn, exponent, negative):
    sounds, length = drawn
    size = peak(sounds, length)
    # Below 1e-5 the absolute bound of eps may come in, which does not scale.
    factor = np.float32(max(10**exponent, 1e-5 / size.min()) * (-1 if negative else 1))
    made, facts = make(ALL, sounds, length)
    again, scaled_facts = make(ALL, sounds * factor, length)
    for config in ALL:
        error = np.abs(view(again, config) - factor * view(made, config))
        assert np.all((error <= STFT * abs(factor) * size)[conditioned(config, length)]), config
    np.testing.assert_allclose(scaled_facts["level_db"], facts["level_db"], rtol=0, atol=1e-4)


@given(batch)
@property_test
def test_silence_in_either_channel(drawn):
    sounds, length = drawn
    length[:] = np.maximum(length, 2)
    sounds[0, 1], sounds[1, 0], sounds[2] = 0, 0, 0  # channel 2, channel 1, both; none
    made, facts = make(ALL, garbled(sounds, length), length)
    assert np.all(np.isfinite(made)) and np.all(np.isfinite(facts["gain"]))
    told = {name: value for name, value in facts.items() if name != "lag"}  # NaN: none is clear
    assert not any(np.any(np.isnan(value)) for value in told.values())
    assert not np.any(np.asarray(made)[:, 1:3])
    first = only_clip(sounds, length)[0]
    for config in set(ALL) - {FAR}:
        error = np.abs(view(made, config)[0] - first)
        assert np.all(error <= STFT * np.max(np.abs(first))), config
    assert not np.any(view(made, FAR)[0])
    alone = Clip(*sounds[3, :, : length[3]]).view(STRONG)
    assert relative(view(made, STRONG)[3, : length[3]], alone) < STFT


@given(batch)
@property_test
def test_drawn_lengths_against_the_oracle(drawn):
    sounds, length = drawn
    made = make(ALL, garbled(sounds, length), length)[0]
    for i, clip in enumerate(clips(sounds, length)):
        for config in ALL:
            if conditioned(config, length[i]):
                error = np.abs(view(made, config)[i, : length[i]] - clip.view(config))
                assert np.all(error <= STFT * np.max(np.abs(clip.near))), config


# Batches.


def test_padding_does_not_matter(rng):
    length = np.array([1, 700, 2048, 2099], np.int32)
    sounds = channels("machine", (4, SAMPLES), rng)
    clean, facts = make(ALL, garbled(sounds, length, 0.0), length)
    made, garbled_facts = make(ALL, garbled(sounds, length, 1e9), length)
    np.testing.assert_array_equal(made, clean)
    for name in facts:
        np.testing.assert_array_equal(garbled_facts[name], facts[name])


def test_views_do_not_depend_on_row_length_or_other_clips(rng):
    length = np.array([1, 700, 2048, 2100], np.int32)
    sounds = channels("machine", (4, SAMPLES), rng)
    made, facts = make(ALL, sounds, length)
    wider = np.full((4, 2, 4096), 7e8, np.float32)
    wider[:, :, :SAMPLES] = sounds
    again, wider_facts = make(ALL, wider, length)
    assert relative(np.asarray(again)[..., :SAMPLES], made) < 1e-6
    assert not np.any(np.asarray(again)[..., SAMPLES:])
    np.testing.assert_allclose(wider_facts["gain"], facts["gain"], rtol=0, atol=1e-6)
    for i in range(4):
        alone = make(ALL, np.stack([sounds[i]] * 4), np.full(4, length[i], np.int32))[0]
        assert relative(np.asarray(alone)[:, 2], np.asarray(made)[:, i]) < 1e-6


@pytest.mark.parametrize("config", [STRONG, CANCEL, FAR])
def test_views_do_not_depend_on_each_other(config, rng):
    length = np.array([1, 700, 2048, 2100], np.int32)
    sounds = channels("machine", (4, SAMPLES), rng)
    made, facts = make(ALL, sounds, length)
    alone, own = make((config,), sounds, length)
    assert relative(alone[0], view(made, config)) < 1e-6
    np.testing.assert_allclose(own["gain"][0], facts["gain"][ALL.index(config)], atol=1e-6)

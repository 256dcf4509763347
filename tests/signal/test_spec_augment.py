import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asdjax.config.recipe import SpecAugmentConfig
from asdjax.signal import spec_augment

pytestmark = pytest.mark.usefixtures("compiled_fast")


N_SAMPLES, FRAMES = 48240, 300
MASKS = SpecAugmentConfig(probability=0.4, time_width=80, frequency_width=50)


def test_spec_augment_draws():
    size = 20000
    draws = spec_augment.spec_augment_draws(jax.random.key(3), size, N_SAMPLES, MASKS)
    pairs = {
        "time": (draws.time_start, draws.time_width, FRAMES, 80),
        "frequency": (draws.frequency_start, draws.frequency_width, 128, 50),
    }
    there = {}
    for name, (start, width, axis, widest) in pairs.items():
        start, width = np.asarray(start), np.asarray(width)
        assert start.dtype == width.dtype == np.float32 and start.shape == width.shape == (size,)
        assert width.min() == 0 and width.max() < widest
        assert start.min() >= 0 and np.all(start + width <= axis)
        there[name] = mask = width > 0
        assert abs(mask.mean() - 0.4) < 0.02
        quarters = [0.25, 0.5, 0.75]
        np.testing.assert_allclose(np.quantile(width[mask] / widest, quarters), quarters, atol=0.02)
        share = (start / (axis - width))[mask]
        np.testing.assert_allclose(np.quantile(share, quarters), quarters, atol=0.02)
        assert abs(np.corrcoef(share, width[mask])[0, 1]) < 0.04
    assert abs(np.corrcoef(there["time"], there["frequency"])[0, 1]) < 0.03
    assert abs(np.corrcoef(draws.time_start, draws.frequency_start)[0, 1]) < 0.03


def test_spec_augment_draws_depend_on_the_key_alone():
    draws = spec_augment.spec_augment_draws(jax.random.key(3), 64, N_SAMPLES, MASKS)
    traced = jax.jit(lambda key: spec_augment.spec_augment_draws(key, 64, N_SAMPLES, MASKS))(
        jax.random.key(3)
    )
    with jax.enable_x64(True):
        double = spec_augment.spec_augment_draws(jax.random.key(3), 64, N_SAMPLES, MASKS)
    for value, compiled, wide in zip(draws, traced, double, strict=True):
        np.testing.assert_allclose(value, compiled, rtol=1e-6)
        np.testing.assert_array_equal(value, wide)
        assert wide.dtype == np.float32
    other = spec_augment.spec_augment_draws(jax.random.key(4), 64, N_SAMPLES, MASKS)
    assert not any(np.array_equal(a, b) for a, b in zip(draws, other, strict=True))


def test_spec_augment_without_or_with_every_mask():
    key, features = jax.random.key(0), jnp.ones((32, FRAMES, 128))
    never = spec_augment.spec_augment_draws(key, 32, N_SAMPLES, SpecAugmentConfig(probability=0.0))
    np.testing.assert_array_equal(spec_augment.spec_augment(features, never), features)
    always = spec_augment.spec_augment_draws(key, 32, N_SAMPLES, SpecAugmentConfig(probability=1.0))
    assert np.all(always.time_width > 0) and np.all(always.frequency_width > 0)


def test_no_mask_is_wider_than_a_short_clip():
    widest = SpecAugmentConfig(probability=1.0, time_width=1000, frequency_width=128)
    draws = spec_augment.spec_augment_draws(jax.random.key(0), 500, 2000, widest)  # 11 frames
    assert np.all(draws.time_start >= 0)
    assert 10.5 < np.max(draws.time_start + draws.time_width) <= 11
    assert np.max(draws.frequency_start + draws.frequency_width) <= 128


def test_spec_augment_masks(rng):
    """A place i is masked when start <= i < start + width, in either direction."""
    features = rng.normal(size=(5, 30, 128)).astype(np.float32)
    draws = spec_augment.SpecAugmentDraws(
        time_start=np.float32([0, 3.5, 4, 7, 27.2]),
        time_width=np.float32([0, 2.4, 2, 0.5, 2.8]),
        frequency_start=np.float32([0, 0, 100, 5.2, 1]),
        frequency_width=np.float32([0, 1.5, 28, 0.7, 0]),
    )
    expected = features.copy()
    for clip, times, bands in [
        (1, [4, 5], [0, 1]),
        (2, [4, 5], range(100, 128)),
        (3, [7], []),  # 5.2 to 5.9 holds no band
        (4, [28, 29], []),
    ]:
        expected[clip, list(times)] = 0
        expected[clip][:, list(bands)] = 0
    masked = jax.jit(spec_augment.spec_augment)(features, draws)
    np.testing.assert_array_equal(masked, expected)
    assert masked.dtype == np.float32


def test_spec_augment_keeps_the_precision_and_masks_what_is_drawn(rng, float64):
    features = rng.normal(size=(64, FRAMES, 128))
    draws = spec_augment.spec_augment_draws(jax.random.key(9), 64, N_SAMPLES, MASKS)
    masked = np.asarray(spec_augment.spec_augment(jnp.asarray(features), draws))
    assert masked.dtype == np.float64
    time, band = np.arange(FRAMES)[:, None], np.arange(128)[None]
    for i, (t0, t, f0, f) in enumerate(zip(*map(np.asarray, draws), strict=True)):
        hidden = ((t0 <= time) & (time < t0 + t)) | ((f0 <= band) & (band < f0 + f))
        np.testing.assert_array_equal(masked[i], np.where(hidden, 0, features[i]))

    def of_device(rows):
        own = jax.tree.map(lambda a: a[rows], draws)
        return spec_augment.spec_augment(jnp.asarray(features[rows]), own)

    together = np.concatenate([of_device(rows) for rows in np.arange(64).reshape(8, 8)])
    np.testing.assert_array_equal(together, masked)

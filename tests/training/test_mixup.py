import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asdjax.training import mixup

pytestmark = pytest.mark.usefixtures("compiled_fast")


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("group", ["a", "b"])
@pytest.mark.parametrize("key", ["wave", "onehot"])
def test_golden(golden, group, key):
    g = {k.removeprefix(f"{group}/"): v for k, v in golden("mixup").items()}
    draws = mixup.MixupDraws(g["lam"], g["perm"].astype(np.int32), g["dec"] == 1)
    expected = g[f"{key}_mixed"]
    mixed = mixup.mixup(g[key], g[key][g["perm"]], draws.lam, draws.mix)
    np.testing.assert_allclose(mixed, expected, rtol=0, atol=1e-6)
    assert mixed.dtype == np.float32


def test_draws():
    draws = mixup.mixup_draws(mixup.step_key(0, 5), 4000, 0.3)
    np.testing.assert_array_equal(np.sort(draws.partner), np.arange(4000))
    assert (draws.partner != np.arange(4000)).mean() > 0.99
    assert draws.lam.min() >= 0 and draws.lam.max() < 1
    assert len(np.unique(draws.lam)) > 3900
    np.testing.assert_allclose(np.quantile(draws.lam, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], 0.1)
    assert abs(np.mean(draws.mix) - 0.3) < 0.03
    assert abs(np.corrcoef(draws.lam, draws.mix)[0, 1]) < 0.06
    assert not np.any(mixup.mixup_draws(jax.random.key(0), 64, 0.0).mix)
    assert np.all(mixup.mixup_draws(jax.random.key(0), 64, 1.0).mix)


def test_draws_depend_on_seed_and_step_alone():
    def draw(seed, step):
        return mixup.mixup_draws(mixup.step_key(seed, step), 32, 0.5)

    first = draw(7, 11)
    for other in (draw(7, 12), draw(8, 11), draw(11, 7)):
        assert not np.array_equal(first.lam, other.lam)
        assert not np.array_equal(first.partner, other.partner)
        assert not np.array_equal(first.mix, other.mix)
    traced = jax.jit(lambda step: draw(7, step))(11)
    with jax.enable_x64(True):
        double = draw(7, 11)
    for again in (traced, double):
        for a, b in zip(first, again, strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
    for seed in 0, 7, 2**31, 2**32 - 1:
        key = jax.jit(mixup.step_key)(np.uint32(seed), 11)
        assert key == mixup.step_key(seed, 11)


def test_precision_of_the_values(rng, float64):
    values, partners = rng.normal(size=(2, 6, 3, 4))
    draws = mixup.mixup_draws(jax.random.key(1), 6, 1.0)
    mixed = mixup.mixup(jnp.asarray(values), jnp.asarray(partners), draws.lam, draws.mix)
    lam = np.float64(draws.lam)[:, None, None]
    np.testing.assert_allclose(mixed, lam * values + (1 - lam) * partners, rtol=0, atol=1e-12)


def test_integers_are_refused():
    values = jnp.zeros((2, 3), jnp.int16)
    with pytest.raises(TypeError, match="int16"):
        mixup.mixup(values, values, jnp.zeros(2), jnp.ones(2, bool))

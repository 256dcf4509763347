import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import EXACT_METRIC, relative

from asdjax.config.recipe import OptimConfig
from asdjax.training import optim


def numpy_adamw(config, params, gradients):
    """The update rule of torch.optim.AdamW, with the warm-up's rate."""
    m = {k: np.zeros_like(p) for k, p in params.items()}
    v = {k: np.zeros_like(p) for k, p in params.items()}
    b1, b2 = config.betas
    for u, gradient in enumerate(gradients):
        rate = config.learning_rate
        if config.warmup_steps:
            rate *= min(1, u / config.warmup_steps)
        for k, g in gradient.items():
            params[k] = params[k] * (1 - rate * config.weight_decay)
            m[k] = b1 * m[k] + (1 - b1) * g
            v[k] = b2 * v[k] + (1 - b2) * g**2
            root = np.sqrt(v[k]) / np.sqrt(1 - b2 ** (u + 1)) + config.eps
            params[k] = params[k] - rate / (1 - b1 ** (u + 1)) * m[k] / root
        yield {k: p.copy() for k, p in params.items()}


@pytest.mark.parametrize(
    "config",
    [
        OptimConfig(),
        OptimConfig(warmup_steps=4),
        OptimConfig(learning_rate=0.1, weight_decay=0.5, betas=(0.5, 0.9), eps=1e-3),
        OptimConfig(weight_decay=0.0),
    ],
    ids=str,
)
def test_adamw(rng, float64, config):
    start = {"w": rng.normal(size=(4, 3)), "bias": rng.normal(size=3), "scalar": np.array(2.0)}
    gradients = [{k: rng.normal(size=p.shape) for k, p in start.items()} for _ in range(8)]
    for g in gradients:
        g["w"][0] *= 1e-8  # where eps counts
    optimizer = optim.build(config)
    params = jax.tree.map(jnp.asarray, start)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for g, expected in zip(gradients, numpy_adamw(config, dict(start), gradients), strict=True):
        updates, state = update(jax.tree.map(jnp.asarray, g), state, params)
        params = optax.apply_updates(params, updates)
        for name in start:
            assert relative(params[name], expected[name]) < EXACT_METRIC


def test_first_update_of_a_warm_up_changes_nothing(rng):
    optimizer = optim.build(OptimConfig(warmup_steps=5000))
    params = {"w": jnp.asarray(np.float32(rng.normal(size=(3, 2))))}
    updates, state = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["w"], np.zeros((3, 2)))
    updates, _ = optimizer.update(params, state, params)
    assert updates["w"].dtype == np.float32
    rate = np.abs(updates["w"])
    assert (rate > 1.9e-7).all() and (rate < 2.1e-7).all()


def test_learning_rate():
    config = OptimConfig(learning_rate=1e-4, warmup_steps=5000)
    expected = {0: 0.0, 1: 2e-8, 2500: 5e-5, 4999: 9.998e-5, 5000: 1e-4, 10**6: 1e-4}
    for step, rate in expected.items():
        for given in (step, jnp.asarray(step, jnp.int32)):
            result = jax.jit(lambda s: optim.learning_rate(config, s))(given)
            assert result.dtype == np.float32
            np.testing.assert_allclose(result, rate, rtol=1e-6)
    assert float(optim.learning_rate(OptimConfig(), 0)) == pytest.approx(1e-3)


def test_state_is_the_same_tree_with_and_without_a_warm_up():
    params = {"w": jnp.zeros((2, 2))}
    trees = [
        jax.tree.structure(optim.build(OptimConfig(warmup_steps=w)).init(params)) for w in (0, 9)
    ]
    assert trees[0] == trees[1]

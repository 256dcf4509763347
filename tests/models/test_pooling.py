"""Attentive statistics pooling, compared with the reference's arrays and its definition."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import DEVICES_EMBEDDING, DEVICES_GRADIENT, FLOAT64, LAYER, relative, relative_l2
from flax import nnx
from jax import lax

from asdjax.errors import AsdjaxError
from asdjax.models.layers import BatchStat
from asdjax.models.pooling import AttnStatPool, statistics

pytestmark = pytest.mark.usefixtures("compiled_fast")

PLACES = {
    "attention.0": "attention_in",
    "attention.2": "attention_norm",
    "attention.4": "attention_out",
    "last_layer.0": "norm_statistics",
    "last_layer.1": "linear",
    "last_layer.2": "norm_out",
}
LEAVES = {"running_mean": "mean", "running_var": "var"}
NOISE = 1e-3  # gradients that are 0 in exact arithmetic: BatchNorm, softmax take out a constant
ZERO = {
    "eval": {"attention_out.bias"},
    "train": {"attention_out.bias", "norm_statistics.bias", "linear.bias"},
}


def to_tree(arrays, prefix, dtype):
    """The reference's arrays of the pool under `prefix`, nested and named as ours."""
    tree = {ours: {} for ours in PLACES.values()}
    for name, value in arrays.items():
        if not name.startswith(f"{prefix}0.") or name.endswith("num_batches_tracked"):
            continue
        place, leaf = name.removeprefix(f"{prefix}0.").rsplit(".", 1)
        if value.ndim > 1:
            leaf, value = "kernel", value.reshape(value.shape[:2]).T
        elif leaf == "weight":
            leaf = "scale"
        tree[PLACES[place]][LEAVES.get(leaf, leaf)] = value.astype(dtype)
    return tree


def split(pool):
    graphdef, params, stats = nnx.split(pool, nnx.Param, BatchStat)
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def load(reference, dtype):
    """Structure, parameters, statistics of the reference's pool; its last layer; its input."""
    graphdef, params, stats = split(AttnStatPool(64, 4, rng=np.random.default_rng(0)))
    given = to_tree(reference, "state/", dtype)

    def fill(ours):
        return {k: {n: given[k].pop(n) for n in leaves} for k, leaves in ours.items()}

    params, stats = fill(params), fill(stats)
    assert not any(given.values()), "an array of the reference found no place"
    last = reference["state/1.weight"].T, reference["state/1.bias"]
    return graphdef, params, stats, [a.astype(dtype) for a in last], reference["x"].astype(dtype)


@partial(jax.jit, static_argnums=0)
def embed(graphdef, params, stats, x, valid=None):
    return nnx.merge(graphdef, params, stats)(x, train=False, valid=valid)


def random_pool(features=12, hidden=3, dtype=np.float32):
    """A pool with weights and statistics away from their initial values."""
    rng = np.random.default_rng(5)
    graphdef, params, stats = split(AttnStatPool(features, hidden, rng=rng))
    params = jax.tree.map(lambda a: rng.normal(0.3, 0.5, a.shape).astype(dtype), params)
    stats = jax.tree.map(lambda a: rng.uniform(0.5, 2, a.shape).astype(dtype), stats)
    return graphdef, params, stats


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.usefixtures("optimised")
def test_golden(golden, mode, dtype):
    reference, train = golden("attnstatpool"), mode == "train"
    with jax.enable_x64(dtype == np.float64):
        graphdef, params, stats, last, x = load(reference, dtype)

        def loss(params, last, x):
            pool = nnx.merge(graphdef, params, jax.tree.map(jnp.asarray, stats))
            pooled = pool(x, train=train)
            # stated, because GPUs multiply in TensorFloat-32 by default: 4e-4 off
            out = jnp.matmul(pooled, last[0], precision="highest") + last[1][None, :]
            new_stats = nnx.to_pure_dict(nnx.state(pool, BatchStat))
            again = nnx.merge(graphdef, params, jax.tree.map(jnp.asarray, stats))
            weights = again.weights(x, train=train)
            return jnp.sum(jnp.square(out)), (out, new_stats, weights)

        grad = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))
        (grad_params, grad_last, grad_x), (out, new_stats, weights) = grad(params, last, x)
        both = statistics(x, weights)
    assert out.dtype == grad_x.dtype == both.dtype == dtype
    # the reference is itself float32
    assert relative(jnp.swapaxes(weights, 1, 2), reference[f"{mode}/weights"]) < LAYER
    assert relative(both, reference[f"{mode}/mu_sigma"]) < LAYER
    assert relative(out, reference[f"{mode}/out"]) < LAYER
    assert both[0, 64 + 3] == pytest.approx(0.01)  # a constant channel

    assert relative_l2(grad_x, reference[f"{mode}/grad_x"]) < 1e-4
    expected = to_tree(reference, f"{mode}/grad/", dtype)
    for place, leaves in grad_params.items():
        for leaf, value in leaves.items():
            if f"{place}.{leaf}" in ZERO[mode]:
                assert np.max(np.abs(value)) < NOISE
                assert np.max(np.abs(expected[place][leaf])) < NOISE
            else:
                assert relative_l2(value, expected[place][leaf]) < 1e-4, (place, leaf)
    assert relative_l2(grad_last[0].T, reference[f"{mode}/grad/1.weight"]) < 1e-4
    assert relative_l2(grad_last[1], reference[f"{mode}/grad/1.bias"]) < 1e-4

    if train:
        expected = to_tree(reference, "train/new_stats/", dtype)
        for place, leaves in new_stats.items():
            for leaf, value in leaves.items():
                assert relative(value, expected[place][leaf]) < LAYER, (place, leaf)
    else:
        jax.tree.map(np.testing.assert_array_equal, new_stats, stats)


def oracle(x, params, stats):
    """The definition for one clip [L, C] in inference, written out in NumPy."""

    def norm(x, name):
        p, s = params[name], stats[name]
        return (x - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"]

    def linear(x, name):
        return x @ params[name]["kernel"] + params[name]["bias"]

    n = len(x)
    variance = x.var(0, ddof=1) if n > 1 else np.zeros(x.shape[1])
    deviation = np.sqrt(np.maximum(variance, 1e-4))
    whole = np.concatenate([x, np.tile(x.mean(0), (n, 1)), np.tile(deviation, (n, 1))], axis=1)
    hidden = np.tanh(norm(np.maximum(linear(whole, "attention_in"), 0), "attention_norm"))
    share = np.exp(linear(hidden, "attention_out"))
    share /= share.sum(0)
    mean = (share * x).sum(0)
    deviation = np.sqrt(np.maximum((share * x**2).sum(0) - mean**2, 1e-4))
    both = norm(np.concatenate([mean, deviation]), "norm_statistics")
    return norm(linear(both, "linear"), "norm_out")


@pytest.mark.parametrize("length", [1, 2, 7, 50])
def test_definition(length, rng, float64):
    graphdef, params, stats = random_pool(dtype=np.float64)
    x = rng.normal(1, 2, (3, length, 12))
    value = embed(graphdef, params, stats, x)
    expected = np.stack([oracle(clip, params, stats) for clip in x])
    assert relative(value, expected) < FLOAT64


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_padding_does_not_change_the_vector_of_a_clip(dtype, tolerance, rng):
    lengths, row = [1, 2, 9, 24], 24
    with jax.enable_x64(dtype == np.float64):
        pool = partial(embed, *random_pool(dtype=dtype))
        x = rng.normal(1, 2, (len(lengths), row, 12)).astype(dtype)
        valid = np.arange(row)[None] < np.array(lengths)[:, None]
        x[~valid] *= 1e4  # what lies beyond is nothing like the clip, or not even a number
        x[1, 20:] = np.nan
        value = pool(x, valid)
        assert value.dtype == dtype
        alone = [pool(x[i : i + 1, :n])[0] for i, n in enumerate(lengths)]
        assert relative(value, np.stack(alone)) < tolerance
        everything = pool(x[3:], np.ones((1, row), bool))
        assert relative(everything, alone[3][None]) < tolerance

        scattered = rng.permutation(row)  # which tokens count, not where they stand
        value = pool(x[:, scattered], valid[:, scattered])
        assert relative(value, np.stack(alone)) < tolerance


def test_valid_tokens_have_gradients_and_the_others_none(rng):
    pool, x = partial(embed, *random_pool()), rng.normal(size=(2, 6, 12)).astype(np.float32)
    valid = np.arange(6)[None] < np.array([[1], [4]])
    gradient = jax.grad(lambda x: jnp.sum(pool(x, valid)))(x)
    assert np.all(np.isfinite(gradient))
    assert not np.any(np.asarray(gradient)[~valid])
    assert np.all(np.any(np.asarray(gradient)[valid], axis=1))


def test_training_takes_whole_clips_only(rng):
    pool, x = nnx.merge(*random_pool()), rng.normal(size=(2, 6, 12)).astype(np.float32)
    with pytest.raises(AsdjaxError, match="one length"):
        pool(x, train=True, valid=jnp.ones((2, 6), bool))
    with pytest.raises(AsdjaxError, match="batch of one clip"):
        pool(x[:1], train=True)


def test_half_precision_tokens_are_pooled_in_single(rng):
    pool = partial(embed, *random_pool())
    # in bfloat16, whose steps are 0.5 here, means and deviations would be lost
    x = jnp.asarray(rng.normal(100, 1, (3, 200, 12)), jnp.bfloat16)
    value = pool(x)
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, pool(x.astype(jnp.float32)))


def test_eight_devices_equal_one(rng):
    graphdef, params, stats = random_pool()
    x, weights = (rng.normal(size=s).astype(np.float32) for s in [(16, 9, 12), (16, 12)])

    def step(params, stats, x, weights, axis_name=None):
        def loss(params):
            pool = nnx.merge(graphdef, params, stats)
            value = jnp.mean(pool(x, train=True, axis_name=axis_name) * weights)
            return value, nnx.to_pure_dict(nnx.state(pool, BatchStat))

        gradient, new_stats = jax.grad(loss, has_aux=True)(params)
        return (gradient if axis_name is None else lax.pmean(gradient, axis_name)), new_stats

    gradient, new_stats = jax.jit(step)(params, stats, x, weights)
    mapped = jax.pmap(
        lambda *a: step(*a, "clips"),
        axis_name="clips",
        in_axes=(None, None, 0, 0),
        out_axes=(None, None),
    )
    gradient8, stats8 = mapped(params, stats, x.reshape(8, 2, 9, 12), weights.reshape(8, 2, 12))

    def flat(tree):
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])

    assert relative_l2(flat(gradient8), flat(gradient)) < DEVICES_GRADIENT
    assert relative(flat(stats8), flat(new_stats)) < DEVICES_EMBEDDING

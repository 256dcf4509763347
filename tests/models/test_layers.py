"""The shared layers against their definitions, in NumPy and on one and eight devices."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import DEVICES_GRADIENT, LAYER, relative, relative_l2
from flax import nnx
from jax import lax
from numpy.lib.stride_tricks import sliding_window_view

from asdjax.errors import AsdjaxError
from asdjax.models.layers import BatchNorm, BatchStat, Conv, Linear, SqueezeExcitation


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("bias", [False, True])
def test_linear(bias, rng):
    layer, x = Linear(5, 3, bias=bias, rng=np.random.default_rng(0)), normal(rng, 2, 4, 5)
    expected = x @ np.asarray(layer.kernel[...]) + (np.asarray(layer.bias[...]) if bias else 0)
    assert relative(layer(x), expected) < LAYER


@pytest.mark.parametrize("length", [256, 257, 319, 320, 1003])
@pytest.mark.parametrize(
    "window, stride, padding", [(256, 64, 0), (16, 4, 0), (5, 2, 0), (6, 3, 1)]
)
def test_conv_1d(length, window, stride, padding, rng):
    layer = Conv(
        3, 4, (window,), stride=stride, padding=padding, bias=True, rng=np.random.default_rng(0)
    )
    kernel, x = np.asarray(layer.kernel[...]), normal(rng, 2, length, 3)
    padded = np.pad(x, ((0, 0), (padding, padding), (0, 0)))
    windows = sliding_window_view(padded, window, axis=1)[:, ::stride]  # [B, N, C, window]
    expected = np.einsum("bnck,kco->bno", windows, kernel) + np.asarray(layer.bias[...])
    assert relative(layer(x), expected) < LAYER


@pytest.mark.parametrize("stride, padding", [(1, 1), (2, 0), (2, 1)])
def test_conv_2d(stride, padding, rng):
    layer = Conv(3, 4, (3, 5), stride=stride, padding=padding, rng=np.random.default_rng(0))
    kernel, x = np.asarray(layer.kernel[...]), normal(rng, 2, 9, 12, 3)
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = sliding_window_view(padded, (3, 5), axis=(1, 2))[:, ::stride, ::stride]
    expected = np.einsum("bhwckl,klco->bhwo", windows, kernel)
    assert relative(layer(x), expected) < LAYER


@pytest.mark.parametrize("length", [40, 43])
def test_conv_gradients_do_not_depend_on_how_the_stride_is_computed(length, rng):
    layer, x = Conv(3, 4, (16,), stride=4, rng=np.random.default_rng(0)), normal(rng, 2, length, 3)
    graphdef, kernel, weights = nnx.graphdef(layer), layer.kernel[...], normal(rng, *layer(x).shape)

    def ours(kernel, x):
        return jnp.sum(nnx.merge(graphdef, {"kernel": kernel})(x) * weights)

    def strided(kernel, x):
        y = lax.conv_general_dilated(
            x, kernel, (4,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
        )
        return jnp.sum(y * weights)

    pairs = zip(*(jax.grad(f, (0, 1))(kernel, x) for f in (ours, strided)), strict=True)
    assert all(relative(a, b) < LAYER for a, b in pairs)


@pytest.mark.parametrize(
    "layer, fan_in",
    [
        (Linear(400, 300, bias=True, rng=np.random.default_rng(1)), 400),
        (Conv(20, 300, (25,), bias=True, rng=np.random.default_rng(2)), 500),
        (Conv(4, 300, (7, 5), bias=True, rng=np.random.default_rng(3)), 140),
    ],
    ids=["linear", "conv 1-D", "conv 2-D"],
)
def test_initial_weights_are_pytorchs(layer, fan_in):
    bound = 1 / math.sqrt(fan_in)
    for values in layer.kernel[...], layer.bias[...]:
        assert values.dtype == jnp.float32
        assert 0.97 * bound < jnp.max(jnp.abs(values)) <= bound
        assert jnp.std(values) == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert abs(jnp.mean(values)) < 0.15 * bound


def test_squeeze_excitation(rng):
    layer, x = SqueezeExcitation(32, 16, rng=np.random.default_rng(0)), normal(rng, 2, 5, 7, 32)
    squeeze, excite = np.asarray(layer.squeeze.kernel[...]), np.asarray(layer.excite.kernel[...])
    assert squeeze.shape == (32, 2)
    gate = 1 / (1 + np.exp(-np.maximum(x.mean((1, 2)) @ squeeze, 0) @ excite))
    assert relative(layer(x), x * gate[:, None, None]) < LAYER
    assert SqueezeExcitation(8, 16, rng=np.random.default_rng(0)).squeeze.kernel.shape == (8, 1)


def test_batch_norm_learns_the_unbiased_variance(rng):
    layer, x = BatchNorm(4, momentum=0.3, eps=1e-3), 50 + normal(rng, 3, 5, 4)
    mean, var = x.mean((0, 1), np.float64), x.var((0, 1), np.float64)
    assert relative(layer(x, train=True), (x - mean) / np.sqrt(var + 1e-3)) < LAYER
    new_mean, new_var = 0.3 * mean, 0.7 + 0.3 * x.var((0, 1), np.float64, ddof=1)
    assert relative(layer.mean[...], new_mean) < LAYER
    assert relative(layer.var[...], new_var) < LAYER

    before = np.asarray(layer.mean[...])
    assert relative(layer(x, train=False), (x - new_mean) / np.sqrt(new_var + 1e-3)) < LAYER
    np.testing.assert_array_equal(layer.mean[...], before)


def test_batch_norm_with_scale_and_offset(rng):
    layer, x = BatchNorm(4, affine=True), normal(rng, 6, 4)
    plain = np.asarray(layer(x, train=True))
    layer.scale[...], layer.bias[...] = jnp.arange(4.0), jnp.ones(4)
    assert relative(layer(x, train=True), plain * np.arange(4) + 1) < LAYER


def test_batch_norm_refuses_a_single_value():
    with pytest.raises(AsdjaxError, match="train.drop_last"):
        BatchNorm(4)(jnp.ones((1, 4)), train=True)
    assert BatchNorm(4)(jnp.ones((1, 4)), train=False).shape == (1, 4)


def test_batch_norm_over_eight_devices_equals_one(rng):
    class Net(nnx.Module):
        def __init__(self, rng):
            self.conv = Conv(3, 8, (5,), rng=rng)
            self.norm = BatchNorm(8, affine=True)
            self.out = Linear(8, 2, rng=rng)

        def __call__(self, x, axis_name):
            x = self.norm(self.conv(x), train=True, axis_name=axis_name)
            return self.out(jnp.max(jax.nn.relu(x), axis=1))

    graphdef, params, stats = nnx.split(Net(np.random.default_rng(0)), nnx.Param, BatchStat)
    params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
    x, weights = normal(rng, 16, 30, 3) + 2, normal(rng, 16, 2)

    def step(params, stats, x, weights, axis_name=None):
        def loss(params):
            net = nnx.merge(graphdef, params, stats)
            value = jnp.mean(net(x, axis_name) * weights)
            return value, nnx.to_pure_dict(nnx.state(net, BatchStat))

        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        if axis_name is not None:
            value, gradient = lax.pmean((value, gradient), axis_name)
        return value, stats, gradient

    one = jax.jit(step)(params, stats, x, weights)
    eight = jax.pmap(
        lambda *args: step(*args, "data"),
        axis_name="data",
        in_axes=(None, None, 0, 0),
        out_axes=0,
    )(params, stats, x.reshape(8, 2, 30, 3), weights.reshape(8, 2, 2))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        b = np.asarray(b)
        assert b.shape == (8, *a.shape)
        np.testing.assert_array_equal(b, np.broadcast_to(b[:1], b.shape))  # no device differs
        assert relative_l2(b[0], a) < DEVICES_GRADIENT

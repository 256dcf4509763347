"""Operations with custom gradients, compared with the plain operations of JAX."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import relative
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from numpy.lib.stride_tricks import sliding_window_view

from asdjax.models import operations

pytestmark = pytest.mark.usefixtures("compiled_fast")


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def pulled(function, *args):
    """Values and the gradients by all arguments, for the cotangents cos(0), cos(1), ..."""

    def compute(*args):
        value, pull = jax.vjp(function, *args)
        return value, pull(jax.tree.map(cosines, value))

    def cosines(value):
        return jnp.cos(jnp.arange(value.size, dtype=value.dtype)).reshape(value.shape)

    return jax.jit(compute)(*args)


@pytest.mark.parametrize("clips", [1, 8, 19])
@pytest.mark.parametrize("shape, kernel, stride, padding", [
    ((12, 9, 3), (3, 3, 3, 4), 1, 1),
    ((12, 9, 3), (3, 3, 3, 4), 2, 1),
    ((13, 10, 1), (7, 7, 1, 4), 2, 0),
    ((6, 5, 3), (1, 1, 3, 4), 1, 0),
    ((40, 3), (5, 3, 4), 1, 0),
    ((40, 3), (5, 3, 4), 3, 2),
])  # fmt: skip
def test_correlation(rng, float64, clips, shape, kernel, stride, padding):
    x, kernel = (normal(rng, *s).astype(np.float64) for s in ((clips, *shape), kernel))
    axes = len(shape) - 1

    def plain(x, kernel):
        numbers = ("NWC", "WIO", "NWC") if axes == 1 else ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, (stride,) * axes, ((padding, padding),) * axes, dimension_numbers=numbers
        )

    ours = pulled(lambda x, k: operations.correlate(x, k, stride, padding), x, kernel)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(pulled(plain, x, kernel)), strict=True):
        assert a.shape == b.shape and relative(a, b) < 1e-12


@pytest.mark.parametrize("clips, shape, kernel, stride, padding", [
    (3, (12, 9, 3), (3, 3, 3, 4), 1, 1),
    (10, (12, 9, 3), (3, 3, 3, 4), 2, 1),
    (3, (13, 10, 1), (7, 7, 1, 4), 2, 0),
    (3, (40, 3), (5, 3, 4), 1, 0),
])  # fmt: skip
def test_correlation_in_bfloat16(rng, clips, shape, kernel, stride, padding):
    """Operands and results are rounded, also of the gradients, and nothing between them."""
    x, kernel = normal(rng, clips, *shape), normal(rng, *kernel)

    def rounded(a):
        return np.asarray(jnp.asarray(a, jnp.float32).astype(jnp.bfloat16).astype(jnp.float32))

    def correlate(x, k, dtype):
        return operations.correlate(x, k, stride, padding, dtype)

    value, pull = jax.vjp(partial(correlate, dtype="bfloat16"), x, kernel)
    g = normal(rng, *value.shape)
    with jax.enable_x64(True):
        operands = (rounded(a).astype(np.float64) for a in (x, kernel))
        exact, exact_pull = jax.vjp(partial(correlate, dtype="float32"), *operands)
        exact_gradients = exact_pull(jnp.asarray(rounded(g), jnp.float64))
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, exact, rtol=2**-8, atol=1e-6)
    np.testing.assert_array_equal(value, correlate(x, kernel, "bfloat16"))  # without gradients
    assert relative(value, correlate(x, kernel, "float32")) > 1e-4
    for gradient, expected in zip(pull(g), exact_gradients, strict=True):
        assert gradient.dtype == np.float32
        assert relative(gradient, expected) < 2**-8


@settings(max_examples=10)
@given(
    st.integers(1, 40), st.integers(1, 12), st.sampled_from([(1, 3), (2, 2), (4, 1)]),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_grouped_correlation(length, window, shape, seed):
    groups, channels = shape
    rng = np.random.default_rng(seed)
    width = groups * channels
    x = rng.standard_normal((2, length, width)).astype(np.float32)
    weight = rng.standard_normal((window, channels, width)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (window // 2, window), (0, 0)))
    expected = np.zeros_like(x)
    for group in range(groups):
        part = slice(group * channels, (group + 1) * channels)
        for tap in range(window):
            expected[:, :, part] += padded[:, tap : tap + length, part] @ weight[tap, :, part]
    value = jax.jit(operations.grouped_correlate, static_argnums=2)(x, weight, groups)
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "platform, clips", [("cpu", [8, 8, 4]), ("cuda", [20]), ("rocm", [20]), ("tpu", [20])]
)
def test_a_backward_pass_on_a_cpu_is_split_into_groups_of_clips(rng, platform, clips):
    """It depends on the platform that the program is compiled for, not on JAX's default."""
    x, kernel, g = normal(rng, 20, 6, 5, 3), normal(rng, 3, 3, 3, 4), normal(rng, 20, 3, 3, 4)

    @jax.jit
    def gradient(x, kernel, g):
        return jax.vjp(lambda x: operations.correlate(x, kernel, 2, 1), x)[1](g)

    traced = gradient.trace(x, kernel, g)
    program = traced.lower(lowering_platforms=(platform,)).as_text()
    results = [
        line.rsplit("-> tensor<")[-1].split("x")
        for line in program.splitlines()
        if "stablehlo.convolution" in line
    ]
    assert [int(clips) for clips, *shape in results if shape[:3] == ["6", "5", "3"]] == clips


def test_max_pool_takes_the_first_of_equal_maxima(rng):
    for padding, height, width in [(0, 9, 12), (1, 8, 11)]:
        x = np.round(2 * normal(rng, 2, height, width, 3))  # many ties
        padded = np.pad(
            x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=-np.inf
        )
        windows = sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2]
        value, pull = jax.vjp(jax.jit(lambda x, p=padding: operations.max_pool(x, 3, 2, p)), x)
        np.testing.assert_array_equal(value, windows.max((-2, -1)))

        weights = normal(rng, *value.shape)
        expected = np.zeros_like(padded)
        first = windows.reshape(*windows.shape[:-2], 9).argmax(-1)
        for b, h, w, c in np.ndindex(*first.shape):
            row, column = divmod(first[b, h, w, c], 3)
            expected[b, 2 * h + row, 2 * w + column, c] += weights[b, h, w, c]
        inner = slice(padding, -padding or None)
        np.testing.assert_allclose(pull(weights)[0], expected[:, inner, inner], atol=1e-6)


def test_max_pool_keeps_nan():
    x = np.zeros((1, 7, 1), np.float32)
    x[0, 1] = np.nan
    plain = operations.max_pool(x, 3, 2, 0)
    np.testing.assert_array_equal(np.isnan(plain[0, :, 0]), [True, False, False])
    value, _ = jax.vjp(lambda x: operations.max_pool(x, 3, 2, 0), x)
    np.testing.assert_array_equal(value, plain)


@pytest.mark.parametrize("shape", [(2, 11, 3), (2, 9, 8, 3)])
@pytest.mark.parametrize(
    "window, stride, padding", [(3, 2, 1), (2, 2, 0), (4, 3, 1), (2, 3, 0), (5, 1, 2)]
)
def test_max_pool_of_any_window(rng, float64, shape, window, stride, padding):
    x = normal(rng, *shape).astype(np.float64)  # no ties
    axes = x.ndim - 2

    def plain(x):
        sizes, steps = (1, *[window] * axes, 1), (1, *[stride] * axes, 1)
        around = ((0, 0), *[(padding, padding)] * axes, (0, 0))
        return lax.reduce_window(x, -jnp.inf, lax.max, sizes, steps, around)

    value, (gradient,) = pulled(lambda x: operations.max_pool(x, window, stride, padding), x)
    expected, (by_plain,) = pulled(plain, x)
    np.testing.assert_array_equal(value, expected)
    assert relative(gradient, by_plain) < 1e-12

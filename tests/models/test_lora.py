"""Low-rank adaptation against the reference's arrays, and merging."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import BEATS_GRADIENT, BLOCK, GOLDEN, HIDDEN_ATOL, relative, relative_l2
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from support.reference_beats import (
    TINY,
    cosine,
    draws,
    features,
    jit,
    load,
    paths,
    reference_name,
    run,
)

from asdjax.config.beats_architecture import LoRAConfig
from asdjax.convert import torch_file
from asdjax.models.lora import LoRALinear, is_adapter, merge
from asdjax.models.mixed_precision import Projection, einsum
from asdjax.models.parameters import divided

CASES = ["r64_linear", "r8_pool", "r128_pool"]


@pytest.fixture(scope="module")
def io(golden):
    return golden("lora_tiny")


@pytest.fixture(scope="module")
def state():
    return torch_file.read(GOLDEN / "beats_tiny.pt")["model"]


def ours(name: str) -> str:
    """The name of an adapter as `reference_name` returns it, from the name in the reference."""
    name = name.split("base_model.model.")[-1].removesuffix(".weight").removesuffix(".default")
    return name.replace("lora_A", "lora_a").replace("lora_B", "lora_b")


def adapted(case, io, state, dtype=np.float32):
    """Structure, weights and settings of a golden case."""
    prefix = f"{case}/peft/"
    adapters = {ours(n.removeprefix(prefix)): a for n, a in io.items() if n.startswith(prefix)}
    assert len(adapters) == 3 * 2 * 2
    lora = LoRAConfig(rank=int(io[f"{case}/r"]))
    return *load(TINY, state | adapters, dtype, lora=lora), lora.alpha / lora.rank


@pytest.mark.parametrize("case", CASES)
def test_features(io, state, case):
    graphdef, params, _ = adapted(case, io, state)
    layers = run(graphdef, params, features(io["wave"]), layers=(1, 2, 3))
    np.testing.assert_allclose(layers[2], io[f"{case}/features"], rtol=0, atol=HIDDEN_ATOL)
    assert relative(layers[0][:, :1], io[f"{case}/x_q_layer0"]) < BLOCK
    if case == "r64_linear":
        for i, layer in enumerate(layers):
            assert relative(layer, io[f"{case}/layer_{i}"]) < BLOCK


def project(io, tokens):
    weight, bias = (
        jnp.asarray(io[f"r64_linear/projection_net/{name}"], tokens.dtype)
        for name in ("weight", "bias")
    )
    return jnp.mean(tokens, axis=1) @ weight.T + bias[None]


def test_gradients(io, state):
    graphdef, params, _ = adapted("r64_linear", io, state)
    x = features(io["wave"])

    @jit
    def gradient(params):
        def loss(params):
            out = project(io, nnx.merge(graphdef, params)(x)[0])
            return jnp.sum(jnp.square(out)), out

        return jax.grad(loss, has_aux=True)(params)

    gradients, out = gradient(params)
    np.testing.assert_allclose(out, io["r64_linear/out"], rtol=0, atol=2e-5)
    gradients = {reference_name(path): np.asarray(a).T for path, a in paths(gradients).items()}
    prefix = "r64_linear/grad/model."
    names = [name for name in io if name.startswith(prefix)]
    assert len(names) == 2 * 2 * 2
    for name in names:
        assert relative_l2(gradients[ours(name)], io[name]) < BEATS_GRADIENT, name


def test_float64(io, state, float64):
    graphdef, params, _ = adapted("r64_linear", io, state, np.float64)
    out = project(io, run(graphdef, params, features(io["wave"], np.float64))[0])
    assert relative(out, io["r64_linear/out_f64"]) < 1e-7


@pytest.mark.parametrize("case", CASES)
def test_merge(io, state, case):
    graphdef, params, scale = adapted(case, io, state)
    merged = merge(params, scale)
    kernel = merged["encoder"]["layers"][0]["self_attn"]["q_proj"]["kernel"]
    assert kernel.dtype == np.float32
    assert relative(kernel.T, io[f"{case}/merged/layers.0.q_proj.weight"]) < 1e-6
    plain, base = load(TINY, state)
    assert jax.tree.structure(merged) == jax.tree.structure(base)
    x = features(io["wave"])
    embeddings = [
        np.mean(run(*model, x)[0], axis=1)
        for model in ((plain, merged), (graphdef, params), (plain, base))
    ]
    np.testing.assert_allclose(embeddings[0], embeddings[1], rtol=0, atol=1e-5)
    assert np.abs(embeddings[0] - embeddings[2]).max() > 1e-2


def test_initial_adapters_change_nothing(rng):
    config = LoRAConfig(rank=8, alpha=4.0)
    layer, x = LoRALinear(400, 30, config, rng=rng), rng.standard_normal((2, 5, 400), np.float32)
    base = Projection.__call__(layer, x)
    np.testing.assert_array_equal(layer(x), base)
    a = np.asarray(layer.lora_a[...])
    assert a.shape == (400, 8) and layer.lora_b.shape == (8, 30)
    bound = 1 / np.sqrt(400)
    assert 0.99 * bound < np.abs(a).max() <= bound
    assert abs(a.std() - bound / np.sqrt(3)) < 0.02 * bound
    layer.lora_b[...] = b = rng.standard_normal((8, 30), np.float32)
    np.testing.assert_allclose(layer(x), base + 0.5 * (x @ a) @ b, rtol=0, atol=1e-5)


def test_dropout_is_the_adapters_alone(rng):
    layer = LoRALinear(64, 3, LoRAConfig(rank=2, dropout=0.25), rng=rng)
    x = rng.standard_normal((2, 7, 64), np.float32)
    base = layer(x)  # lora_b is zero
    np.testing.assert_array_equal(layer(x, draws([0, 1])), base)
    layer.lora_b[...] = np.ones((2, 3), np.float32)
    outs = np.stack([layer(x, draws([0, 1], seed)) for seed in range(200)])
    assert np.abs(outs.std(0)).min() > 0.01
    error = np.abs(outs.mean(0) - layer(x)) / (outs.std(0) / np.sqrt(200))
    assert error.max() < 5
    np.testing.assert_array_equal(layer(x), layer(x, None))


def test_bfloat16_rounds_and_adds_in_float32(rng):
    x = rng.standard_normal((3, 9, 512), np.float32)
    config = LoRAConfig(rank=16, alpha=16.0)
    exact, rounded = (
        LoRALinear(512, 40, config, compute_dtype=d, rng=np.random.default_rng(3))
        for d in ("float32", "bfloat16")
    )
    for layer in exact, rounded:
        layer.lora_b[...] = np.random.default_rng(4).standard_normal((16, 40), np.float32)
    y, expected = rounded(x), exact(x)
    assert y.dtype == jnp.float32
    assert 1e-4 < relative_l2(y, expected) < 1e-2

    def bfloat16(a):
        return np.asarray(jnp.asarray(a).astype(jnp.bfloat16).astype(jnp.float32), np.float64)

    product = einsum("ni,io->no", x[0], exact.kernel[...], "bfloat16")
    np.testing.assert_allclose(
        product, bfloat16(x[0]) @ bfloat16(exact.kernel[...]), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    "spec, a, b",
    [
        ("ni,io->no", (40, 24), (24, 33)),
        ("bqhd,bkhd->bhqk", (2, 11, 3, 8), (2, 11, 3, 8)),
        ("bhqk,bkhd->bqhd", (2, 3, 11, 11), (2, 11, 3, 8)),
    ],
)
def test_bfloat16_gradients(rng, spec, a, b):
    """Of every product in the encoder: operands and gradients are rounded, nothing else."""
    a, b = rng.standard_normal(a, np.float32), rng.standard_normal(b, np.float32)
    weights = rng.standard_normal(np.einsum(spec, a, b).shape, np.float32)

    def gradients(compute_dtype):
        def loss(a, b):
            return jnp.sum(einsum(spec, a, b, compute_dtype) * weights)

        return jax.jit(jax.grad(loss, (0, 1)))(a, b)

    for value, exact in zip(gradients("bfloat16"), gradients("float32"), strict=True):
        assert value.dtype == jnp.float32
        assert cosine(np.ravel(value), np.ravel(exact)) > 0.9999
        assert 1e-4 < relative_l2(value, exact) < 1e-2


ARRAYS = st.integers(0, 9).map(lambda n: np.full((2, 2), n, np.float32))
NAMES = st.sampled_from(["kernel", "bias", "lora_a", "lora_b"])
TREES = st.recursive(
    st.dictionaries(NAMES, ARRAYS, min_size=1),
    lambda inner: st.dictionaries(st.sampled_from(["0", "1", "q_proj"]), inner, min_size=1),
)


@settings(max_examples=50)
@given(TREES)
def test_adapters_apart(params):
    adapters, base = (paths(part) for part in divided(params, is_adapter))
    assert adapters.keys() | base.keys() == paths(params).keys()
    assert all(map(is_adapter, adapters)) and not any(map(is_adapter, base))
    for path, value in (adapters | base).items():
        assert value is paths(params)[path]

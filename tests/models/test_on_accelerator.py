"""What only an accelerator can show: its precisions against float32, and cuDNN's attention."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TESTS

from asdjax.config import recipe as configs
from asdjax.config.interfaces import precision_on
from asdjax.models import building, parameters
from asdjax.models.attention import fused_attention

PLATFORM = jax.devices()[0].platform
COSINE = {"tensorfloat32": 0.9999, "bfloat16": 0.999}
"""Least cosine to the embedding in float32."""


def embedded(model, waveform, dtype):
    n_samples = waveform.shape[1]
    model = model.computing_in(dtype)
    graphdef, params, stats = parameters.split(building.build(model, n_samples, 16000, seed=3))
    compiled = jax.jit(partial(parameters.apply, graphdef, train=False))
    return compiled(params, stats, waveform)[0]


@pytest.mark.parametrize("recipe", ["tiny.yaml", "tiny_beats.yaml"])
@pytest.mark.parametrize("dtype", COSINE)
def test_embeddings_in_a_lower_precision(rng, recipe, dtype):
    """On CPUs tensorfloat32 is float32, and bfloat16 is computed as on a GPU."""
    model = configs.load(str(TESTS / recipe)).model
    waveform = rng.standard_normal((4, 8000)).astype(np.float32) / 9
    exact, found = (embedded(model, waveform, d) for d in ("float32", dtype))
    cosine = jnp.sum(exact * found, axis=1, dtype=float) / (
        jnp.linalg.norm(exact, axis=1) * jnp.linalg.norm(found, axis=1)
    )
    assert (np.asarray(cosine) >= COSINE[dtype]).all()
    rounds = dtype == "bfloat16" or PLATFORM != "cpu"
    assert bool(jnp.any(exact != found)) == rounds


def test_the_default_precision_of_this_platform():
    expected = {"cpu": "float32", "gpu": "tensorfloat32", "tpu": "tensorfloat32"}[PLATFORM]
    assert precision_on(PLATFORM, "auto") == expected


@pytest.mark.skipif(PLATFORM != "gpu", reason="cuDNN's attention needs an NVIDIA GPU")
@pytest.mark.parametrize("gated", [False, True])
def test_cudnns_attention_and_its_gradients(rng, gated):
    """Against the same with separate operations, within the rounding of bfloat16."""
    q, k, v = (rng.standard_normal((2, 64, 4, 64)).astype(np.float32) for _ in range(3))
    bias = 3 * rng.standard_normal((2 if gated else 1, 4, 64, 64)).astype(np.float32)
    valid = np.arange(64) < np.array([[40], [64]])

    def gradients(implementation):
        def loss(q, k, v, bias):
            y = fused_attention(q, k, v, bias, valid, implementation)
            return jnp.sum(jnp.sin(y))

        with jax.numpy_dtype_promotion("standard"):  # JAX's own gradient mixes dtypes
            return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))(q, k, v, bias)

    (value, found), (expected, plain) = gradients("cudnn"), gradients("xla")
    assert float(value) == pytest.approx(float(expected), rel=1e-2)
    for ours, theirs in zip(found, plain, strict=True):
        assert np.abs(theirs).max() > 0
        assert np.abs(ours - theirs).max() < 0.05 * np.abs(theirs).max()


@pytest.mark.skipif(PLATFORM != "gpu", reason="cuDNN's attention needs an NVIDIA GPU")
def test_training_with_cudnns_attention(rng):
    """Every weight of the layers has a gradient, and it points where the plain form's does."""
    recipe = configs.load(str(TESTS / "tiny_beats.yaml")).model
    encoder = dataclasses.replace(recipe.encoder, encoder_embed_dim=128, attention_dropout=0.0)
    waveform = rng.standard_normal((2, 16000)).astype(np.float32) / 9
    found = []
    for fused in False, True:
        model = dataclasses.replace(
            recipe, encoder=encoder, compute_dtype="bfloat16", fused_attention=fused
        )
        module = building.build(model, 16000, 16000, seed=3)
        graphdef, params, stats = parameters.split(module)

        def loss(params, graphdef=graphdef, stats=stats):
            embedding, _ = parameters.apply(graphdef, params, stats, waveform, train=False)
            return jnp.sum(jnp.sin(embedding))

        with jax.numpy_dtype_promotion("standard"):
            found.append(jax.jit(jax.grad(loss))(params))
    plain, fused = ([np.ravel(a) for a in jax.tree.leaves(tree)] for tree in found)
    for a, b in zip(plain, fused, strict=True):
        assert np.any(b != 0) == np.any(a != 0)
    a, b = np.concatenate(plain), np.concatenate(fused)
    assert a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) > 0.99

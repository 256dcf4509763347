"""The references' tiny BEATs: its settings, its arrays in our modules, and compiled calls."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from asdjax.config.beats_architecture import BEATsEncoderConfig
from asdjax.models.beats import BEATs
from asdjax.models.dropout import Draws
from asdjax.signal.fbank import fbank, normalised

TINY = BEATsEncoderConfig(
    encoder_layers=3,
    encoder_embed_dim=64,
    encoder_ffn_embed_dim=128,
    encoder_attention_heads=4,
    embed_dim=48,
)
# compiling is most of what these tests do
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def reference_name(path: tuple) -> str:
    """The name of one of our arrays in the reference's checkpoints, where `lora_*` have none."""
    name = ".".join(str(part) for part in path)
    for ours, theirs in {
        "pos_conv": "pos_conv.0",
        "relative_attention_bias": "layers.0.self_attn.relative_attention_bias.weight",
        ".kernel": ".weight",
        ".scale": ".weight",
    }.items():
        name = name.replace(ours, theirs)
    return name


def paths(params) -> dict[tuple, jax.Array]:
    """The arrays of a tree by their places in it."""
    return {
        tuple(part.key for part in path): value for path, value in jax.tree.leaves_with_path(params)
    }


def take_apart(module):
    """A module's structure, and its weights as nested dictionaries."""
    graphdef, params = nnx.split(module, nnx.Param)
    return graphdef, nnx.to_pure_dict(params)


def load(config, state, dtype=np.float32, **options):
    """A module's structure, and the reference's arrays in the nesting of its weights."""
    graphdef, params = take_apart(BEATs(config, rng=np.random.default_rng(0), **options))

    def given(path, value):
        name = reference_name(tuple(part.key for part in path))
        array, shape = state[name], value.shape
        if name == "patch_embedding.weight":
            array = array.transpose(2, 3, 1, 0)
        elif name.endswith(("weight_g", "grep_a")):
            array = array.reshape(-1)
        elif not name.endswith("relative_attention_bias.weight"):
            array = array.T
        assert array.shape == shape, name
        return np.asarray(array, dtype)

    return graphdef, jax.tree.map_with_path(given, params)


def features(waveform, dtype=np.float32):
    """The normalised filterbank of waveforms."""
    return jit(lambda wave: normalised(fbank(wave)))(waveform.astype(dtype))


def run(graphdef, params, x, valid=None, **options):
    """The tokens, by a compiled program."""
    forward = jit(lambda params, x, valid: nnx.merge(graphdef, params)(x, valid=valid, **options))
    return forward(params, x, valid)


def draws(rows, seed=0):
    """Random draws of a training step, for clips with these numbers."""
    return Draws(jax.random.key(seed), jnp.asarray(rows, jnp.int32))


def cosine(a, b):
    """Cosine similarity along the last axis, in double precision."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.sum(a * b, -1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)

"""Embedders: modules from waveforms [B, T] to embeddings [B, D], used as pure functions.

`build` makes a module, `split` turns it into its structure and plain nested dictionaries of
arrays, and `apply` runs it on them; the latter two go through JAX's own transformations.
"""

from typing import Any, TypeAlias

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from asdjax.architectures import MultiResNetConfig
from asdjax.models.layers import BatchStat
from asdjax.models.multiresnet import MultiResNet

Tree: TypeAlias = dict[str, Any]  # nested, string keys, arrays as leaves


def build(config: MultiResNetConfig, n_samples: int, sample_rate: int, seed: int) -> nnx.Module:
    """Make the embedder that `config.name` names, with initial weights drawn from `seed`.

    Args:
        config: the `model` section of the configuration.
        n_samples: length of every clip, samples.
        sample_rate: hertz.
        seed: of the initial weights, which are float32.

    Raises:
        AsdjaxError: the embedder cannot process clips of this length.
    """
    kinds = {"multiresnet": MultiResNet}
    return kinds[config.name](config, n_samples, sample_rate, rng=np.random.default_rng(seed))


def shapes(
    config: MultiResNetConfig, n_samples: int, sample_rate: int
) -> tuple[nnx.GraphDef, Tree, Tree]:
    """What `split(build(...))` gives, with `jax.ShapeDtypeStruct` for arrays; nothing is computed.

    For weights that come from elsewhere: a checkpoint, another toolkit.
    """
    return split(nnx.eval_shape(lambda: build(config, n_samples, sample_rate, seed=0)))


def split(module: nnx.Module) -> tuple[nnx.GraphDef, Tree, Tree]:
    """Take a module apart: its structure, its trainable arrays and its running statistics."""
    graphdef, params, stats = nnx.split(module, nnx.Param, BatchStat)
    return graphdef, _plain(params), _plain(stats)


def apply(
    graphdef: nnx.GraphDef,
    params: Tree,
    stats: Tree,
    waveform: Float[Array, "B T"],
    *,
    train: bool,
    axis_name: str | None = None,
) -> tuple[Float[Array, "B D"], Tree]:
    """Embed clips; pure, so that it may be compiled, differentiated and mapped over devices.

    Args:
        graphdef: structure, from `split`.
        params: trainable arrays, of the waveform's dtype.
        stats: running statistics, of the waveform's dtype.
        waveform: clips, float32 or float64.
        train: whether layers behave as in training.
        axis_name: the `jax.pmap` axis over which the batch is spread, if it is.

    Returns:
        The embeddings, and the running statistics: new ones in training, else those given.
    """
    module = nnx.merge(graphdef, _indexed(params), _indexed(stats))
    embedding = module(waveform, train=train, axis_name=axis_name)
    if not train:
        return embedding, stats
    return embedding, _plain(nnx.state(module, BatchStat))


def _plain(state: nnx.State) -> Tree:
    """Nested dictionaries with string keys only: checkpoints know no integer keys."""

    def strings(tree: Any) -> Any:
        return {str(k): strings(v) for k, v in tree.items()} if isinstance(tree, dict) else tree

    return strings(nnx.to_pure_dict(state))


def _indexed(tree: Any) -> Any:
    """The inverse of `_plain`: places in an `nnx.List` as integers."""
    if not isinstance(tree, dict):
        return tree
    return {int(k) if k.isdigit() else k: _indexed(v) for k, v in tree.items()}

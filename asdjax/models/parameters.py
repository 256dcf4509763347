"""Modules as pure functions of their parameters: nested dictionaries of arrays.

`split` takes a module apart into its structure and its parameters, and `apply` runs the structure
on them, under JAX's own transformations.
"""

from typing import Any, TypeAlias

from flax import nnx
from jaxtyping import Array, Float

from asdjax.models.layers import BatchStat

Tree: TypeAlias = dict[str, Any]
"""Nested, with strings as keys and arrays as leaves."""


def split(module: nnx.Module) -> tuple[nnx.GraphDef, Tree, Tree]:
    """Take a module apart: its structure, its weights and its running statistics."""
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
    **more: Any,
) -> tuple[Float[Array, "B D"], Tree]:
    """Embed clips; pure, so that it may be compiled, differentiated and mapped over devices.

    Args:
        graphdef: structure, from `split`.
        params: weights, of the waveform's dtype.
        stats: running statistics, of the waveform's dtype.
        waveform: clips, float32 or float64.
        train: whether layers behave as in training.
        axis_name: the `jax.pmap` axis over which the batch is spread, if it is.
        more: what a kind of embedder takes beside (see `BEATsEmbedder`).

    Returns:
        The embeddings, and the running statistics: new ones in training, else those given.
    """
    module = merged(graphdef, params, stats)
    embedding = module(waveform, train=train, axis_name=axis_name, **more)
    if not train:
        return embedding, stats
    return embedding, _plain(nnx.state(module, BatchStat))


def merged(graphdef: nnx.GraphDef, params: Tree, stats: Tree) -> nnx.Module:
    """The module again: the inverse of `split`."""
    return nnx.merge(graphdef, _indexed(params), _indexed(stats))


def join(trained: Tree, frozen: Tree) -> Tree:
    """All weights again, from the two parts of `partition`."""
    result = dict(trained)
    for key, value in frozen.items():
        if key in result:
            assert isinstance(value, dict) and isinstance(result[key], dict), "in both parts"
            value = join(result[key], value)
        result[key] = value
    return result


def replace(params: Tree, others: Tree) -> Tree:
    """The same weights, with others in the place of those that `others` holds."""
    result = dict(params)
    for key, value in others.items():
        inside = isinstance(value, dict)
        assert inside == isinstance(params[key], dict)
        assert inside or value.shape == params[key].shape, key
        result[key] = replace(params[key], value) if inside else value
    return result


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

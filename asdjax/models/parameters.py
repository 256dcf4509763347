"""Modules as pure functions of their parameters: nested dictionaries of arrays.

`split` separates a module's structure from its arrays. `apply` is a pure function of the arrays,
for JAX's transformations (jit, grad, pmap).
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from asdjax.errors import ConfigError
from asdjax.models.layers import BatchStat

Tree: TypeAlias = dict[str, Any]
"""Nested dictionaries with string keys and arrays as leaves."""


def split(module: nnx.Module) -> tuple[nnx.GraphDef, Tree, Tree]:
    """Split a module into its structure, its weights and its running statistics.

    Raises:
        ConfigError: it has other variables, such as the state of a random generator.
    """
    graphdef, *states = nnx.split(module, nnx.Param, BatchStat, ...)
    params, stats, others = map(_plain, states)
    if paths := flatten_dict(others):
        raise ConfigError(
            f"{type(module).__name__}: {'.'.join(min(paths))} is neither nnx.Param nor "
            "nnx.BatchStat: use one of them; random numbers for training come from Encoder.draws"
        )
    return graphdef, params, stats


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
    """Embed clips; a pure function that can be compiled, differentiated and mapped over devices.

    Args:
        graphdef: structure, from `split`.
        params: weights, of the waveform's dtype.
        stats: running statistics, of the waveform's dtype.
        waveform: clips, float32 or float64.
        train: whether layers behave as in training.
        axis_name: the `jax.pmap` axis over which the batch is split, if any.
        more: further arguments of the network (see `Encoder.draws`).

    Returns:
        The embeddings, and the running statistics: updated in training, else unchanged.
    """
    module = merged(graphdef, params, stats)
    embedding = checked(
        module(waveform, train=train, axis_name=axis_name, **more), module, waveform
    )
    if not train:
        return embedding, stats
    return embedding, _plain(nnx.state(module, BatchStat))


def checked(embedding: Any, module: Any, waveform: Float[Array, "B T"]) -> Float[Array, "B D"]:
    """A network's result; `AsdjaxError` unless it is one embedding for each clip."""
    size = getattr(module, "embedding_size", None)
    shape, dtype = getattr(embedding, "shape", None), getattr(embedding, "dtype", None)
    if size is not None and (shape, dtype) != ((len(waveform), size), waveform.dtype):
        raise ConfigError(
            f"{type(module).__name__}: returns {dtype or type(embedding).__name__} of shape "
            f"{shape} for {len(waveform)} clips: return {waveform.dtype} of shape "
            f"({len(waveform)}, {size}), as embedding_size states"
        )
    return embedding


def merged(graphdef: nnx.GraphDef, params: Tree, stats: Tree) -> Any:
    """The module of a structure and its arrays: the inverse of `split`."""
    return nnx.merge(graphdef, _indexed(params), _indexed(stats))


def divided(params: Tree, wanted: Callable[[tuple[str, ...]], bool]) -> tuple[Tree, Tree]:
    """The arrays whose paths are wanted, and all others, both nested as `params`."""
    flat = flatten_dict(params)
    chosen = {path: value for path, value in flat.items() if wanted(path)}
    others = {path: value for path, value in flat.items() if path not in chosen}
    return unflatten_dict(chosen), unflatten_dict(others)


def join(one: Tree, other: Tree) -> Tree:
    """The inverse of `divided`."""
    one, other = flatten_dict(one), flatten_dict(other)
    assert not one.keys() & other.keys(), "in both parts"
    return unflatten_dict(one | other)


def replace(params: Tree, others: Tree) -> Tree:
    """A copy of `params` with the arrays of `others`, which has some of its paths."""
    flat, new = flatten_dict(params), flatten_dict(others)
    for path, value in new.items():
        assert value.shape == flat[path].shape, path
    return unflatten_dict(flat | new)


def count(params: Any) -> int:
    """Number of values in all arrays of a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _plain(state: nnx.State) -> Tree:
    """Nested dictionaries with string keys only, because checkpoints have no integer keys."""
    flat = flatten_dict(nnx.to_pure_dict(state))
    return unflatten_dict({tuple(map(str, path)): value for path, value in flat.items()})


def _indexed(tree: Tree) -> dict:
    """The inverse of `_plain`: indices of an `nnx.List` are integers again."""
    flat = flatten_dict(tree)
    return unflatten_dict(
        {tuple(int(k) if k.isdigit() else k for k in path): value for path, value in flat.items()}
    )

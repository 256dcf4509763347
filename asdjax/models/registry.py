"""Embedders: modules from waveforms [B, T] to embeddings [B, D], used as pure functions.

`build` makes a module, `split` turns it into its structure and plain nested dictionaries of
arrays, and `apply` runs it on them; the latter two go through JAX's own transformations.
"""

import dataclasses
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from asdjax.config.architectures import BEATsConfig, ModelConfig
from asdjax.models.beats import Draws as Draws
from asdjax.models.beats_embedder import BEATsEmbedder, check_length
from asdjax.models.beats_embedder import length_class as length_class
from asdjax.models.beats_embedder import shortest as shortest
from asdjax.models.beats_embedder import token_mean as token_mean
from asdjax.models.layers import BatchStat, Rng
from asdjax.models.lora import is_adapter, merge
from asdjax.models.lora import split_adapters as split_adapters
from asdjax.models.multiresnet import MultiResNet

Tree: TypeAlias = dict[str, Any]  # nested, string keys, arrays as leaves


def build(config: ModelConfig, n_samples: int | None, sample_rate: int, seed: int) -> nnx.Module:
    """Make the embedder that `config.name` names, with initial weights drawn from `seed`.

    Args:
        config: the `model` section of the configuration.
        n_samples: length of every clip, samples; None: they differ (BEATs only).
        sample_rate: hertz.
        seed: of the initial weights, which are float32.

    Raises:
        AsdjaxError: the embedder cannot process clips of this length.
    """
    return _module(config, n_samples, sample_rate, rng=np.random.default_rng(seed))


def _module(
    config: ModelConfig, n_samples: int | None, sample_rate: int, *, rng: "Rng | _NoDraws"
) -> nnx.Module:
    if isinstance(config, BEATsConfig):
        if n_samples is not None:
            check_length(config.encoder, n_samples)
        return BEATsEmbedder(config, rng=rng)
    return MultiResNet(config, n_samples, sample_rate, rng=rng)


def skeleton(config: ModelConfig, n_samples: int | None, sample_rate: int) -> nnx.Module:
    """What `build` makes, with `jax.ShapeDtypeStruct` for arrays; nothing is computed.

    For weights that come from elsewhere: a checkpoint, another toolkit.
    """
    return nnx.eval_shape(lambda: _module(config, n_samples, sample_rate, rng=_NoDraws()))


class _NoDraws:
    """Stands in for a generator where only shapes matter: millions of draws take a second."""

    def uniform(self, low: float, high: float, size: tuple[int, ...]) -> Array:
        return jnp.zeros(size, jnp.float32)

    normal = uniform  # of a mean and a deviation


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


def partition(config: ModelConfig, params: Tree) -> tuple[Tree, Tree]:
    """Weights that train and weights that stay as they are: each is in exactly one of the two."""
    trains = {
        "full": lambda path: True,
        "lora": lambda path: path[0] != "encoder" or is_adapter(path),
        "frozen": lambda path: False,
    }[config.adaptation if isinstance(config, BEATsConfig) else "full"]

    def part(tree: Tree, wanted: bool, path: tuple[str, ...] = ()) -> Tree:
        result = {}
        for key, value in tree.items():
            here = (*path, key)
            if isinstance(value, dict):
                inside = part(value, wanted, here)
                if inside:
                    result[key] = inside
            elif trains(here) == wanted:
                result[key] = value
        return result

    return part(params, True), part(params, False)


def is_frozen(config: ModelConfig) -> bool:
    """Whether nothing of an embedder trains."""
    return isinstance(config, BEATsConfig) and config.adaptation == "frozen"


def for_inference(config: ModelConfig, params: Tree) -> tuple[ModelConfig, Tree]:
    """An embedder without adapters that embeds alike: they are merged into the weights."""
    if not (isinstance(config, BEATsConfig) and config.adaptation == "lora"):
        return config, params
    encoder = merge(params["encoder"], config.lora.alpha / config.lora.rank)
    return dataclasses.replace(config, adaptation="full"), {**params, "encoder": encoder}


def folded(module: nnx.Module, params: Tree) -> Tree:
    """Compute once what inference would compute in every batch.

    Weights that are only ever multiplied in bfloat16 are rounded to it. BEATs' positional
    convolution learns its weight's norm and direction; afterwards `module` holds the spectrum of
    the weight.

    Args:
        module: from `skeleton`; changed in place.
        params: its weights, which are left as they are.

    Returns:
        The weights of the changed module.
    """
    for path, part in nnx.iter_modules(module):
        if getattr(part, "compute_dtype", None) == "bfloat16" and hasattr(part, "kernel"):
            params = _rounded(params, tuple(map(str, path)))
    if isinstance(module, BEATsEmbedder):
        outer = params["encoder"]
        inner = outer["encoder"]
        own = module.encoder.encoder.pos_conv.fold(inner["pos_conv"])
        params = {**params, "encoder": {**outer, "encoder": {**inner, "pos_conv": own}}}
    return params


def _rounded(params: Tree, path: tuple[str, ...]) -> Tree:
    """The weights with the kernel of the module at `path` in bfloat16."""
    if not path:
        return {**params, "kernel": params["kernel"].astype(jnp.bfloat16)}
    return {**params, path[0]: _rounded(params[path[0]], path[1:])}


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

"""Which embedders there are: building one, and what depends on which one it is."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from asdjax.config.architectures import BEATsConfig, ModelConfig
from asdjax.models.beats_embedder import BEATsEmbedder, check_length
from asdjax.models.layers import Rng
from asdjax.models.lora import is_adapter, merge
from asdjax.models.multiresnet import MultiResNet
from asdjax.models.parameters import Tree, divided


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


def on_platform(config: ModelConfig, platform: str) -> ModelConfig:
    """The settings without what devices of this platform ("cpu", "gpu", "tpu") lack."""
    if isinstance(config, BEATsConfig) and platform != "gpu":
        return dataclasses.replace(config, fused_attention=False)  # cuDNN's
    return config


def partition(config: ModelConfig, params: Tree) -> tuple[Tree, Tree]:
    """Weights that train and weights that stay as they are: each is in exactly one of the two."""
    trains = {
        "full": lambda path: True,
        "lora": lambda path: path[0] != "encoder" or is_adapter(path),
        "frozen": lambda path: False,
    }[config.adaptation if isinstance(config, BEATsConfig) else "full"]
    return divided(params, trains)


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

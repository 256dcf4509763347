"""Building an encoder's network, and preparing its weights for training and inference."""

import inspect
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from asdjax.config import registry
from asdjax.config.interfaces import Encoder
from asdjax.errors import ConfigError
from asdjax.models.parameters import Tree, divided
from asdjax.runtime import parallel


def build(encoder: Encoder, n_samples: int | None, sample_rate: int, seed: int) -> nnx.Module:
    """Build an encoder's network with random initial weights, float32.

    Args:
        encoder: the `model` section of the configuration.
        n_samples: length of every clip, samples; None: they differ (see `Encoder.has_tokens`).
        sample_rate: hertz.
        seed: seed of the initial weights.

    Raises:
        AsdjaxError: the network cannot process clips of this length.
    """
    return _checked(encoder, encoder.build(n_samples, sample_rate, np.random.default_rng(seed)))


def skeleton(encoder: Encoder, n_samples: int | None, sample_rate: int) -> Any:
    """The network of `build` with `jax.ShapeDtypeStruct` instead of arrays; nothing is computed.

    Used where the weights come from a checkpoint or another toolkit.
    """
    return nnx.eval_shape(
        lambda: _checked(encoder, encoder.build(n_samples, sample_rate, _NoDraws()))
    )


def _checked(encoder: Encoder, module: Any) -> nnx.Module:
    """The result of `Encoder.build`; `AsdjaxError` unless it is as that method says."""
    size = getattr(module, "embedding_size", None)
    if not isinstance(module, nnx.Module) or not (type(size) is int and size > 0):
        raise ConfigError(
            f"encoder {encoder.name}: build returns {type(module).__name__} with the "
            f"embedding_size {size}: return an nnx.Module whose embedding_size is a whole number"
        )
    call = type(module).__call__
    registry.check_call(call, _CALL, f"encoder {encoder.name}: {type(module).__name__}.__call__")
    for path, part in nnx.iter_modules(module):
        if isinstance(part, nnx.BatchNorm) and part.axis_name is None:
            raise ConfigError(
                f"encoder {encoder.name}: {'.'.join(map(str, path))} is an nnx.BatchNorm without "
                "axis_name, whose statistics would be those of one device's clips: make it with "
                f"axis_name={parallel.AXIS!r}"
            )
    return module


def _declared(self: Any, waveform: Any, *, train: Any, axis_name: Any) -> None:
    """How a network is called in training."""


_CALL = inspect.signature(_declared)


class _NoDraws:
    """Replaces a random generator where only shapes matter: millions of draws take a second."""

    def uniform(self, low: float, high: float, size: tuple[int, ...]) -> Array:
        return jnp.zeros(size, jnp.float32)

    normal = uniform  # with a mean and a standard deviation

    def integers(self, high: int) -> int:
        return 0


def partition(encoder: Encoder, params: Tree) -> tuple[Tree, Tree]:
    """Split weights into trained and frozen ones."""
    return divided(params, encoder.trains)


def folded(encoder: Encoder, module: nnx.Module, params: Tree) -> Tree:
    """Prepare weights for inference: precompute what does not depend on the clips.

    Kernels that are used in bfloat16 are rounded to it; the rest is up to `Encoder.folded`.

    Args:
        encoder: the `model` section of the configuration.
        module: from `skeleton`; changed in place.
        params: its weights, which are not changed.

    Returns:
        The weights of the changed module.
    """
    for path, part in nnx.iter_modules(module):
        if getattr(part, "compute_dtype", None) == "bfloat16" and hasattr(part, "kernel"):
            params = _rounded(params, tuple(map(str, path)))
    return encoder.folded(module, params)


def _rounded(params: Tree, path: tuple[str, ...]) -> Tree:
    """The weights with the kernel of the module at `path` in bfloat16."""
    if not path:
        return {**params, "kernel": params["kernel"].astype(jnp.bfloat16)}
    return {**params, path[0]: _rounded(params[path[0]], path[1:])}

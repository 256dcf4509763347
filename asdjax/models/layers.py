"""Layers of all networks: channels last, `train` as an argument, PyTorch's defaults.

Kernels are [*window, in, out]. Initial weights are uniform in +-1 / sqrt(fan_in), as PyTorch's
kaiming_uniform_ with a = sqrt(5): sqrt(6 / ((1 + a^2) fan_in)) (He et al., 2015).
"""

import math
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from asdjax.config.interfaces import ComputeDtype
from asdjax.errors import ConfigError
from asdjax.models import operations
from asdjax.models.operations import per_channel

Rng: TypeAlias = np.random.Generator


BatchStat: TypeAlias = nnx.BatchStat
"""An array without gradient, such as a running statistic."""


def _uniform(rng: Rng, shape: tuple[int, ...], fan_in: int) -> nnx.Param:
    # drawn by NumPy: JAX would compile a program for each of the many shapes
    bound = 1 / math.sqrt(fan_in)
    return nnx.Param(rng.uniform(-bound, bound, shape).astype(np.float32))


class Linear(nnx.Module):
    """Affine map of the last axis: x @ kernel (+ bias)."""

    def __init__(self, n_in: int, n_out: int, *, bias: bool = False, rng: Rng):
        self.kernel = _uniform(rng, (n_in, n_out), n_in)
        self.bias = _uniform(rng, (n_out,), n_in) if bias else None

    def __call__(self, x: Float[Array, "*batch n_in"]) -> Float[Array, "*batch n_out"]:
        """Apply the map."""
        y = jnp.matmul(x, self.kernel[...], precision="highest")
        return y if self.bias is None else y + per_channel(self.bias[...], y.ndim)


class Conv(nnx.Module):
    """Convolution (cross-correlation) over one or two axes, channels last.

    Args:
        n_in: input channels.
        n_out: output channels.
        window: kernel size along each axis; its length says whether this is 1-D or 2-D.
        stride: step along every axis.
        padding: zeros added at both ends of every axis.
        bias: add a trainable constant to every output channel.
        compute_dtype: what input and kernel are rounded to.
        rng: source of the initial weights.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        window: tuple[int, ...],
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = False,
        compute_dtype: ComputeDtype = "float32",
        rng: Rng,
    ):
        fan_in = n_in * math.prod(window)
        self.kernel = _uniform(rng, (*window, n_in, n_out), fan_in)
        self.bias = _uniform(rng, (n_out,), fan_in) if bias else None
        self.stride = stride
        self.padding = padding
        self.compute_dtype = compute_dtype

    def __call__(self, x: Float[Array, "B *positions n_in"]) -> Float[Array, "B *outputs n_out"]:
        """Convolve; an axis of n positions has (n + 2 padding - window) // stride + 1 outputs."""
        kernel, stride, axes = self.kernel[...], self.stride, x.ndim - 2
        if axes == 1 and stride > 1 and kernel.shape[0] % stride == 0 and self.padding == 0:
            # XLA on CPUs is slow at the gradient of a strided convolution with respect to x
            x, kernel, stride = *operations.folded(x, kernel, stride), 1
        y = operations.correlate(x, kernel, stride, self.padding, self.compute_dtype)
        return y if self.bias is None else y + per_channel(self.bias[...], y.ndim)


class BatchNorm(nnx.Module):
    """Batch normalisation over the last axis (Ioffe and Szegedy, 2015), with PyTorch's conventions.

    Training normalises by the batch's mean and biased variance; the running variance is updated
    with the unbiased one. With an `axis_name` in the call (of the device axis of `jax.pmap` or
    `jax.shard_map`), the statistics are of the batch of all devices, which have equal shares.

    Args:
        features: size of the last axis.
        momentum: weight of the new batch in the running statistics.
        eps: added to the variance.
        affine: whether to learn a scale and an offset per feature.
    """

    def __init__(
        self, features: int, *, momentum: float = 0.1, eps: float = 1e-5, affine: bool = False
    ):
        self.mean = BatchStat(np.zeros(features, np.float32))
        self.var = BatchStat(np.ones(features, np.float32))
        self.scale = nnx.Param(np.ones(features, np.float32)) if affine else None
        self.bias = nnx.Param(np.zeros(features, np.float32)) if affine else None
        self.momentum = momentum
        self.eps = eps

    def __call__(
        self, x: Float[Array, "B *positions C"], *, train: bool, axis_name: str | None = None
    ) -> Float[Array, "B *positions C"]:
        """Normalise; with `train`, by the batch's statistics, and update the running ones.

        Raises:
            AsdjaxError: a training batch has one value per feature, so that it has no variance.
        """
        if train:
            y = self._by_batch(x, axis_name)
        else:
            mean, scale = self.mean[...], lax.rsqrt(self.var[...] + self.eps)
            y = (x - per_channel(mean, x.ndim)) * per_channel(scale, x.ndim)
        if self.scale is not None and self.bias is not None:
            y = y * per_channel(self.scale[...], x.ndim) + per_channel(self.bias[...], x.ndim)
        return y

    def _by_batch(
        self, x: Float[Array, "B *positions C"], axis_name: str | None
    ) -> Float[Array, "B *positions C"]:
        devices = 1 if axis_name is None else lax.axis_size(axis_name)
        count = devices * math.prod(x.shape[:-1])
        if count < 2:
            raise ConfigError(
                "batch normalisation cannot train on a batch of one clip: set train.drop_last to "
                "true or choose a train.batch_size that leaves at least two"
            )
        y, mean, var = operations.batch_normalise(x, self.eps, axis_name)
        unbiased = var * (count / (count - 1))
        keep = 1 - self.momentum
        self.mean[...] = keep * self.mean[...] + self.momentum * lax.stop_gradient(mean)
        self.var[...] = keep * self.var[...] + self.momentum * lax.stop_gradient(unbiased)
        return y


class LayerNorm(nnx.Module):
    """Layer normalisation of the last axis (Ba et al., 2016), biased variance.

    Args:
        features: size of the last axis.
        eps: added to the variance.
    """

    def __init__(self, features: int, eps: float = 1e-5):
        self.scale = nnx.Param(np.ones(features, np.float32))
        self.bias = nnx.Param(np.zeros(features, np.float32))
        self.eps = eps

    def __call__(self, x: Float[Array, "B L C"]) -> Float[Array, "B L C"]:
        """Normalise each token."""
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        x = x * lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.eps)
        return x * self.scale[...][None, None] + self.bias[...][None, None]


class SqueezeExcitation(nnx.Module):
    """Scale each channel by a gate computed from all channels' means (Hu et al., 2018)."""

    def __init__(self, channels: int, ratio: int, *, rng: Rng):
        hidden = max(1, channels // ratio)
        self.squeeze = Linear(channels, hidden, rng=rng)
        self.excite = Linear(hidden, channels, rng=rng)

    def __call__(self, x: Float[Array, "B *positions C"]) -> Float[Array, "B *positions C"]:
        """Gate `x`."""
        means = jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))  # [B, C]
        gate = jax.nn.sigmoid(self.excite(jax.nn.relu(self.squeeze(means))))
        return x * jnp.expand_dims(gate, range(1, x.ndim - 1))

"""Linear maps of a pretrained encoder, as they are or adapted by low-rank products, and dropout.

Low-rank adaptation is that of Hu et al. (ICLR 2022) with the conventions of the peft library:
y = x W + b + alpha / rank * (x A) B, where A starts as PyTorch starts a linear layer and B as
zeros, so that an adapted encoder starts as the encoder itself.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from asdjax.config.architectures import ComputeDtype, LoRAConfig
from asdjax.models.layers import Linear, Rng
from asdjax.models.parameters import Tree

_ADAPTERS = ("lora_a", "lora_b")


class Draws(NamedTuple):
    """Where dropout's randomness comes from: a clip's draws do not depend on its companions."""

    key: PRNGKeyArray
    """Of the training step."""
    rows: Int[Array, " B"]
    """Each clip's place in the global batch."""

    def at(self, place: int) -> "Draws":
        """The draws of one place in the network."""
        return self._replace(key=jax.random.fold_in(self.key, place))


def at(draws: Draws | None, place: int) -> Draws | None:
    """`draws.at(place)`, where None says that nothing is dropped."""
    return None if draws is None else draws.at(place)


def dropout(
    x: Float[Array, "B *axes"], rate: float, draws: Draws | None
) -> Float[Array, "B *axes"]:
    """Set values to zero with probability `rate` and scale the others up; None drops nothing.

    The rate is rounded to a multiple of 2^-16: sixteen bits decide, in every precision the same.
    """
    threshold = round(rate * 2**16)
    if draws is None or threshold == 0:
        return x
    if threshold == 2**16:
        return jnp.zeros_like(x)
    size = math.prod(x.shape[1:])

    def bits(row: Int[Array, ""]) -> Int[Array, " size"]:
        key = jax.random.fold_in(draws.key, row)
        words = jax.random.bits(key, ((size + 1) // 2,), jnp.uint32)
        return lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:size]

    keep = jax.vmap(bits)(draws.rows).reshape(x.shape) >= jnp.uint16(threshold)
    return jnp.where(keep, x * (2**16 / (2**16 - threshold)), 0.0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def scale_gradient(x: Float[Array, "..."], factor: float) -> Float[Array, "..."]:
    """`x` itself, the gradient through which is multiplied by `factor`."""
    return x


scale_gradient.defvjp(lambda x, factor: (x, None), lambda factor, _, grad: (factor * grad,))


def einsum(
    spec: str, a: Float[Array, "..."], b: Float[Array, "..."], compute_dtype: ComputeDtype
) -> Float[Array, "..."]:
    """A product of two arrays, with its own precision.

    Args:
        spec: as in `jnp.einsum`, without ellipsis; each index stands in two of the three places.
        a: left operand.
        b: right operand, of the same dtype.
        compute_dtype: "float32" multiplies in the operands' own dtype, at full precision on every
            device; "bfloat16" rounds the operands, also in the gradients, and sums in float32.

    Returns:
        The product in the operands' dtype.
    """
    if compute_dtype == "float32":
        return jnp.einsum(spec, a, b, precision="highest")
    product = _bfloat16_einsum(spec, a.astype(jnp.float32), b.astype(jnp.float32))
    return product.astype(a.dtype)


def _rounded_einsum(spec: str, a: Float[Array, "..."], b: Float[Array, "..."]) -> Array:
    inputs, out = spec.split("->")
    left, right = inputs.split(",")
    if out[-1] not in right:  # XLA on CPU refuses such products, whose result it transposes
        left, right, a, b = right, left, b, a
    a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    return jnp.einsum(f"{left},{right}->{out}", a, b, preferred_element_type=jnp.float32)


# JAX's own gradient of a bfloat16 product with a float32 result would mix the two dtypes.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _bfloat16_einsum(spec: str, a: Float[Array, "..."], b: Float[Array, "..."]) -> Array:
    return _rounded_einsum(spec, a, b)


def _forward(spec: str, a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    return _rounded_einsum(spec, a, b), (a.astype(jnp.bfloat16), b.astype(jnp.bfloat16))


def _backward(spec: str, operands: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    a, b = operands
    inputs, out = spec.split("->")
    left, right = inputs.split(",")
    return (
        _rounded_einsum(f"{out},{right}->{left}", gradient, b),
        _rounded_einsum(f"{left},{out}->{right}", a, gradient),
    )


_bfloat16_einsum.defvjp(_forward, _backward)


class Projection(Linear):
    """`Linear` with a bias, whose product may be computed in bfloat16."""

    def __init__(self, n_in: int, n_out: int, *, compute_dtype: ComputeDtype = "float32", rng: Rng):
        super().__init__(n_in, n_out, bias=True, rng=rng)
        self.compute_dtype = compute_dtype

    def __call__(
        self, x: Float[Array, "*batch n_in"], draws: Draws | None = None
    ) -> Float[Array, "*batch n_out"]:
        """Apply the map; `draws` are for adapted ones."""
        rows = x.reshape(-1, x.shape[-1])
        y = self._product(rows, self.kernel[...]) + self.bias[...][None]
        return y.reshape(*x.shape[:-1], -1)

    def _product(
        self, x: Float[Array, "N n_in"], kernel: Float[Array, "n_in n_out"]
    ) -> Float[Array, "N n_out"]:
        return einsum("ni,io->no", x, kernel, self.compute_dtype)


class LoRALinear(Projection):
    """A projection with an adapter: x @ kernel + bias + alpha / rank * (x @ lora_a) @ lora_b."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        config: LoRAConfig,
        *,
        compute_dtype: ComputeDtype = "float32",
        rng: Rng,
    ):
        super().__init__(n_in, n_out, compute_dtype=compute_dtype, rng=rng)
        self.lora_a = Linear(n_in, config.rank, rng=rng).kernel  # starts as any linear layer's
        self.lora_b = nnx.Param(np.zeros((config.rank, n_out), np.float32))
        self.scale = config.alpha / config.rank
        self.dropout = config.dropout

    def __call__(
        self, x: Float[Array, "*batch n_in"], draws: Draws | None = None
    ) -> Float[Array, "*batch n_out"]:
        """Apply the adapted map; with `draws`, the adapter's input is dropped in part."""
        rows = dropout(x, self.dropout, draws).reshape(-1, x.shape[-1])
        adapted = self._product(self._product(rows, self.lora_a[...]), self.lora_b[...])
        return super().__call__(x) + self.scale * adapted.reshape(*x.shape[:-1], -1)


def is_adapter(path: tuple[str, ...]) -> bool:
    """Whether the array at `path` in a tree of weights belongs to an adapter."""
    return path[-1] in _ADAPTERS


def merge(params: Tree, scale: float) -> Tree:
    """Add every adapter to its kernel, for an encoder without adapters.

    Args:
        params: weights with adapters, which are left as they are.
        scale: alpha / rank.

    Returns:
        The same weights without adapters; the sums are NumPy arrays, computed in float64 and
        rounded to the kernel's dtype.
    """
    merged = {
        key: merge(value, scale) if isinstance(value, dict) else value
        for key, value in params.items()
        if not is_adapter((key,))
    }
    if all(name in params for name in _ADAPTERS):
        a, b, kernel = (np.asarray(params[n], np.float64) for n in (*_ADAPTERS, "kernel"))
        merged["kernel"] = (kernel + scale * (a @ b)).astype(params["kernel"].dtype)
    return merged

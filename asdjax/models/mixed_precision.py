"""Products of float32 arrays in a chosen precision."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from asdjax.config.interfaces import ComputeDtype
from asdjax.models.dropout import Draws
from asdjax.models.layers import Linear, Rng
from asdjax.models.operations import PRECISION


def einsum(
    spec: str, a: Float[Array, "..."], b: Float[Array, "..."], compute_dtype: ComputeDtype
) -> Float[Array, "..."]:
    """`jnp.einsum` of two arrays in a given precision.

    Args:
        spec: as in `jnp.einsum`, without ellipsis; each index occurs in exactly two of the three
            arrays (operands and result), so that gradients are such products, too.
        a: left operand.
        b: right operand; of the same dtype, unless one of them is bfloat16.
        compute_dtype: "float32" multiplies in the operands' dtype, at full precision on every
            device; "tensorfloat32" and "auto" at the precision that `ComputeDtype` says;
            "bfloat16" rounds the operands, also in the gradients, and sums in float32.

    Returns:
        The product in the operands' dtype; of bfloat16 operands in float32.
    """
    if compute_dtype != "bfloat16":
        return jnp.einsum(spec, a, b, precision=PRECISION[compute_dtype])
    product = _bfloat16_einsum(spec, a.astype(jnp.float32), b.astype(jnp.float32))
    return product.astype(wide(a).dtype)


def wide(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """An array of bfloat16 as float32; others unchanged."""
    return x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x


def _rounded_einsum(spec: str, a: Float[Array, "..."], b: Float[Array, "..."]) -> Array:
    inputs, out = spec.split("->")
    left, right = inputs.split(",")
    if out[-1] not in right:  # XLA on CPU does not support bfloat16 products with transposed result
        left, right, a, b = right, left, b, a
    a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    return jnp.einsum(f"{left},{right}->{out}", a, b, preferred_element_type=jnp.float32)


# JAX's gradient of a bfloat16 product with a float32 result would mix the two dtypes.
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
    """`Linear` with a bias; its product may be computed in bfloat16."""

    bias: nnx.Param

    def __init__(self, n_in: int, n_out: int, *, compute_dtype: ComputeDtype = "float32", rng: Rng):
        super().__init__(n_in, n_out, bias=True, rng=rng)
        self.compute_dtype = compute_dtype

    def __call__(
        self, x: Float[Array, "*batch n_in"], draws: Draws | None = None
    ) -> Float[Array, "*batch n_out"]:
        """Apply the map; the result has the dtype of `x`.

        `draws` are used by subclasses with dropout.
        """
        rows = x.reshape(-1, x.shape[-1])
        y = self._product(rows, self.kernel[...]) + self.bias[...][None]
        return y.astype(x.dtype).reshape(*x.shape[:-1], -1)

    def _product(
        self, x: Float[Array, "N n_in"], kernel: Float[Array, "n_in n_out"]
    ) -> Float[Array, "N n_out"]:
        return einsum("ni,io->no", x, kernel, self.compute_dtype)

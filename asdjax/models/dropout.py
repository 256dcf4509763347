"""Dropout whose random numbers depend on a clip's place in the global batch, not on the device."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray


class Draws(NamedTuple):
    """Source of the random numbers of dropout."""

    key: PRNGKeyArray
    """Random key of the training step, or of a part of the network."""
    rows: Int[Array, " B"]
    """Each clip's index in the global batch."""

    def at(self, place: int | Int[Array, ""]) -> "Draws":
        """An independent stream for one place in the network."""
        return self._replace(key=jax.random.fold_in(self.key, place))


def at(draws: Draws | None, place: int | Int[Array, ""]) -> Draws | None:
    """`draws.at(place)`, or None (no dropout) for None."""
    return None if draws is None else draws.at(place)


def dropout(
    x: Float[Array, "B *axes"], rate: float, draws: Draws | None
) -> Float[Array, "B *axes"]:
    """Set values to zero with probability `rate` and divide the others by 1 - rate.

    Nothing is dropped if `draws` is None. The rate is rounded to a multiple of 2^-16, because 16
    random bits decide on each value; they are the same in float32 and float64.
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

"""Dropout whose draws depend on the clip, not on the batch that it is in."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray


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

"""Gradient accumulation: a batch in parts, one after the other, so that it needs less memory."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

T = TypeVar("T")


def mean_over_parts(
    compute: Callable[[Any, tuple[Array, ...]], tuple[T, Any]],
    state: Any,
    batch: tuple[Array, ...],
    parts: int,
) -> tuple[T, Any]:
    """The mean of `compute` over the parts of a batch, computed one after the other.

    For results that are means over clips, such as the gradient of a mean loss, this is the result
    for the whole batch, up to rounding. The loop over the parts is compiled once.

    Args:
        compute: (state, clips) -> (result, new state).
        state: given to the first part; each part's new state is given to the next.
        batch: arrays [B, ...].
        parts: their number, a divisor of B.

    Returns:
        The mean result, and the last new state.

    Example:
        >>> mean, count = mean_over_parts(
        ...     lambda seen, clips: (clips[0].mean(), seen + len(clips[0])),
        ...     jnp.asarray(0),
        ...     (jnp.arange(6.0),),
        ...     parts=3,
        ... )
        >>> float(mean), int(count)
        (2.5, 6)
    """
    if parts == 1:
        return compute(state, batch)

    def add(carry: tuple[T, Any], clips: tuple[Array, ...]) -> tuple[tuple[T, Any], None]:
        mean, state = carry
        result, state = compute(state, clips)
        return (jax.tree.map(lambda m, r: m + r / parts, mean, result), state), None

    divided = tuple(a.reshape(parts, -1, *a.shape[1:]) for a in batch)
    shapes, _ = jax.eval_shape(compute, state, tuple(a[0] for a in divided))
    nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return lax.scan(add, (nothing, state), divided)[0]

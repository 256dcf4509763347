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
    part: int,
) -> tuple[T, Any]:
    """The mean of `compute` over a batch's clips, computed for `part` clips at a time.

    For results that are means over clips, such as the gradient of a mean loss, this is the result
    for the whole batch, up to rounding. The parts run in a loop, which is compiled once. If the
    last part has fewer clips, it is compiled, too.

    Args:
        compute: (state, clips) -> (result, new state).
        state: given to the first part; each part's new state is given to the next.
        batch: arrays [B, ...].
        part: clips in a part.

    Returns:
        The mean result, each part weighted by its clips, and the last new state.

    Example:
        >>> mean, count = mean_over_parts(
        ...     lambda seen, clips: (clips[0].mean(), seen + len(clips[0])),
        ...     jnp.asarray(0),
        ...     (jnp.arange(5.0),),
        ...     part=2,
        ... )
        >>> float(mean), int(count)
        (2.0, 5)
    """
    size = len(batch[0])
    if size <= part:
        return compute(state, batch)
    in_parts = size - size % part

    def add(carry: tuple[T, Any], clips: tuple[Array, ...]) -> tuple[tuple[T, Any], None]:
        mean, state = carry
        result, state = compute(state, clips)
        share = len(clips[0]) / size
        return (jax.tree.map(lambda m, r: m + share * r, mean, result), state), None

    parts = tuple(a[:in_parts].reshape(-1, part, *a.shape[1:]) for a in batch)
    shapes, _ = jax.eval_shape(compute, state, tuple(a[0] for a in parts))
    nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    carry, _ = lax.scan(add, (nothing, state), parts)
    if in_parts < size:
        carry, _ = add(carry, tuple(a[in_parts:] for a in batch))
    return carry

"""Mixup (Zhang et al., ICLR 2018) over the global batch.

Draws depend on the seed, the step and a clip's place in the global batch: every device makes the
draws of the whole batch and uses those of its own rows.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt32


class MixupDraws(NamedTuple):
    """What mixup does to each clip of a batch."""

    lam: Float[Array, " B"]
    """The clip's own share, uniform in [0, 1)."""
    partner: Int[Array, " B"]
    """Place in the global batch of the clip that is mixed in."""
    mix: Bool[Array, " B"]
    """Whether the clip is mixed at all."""


def step_key(seed: int | UInt32[Array, ""], step: int | Int[Array, ""]) -> PRNGKeyArray:
    """Return the random key of one training step, the same on every device and process.

    Args:
      seed: the run's seed.
      step: update number, from 0.
    """
    return jax.random.fold_in(jax.random.key(seed), step)


def mixup_draws(key: PRNGKeyArray, batch_size: int, probability: float) -> MixupDraws:
    """Draw for each clip its share, its partner and whether it is mixed.

    Each clip has a share of its own; the partners are a permutation of the batch, in which a clip
    may meet itself.

    Args:
      key: random key of the step, used by nothing else.
      batch_size: clips in the global batch.
      probability: chance that a clip is mixed.

    Returns:
      Arrays of length `batch_size`: float32, int32 and bool in every precision.
    """
    lam_key, partner_key, mix_key = jax.random.split(key, 3)
    return MixupDraws(
        lam=jax.random.uniform(lam_key, (batch_size,), jnp.float32),
        partner=jax.random.permutation(partner_key, jnp.arange(batch_size, dtype=jnp.int32)),
        mix=jax.random.uniform(mix_key, (batch_size,), jnp.float32) < probability,
    )


def mixup(
    values: Float[Array, "B ..."],
    partner_values: Float[Array, "B ..."],
    lam: Float[Array, " B"],
    mix: Bool[Array, " B"],
) -> Float[Array, "B ..."]:
    """Mix clips (or their one-hot labels) with their partners, in the dtype of `values`.

    Args:
      values: one row per clip.
      partner_values: the partners' rows.
      lam: share of `values` in the mixture.
      mix: rows to mix; the others are returned as they are.

    Raises:
      TypeError: `values` are integers, which cannot hold a mixture.
    """
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise TypeError(f"mixup needs floating-point values, found {values.dtype}")
    rows = (-1,) + (1,) * (values.ndim - 1)
    lam = lam.astype(values.dtype).reshape(rows)
    return jnp.where(mix.reshape(rows), lam * values + (1 - lam) * partner_values, values)

"""Mixup (Zhang et al., ICLR 2018) over the global batch.

Random numbers depend on the seed, the step and a clip's index in the global batch: every device
draws those of the global batch and uses those of its rows.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt32


class MixupDraws(NamedTuple):
    """The random numbers of mixup for each clip of a batch: lam * clip + (1 - lam) * partner."""

    lam: Float[Array, " B"]
    """Weight of the clip, uniform in [0, 1)."""
    partner: Int[Array, " B"]
    """Index in the global batch of the clip that is mixed in."""
    mix: Bool[Array, " B"]
    """Whether the clip is mixed."""


def step_key(seed: int | UInt32[Array, ""], step: int | Int[Array, ""]) -> PRNGKeyArray:
    """Return the random key of one training step, the same on every device and process.

    Args:
      seed: the run's seed.
      step: update number, from 0.
    """
    return jax.random.fold_in(jax.random.key(seed), step)


def mixup_draws(key: PRNGKeyArray, batch_size: int, probability: float) -> MixupDraws:
    """Draw each clip's weight, its partner and whether it is mixed.

    Weights differ between clips. The partners are a permutation of the batch; a clip may be its own
    partner.

    Args:
      key: random key of the step. Keys `fold_in(key, i)` with i >= 1000 are for the encoder
        (`Encoder.draws`).
      batch_size: clips in the global batch.
      probability: probability that a clip is mixed.

    Returns:
      Arrays of length `batch_size`: float32, int32 and bool, also in double precision.
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
      lam: weight of `values`.
      mix: rows to mix; the others are returned unchanged.

    Raises:
      TypeError: `values` are integers.
    """
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise TypeError(f"mixup needs floating-point values, found {values.dtype}")
    rows = (-1,) + (1,) * (values.ndim - 1)
    lam = lam.astype(values.dtype).reshape(rows)
    return jnp.where(mix.reshape(rows), lam * values + (1 - lam) * partner_values, values)

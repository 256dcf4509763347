"""Training-time augmentation: mixup (Zhang et al., ICLR 2018) over the global batch, SpecAugment.

Draws depend on the seed, the step and a clip's place in the global batch: every device makes the
draws of the whole batch and uses those of its own rows.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt32

from asdjax.config import SpecAugmentConfig
from asdjax.signal import fbank


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


class SpecAugmentDraws(NamedTuple):
    """What SpecAugment masks in each clip of a batch, in frames and bands; width 0: nothing."""

    time_start: Float[Array, " B"]
    time_width: Float[Array, " B"]
    frequency_start: Float[Array, " B"]
    frequency_width: Float[Array, " B"]


def spec_augment_draws(
    key: PRNGKeyArray, batch_size: int, n_samples: int, config: SpecAugmentConfig
) -> SpecAugmentDraws:
    """Draw for each clip a mask in time and one in frequency.

    A mask is there with the configured probability. Its width is uniform in [0, widest), then its
    start uniform in [0, axis - width); both are real numbers, as in torchaudio's
    `mask_along_axis_iid`. No mask is wider than its axis.

    Args:
        key: random key of the step, used by nothing else.
        batch_size: clips in the global batch.
        n_samples: length of every clip.
        config: probability and widest masks.

    Returns:
        Arrays of length `batch_size`, float32 in every precision.
    """

    def mask(key: PRNGKeyArray, widest: float, size: int) -> tuple[Array, Array]:
        chance, width, start = jax.random.uniform(key, (3, batch_size), jnp.float32)
        width = jnp.where(chance < config.probability, width * min(widest, size), 0)
        return start * (size - width), width

    time_key, frequency_key = jax.random.split(key)
    return SpecAugmentDraws(
        *mask(time_key, config.time_width, fbank.frames(n_samples)),
        *mask(frequency_key, config.frequency_width, fbank.BANDS),
    )


def spec_augment(
    features: Float[Array, "B L 128"], draws: SpecAugmentDraws
) -> Float[Array, "B L 128"]:
    """SpecAugment (Park et al., Interspeech 2019): put zeros into masked frames and bands.

    Args:
        features: normalised filterbank, whose mean is 0.
        draws: one mask of each kind per clip; it covers the places i with
            start <= i < start + width.
    """

    def covered(start: Float[Array, " B"], width: Float[Array, " B"], size: int) -> Array:
        place = jnp.arange(size, dtype=start.dtype)[None, :]
        return (start[:, None] <= place) & (place < (start + width)[:, None])

    in_time = covered(draws.time_start, draws.time_width, features.shape[1])
    in_frequency = covered(draws.frequency_start, draws.frequency_width, features.shape[2])
    return jnp.where(in_time[:, :, None] | in_frequency[:, None, :], 0, features)

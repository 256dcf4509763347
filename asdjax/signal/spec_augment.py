"""SpecAugment (Park et al., Interspeech 2019): masks in time and frequency, in training.

Every device draws the random numbers of the global batch and uses those of its rows.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from asdjax.config.recipe import SpecAugmentConfig
from asdjax.signal import fbank


class SpecAugmentDraws(NamedTuple):
    """The masks of each clip of a batch, in frames and bands; width 0: no mask."""

    time_start: Float[Array, " B"]
    time_width: Float[Array, " B"]
    frequency_start: Float[Array, " B"]
    frequency_width: Float[Array, " B"]


def spec_augment_draws(
    key: PRNGKeyArray, batch_size: int, n_samples: int, config: SpecAugmentConfig
) -> SpecAugmentDraws:
    """Draw for each clip a mask in time and one in frequency.

    A mask is applied with the configured probability. Its width is uniform in [0, w), with w the
    configured largest width or the axis' length, whichever is less; its start is uniform in
    [0, length - width). Both are real numbers, as in torchaudio's `mask_along_axis_iid`.

    Args:
        key: random key that nothing else uses.
        batch_size: clips in the global batch.
        n_samples: length of every clip, samples.
        config: probability and largest widths.

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
    """Set masked frames and bands to zero, which is the mean of the normalised features.

    Args:
        features: normalised filterbank.
        draws: one mask of each kind per clip; it covers the indices i with
            start <= i < start + width.
    """

    def covered(start: Float[Array, " B"], width: Float[Array, " B"], size: int) -> Array:
        place = jnp.arange(size, dtype=start.dtype)[None, :]
        return (start[:, None] <= place) & (place < (start + width)[:, None])

    in_time = covered(draws.time_start, draws.time_width, features.shape[1])
    in_frequency = covered(draws.frequency_start, draws.frequency_width, features.shape[2])
    return jnp.where(in_time[:, :, None] | in_frequency[:, None, :], 0, features)

"""Making the views of a recipe (`asdjax.config.interfaces.View`) of a batch of clips.

A view is made at the clip's own length, before it is tiled or cut. Clips of different lengths share
a batch: each occupies its first `length` samples, and what lies beyond never matters.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from asdjax.config.interfaces import View
from asdjax.signal.channels import Channels


def make(
    views: Sequence[View],
    waveform: Float[Array, "B C T"],
    length: Int[Array, " B"],
    learned: Mapping[str, Float[Array, "K F"]] = MappingProxyType({}),
) -> tuple[Float[Array, "V B T"], dict[str, Array]]:
    """All views of a batch of clips, and how the clips' channels compare.

    Args:
        views: what to make.
        waveform: channel 1 (near), then channel 2 (far); channel 1 alone if no view uses channel 2.
        length: each clip's samples.
        learned: by name of each view that learns, from `View.learned`.

    Returns:
        The views, and facts on each clip of two channels: "gain" [V, B], the mean over bins and
        frames of the gain (1 where a view has none), and those of `Channels.facts`.
    """
    clips = Channels(waveform, length)
    made = [view.make(clips, learned[view.name] if view.learns else None) for view in views]
    sounds = jnp.stack([sound for sound, _ in made])
    if waveform.shape[1] == 1:
        return sounds, {}
    none = jnp.ones_like(clips.near[:, 0])
    gains = jnp.stack([none if gain is None else gain for _, gain in made])
    return sounds, {"gain": gains, **clips.facts()}


def fit_length(
    waveform: Float[Array, "V B T"], length: Int[Array, " B"], n_samples: int, shortest: int
) -> Float[Array, "V B n_samples"]:
    """Repeat each clip, then cut it: `audio.fit_length` from the start, on the device.

    Args:
        waveform: views of clips, in their first `length` samples.
        length: each clip's samples, at least `shortest`.
        n_samples: length of the result.
        shortest: up to here nothing is repeated, which spares a search for each sample.
    """
    kept = min(shortest, n_samples)
    place = jnp.arange(kept, n_samples, dtype=jnp.int32)[None, :] % length[:, None]
    again = jnp.take_along_axis(waveform, place[None, :, :], axis=2)
    return jnp.concatenate([waveform[:, :, :kept], again], axis=2)

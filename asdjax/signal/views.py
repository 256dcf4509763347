"""Computing the views of a recipe (`asdjax.config.interfaces.View`) for a batch of clips.

A view is computed at the clip's original length, then repeated or cut (`fit_length`). Clips of
different lengths share a batch: a clip is the first `length` samples of its row, the rest is
padding and has no influence.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from asdjax.config.interfaces import View
from asdjax.config.schema import array_shown
from asdjax.errors import ConfigError
from asdjax.signal.channels import Channels


def make(
    views: Sequence[View],
    waveform: Float[Array, "B C T"],
    length: Int[Array, " B"],
    learned: Mapping[str, Float[Array, "K F"]] = MappingProxyType({}),
) -> tuple[Float[Array, "V B T"], dict[str, Array]]:
    """All views of a batch of clips, and a comparison of each clip's channels.

    Args:
        views: the views to compute.
        waveform: channel 1 (near), then channel 2 (far); channel 1 alone if no view uses channel 2.
        length: length of each clip, samples.
        learned: results of `View.learned`, by the name of the view.

    Returns:
        The views, and for two channels "gain" [V, B], the mean gain of each view over bins and
        frames (1 for views without a gain), with the results of `Channels.facts`.
    """
    clips = Channels(waveform, length)
    made = [view.make(clips, learned[view.name] if view.learns else None) for view in views]
    for view, result in zip(views, made, strict=True):
        _check(view, result, clips)
    sounds = jnp.stack([sound for sound, _ in made])
    if waveform.shape[1] == 1:
        return sounds, {}
    none = jnp.ones_like(clips.near[:, 0])
    gains = jnp.stack([none if gain is None else gain for _, gain in made])
    return sounds, {"gain": gains, **clips.facts()}


def observed(view: View, clips: Channels) -> tuple[Float[Array, "B N F"], Bool[Array, "B N"]]:
    """What a view that learns observes in clips; `AsdjaxError` if it has another shape or type."""
    result: Any = view.observe(clips)
    found: Any = type(result).__name__
    if isinstance(result, tuple):
        found = [array_shown(part) for part in result]
        shape: tuple[int, ...] = getattr(result[0], "shape", ()) if len(result) == 2 else ()
        if len(shape) == 3 and found[1] == f"bool{[len(clips.length), shape[1]]}":
            rows, used = result
            return rows, used
    raise ConfigError(
        f"view {view.name} ({view.method}): observe returns {found} for {len(clips.length)} clips: "
        "it must return rows [B, N, F] and a mask of them, bool [B, N]"
    )


def learned(view: View, rows: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "K F"]:
    """The parameters of a view that learns; `AsdjaxError` if they are no array."""
    found = view.learned(rows)
    if not isinstance(found, np.ndarray):
        raise ConfigError(
            f"view {view.name} ({view.method}): learned returns {array_shown(found)}: it must "
            "return an array of NumPy"
        )
    return found


def _check(view: View, result: Any, clips: Channels) -> None:
    """Raise `AsdjaxError` unless a view's result is a waveform [B, T] and a gain [B] or None."""
    waveforms, expected = clips.near, "make must return a waveform [B, T] and a gain [B] or None"
    found: Any = type(result).__name__
    if isinstance(result, tuple):
        found = [array_shown(part) for part in result]
        gain = "None" if result[1:] == (None,) else f"{waveforms.dtype}{list(waveforms.shape[:1])}"
        if found == [f"{waveforms.dtype}{list(waveforms.shape)}", gain]:
            return
    raise ConfigError(
        f"view {view.name} ({view.method}): returns {found} where channel 1 is "
        f"{waveforms.dtype}{list(waveforms.shape)}: {expected}"
    )


def fit_length(
    waveform: Float[Array, "V B T"], length: Int[Array, " B"], n_samples: int, shortest: int
) -> Float[Array, "V B n_samples"]:
    """Repeat each clip and cut it to `n_samples`, on the device, as `audio.fit_length` does.

    Args:
        waveform: views of clips, in their first `length` samples.
        length: length of each clip, at least `shortest`.
        n_samples: length of the result.
        shortest: lower bound of `length`: these samples are copied, not gathered, which is faster.
    """
    copied = min(shortest, n_samples)
    place = jnp.arange(copied, n_samples, dtype=jnp.int32)[None, :] % length[:, None]
    gathered = jnp.take_along_axis(waveform, place[None, :, :], axis=2)
    return jnp.concatenate([waveform[:, :, :copied], gathered], axis=2)

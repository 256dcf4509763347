"""Log-mel spectra of a clip, averaged over areas of several sizes, to find where clips differ.

The spectra are those of the feature `bands` of `spectral_statistics`. An area is some frames (one,
4, 16, or all of the clip) times some bands (one, 8 neighbours, or all). A sound that lasts, a short
event and a tone each stand out most in areas of their own size.

Shapes: L frames, M bands, P ranges of bands, S areas in time.
"""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float64, Int

from asdjax.signal import spectral_statistics as statistics

FRAMES = (1, 4, 16)
"""Frames that are averaged; areas overlap by half. The whole clip is one more size."""
_NEIGHBOURS = 8  # bands that are averaged; ranges overlap by half
_SMALLEST = 0.3  # spread of an average, relative to the median over ranges


@functools.lru_cache
def ranges(sample_rate: int) -> list[tuple[float, float]]:
    """Lowest and highest frequency of each range of bands, hertz: one, then 8, then all bands."""
    edges = statistics.edges(sample_rate)
    return [(edges[first][0], edges[last - 1][1]) for first, last in _members(len(edges))]


def averages(
    waveform: Float[Array, "B T"], length: Int[Array, " B"], *, sample_rate: int
) -> list[tuple[Float[Array, "B S P"], Bool[Array, "B S"]]]:
    """The averages over areas, and which areas lie in the clip, for each size in time.

    The last size is the whole clip, S = 1. An area of n frames begins at a multiple of n / 2
    frames (of 1, if n is 1).

    Args:
        waveform: clips in [-1, 1], padded by zeros.
        length: samples of each clip.
        sample_rate: hertz.

    Example:
        >>> noise = jax.random.normal(jax.random.key(0), (2, 16000))
        >>> found = averages(noise, jnp.array([16000, 8000]), sample_rate=16000)
        >>> [values.shape for values, _ in found]
        [(2, 30, 160), (2, 14, 160), (2, 2, 160), (2, 1, 160)]
    """
    return statistics.each(functools.partial(_averages, sample_rate), waveform, length)


def summary(
    waveform: Float[Array, "B T"], length: Int[Array, " B"], *, sample_rate: int
) -> Float[Array, "B sizes P"]:
    """The mean of each clip's `averages`, and their deviation over time for each size of `FRAMES`.

    Where a clip has less than two areas of a size, the deviation is that of the next smaller size.
    """
    return statistics.each(functools.partial(_summary, sample_rate), waveform, length)


def _averages(
    sample_rate: int, waveform: Float[Array, "T"], length: Int[Array, ""]
) -> list[tuple[Float[Array, "S P"], Bool[Array, "S"]]]:
    frames, used = statistics.log_mel(waveform, length, sample_rate)
    bands = frames.shape[1]
    over = np.zeros((bands, len(_members(bands))))
    for i, (first, last) in enumerate(_members(bands)):
        over[first:last, i] = 1 / (last - first)
    values = jnp.matmul(frames, jnp.asarray(over, frames.dtype), precision="highest")
    inside = used > 0
    found = [(values, inside)]
    for count in FRAMES[1:]:
        half = count // 2
        blocks = len(values) // half
        parts = values[: blocks * half].reshape(blocks, half, values.shape[1])
        means = jnp.mean(parts, axis=1)
        whole = jnp.all(inside[: blocks * half].reshape(blocks, half), axis=1)
        found.append(((means[:-1] + means[1:]) / 2, whole[:-1] & whole[1:]))
    mean = jnp.sum(values * (used / jnp.sum(used))[:, None], axis=0)
    return [*found, (mean[None], jnp.ones(1, bool))]


def _summary(
    sample_rate: int, waveform: Float[Array, "T"], length: Int[Array, ""]
) -> Float[Array, "sizes P"]:
    *short, (mean, _) = _averages(sample_rate, waveform, length)
    rows = [mean[0]]
    for values, inside in short:
        weight = inside.astype(values.dtype)[:, None]
        count = jnp.maximum(jnp.sum(weight), 1)
        centre = jnp.sum(values * weight, axis=0) / count
        squares = jnp.square(values - centre[None, :]) * weight
        deviation = jnp.sqrt(jnp.sum(squares, axis=0) / count)
        smaller = rows[-1] if len(rows) > 1 else jnp.zeros_like(deviation)
        rows.append(jnp.where(count > 1, deviation, smaller))
    return jnp.stack(rows)


def deviations(
    found: Sequence[Float64[np.ndarray, "S P"]], near: Float64[np.ndarray, "K sizes P"]
) -> list[Float64[np.ndarray, "S P"]]:
    """How far a clip's averages are from those of other clips, in standard deviations.

    The variance of an average is that over time within the other clips plus that of their means.

    Args:
        found: a clip's averages, for each size in time.
        near: the summaries of K other clips.
    """
    mean, between = near[:, 0].mean(axis=0), near[:, 0].var(axis=0)
    within = [np.square(near[:, i]).mean(axis=0) for i in range(1, near.shape[1])]
    result = []
    for values, variance in zip(found, [*within, 0.0], strict=True):
        spread = np.sqrt(variance + between)
        spread = np.maximum(spread, max(_SMALLEST * float(np.median(spread)), 1e-6))
        result.append((values - mean) / spread)
    return result


@functools.lru_cache
def _members(bands: int) -> list[tuple[int, int]]:
    """First band of each range, and the one after its last."""
    step = _NEIGHBOURS // 2
    neighbours = [(i, i + _NEIGHBOURS) for i in range(0, bands - _NEIGHBOURS + 1, step)]
    return [*((i, i + 1) for i in range(bands)), *neighbours, (0, bands)]

"""Kaldi's log mel filterbank at 16 kHz, with the settings of BEATs or of AST and EAT.

Frame l has the samples 160 l to 160 l + 399; there are no incomplete frames (Kaldi's `snip_edges`).
For each frame: subtract the mean, apply pre-emphasis (0.97) and a window, take the power
spectrum (512 points), sum it with 128 triangular weights on the mel scale, and take the logarithm.
There is no dither. BEATs takes Povey's window and samples in the range of 16-bit integers; AST and
EAT take a Hann window and samples in [-1, 1].
"""

from functools import partial
from typing import NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from asdjax.config.beats_architecture import BANDS as BANDS
from asdjax.errors import DataError

FRAME, HOP = 400, 160
"""Length of a frame and step between frames, samples (25 ms and 10 ms)."""


class Kind(NamedTuple):
    """What differs between filterbanks."""

    power: float
    """The window is a symmetric Hann window to this power; its ends are zero."""
    scale: int
    """Factor on the samples; a power of two, so that nothing is rounded."""


POVEY = Kind(0.85, 32768)
"""BEATs."""
HANN = Kind(1.0, 1)
"""AST, EAT and SSLAM."""

_RATE = 16000
_N_FFT = 512
_LOW_HZ, _HIGH_HZ = 20.0, 8000.0
_PRE_EMPHASIS = 0.97
_FLOOR = float(np.finfo(np.float32).eps)  # of a band's energy; its logarithm is -15.94
_QUARTER = BANDS // 4


@overload
def frames(samples: int) -> int: ...
@overload
def frames(samples: Int[Array, "*B"]) -> Int[Array, "*B"]: ...
def frames(samples: int | Int[Array, "*B"]) -> int | Int[Array, "*B"]:
    """Number of complete frames in `samples` samples; 0 below `FRAME`."""
    count = 1 + (samples - FRAME) // HOP
    return max(count, 0) if isinstance(samples, int) else jnp.maximum(count, 0)


def samples(frames: int) -> int:
    """The least number of samples that has this many frames, at least one."""
    return FRAME + HOP * (frames - 1)


def normalised(
    features: Float[Array, "B L 128"], mean: float = 15.41663, std: float = 6.55582
) -> Float[Array, "B L 128"]:
    """(features - mean) / (2 std), the defaults being those of BEATs on AudioSet."""
    return (features - mean) / (2 * std)


def fbank(waveform: Float[Array, "B T"], kind: Kind = POVEY) -> Float[Array, "B L 128"]:
    """Log energies in 128 mel bands for each of `frames(T)` frames, in the waveform's dtype.

    A frame depends on its samples only: the first `frames(n)` frames of a padded clip of n samples
    are those of the clip alone.

    Args:
        waveform: clips at 16 kHz in [-1, 1], float32 or float64.
        kind: window and scale.

    Raises:
        AsdjaxError: the clips are shorter than a frame.
        TypeError: the waveform has integers, whose scale is unknown.
    """
    if not jnp.issubdtype(waveform.dtype, jnp.floating):
        raise TypeError(f"a filterbank needs floating-point samples, found {waveform.dtype}")
    if waveform.shape[1] < FRAME:
        raise DataError(
            f"clips of {waveform.shape[1]} samples are too short for a filterbank, which needs "
            f"{FRAME} ({FRAME / _RATE:g} s): repeat or lengthen them"
        )
    energies = partial(_log_energies, kind=kind)
    return jax.lax.platform_dependent(
        waveform,
        cpu=partial(jax.lax.map, energies),  # clip by clip, which stays in the CPU's cache
        default=jax.vmap(energies),
    )


def window(power: float = POVEY.power) -> Float[np.ndarray, "400"]:
    """A symmetric Hann window to a power, float64; 0.85 is Povey's window. Its ends are zero."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / (FRAME - 1))) ** power


def mel_bank() -> Float[np.ndarray, "256 128"]:
    """Weights of the bins 0 to 255 (all below Nyquist) in each band, float32.

    128 triangles of height 1 on the mel scale, between 20 and 8000 Hz, overlapping by half. Band 3
    is so narrow that it has no bin. Every step is in float32, as in torchaudio, whose rounding
    changes weights by 1e-5.
    """
    low, high = (1127 * np.log(1 + hz / 700) for hz in (_LOW_HZ, _HIGH_HZ))
    step, band = np.float32((high - low) / (BANDS + 1)), np.arange(BANDS, dtype=np.float32)
    left, centre, right = (np.float32(low) + (band + np.float32(i)) * step for i in range(3))
    hz = np.arange(_N_FFT // 2, dtype=np.float32) * np.float32(_RATE / _N_FFT)
    ratio = np.float32(1) + hz / np.float32(700)
    # the logarithm in float64: NumPy's in float32 differs between CPUs in the last bit
    mel = np.float32(1127) * np.log(ratio, dtype=np.float64).astype(np.float32)
    rising = (mel[:, None] - left) / (centre - left)
    falling = (right - mel[:, None]) / (right - centre)
    return np.maximum(np.minimum(rising, falling), np.float32(0))


def _log_energies(waveform: Float[Array, "T"], kind: Kind) -> Float[Array, "L 128"]:
    # FFT: a product with the [400, 512] matrix of the transform takes a CPU five times as long
    spectrum = jnp.fft.rfft(_windowed(waveform, kind), axis=-1)  # [L, 257]
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    energies, bank = [], mel_bank()
    for first in range(0, BANDS, _QUARTER):  # a quarter of the bands has weights on few bins
        part = bank[:, first : first + _QUARTER]
        used = np.flatnonzero(part.any(axis=1))
        bins = slice(used[0], used[-1] + 1)
        weights = jnp.asarray(part[bins], power.dtype)
        energies.append(jnp.matmul(power[:, bins], weights, precision="highest"))
    return jnp.log(jnp.maximum(jnp.concatenate(energies, axis=1), _FLOOR))


def _windowed(waveform: Float[Array, "T"], kind: Kind) -> Float[Array, "L 512"]:
    """Frames after subtraction of the mean, pre-emphasis and windowing, padded with zeros.

    With frame mean m and previous sample x', pre-emphasis of the mean-free frame is computed as

        (x - m) - 0.97 (x' - m) = (x - x') + 0.03 (x' - m)

    The right side has smaller terms, hence less rounding, and is exactly 0 for a constant.
    """
    dtype, count = waveform.dtype, frames(len(waveform))
    # frames are assembled from slices of [hops, 160], which is faster than a gather
    hops = count + FRAME // HOP
    x = waveform[: hops * HOP]
    x = jnp.pad(x, (1, hops * HOP - len(x)))
    # `before` are the previous samples. Kaldi uses a frame's first sample as its previous one, but
    # the window is zero there.
    before, x = x[:-1].reshape(hops, HOP), x[1:].reshape(hops, HOP)
    # the scale is a power of two: it can be applied at any point without rounding
    mean, factors = _means(x, count)[:, None], jnp.asarray(kind.scale * window(kind.power), dtype)
    parts = []
    for i in range(0, FRAME, HOP):
        rows, width = slice(i // HOP, i // HOP + count), min(HOP, FRAME - i)
        last = before[rows, :width]
        emphasised = (x[rows, :width] - last) + (1 - _PRE_EMPHASIS) * (last - mean)
        parts.append(emphasised * factors[None, i : i + width])
    return jnp.concatenate([*parts, jnp.zeros((count, _N_FFT - FRAME), dtype)], axis=1)


def _means(x: Float[Array, "hops 160"], count: int) -> Float[Array, "L"]:
    """The mean of every frame, from sums over its hops: two complete ones and a half.

    With a_h the first sample of hop h, D_h the sum over the hop of x - a_h, and D'_h that over its
    first half, frame h has the mean

        a_h + [D_h + D_{h+1} + D'_{h+2} + 160 (a_{h+1} - a_h) + 80 (a_{h+2} - a_h)] / 400

    These are sums of differences, so that the mean of a constant is exact at any level.
    """
    start = x[:, 0]
    whole = jnp.sum(x - start[:, None], axis=1)
    half = jnp.sum(x[:, : HOP // 2] - start[:, None], axis=1)
    first, second, third = start[:count], start[1 : count + 1], start[2 : count + 2]
    differences = whole[:count] + whole[1 : count + 1] + half[2 : count + 2]
    differences += HOP * (second - first) + HOP // 2 * (third - first)
    return first + differences / FRAME

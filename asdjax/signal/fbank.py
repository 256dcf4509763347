"""Kaldi's mel filterbank at 16 kHz with the settings of BEATs.

Frame l holds samples 160 l to 160 l + 399 and nothing beyond the signal's end (Kaldi's
`snip_edges`). Of each frame the mean is removed, a pre-emphasis of 0.97 and Povey's window
applied, the power spectrum of 512 points summed under 128 triangles on the mel scale, and the
logarithm taken. Levels are those of 16-bit integers; there is no dither.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from asdjax.errors import DataError

FRAME, HOP = 400, 160
"""Samples in a frame, and between the starts of two: 25 ms and 10 ms."""
BANDS = 128
"""Values in each frame."""

_RATE = 16000
_N_FFT = 512
_LOW_HZ, _HIGH_HZ = 20.0, 8000.0
_PRE_EMPHASIS = 0.97
_FULL_SCALE = 32768
_FLOOR = float(np.finfo(np.float32).eps)  # of a band's energy, hence -15.94 at the least
_MEAN, _STD = 15.41663, 6.55582  # of the filterbank on AudioSet, from BEATs
_QUARTER = BANDS // 4


def frames(samples: int | Int[Array, "*B"]) -> int | Int[Array, "*B"]:
    """Number of whole frames in so many samples: 0 below `FRAME`."""
    count = 1 + (samples - FRAME) // HOP
    return max(count, 0) if isinstance(samples, int) else jnp.maximum(count, 0)


def normalised(features: Float[Array, "B L 128"]) -> Float[Array, "B L 128"]:
    """BEATs' normalisation: minus AudioSet's mean, over twice its standard deviation."""
    return (features - _MEAN) / (2 * _STD)


def fbank(waveform: Float[Array, "B T"]) -> Float[Array, "B L 128"]:
    """Log energies in 128 mel bands for each of `frames(T)` frames, in the waveform's dtype.

    Frames do not reach into each other: a clip that is the first n samples of a longer row has
    there, as its first `frames(n)` frames, those that it has alone.

    Args:
        waveform: clips at 16 kHz in [-1, 1], float32 or float64.

    Raises:
        AsdjaxError: the clips are shorter than a frame.
        TypeError: the waveform is of integers, whose scale is not known.
    """
    if not jnp.issubdtype(waveform.dtype, jnp.floating):
        raise TypeError(f"a filterbank needs floating-point samples, found {waveform.dtype}")
    if waveform.shape[1] < FRAME:
        raise DataError(
            f"clips of {waveform.shape[1]} samples are too short for a filterbank, which needs "
            f"{FRAME} ({FRAME / _RATE:g} s): repeat or lengthen them"
        )
    return jax.lax.platform_dependent(
        waveform,
        cpu=partial(jax.lax.map, _log_energies),  # all at once, memory would cost as much as sums
        default=jax.vmap(_log_energies),
    )


def window() -> Float[np.ndarray, "400"]:
    """Povey's window, float64: a symmetric Hann window to the power 0.85; its ends are zero."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / (FRAME - 1))) ** 0.85


def mel_bank() -> Float[np.ndarray, "256 128"]:
    """Weights of the bins below Nyquist's in each band: triangles in mel, float32, peak 1.

    The 128 triangles overlap by half between 20 and 8000 Hz; they are not scaled by area, and
    band 3 is so narrow that no bin falls into it. Computed in float32 step by step, because
    torchaudio does: on this scale its rounding moves weights by 1e-5.
    """
    low, high = (1127 * np.log(1 + hz / 700) for hz in (_LOW_HZ, _HIGH_HZ))
    step, band = np.float32((high - low) / (BANDS + 1)), np.arange(BANDS, dtype=np.float32)
    left, centre, right = (np.float32(low) + (band + np.float32(i)) * step for i in range(3))
    hz = np.arange(_N_FFT // 2, dtype=np.float32) * np.float32(_RATE / _N_FFT)
    ratio = np.float32(1) + hz / np.float32(700)
    # the logarithm in float64: NumPy's in float32 differs between processors by a last digit
    mel = np.float32(1127) * np.log(ratio, dtype=np.float64).astype(np.float32)
    rising = (mel[:, None] - left) / (centre - left)
    falling = (right - mel[:, None]) / (right - centre)
    return np.maximum(np.minimum(rising, falling), np.float32(0))


def _log_energies(waveform: Float[Array, "T"]) -> Float[Array, "L 128"]:
    # An FFT: a product with the transform's [400, 512] matrix is as accurate, but takes a CPU about
    # five times as long.
    spectrum = jnp.fft.rfft(_windowed(waveform), axis=-1)  # [L, 257]
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    energies, bank = [], mel_bank()
    for first in range(0, BANDS, _QUARTER):  # each quarter of the bands hears a few bins only
        part = bank[:, first : first + _QUARTER]
        heard = np.flatnonzero(part.any(axis=1))
        bins = slice(heard[0], heard[-1] + 1)
        weights = jnp.asarray(part[bins], power.dtype)
        energies.append(jnp.matmul(power[:, bins], weights, precision="highest"))
    return jnp.log(jnp.maximum(jnp.concatenate(energies, axis=1), _FLOOR))


def _windowed(waveform: Float[Array, "T"]) -> Float[Array, "L 512"]:
    """Frames without mean, pre-emphasised, windowed and followed by zeros."""
    dtype, count = waveform.dtype, frames(len(waveform))
    # Frames as runs of whole hops: slices are faster than a gather.
    hops = count + FRAME // HOP
    x = waveform[: hops * HOP]
    x = jnp.pad(x, (1, hops * HOP - len(x)))
    # Kaldi takes a frame's first sample as its own predecessor; the window is zero there.
    before, x = x[:-1].reshape(hops, HOP), x[1:].reshape(hops, HOP)
    # a power of two may be applied anywhere: no rounding changes
    mean, factors = _means(x, count)[:, None], jnp.asarray(_FULL_SCALE * window(), dtype)
    parts = []
    for i in range(0, FRAME, HOP):
        rows, width = slice(i // HOP, i // HOP + count), min(HOP, FRAME - i)
        last = before[rows, :width]
        # (x - mean) - 0.97 (last - mean) in small terms: less rounding, and a constant is exactly 0
        emphasised = (x[rows, :width] - last) + (1 - _PRE_EMPHASIS) * (last - mean)
        parts.append(emphasised * factors[None, i : i + width])
    return jnp.concatenate([*parts, jnp.zeros((count, _N_FFT - FRAME), dtype)], axis=1)


def _means(x: Float[Array, "hops 160"], count: int) -> Float[Array, "L"]:
    """The mean of every frame, from sums over its two and a half hops.

    They are sums of differences, so that a constant, whatever its level, is its own mean exactly.
    """
    start = x[:, 0]
    whole = jnp.sum(x - start[:, None], axis=1)
    half = jnp.sum(x[:, : HOP // 2] - start[:, None], axis=1)
    own, second, third = start[:count], start[1 : count + 1], start[2 : count + 2]
    differences = whole[:count] + whole[1 : count + 1] + half[2 : count + 2]
    differences += HOP * (second - own) + HOP // 2 * (third - own)
    return own + differences / FRAME

"""Resampling of recordings."""

import functools
import math

import numpy as np
from jaxtyping import Float32, Int16

from asdjax.data.samples import to_float

_PASS_BAND, _STOP_DB = 0.9, 110.0
_MAX_FACTOR = 100_000  # 44101 for 44101 Hz to 16000 Hz; the filter has about 128 taps times that


def resample(
    waveform: Int16[np.ndarray, "T *channels"] | Float32[np.ndarray, "T *channels"],
    rate: int,
    wanted: int,
) -> Float32[np.ndarray, "S *channels"]:
    """Resample with `scipy.signal.resample_poly` and a Kaiser-windowed low-pass filter.

    The passband ends at 0.9 of the lower Nyquist frequency (ripple below 1e-5); above that Nyquist
    frequency the attenuation is more than 100 dB.

    Args:
        waveform: int16, or float32 in [-1, 1].
        rate: its sample rate in Hz.
        wanted: the new sample rate in Hz.

    Returns:
        ceil(T * wanted / rate) samples; integers are scaled to [-1, 1).

    Raises:
        ValueError: the reduced fraction wanted / rate has a term above 100,000.
    """
    from scipy import signal  # takes a second to import, and few commands resample

    up, down = _factors(rate, wanted)
    if waveform.dtype == np.int16:
        waveform = to_float(waveform)
    return signal.resample_poly(waveform, up, down, window=_low_pass(max(up, down)))


def samples_needed(samples: int, rate: int, wanted: int) -> int:
    """The number of input samples that the first `samples` samples of `resample` depend on.

    Raises:
        ValueError: as for `resample`.
    """
    if rate == wanted:
        return samples
    up, down = _factors(rate, wanted)
    reach = len(_low_pass(max(up, down))) // 2  # half the filter, at `up` times the rate
    return ((samples - 1) * down + reach) // up + 1


def _factors(rate: int, wanted: int) -> tuple[int, int]:
    common = math.gcd(rate, wanted)
    up, down = wanted // common, rate // common
    if max(up, down) > _MAX_FACTOR:
        raise ValueError(f"{rate} Hz cannot be resampled to {wanted} Hz: resample the file first")
    return up, down


@functools.lru_cache(maxsize=8)
def _low_pass(factor: int) -> Float32[np.ndarray, " taps"]:
    """A low-pass filter for the lower rate's band, at `factor` times the lower rate."""
    from scipy import signal

    taps, beta = signal.kaiserord(_STOP_DB, (1 - _PASS_BAND) / factor)
    cutoff = (1 + _PASS_BAND) / 2 / factor
    return signal.firwin(taps | 1, cutoff, window=("kaiser", beta)).astype(np.float32)

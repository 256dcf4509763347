"""Resampling of whole recordings, and how much of one the first samples of the result need."""

import functools
import math

import numpy as np
from jaxtyping import Float32, Int16

_PASS_BAND, _STOP_DB = 0.9, 110.0
_MOST_FACTOR = 100_000  # 44101 Hz to 16000 Hz: 44101; a filter has some 128 taps times that


def resample(
    waveform: Int16[np.ndarray, "T *channels"] | Float32[np.ndarray, "T *channels"],
    rate: int,
    wanted: int,
) -> Float32[np.ndarray, "S *channels"]:
    """Resample by `scipy.signal.resample_poly` with a Kaiser window's low-pass filter.

    Up to 0.9 of the lower one of both Nyquist frequencies nothing changes (within 1e-5); what lies
    above that Nyquist frequency is attenuated by more than 100 dB.

    Returns:
        T * wanted / rate samples, rounded up, integers scaled to [-1, 1).

    Raises:
        ValueError: the ratio of the rates is no fraction of moderate integers.
    """
    from scipy import signal  # a second to import, which most commands need not wait for

    up, down = _factors(rate, wanted)
    if waveform.dtype == np.int16:
        waveform = waveform.astype(np.float32) / np.float32(32768)
    return signal.resample_poly(waveform, up, down, window=_low_pass(max(up, down)))


def samples_needed(samples: int, rate: int, wanted: int) -> int:
    """How many samples at `rate` decide the first `samples` of `resample`'s result.

    Raises:
        ValueError: as `resample`.
    """
    if rate == wanted:
        return samples
    up, down = _factors(rate, wanted)
    reach = len(_low_pass(max(up, down))) // 2  # of the filter, at `up` times the rate
    return ((samples - 1) * down + reach) // up + 1


def _factors(rate: int, wanted: int) -> tuple[int, int]:
    common = math.gcd(rate, wanted)
    up, down = wanted // common, rate // common
    if max(up, down) > _MOST_FACTOR:
        raise ValueError(f"{rate} Hz cannot be resampled to {wanted} Hz: resample the file first")
    return up, down


@functools.lru_cache(maxsize=8)
def _low_pass(factor: int) -> Float32[np.ndarray, " taps"]:
    """A filter of unit gain for a rate `factor` times the lower one."""
    from scipy import signal

    taps, beta = signal.kaiserord(_STOP_DB, (1 - _PASS_BAND) / factor)
    cutoff = (1 + _PASS_BAND) / 2 / factor
    return signal.firwin(taps | 1, cutoff, window=("kaiser", beta)).astype(np.float32)

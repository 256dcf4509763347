"""How loud a channel is, and whether it is clipped or has an offset."""

import dataclasses
import math

import numpy as np
from jaxtyping import Shaped

from asdjax.data.samples import to_float

FULL_SCALE = 0.999
"""Samples of this size and larger count as clipped."""
_PART = 2**20  # samples at once: an hour as float64 takes 1 GB


@dataclasses.dataclass(frozen=True)
class Levels:
    """Levels of one channel, relative to full scale, which is 1."""

    level_db: float | None
    """Root mean square without the offset, dB; None: silent."""
    peak_db: float | None
    """Largest sample, dB; None: silent."""
    offset: float
    """Mean."""
    clipped: float
    """Share of clipped samples."""


def measure(samples: Shaped[np.ndarray, " T"]) -> Levels:
    """The levels of one channel, int16 or float, of one sample or more."""
    total, power, peak, clipped = 0.0, 0.0, 0.0, 0
    for first in range(0, len(samples), _PART):
        part = to_float(samples[first : first + _PART], np.float64)
        total += float(np.sum(part))
        power += float(np.sum(np.square(part)))
        peak = max(peak, float(np.max(np.abs(part))))
        clipped += int(np.count_nonzero(np.abs(part) >= FULL_SCALE))
    offset = total / len(samples)
    variance = power / len(samples) - offset**2
    return Levels(
        level_db=10 * math.log10(variance) if variance > 1e-20 else None,
        peak_db=20 * math.log10(peak) if peak > 0 else None,
        offset=offset,
        clipped=clipped / len(samples),
    )

"""From scores to alarms: a conformal threshold and p-value, from scores of normal windows.

Every window of the normal recordings is scored as a new one would be, against the other recordings.
If new normal windows behave like these N, the rank of a new score among them is uniform on 0 .. N.
(Vovk et al. 2005; leave-one-out scores come close to the held-out scores of the theorem.)

A recording of n windows alarms if its worst window is above the threshold for n windows. Its level
for one window is level^(1 / n), so that the recording as a whole keeps the level if its windows are
independent, and exceeds it if they are alike.
"""

import math

import numpy as np
from jaxtyping import Float64

from asdjax.errors import DataError


def smallest_bank(level: float) -> int:
    """The number of normal windows from which a level can be kept."""
    return math.ceil(round(level / (1 - level), 9))


def require_enough(count: int, level: float) -> None:
    """Raise `AsdjaxError` if `count` normal windows are too few for a level."""
    if count < smallest_bank(level):
        raise DataError(
            f"level {level:g} needs {smallest_bank(level)} normal windows or more, found {count}: "
            f"add recordings, or lower the level to {_floor(count / (count + 1))}"
        )


def _floor(level: float) -> str:
    """A level with two digits, rounded down."""
    return f"{math.floor(100 * level) / 100:.2f}"


def threshold(scores: Float64[np.ndarray, " N"], level: float, windows: int = 1) -> float:
    """The threshold for the worst of a recording's windows.

    It is the ceil((N + 1) * level^(1 / windows))-th smallest score of the normal windows, or the
    largest if there are fewer (then alarms are more frequent than 1 - level).

    Args:
        scores: of the normal windows.
        level: intended share of normal recordings without an alarm.
        windows: number of windows of the recording.

    Raises:
        AsdjaxError: there are too few scores for the level with one window.

    Example:
        >>> threshold(np.arange(1.0, 20.0), level=0.9)
        18.0
    """
    count = len(scores)
    require_enough(count, level)
    # rounded first: 0.9 * 10 must give rank 9, not the ceiling of 9.000000000000002
    rank = math.ceil(round((count + 1) * level ** (1 / windows), 9))
    return float(np.sort(scores)[min(rank, count) - 1])


def p_value(scores: Float64[np.ndarray, " N"], worst: float, windows: int = 1) -> float:
    """The probability of so high a score, if the recording is normal.

    1 - (1 - p)^windows, where p = (1 + number of normal scores at or above) / (N + 1).

    Example:
        >>> p_value(np.arange(1.0, 20.0), 18.5)
        0.1
    """
    one = (1 + int(np.count_nonzero(scores >= worst))) / (len(scores) + 1)
    return float(-math.expm1(windows * math.log1p(-one))) if one < 1 else 1.0


def longest_calibrated(count: int, level: float) -> int:
    """The largest number of windows for which `threshold` keeps the level."""
    return max(1, math.floor(round(math.log(level) / math.log(count / (count + 1)), 9)))

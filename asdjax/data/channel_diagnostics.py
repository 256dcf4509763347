"""Diagnostics of a machine's two channels, for users; scores do not depend on them.

Channel 1 is the microphone near the machine: the machine's sound reaches it first.
"""

from collections.abc import Mapping

import numpy as np

from asdjax.store.embeddings import Embeddings
from asdjax.store.scores import CLIP_COLUMNS

_IDENTICAL = 0.9999  # correlation
_MIN_CLIPS, _MIN_SHARE = 5, 2 / 3  # clips with a clear delay; share that suggests a swap


def faults(table: Embeddings) -> list[str]:
    """Sentences on faults of a machine's channels: silent, identical or swapped; usually none."""
    clips = len(table.path)
    found = []
    for channel, silent in ((1, table.silent[:, 0]), (2, table.silent[:, 1])):
        if silent.any():
            found.append(f"channel {channel} is silent in {silent.sum()} of {clips} clips")
    identical = np.abs(table.correlation) > _IDENTICAL
    if identical.any():
        found.append(
            f"the channels are identical in {identical.sum()} of {clips} clips: noise reduction "
            "with channel 2 would remove the machine's sound; check the recordings"
        )
    lag = table.lag[~np.isnan(table.lag) & ~identical]
    first = np.count_nonzero(lag < 0)
    if len(lag) >= _MIN_CLIPS and first > _MIN_SHARE * len(lag):
        found.append(
            f"the channels look swapped: sound reaches channel 2 first in {first} of {len(lag)} "
            f"clips with a clear delay (median level {np.median(table.level_db):+.1f} dB relative "
            "to channel 1); channel 1 must be the microphone near the machine: check the "
            "recordings, unless a louder source is closer to the far microphone"
        )
    return found


def rows(table: Embeddings, by_view: Mapping[str, Embeddings], rate: int) -> list[dict[str, str]]:
    """Diagnostics of a machine, one row per clip: comparison of the channels, gain of each view.

    Args:
        table: the machine's embeddings of a view that uses both channels.
        by_view: its embeddings of each view.
        rate: sample rate in Hz.

    Returns:
        Rows with columns path, split, section, domain, label, level_db, correlation, lag_ms (empty
        without a clear delay), and gain_<view> for each view: its mean gain (empty if channel 2 was
        not used).
    """

    def text(value: float, places: int) -> str:
        return "" if np.isnan(value) else f"{value:.{places}f}"

    return [
        {
            **{name: str(getattr(table, name)[i]) for name in CLIP_COLUMNS},
            "level_db": text(table.level_db[i], 2),
            "correlation": text(table.correlation[i], 4),
            "lag_ms": text(1000 * table.lag[i] / rate, 4),
            **{f"gain_{view}": text(t.gain[i], 4) for view, t in by_view.items()},
        }
        for i in range(len(table.path))
    ]

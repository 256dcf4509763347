"""What a machine's clips tell about its two microphones: diagnostics for people, never for scores.

Channel 1 is the near microphone, so that the machine's sound reaches it first.
"""

from collections.abc import Mapping

import numpy as np

from asdjax.store.runs import CLIP_COLUMNS, Embeddings

_IDENTICAL = 0.9999  # correlation
_FEWEST, _MOSTLY = 5, 2 / 3  # clips with a clear delay, and the share of them that looks swapped


def faults(table: Embeddings) -> list[str]:
    """Sentences on what looks wrong with a machine's channels; empty in the ordinary case."""
    clips = len(table.path)
    found = []
    for channel, silent in ((1, table.silent[:, 0]), (2, table.silent[:, 1])):
        if silent.any():
            found.append(f"channel {channel} is silent in {silent.sum()} of {clips} clips")
    identical = np.abs(table.correlation) > _IDENTICAL
    if identical.any():
        found.append(
            f"the channels are identical in {identical.sum()} of {clips} clips: channel 2 would "
            "take the machine away with the noise; check the recordings"
        )
    lag = table.lag[~np.isnan(table.lag) & ~identical]
    first = np.count_nonzero(lag < 0)
    if len(lag) >= _FEWEST and first > _MOSTLY * len(lag):
        found.append(
            f"the channels look swapped: channel 2 hears the sound first in {first} of {len(lag)} "
            f"clips with a clear delay (median level {np.median(table.level_db):+.1f} dB against "
            "channel 1); channel 1 must be the microphone near the machine: check the recordings, "
            "unless a louder source is nearer to the far one"
        )
    return found


def rows(table: Embeddings, by_view: Mapping[str, Embeddings], rate: int) -> list[dict[str, str]]:
    """Diagnostics of a machine, a row per clip: how its channels compare, and each view's gain.

    Args:
        table: the machine's embeddings under a view that was made from two channels.
        by_view: its embeddings under each view.
        rate: hertz.

    Returns:
        Rows with columns path, split, section, domain, label, level_db, correlation, lag_ms (empty
        where no delay stands out) and gain_<view> for each view: its mean gain, empty where it was
        made without channel 2.
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

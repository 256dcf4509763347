"""What a machine's clips tell about its two microphones: diagnostics for people, never for scores.

Channel 1 is the near microphone, so that the machine's sound reaches it first.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from asdjax.runs import CLIP_COLUMNS, Embeddings

_SILENT_DB = -200.0  # level of channel 2 below which it is silent; of channel 1, with a plus
_IDENTICAL = 0.9999  # correlation


def faults(
    level_db: Float[np.ndarray, " N"],
    correlation: Float[np.ndarray, " N"],
    lag: Float[np.ndarray, " N"],
) -> list[str]:
    """Sentences on what looks wrong with a machine's channels; empty in the ordinary case.

    Args:
        level_db: each clip's level of channel 2 against channel 1.
        correlation: of the channels.
        lag: samples by which channel 2 hears later.
    """
    clips = len(level_db)
    silent, near_silent = level_db < _SILENT_DB, level_db > -_SILENT_DB
    identical = np.abs(correlation) > _IDENTICAL
    first = (lag < 0) & ~silent & ~near_silent & ~identical
    found = []
    if silent.any():
        found.append(
            f"channel 2 is silent in {silent.sum()} of {clips} clips: it cleans nothing there"
        )
    if near_silent.any():
        found.append(f"channel 1 is silent in {near_silent.sum()} of {clips} clips")
    if identical.any():
        found.append(
            f"the channels are identical in {identical.sum()} of {clips} clips: channel 2 would "
            "take the machine away with the noise; check the recordings"
        )
    if first.sum() > clips / 2:
        found.append(
            f"the channels look swapped: channel 2 hears the sound before channel 1 in "
            f"{first.sum()} of {clips} clips (median level {np.median(level_db):+.1f} dB against "
            "channel 1); channel 1 must be the microphone near the machine"
        )
    return found


def rows(tables: Sequence[Embeddings], views: Sequence[str], rate: int) -> list[dict[str, str]]:
    """Diagnostics of a machine, a row per clip: how its channels compare, and each view's gain.

    Args:
        tables: the machine's embeddings under each view.
        views: the views' names.
        rate: hertz.

    Returns:
        Rows with columns path, split, section, domain, label, level_db, correlation, lag_ms and,
        for each view, the mean of its gain; none when channel 2 was not read.
    """
    with_facts = [table for table in tables if not np.isnan(table.level_db).any()]
    if not with_facts:
        return []
    table = with_facts[0]
    return [
        {
            **{name: str(getattr(table, name)[i]) for name in CLIP_COLUMNS},
            "level_db": f"{table.level_db[i]:.2f}",
            "correlation": f"{table.correlation[i]:.4f}",
            "lag_ms": f"{1000 * table.lag[i] / rate:.4f}",
            **{view: f"{t.gain[i]:.4f}" for view, t in zip(views, tables, strict=True)},
        }
        for i in range(len(table.path))
    ]

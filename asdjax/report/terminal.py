"""Spectrograms as text, in the characters that a terminal has."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

_BLOCKS, _ASCII = " ░▒▓█", " .:-=+*#%@"
_MOST_DB, _LEAST_DB = 60.0, 6.0  # range of levels that is drawn, below the loudest
_SOFTEST = 5  # percentage of cells that are drawn as the softest


def characters(encoding: str | None) -> str:
    """Characters from soft to loud that an encoding has."""
    try:
        _BLOCKS.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return _ASCII
    return _BLOCKS


def limits(pictures: Sequence[Float64[np.ndarray, "rows columns"]]) -> tuple[float, float]:
    """The levels in dB between which pictures are drawn, the same for all."""
    cells = np.concatenate([picture.reshape(-1) for picture in pictures])
    high = float(cells.max())
    low = min(max(float(np.percentile(cells, _SOFTEST)), high - _MOST_DB), high - _LEAST_DB)
    return low, high


def spectrogram(
    level_db: Float64[np.ndarray, "rows columns"],
    seconds: float,
    hertz: float,
    characters: str,
    limits: tuple[float, float],
) -> list[str]:
    """The lines of a picture with its axes: time to the right, frequency upwards.

    Args:
        level_db: of the cells, the lowest frequency first.
        seconds: length of the time axis.
        hertz: highest frequency.
        characters: from soft to loud.
        limits: the levels of the softest and the loudest character, dB.
    """
    shade = (level_db - limits[0]) / (limits[1] - limits[0])
    index = np.clip(shade * len(characters), 0, len(characters) - 1).astype(int)
    rows, columns = level_db.shape
    labels = [f"{hertz / 1000:g} kHz", *[""] * (rows - 2), "0 kHz"]
    width = max(map(len, labels))
    lines = [
        f"{label:>{width}} |{''.join(characters[i] for i in row)}|"
        for label, row in zip(labels, index[::-1], strict=True)
    ]
    end = f"{seconds:.3g} s"
    return [*lines, f"{'':{width}}  0 s{end:>{max(columns - 3, 0)}}"]

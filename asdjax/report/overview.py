"""A spectrogram of a few cells, of recordings of any length, by NumPy alone."""

import numpy as np
from jaxtyping import Float64, Shaped

from asdjax.data.samples import to_float

_WINDOW = 1024  # samples
_AT_MOST = 16  # windows that a column is the mean of
_FLOOR = 1e-12  # -120 dB


def spectrogram(
    samples: Shaped[np.ndarray, " T"], columns: int, rows: int
) -> Float64[np.ndarray, "rows columns"]:
    """The level of each cell in dB, 0 for a sine of full scale; the lowest frequency first.

    The columns divide the time, the rows the frequencies up to half of the rate, evenly. A cell is
    the mean over time and the largest over frequency. Of long recordings some windows are left out.

    Args:
        samples: one channel, int16 or float in [-1, 1], of one sample or more.
        columns: number of columns.
        rows: number of rows, at most 512.
    """
    if len(samples) < _WINDOW:
        missing = _WINDOW - len(samples)
        samples = np.pad(samples, (missing // 2, missing - missing // 2))
    last = len(samples) - _WINDOW
    each = int(np.clip(2 * last // (_WINDOW * columns), 1, _AT_MOST))
    starts = np.linspace(0, last, columns * each).round().astype(int)
    window = np.hanning(_WINDOW + 1)[:-1]
    edges = np.linspace(0, _WINDOW // 2 + 1, rows + 1).round().astype(int)
    cells = np.empty((rows, columns))
    for column in range(columns):
        places = starts[column * each : (column + 1) * each, None] + np.arange(_WINDOW)
        spectrum = np.fft.rfft(to_float(samples[places], np.float64) * window)
        power = np.square(np.abs(spectrum) / (window.sum() / 2)).mean(axis=0)
        cells[:, column] = [power[a:b].max() for a, b in zip(edges[:-1], edges[1:], strict=True)]
    return 10 * np.log10(np.maximum(cells, _FLOOR))

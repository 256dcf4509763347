"""Figures as PNG, by matplotlib (extra `plot`)."""

import importlib.util
import io

import numpy as np
from jaxtyping import Float64

from asdjax.detector.explanation import Explanation
from asdjax.errors import ArtifactError
from asdjax.runtime import console

_FEW, _MANY = 3.0, 12.0  # limits of the colours of deviations, standard deviations
_TICKS = (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 40_000)  # hertz
_DYNAMIC_DB = 70.0


def require_matplotlib() -> None:
    """Raise `AsdjaxError` if matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ArtifactError("figures need matplotlib: pip install 'asdjax[plot]'")


def explanation_png(why: Explanation) -> bytes:
    """An explanation as a PNG: the spectrogram, and the map of deviations with its areas.

    Raises:
        AsdjaxError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    found, prediction = why.map, why.prediction
    figure = Figure(figsize=(9, 6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, sharey=True)
    decision = "ALARM" if prediction.alarm else "ok"
    name = console.printable(prediction.file)
    title = f"{'...' + name[-70:] if len(name) > 73 else name}: {decision}, "
    title += f"score {prediction.score:.2f}, threshold {prediction.threshold:.2f}"
    figure.suptitle(title, parse_math=False)
    times, places = _edges(found.seconds), np.arange(len(found.hertz) + 1) - 0.5
    top = float(found.level_db.max())
    image = upper.pcolormesh(
        times, places, found.level_db.T, cmap="magma", vmin=top - _DYNAMIC_DB, vmax=top
    )
    figure.colorbar(image, ax=upper, label="level (dB)")
    most = float(np.clip(np.abs(found.deviations).max(), _FEW, _MANY))
    image = lower.pcolormesh(
        times, places, found.deviations.T, cmap="RdBu_r", vmin=-most, vmax=most
    )
    figure.colorbar(image, ax=lower, label="deviation (std. dev. of normal)")
    for i, area in enumerate(why.areas):
        low, high = np.interp([area.low, area.high], found.hertz, np.arange(len(found.hertz)))
        corner, width, height = (area.start, low - 0.5), area.end - area.start, high - low + 1
        for axes, colour in ((upper, "white"), (lower, "black")):
            frame = Rectangle(corner, width, height, fill=False, ec=colour)
            frame.set_linewidth(2 if i == 0 else 1)
            frame.set_linestyle("-" if i == 0 else "--")
            axes.add_patch(frame)
    ticks = [hz for hz in _TICKS if found.hertz[0] <= hz <= found.hertz[-1]]
    lower.set_yticks(np.interp(ticks, found.hertz, np.arange(len(found.hertz))))
    lower.set_yticklabels([f"{hz / 1000:g} k" if hz >= 1000 else str(hz) for hz in ticks])
    for axes in (upper, lower):
        axes.set_ylabel("frequency (Hz)")
    lower.set_xlabel("time (s)")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _edges(centres: Float64[np.ndarray, " S"]) -> Float64[np.ndarray, " S+1"]:
    """The edges of cells with these centres."""
    if len(centres) == 1:
        return centres[0] + np.array([-0.05, 0.05])
    middle = (centres[:-1] + centres[1:]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])

"""Figures by matplotlib (extra `plot`): pictures of recordings, and drawings of a page."""

import importlib.util
import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from asdjax.detector.explanation import Explanation
from asdjax.errors import ArtifactError
from asdjax.files import atomic
from asdjax.runtime import console

_FEW, _MANY = 3.0, 12.0  # limits of the colours of deviations, standard deviations
_TICKS = (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 40_000)  # hertz
_DYNAMIC_DB = 70.0
_LONGEST_NAME = 200  # bytes of the name of a picture, without number and ending
_HOP = 512  # samples between frames of spectrograms, half a frame
_INK, _DARK = "#e6e6e6", "#16181d"  # letters and ground of pictures on light and on dark pages
_ON_DARK: Any = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), _INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), _INK),
    "figure.facecolor": _DARK,
}
_INK_OF_PAGE = """<style>
svg { color: #1b1b1b; fill: currentColor }
@media (prefers-color-scheme: dark) { svg { color: #e6e6e6 } }
</style>
"""


def require_matplotlib() -> None:
    """Raise `AsdjaxError` if matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ArtifactError("figures need matplotlib: pip install 'asdjax[plot]'")


def picture_paths(folder: Path, files: Sequence[Path], overwrite: bool) -> list[Path]:
    """The path of each recording's picture; a name that is there twice gets a number.

    Raises:
        AsdjaxError: matplotlib is not installed, `folder` is no folder, or a picture exists
            (without `overwrite`).
    """
    require_matplotlib()
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise ArtifactError(f"{folder}: is no folder: name another for the pictures")
    taken: set[str] = set()
    found = []
    for file in files:
        name = console.printable(file.name).replace("\\", "_")
        name = name.encode()[-_LONGEST_NAME:].decode(errors="ignore")
        chosen, number = name, 1
        while chosen in taken:
            number += 1
            chosen = f"{name} ({number})"
        taken.add(chosen)
        found.append(folder / f"{chosen}.png")
        atomic.require_free(found[-1], overwrite)
    return found


def overview_png(
    name: str, pictures: Sequence[tuple[str, Float64[np.ndarray, "F L"], float, int]]
) -> bytes:
    """Spectrograms, one below the other.

    Args:
        name: of the recording.
        pictures: of each its title, levels in dB, length in seconds and sample rate.
    """
    figure = new(9, 0.6 + 2.0 * len(pictures))
    name = console.printable(name)
    figure.suptitle("..." + name[-70:] if len(name) > 73 else name, parse_math=False)
    top = max(float(level.max()) for _, level, _, _ in pictures)
    panels = figure.subplots(len(pictures), 1, squeeze=False)[:, 0]
    for axes, (title, level, seconds, rate) in zip(panels, pictures, strict=True):
        image = axes.imshow(
            level, aspect="auto", origin="lower", extent=(0, seconds, 0, rate / 2000),
            cmap="magma", vmin=top - _DYNAMIC_DB, vmax=top,
        )  # fmt: skip
        axes.set_title(title, fontsize="small", parse_math=False)
        axes.set_ylabel("kHz")
        figure.colorbar(image, ax=axes, label="dB")
    panels[-1].set_xlabel("time (s)")
    return png(figure)


def explanation_png(why: Explanation) -> bytes:
    """An explanation as a PNG: the spectrogram, and the map of deviations with its areas.

    Raises:
        AsdjaxError: matplotlib is not installed.
    """
    figure = new(9, 6)
    from matplotlib.patches import Rectangle

    found, prediction = why.map, why.prediction
    upper, lower = figure.subplots(2, 1, sharex=True, sharey=True)
    decision = "ALARM" if prediction.alarm else "ok"
    name = console.printable(prediction.file)
    title = f"{'...' + name[-70:] if len(name) > 73 else name}: {decision}, "
    title += f"score {prediction.score:.2f}, threshold {prediction.threshold:.2f}"
    figure.suptitle(title, parse_math=False)
    times, places = _edges(found.seconds), np.arange(len(found.hertz) + 1) - 0.5
    bottom, top = np.percentile(found.level_db, [1, 100])
    image = upper.pcolormesh(
        times, places, found.level_db.T, cmap="magma", vmin=max(bottom, top - _DYNAMIC_DB), vmax=top
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
    return png(figure)


def spectrograms(one: np.ndarray, other: np.ndarray, sample_rate: int) -> bytes:
    """Spectrograms of two recordings [T], and their difference over the time of the shorter.

    The difference is that of levels averaged over 8 frames and 16 frequencies: noise then differs
    by less than one decibel. A JPEG, on a dark ground: noise is ten times larger as a PNG.
    """
    require_matplotlib()
    import matplotlib

    with matplotlib.rc_context(_ON_DARK):
        return _spectrograms(one, other, sample_rate)


def _spectrograms(one: np.ndarray, other: np.ndarray, sample_rate: int) -> bytes:
    figure = new(9, 2.9)
    panels = figure.subplots(1, 3, sharey=True)
    titles = "this clip", "most similar normal clip", "difference"
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize="medium")
    powers = [_powers(wave, sample_rate) for wave in (one, other)]
    frames = min(power.shape[1] for power in powers)
    levels = [_decibels(power[:, :frames]) for power in powers]
    top = max(float(level.max()) for level in levels)
    extent = 0, _HOP * frames / sample_rate, 0, sample_rate / 2000
    for axes, level in zip(panels, levels, strict=False):
        image = axes.imshow(
            level, aspect="auto", origin="lower", extent=extent, cmap="magma",
            vmin=top - _DYNAMIC_DB, vmax=top,
        )  # fmt: skip
        axes.set_xlabel("time (s)")
    figure.colorbar(image, ax=panels[1], label="dB")
    averages = [_decibels(_averaged(power[:, :frames], 16, 8)) for power in powers]
    image = panels[2].imshow(
        averages[0] - averages[1], aspect="auto", origin="lower", extent=extent, cmap="RdBu_r",
        vmin=-12, vmax=12,
    )  # fmt: skip
    figure.colorbar(image, ax=panels[2], label="difference (dB)")
    panels[2].set_xlabel("time (s)")
    panels[0].set_ylabel("frequency (kHz)")
    return saved(figure, format="jpeg", pil_kwargs={"quality": 80})


def _powers(wave: np.ndarray, sample_rate: int) -> Float64[np.ndarray, "F L"]:
    """The spectrogram of a waveform [T]: the frames that lie in it, at least one."""
    from scipy.signal import ShortTimeFFT
    from scipy.signal.windows import hann

    padded = np.pad(wave, (0, max(0, 2 * _HOP - len(wave)))).astype(np.float64)
    transform = ShortTimeFFT(hann(2 * _HOP, sym=False), hop=_HOP, fs=sample_rate)
    first = transform.lower_border_end[1]
    last = max(transform.upper_border_begin(len(padded))[1], first + 1)
    return transform.spectrogram(padded, p0=first, p1=last)


def _averaged(
    power: Float64[np.ndarray, "F L"], over_frequencies: int, over_frames: int
) -> Float64[np.ndarray, "f l"]:
    """Means over areas; what is left over at the ends belongs to the last areas."""
    rows, columns = (
        np.arange(0, max(1, size // step) * step, step)
        for size, step in zip(power.shape, (over_frequencies, over_frames), strict=True)
    )
    sums = np.add.reduceat(np.add.reduceat(power, rows, axis=0), columns, axis=1)
    sizes = [
        np.diff([*starts, size])
        for starts, size in ((rows, power.shape[0]), (columns, power.shape[1]))
    ]
    return sums / np.outer(*sizes)


def _decibels(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, 1e-12))


def new(width: float, height: float) -> Any:
    """A figure of a size in inches, without pyplot, which keeps figures."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Any) -> bytes:
    """The content of a figure's file."""
    return saved(figure, format="png")


def svg(figure: Any) -> bytes:
    """The content of a drawing's file: axes and letters are dark on light pages, light on dark."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "asdjax"}):  # equal figures have equal files
        text = saved(figure, format="svg", transparent=True, metadata={"Date": None}).decode()
    text = text.replace("<defs>", f"{_INK_OF_PAGE}<defs>", 1)
    return text.replace(": #000000", ": currentColor").encode()


def saved(figure: Any, **options: Any) -> bytes:
    """The content of a figure's file; letters that the font lacks become boxes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure.savefig(buffer, **options)
    return buffer.getvalue()


def _edges(centres: Float64[np.ndarray, " S"]) -> Float64[np.ndarray, " S+1"]:
    """The edges of cells with these centres."""
    if len(centres) == 1:
        return centres[0] + np.array([-0.05, 0.05])
    middle = (centres[:-1] + centres[1:]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])

"""Figures as PNG, by matplotlib (extra `plot`)."""

import importlib.util
import io
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
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
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder}: is no folder: name another for the pictures")
    taken: Counter[str] = Counter()
    found = []
    for file in files:
        name = console.printable(file.name)[-200:].replace("\\", "_")
        taken[name] += 1
        number = f" ({taken[name]})" if taken[name] > 1 else ""
        found.append(folder / f"{name}{number}.png")
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
    figure = _figure(9, 0.6 + 2.0 * len(pictures))
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
    return _png(figure)


def explanation_png(why: Explanation) -> bytes:
    """An explanation as a PNG: the spectrogram, and the map of deviations with its areas.

    Raises:
        AsdjaxError: matplotlib is not installed.
    """
    figure = _figure(9, 6)
    from matplotlib.patches import Rectangle

    found, prediction = why.map, why.prediction
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
    return _png(figure)


def histogram(
    score: Float64[np.ndarray, " N"],
    label: np.ndarray,
    domain: np.ndarray,
    threshold: Float64[np.ndarray, " N"],
) -> bytes:
    """Distributions of scores by label and domain, with the thresholds.

    Args:
        score: of the clips.
        label: text: normal, anomaly, or empty.
        domain: text: source, target, or empty.
        threshold: of the clips.
    """
    figure = _figure(9, 3.2)
    axes = figure.subplots()
    bins = np.histogram_bin_edges(score, bins=min(40, max(8, len(score) // 4)))
    for kind in sorted({*zip(label.tolist(), domain.tolist(), strict=True)}):
        mask = (label == kind[0]) & (domain == kind[1])
        axes.hist(
            score[mask], bins, histtype="stepfilled", alpha=0.35, edgecolor=_colour(*kind),
            facecolor=_colour(*kind), lw=1.5, label=f"{_words(*kind)} ({mask.sum()})",
        )  # fmt: skip
    for value in np.unique(threshold):
        axes.axvline(value, color="black", ls="--", lw=1)
    axes.set_xlabel("score")
    axes.set_ylabel("clips")
    axes.legend(fontsize="small")
    return _png(figure)


def roc(score: Float64[np.ndarray, " N"], label: np.ndarray, domain: np.ndarray) -> bytes:
    """ROC of each domain's normal clips against the anomalies of both, and of all clips."""
    from sklearn.metrics import roc_auc_score, roc_curve

    figure = _figure(5, 4.4)
    axes = figure.subplots()
    axes.axvspan(0, 0.1, color="0.9", lw=0)
    known = (label == "normal") | (label == "anomaly")
    for name in ["all", *sorted(set(domain))]:
        mask = known & ((label == "anomaly") | (domain == name) | (name == "all"))
        truth = label[mask] == "anomaly"
        if truth.all() or not truth.any():
            continue
        false, true, _ = roc_curve(truth, score[mask])
        area = 100 * roc_auc_score(truth, score[mask])
        axes.plot(false, true, label=f"{name or 'unknown domain'}: AUC {area:.1f} %")
    axes.plot([0, 1], [0, 1], color="0.6", lw=0.8, ls=":")
    axes.set_xlabel("false alarms")
    axes.set_ylabel("detected")
    axes.legend(fontsize="small", loc="lower right")
    return _png(figure)


def plane(embedding: np.ndarray, split: np.ndarray, label: np.ndarray, domain: np.ndarray) -> bytes:
    """Embeddings [N, D] in the plane of their two principal components."""
    figure = _figure(6, 4.8)
    axes = figure.subplots()
    points = embedding.astype(np.float64)
    points = points - points.mean(axis=0)
    left, values, _ = np.linalg.svd(points, full_matrices=False)
    place = (left * values)[:, :2]
    place = np.pad(place, ((0, 0), (0, 2 - place.shape[1])))
    share = 100 * np.square(values[:2]).sum() / max(np.square(values).sum(), 1e-300)
    kinds = sorted({*zip(split.tolist(), label.tolist(), domain.tolist(), strict=True)})
    for kind in kinds:
        mask = (split == kind[0]) & (label == kind[1]) & (domain == kind[2])
        shape = "." if kind[0] == "train" else "x"
        axes.plot(
            *place[mask].T,
            shape,
            ms=5,
            color=_colour(*kind[1:]),
            label=f"{kind[0]} {_words(*kind[1:])}",
        )
    axes.set_title(f"{share:.0f} % of the variance", fontsize="small")
    axes.legend(fontsize="small")
    return _png(figure)


def spectrograms(one: np.ndarray, other: np.ndarray, sample_rate: int) -> bytes:
    """Spectrograms of two recordings [T], and their difference over the time of the shorter.

    A JPEG: noise is ten times larger as a PNG.
    """
    from scipy.signal import ShortTimeFFT
    from scipy.signal.windows import hann

    figure = _figure(11, 3.2)
    panels = figure.subplots(1, 3, sharey=True)
    transform = ShortTimeFFT(hann(1024, sym=False), hop=512, fs=sample_rate)
    levels = []
    for wave in (one, other):
        padded = np.pad(wave, (0, max(0, 1024 - len(wave)))).astype(np.float64)
        levels.append(10 * np.log10(np.maximum(transform.spectrogram(padded), 1e-12)))
    frames = min(level.shape[1] for level in levels)
    top = max(float(level.max()) for level in levels)
    extent = 0, 512 * frames / sample_rate, 0, sample_rate / 2000
    for axes, level in zip(panels, levels, strict=False):
        image = axes.imshow(
            level[:, :frames], aspect="auto", origin="lower", extent=extent, cmap="magma",
            vmin=top - _DYNAMIC_DB, vmax=top,
        )  # fmt: skip
        axes.set_xlabel("time (s)")
    figure.colorbar(image, ax=panels[1], label="dB")
    image = panels[2].imshow(
        levels[0][:, :frames] - levels[1][:, :frames], aspect="auto", origin="lower",
        extent=extent, cmap="RdBu_r", vmin=-20, vmax=20,
    )  # fmt: skip
    figure.colorbar(image, ax=panels[2], label="difference (dB)")
    panels[2].set_xlabel("time (s)")
    panels[0].set_ylabel("frequency (kHz)")
    return _saved(figure, format="jpeg", pil_kwargs={"quality": 80})


def course(log: Sequence[Mapping[str, Any]]) -> bytes:
    """Loss and accuracy by step, of training and validation."""
    figure = _figure(9, 3.2)
    panels = figure.subplots(1, 2)
    for axes, name in zip(panels, ("loss", "accuracy"), strict=True):
        for key, style in ((name, "-"), (f"validation_{name}", "o-")):
            points = [(row["step"], row[key]) for row in log if key in row]
            if points:
                axes.plot(*zip(*points, strict=True), style, ms=3, lw=1, label=key.split("_")[0])
        axes.set_xlabel("step")
        axes.set_ylabel(name)
    panels[0].legend(["training", "validation"][: len(panels[0].lines)], fontsize="small")
    return _png(figure)


def _figure(width: float, height: float) -> Any:
    """A figure of a size in inches, without pyplot, which keeps figures."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Any) -> bytes:
    return _saved(figure, format="png")


def _saved(figure: Any, **options: Any) -> bytes:
    """The content of a figure's file; letters that the font lacks become boxes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure.savefig(buffer, **options)
    return buffer.getvalue()


def _colour(label: str, domain: str) -> str:
    """Anomalies are red, normal clips blue; the target domain is lighter."""
    shades = {"anomaly": ("#b2182b", "#ef8a62"), "normal": ("#2166ac", "#67a9cf")}
    return shades.get(label, ("#555555", "#999999"))[domain == "target"]


def _words(label: str, domain: str) -> str:
    return f"{label or 'unknown'}{f', {domain}' if domain else ''}"


def _edges(centres: Float64[np.ndarray, " S"]) -> Float64[np.ndarray, " S+1"]:
    """The edges of cells with these centres."""
    if len(centres) == 1:
        return centres[0] + np.array([-0.05, 0.05])
    middle = (centres[:-1] + centres[1:]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])

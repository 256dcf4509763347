"""Drawings of scores, decisions, embeddings and the training, as SVG."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from asdjax.report.figures import new, svg
from asdjax.runtime import console

_MOST_GROUPS = 8  # of a legend
_SIZE = 4.6, 3.4  # inches: letters stay readable on a telephone
_LONG = 9, 3.2  # inches, of what is scrolled there
_NORMAL, _NORMAL_TARGET = "#2f7fc4", "#3fa0a8"  # seen on white and on black
_ANOMALY, _ANOMALY_TARGET = "#d03c3c", "#d9822b"
_UNKNOWN, _FAINT = "#808080", "#8888884d"
_WIDE = 5  # largest score over the median above which the axis is logarithmic


def histogram(
    score: Float64[np.ndarray, " N"],
    label: np.ndarray,
    domain: np.ndarray,
    threshold: float,
) -> bytes:
    """Distributions of scores by label and domain, with the threshold.

    Args:
        score: of the clips.
        label: text: normal, anomaly, or empty.
        domain: text: source, target, or empty.
        threshold: above it a clip alarms.
    """
    figure = new(*_SIZE)
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots()
    count = min(40, max(8, len(score) // 4))
    if score.min() > 0 and score.max() > _WIDE * np.median(score):  # a few far above the others
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter("")
        bins = np.geomspace(score.min(), score.max(), count + 1)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
        bins = np.histogram_bin_edges(score, bins=count)
    for kind in _kinds(label, domain):
        mask = (label == kind[0]) & (domain == kind[1])
        axes.hist(
            score[mask], bins, histtype="stepfilled", edgecolor=_colour(*kind),
            facecolor=(_colour(*kind), 0.35), lw=1.5, ls=_line(kind[1]),
            label=f"{_words(*kind)} ({mask.sum()})",
        )  # fmt: skip
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.axvline(threshold, color="black", ls="--", lw=1, label="threshold")
    axes.set_xlabel("score")
    axes.set_ylabel("number")
    _legend(figure)
    return svg(figure)


def roc(score: Float64[np.ndarray, " N"], label: np.ndarray, domain: np.ndarray) -> bytes:
    """ROC of each domain's normal clips against the anomalies of both, and of all clips."""
    from sklearn.metrics import roc_auc_score, roc_curve

    figure = new(*_SIZE)
    axes = figure.subplots()
    axes.axvspan(0, 10, color=_FAINT, lw=0)
    known = label != ""
    names = sorted(set(domain[known]))
    colours = {"source": _NORMAL, "target": _NORMAL_TARGET}
    for name in ["all", *names] if len(names) > 1 else ["all"]:
        mask = known & ((label == "anomaly") | (domain == name) | (name == "all"))
        truth = label[mask] == "anomaly"
        if truth.all() or not truth.any():
            continue
        false, true, _ = roc_curve(truth, score[mask])
        area = 100 * roc_auc_score(truth, score[mask])
        colour = colours.get(name, "black")
        axes.plot(
            100 * false, 100 * true, color=colour, ls=_line(name),
            label=f"{name or 'unknown'}: AUC {area:.1f} %",
        )  # fmt: skip
    axes.plot([0, 100], [0, 100], color=_UNKNOWN, lw=1.2, ls=":")
    axes.set_xlabel("false alarms (% of normal clips)")
    axes.set_ylabel("detected (% of anomalies)")
    _legend(figure)
    return svg(figure)


def calibration(p_value: Float64[np.ndarray, " N"], label: np.ndarray, domain: np.ndarray) -> bytes:
    """The share of clips whose p-value is at most p, by label and domain."""
    figure = new(*_SIZE)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=_UNKNOWN, lw=1.2, ls=":", label="exact for normal clips")
    for kind in _kinds(label, domain):
        found = np.sort(p_value[(label == kind[0]) & (domain == kind[1])])
        share = np.arange(1, len(found) + 1) / len(found)
        axes.step([0, *found, 1], [0, *share, 1], where="post", color=_colour(*kind),
                  ls=_line(kind[1]), label=_words(*kind))  # fmt: skip
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("p-value")
    axes.set_ylabel("share of clips at or below")
    _legend(figure)
    return svg(figure)


def plane(
    place: Float64[np.ndarray, "N 2"], split: np.ndarray, label: np.ndarray, domain: np.ndarray
) -> bytes:
    """Points by split, label and domain."""
    figure = new(4.6, 4.2)
    axes = figure.subplots()
    for kind in sorted({*zip(split.tolist(), label.tolist(), domain.tolist(), strict=True)}):
        mask = (split == kind[0]) & (label == kind[1]) & (domain == kind[2])
        shape = "." if kind[0] == "train" else "x" if kind[2] != "target" else "+"
        words = f"{kind[0]} {_words(*kind[1:])}"
        axes.plot(*place[mask].T, shape, ms=5, color=_colour(*kind[1:]), label=words,
                  rasterized=True)  # fmt: skip
    _legend(figure)
    return _without_ticks(figure)


def groups(place: Float64[np.ndarray, "N 2"], group: Sequence[str]) -> bytes:
    """Points by group, the most frequent groups in colours."""
    from matplotlib import colormaps

    figure = new(4.6, 4.2)
    axes = figure.subplots()
    frequent = [name for name, _ in Counter(group).most_common(_MOST_GROUPS)]
    named = np.array([name if name in frequent else "other" for name in group])
    colours = colormaps["tab10"](range(10))
    for i, name in enumerate([*frequent, "other"]):
        mask = named == name
        if mask.any() and name not in frequent[:i]:
            words = name if len(name) <= 20 else f"{name[:19]}…"
            label = f"{console.printable(words) or 'none'} ({mask.sum()})"
            axes.plot(*place[mask].T, ".", ms=5, color=colours[i], label=label, rasterized=True)
    for text in _legend(figure).get_texts():
        text.set_parse_math(False)
    return _without_ticks(figure)


def course(log: Sequence[Mapping[str, Any]]) -> bytes:
    """Loss and accuracy by step, of training and validation."""
    figure = new(*_LONG)
    panels = figure.subplots(1, 2)
    for axes, name in zip(panels, ("loss", "accuracy"), strict=True):
        for key, style in ((name, "-"), (f"validation_{name}", "o-")):
            points = [(row["step"], row[key]) for row in log if key in row]
            if points:
                axes.plot(*zip(*points, strict=True), style, ms=3, lw=1)
        axes.set_xlabel("step")
        axes.set_ylabel(name)
    panels[0].legend(["training", "validation"][: len(panels[0].lines)], frameon=False)
    return svg(figure)


def intervals(rows: Sequence[tuple[str, float, tuple[float, float] | None]], label: str) -> bytes:
    """Values with intervals, one below the other.

    Args:
        rows: name, value, and interval or None.
        label: of the axis.
    """
    figure = new(8, 0.9 + 0.34 * len(rows))
    axes = figure.subplots()
    for i, (_, value, ends) in enumerate(rows):
        if ends is not None:
            axes.plot(ends, [i, i], color=_NORMAL, lw=2)
        axes.plot([value], [i], "o" if ends is not None else "D", color=_NORMAL, ms=6)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], parse_math=False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.grid(axis="x", color=_FAINT)
    return svg(figure)


def over_time(
    score: Float64[np.ndarray, " N"], threshold: Float64[np.ndarray, " N"], alarm: np.ndarray
) -> bytes:
    """Scores in the order of their recordings, with the threshold; alarms are red."""
    figure = new(*_LONG)
    axes = figure.subplots()
    number = np.arange(1, len(score) + 1)
    axes.plot(number, score, color=_FAINT, lw=1)
    for mask, shape, colour, words in (
        (~alarm, "o", _NORMAL, "ok"),
        (alarm, "D", _ANOMALY, "ALARM"),
    ):
        if mask.any():
            label = f"{words} ({mask.sum()})"
            axes.plot(number[mask], score[mask], shape, ms=4, color=colour, label=label)
    axes.step(number, threshold, where="mid", color="black", ls="--", lw=1, label="threshold")
    if score.max() > _WIDE * max(float(threshold.max()), 1.0):
        axes.set_yscale("symlog", linthresh=2 * max(float(threshold.max()), 1.0))
        axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("recording")
    axes.set_ylabel("score")
    _legend(figure)
    return svg(figure)


def _without_ticks(figure: Any) -> bytes:
    for axes in figure.axes:
        axes.set_xticks([])
        axes.set_yticks([])
    return svg(figure)


def _kinds(label: np.ndarray, domain: np.ndarray) -> list[tuple[str, str]]:
    return sorted({*zip(label.tolist(), domain.tolist(), strict=True)})


def _colour(label: str, domain: str) -> str:
    """Anomalies are red, normal clips blue; of the target domain orange and teal."""
    shades = {"anomaly": (_ANOMALY, _ANOMALY_TARGET), "normal": (_NORMAL, _NORMAL_TARGET)}
    return shades.get(label, (_UNKNOWN, _UNKNOWN))[domain == "target"]


def _line(domain: str) -> str:
    """Lines of the target domain are dashed: colours alone do not tell them apart for all."""
    return "--" if domain == "target" else "-"


def _legend(figure: Any) -> Any:
    """The legend, below the axes, where it hides nothing."""
    handles = figure.axes[0].get_legend_handles_labels()
    return figure.legend(*handles, loc="outside lower center", ncols=2, frameon=False)


def _words(label: str, domain: str) -> str:
    return f"{label or 'unknown'}{f', {domain}' if domain else ''}"

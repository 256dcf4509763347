"""Figures of scores, decisions, embeddings and the training, as PNG."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from asdjax.report.figures import new, png
from asdjax.runtime import console

_MOST_GROUPS = 8  # of a legend
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
    figure = new(6, 4)
    axes = figure.subplots()
    count = min(40, max(8, len(score) // 4))
    if score.min() > 0 and score.max() > _WIDE * np.median(score):  # a few far above the others
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter("")
        bins = np.geomspace(score.min(), score.max(), count + 1)
    else:
        bins = np.histogram_bin_edges(score, bins=count)
    for kind in _kinds(label, domain):
        mask = (label == kind[0]) & (domain == kind[1])
        axes.hist(
            score[mask], bins, histtype="stepfilled", alpha=0.35, edgecolor=_colour(*kind),
            facecolor=_colour(*kind), lw=1.5, label=f"{_words(*kind)} ({mask.sum()})",
        )  # fmt: skip
    axes.axvline(threshold, color="black", ls="--", lw=1, label="threshold")
    axes.set_xlabel("score")
    axes.set_ylabel("number")
    axes.legend(fontsize="small")
    return png(figure)


def roc(score: Float64[np.ndarray, " N"], label: np.ndarray, domain: np.ndarray) -> bytes:
    """ROC of each domain's normal clips against the anomalies of both, and of all clips."""
    from sklearn.metrics import roc_auc_score, roc_curve

    figure = new(6, 4)
    axes = figure.subplots()
    axes.axvspan(0, 10, color="0.9", lw=0)
    known = label != ""
    names = sorted(set(domain[known]))
    colours = {"source": "#2166ac", "target": "#67a9cf"}
    for name in ["all", *names] if len(names) > 1 else ["all"]:
        mask = known & ((label == "anomaly") | (domain == name) | (name == "all"))
        truth = label[mask] == "anomaly"
        if truth.all() or not truth.any():
            continue
        false, true, _ = roc_curve(truth, score[mask])
        area = 100 * roc_auc_score(truth, score[mask])
        colour = colours.get(name, "black")
        axes.plot(
            100 * false, 100 * true, color=colour, label=f"{name or 'unknown'}: AUC {area:.1f} %"
        )
    axes.plot([0, 100], [0, 100], color="0.6", lw=0.8, ls=":")
    axes.set_xlabel("false alarms (% of normal clips)")
    axes.set_ylabel("detected (% of anomalies)")
    axes.legend(fontsize="small", loc="lower right")
    return png(figure)


def calibration(p_value: Float64[np.ndarray, " N"], label: np.ndarray, domain: np.ndarray) -> bytes:
    """The share of clips whose p-value is at most p, by label and domain."""
    figure = new(6, 4)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", lw=0.8, ls=":", label="exact for normal clips")
    for kind in _kinds(label, domain):
        found = np.sort(p_value[(label == kind[0]) & (domain == kind[1])])
        share = np.arange(1, len(found) + 1) / len(found)
        axes.step([0, *found, 1], [0, *share, 1], where="post", color=_colour(*kind),
                  label=_words(*kind))  # fmt: skip
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("p-value")
    axes.set_ylabel("share of clips at or below")
    axes.legend(fontsize="small", loc="lower right")
    return png(figure)


def plane(
    place: Float64[np.ndarray, "N 2"], split: np.ndarray, label: np.ndarray, domain: np.ndarray
) -> bytes:
    """Points by split, label and domain."""
    figure = new(6, 4.6)
    axes = figure.subplots()
    for kind in sorted({*zip(split.tolist(), label.tolist(), domain.tolist(), strict=True)}):
        mask = (split == kind[0]) & (label == kind[1]) & (domain == kind[2])
        shape = "." if kind[0] == "train" else "x"
        words = f"{kind[0]} {_words(*kind[1:])}"
        axes.plot(*place[mask].T, shape, ms=5, color=_colour(*kind[1:]), label=words)
    axes.legend(fontsize="small")
    return _without_ticks(figure)


def groups(place: Float64[np.ndarray, "N 2"], group: Sequence[str]) -> bytes:
    """Points by group, the most frequent groups in colours."""
    from matplotlib import colormaps

    figure = new(6, 4.6)
    axes = figure.subplots()
    frequent = [name for name, _ in Counter(group).most_common(_MOST_GROUPS)]
    named = np.array([name if name in frequent else "other" for name in group])
    colours = colormaps["tab10"](range(10))
    for i, name in enumerate([*frequent, "other"]):
        mask = named == name
        if mask.any() and name not in frequent[:i]:
            words = name if len(name) <= 30 else f"{name[:29]}…"
            label = f"{console.printable(words) or 'none'} ({mask.sum()})"
            axes.plot(*place[mask].T, ".", ms=5, color=colours[i], label=label)
    for text in axes.legend(fontsize="small").get_texts():
        text.set_parse_math(False)
    return _without_ticks(figure)


def course(log: Sequence[Mapping[str, Any]]) -> bytes:
    """Loss and accuracy by step, of training and validation."""
    figure = new(9, 3.2)
    panels = figure.subplots(1, 2)
    for axes, name in zip(panels, ("loss", "accuracy"), strict=True):
        for key, style in ((name, "-"), (f"validation_{name}", "o-")):
            points = [(row["step"], row[key]) for row in log if key in row]
            if points:
                axes.plot(*zip(*points, strict=True), style, ms=3, lw=1, label=key.split("_")[0])
        axes.set_xlabel("step")
        axes.set_ylabel(name)
    panels[0].legend(["training", "validation"][: len(panels[0].lines)], fontsize="small")
    return png(figure)


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
            axes.plot(ends, [i, i], color="#2166ac", lw=2)
        axes.plot([value], [i], "o" if ends is not None else "D", color="#2166ac", ms=6)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], parse_math=False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.grid(axis="x", color="0.9")
    return png(figure)


def over_time(
    score: Float64[np.ndarray, " N"], threshold: Float64[np.ndarray, " N"], alarm: np.ndarray
) -> bytes:
    """Scores in the order of their recordings, with the threshold; alarms are red."""
    figure = new(9, 3.2)
    axes = figure.subplots()
    number = np.arange(1, len(score) + 1)
    axes.plot(number, score, color="0.7", lw=1)
    for mask, colour, words in ((~alarm, "#2166ac", "ok"), (alarm, "#b2182b", "ALARM")):
        if mask.any():
            axes.plot(number[mask], score[mask], ".", color=colour, label=f"{words} ({mask.sum()})")
    axes.step(number, threshold, where="mid", color="black", ls="--", lw=1, label="threshold")
    if score.max() > _WIDE * max(float(threshold.max()), 1.0):
        axes.set_yscale("symlog", linthresh=2 * max(float(threshold.max()), 1.0))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("recording")
    axes.set_ylabel("score")
    axes.legend(fontsize="small")
    return png(figure)


def _without_ticks(figure: Any) -> bytes:
    for axes in figure.axes:
        axes.set_xticks([])
        axes.set_yticks([])
    return png(figure)


def _kinds(label: np.ndarray, domain: np.ndarray) -> list[tuple[str, str]]:
    return sorted({*zip(label.tolist(), domain.tolist(), strict=True)})


def _colour(label: str, domain: str) -> str:
    """Anomalies are red, normal clips blue; the target domain is lighter."""
    shades = {"anomaly": ("#b2182b", "#ef8a62"), "normal": ("#2166ac", "#67a9cf")}
    return shades.get(label, ("#555555", "#999999"))[domain == "target"]


def _words(label: str, domain: str) -> str:
    return f"{label or 'unknown'}{f', {domain}' if domain else ''}"

"""The part of a report on one machine (and section): its scores, decisions, map and mistakes."""

import numpy as np

from asdjax.data.dcase import attributes_of
from asdjax.report import facts, mistakes, score_figures
from asdjax.report.clip_sounds import ClipSounds
from asdjax.report.facts import Facts
from asdjax.report.parts import Figure, Item, Row, Section, Table
from asdjax.runtime import console


def section(of: facts.Section, run: Facts, sounds: ClipSounds | None, shown: int) -> Section:
    """The part on one machine (and section).

    Args:
        of: its clips.
        run: the run.
        sounds: of the clips; None: they are not shown.
        shown: how many mistakes of each kind are shown.
    """
    test, label, domain = of.test, of.label[of.test], of.domain[of.test]
    score = of.score[test]
    pictures: list[Item] = [
        Figure(
            score_figures.histogram(score, label, domain, of.threshold),
            f"scores of {len(score)} test clips",
        )
    ]
    if {"normal", "anomaly"} <= set(label):
        pictures.append(
            Figure(
                score_figures.roc(score, label, domain),
                "ROC; a domain's normal clips against all anomalies; the shaded part counts for "
                "the pAUC",
            )
        )
    pictures.append(
        Figure(
            score_figures.calibration(of.p_values()[test], label, domain),
            "p-values by the training clips' scores: normal clips on the dotted line have the "
            "stated rate of false alarms, above it more",
        )
    )
    pictures.append(
        Figure(
            score_figures.plane(of.place, of.split, of.label, of.domain),
            f"embeddings of the first view: {of.place_words}",
        )
    )
    attributes = [console.printable(attributes_of(path)) or "unknown" for path in of.path]
    if len(set(attributes)) > 1:
        pictures.append(Figure(score_figures.groups(of.place, attributes), "the same by attribute"))
    items: list[Item | Row] = [Row(pictures)]
    if any(label):
        items.append(_decisions(of, run.config.decision.method))
    return Section(run.name(of), items, mistakes.cards(of, sounds, shown))


def _decisions(of: facts.Section, method: str) -> Table:
    rows = [["domain", "false alarms", "detected"]]
    alarm = of.score > of.threshold
    for domain in sorted(set(of.domain[of.test & (of.label != "")])):
        cells = []
        for label in ("normal", "anomaly"):
            mask = of.test & (of.domain == domain) & (of.label == label)
            share = f" ({100 * alarm[mask].mean():.0f} %)" if mask.any() else ""
            cells.append(f"{np.count_nonzero(alarm[mask])} of {mask.sum()}{share}")
        rows.append([domain or "unknown", *cells])
    return Table(rows, f"Decisions at the threshold {of.threshold:.4g} ({method}):")

"""The report of a detector: its bank, threshold, and what it says of recordings."""

import numpy as np

from asdjax.detector.detector import Detector
from asdjax.report import figures
from asdjax.report.parts import Figure, Item, Section, Table

_MOST_ROWS = 200


def sections(detector: Detector) -> list[Section]:
    """The sections of a report of a fitted detector."""
    facts = detector.description()
    rows = [["", ""], *([key, _shown(value)] for key, value in facts.items())]
    scores, count = detector.scores_, len(detector.scores_)
    blank = np.full(count, "")
    items: list[Item] = [
        Figure(
            figures.histogram(
                scores, np.full(count, "normal"), blank, np.full(1, detector.threshold_)
            ),
            "scores of the normal windows, each compared with other recordings; the threshold",
        )
    ]
    return [
        Section("The detector", [Table(rows)]),
        Section("Normal windows", items),
        Section("Normal recordings", [_recordings(detector)]),
    ]


def _recordings(detector: Detector) -> Table:
    """The normal recordings with their highest scores, the most unusual first."""
    highest: dict[str, float] = {}
    for window, score in enumerate(detector.scores_):
        name = detector.window_name(window)
        highest[name] = max(highest.get(name, -np.inf), float(score))
    known = {recording.name: recording for recording in detector.recordings_}
    rows = [["recording", "highest score", "seconds", "Hz", "channels", "level (dB)", "clipped"]]
    ranked = sorted(highest.items(), key=lambda item: -item[1])
    for name, score in ranked[:_MOST_ROWS]:
        found = known[name]
        rows.append([
            name, f"{score:.2f}", f"{found.seconds:.1f}", str(found.rate), str(found.channels),
            f"{found.level_db:.0f}", f"{100 * found.clipped:.2g} %",
        ])  # fmt: skip
    more = f"; the first {_MOST_ROWS} of {len(ranked)}" if len(ranked) > _MOST_ROWS else ""
    return Table(rows, f"The most unusual first{more}")


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

"""The report of a detector: its bank, threshold, and what it said of recordings."""

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from asdjax.detector.detector import Detector
from asdjax.report import score_figures
from asdjax.report.parts import Figure, Item, Row, Section, Table, Text, Tile
from asdjax.runtime import console
from asdjax.store import watch_log

_MOST_ROWS = 200
_MOST_PREDICTIONS = 1000
_LATEST = 50  # rows of a table
_WORDS = {
    "bank": "windows that new ones are compared with",
    "bank_cost": "how much farther normal windows are from these",
    "clip_seconds": "length of a window (s)",
    "hop_seconds": "step between windows (s)",
    "sample_rate": "sample rate (Hz)",
}
_ABSURD = 1e12  # of a score
_SHOWN = (
    "time", "file", "error", "score", "threshold", "alarm", "confirmed", "p_value", "warnings",
    "detector",
)  # fmt: skip


def sections(detector: Detector, log: Path | None = None) -> list[Section]:
    """The sections of a report of a fitted detector.

    Args:
        detector: a fitted detector.
        log: of `asdjax watch`; its last predictions are shown.

    Raises:
        AsdjaxError: the log cannot be read.
    """
    facts = detector.description()
    rows = [["setting", "value"]]
    rows += [[_WORDS.get(key, key), _shown(value)] for key, value in facts.items()]
    scores, count = detector.scores_, len(detector.scores_)
    blank = np.full(count, "")
    items: list[Item] = [
        Figure(
            score_figures.histogram(scores, np.full(count, "normal"), blank, detector.threshold_),
            "scores of the normal windows, each compared with other recordings; the threshold",
        )
    ]
    tiles = [
        Tile(f"{detector.threshold_:.3g}", "threshold", f"level {detector.level:g}"),
        Tile(str(count), "normal windows", f"of {len(detector.recordings_)} recordings"),
    ]
    found = [Section("The detector", [Row(tiles), Table(rows)])]
    if log is not None:
        found.append(Section("Last predictions", _predictions(log, detector.fingerprint())))
    return [
        *found,
        Section("Normal windows", items),
        Section("Normal recordings", [_recordings(detector)]),
    ]


def _predictions(log: Path, detector: str) -> list[Item]:
    last = deque(
        (
            {key: row.get(key) for key in _SHOWN}
            for row in watch_log.documents_of(log)
            if not row.get("earlier")
        ),
        maxlen=_MOST_PREDICTIONS,
    )
    scored = [row for row in last if _is_scored(row)]
    if not last:
        return [Text(f"{log}: no predictions yet.")]
    rows = [["time (UTC)", "recording", "decision", "score", "p-value", "remark"]]
    for row in list(last)[: -_LATEST - 1 : -1]:
        name = "microphone" if row.get("file") is None else console.printable(str(row["file"]))
        time = str(row.get("time", ""))[:19].replace("T", " ")
        if not _is_scored(row):
            rows.append([time, name, "ERROR", "", "", str(row.get("error", ""))])
            continue
        decision = "ALARM" if row["alarm"] else "ok"
        if row["alarm"] != bool(row["confirmed"]):  # by --confirm, over several windows
            decision += ", confirmed" if row["confirmed"] else ", not confirmed"
        p_value, warnings = row["p_value"], row["warnings"]
        rows.append([
            time, name, decision, f"{row['score']:.2f}",
            f"{p_value:.3g}" if isinstance(p_value, float) else "",
            "; ".join(map(str, warnings)) if isinstance(warnings, list) else "",
        ])  # fmt: skip
    items: list[Item] = []
    if other := sum(row["detector"] not in (None, detector) for row in last):
        items.append(Text(f"{other} of them are of another detector, or another level."))
    if scored:
        values = [np.array([row[key] for row in scored]) for key in ("score", "threshold", "alarm")]
        picture = score_figures.over_time(*values)
        items.append(Figure(picture, f"the last {len(scored)} scores of {log}", long=True))
    return [*items, Table(rows, f"The latest {len(rows) - 1}, the last first:")]


def _is_scored(row: Mapping[str, Any]) -> bool:
    numbers = [row.get(key) for key in ("score", "threshold")]
    finite = all(isinstance(value, float) and abs(value) < _ABSURD for value in numbers)
    return finite and isinstance(row.get("alarm"), bool)


def _recordings(detector: Detector) -> Table:
    """The normal recordings with their highest scores, the most unusual first."""
    highest: dict[int, float] = {}
    for window, score in enumerate(detector.scores_):
        recording = detector.window_recording(window)
        highest[recording] = max(highest.get(recording, -np.inf), float(score))
    rows = [["recording", "highest score", "seconds", "Hz", "channels", "level (dB)", "clipped"]]
    ranked = sorted(highest.items(), key=lambda item: -item[1])
    for recording, score in ranked[:_MOST_ROWS]:
        found = detector.recordings_[recording]
        rows.append([
            console.printable(found.name), f"{score:.2f}", f"{found.seconds:.1f}",
            str(found.rate), str(found.channels),
            f"{found.level_db:.0f}", f"{100 * found.clipped:.2g} %",
        ])  # fmt: skip
    more = f"; the first {_MOST_ROWS} of {len(ranked)}" if len(ranked) > _MOST_ROWS else ""
    return Table(rows, f"The most unusual first{more}")


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

"""Prediction: a detector and recordings in, scores and alarms out, one row per recording."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asdjax.data import sound_search
from asdjax.detector.detector import Detector
from asdjax.detector.prediction import SCHEMA, Prediction, table_of
from asdjax.errors import UsageError
from asdjax.files import atomic
from asdjax.files.documents import csv_bytes
from asdjax.runtime import console
from asdjax.store import parquet_files

ALARM = 3
"""Exit code with `fail_on_alarm` if a recording alarms."""
_WIDEST = 60  # characters of a name that others are aligned with


def predict(
    detector: Detector,
    inputs: Sequence[Path],
    *,
    as_json: bool = False,
    csv: Path | None = None,
    parquet: Path | None = None,
    overwrite: bool = False,
    fail_on_alarm: bool = False,
) -> int:
    """Print a row per recording as soon as it is scored, and write tables at the end.

    Args:
        detector: a fitted detector.
        inputs: sound files, and folders to search for them.
        as_json: print a JSON document per line instead of a table.
        csv: file for a table, or None.
        parquet: file for a table, or None.
        overwrite: whether to replace these files.
        fail_on_alarm: whether to return `ALARM` if a recording alarms.

    Returns:
        The exit code: 1 if a recording could not be scored.

    Raises:
        AsdjaxError: a folder has no sound files, or a table cannot be written.
    """
    for path, suffix in ((csv, ".csv"), (parquet, ".parquet")):
        if path is not None and path.suffix.lower() != suffix:
            raise UsageError(f"{path}: the name of this table must end in {suffix}")
        if path is not None:
            atomic.require_free(path, overwrite)
    if parquet is not None:
        parquet_files.require_pyarrow(parquet, "omit --parquet (--csv needs nothing)")
    names = sound_search.files(inputs, "score")
    rows: list[dict[str, Any]] = []
    notes: dict[str, list[str]] = {}
    alarms = failures = 0
    width = min(max(len(console.printable(str(name))) for name in names), _WIDEST)
    if not as_json:
        print(_line("decision", "score", "ratio", "p-value", "start", "file", "nearest", width))
    with console.progress("scoring", len(names), "recordings", minor=True) as advance:
        for prediction in detector.iter_predictions(names, faulty="row"):
            alarms += bool(prediction.alarm)
            failures += prediction.error is not None
            print(_json(prediction) if as_json else _text(prediction, width), flush=True)
            for note in prediction.warnings:
                notes.setdefault(note, []).append(prediction.file)
            if csv or parquet:
                rows.append(prediction.row())
            advance(1, f"{alarms} alarms" if alarms else "")
    if csv is not None:
        atomic.write_bytes(csv, csv_bytes(rows), overwrite=overwrite)
    if parquet is not None:
        content = parquet_files.to_bytes(table_of(rows))
        atomic.write_bytes(parquet, content, overwrite=overwrite)
    for note, files in notes.items():
        more = len(files) - 1
        others = f" (and {more} other{'s' * (more > 1)})" if more else ""
        console.say(f"{files[0]}{others}: {note}")
    count, level = len(names), detector.level
    scored, said = count - failures, f"{count} recording{'s' * (count != 1)}: "
    if scored:
        expected = (1 - level) * scored
        said += (
            f"{alarms} alarm{'s' * (alarms != 1)} at level {level:g} (if all are normal, "
            f"{f'{expected:.0f}' if expected >= 10 else f'{expected:.2g}'} are expected)"
        )
    if failures:
        said += f"{', ' * bool(scored)}{failures} could not be scored"
    console.say(said)
    if fail_on_alarm and alarms:
        return ALARM
    return int(failures > 0)


def _json(prediction: Prediction) -> str:
    return json.dumps({"schema": SCHEMA, **dataclasses.asdict(prediction)}, allow_nan=False)


def _text(prediction: Prediction, width: int) -> str:
    file = console.printable(prediction.file)
    if prediction.error is not None:
        return f"{'ERROR':<8}  {console.printable(prediction.error)}"
    ratio = "" if prediction.ratio is None else f"{prediction.ratio:.2f}"
    p_value = "" if prediction.p_value is None else f"{prediction.p_value:.2g}"
    nearest = prediction.nearest[0].name if prediction.nearest else ""
    return _line(
        "ALARM" if prediction.alarm else "ok",
        f"{prediction.score:.2f}",
        ratio,
        p_value,
        f"{prediction.start:g}",
        file,
        console.printable(nearest),
        width,
    )


def _line(
    decision: str, score: str, ratio: str, p: str, start: str, file: str, near: str, width: int
) -> str:
    numbers = f"{decision:<8}  {score:>7}  {ratio:>6}  {p:>7}  {start:>7}"
    return f"{numbers}  {file:<{width}}  {near}".rstrip()

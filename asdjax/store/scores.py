"""A machine's table of anomaly scores, as a CSV file."""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from asdjax.errors import ArtifactError

CLIP_COLUMNS = ("path", "split", "section", "domain", "label")
"""The first columns of every table of clips."""


_SECTION = re.compile(r"[0-9]{2}")  # as in the names of clips
_VALUES = {
    "split": ("train", "test"),
    "domain": ("source", "target", ""),
    "label": ("normal", "anomaly", ""),
}


def are_clips(rows: Sequence[Mapping[str, str]]) -> bool:
    """Whether the rows of a table describe clips, by their `CLIP_COLUMNS`.

    Sections become part of file names, and rows of an unknown split would have no score: a table
    from an untrusted source may hold anything.
    """
    return (
        {row["split"] for row in rows} == {*_VALUES["split"]}
        and all(
            all(isinstance(row[name], str) for name in CLIP_COLUMNS)
            and row["path"].strip("/")
            and row["path"].isprintable()
            and _SECTION.fullmatch(row["section"])
            and all(row[name] in values for name, values in _VALUES.items())
            for row in rows
        )
        and len({row["path"] for row in rows}) == len(rows)
    )


def parse(path: Path, content: bytes, views: Iterable[str], remedy: str) -> list[dict[str, str]]:
    """The rows of a table of scores, as text by column.

    Args:
        path: the file, for errors.
        content: its content.
        views: the columns of the views' scores.
        remedy: what to do about an invalid row.

    Raises:
        AsdjaxError: it is not a table of training and test clips, or a row lacks a column or has
            an invalid value.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ArtifactError(f"{path}: not a table of scores ({error})") from error
    numbers = {"score", "threshold", *views}
    for number, row in enumerate(rows, start=2):
        if (
            not {*CLIP_COLUMNS, *numbers, "decision"} <= row.keys()
            or not all(_is_finite(row[name]) for name in numbers)
            or row["decision"] not in ("0", "1")
        ):
            raise ArtifactError(f"{path}: line {number} is not a valid row of scores: {remedy}")
    if not are_clips(rows):
        raise ArtifactError(f"{path}: not a table of training and test clips: {remedy}")
    return rows


def _is_finite(text: Any) -> bool:
    """Whether a field of a table is a finite number."""
    try:
        return math.isfinite(float(text))
    except (TypeError, ValueError):
        return False

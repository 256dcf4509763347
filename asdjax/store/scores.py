"""A machine's table of anomaly scores, as a CSV file."""

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from asdjax.errors import ArtifactError

CLIP_COLUMNS = ("path", "split", "section", "domain", "label")
"""The first columns of every table of clips."""


def parse(path: Path, content: bytes, views: Iterable[str], remedy: str) -> list[dict[str, str]]:
    """The rows of a table of scores, as text by column.

    Args:
        path: the file, for errors.
        content: its content.
        views: the columns besides `CLIP_COLUMNS` and `score` that it must have.
        remedy: what to do about an invalid row.

    Raises:
        AsdjaxError: it is not a table, or a row lacks a column or has one that is not a number.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ArtifactError(f"{path}: not a table of scores ({error})") from error
    numbers = {"score", *views}
    for number, row in enumerate(rows, start=2):
        if not {*CLIP_COLUMNS, *numbers} <= row.keys() or not all(
            _is_finite(row[name]) for name in numbers | ({"threshold"} & row.keys())
        ):
            raise ArtifactError(f"{path}: line {number} is not a valid row of scores: {remedy}")
    return rows


def _is_finite(text: Any) -> bool:
    """Whether a field of a table is a finite number."""
    try:
        return math.isfinite(float(text))
    except (TypeError, ValueError):
        return False

"""Manifests: tables that list the clips of a data set, as CSV or Parquet.

Columns: path (absolute, or relative to the manifest), machine, split (train or test); optional:
section (00 to 99), domain (source or target), label (normal or anomaly), channel (counted from 1);
all others are attributes.
"""

import csv
import io
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from asdjax.config.schema import shown, similar
from asdjax.data import dcase, own_folders
from asdjax.data.dcase import Clip, Dataset
from asdjax.data.editions import OWN
from asdjax.errors import DataError
from asdjax.files import user_files

SUFFIXES = (".csv", ".parquet")
_REQUIRED = ("path", "machine", "split")
_OPTIONAL = ("section", "domain", "label", "channel")
_CHOICES: Mapping[str, Mapping[str, Any]] = {
    "split": {"train": "train", "test": "test"},
    "domain": {"source": "source", "target": "target", "": None},
    "label": {"normal": "normal", "anomaly": "anomaly", "": None},
}
_SECTION, _CHANNEL = re.compile(r"[0-9]{1,2}"), re.compile(r"[1-9][0-9]?")
_LARGEST = 2**28  # bytes
_MOST_ROWS, _MOST_COLUMNS = 2_000_000, 1000


def is_manifest(path: Path) -> bool:
    """Whether a path is one of a file that is named as a manifest."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def read(path: Path) -> Dataset:
    """The clips that a manifest lists; no sound file is opened.

    Raises:
        AsdjaxError: the manifest cannot be read, lacks a column, or has an invalid row.
    """
    rows = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)
    clips: dict[str, Clip] = {}
    spelled: dict[str, str] = {}
    for number, row in rows:
        where = f"{path}: row {number}"
        clip = _clip(row, where)
        dcase.check_machine_name(clip.machine, where)
        first = spelled.setdefault(clip.machine.casefold(), clip.machine)
        if first != clip.machine:
            raise DataError(f"{where}: machine {clip.machine} is also spelled {first}: choose one")
        if clip.path in clips:
            raise DataError(f"{where}: {clip.path} is listed twice: remove one row")
        clips[clip.path] = clip
    if not clips:
        raise DataError(f"{path}: lists no clips: add a row for each")
    ordered = tuple(sorted(clips.values(), key=lambda clip: clip.path))
    return Dataset(path.parent, OWN, ordered, (), manifest=path)


def _clip(row: Mapping[str, str], where: str) -> Clip:
    chosen = {name: _choice(row.get(name, ""), name, where) for name in _CHOICES}
    if chosen["split"] == "train" and chosen["label"] == "anomaly":
        raise DataError(f"{where}: label anomaly, but training clips are normal: move it to test")
    section, channel = row.get("section", "") or "0", row.get("channel", "")
    if not _SECTION.fullmatch(section):
        raise DataError(f"{where}: section: expected a number from 0 to 99, found {shown(section)}")
    if channel and not _CHANNEL.fullmatch(channel):
        raise DataError(f"{where}: channel: expected 1, 2, ..., found {shown(channel)}")
    for name in ("path", "machine"):
        text = row[name]
        if not text or not text.isprintable():
            raise DataError(f"{where}: {name}: expected a printable text, found {shown(text)}")
    own = {k: v for k, v in row.items() if k not in (*_REQUIRED, *_OPTIONAL)}
    attributes = "_".join(f"{name}_{value}" for name, value in own.items() if value)
    if chosen["split"] == "train":
        chosen["label"] = "normal"
    return own_folders.clip(
        os.path.normpath(row["path"]).replace(os.sep, "/"),
        unicodedata.normalize("NFC", row["machine"]),
        chosen["split"],
        chosen["label"],
        attributes if chosen["split"] == "train" else "",
        section=section.zfill(2),
        domain=chosen["domain"],
        channel=int(channel) if channel else None,
    )


def _choice(text: str, name: str, where: str) -> Any:
    choices = _CHOICES[name]
    if text.casefold() not in choices:
        expected = " or ".join(filter(None, choices))
        raise DataError(f"{where}: {name}: expected {expected}, found {shown(text)}")
    return choices[text.casefold()]


def _csv(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with a header, by number; separated by comma, semicolon or tab."""
    text = user_files.read_text(path, most=_LARGEST).removeprefix("\ufeff")
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        names = _header(next(reader, []), path)
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(names):
                raise DataError(
                    f"{path}: row {reader.line_num}: {len(row)} values, the header has "
                    f"{len(names)}: correct the row"
                )
            yield reader.line_num, {n: c.strip() for n, c in zip(names, row, strict=True)}
    except csv.Error as error:
        raise DataError(f"{path}: row {reader.line_num}: {error}: correct the file") from error


def _header(names: list[str], path: Path) -> list[str]:
    names = [name.strip().casefold() for name in names]
    for name in _REQUIRED:
        if name not in names:
            hint = similar(name, names)
            raise DataError(
                f"{path}: no column {name}{hint}: a manifest has the columns "
                f"{', '.join(_REQUIRED)}, and may have {', '.join(_OPTIONAL)} and attributes"
            )
    if len(set(names)) < len(names) or "" in names:
        raise DataError(f"{path}: two columns have the same name, or one has none: rename them")
    return names


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"{path}: Parquet files need pyarrow: pip install 'asdjax[parquet]', or give a .csv"
        ) from error
    content = user_files.read_bytes(path, most=_LARGEST)
    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(content))
        rows, columns = file.metadata.num_rows, file.metadata.num_columns
        if rows > _MOST_ROWS or columns > _MOST_COLUMNS:
            raise DataError(
                f"{path}: {rows:,} rows and {columns:,} columns are more than {_MOST_ROWS:,} and "
                f"{_MOST_COLUMNS:,}: divide it"
            )
        table = file.read()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({error}): restore it") from error
    names = _header(table.column_names, path)
    try:
        cells_of_rows = table.to_pylist()
    except (UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: has cells that are no text ({error}): restore it") from error
    for number, row in enumerate(cells_of_rows, start=1):
        cells = {n: _text(value) for n, value in zip(names, row.values(), strict=True)}
        yield number, cells


def _text(value: Any) -> str:
    """A cell as the text that a CSV file would have."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()

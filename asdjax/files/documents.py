"""JSON and CSV files, and digests of files and values."""

import csv
import hashlib
import json
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asdjax.errors import ArtifactError
from asdjax.files import atomic, user_files

_MOST_JSON, _DEEPEST = 2**26, 64  # bytes, and nesting levels
_MOST_DIGITS = 100  # of a whole number


def fingerprint(*parts: Any) -> str:
    """A digest of values that JSON can represent, as 32 hexadecimal digits."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file atomically."""
    atomic.write_bytes(path, json_bytes(document))


def json_bytes(document: Any) -> bytes:
    """A document as the content of a JSON file; `ValueError` for NaN or infinity."""
    return json.dumps(document, indent=1, allow_nan=False).encode() + b"\n"


def csv_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows with equal keys as CSV with a header; floats are written with all their digits."""
    lines: list[str] = []
    # Before Python 3.13, only characters of this line terminator are quoted: readers end at both.
    file = types.SimpleNamespace(write=lines.append)
    writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines).encode()


def read_json(path: Path, remedy: str = "restore the file") -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        remedy: what to do if it is faulty, for errors.

    Raises:
        AsdjaxError: it is not valid JSON or nested too deeply.
    """
    return parse_json(user_files.read_text(path, most=_MOST_JSON), path, remedy)


def parse_json(text: str, path: Path, remedy: str) -> Any:
    """The document in the text of a JSON file; `path` and `remedy` are for errors.

    Raises:
        AsdjaxError: as for `read_json`.
    """
    try:
        document = json.loads(text, parse_int=_whole_number)
        deep = _is_deep(document)
    except ValueError as error:
        raise ArtifactError(f"{path}: cannot be read as JSON ({error}): {remedy}") from error
    except RecursionError:
        deep = True
    if deep:
        raise ArtifactError(f"{path}: more than {_DEEPEST} levels of nesting: {remedy}")
    return document


def _whole_number(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number of more than {_MOST_DIGITS} digits: {text[:20]}...")
    return int(text)


def _is_deep(document: Any) -> bool:
    level = [document]
    for _ in range(_DEEPEST):
        below = [v.values() if isinstance(v, dict) else v for v in level if type(v) in (dict, list)]
        level = [value for values in below for value in values]
    return bool(level)


def present(path: Path) -> bool:
    """Whether `path` is a regular file; `AsdjaxError` for a FIFO, or if it cannot be accessed."""
    try:
        if path.is_file():
            return True
        if path.exists() and not path.is_dir():
            raise ArtifactError(f"{path}: is not a regular file: restore the file")
        return False
    except OSError as error:
        raise ArtifactError(user_files.unreadable(path, error)) from error


def digest(path: Path) -> str:
    """The digest of a file's content, as in artefacts.json."""
    with user_files.open_regular(path) as file:
        return hashlib.file_digest(file, _hash).hexdigest()


def _hash(content: bytes = b"") -> Any:
    return hashlib.blake2b(content, digest_size=16)


def content_digest(content: bytes) -> str:
    """The digest of a file with this content; see `digest`."""
    return _hash(content).hexdigest()

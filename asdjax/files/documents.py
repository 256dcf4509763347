"""Small documents that a command leaves: JSON and CSV files, their digests and fingerprints."""

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asdjax.errors import AsdjaxError
from asdjax.files import atomic, user_files

_MOST_JSON, _DEEPEST = 2**26, 64  # bytes of a document, and levels
_MOST_DIGITS = 100  # of a whole number


def fingerprint(*parts: Any) -> str:
    """A short digest of JSON-able values: equal parts, equal text."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document, whole or not at all."""
    atomic.write_bytes(path, json_bytes(document))


def json_bytes(document: Any) -> bytes:
    """A JSON document as the content of a file; `ValueError` where it holds NaN or infinity."""
    return json.dumps(document, indent=1, allow_nan=False).encode() + b"\n"


def csv_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows that share their keys, as CSV with a header; floats keep all their digits."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def read_json(path: Path) -> Any:
    """Read a JSON document; `AsdjaxError` when it is not one."""
    text, deep = user_files.read_text(path, most=_MOST_JSON), False
    try:
        document = json.loads(text, parse_int=_whole_number)
    except ValueError as error:
        raise AsdjaxError(f"{path}: cannot be read as JSON ({error})") from error
    except RecursionError:
        deep = True
    if deep or _is_deep(document):
        raise AsdjaxError(f"{path}: nested too deeply for a document of asdjax: restore it")
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
    """Whether there is a regular file; `AsdjaxError` where that cannot be told."""
    try:
        return path.is_file()
    except OSError as error:
        raise AsdjaxError(f"{path}: cannot be read ({error.strerror})") from error


def digest(path: Path) -> str:
    """The digest of a file's content, as artefacts.json states it."""
    with user_files.open_regular(path) as file:
        return hashlib.file_digest(file, _hash).hexdigest()


def _hash(content: bytes = b"") -> Any:
    return hashlib.blake2b(content, digest_size=16)


def content_digest(content: bytes) -> str:
    """The digest of a file with this content."""
    return _hash(content).hexdigest()

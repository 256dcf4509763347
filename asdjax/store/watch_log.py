"""The log of `asdjax watch`: a JSON document per line, appended as each recording is scored.

A line is complete or it does not count: what a killed process has left of a line is cut off at the
next start.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from asdjax.errors import ArtifactError
from asdjax.files import atomic, documents, user_files

SCHEMA = "asdjax.watch/1"
_LONGEST_LINE = 2**24  # bytes
_BEGINNING = json.dumps({"schema": SCHEMA}).encode()[:-1]  # of each line
_HOW = "name another log, or delete the line"


class WatchLog:
    """The log, open for appending and locked."""

    def __init__(self, path: Path, descriptor: int):
        """Use `opened` instead."""
        self._path, self._descriptor = path, descriptor

    def append(self, document: Mapping[str, Any]) -> None:
        """Append a document and flush it to the disk.

        Raises:
            AsdjaxError: the log cannot be written, or is no longer at its path.
        """
        if not atomic.is_at(self._descriptor, self._path):
            raise ArtifactError(
                f"{self._path}: was moved, deleted or replaced: start the same command again (with "
                "a new log, everything in the folder is scored again)"
            )
        line = json.dumps({"schema": SCHEMA, **document}, allow_nan=False).encode() + b"\n"
        with atomic.writing(self._path):
            while line:
                line = line[os.write(self._descriptor, line) :]
            os.fsync(self._descriptor)


def documents_of(path: Path) -> Iterator[dict[str, Any]]:
    """The documents of a log, in order; an incomplete last line is passed over.

    Raises:
        AsdjaxError: the file cannot be read, or has lines that are not of this schema.
    """
    try:
        with user_files.open_regular(path) as file:
            number = 0
            while line := file.readline(_LONGEST_LINE + 1):
                number += 1
                if len(line) > _LONGEST_LINE:
                    raise ArtifactError(f"{path}: line {number}: longer than a document: {_HOW}")
                if not line.endswith(b"\n"):
                    return
                where = Path(f"{path}: line {number}")
                text = line.decode("utf-8", errors="replace")
                document = documents.parse_json(text, where, _HOW)
                if not isinstance(document, dict) or document.get("schema") != SCHEMA:
                    raise ArtifactError(f"{where}: not of a log of asdjax watch: {_HOW}")
                yield document
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})") from error


@contextlib.contextmanager
def opened(path: Path) -> Iterator[WatchLog]:
    """Open a log for appending, created if missing, and lock it until the block ends.

    An incomplete last line is cut off.

    Raises:
        AsdjaxError: another process has it open, it is not a regular file, or not a log.
    """
    with atomic.locked(path, f"{path}: another process writes this log: name another"):
        flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with atomic.writing(path):
            descriptor = os.open(path, flags)
        try:
            for _ in documents_of(path):
                pass
            with atomic.writing(path):
                complete = _complete(path)
                first = os.pread(descriptor, len(_BEGINNING), 0)
                if not complete and first != _BEGINNING[: len(first)]:
                    raise ArtifactError(f"{path}: not a log of asdjax watch: name another log")
                os.ftruncate(descriptor, complete)
            yield WatchLog(path, descriptor)
        finally:
            os.close(descriptor)


def _complete(path: Path) -> int:
    """The size of a file's complete lines, bytes."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        while size:
            first = max(0, size - 2**16)
            file.seek(first)
            block = file.read(size - first)
            if b"\n" in block:
                return first + block.rindex(b"\n") + 1
            size = first
    return 0

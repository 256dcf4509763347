"""The log of `asdjax watch`: a JSON document per line, appended as each recording is scored.

A line is complete or it does not count: what a killed process has left of a line is cut off at the
next start. A log that is moved, deleted or emptied meanwhile, as by logrotate, is begun anew.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from asdjax.errors import ArtifactError
from asdjax.files import atomic, documents, user_files
from asdjax.runtime import console

SCHEMA = "asdjax.watch/1"
_LONGEST_LINE = 2**24  # bytes
_BEGINNING = json.dumps({"schema": SCHEMA}).encode()[:-1]  # of each line
_HOW = "name another log, or delete the line"


class WatchLog:
    """The log, open for appending and locked."""

    def __init__(self, path: Path, earlier: Callable[[], Iterable[Mapping[str, Any]]]):
        """Use `opened` instead."""
        self._path, self._earlier = path, earlier
        self._open = contextlib.ExitStack()
        self._descriptor = self._open.enter_context(_locked(path))
        self._size = os.fstat(self._descriptor).st_size

    def append(self, document: Mapping[str, Any]) -> None:
        """Append a document and flush it to the disk.

        Raises:
            AsdjaxError: the log cannot be written.
        """
        self.keep()
        self._write([document])

    def keep(self) -> None:
        """Begin the log anew if it was moved, deleted or cut short; with the lines of `earlier`.

        Raises:
            AsdjaxError: what is now at its path is no log, or it cannot be written.
        """
        with atomic.writing(self._path):
            if (
                atomic.is_at(self._descriptor, self._path)
                and os.fstat(self._descriptor).st_size >= self._size
            ):
                return
        console.say(f"{self._path}: was moved, deleted or cut short: it is begun anew")
        self.close()
        self._descriptor = self._open.enter_context(_locked(self._path))
        listed = {one.get("file"): one.get("identity") for one in documents_of(self._path)}
        self._write([e for e in self._earlier() if listed.get(e["file"]) != e["identity"]])

    def close(self) -> None:
        """Close and unlock the log."""
        self._open.close()

    def _write(self, documents: Iterable[Mapping[str, Any]]) -> None:
        lines = [json.dumps({"schema": SCHEMA, **one}, allow_nan=False) + "\n" for one in documents]
        content = "".join(lines).encode()
        with atomic.writing(self._path):
            while content:
                content = content[os.write(self._descriptor, content) :]
            os.fsync(self._descriptor)
            self._size = os.fstat(self._descriptor).st_size


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
def opened(
    path: Path, earlier: Callable[[], Iterable[Mapping[str, Any]]] = lambda: ()
) -> Iterator[WatchLog]:
    """Open a log for appending, created if missing, and lock it until the block ends.

    An incomplete last line is cut off.

    Args:
        path: of the log.
        earlier: the documents with which a log that is begun anew begins, of recordings that are
            done; each has a `file` and an `identity`.

    Raises:
        AsdjaxError: another process has it open, it is not a regular file, or not a log.
    """
    log = WatchLog(path, earlier)
    try:
        yield log
    finally:
        log.close()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The descriptor of a log that was checked and locked."""
    busy = f"{path}: another process writes this log: name another"
    with atomic.locked(path, busy, replaced=True):
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
            yield descriptor
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

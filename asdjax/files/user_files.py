"""Reading of files that a user names: only regular files, and only up to a maximum size."""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

from asdjax.errors import ArtifactError, AsdjaxError

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def unreadable(path: object, error: Exception) -> str:
    """The message of an error that was raised when a file or folder was read."""
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    remedy = "make it readable, or name another"
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        remedy = "allow more open files (ulimit -n)"
    elif isinstance(error, FileNotFoundError):
        remedy = "correct the path"
    return f"{path}: cannot be read ({why}): {remedy}"


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading bytes; links are followed.

    FIFOs and devices are not opened: a FIFO waits for a writer, a device may have side effects.

    Raises:
        AsdjaxError: the file is missing, not a regular file, or cannot be opened.

    Example:
        >>> with open_regular(Path("config.yaml")) as file:
        ...     content = file.read()
    """
    try:
        _require_regular(path, os.stat(path))
        # O_NONBLOCK: the file may have been replaced by a FIFO, which would block here
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        file = open(descriptor, "rb")
        try:
            _require_regular(path, os.fstat(descriptor))
        except AsdjaxError:
            file.close()
            raise
        return file
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise ArtifactError(unreadable(path, error)) from error


def read_bytes(path: Path, *, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises:
        AsdjaxError: as for `open_regular`, or the file is larger.
    """
    with open_regular(path) as file:
        try:
            content = file.read(most + 1)
        except OSError as error:
            raise ArtifactError(unreadable(path, error)) from error
    if len(content) > most:
        raise ArtifactError(
            f"{path}: larger than {most:,} bytes, the maximum for this kind of file: name another"
        )
    return content


def read_text(path: Path, *, most: int) -> str:
    """The content of a regular file of at most `most` bytes as UTF-8 text.

    Raises:
        AsdjaxError: as for `read_bytes`, or the file is not UTF-8 text.
    """
    return as_text(read_bytes(path, most=most), path)


def as_text(content: bytes, path: Path) -> str:
    """The content of a file as UTF-8 text; `AsdjaxError`, with its path, if it is none."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(
            f"{path}: not UTF-8 text ({error.reason}): save it as UTF-8, or restore it"
        ) from error


def _require_regular(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "not a regular file")
        raise ArtifactError(f"{path}: is {kind}: name a regular file")

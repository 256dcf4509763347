"""Results that appear whole or not at all: written beside their place, then renamed."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from asdjax.errors import AsdjaxError


@contextlib.contextmanager
def whole(folder: Path, *, ours: Callable[[Path], bool], overwrite: bool) -> Iterator[Path]:
    """An empty folder that takes the place of `folder` unless an exception leaves the block.

    Args:
        folder: where the result is to be; directories above it are made.
        ours: whether a folder is such a result: no other is ever replaced.
        overwrite: whether an earlier result may be replaced.

    Raises:
        AsdjaxError: there is something in its place that may not be replaced.
    """
    folder = Path(os.path.realpath(folder))  # of a link, what it names is replaced
    partial, gone = (folder.with_name(f".{folder.name}.{end}") for end in ("partial", "discarded"))
    _tidy(folder, partial, gone)  # after a process that was killed
    check_free(folder, overwrite)
    if folder.exists() and not ours(folder):
        raise AsdjaxError(
            f"{folder}: not a result of this command, and --overwrite replaces no other: name "
            "another place"
        )
    partial.mkdir(parents=True)
    try:
        yield partial
        if folder.exists():
            folder.rename(gone)
        partial.rename(folder)
    finally:
        _tidy(folder, partial, gone)


def check_free(path: Path, overwrite: bool) -> None:
    """Refuse a place that is taken."""
    if path.exists() and not overwrite:
        raise AsdjaxError(f"{path}: exists already: name another place, or give --overwrite")


def _tidy(folder: Path, partial: Path, gone: Path) -> None:
    if gone.exists() and not folder.exists():
        gone.rename(folder)
    for leftover in (partial, gone):
        if leftover.exists():
            shutil.rmtree(leftover)

"""Search for sound files in folders."""

import logging
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from asdjax.data import audio
from asdjax.data.folders import is_folder
from asdjax.errors import DataError, UsageError
from asdjax.files.user_files import unreadable

_LOG = logging.getLogger(__name__)
_MOST_KINDS = 8  # endings of skipped files that are listed in a note


def find(inputs: Sequence[Path], to: str) -> list[tuple[str, Path]]:
    """The name and the path of each sound file that the inputs name, in order.

    The name is the path as it was given, with forward slashes; bytes that are not UTF-8 become
    Python escapes.

    Args:
        inputs: files, which are taken whatever their ending, and folders, whose files are sorted by
            path; with subfolders and links to folders, without hidden files and folders.
        to: what is done with the files, for messages.

    Raises:
        AsdjaxError: there is no such file or folder, or a folder has no sound files.
    """
    found = []
    for given in inputs:
        try:
            folder = stat.S_ISDIR(os.stat(given).st_mode)
        except FileNotFoundError:
            raise DataError(f"{given}: no such file or directory") from None
        except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
            raise DataError(unreadable(given, error)) from error
        paths = sorted(walk(given)) if folder else [given]
        found += [(shown(path), path) for path in paths]
    if not found:
        raise UsageError(f"nothing to {to}: name audio files or directories")
    return found


def files(inputs: Sequence[Path], to: str) -> list[Path]:
    """As `find`, but a path that leads nowhere is kept: reading it says why.

    Raises:
        AsdjaxError: there are no inputs, or a folder has no sound files.
    """
    if not inputs:
        raise UsageError(f"nothing to {to}: name sound files or folders")
    found: list[Path] = []
    for given in inputs:
        inside = find([given], to) if os.path.isdir(given) else []
        found += [path for _, path in inside] or [given]
    return found


def shown(path: Path) -> str:
    """The name of a path, see `find`."""
    return as_text(path.as_posix())


def as_text(text: str) -> str:
    """A text that may have parts of paths, with Python escapes for bytes that are not UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def require_text(path: Path) -> None:
    """Raise `AsdjaxError` if a path is not UTF-8 text."""
    if shown(path) != path.as_posix():
        raise DataError(f"{shown(path)}: the name is not UTF-8 text: rename the file")


def walk(root: Path, also: Collection[str] = ()) -> Iterator[Path]:
    """The audio files below a directory, in no order; logs how many other files are skipped.

    Args:
        root: the directory.
        also: further endings, of files that are found like audio files.

    Each folder is searched once, even if several links lead to it. Links are followed last, so that
    a folder is found under its real path if that is below the directory.

    Raises:
        AsdjaxError: a folder cannot be read, or there are no audio files.
    """
    found = 0
    others: Counter[str] = Counter()
    folders, seen = [root], set()
    links: list[Path] = []
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        try:
            known = os.stat(folder)
            if (known.st_dev, known.st_ino) in seen:
                continue
            seen.add((known.st_dev, known.st_ino))
            with os.scandir(folder) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
            for entry in inside:
                path = folder / entry.name
                if entry.name.startswith("."):
                    others[kind_of_skipped(entry.name, is_folder(entry))] += 1
                elif is_folder(entry):
                    (links if entry.is_symlink() else folders).append(path)
                elif path.suffix.lower() in audio.SUFFIXES or path.suffix.lower() in also:
                    found += 1
                    yield path
                else:
                    others[kind_of_skipped(entry.name, False)] += 1
        except OSError as error:
            raise DataError(unreadable(folder, error)) from error
    if not found:
        endings = ", ".join(sorted(audio.SUFFIXES))
        instead = f"; {skipped(others)}" if others else ""
        raise DataError(f"{root}: contains no audio file ({endings}{instead}): name another folder")
    if others:
        _LOG.warning(f"{root}: {skipped(others)}")


def kind_of_skipped(name: str, folder: bool) -> str:
    """What a skipped entry of a folder is called: by the ending of its name, or hidden."""
    if name.startswith("."):
        return "hidden folder" if folder else "hidden"
    return os.path.splitext(name)[1].lower() or "without ending"


def skipped(others: Counter[str]) -> str:
    """Words for skipped entries of a folder.

    Example:
        >>> skipped(Counter({".m4a": 2, "hidden": 1}))
        '3 entries skipped: 2 .m4a, 1 hidden'
    """
    ranked = sorted(others.items(), key=lambda item: (-item[1], item[0]))
    kinds = [f"{count} {kind}" for kind, count in ranked[:_MOST_KINDS]]
    if rest := sum(count for _, count in ranked[_MOST_KINDS:]):
        kinds.append(f"{rest} of other endings")
    noun = "entry" if others.total() == 1 else "entries"
    return f"{others.total()} {noun} skipped: {', '.join(kinds)}"

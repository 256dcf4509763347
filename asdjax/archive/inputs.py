"""The sound files that the inputs of a job name: folders, patterns, lists, tables, tars, URLs."""

import dataclasses
import fnmatch
import glob
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from asdjax.data import audio, manifests, sound_search
from asdjax.data.retries import Retries
from asdjax.embedder.sound_clips import Channel
from asdjax.errors import AsdjaxError, DataError, UsageError
from asdjax.files import tar_members, url_files, user_files
from asdjax.files.tar_members import Member, Refused
from asdjax.files.url_files import UrlFile

_LOG = logging.getLogger(__name__)
_TAR, _LIST = ".tar", ".txt"
_LARGEST_LIST = 2**30  # bytes
_LOCAL_ALONE = {_TAR, _LIST, *manifests.SUFFIXES}


@dataclasses.dataclass(frozen=True, slots=True)
class Unusable:
    """A recording that cannot be used."""

    path: str
    reason: str


Found = Path | Member | UrlFile | Unusable


def find(inputs: Sequence[Path | str], channel: Channel, retries: Retries) -> Iterator[Found]:
    """The recordings that inputs name, with absolute paths or URLs, in no order.

    Args:
        inputs: sound files; folders, as `sound_search.walk` searches them for sound files and tar
            archives; patterns with * ? [] and
            **; lists of such, one a line (`.txt`, or `@` before the name), with paths relative to
            the list; tables (`manifests`); tar archives. A text is a URL of a sound file, a folder
            or a pattern.
        channel: the channel that is used, which a table must not contradict.
        retries: reads tar archives and lists the folders of URLs.

    Raises:
        AsdjaxError: there are no inputs, one is missing, or a folder, list or table cannot be read.
    """
    if not inputs:
        raise UsageError("nothing to plan: name sound files, folders, lists, tables or archives")
    for given in inputs:
        if isinstance(given, str):
            yield from _of_url(given, retries)
            continue
        marked = given.name.startswith("@") and not os.path.lexists(given)
        if marked:
            given = given.with_name(given.name.removeprefix("@"))
        if marked or (given.suffix.lower() == _LIST and not given.is_dir()):
            for line in user_files.read_text(given, most=_LARGEST_LIST).splitlines():
                if url_files.is_url(line := line.strip()):
                    yield from _of_url(line, retries)
                elif line:
                    yield from _of_input(given.parent / line, channel, retries)
        else:
            yield from _of_input(given, channel, retries)


def _of_input(given: Path, channel: Channel, retries: Retries) -> Iterator[Found]:
    path = Path(os.path.abspath(given))
    if not os.path.lexists(path):
        if not glob.has_magic(str(path)):
            raise DataError(f"{given}: no such file or directory")
        yield from _of_pattern(path, retries)
    elif path.is_dir():
        for file in sound_search.walk(path, also=(_TAR,)):
            if file.suffix.lower() == _TAR:
                yield from _of_tar(file, retries)
            else:
                yield file
    elif manifests.is_manifest(path):
        yield from _of_table(path, channel)
    elif path.suffix.lower() == _TAR:
        yield from _of_tar(path, retries)
    else:
        yield path


def _of_pattern(pattern: Path, retries: Retries) -> Iterator[Found]:
    found, others = 0, Counter[str]()
    for path in _matched(pattern, others):
        if path.is_dir():
            continue
        suffix = path.suffix.lower()
        if suffix == _TAR:
            yield from _of_tar(path, retries)
        elif suffix in audio.SUFFIXES:
            yield path
        else:
            others[sound_search.kind_of_skipped(path.name, False)] += 1
            continue
        found += 1
    if not found:
        raise DataError(f"{pattern}: matches no sound file or tar archive: correct the pattern")
    if others.total():
        _LOG.warning(f"{pattern}: {sound_search.skipped(others)}")


def _matched(pattern: Path, others: Counter[str]) -> Iterator[Path]:
    """The paths that a pattern matches; for `**`, links to folders are counted and not followed.

    `glob` would follow links that lead in circles.
    """
    if "**" not in pattern.parts:
        yield from map(Path, glob.iglob(str(pattern)))
        return

    def fail(error: OSError) -> None:
        raise DataError(user_files.unreadable(error.filename, error)) from error

    first = next(i for i, part in enumerate(pattern.parts) if glob.has_magic(part))
    root, parts = Path(*pattern.parts[:first]), pattern.parts[first:]
    hidden = any(part.startswith(".") for part in parts)
    for folder, inside, names in os.walk(root, onerror=fail):
        inside[:] = (name for name in inside if hidden or not name.startswith("."))
        others["link to a folder"] += sum(os.path.islink(os.path.join(folder, n)) for n in inside)
        above = Path(folder).relative_to(root).parts
        for name in names:
            if _matches((*above, name), parts):
                yield Path(folder, name)


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a file's path match those of a pattern."""
    if not (parts and pattern):
        return not (parts or pattern)
    if pattern[0] == "**":
        deeper = not parts[0].startswith(".") and (
            len(parts) == 1 == len(pattern) or _matches(parts[1:], pattern)
        )
        return deeper or _matches(parts, pattern[1:])
    shown = pattern[0].startswith(".") or not parts[0].startswith(".")
    return shown and fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _of_url(url: str, retries: Retries) -> Iterator[UrlFile]:
    url_files.require_usable(url)
    pattern, suffix = glob.has_magic(url), Path(url).suffix.lower()
    if suffix in audio.SUFFIXES and not pattern:
        yield UrlFile(url)  # asked for by threads: a list may have very many
        return
    given = retries(lambda: url_files.file_at(url))
    if given is not None:
        if suffix in _LOCAL_ALONE:
            raise DataError(
                f"{url}: lists, tables and tar archives are read from local disks: copy it, and "
                "give the copy"
            )
        yield given
        return
    found, others = 0, Counter[str]()
    for name, file in _matching(url, retries) if pattern else _inside(url, retries):
        hidden = name.startswith(".")
        if file is None or hidden or Path(name).suffix.lower() not in audio.SUFFIXES:
            others[sound_search.kind_of_skipped(name, file is None)] += 1
        else:
            found += 1
            yield file
    if not found:
        endings = ", ".join(sorted(audio.SUFFIXES))
        instead = f"; {sound_search.skipped(others)}" if others else ""
        what = "matches no sound file" if pattern else "contains no sound file"
        raise DataError(f"{url}: {what} ({endings}{instead}): correct the URL")
    if others:
        _LOG.warning(f"{url}: {sound_search.skipped(others)}")


def _matching(pattern: str, retries: Retries) -> Iterator[tuple[str, UrlFile]]:
    """The files that a pattern of URLs matches, with the first hidden part of their path."""
    for path, file in retries(lambda: url_files.matching(pattern)):
        *folders, name = path.split("/")
        yield next((part for part in folders if part.startswith(".")), name), file


def _inside(folder: str, retries: Retries) -> Iterator[tuple[str, UrlFile | None]]:
    """The names of the files and hidden folders in a folder and its subfolders."""
    folders = [folder.rstrip("/")]
    while folders:
        place = folders.pop()
        for name, file in retries(partial(url_files.entries, place)):
            if file is None and not name.startswith("."):
                folders.append(f"{place}/{name}")
            else:
                yield name, file


def _of_table(path: Path, channel: Channel) -> Iterator[Path]:
    dataset = manifests.read(path)
    for clip in dataset.clips:
        if channel != "each" and clip.channel not in (None, channel):
            raise DataError(
                f"{path}: {clip.path}: states channel {clip.channel}, but channel {channel} is "
                "used: choose it with --channel, or plan a job for each channel"
            )
        yield dataset.root / clip.path


def _of_tar(path: Path, retries: Retries) -> Iterator[Member | Unusable]:
    others, found = Counter[str](), 0
    try:
        for member in retries(lambda: list(tar_members.members(path))):
            if isinstance(member, Refused) and not member.name:
                found += 1
                yield Unusable(str(path), member.reason)
            elif member.name and Path(member.name).suffix.lower() not in audio.SUFFIXES:
                others[sound_search.kind_of_skipped(Path(member.name).name, False)] += 1
            elif isinstance(member, Member):
                found += 1
                yield member
            else:
                found += 1
                yield Unusable(str(path / member.name.lstrip("/")), member.reason)
    except AsdjaxError as error:
        yield Unusable(str(path), str(error).removeprefix(f"{path}: "))
        return
    if not found:
        yield Unusable(str(path), "has no sound file: leave it out")
    if others:
        _LOG.warning(f"{path}: {sound_search.skipped(others)}")

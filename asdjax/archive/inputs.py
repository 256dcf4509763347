"""The sound files that the inputs of a job name: folders, patterns, lists, tables, tar archives."""

import dataclasses
import glob
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from asdjax.data import audio, manifests, sound_search
from asdjax.data.retries import Retries
from asdjax.embedder.sound_clips import Channel
from asdjax.errors import AsdjaxError, DataError, UsageError
from asdjax.files import tar_members, user_files
from asdjax.files.tar_members import Member, Refused

_LOG = logging.getLogger(__name__)
_TAR, _LIST = ".tar", ".txt"
_LARGEST_LIST = 2**30  # bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Unusable:
    """A recording that cannot be used."""

    path: str
    reason: str


Found = Path | Member | Unusable


def find(inputs: Sequence[Path], channel: Channel, retries: Retries) -> Iterator[Found]:
    """The recordings that inputs name, with absolute paths, in no order.

    Args:
        inputs: sound files; folders, as `sound_search.walk` searches them; patterns with * ? [] and
            **; lists of such, one a line (`.txt`, or `@` before the name), with paths relative to
            the list; tables (`manifests`); tar archives.
        channel: the channel that is used, which a table must not contradict.
        retries: reads tar archives.

    Raises:
        AsdjaxError: there are no inputs, one is missing, or a folder, list or table cannot be read.
    """
    if not inputs:
        raise UsageError("nothing to plan: name sound files, folders, lists, tables or archives")
    for given in inputs:
        marked = given.name.startswith("@") and not os.path.lexists(given)
        if marked:
            given = given.with_name(given.name.removeprefix("@"))
        if marked or (given.suffix.lower() == _LIST and not given.is_dir()):
            for line in user_files.read_text(given, most=_LARGEST_LIST).splitlines():
                if line := line.strip():
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
        yield from sound_search.walk(path)
    elif manifests.is_manifest(path):
        yield from _of_table(path, channel)
    elif path.suffix.lower() == _TAR:
        yield from _of_tar(path, retries)
    else:
        yield path


def _of_pattern(pattern: Path, retries: Retries) -> Iterator[Found]:
    found, others = 0, Counter[str]()
    for name in glob.iglob(str(pattern), recursive=True):
        path = Path(name)
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
    if others:
        _LOG.warning(f"{pattern}: {sound_search.skipped(others)}")


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
            elif Path(member.name).suffix.lower() not in audio.SUFFIXES:
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
        _LOG.info(f"{path}: {sound_search.skipped(others)}")

"""Which layout a data set has: the challenge's, folders of a user's own, or a manifest."""

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from asdjax.data import dcase, editions, manifests, own_folders, sound_files
from asdjax.data.dcase import Dataset, FaultyFile
from asdjax.data.editions import AUTO, OWN
from asdjax.data.folders import SPLITS, machine_folders
from asdjax.errors import DataError

_LOG = logging.getLogger(__name__)
_CHALLENGE = re.compile(r"section_(?P<section>[0-9]{2})_|(normal_|anomaly_)?id_[0-9]{2}_[0-9]{8}")
"""The beginning of a clip's name in the challenge, of any year."""


def find(data: Path, edition: str) -> Dataset:
    """The clips of a data set by names, or by its manifest; no sound file is opened for reading.

    Args:
        data: the root of a data set, or a manifest.
        edition: name of the edition; "auto": recognised, and logged if it is no challenge's newest.

    Raises:
        AsdjaxError: there is no data set, or the edition does not suit it.
    """
    if manifests.is_manifest(data):
        if edition not in (AUTO, OWN):
            raise DataError(
                f"{data}: a manifest is no data of {edition}: set dataset.edition to {AUTO}"
            )
        return manifests.read(data)
    if os.path.exists(data) and not os.path.isdir(data):
        raise DataError(
            f"{data}: not a folder, nor a manifest (a file named {' or '.join(manifests.SUFFIXES)})"
            ": give the root of a data set"
        )
    if edition == OWN:
        return own_folders.scan(data)
    if edition != AUTO:
        return dcase.scan(data, edition)
    if not os.path.isdir(data):
        return dcase.scan(data, editions.NEWEST)  # which says so
    names = list(_challenge_clips(data))
    if names or not own_folders.has_machines(data):
        return dcase.scan(data, _edition(data, names))
    own = own_folders.scan(data)
    if any(_CHALLENGE.match(clip.name) for clip in own.clips):  # in folders that are misnamed
        return dcase.scan(data, editions.NEWEST)
    _LOG.warning(f"{data}: not data of a challenge: read as folders of machines of your own")
    return own


def _challenge_clips(root: Path) -> Iterator[tuple[str, str, Path]]:
    """Machine, section and path of every file that is named as a clip of a challenge."""
    try:
        for folder in machine_folders(root):
            for split in SPLITS:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    for name in sorted(os.listdir(folder / split)):
                        if match := _CHALLENGE.match(name):
                            section = match["section"] or "00"
                            yield folder.name, section, folder / split / name
    except OSError as error:
        raise DataError(
            f"{error.filename}: cannot be listed ({error.strerror}): make it readable, or name "
            "another folder"
        ) from error


def _edition(root: Path, clips: list[tuple[str, str, Path]]) -> str:
    """The edition whose machines, sections and channels are those of the clips."""
    mono = False
    for _, _, path in clips[:1]:
        with contextlib.suppress(FaultyFile):  # it will be reported later
            mono = sound_files.inspect(path).channels == 1
    likely = editions.likeliest({m for m, _, _ in clips}, {s for _, s, _ in clips}, mono=mono)
    if likely != [editions.NEWEST]:
        others = f" ({', '.join(likely[1:])} have the same machines)" if likely[1:] else ""
        _LOG.warning(f"{root}: read as {likely[0]}{others}; another: --dataset.edition")
    return likely[0]

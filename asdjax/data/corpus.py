"""A data set that was scanned, checked and found clean: what the verbs work on."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from asdjax.config.recipe import AudioConfig, Config, DatasetConfig, ProblemKind
from asdjax.data import audio, copies, dcase, editions
from asdjax.data.audio import Header
from asdjax.runtime import console

_MOST_NOTES = 5


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Clean clips with their headers."""

    dataset: dcase.Dataset
    headers: dict[str, Header]
    """By clip path; the clips of `dataset` and no others."""
    skipped: dict[ProblemKind, int]
    """Faulty files left out by `dataset.skip`, by kind."""

    @property
    def root(self) -> Path:
        """Clip paths are relative to this folder."""
        return self.dataset.root

    @property
    def pcm16(self) -> bool:
        """Whether every clip is 16-bit, so that waveforms can stay integers until the device."""
        return all(header.subtype == "PCM_16" for header in self.headers.values())


def survey(
    root: Path, choice: DatasetConfig, sound: AudioConfig
) -> tuple[dcase.Dataset, dict[str, Header]]:
    """A data set with all its problems, and its readable files' headers by path.

    Raises:
        AsdjaxError: no data set here.
    """
    checked, headers = audio.check(dcase.scan(root, choice.edition), sound)
    problems = sorted([*checked.problems, *copies.find(checked, headers)])
    return dataclasses.replace(checked, problems=tuple(problems)), headers


def edition_note(dataset: dcase.Dataset, headers: Mapping[str, Header]) -> str | None:
    """A sentence where the data set looks like another edition's, else None."""
    mono = bool(headers) and all(header.channels == 1 for header in headers.values())
    # Of misnamed files as well: the sections of another edition are no names in this one.
    paths = [found.path.split("/") for found in dataset.clips + dataset.problems]
    machines = {path[-3] for path in paths if len(path) > 2}
    return editions.better_edition(dataset.edition, machines, mono=mono)


def open_corpus(root: Path, config: Config) -> Corpus:
    """Scan a data set and look into every file.

    What else lies there unread, and whether it looks like another edition, is said on standard
    error.

    Raises:
        AsdjaxError: no data set here, or faulty files of kinds that `dataset.skip` does not name.
    """
    surveyed, headers = survey(root, config.dataset, config.audio)
    if note := edition_note(surveyed, headers):
        console.say(f"{root}: {note}")
    clean, skipped = dcase.require_clean(surveyed, config.dataset.skip)
    for unused in surveyed.unused[:_MOST_NOTES]:
        console.say(f"{root}/{unused.folder}: not used: {unused}")
    if (more := len(surveyed.unused) - _MOST_NOTES) > 0:
        console.say(f"{root}: and {more} more folders not used (asdjax data names them)")
    if skipped:
        counts = ", ".join(f"{n} {kind}" for kind, n in skipped.items())
        console.say(f"{root}: left out by dataset.skip: {counts}")
    return Corpus(clean, {clip.path: headers[clip.path] for clip in clean.clips}, skipped)

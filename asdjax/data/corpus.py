"""A data set that was scanned and checked, without faulty files."""

import dataclasses
import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from asdjax.config.recipe import AudioConfig, Config, DatasetConfig, ProblemKind
from asdjax.data import audio, copies, dcase, editions, layouts
from asdjax.data.audio import Header
from asdjax.data.batches import OwnSound
from asdjax.errors import DataError
from asdjax.files import documents

_log = logging.getLogger(__name__)
_MOST_NOTES = 5


@dataclasses.dataclass(frozen=True)
class PseudoLabels:
    """The classes of the training clips, for dataset.label pseudo."""

    classes: Mapping[str, str]
    """By clip path."""
    made_from: str
    """Fingerprint of everything that they depend on."""


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The clips without problems, with their headers."""

    dataset: dcase.Dataset
    headers: dict[str, Header]
    """By clip path: one for each clip of `dataset`."""
    skipped: dict[ProblemKind, int]
    """Number of faulty files that `dataset.skip` excluded, by kind."""
    sample_rate: int
    """Hertz, of the samples that are read."""
    any_sound: bool
    """Whether files may be of any format, rate and number of channels."""
    pseudo: PseudoLabels | None = None
    """Only with dataset.label pseudo."""

    @property
    def root(self) -> Path:
        """Clip paths are relative to this folder."""
        return self.dataset.root

    @property
    def pcm16(self) -> bool:
        """Whether every clip is 16-bit PCM: waveforms then are int16 up to the device."""
        return all(header.subtype == "PCM_16" for header in self.headers.values())

    def own_sound(self, clips: Sequence[dcase.Clip]) -> OwnSound | None:
        """How clips are read, if the data is a user's own."""
        if not self.any_sound:
            return None
        return OwnSound(self.sample_rate, [clip.channel for clip in clips])

    def classes(self, clips: Sequence[dcase.Clip], label: str) -> list[str]:
        """The class of each training clip; `label` is a value of `DatasetConfig.label`."""
        if label == "pseudo":
            if self.pseudo is None:
                raise DataError("dataset.label pseudo: the pseudo-labels have not been computed")
            return [self.pseudo.classes[clip.path] for clip in clips]
        return [dcase.class_name(clip, label) for clip in clips]

    def digests(self, clips: Iterable[dcase.Clip]) -> list[tuple[str, str]]:
        """The path of each clip and the digest of its file, which is read once.

        What is known of a clip of a user's own follows: it may change while the path does not.
        """
        facts = {clip.path: self._facts(clip) for clip in clips}
        paths = list(facts)
        new = sorted({*paths} - self._digests.keys())
        with ThreadPoolExecutor() as pool:
            found = pool.map(audio.fingerprint, (self.root / path for path in new))
            self._digests.update(zip(new, found, strict=True))
        return [(path, self._digests[path] + of_clip) for path, of_clip in facts.items()]

    def _facts(self, clip: dcase.Clip) -> str:
        """What a clip is besides its path and content; empty if its path states it all."""
        if self.dataset.edition != editions.OWN:
            return ""
        return "/" + documents.fingerprint(dataclasses.astuple(clip))

    @functools.cached_property
    def _digests(self) -> dict[str, str]:
        return {}


def survey(
    root: Path, choice: DatasetConfig, sound: AudioConfig
) -> tuple[dcase.Dataset, dict[str, Header]]:
    """A data set with all its problems, and the headers of its readable files by path.

    Args:
        root: the data set's root, or its manifest.
        choice: the edition, which may be recognised (see `layouts.find`).
        sound: sample rate and channel.

    Raises:
        AsdjaxError: there is no data set at `root`.
    """
    return _surveyed(layouts.find(root, choice.edition), sound)


def _surveyed(
    dataset: dcase.Dataset, sound: AudioConfig
) -> tuple[dcase.Dataset, dict[str, Header]]:
    checked, headers = audio.check(dataset, sound)
    problems = sorted([*checked.problems, *copies.find(checked, headers, sound.channel)])
    return dataclasses.replace(checked, problems=tuple(problems)), headers


def edition_note(dataset: dcase.Dataset, headers: Mapping[str, Header]) -> str | None:
    """A sentence if the data set looks like one of another edition, else None."""
    if dataset.edition == editions.OWN:
        return None
    mono = bool(headers) and all(header.channels == 1 for header in headers.values())
    # also of misnamed files: file names of another edition may not be valid in this one
    paths = [found.path.split("/") for found in dataset.clips + dataset.problems]
    machines = {path[-3] for path in paths if len(path) > 2}
    return editions.better_edition(dataset.edition, machines, mono=mono)


def open_corpus(root: Path, config: Config) -> Corpus:
    """Scan a data set and check every file.

    Folders that are not used, skipped files and signs of another edition are logged as warnings.

    Raises:
        AsdjaxError: there is no data set at `root`, or it has faulty files of kinds that
            `dataset.skip` does not name.
    """
    return check(layouts.find(root, config.dataset.edition), config)


def check(dataset: dcase.Dataset, config: Config) -> Corpus:
    """Check every file of a data set; see `open_corpus`."""
    root = dataset.source
    surveyed, headers = _surveyed(dataset, config.audio)
    if note := edition_note(surveyed, headers):
        _log.warning(f"{root}: {note}")
    clean, skipped = dcase.require_clean(surveyed, config.dataset.skip)
    for unused in surveyed.unused[:_MOST_NOTES]:
        _log.warning(f"{root}/{unused.folder}: not used: {unused}")
    if (more := len(surveyed.unused) - _MOST_NOTES) > 0:
        _log.warning(f"{root}: {more} more folders are not used (asdjax data lists them)")
    if skipped:
        counts = ", ".join(f"{n} {kind}" for kind, n in skipped.items())
        _log.warning(f"{root}: excluded by dataset.skip: {counts}")
    _log.info(f"{root}: {len(clean.clips)} clips ({clean.edition}), all files checked")
    headers = {clip.path: headers[clip.path] for clip in clean.clips}
    any_sound = clean.edition == editions.OWN or audio.is_resampled(clean, config.audio)
    return Corpus(clean, headers, skipped, config.audio.sample_rate, any_sound)


def resolved(config: Config, corpus: Corpus) -> Config:
    """The configuration with the edition that the data set was read as."""
    dataset = dataclasses.replace(config.dataset, edition=corpus.dataset.edition)
    return dataclasses.replace(config, dataset=dataset)

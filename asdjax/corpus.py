"""A data set that was scanned, checked and found clean: what the verbs work on."""

import dataclasses
from pathlib import Path

from asdjax import audio, console, dcase
from asdjax.audio import Header
from asdjax.config import Config


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Clean clips with their headers."""

    dataset: dcase.Dataset
    headers: dict[str, Header]
    """By clip path; the clips of `dataset` and no others."""
    skipped: dict[str, int]
    """Faulty files left out by `dataset.skip`, by kind."""

    @property
    def root(self) -> Path:
        """Clip paths are relative to this folder."""
        return self.dataset.root

    @property
    def pcm16(self) -> bool:
        """Whether every clip is 16-bit, so that waveforms can stay integers until the device."""
        return all(header.subtype == "PCM_16" for header in self.headers.values())


def open_corpus(root: Path, config: Config) -> Corpus:
    """Scan a data set and look into every file.

    Raises:
        AsdjaxError: no data set here, or faulty files of kinds that `dataset.skip` does not name.
    """
    scanned = dcase.scan(root, config.dataset.edition)
    checked, headers = audio.check(scanned, config.audio)
    clean, skipped = dcase.require_clean(checked, config.dataset.skip)
    if skipped:
        counts = ", ".join(f"{n} {kind}" for kind, n in skipped.items())
        console.say(f"{root}: left out by dataset.skip: {counts}")
    return Corpus(clean, {clip.path: headers[clip.path] for clip in clean.clips}, dict(skipped))

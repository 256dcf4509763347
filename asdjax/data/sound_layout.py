"""Position and number of the samples in a sound file, as found by each format's reader."""

import dataclasses
from pathlib import Path

from asdjax.config.recipe import ProblemKind
from asdjax.data.dcase import FaultyFile, Problem


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """Position and number of the samples in a file that was checked to its last byte."""

    start: int = 0
    """Byte offset of the samples; FLAC: of STREAMINFO; 0 for other compressed formats."""
    size: int = 0
    """Bytes of samples in the file; 0 for compressed formats."""
    stated: bool = True
    """False: the header has no length, as written by streaming recorders."""
    frames: int | None = None
    """Samples per channel, if the format stores or counts them apart from `size`."""
    least: int = 0
    """Samples per channel that a decoder must return at least; it may drop encoder padding."""


@dataclasses.dataclass(frozen=True, slots=True)
class WavLayout(Layout):
    """Layout and sample format of a WAV, RF64 or W64 file."""

    frames: int = 0
    frame: int = 0
    """Bytes per frame: one sample of each channel."""
    rate: int = 0
    """Hertz."""
    channels: int = 0
    misread: bool = False
    """Whether libsndfile reads floats as integers (W64 with an extensible header)."""
    subtype: str = ""
    """Sample format by libsndfile's name."""


def fault(path: Path, kind: ProblemKind, reason: str) -> FaultyFile:
    """The error for a faulty file."""
    return FaultyFile(Problem(str(path), kind, reason))


def require_whole(path: Path, stated: int, found: int, unit: str) -> None:
    """Check that the header's length is the length of the file's sound.

    Args:
        path: the file, for errors.
        stated: the length in the header.
        found: the length found in the file.
        unit: the unit of both, for errors.

    Raises:
        FaultyFile: the file is truncated, or has sound that its header does not count.
    """
    if stated != found:
        kind: ProblemKind = "truncated" if stated > found else "wrong_length"
        reason = f"the header states {stated} {unit}, the file has {found}: restore the file"
        raise fault(path, kind, reason if stated > found else f"{reason} or correct its header")

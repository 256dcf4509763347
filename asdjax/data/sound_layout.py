"""Where a container keeps its samples: what each format's reader finds, in one shape."""

import dataclasses
from pathlib import Path

from asdjax.config.recipe import ProblemKind
from asdjax.data.dcase import FaultyFile, Problem


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """What a container says of its samples, once every byte of the file is accounted for."""

    start: int = 0
    """Where the samples begin, bytes; of formats that are not compressed, as `size`."""
    size: int = 0
    """Bytes of samples that are in the file."""
    stated: bool = True
    """False: a streaming recorder's header, which leaves the length open."""
    frames: int | None = None
    """Samples per channel, where the container says it in a place of its own."""
    least: int = 0
    """Samples per channel that a decoder must find, where it leaves out what its encoder added."""


@dataclasses.dataclass(frozen=True, slots=True)
class WavLayout(Layout):
    """What a header of the WAV family says beyond that."""

    frames: int = 0
    frame: int = 0
    """Bytes of one sample of all channels."""
    rate: int = 0
    channels: int = 0
    misread: bool = False
    """Whether libsndfile takes floats for integers (W64 with an extensible header)."""
    subtype: str = ""
    """Sample format in libsndfile's words."""


def fault(path: Path, kind: ProblemKind, reason: str) -> FaultyFile:
    """The error of a faulty file."""
    return FaultyFile(Problem(str(path), kind, reason))


def require_whole(path: Path, stated: int, held: int, unit: str) -> None:
    """Compare the length that a header states with what the file holds.

    Raises:
        FaultyFile: the file is cut off, or holds sound that its header does not count.
    """
    if stated > held:
        reason = f"the header promises {stated} {unit}, the file holds {held}"
        raise fault(path, "truncated", reason)
    if stated < held:
        raise fault(
            path,
            "wrong_length",
            f"the header states {stated} {unit}, the file holds {held}: restore the file or "
            "correct its header",
        )

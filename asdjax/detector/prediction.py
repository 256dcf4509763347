"""What a detector says of a recording."""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from asdjax.store.detector_file import NormalRecording

SCHEMA = "asdjax.prediction/1"
COLUMNS = (
    "file", "start", "seconds", "windows", "score", "threshold", "ratio", "p_value", "alarm",
    "nearest", "warnings", "error",
)  # fmt: skip
"""The columns of tables of predictions."""

SILENT_DB = -100.0
"""A level below counts as silence, decibels of full scale; one step of 16 bits has -90."""
_ABSURD_DB = 200.0  # a level above; squares of such samples are infinite in float32
_LEVEL_DB = 6.0  # how far a level may be outside of those of the normal recordings
_CLIPPED = 1e-3  # share of clipped samples that needs no mention


@dataclasses.dataclass(frozen=True)
class Nearest:
    """A normal window that is similar to the worst window of a recording."""

    name: str
    """Of the normal recording."""
    start: float
    """Seconds from its beginning."""
    distance: float
    """See `Ensemble.nearest`."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The score of a recording and the decision; `error` says why there is none."""

    file: str
    """The path as it was given, or the number of an array."""
    start: float = 0.0
    """Beginning of the worst window, seconds."""
    seconds: float = 0.0
    """Length of the recording."""
    windows: int = 0
    """Number of windows."""
    window_scores: tuple[float, ...] = ()
    """Of all windows, in order."""
    score: float | None = None
    """Of the worst window; larger is more anomalous, and 0 is a typical normal window."""
    threshold: float | None = None
    """For a recording of as many windows."""
    ratio: float | None = None
    """Score divided by threshold; None if the threshold is not above 0."""
    p_value: float | None = None
    """Probability of so high a score, if the recording is normal (conformal)."""
    alarm: bool | None = None
    """Whether the score is above the threshold."""
    nearest: tuple[Nearest, ...] = ()
    """The most similar normal windows, nearest first."""
    warnings: tuple[str, ...] = ()
    """In what the recording is unlike the normal ones, apart from its score."""
    error: str | None = None
    """Why the recording could not be scored."""

    def row(self) -> dict[str, Any]:
        """The prediction as one flat row, with `COLUMNS` as keys."""
        values = {name: getattr(self, name) for name in COLUMNS}
        values["nearest"] = "; ".join(f"{near.name} at {near.start:g} s" for near in self.nearest)
        values["warnings"] = "; ".join(self.warnings)
        return values


def table_of(
    rows: Sequence[dict[str, Any]], about: Mapping[str, str] = MappingProxyType({})
) -> Any:
    """Rows of predictions (`Prediction.row`) as a table of pyarrow, with `about` as metadata."""
    import pyarrow

    kinds = {
        "start": pyarrow.float64(), "seconds": pyarrow.float64(), "windows": pyarrow.int32(),
        "score": pyarrow.float64(), "threshold": pyarrow.float64(), "ratio": pyarrow.float64(),
        "p_value": pyarrow.float64(), "alarm": pyarrow.bool_(),
    }  # fmt: skip
    fields = [pyarrow.field(name, kinds.get(name, pyarrow.string())) for name in COLUMNS]
    schema = pyarrow.schema(fields, {"schema": SCHEMA, **about})
    return pyarrow.Table.from_pylist(list(rows), schema)


def unusable(found: NormalRecording, channel: int) -> str | None:
    """Why a recording cannot be used: the channel in use is silent, or far beyond full scale."""
    if found.level_db > _ABSURD_DB:
        return (
            f"{found.name}: its level is {found.level_db:.0f} dB, far beyond full scale: record it "
            "again"
        )
    if found.level_db >= SILENT_DB:
        return None
    if found.channels == 1:
        return f"{found.name}: is silent: check the microphone, and record again or leave it out"
    return (
        f"{found.name}: channel {channel} is silent: check the microphone, or choose another "
        "channel when fitting"
    )


def unlike(
    found: NormalRecording, normal: Sequence[NormalRecording], clip_seconds: float
) -> list[str]:
    """In what a recording differs from all normal ones, other than in what a score tells."""
    notes = []
    if found.digest in {recording.digest for recording in normal}:
        notes.append("the detector has learned it as normal, so that its score says nothing")
    if found.seconds < clip_seconds / 2:
        notes.append(
            f"it has {found.seconds:.2g} s, less than half of the detector's {clip_seconds:.3g} s: "
            "its score is uncertain"
        )
    levels = [recording.level_db for recording in normal]
    lowest, highest = min(levels), max(levels)
    if not lowest - _LEVEL_DB <= found.level_db <= highest + _LEVEL_DB:
        notes.append(
            f"its level is {found.level_db:.0f} dB, that of normal recordings {lowest:.0f} to "
            f"{highest:.0f} dB: was the microphone moved, or its gain changed?"
        )
    if found.clipped > max(_CLIPPED, 2 * max(recording.clipped for recording in normal)):
        notes.append(f"{100 * found.clipped:.2g} % of its samples are clipped: lower the gain")
    for what, value, usual in (
        ("Hz", found.rate, {recording.rate for recording in normal}),
        ("channels", found.channels, {recording.channels for recording in normal}),
    ):
        if value not in usual:
            others = ", ".join(map(str, sorted(usual)))
            notes.append(f"it has {value} {what}, normal recordings have {others}")
    return notes

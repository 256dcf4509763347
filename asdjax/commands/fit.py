"""Fitting: normal recordings of a machine in, one file with a detector out; and its update."""

import os
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from asdjax.detector.detector import Detector
from asdjax.errors import ArtifactError, UsageError
from asdjax.files import atomic
from asdjax.runtime import console
from asdjax.store.detector_file import SUFFIX, NormalRecording

_UNUSUAL = 5.0  # robust standard deviations from which a normal recording is named
_MOST_NAMED = 5
_FEW = 20  # windows below which more are recommended
_LEVEL_DB = 10.0  # from the median level


def fit(
    detector: Detector,
    inputs: Sequence[Path],
    out: Path,
    *,
    overwrite: bool = False,
    skip_faulty: bool = False,
) -> None:
    """Fit a detector to normal recordings and write it to a file.

    Args:
        detector: with its settings, not fitted.
        inputs: sound files, and folders to search for them.
        out: the file, whose name ends in .asd.
        overwrite: whether to replace an existing file.
        skip_faulty: whether faulty and silent recordings are left out instead of refused.

    Raises:
        AsdjaxError: recordings are faulty, there are too few, or `out` cannot be written.
    """
    _require_some(inputs)
    require_free(out, overwrite)
    detector.fit([*inputs], faulty="skip" if skip_faulty else "raise")
    detector.save(out, overwrite=overwrite)
    _describe(detector, out)


def require_free(out: Path, overwrite: bool) -> None:
    """Raise `AsdjaxError` if a detector cannot be written to `out`."""
    _require_suffix(out)
    atomic.require_free(out, overwrite)


def _require_suffix(out: Path) -> None:
    if out.suffix != SUFFIX:
        raise UsageError(f"{out}: the name of a detector must end in {SUFFIX}")


def update(
    path: Path,
    inputs: Sequence[Path],
    *,
    out: Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    embedder: Path | None = None,
    skip_faulty: bool = False,
) -> None:
    """Add normal recordings to a detector, as if it had been fitted to all of them.

    Args:
        path: the detector's file.
        inputs: sound files, and folders to search for them.
        out: a new file for the result; None: `path` is replaced.
        overwrite: whether to replace an existing `out`.
        dry_run: whether to say what would change, and write nothing.
        embedder: where a trained embedder is now, if it has moved.
        skip_faulty: as in `fit`.

    Raises:
        AsdjaxError: as for `fit`, or another process updates the detector; it is then unchanged.
    """
    _require_some(inputs)
    if not os.path.exists(path):
        raise ArtifactError(f"{path}: no such detector: make one with asdjax fit")
    if out is not None:
        require_free(out, overwrite)
    with atomic.locked(path, f"{path}: another process is updating this detector", replaced=True):
        detector = Detector.load(path, embedder=embedder)
        change = detector.update([*inputs], faulty="skip" if skip_faulty else "raise")
        say = console.say_always if dry_run else console.say  # a dry run's result
        if change.copies:
            say(f"{_count(change.copies)} known already, or copies")
        if not change.added:
            say(f"{path}: nothing new, not changed")
            return
        (before, after), (old, new) = change.windows, change.threshold
        say(
            f"{_count(change.added)} added: {before} normal windows before, {after} now; threshold "
            f"{old:.3g} before, {new:.3g} now"
        )
        if change.alarms:
            say(
                f"on {len(change.alarms)} of them the detector alarmed before, and it takes them "
                f"for normal now: {_some(change.alarms)}"
            )
        if dry_run:
            say(f"{path}: not changed (--dry-run)")
            return
        detector.save(out or path, overwrite=overwrite or out is None)
    _describe(detector, out or path)


def _require_some(inputs: Sequence[Path]) -> None:
    if not inputs:
        raise UsageError("nothing to learn from: name sound files or folders")


def _describe(detector: Detector, path: Path) -> None:
    """Print what a detector was made of, and the normal recordings that stand out."""
    facts = detector.description()
    console.say(
        f"{path}: {_count(facts['recordings'])}, {facts['windows']} windows of "
        f"{facts['clip_seconds']:.3g} s at {facts['sample_rate']} Hz, channel {facts['channel']}"
    )
    if facts["bank"] < facts["windows"]:
        console.say(
            f"new recordings are compared with {facts['bank']} of the windows; normal windows are "
            f"{100 * facts['bank_cost']:.2g} % farther from these than from all"
        )
    if facts["windows"] < _FEW:
        console.say(
            f"{facts['windows']} normal windows are few: with {_FEW} or more the threshold is surer"
        )
    if facts["recordings"] == 1:
        console.say(
            "all windows are of one recording, and are like each other: other normal recordings "
            f"will alarm far more often than at level {facts['level']:g}: give several recordings"
        )
        return
    console.say(
        f"threshold {facts['threshold']:.3g} at level {facts['level']:g}: about "
        f"{100 * (1 - facts['level']):.3g} % of normal recordings will alarm (fewer: --level)"
    )
    if copies := detector.near_copies():
        console.say(
            f"{_count(len(copies))} almost equal to others (copies in another format?), which "
            f"makes the threshold too low: leave one of each pair out: {_some(copies)}"
        )
    for note in _odd(detector.recordings_, facts["clip_seconds"]):
        console.say(note)
    scores = detector.scores_  # their median is 0
    spread = 1.4826 * float(np.median(np.abs(scores)))  # the deviation, if they are normal
    unusual: dict[int, str] = {}
    for i in np.argsort(-scores):
        if scores[i] > max(_UNUSUAL * spread, facts["threshold"]):
            recording = detector.window_recording(int(i))
            unusual.setdefault(
                recording, f"{detector.recordings_[recording].name} (score {scores[i]:.3g})"
            )
    if unusual:
        named = [*unusual.values()]
        console.say(
            f"unlike the other normal recordings: {_some(named)}; listen to them: if one is "
            "faulty, leave it out, because such faults would not alarm"
        )


def _odd(normal: Sequence[NormalRecording], clip_seconds: float) -> list[str]:
    """How normal recordings differ from most of the others, other than in their sound."""
    found = []
    for what, of in (("Hz", "rate"), ("channel(s)", "channels")):
        counts = Counter(getattr(recording, of) for recording in normal)
        (usual, _), *others = counts.most_common()
        if others:
            odd = [r.name for r in normal if getattr(r, of) != usual]
            found.append(f"{_count(len(odd))} not of {usual} {what}, as most are: {_some(odd)}")
    middle = statistics.median(recording.level_db for recording in normal)
    odd = [r.name for r in normal if abs(r.level_db - middle) > _LEVEL_DB]
    if odd:
        found.append(
            f"{_count(len(odd))} more than {_LEVEL_DB:g} dB louder or softer than the median: "
            f"{_some(odd)}"
        )
    odd = [r.name for r in normal if r.seconds < clip_seconds / 2]
    if odd:
        found.append(f"{_count(len(odd))} shorter than half a window: {_some(odd)}")
    return found


def _count(recordings: int) -> str:
    return f"{recordings} recording{'s' * (recordings != 1)}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")

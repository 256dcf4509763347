"""Fitting: normal recordings of a machine in, one file with a detector out; and its update."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from asdjax.detector.detector import Detector
from asdjax.errors import ArtifactError, UsageError
from asdjax.files import atomic
from asdjax.runtime import console
from asdjax.store.detector_file import SUFFIX

_UNUSUAL = 2.0  # ratio to the threshold from which a normal recording is named
_MOST_NAMED = 5


def fit(detector: Detector, inputs: Sequence[Path], out: Path, *, overwrite: bool = False) -> None:
    """Fit a detector to normal recordings and write it to a file.

    Args:
        detector: with its settings, not fitted.
        inputs: sound files, and folders to search for them.
        out: the file, whose name ends in .asd.
        overwrite: whether to replace an existing file.

    Raises:
        AsdjaxError: a recording is faulty, there are too few, or `out` cannot be written.
    """
    _require_some(inputs)
    require_free(out, overwrite)
    detector.fit([*inputs])
    detector.save(out, overwrite=overwrite)
    _describe(detector, out)


def require_free(out: Path, overwrite: bool) -> None:
    """Raise `AsdjaxError` if a detector cannot be written to `out`."""
    if out.suffix != SUFFIX:
        raise UsageError(f"{out}: the name of a detector must end in {SUFFIX}")
    atomic.require_free(out, overwrite)


def update(path: Path, inputs: Sequence[Path], embedder: Path | None = None) -> None:
    """Add normal recordings to a detector, as if it had been fitted to all of them.

    Args:
        path: the detector's file, which is replaced.
        inputs: sound files, and folders to search for them.
        embedder: where a trained embedder is now, if it has moved.

    Raises:
        AsdjaxError: as for `fit`, or another process updates the detector; it is then unchanged.
    """
    _require_some(inputs)
    if not path.exists():
        raise ArtifactError(f"{path}: no such detector: make one with asdjax fit")
    with atomic.locked(path, f"{path}: another process is updating this detector", replaced=True):
        detector = Detector.load(path, embedder=embedder)
        change = detector.update([*inputs])
        if change.copies:
            console.say(f"{change.copies} recordings were known already, or are copies")
        if not change.added:
            console.say(f"{path}: nothing new, not changed")
            return
        detector.save(path, overwrite=True)
    (before, after), (old, new) = change.windows, change.threshold
    console.say(
        f"{change.added} recordings added: {before} normal windows before, {after} now; threshold "
        f"{old:.3g} before, {new:.3g} now"
    )
    if change.alarms:
        console.say(
            f"on {len(change.alarms)} of them the detector would have alarmed before: "
            f"{_some(change.alarms)}"
        )
    _describe(detector, path)


def _require_some(inputs: Sequence[Path]) -> None:
    if not inputs:
        raise UsageError("nothing to learn from: name sound files or folders")


def _describe(detector: Detector, path: Path) -> None:
    """Print what a detector was made of, and the normal recordings that stand out."""
    facts = detector.description()
    console.say(
        f"{path}: {facts['recordings']} recordings, {facts['windows']} windows of "
        f"{facts['clip_seconds']:.3g} s at {facts['sample_rate']} Hz, channel {facts['channel']}"
    )
    if facts["bank"] < facts["windows"]:
        console.say(
            f"new recordings are compared with {facts['bank']} of the windows; normal windows are "
            f"{100 * facts['bank_cost']:.2g} % farther from these than from all"
        )
    console.say(
        f"threshold {facts['threshold']:.3g}: about {100 * (1 - facts['level']):.3g} % of normal "
        "recordings are expected to alarm"
    )
    ratios = detector.scores_ / detector.threshold_ if detector.threshold_ > 0 else np.array([])
    unusual = np.flatnonzero(ratios > _UNUSUAL)
    names = dict.fromkeys(
        detector.window_name(int(i)) for i in unusual[np.argsort(-ratios[unusual])]
    )
    if names:
        console.say(
            f"unlike the other normal recordings (listen to them, and leave them out if they are "
            f"faulty): {_some(list(names))}"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")

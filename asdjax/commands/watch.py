"""Watching: recordings are scored as they arrive in a folder or from a microphone."""

import dataclasses
import datetime
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from asdjax.data import sound_search
from asdjax.data.arrivals import Arrival, Arrivals, Identity, digest_of
from asdjax.detector.detector import Detector
from asdjax.detector.prediction import Prediction
from asdjax.errors import ArtifactError, DataError, UsageError
from asdjax.files import user_files
from asdjax.runtime import console
from asdjax.store import watch_log
from asdjax.store.watch_log import WatchLog

_PATIENCE = 60.0  # seconds without a change until a file that cannot be read counts as faulty
_AT_ONCE = 256  # files that are scored before the folder is looked at again
_LONGEST_MEMORY = 1000  # windows


class Confirmation:
    """Whether at least k of the last n windows are above the threshold of a window.

    With 1 of 1 a recording's own alarm counts, whose threshold is that for its number of windows.
    """

    def __init__(self, least: int, of: int, recent: str = ""):
        """Continue after the decisions `recent`, one character each, 1 for above."""
        self._least, self._counts = least, of > 1
        self._recent = deque((c == "1" for c in recent), maxlen=of)

    def add(self, above: Sequence[bool], alarm: bool) -> bool:
        """Add a recording's windows in order; whether its alarm is confirmed.

        Args:
            above: of each window, whether it is above the threshold of a window.
            alarm: of the recording.
        """
        confirmed = False
        for one in above:
            self._recent.append(bool(one))
            confirmed |= one and sum(self._recent) >= self._least
        return bool(confirmed) if self._counts else alarm

    @property
    def recent(self) -> str:
        """The decisions on the last n windows, the latest last."""
        return "".join("1" if above else "0" for above in self._recent)


def parse_confirm(text: str) -> tuple[int, int]:
    """The numbers of `k/n`.

    Raises:
        UsageError: it is something else, or not 1 <= k <= n <= 1000.
    """
    least, slash, of = text.partition("/")
    if not (slash and least.isdecimal() and of.isdecimal() and len(text) < 10):
        raise UsageError(f"--confirm {text}: give two numbers, as 3/5: 3 of the last 5 windows")
    if not 1 <= int(least) <= int(of) <= _LONGEST_MEMORY:
        raise UsageError(f"--confirm {text}: the first is more than the second, or out of bounds")
    return int(least), int(of)


def watch_folder(
    detector: Detector,
    folder: Path,
    log: Path,
    *,
    confirm: tuple[int, int] = (1, 1),
    settle: float = 2.0,
    interval: float = 1.0,
    once: bool = False,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Score the files of a folder as they arrive, and append a line for each to a log.

    Args:
        detector: a fitted detector.
        folder: is searched with its subfolders.
        log: is created if missing; files that it lists are not scored again.
        confirm: k and n, see `Confirmation`.
        settle: seconds after which an unchanged file is complete.
        interval: seconds between two looks at the folder.
        once: whether to end as soon as no file is waiting.
        clock: see `Arrivals`.
        sleep: waits for some seconds.

    Returns:
        The exit code of `once`: 1 if files could not be scored, or a subfolder could not be read.

    Raises:
        AsdjaxError: the folder cannot be read, or the log is in use or cannot be written.
    """
    if not os.path.isdir(folder):
        raise DataError(f"{folder}: no such folder: name the one where recordings arrive")
    try:
        os.scandir(folder).close()  # before the log is made
    except OSError as error:
        raise DataError(user_files.unreadable(folder, error)) from error
    arrivals = Arrivals(folder, settle, clock)
    unreadable, passed_over = dict[str, str](), set[str]()
    totals, later, confirmation = Counter[str](), 0, Confirmation(*confirm)

    def earlier() -> Iterator[dict[str, Any]]:
        for name, identity, digest in arrivals.done:
            yield {
                "time": _now(), "file": sound_search.as_text(name),
                "identity": dataclasses.asdict(identity), "digest": digest,
                "recent": confirmation.recent, "earlier": True,
            }  # fmt: skip

    with watch_log.opened(log, earlier) as opened:
        fingerprint = detector.fingerprint()
        recent, other = _known(log, arrivals, fingerprint)
        if other:
            console.say(
                f"{log}: {other} recordings were scored by another detector or level, and are not "
                "scored again (with a new log they are)"
            )
        confirmation = Confirmation(*confirm, recent)
        console.say(f"{folder}: watching, {log} gets a line for each recording")
        while True:
            opened.keep()
            ready = arrivals.look()
            for place, why in arrivals.unreadable.items():
                if place not in unreadable:
                    console.say_always(f"{place}: cannot be read ({why}): its files are not scored")
            unreadable = arrivals.unreadable
            if new := sorted(arrivals.passed_over.keys() - passed_over):
                console.say(f"{folder}: passed over: {', '.join(new)}")
                passed_over.update(new)
            counts = Counter[str]()
            for first in range(0, len(ready), _AT_ONCE):
                some = ready[first : first + _AT_ONCE]
                counts += _score(detector, fingerprint, some, arrivals, opened, confirmation)
            totals += counts
            if once and not arrivals.waiting:
                console.say(
                    f"{folder}: {totals['scored']} recordings scored, {totals['failed']} failed, "
                    f"{arrivals.passed_over.total()} entries passed over"
                )
                return int(totals["failed"] > 0 or bool(unreadable))
            if counts["later"] > later:
                console.say(
                    f"{folder}: {counts['later']} files cannot be read (yet): each is tried until "
                    f"it has not changed for {_PATIENCE:g} s"
                )
            later = counts["later"]
            if len(ready) <= _AT_ONCE:
                sleep(interval)


def _known(log: Path, arrivals: Arrivals, detector: str) -> tuple[str, int]:
    """Mark the files that a log lists as done.

    Returns:
        The latest decisions, and how many lines are of another detector than that of this
        fingerprint.
    """
    recent, other = "", 0
    for number, document in enumerate(watch_log.documents_of(log), start=1):
        try:
            recent = str(document["recent"])
            other += document.get("detector", detector) != detector
            if document["file"] is not None:
                identity = Identity(**document["identity"])
                arrivals.finish(str(document["file"]), identity, document["digest"])
        except (KeyError, TypeError) as error:
            raise ArtifactError(
                f"{log}: line {number}: not of a log of asdjax watch: name another log, or delete "
                "the line"
            ) from error
    return recent, other


def _score(
    detector: Detector,
    fingerprint: str,
    ready: Sequence[Arrival],
    arrivals: Arrivals,
    log: WatchLog,
    confirmation: Confirmation,
) -> Counter[str]:
    """Score files and append their lines; how many are scored, failed, and to be tried later."""
    counts = Counter[str]()
    paths = [arrival.path for arrival in ready]
    predictions = detector.iter_predictions(paths, faulty="row")
    for arrival, found in zip(ready, predictions, strict=True):
        digest = digest_of(arrival.path)
        if not arrivals.is_unchanged(arrival):
            continue  # still being written, renamed, or deleted
        if found.error is not None and arrival.age < _PATIENCE:
            counts["later"] += 1
            continue  # perhaps not complete
        counts["scored" if found.error is None else "failed"] += 1
        name = sound_search.as_text(arrival.name)
        identity = dataclasses.asdict(arrival.identity)
        line = {
            "file": name, "identity": identity, "digest": digest, "detector": fingerprint,
        }  # fmt: skip
        _append(detector, found, line, log, confirmation)
        arrivals.finish(arrival.name, arrival.identity, digest)
    return counts


def _append(
    detector: Detector,
    found: Prediction,
    line: dict[str, Any],
    log: WatchLog,
    confirmation: Confirmation,
) -> None:
    """Append the line of a prediction, and print it if its alarm is confirmed."""
    above = [score > detector.threshold_ for score in found.window_scores]
    confirmed = confirmation.add(above, bool(found.alarm))
    row = dataclasses.asdict(found)
    del row["file"]
    now = _now()
    log.append({
        "time": now, **line, **row, "confirmed": confirmed, "recent": confirmation.recent,
    })  # fmt: skip
    name = line["file"] or "microphone"
    if found.error is not None:
        console.say_always(f"{now} ERROR {found.error}")
    elif confirmed:
        console.say_always(
            f"{now} ALARM {name}, from {found.start:g} s: score {found.score:.2f}, threshold "
            f"{found.threshold:.2f}"
        )


def _now() -> str:
    """The present, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def watch_microphone(
    detector: Detector,
    streams: Iterator[tuple[int, Iterator[Any]]],
    log: Path,
    *,
    confirm: tuple[int, int] = (1, 1),
) -> None:
    """Score the windows of endless sound, and append a line for each to a log.

    Args:
        detector: a fitted detector.
        streams: sample rate (hertz) and chunks of sound without gaps; after a gap the next.
        log: is created if missing.
        confirm: k and n, see `Confirmation`.

    Raises:
        AsdjaxError: the microphone fails, or the log is in use or cannot be written.
    """
    with watch_log.opened(log) as opened:
        recent = ""
        for document in watch_log.documents_of(log):
            recent = str(document.get("recent", ""))
        confirmation = Confirmation(*confirm, recent)
        fingerprint = detector.fingerprint()
        console.say(f"listening, {log} gets a line for each window")
        for rate, chunks in streams:
            for found in detector.stream(chunks, sample_rate=rate):
                line = {"file": None, "identity": None, "digest": None, "detector": fingerprint}
                _append(detector, found, line, opened, confirmation)

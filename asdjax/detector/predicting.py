"""The way of recordings through a detector: read, cut, features, scores, decision."""

import dataclasses
import itertools
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from asdjax.detector import sources
from asdjax.detector.ensemble import Tables
from asdjax.detector.features import Features
from asdjax.detector.normal import Model, NormalWindows
from asdjax.detector.prediction import Prediction, unusable
from asdjax.detector.recordings import HALF, IGNORED, Recording, Windowing
from asdjax.detector.sources import Faulty, Source
from asdjax.detector.spectra import Spectra
from asdjax.errors import DataError
from asdjax.runtime import console
from asdjax.store.detector_file import NormalRecording

Item = TypeVar("Item")
_LOG = logging.getLogger(__name__)
_MOST = 500_000  # normal windows
_MOST_NAMED = 20  # faulty recordings
_AT_ONCE = 64  # windows whose features are computed together


@dataclasses.dataclass
class _Pending:
    """A recording whose windows are being scored."""

    name: str
    facts: NormalRecording | None = None
    error: str | None = None
    complete: bool = False
    """Whether all windows have been cut."""
    scores: list[float] = dataclasses.field(default_factory=list)
    start: float = 0.0
    """Of the worst window, seconds."""
    worst: Tables | None = None
    """Features of the worst window."""


_Window = tuple[_Pending, float, np.ndarray]  # recording, beginning in seconds, samples


@dataclasses.dataclass(frozen=True)
class Normal:
    """Normal recordings that can be used, not yet cut into windows."""

    sources: tuple[Source, ...]
    facts: tuple[NormalRecording, ...]
    """Of each source."""
    copies: tuple[str, ...]
    """Names of recordings that are passed over, as copies of these or of known ones."""


def survey(
    given: Sequence[Source],
    features: Features,
    channel: int,
    known: Sequence[NormalRecording],
    *,
    skip: bool,
) -> Normal:
    """Read normal recordings and find those that can be used.

    Args:
        given: the recordings.
        features: that will be computed.
        channel: in use, for messages.
        known: recordings that are not wanted again.
        skip: whether faulty and silent recordings are left out, with a warning.

    Raises:
        AsdjaxError: recordings are faulty or silent; the message names the first ones.
    """
    digests = {recording.digest for recording in known}
    used: list[Source] = []
    facts: list[NormalRecording] = []
    copies: list[str] = []
    faulty: list[str] = []
    with console.progress("reading", len(given), "recordings", minor=True) as advance:
        for source, recording in zip(given, sources.read_or_name(given), strict=True):
            advance(1, "")
            if isinstance(recording, Faulty):
                faulty.append(recording.error)
                continue
            found = recording.facts()
            if why := unusable(found, channel) or features.too_short(recording):
                faulty.append(why)
            elif found.digest in digests:
                copies.append(recording.name)
            else:
                digests.add(found.digest)
                used.append(source)
                facts.append(found)
    if faulty:
        named = "; ".join(faulty[:_MOST_NAMED]) + ("; ..." if len(faulty) > _MOST_NAMED else "")
        about = f"{len(faulty)} of {len(given)} recordings cannot be used: {named}"
        if not skip:
            raise DataError(
                f"{about}: repair or remove them, or leave them out (--skip-faulty; in Python "
                'faulty="skip")'
            )
        _LOG.warning(f"{about}: left out")
    return Normal(tuple(used), tuple(facts), tuple(copies))


def normal_windows(
    found: Normal, features: Features, spectra: Spectra, windowing: Windowing
) -> NormalWindows:
    """The windows of normal recordings, of which there is at least one.

    Raises:
        AsdjaxError: a recording was changed since `survey`, or there are too many windows.
    """

    def windows() -> Iterator[tuple[int, float, np.ndarray]]:
        for i, recording in enumerate(sources.read(found.sources)):
            if recording.digest() != found.facts[i].digest:
                raise DataError(f"{recording.name}: was changed while it was read: start again")
            for start, window in windowing.cut(recording, HALF):
                yield i, start, window

    tables, maps, indices, begins = [], [], [], []
    count, done = len(found.sources), 0
    with console.progress("computing features", count, "recordings", minor=True) as advance:
        for chunk in _chunks(windows(), _AT_ONCE):
            names = [found.facts[index].name for index, _, _ in chunk]
            waveforms = [window for _, _, window in chunk]
            tables.append(features(waveforms, names, windowing.longest))
            maps.append(spectra.summaries(waveforms, windowing.longest))
            indices += [index for index, _, _ in chunk]
            begins += [start for _, start, _ in chunk]
            if len(begins) > _MOST:
                raise DataError(
                    f"more than {_MOST:,} windows: give longer windows (clip_seconds, hop_seconds)"
                )
            advance(indices[-1] - done, f"{len(begins)} windows")
            done = indices[-1]
        advance(count - done, f"{len(begins)} windows")
    joined = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    return NormalWindows(
        found.facts, np.array(indices, np.int32), np.array(begins), joined, np.concatenate(maps)
    )


def predictions(
    given: Sequence[Source],
    features: Features,
    windowing: Windowing,
    model: Model,
    channel: int,
    *,
    as_rows: bool,
) -> Iterator[tuple[Prediction, Tables | None]]:
    """The predictions of recordings, and the features of their worst windows; in bounded memory.

    Args:
        given: the recordings.
        features: as those that the model was fitted to.
        windowing: likewise.
        model: the fitted model.
        channel: in use, for messages.
        as_rows: whether a faulty recording is a prediction with `error`, instead of an exception.

    Raises:
        AsdjaxError: a recording is faulty, and `as_rows` is false.
    """
    pending: deque[_Pending] = deque()
    found = sources.read_or_name(given) if as_rows else sources.read(given)
    for chunk in _chunks(_cut_all(found, features, windowing, pending, channel, as_rows), _AT_ONCE):
        _score(chunk, features, windowing.longest, model, as_rows)
        while pending and pending[0].complete:
            yield _finished(pending.popleft(), model)
    for item in pending:
        yield _finished(item, model)


def _cut_all(
    found: Iterable[Recording | Faulty],
    features: Features,
    windowing: Windowing,
    pending: deque[_Pending],
    channel: int,
    as_rows: bool,
) -> Iterator[_Window]:
    """The windows of recordings; every recording is added to `pending`."""
    for recording in found:
        if isinstance(recording, Faulty):
            pending.append(_Pending(recording.name, error=recording.error, complete=True))
            continue
        pending.append(item := _Pending(recording.name, facts := recording.facts()))
        if why := unusable(facts, channel) or features.too_short(recording):
            if not as_rows:
                raise DataError(why)
            item.error = why
        else:
            for start, window in windowing.cut(recording, IGNORED):
                yield item, start, window
        item.complete = True


def _score(
    chunk: Sequence[_Window], features: Features, longest: int, model: Model, as_rows: bool
) -> None:
    """Add the scores of windows to their recordings."""
    names = [item.name for item, _, _ in chunk]
    try:
        tables = features([window for _, _, window in chunk], names, longest)
    except DataError as error:
        if not as_rows:
            raise
        if len(chunk) == 1:
            chunk[0][0].error = str(error)
        else:  # find out which
            for one in chunk:
                _score([one], features, longest, model, as_rows)
        return
    for i, score in enumerate(model.score(tables)):
        item, start, _ = chunk[i]
        item.scores.append(float(score))
        if score == max(item.scores):
            item.start = start
            item.worst = {name: table[i : i + 1] for name, table in tables.items()}


def _finished(item: _Pending, model: Model) -> tuple[Prediction, Tables | None]:
    if item.error is not None or item.facts is None or item.worst is None:
        return Prediction(item.name, error=item.error), None
    return model.judge(item.facts, np.array(item.scores), item.start, item.worst), item.worst


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items; the last may be shorter."""
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk

"""The public detector: normal recordings of a machine in, scores and alarms of new ones out."""

import dataclasses
import itertools
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from jaxtyping import Bool, Float64, Int
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_array

from asdjax.config import registry
from asdjax.config.interfaces import Backend
from asdjax.data import audio, sound_search
from asdjax.data.read_ahead import in_order
from asdjax.data.sound_files import HIGHEST_RATE, LOWEST_RATE
from asdjax.detector import calibration, ensemble, recordings
from asdjax.detector.ensemble import Ensemble, Spread
from asdjax.detector.features import SPECTRAL, open_features
from asdjax.detector.prediction import SILENT_DB, Nearest, Prediction, unlike
from asdjax.detector.recordings import HALF, IGNORED, Recording
from asdjax.errors import ArtifactError, ConfigError, DataError
from asdjax.files import documents
from asdjax.store import detector_file
from asdjax.store.detector_file import PROBE, VECTORS, Document, NormalRecording

Item = TypeVar("Item")
_LOG = logging.getLogger(__name__)
_LONGEST, _USUAL = 20.0, 10.0
"""Up to `_LONGEST` seconds, the median recording is one window; longer ones are cut into windows of
`_USUAL` seconds."""
_AT_ONCE = 64  # windows whose features are computed together
_NEAREST = 3  # normal windows that a prediction names
_SAME = 1e-3  # relative difference of the probe's features on two machines


@dataclasses.dataclass(frozen=True)
class _Source:
    """A recording that is read when it is needed."""

    name: str
    read: Callable[[], Recording]
    seconds: Callable[[], float]
    size: int
    """About the number of samples."""


@dataclasses.dataclass(frozen=True)
class Description:
    """What a detector was made of."""

    recordings: int
    """Normal recordings, without copies."""
    windows: int
    """Normal windows."""
    clip_seconds: float
    """Length of a window."""
    hop_seconds: float
    """Step between windows."""
    sample_rate: int
    """Hertz, to which recordings are resampled."""
    channel: int
    """In use, counted from 1."""


@dataclasses.dataclass(frozen=True)
class Change:
    """What an update did to a detector."""

    added: int
    """New recordings."""
    known: int
    """Recordings that the detector had already, which are not added."""
    windows: tuple[int, int]
    """Number of normal windows before and after."""
    threshold: tuple[float, float]
    """Before and after."""
    alarms: tuple[str, ...]
    """New recordings on which the detector would have alarmed before."""


@dataclasses.dataclass(frozen=True)
class _Windows:
    """The windows of normal recordings and their features."""

    recordings: tuple[NormalRecording, ...]
    recording: Int[np.ndarray, " N"]
    start: Float64[np.ndarray, " N"]
    tables: Mapping[str, np.ndarray]


class Detector(OutlierMixin, BaseEstimator):
    """Learns what normal recordings sound like, and decides whether a new one does.

    An estimator of scikit-learn for outliers. Recordings are paths of sound files and folders
    (WAV, FLAC, MP3, Ogg ...; any sample rate and length), or arrays [T] or [T, channels], int16 or
    float in [-1, 1]. A matrix [N, T] is N recordings of one channel.

    Each recording is one window of sound, or several if it is longer. A window gets a score from
    each member (a backend on a feature, see `detector.ensemble`); a recording has the score of its
    worst window. The threshold is conformal (`detector.calibration`).

    Args:
        embedder: "spectral": statistics of spectra (`signal.spectral_statistics`), which need no
            training; or the path of a run directory or of converted BEATs weights.
        backend: name or settings of a scoring backend, or several of them; None: the mean of
            nearest neighbours and of distances relative to the local density.
        level: intended share of normal recordings without an alarm.
        clip_seconds: length of a window; None: the median length of the normal recordings, or 10 s
            if that is above 20 s. A run has its own.
        hop_seconds: step between windows; None: `clip_seconds`.
        channel: the channel to use, counted from 1; None: the first, or that of the run.
        sample_rate: hertz, to which recordings are resampled; None: 16000, or that of the weights.
            Arrays have this rate unless another is stated.
        max_bank: most normal windows to compare with, chosen to cover all (k-centre); None: all.
        seed: of that choice.

    Attributes:
        threshold_: for a recording of one window.
        scores_: of the normal windows, each compared with other recordings.
        members_: names of the members.
        recordings_: what is known of the normal recordings.
        offset_: -threshold_, as in scikit-learn.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> normal = rng.normal(0, 0.1, (20, 16000))
        >>> detector = Detector().fit(normal)
        >>> detector.predict(np.sin(np.arange(16000))[None] / 2)
        array([-1])
    """

    def __init__(
        self,
        embedder: str | Path = SPECTRAL,
        *,
        backend: str | Backend | Sequence[str | Backend] | None = None,
        level: float = 0.9,
        clip_seconds: float | None = None,
        hop_seconds: float | None = None,
        channel: int | None = None,
        sample_rate: int | None = None,
        max_bank: int | None = None,
        seed: int = 0,
    ):
        self.embedder = embedder
        self.backend = backend
        self.level = level
        self.clip_seconds = clip_seconds
        self.hop_seconds = hop_seconds
        self.channel = channel
        self.sample_rate = sample_rate
        self.max_bank = max_bank
        self.seed = seed

    # fitting

    def fit(self, X: Any, y: None = None, *, sample_rate: int | None = None) -> "Detector":
        """Learn from normal recordings.

        Copies of a recording count once.

        Args:
            X: normal recordings, see the class.
            y: ignored.
            sample_rate: of arrays, hertz; None: that of the detector.

        Raises:
            AsdjaxError: a recording is faulty or silent, or there are too few for `level`.
        """
        self._features = open_features(self.embedder, self.sample_rate)
        self._channel = self.channel or self._features.channel
        sources = self._sources(X, sample_rate, to="learn from")
        self._clip_seconds = self._chosen_clip(sources)
        self._hop_seconds = self.hop_seconds or self._clip_seconds
        self._backends = self._chosen_backends()
        self._fit_windows(self._normal_windows(sources, known=()))
        return self

    def update(self, X: Any, *, sample_rate: int | None = None) -> Change:
        """Learn from more normal recordings; the result is that of `fit` with all of them.

        Args:
            X: more normal recordings; copies of known ones are passed over.
            sample_rate: as in `fit`.

        Raises:
            AsdjaxError: as for `fit`; the detector is then unchanged.
        """
        self._require_fitted()
        sources = self._sources(X, sample_rate, to="learn from")
        before = self._windows
        new = self._normal_windows(sources, known=before.recordings)
        known = len(sources) - len(new.recordings)
        if not new.recordings:
            sizes, thresholds = (len(before.start),) * 2, (self.threshold_,) * 2
            return Change(0, known, sizes, thresholds, ())
        scores = self._scores(new.tables)
        alarms = [
            found.name
            for i, found in enumerate(new.recordings)
            if self._judge(found, scores[new.recording == i]).alarm
        ]
        sizes = len(before.start), len(before.start) + len(new.start)
        old = self.threshold_
        self._fit_windows(_joined(before, new))
        thresholds = old, self.threshold_
        return Change(len(new.recordings), known, sizes, thresholds, tuple(alarms))

    def _chosen_clip(self, sources: Sequence[_Source]) -> float:
        """The length of a window, seconds."""
        fixed = self._features.n_samples
        if fixed is not None:
            seconds = fixed / self._features.sample_rate
            if self.clip_seconds not in (None, seconds):
                raise ConfigError(
                    f"clip_seconds {self.clip_seconds:g}: {self.embedder} needs clips of "
                    f"{seconds:g} s: omit it"
                )
            return seconds
        if self.clip_seconds is not None:
            return float(self.clip_seconds)
        median = float(np.median([source.seconds() for source in sources]))
        return median if median <= _LONGEST else _USUAL

    def _chosen_backends(self) -> tuple[Backend, ...]:
        if self.backend is None:
            return self._features.backends
        given = self.backend
        several = [given] if isinstance(given, str | Backend) else list(given)
        found = [registry.find("backend", b)() if isinstance(b, str) else b for b in several]
        names = [backend.name for backend in found]
        if not found or len({*names}) < len(names):
            raise ConfigError(f"backend {names}: name one or more, each once")
        if len({backend.metric for backend in found}) > 1:
            raise ConfigError(f"backend {names}: all must have the same metric")
        return tuple(found)

    def _normal_windows(
        self, sources: Sequence[_Source], known: Sequence[NormalRecording]
    ) -> _Windows:
        """The windows of normal recordings and their features, without copies.

        Raises:
            AsdjaxError: a recording cannot be read, or is silent.
        """
        digests = {recording.digest for recording in known}
        facts, copies = [], []

        def windows() -> Iterator[tuple[int, float, np.ndarray]]:
            for recording in self._read(sources):
                found = recording.facts()
                if found.level_db < SILENT_DB:
                    raise DataError(f"{recording.name}: is silent: leave it out, or record again")
                if found.digest in digests:
                    copies.append(recording.name)
                    continue
                digests.add(found.digest)
                facts.append(found)
                for start, window in self._cut(recording, HALF):
                    yield len(facts) - 1, start, window

        tables: list[Mapping[str, np.ndarray]] = []
        indices: list[int] = []
        begins: list[float] = []
        for chunk in _chunks(windows(), _AT_ONCE):
            names = [facts[index].name for index, _, _ in chunk]
            tables.append(self._features([w for _, _, w in chunk], names, self._clip_samples))
            indices += [index for index, _, _ in chunk]
            begins += [start for _, start, _ in chunk]
        if copies:
            _LOG.warning(
                f"{len(copies)} of {len(sources)} recordings are copies of others and count once: "
                f"{copies[0]}{', ...' if len(copies) > 1 else ''}"
            )
        joined = {n: np.concatenate([t[n] for t in tables]) for n in tables[0]} if tables else {}
        return _Windows(tuple(facts), np.array(indices, np.int32), np.array(begins), joined)

    def _fit_windows(self, windows: _Windows) -> None:
        """Fit the members and the threshold to normal windows."""
        windows = _sorted(windows)
        fitted = Ensemble(windows.tables, self._backends, self._bank(windows))
        self._settle(windows, fitted, fitted.held_out(windows.recording))
        probe = self._features([self._probe()], ["probe"], self._clip_samples)
        self._probe_features = {name: probe[name].astype(np.float32) for name in probe}

    def _bank(self, windows: _Windows) -> Bool[np.ndarray, " N"] | None:
        """The windows to compare with; None: all."""
        if not self.max_bank or self.max_bank >= len(windows.start):
            return None
        metric = self._backends[0].metric
        return ensemble.spread_out(windows.tables, metric, self.max_bank, self.seed)

    def _settle(
        self, windows: _Windows, fitted: Ensemble, held_out: Float64[np.ndarray, "K N"]
    ) -> None:
        """Set everything that follows from the members' scores of the normal windows."""
        spreads = ensemble.spreads(held_out)
        mean = ensemble.standardised(held_out, spreads).mean(axis=0)
        median = float(np.median(mean))
        threshold = calibration.threshold(mean - median, self.level)
        self._windows, self._ensemble, self._held_out = windows, fitted, held_out
        self._spreads: list[Spread] = spreads
        self._median = median
        self.scores_ = mean - median
        self.threshold_ = threshold
        self.offset_ = -threshold
        self.members_ = fitted.members
        self.recordings_ = windows.recordings

    @property
    def _clip_samples(self) -> int:
        """Length of a window at the detector's sample rate."""
        return max(1, round(self._clip_seconds * self._features.sample_rate))

    def _probe(self) -> np.ndarray:
        """A known signal, whose features are stored with the detector: noise of -20 dB."""
        rng = np.random.default_rng(0)
        return (0.1 * rng.standard_normal(self._clip_samples)).astype(np.float32)

    # reading

    def _sources(self, X: Any, sample_rate: int | None, to: str) -> list[_Source]:
        """The recordings in `X`, see the class."""
        paths = _paths(X)
        if paths is not None:
            return [self._file(name, path) for name, path in sound_search.find(paths, to)]
        rate = sample_rate or self._features.sample_rate
        if isinstance(X, list | tuple) and X and all(isinstance(x, np.ndarray) for x in X):
            arrays = list(X)
        else:
            arrays = list(check_array(X, dtype=[np.float32, np.float64, np.int16]))
        return [self._array(f"recording {i}", array, rate) for i, array in enumerate(arrays)]

    def _file(self, name: str, path: Path) -> _Source:
        read = partial(recordings.read, path, name, self._channel)
        try:
            size = os.stat(path).st_size
        except OSError:
            size = 0  # reading it will say why
        return _Source(name, read, lambda: audio.inspect_any(path).seconds, size)

    def _array(self, name: str, array: np.ndarray, rate: int) -> _Source:
        read = partial(recordings.of_array, array, rate, name, self._channel)
        return _Source(name, read, lambda: len(array) / rate, array.size)

    def _read(self, sources: Sequence[_Source], tolerant: bool = False) -> Iterator[Any]:
        """The recordings, in order, read ahead by threads; `_Failed` for faulty ones."""
        read = _read_or_fail if tolerant else lambda source: source.read()
        return in_order(read, sources, [source.size for source in sources])

    def _cut(self, recording: Recording, ignored: float) -> Iterator[tuple[float, np.ndarray]]:
        """The windows of a recording, with their beginnings in seconds."""
        length = max(1, round(self._clip_seconds * recording.rate))
        hop = max(1, round(self._hop_seconds * recording.rate))
        begins = recordings.starts(len(recording.waveform), length, hop, ignored)
        rate = self._features.sample_rate
        for start, window in zip(begins, recording.windows(begins, length, rate), strict=True):
            window = window[: self._clip_samples]
            if len(window) < self._features.shortest:
                raise DataError(
                    f"{recording.name}: {len(window)} samples at {rate} Hz are too few for "
                    f"{self.embedder}, which needs {self._features.shortest}: leave it out"
                )
            yield start / recording.rate, window

    def description(self) -> Description:
        """What the detector was made of."""
        self._require_fitted()
        return Description(
            recordings=len(self.recordings_),
            windows=len(self.scores_),
            clip_seconds=self._clip_seconds,
            hop_seconds=self._hop_seconds,
            sample_rate=self._features.sample_rate,
            channel=self._channel,
        )

    def window_name(self, window: int) -> str:
        """The name of the recording of a normal window, a row of `scores_`."""
        return self.recordings_[self._windows.recording[window]].name

    # scoring

    def iter_predictions(
        self, X: Any, *, sample_rate: int | None = None, faulty: Literal["raise", "row"] = "raise"
    ) -> Iterator[Prediction]:
        """The predictions of recordings, one after the other, in bounded memory.

        Args:
            X: recordings, see the class.
            sample_rate: of arrays, hertz; None: that of the detector.
            faulty: what becomes of a recording that cannot be read or is too short: an error, or a
                prediction with `error`.

        Raises:
            AsdjaxError: a recording is faulty, and `faulty` is "raise".
        """
        self._require_fitted()
        return self._predictions(self._sources(X, sample_rate, to="score"), faulty == "row")

    def predict_details(self, X: Any, *, sample_rate: int | None = None) -> list[Prediction]:
        """The predictions of recordings with all their details; arguments as for `predict`."""
        return list(self.iter_predictions(X, sample_rate=sample_rate))

    def predict(self, X: Any, *, sample_rate: int | None = None) -> Int[np.ndarray, " N"]:
        """-1 for recordings that alarm, 1 for the others.

        Args:
            X: recordings, see the class.
            sample_rate: of arrays, hertz; None: that of the detector.

        Raises:
            AsdjaxError: a recording is faulty.
        """
        found = self.iter_predictions(X, sample_rate=sample_rate)
        return np.array([-1 if prediction.alarm else 1 for prediction in found])

    def score_samples(self, X: Any, *, sample_rate: int | None = None) -> Float64[np.ndarray, " N"]:
        """The negative scores of recordings: higher is more normal; arguments as for `predict`."""
        found = self.iter_predictions(X, sample_rate=sample_rate)
        return np.array([-_number(prediction.score) for prediction in found])

    def decision_function(
        self, X: Any, *, sample_rate: int | None = None
    ) -> Float64[np.ndarray, " N"]:
        """Threshold minus score: negative for alarms; arguments as for `predict`."""
        found = self.iter_predictions(X, sample_rate=sample_rate)
        return np.array([_number(p.threshold) - _number(p.score) for p in found])

    def stream(
        self, chunks: Iterable[np.ndarray], *, sample_rate: int | None = None
    ) -> Iterator[Prediction]:
        """A prediction for each window of endless sound, in bounded memory.

        Args:
            chunks: consecutive samples, [T] or [T, channels], of any lengths.
            sample_rate: of the chunks, hertz; None: that of the detector.

        Yields:
            A prediction per window of `clip_seconds`, every `hop_seconds`; `start` counts from the
            first chunk, and the threshold is that for one window.

        Raises:
            AsdjaxError: a chunk has another shape or type, or samples that are not finite.
        """
        self._require_fitted()
        rate = sample_rate or self._features.sample_rate
        length = max(1, round(self._clip_seconds * rate))
        hop = max(1, round(self._hop_seconds * rate))
        held: list[np.ndarray] = []
        begin, count = 0, 0  # of what is held: first sample, number of samples
        channels = None
        for chunk in chunks:
            if not len(chunk):
                continue
            found = recordings.of_array(chunk, rate, "stream", self._channel)
            if channels not in (None, (found.channels, found.waveform.dtype)):
                raise DataError("stream: the chunks differ in channels or type: give equal ones")
            channels = found.channels, found.waveform.dtype
            if count + len(found.waveform) <= 0:  # before the next window
                count += len(found.waveform)
                continue
            held.append(found.waveform[max(0, -count) :])
            count += len(found.waveform)
            while count >= length:
                held = [np.concatenate(held)]
                window = dataclasses.replace(found, waveform=held[0][:length])
                (prediction,) = self._predictions([_held(window)], False)
                yield dataclasses.replace(prediction, start=begin / rate)
                begin, count = begin + hop, count - hop
                held = [held[0][hop:]]

    def _predictions(self, sources: Sequence[_Source], as_rows: bool) -> Iterator[Prediction]:
        pending: deque[_Pending] = deque()

        def windows() -> Iterator[tuple[_Pending, float, np.ndarray]]:
            for recording in self._read(sources, as_rows):
                if isinstance(recording, _Failed):
                    pending.append(_Pending(recording.name, error=recording.error))
                    continue
                pending.append(item := _Pending(recording.name, recording.facts()))
                try:
                    for start, window in self._cut(recording, IGNORED):
                        yield item, start, window
                except DataError as error:
                    if not as_rows:
                        raise
                    item.error = str(error)
                item.complete = True

        for chunk in _chunks(windows(), _AT_ONCE):
            self._score_chunk(chunk, as_rows)
            while pending and pending[0].complete:
                yield self._finished(pending.popleft())
        for item in pending:
            yield self._finished(item)

    def _score_chunk(
        self, chunk: Sequence[tuple["_Pending", float, np.ndarray]], as_rows: bool
    ) -> None:
        """Add the scores of windows to their recordings."""
        names = [item.name for item, _, _ in chunk]
        try:
            tables = self._features([w for _, _, w in chunk], names, self._clip_samples)
        except DataError as error:
            if not as_rows:
                raise
            if len(chunk) > 1:  # find out which
                for one in chunk:
                    self._score_chunk([one], as_rows)
            else:
                chunk[0][0].error = str(error)
            return
        for i, score in enumerate(self._scores(tables)):
            item, start, _ = chunk[i]
            item.scores.append(score)
            if score == max(item.scores):
                item.start = start
                item.vectors = {name: table[i : i + 1] for name, table in tables.items()}

    def _scores(self, tables: ensemble.Tables) -> Float64[np.ndarray, " M"]:
        return self._standardised(tables).mean(axis=0) - self._median

    def _standardised(self, tables: ensemble.Tables) -> Float64[np.ndarray, "K M"]:
        return ensemble.standardised(self._ensemble.distances(tables), self._spreads)

    def _finished(self, item: "_Pending") -> Prediction:
        if item.error is not None or item.facts is None or item.vectors is None:
            return Prediction(item.name, error=item.error)
        prediction = self._judge(item.facts, np.array(item.scores))
        rows, distances = self._ensemble.nearest(item.vectors, _NEAREST)
        return dataclasses.replace(
            prediction,
            start=item.start,
            nearest=tuple(
                Nearest(
                    self.recordings_[self._windows.recording[row]].name,
                    float(self._windows.start[row]),
                    float(distance),
                )
                for row, distance in zip(rows[0], distances[0], strict=True)
            ),
            warnings=tuple(unlike(item.facts, self.recordings_))
            + self._on_length(len(item.scores)),
        )

    def _judge(self, found: NormalRecording, scores: Float64[np.ndarray, " n"]) -> Prediction:
        """The decision on a recording, given the scores of its windows."""
        worst, windows = float(scores.max()), len(scores)
        threshold = calibration.threshold(self.scores_, self.level, windows)
        return Prediction(
            file=found.name,
            seconds=found.seconds,
            windows=windows,
            score=worst,
            threshold=threshold,
            ratio=worst / threshold if threshold > 0 else None,
            p_value=calibration.p_value(self.scores_, worst, windows),
            alarm=worst > threshold,
        )

    def _on_length(self, windows: int) -> tuple[str, ...]:
        most = calibration.longest_calibrated(len(self.scores_), self.level)
        if windows <= most:
            return ()
        return (
            f"it has {windows} windows, and {len(self.scores_)} normal ones calibrate at most "
            f"{most}: false alarms are more likely than {1 - self.level:.2g}",
        )

    def _require_fitted(self) -> None:
        if not hasattr(self, "threshold_"):
            raise NotFittedError(
                "this Detector is not fitted: call fit with normal recordings, or Detector.load"
            )

    # files

    def save(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write the detector to a file (`store.detector_file`).

        The weights of a trained embedder are not copied: their path and digest are.

        Raises:
            AsdjaxError: the file exists, or cannot be written.
        """
        self._require_fitted()
        document = Document(
            embedder=self._features.embedder,
            identity=json.dumps(self._features.identity, sort_keys=True),
            backends=self._backends,
            level=self.level,
            clip_seconds=self._clip_seconds,
            hop_seconds=self._hop_seconds,
            channel=self._channel,
            max_bank=self.max_bank or 0,
            seed=self.seed,
            recordings=self.recordings_,
        )
        tables = {
            "recording": self._windows.recording,
            "start": self._windows.start,
            "held_out": self._held_out,
            **{VECTORS + name: table for name, table in self._windows.tables.items()},
            **{PROBE + name: table for name, table in self._probe_features.items()},
        }
        detector_file.write(Path(path), document, tables, overwrite=overwrite)

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        embedder: Path | str | None = None,
        level: float | None = None,
    ) -> "Detector":
        """Read a detector.

        Args:
            path: a file written by `save`.
            embedder: where the run or the converted weights are now, if they have moved.
            level: another level than the detector was fitted with.

        Raises:
            AsdjaxError: the file is not a detector or damaged; the weights are gone or are others;
                or this machine computes other features from the same sound.
        """
        path = Path(path)
        document, tables = detector_file.read(path)
        identity = documents.parse_json(document.identity, path, "make it again")
        rate = identity.get("sample_rate") if isinstance(identity, dict) else None
        if type(rate) is not int or not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise ArtifactError(f"{path}: identity: no sample rate: make it again with asdjax fit")
        detector = cls(
            embedder or document.embedder,
            backend=document.backends,
            level=document.level if level is None else level,
            clip_seconds=document.clip_seconds,
            hop_seconds=document.hop_seconds,
            channel=document.channel,
            sample_rate=rate,
            max_bank=document.max_bank or None,
            seed=document.seed,
        )
        detector._restore(path, document, identity, tables)
        return detector

    def _restore(
        self, path: Path, document: Document, identity: Any, tables: Mapping[str, np.ndarray]
    ) -> None:
        """Take over what a file holds."""
        self._features = open_features(self.embedder, self.sample_rate)
        if dict(self._features.identity) != identity:
            raise ArtifactError(
                f"{path}: made with other weights or settings than those of {self.embedder} "
                f"({_differences(identity, self._features.identity)}): name the right ones with "
                "--embedder, or fit again"
            )
        self._channel = document.channel
        self._clip_seconds = self._chosen_clip([])
        self._hop_seconds = document.hop_seconds
        self._backends = document.backends
        vectors = {n.removeprefix(VECTORS): t for n, t in tables.items() if n.startswith(VECTORS)}
        windows = _Windows(document.recordings, tables["recording"], tables["start"], vectors)
        self._check_probe(path, tables)
        fitted = Ensemble(windows.tables, self._backends, self._bank(windows))
        self._settle(windows, fitted, tables["held_out"])

    def _check_probe(self, path: Path, tables: Mapping[str, np.ndarray]) -> None:
        """Compare the features of the known signal with those in the file."""
        found = self._features([self._probe()], ["probe"], self._clip_samples)
        for name, table in found.items():
            stored = tables.get(PROBE + name)
            if stored is None or stored.shape != table.shape:
                raise ArtifactError(f"{path}: {name}: other features than those of this version")
            off = float(np.linalg.norm(table - stored) / np.linalg.norm(stored))
            if not off <= _SAME:
                raise ArtifactError(
                    f"{path}: this machine computes other features of the same sound (by {off:.2g}"
                    f", {name}): fit the detector again on it"
                )
        self._probe_features = {name: tables[PROBE + name] for name in found}


class _Pending:
    """A recording whose windows are being scored."""

    def __init__(self, name: str, facts: NormalRecording | None = None, error: str | None = None):
        self.name, self.facts, self.error = name, facts, error
        self.complete = error is not None
        self.scores: list[float] = []
        self.start = 0.0  # of the worst window
        self.vectors: Mapping[str, np.ndarray] | None = None


@dataclasses.dataclass(frozen=True)
class _Failed:
    """A recording that could not be read."""

    name: str
    error: str


def _read_or_fail(source: _Source) -> Recording | _Failed:
    try:
        return source.read()
    except DataError as error:
        return _Failed(source.name, str(error))


def _held(recording: Recording) -> _Source:
    return _Source(recording.name, lambda: recording, lambda: recording.seconds, 0)


def _paths(X: Any) -> list[Path] | None:
    """The paths in `X`; None if it holds arrays."""
    if isinstance(X, str | Path):
        return [Path(X)]
    if isinstance(X, np.ndarray) and X.dtype.kind in "UO":
        X = X.tolist()
    if isinstance(X, list | tuple) and X and all(isinstance(x, str | Path) for x in X):
        return [Path(x) for x in X]
    return None


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items; the last may be shorter."""
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def _joined(a: _Windows, b: _Windows) -> _Windows:
    return _Windows(
        (*a.recordings, *b.recordings),
        np.concatenate([a.recording, b.recording + len(a.recordings)]).astype(np.int32),
        np.concatenate([a.start, b.start]),
        {name: np.concatenate([a.tables[name], b.tables[name]]) for name in a.tables},
    )


def _sorted(windows: _Windows) -> _Windows:
    """The windows in an order that does not depend on that of the recordings or on their names."""
    order = sorted(range(len(windows.recordings)), key=lambda i: windows.recordings[i].digest)
    place = np.argsort(order)[windows.recording]
    rows = np.lexsort([windows.start, place])
    return _Windows(
        tuple(windows.recordings[i] for i in order),
        place[rows].astype(np.int32),
        windows.start[rows],
        {name: table[rows] for name, table in windows.tables.items()},
    )


def _differences(before: Any, now: Mapping[str, Any]) -> str:
    keys = sorted({*before, *now}) if isinstance(before, dict) else []
    return ", ".join(key for key in keys if before.get(key) != now.get(key)) or "identity"


def _number(value: float | None) -> float:
    assert value is not None, "faulty recordings raise"
    return value

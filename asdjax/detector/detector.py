"""The public detector: normal recordings of a machine in, scores and alarms of new ones out."""

import dataclasses
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.exceptions import NotFittedError

from asdjax.config import registry, schema
from asdjax.config.interfaces import Backend
from asdjax.data.conditions import usual_clip
from asdjax.data.sound_files import checked_rate
from asdjax.detector import calibration, ensemble, probe, recordings, sources
from asdjax.detector.explanation import Explanation, explanation
from asdjax.detector.features import SPECTRAL, Features, open_features, require_identity
from asdjax.detector.normal import Model, NormalWindows
from asdjax.detector.predicting import normal_windows, predictions, survey
from asdjax.detector.prediction import Prediction
from asdjax.detector.recordings import Windowing
from asdjax.detector.sources import Source
from asdjax.detector.spectra import Spectra
from asdjax.errors import ArtifactError, AsdjaxError, ConfigError, DataError
from asdjax.files import atomic, documents
from asdjax.store import detector_file
from asdjax.store.detector_file import PROBE, VECTORS, Document, NormalRecording, Settings

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Change:
    """What an update did to a detector."""

    added: int
    """New recordings."""
    copies: int
    """Recordings that were known already, or are copies of others."""
    windows: tuple[int, int]
    """Number of normal windows before and after."""
    threshold: tuple[float, float]
    """Before and after."""
    alarms: tuple[str, ...]
    """New recordings on which the detector would have alarmed before."""


class Detector(OutlierMixin, BaseEstimator):
    """Learns what normal recordings sound like, and decides whether a new one does.

    An outlier detector as in scikit-learn. Recordings are paths of sound files and folders (WAV,
    FLAC, MP3, Ogg ...; any sample rate and length), or arrays [T] or [T, channels], int16 or float
    in [-1, 1]. A matrix [N, T] holds N recordings of one channel.

    A recording is one window of sound, or several if it is longer. A window gets a score from each
    member, which is a backend on a feature (`asdjax.detector.ensemble`). The score of a recording
    is that of its worst window. The threshold is conformal (`asdjax.detector.calibration`).

    Args:
        embedder: "spectral": statistics of spectra (`asdjax.signal.spectral_statistics`), which
            need no training; or the path of a run directory or of converted BEATs weights.
        backend: name or settings of a scoring backend, or several; None: nearest neighbours, and
            distances relative to the local density, averaged.
        level: intended share of normal recordings without an alarm, 0.5 to 0.9999.
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
        scores_: of the normal windows, each compared with other recordings [N].
        recordings_: what is known of the normal recordings, sorted by content.
        members_: names of the members.
        offset_: -threshold_, as in scikit-learn.

    Example:
        >>> detector = asdjax.Detector().fit("normal")
        >>> detector.predict([np.sin(np.arange(16000.0)) / 2])
        array([-1])
        >>> detector.predict_details("today.wav")[0].windows
        1
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

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        sample_rate: int | None = None,
        faulty: Literal["raise", "skip"] = "raise",
    ) -> "Detector":
        """Learn from normal recordings. Copies of a recording count once.

        Args:
            X: normal recordings, see the class.
            y: None, or a label of each recording: those of -1 are faulty, and are left out. Others
                are not looked at.
            sample_rate: of arrays, hertz; None: that of the detector.
            faulty: whether recordings that are faulty or silent are an error, or left out with a
                warning.

        Raises:
            AsdjaxError: a setting is invalid, recordings are faulty or silent, or there are too few
                for `level`.
        """
        own_rate = None if self.sample_rate is None else checked_rate(self.sample_rate)
        features = open_features(self.embedder, own_rate)
        channel = features.channel if self.channel is None else self.channel
        backends = self._chosen_backends(features)
        lengths = self._fixed_clip(features), self.clip_seconds, self.hop_seconds
        known = next((length for length in lengths if length is not None), 1.0)
        self._check_settings(features.embedder, features.identity, channel, backends, known)
        self._require_frame(features)
        rate = features.sample_rate if sample_rate is None else checked_rate(sample_rate)
        given = _normal(sources.sources(X, rate, channel, "learn from"), y)
        found = survey(given, features, channel, known=(), skip=faulty == "skip")
        if not found.facts:
            raise DataError("no recording can be used: give others")
        _warn_of_copies(found.copies, len(given))
        clip_seconds = self._chosen_clip(features, found.facts)
        settings = self._check_settings(
            features.embedder, features.identity, channel, backends, clip_seconds
        )
        windowing = _windowing(settings, features)
        windows = normal_windows(found, features, Spectra(features.sample_rate), windowing)
        model = self._new_model(features, windows, settings)
        self._adopt(features, settings, model, probe.features_of(features, windowing))
        return self

    def update(
        self,
        X: Any,
        *,
        sample_rate: int | None = None,
        faulty: Literal["raise", "skip"] = "raise",
    ) -> Change:
        """Learn from more normal recordings; the result is that of `fit` with all of them.

        The length of the windows stays.

        Args:
            X: more normal recordings; copies of known ones are passed over.
            sample_rate: as in `fit`.
            faulty: as in `fit`.

        Raises:
            AsdjaxError: as for `fit`; the detector is then unchanged.
        """
        given = self._given(X, sample_rate, "learn from")
        before = self._model.windows
        found = survey(
            given,
            self._features,
            self._settings.channel,
            before.recordings,
            skip=faulty == "skip",
        )
        old, copies = self.threshold_, len(found.copies)
        if not found.facts:
            size = len(before.start)
            return Change(0, copies, (size, size), (old, old), ())
        new = normal_windows(found, self._features, self._spectra, self._windowing)
        alarms = []
        scores = self._model.score(new.tables)
        for i, one in enumerate(new.recordings):
            rows = np.flatnonzero(new.recording == i)
            worst = rows[np.argmax(scores[rows])]
            features = {name: table[[worst]] for name, table in new.tables.items()}
            if self._model.judge(one, scores[rows], float(new.start[worst]), features).alarm:
                alarms.append(one.name)
        model = self._new_model(self._features, before.with_others(new), self._settings)
        self._adopt(self._features, self._settings, model, self._probe)
        return Change(
            added=len(new.recordings),
            copies=copies,
            windows=(len(before.start), len(model.windows.start)),
            threshold=(old, model.threshold),
            alarms=tuple(alarms),
        )

    def require_possible(
        self, kind: type[Features], sample_rate: int, clip_seconds: float, X: Any
    ) -> None:
        """Check settings and normal recordings before an embedder is trained on them.

        Args:
            kind: of the features.
            sample_rate: of the embedder, hertz.
            clip_seconds: length of its clips.
            X: normal recordings, see the class.

        Raises:
            AsdjaxError: a setting is invalid, recordings are faulty or silent, or there are too few
                for `level`.
        """
        if self.sample_rate not in (None, sample_rate):
            raise ConfigError(
                f"sample_rate {self.sample_rate}: the embedder works at {sample_rate} Hz: omit it"
            )
        backends = self._chosen_backends(kind)
        settings = self._check_settings("", {}, self.channel or 1, backends, clip_seconds)
        given = sources.sources(X, sample_rate, settings.channel, "learn from")
        plain = open_features(SPECTRAL, sample_rate)
        found = survey(given, plain, settings.channel, known=(), skip=False)
        length, hop = (round(s * sample_rate) for s in (clip_seconds, settings.hop_seconds))
        windows = sum(
            len(recordings.starts(round(one.seconds * sample_rate), length, hop, recordings.HALF))
            for one in found.facts
        )
        calibration.require_enough(windows, settings.level)

    def _chosen_backends(self, features: Features | type[Features]) -> tuple[Backend, ...]:
        if self.backend is None:
            return features.backends
        given = self.backend
        several = [given] if isinstance(given, str | Backend) else list(given)
        found = []
        for backend in several:
            if isinstance(backend, str):
                choices = registry.choices("backend")
                if backend not in choices:
                    hint = schema.similar(backend, choices)
                    names = ", ".join(choices)
                    raise ConfigError(f"backend {backend!r}{hint or ':'} choose one of {names}")
                backend = registry.find("backend", backend)().with_metric(features.metric)
            found.append(backend)
        for backend in found:
            if backend.of_scores or backend.selected:
                raise ConfigError(f"backend {backend.name}: it is for runs alone: choose another")
        if any(backend.part is not None for backend in found):
            raise ConfigError("backend.part: a detector uses the first part: omit it")
        return tuple(found)

    def _check_settings(
        self,
        embedder: str,
        identity: Mapping[str, Any],
        channel: int,
        backends: tuple[Backend, ...],
        clip_seconds: float,
    ) -> Settings:
        """The settings of a fitted detector; `AsdjaxError` if one is invalid."""
        settings = Settings(
            embedder=embedder,
            identity=json.dumps(identity, sort_keys=True),
            backends=backends,
            level=_plain(self.level),
            clip_seconds=_plain(clip_seconds),
            hop_seconds=_plain(clip_seconds if self.hop_seconds is None else self.hop_seconds),
            channel=_plain(channel),
            max_bank=_plain(self.max_bank),
            seed=_plain(self.seed),
        )
        return detector_file.checked(settings, "Detector")

    def _require_frame(self, features: Features) -> None:
        """Refuse windows that are shorter than a frame of the embedder."""
        if self.clip_seconds is None:
            return
        samples = round(self.clip_seconds * features.sample_rate)
        if samples < features.frame:
            raise ConfigError(
                f"clip_seconds {self.clip_seconds:g}: windows of {samples} samples at "
                f"{features.sample_rate} Hz are too short to compare: give at least "
                f"{features.frame / features.sample_rate:.3g} s"
            )

    def _chosen_clip(self, features: Features, normal: Sequence[NormalRecording]) -> float:
        """The length of a window, seconds."""
        usual = usual_clip([recording.seconds for recording in normal])
        lengths = self._fixed_clip(features), self.clip_seconds
        return next((length for length in lengths if length is not None), usual)

    def _fixed_clip(self, features: Features) -> float | None:
        """The length of a window that the embedder requires, seconds; None: any."""
        if features.n_samples is None:
            return None
        seconds = features.n_samples / features.sample_rate
        if self.clip_seconds not in (None, seconds):
            raise ConfigError(
                f"clip_seconds {self.clip_seconds}: {self.embedder} needs clips of "
                f"{seconds:g} s: omit it"
            )
        return seconds

    def _new_model(
        self, features: Features, windows: NormalWindows, settings: Settings, **known: Any
    ) -> Model:
        return Model(
            windows,
            settings.backends,
            settings.level,
            settings.clip_seconds,
            bands=features.bands,
            max_bank=settings.max_bank,
            seed=settings.seed,
            **known,
        )

    def _adopt(
        self, features: Features, settings: Settings, model: Model, known: Mapping[str, np.ndarray]
    ) -> None:
        """Become the detector with this model, all at once."""
        self._features, self._settings, self._model, self._probe = features, settings, model, known
        self._windowing = _windowing(settings, features)
        self._spectra = Spectra(features.sample_rate)
        self.threshold_ = model.threshold
        self.offset_ = -model.threshold
        self.scores_ = model.scores
        self.recordings_ = model.windows.recordings
        self.members_ = model.ensemble.members

    # scoring

    def iter_predictions(
        self, X: Any, *, sample_rate: int | None = None, faulty: Literal["raise", "row"] = "raise"
    ) -> Iterator[Prediction]:
        """The predictions of recordings, one after the other, in bounded memory.

        Args:
            X: recordings, see the class.
            sample_rate: of arrays, hertz; None: that of the detector.
            faulty: what becomes of a recording that cannot be read or is too short: an exception,
                or a prediction with `error`.

        Raises:
            AsdjaxError: a recording is faulty, and `faulty` is "raise".
        """
        given = self._given(X, sample_rate, "score")
        return (found for found, _ in self._judged(given, as_rows=faulty == "row"))

    def predict_details(self, X: Any, *, sample_rate: int | None = None) -> list[Prediction]:
        """The predictions of recordings with all details; arguments as for `predict`.

        Example:
            >>> detector.predict_details("today.wav")[0].alarm
            False
        """
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

    def explain(self, X: Any, *, sample_rate: int | None = None) -> list[Explanation]:
        """Why recordings have their scores: members, frequencies, and a map of what differs.

        Args and exceptions as for `predict`.

        Example:
            >>> (why,) = detector.explain("today.wav")
            >>> len(why.areas) > 0
            True
        """
        return list(self.iter_explanations(X, sample_rate=sample_rate))

    def iter_explanations(self, X: Any, *, sample_rate: int | None = None) -> Iterator[Explanation]:
        """As `explain`, one after the other, in bounded memory."""
        for source in self._given(X, sample_rate, "explain"):
            recording = source.read()
            given = sources.of_recording(recording)
            ((prediction, worst),) = self._judged([given], as_rows=False)
            assert worst is not None, "faulty recordings raise"
            window = self._windowing.at_second(recording, prediction.start)
            yield explanation(
                prediction,
                worst,
                window,
                self._model,
                self._features,
                self._spectra,
                self._windowing.longest,
            )

    def stream(
        self, chunks: Iterable[np.ndarray], *, sample_rate: int | None = None
    ) -> Iterator[Prediction]:
        """A prediction for each window of endless sound, in bounded memory.

        Args:
            chunks: consecutive samples, [T] or [T, channels], of any lengths.
            sample_rate: of the chunks, hertz; None: that of the detector.

        Yields:
            A prediction for each window of `clip_seconds`, every `hop_seconds`, as soon as it is
            complete; `start` counts from the first chunk, and the threshold is that for one window.
            A window that is silent, or has samples that are not finite, has an `error`.

        Raises:
            AsdjaxError: a chunk has another shape or type than the first.
        """
        self._require_fitted()
        rate = self._rate(sample_rate)
        windows = recordings.windows_of_stream(
            chunks, self._settings.channel, *self._windowing.at(rate), rate
        )
        for window, start in windows:
            given = Source("stream", window, lambda: 0)
            ((found, _),) = self._judged([given], as_rows=True)
            yield dataclasses.replace(found, start=start)

    def _given(self, X: Any, sample_rate: int | None, to: str) -> list[Source]:
        self._require_fitted()
        rate = self._rate(sample_rate)
        return sources.sources(X, rate, self._settings.channel, to)

    def _judged(
        self, given: Sequence[Source], *, as_rows: bool
    ) -> Iterator[tuple[Prediction, ensemble.Tables | None]]:
        return predictions(
            given,
            self._features,
            self._windowing,
            self._model,
            self._settings.channel,
            as_rows=as_rows,
        )

    def _rate(self, sample_rate: int | None) -> int:
        """The sample rate of arrays, hertz; `AsdjaxError` if it is no sensible one."""
        if sample_rate is None:
            return self._features.sample_rate
        return checked_rate(sample_rate)

    def _require_fitted(self) -> None:
        if not hasattr(self, "threshold_"):
            raise NotFittedError(
                "this Detector is not fitted: call fit with normal recordings, or Detector.load"
            )

    # files

    def description(self) -> dict[str, Any]:
        """What the detector was made of, for people: numbers of recordings and windows, settings.

        `bank` is the number of windows that new ones are compared with, and `bank_cost` how much
        farther normal windows are from these than from all (0.1: 10 %).
        """
        self._require_fitted()
        return {
            "embedder": self._settings.embedder,
            "recordings": len(self.recordings_),
            "windows": len(self.scores_),
            "bank": int(self._model.ensemble.bank.sum()),
            "bank_cost": self._model.cost_of_bank(),
            "clip_seconds": self._settings.clip_seconds,
            "hop_seconds": self._settings.hop_seconds,
            "sample_rate": self._features.sample_rate,
            "channel": self._settings.channel,
            "level": self._settings.level,
            "threshold": self.threshold_,
        }

    def near_copies(self) -> list[str]:
        """Normal recordings that are almost equal to others, see `normal.Model.near_copies`."""
        self._require_fitted()
        return self._model.near_copies()

    def fingerprint(self) -> str:
        """A digest of the settings and the normal recordings, wherever the embedder is."""
        self._require_fitted()
        settings = schema.to_tree(dataclasses.replace(self._settings, embedder=""))
        return documents.fingerprint(settings, [one.digest for one in self.recordings_])

    def window_recording(self, window: int) -> int:
        """The recording of a normal window, a row of `scores_`: its number in `recordings_`."""
        return int(self._model.windows.recording[window])

    def save(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write the detector to a file (`asdjax.store.detector_file`).

        The weights of a trained embedder are not copied: their path and digest are.

        Raises:
            AsdjaxError: the file exists, or cannot be written.
        """
        self._require_fitted()
        windows = self._model.windows
        tables = {
            "recording": windows.recording,
            "start": windows.start,
            "held_out": self._model.held_out,
            "spectra": windows.spectra,
            **{VECTORS + name: table for name, table in windows.tables.items()},
            **{PROBE + name: table for name, table in self._probe.items()},
        }
        document = Document(self._settings, windows.recordings)
        detector_file.write(Path(path), document, tables, overwrite=overwrite)
        _LOG.info(f"{path}: detector written")

    def export(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write the detector as one program of `jax.export`, which needs JAX alone.

        See `asdjax.detector.exporting.exported` for its argument and result. It takes complete
        windows at the detector's sample rate and decides on each by itself.

        Raises:
            AsdjaxError: a backend cannot be exported; the program's scores are not the detector's;
                flatbuffers is not installed; or the file exists or cannot be written.
        """
        from asdjax.detector import exporting

        self._require_fitted()
        exporting.require_flatbuffers()
        path = Path(path)
        atomic.require_free(path, overwrite)
        samples = self._windowing.longest
        program = exporting.exported(self._features, self._model, samples)
        content = exporting.serialized(program, self.score_samples)
        atomic.write_bytes(path, content, overwrite=overwrite)

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

        Example:
            >>> asdjax.Detector.load("pump.asd").level
        0.9
        """
        path = Path(path)
        if os.path.isdir(path):
            raise ArtifactError(f"{path}: is a folder: name the file of a detector (.asd) first")
        document, tables = detector_file.read(path)
        settings = document.settings
        if level is not None:
            changed = dataclasses.replace(settings, level=_plain(level))
            settings = detector_file.checked(changed, "Detector")
        detector = cls(
            settings.embedder if embedder is None else embedder,
            backend=settings.backends,
            level=settings.level,
            clip_seconds=settings.clip_seconds,
            hop_seconds=settings.hop_seconds,
            channel=settings.channel,
            sample_rate=_identity(path, settings)["sample_rate"],
            max_bank=settings.max_bank,
            seed=settings.seed,
        )
        detector._restore(path, settings, document, tables)
        _LOG.info(f"{path}: detector with the embedder {settings.embedder} read")
        return detector

    def _restore(
        self, path: Path, settings: Settings, document: Document, tables: Mapping[str, np.ndarray]
    ) -> None:
        """Take over what a file holds."""
        try:
            features = open_features(self.embedder, self.sample_rate)
        except AsdjaxError as error:
            raise ArtifactError(
                f"{path}: its embedder cannot be used: {error}; if it was moved, say where it is "
                "(--embedder)"
            ) from error
        require_identity(features, _identity(path, settings), str(path))
        settings = dataclasses.replace(settings, embedder=features.embedder)
        vectors = {n.removeprefix(VECTORS): t for n, t in tables.items() if n.startswith(VECTORS)}
        known = {n.removeprefix(PROBE): t for n, t in tables.items() if n.startswith(PROBE)}
        probe.require_same(path, known, probe.features_of(features, _windowing(settings, features)))
        windows = NormalWindows(
            document.recordings,
            tables["recording"],
            tables["start"],
            vectors,
            tables["spectra"],
        )
        model = self._new_model(features, windows, settings, held_out=tables["held_out"])
        self._adopt(features, settings, model, known)


def _windowing(settings: Settings, features: Features) -> Windowing:
    return Windowing(settings.clip_seconds, settings.hop_seconds, features.sample_rate)


def _identity(path: Path, settings: Settings) -> dict[str, Any]:
    """What the features of a stored detector were."""
    identity = documents.parse_json(settings.identity, path, "fit again")
    if not isinstance(identity, dict) or type(identity.get("sample_rate")) is not int:
        raise ArtifactError(f"{path}: identity: no sample rate: fit again")
    return identity


def _warn_of_copies(copies: Sequence[str], recordings: int) -> None:
    if copies:
        _LOG.warning(
            f"{len(copies)} of {recordings} recordings are copies of others and count once: "
            f"{copies[0]}{', ...' if len(copies) > 1 else ''}"
        )


def _normal(given: list[Source], y: Any) -> list[Source]:
    """The recordings whose label is not -1."""
    if y is None:
        return given
    labels = np.asarray(y)
    if labels.shape != (len(given),):
        raise DataError(
            f"y has shape {labels.shape}: give a label for each of {len(given)} recordings"
        )
    chosen = [source for source, label in zip(given, labels, strict=True) if label != -1]
    if not chosen:
        raise DataError("y: all recordings are labelled -1: there is no normal one to learn from")
    return chosen


def _plain(value: Any) -> Any:
    """A number of NumPy as one of Python; other values unchanged."""
    return value.item() if isinstance(value, np.generic) else value


def _number(value: float | None) -> float:
    assert value is not None, "faulty recordings raise"
    return value

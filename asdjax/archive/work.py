"""What a job does with recordings: embed them with a model, or score them with a detector."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from asdjax.archive.inputs import Unusable
from asdjax.archive.job import PLAN_AGAIN, Settings
from asdjax.arguments import pool as pool_named
from asdjax.config.interfaces import ComputeDtype
from asdjax.data import audio
from asdjax.data.audio import Header
from asdjax.data.read_ahead import in_order
from asdjax.data.retries import Retries
from asdjax.data.sound_search import as_text
from asdjax.detector import recordings
from asdjax.detector.detector import Detector
from asdjax.detector.prediction import table_of
from asdjax.detector.recordings import Recording
from asdjax.detector.sources import Source
from asdjax.embedder import Embedder, Pool, digests, load, pool_tree, sound_clips
from asdjax.embedder.sound_clips import Channel, SoundClip
from asdjax.errors import ArtifactError, AsdjaxError, DataError, UsageError
from asdjax.files import documents
from asdjax.files.copied_files import Copied
from asdjax.files.url_files import UrlFile
from asdjax.runtime import console
from asdjax.store import parquet_files

Found = tuple[Any, list[Unusable]]
"""Rows as a table of pyarrow, and recordings without rows."""


class Clip(Protocol):
    """A recording whose header was read."""

    @property
    def name(self) -> str:
        """As in tables."""

    @property
    def source(self) -> Path | Copied:
        """What is read."""

    @property
    def header(self) -> Header:
        """What was read."""

    @property
    def samples(self) -> int:
        """See `Work.samples`."""

    def require_unchanged(self) -> None:
        """Raise `AsdjaxError` if the recording is known to have changed since."""


class Work(ABC):
    """What is done with the recordings of a job.

    Attributes:
        settings: with what.
    """

    settings: Settings

    @abstractmethod
    def samples(self, path: Path | Copied, header: Header) -> int:
        """Samples per channel that are used: recordings of about as many go together.

        Raises:
            AsdjaxError: the recording cannot be used.
        """

    @abstractmethod
    def together(self, samples: int) -> int:
        """How many recordings of a length are computed at once."""

    @abstractmethod
    def rows(
        self, clips: Sequence[Clip], retries: Retries, finished: Callable[[int], object]
    ) -> Found:
        """The rows of the recordings of a shard, in order.

        Args:
            clips: the recordings.
            retries: reads the files.
            finished: called with numbers of recordings that are finished.
        """


class Embedding(Work):
    """Embeds recordings, as `asdjax embed` does."""

    def __init__(self, settings: Settings, embedder: Embedder, pool: Pool):
        self.settings, self.embedder, self.pool = settings, embedder, pool

    def samples(self, path: Path | Copied, header: Header) -> int:
        """See `Work`; what a run cuts off does not count."""
        clip = self._clip(str(path), path, header)
        return clip.samples(self.embedder)

    def together(self, samples: int) -> int:
        """See `Work`."""
        (group,) = self.embedder.batching.groups([samples], alike=True)
        return self.embedder.network.at_once(group.row_length) or group.rows

    def rows(
        self, clips: Sequence[Clip], retries: Retries, finished: Callable[[int], object]
    ) -> Found:
        """See `Work`; as the table of `asdjax embed`."""
        errors: dict[int, str] = {}
        rows: list[tuple[int, int, np.ndarray]] = []  # recording, channel, embedding
        loud: dict[str, float] = {}
        counted = 0
        for keys, waveforms in sound_clips.blocks(self._read(clips, retries, errors)):
            names = [clips[i].name for i, _ in keys]
            found = self._embedded(waveforms, names, loud)
            for (i, channel), embedding in zip(keys, found, strict=True):
                if isinstance(embedding, str):
                    errors[i] = embedding
                else:
                    rows.append((i, channel, np.asarray(embedding, np.float32)))
            finished(keys[-1][0] - counted)  # the last one may have further channels
            counted = keys[-1][0]
        finished(len(clips) - counted)
        if loud:
            console.say(audio.words_on_loudness(loud))
        rows = [row for row in rows if row[0] not in errors]
        about = sound_clips.about(self.embedder, Path(self.settings.weights), self.pool)
        values = np.array([embedding for *_, embedding in rows], np.float32)
        table = parquet_files.embedding_table(
            {
                "path": np.array([clips[i].name for i, *_ in rows], str),
                "channel": np.array([channel for _, channel, _ in rows], np.int32),
                "embedding": values if rows else values.reshape(0, self._size()),
            },
            {"asdjax": json.dumps(about)},
        )
        return table, [Unusable(clips[i].name, errors[i]) for i in sorted(errors)]

    def _size(self) -> int:
        """Number of values of an embedding."""
        wave = np.linspace(-0.5, 0.5, max(self.embedder.shortest, 2), dtype=np.float32)
        return len(self.embedder.embed([wave], self.pool)[0])

    def _clip(self, name: str, path: Path | Copied, header: Header) -> SoundClip:
        return sound_clips.open_clip(name, path, header, self.settings.channel, self.embedder)

    def _read(
        self, clips: Sequence[Clip], retries: Retries, errors: dict[int, str]
    ) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
        """Number and channel (from 1), and waveform, of each channel that can be read."""
        sounds = [self._clip(clip.name, clip.source, clip.header) for clip in clips]

        def read(i: int) -> np.ndarray | str:
            try:
                samples = retries(partial(sounds[i].read, self.embedder))
                retries(clips[i].require_unchanged)
            except AsdjaxError as error:
                return reason(error, clips[i].name)
            return samples

        sizes = (clip.header.channels * clip.samples for clip in clips)
        for i, found in enumerate(in_order(read, range(len(clips)), sizes)):
            if isinstance(found, str):
                errors[i] = found
                continue
            for channel, waveform in zip(sounds[i].channels, found.T, strict=True):
                yield (i, channel + 1), waveform

    def _embedded(
        self, waveforms: Sequence[np.ndarray], names: Sequence[str], loud: dict[str, float]
    ) -> list[np.ndarray | str]:
        """Embeddings, or why there is none."""
        try:
            return list(self.embedder.embed(waveforms, self.pool, names=names, loud=loud.update))
        except DataError as error:
            if len(waveforms) == 1:
                return [reason(error, names[0])]
        # find out which, and embed the others together
        alone = [
            self._embedded([wave], [name], loud)[0]
            for wave, name in zip(waveforms, names, strict=True)
        ]
        good = [i for i, found in enumerate(alone) if not isinstance(found, str)]
        again = self._embedded([waveforms[i] for i in good], [names[i] for i in good], loud)
        for i, found in zip(good, again, strict=True):
            alone[i] = found
        return alone


class Scoring(Work):
    """Scores recordings, as `asdjax predict` does."""

    def __init__(self, settings: Settings, detector: Detector):
        self.settings, self.detector = settings, detector

    def samples(self, path: Path | Copied, header: Header) -> int:
        """See `Work`."""
        channel = self.settings.channel
        if channel != "each" and channel > header.channels:
            raise DataError(f"{path}: no channel {channel}, which the detector uses: leave it out")
        return header.frames

    def together(self, samples: int) -> int:
        """See `Work`."""
        return 1

    def rows(
        self, clips: Sequence[Clip], retries: Retries, finished: Callable[[int], object]
    ) -> Found:
        """See `Work`; as the table of `asdjax predict --parquet`, with rows of errors."""
        given = [
            Source(clip.name, partial(self._read, clip, retries), partial(_samples, clip))
            for clip in clips
        ]
        rows, errors = [], []
        for found in self.detector.iter_predictions(given, faulty="row") if given else ():
            rows.append(found.row())
            if found.error is not None:
                errors.append(Unusable(found.file, reason(found.error, found.file)))
            finished(1)
        return table_of(rows), errors

    def _read(self, clip: Clip, retries: Retries) -> Recording:
        assert isinstance(self.settings.channel, int), "detectors use one channel"
        source = clip.source
        if isinstance(source, UrlFile):  # read once, for header and samples
            source = retries(source.held)
        read = partial(recordings.read, source, clip.name, self.settings.channel)
        found = retries(read)
        retries(clip.require_unchanged)
        return found


def _samples(clip: Clip) -> int:
    return clip.header.frames * clip.header.channels


def reason(error: AsdjaxError | str, name: str) -> str:
    """The message of an error, without the recording's name."""
    words = as_text(str(error))
    return words.removeprefix(f"{name}: ").removeprefix(f"{Path(name)}: ")  # unlike for URLs


def choose(
    weights: Path,
    *,
    pool: Pool | None,
    layers: Sequence[int],
    channel: Channel | None,
    compute_dtype: ComputeDtype | None,
) -> Work:
    """The work of a new job; arguments as for `asdjax embed`, or a detector alone.

    Raises:
        AsdjaxError: the weights cannot be read, or do not support an option.
    """
    place = str(weights.absolute())
    if weights.is_file():
        for option, value in (
            ("--pool", pool), ("--layer", layers or None), ("--channel", channel),
            ("--compute-dtype", compute_dtype),
        ):  # fmt: skip
            if value is not None:
                raise UsageError(f"{option}: a detector has its own settings: omit it")
        detector, digest = Detector.load(weights), documents.digest(weights)
        used = detector.description()["channel"]
        return Scoring(Settings(place, "predictions", digest, "", (), used, None), detector)
    if pool == "none":
        raise UsageError("--pool none: the tokens of an archive: use asdjax embed on parts of it")
    embedder = load(weights, layers=layers, compute_dtype=compute_dtype)
    pool = embedder.pooling(pool)
    tree = pool_tree(pool)
    words = tree if isinstance(tree, str) else json.dumps(tree)
    wanted = sound_clips.check_channel(embedder.channel if channel is None else channel)
    digest = documents.fingerprint(digests(weights))
    settings = Settings(place, "embeddings", digest, words, tuple(layers), wanted, compute_dtype)
    return Embedding(settings, embedder, pool)


def of_job(settings: Settings) -> Work:
    """The work of a planned job.

    Raises:
        AsdjaxError: the weights cannot be read, or are not those that the job was planned with.
    """
    weights = Path(settings.weights)
    if settings.kind == "predictions":
        _require_digest(settings, documents.digest(weights))
        if settings.channel == "each":
            raise ArtifactError(f"{settings.weights}: a detector has one channel: {PLAN_AGAIN}")
        return Scoring(settings, Detector.load(weights))
    _require_digest(settings, documents.fingerprint(digests(weights)))
    embedder = load(weights, layers=settings.layers, compute_dtype=settings.compute_dtype)
    return Embedding(settings, embedder, embedder.pooling(pool_named(settings.pool)))


def _require_digest(settings: Settings, found: str) -> None:
    if found != settings.digest:
        raise ArtifactError(
            f"{settings.weights}: not the weights that the job was planned with: restore them, or "
            "plan the job again"
        )

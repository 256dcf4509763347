"""Batches of waveforms for training and extraction, from grain pipelines.

Order and crops depend only on the seed, the epoch and the clip's position in the epoch. Global
batches are therefore the same for any number of devices and processes, and a resumed pipeline
continues exactly. 16-bit audio remains int16 until it is on the device.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import grain
import numpy as np
from jaxtyping import Float32, Int16, Int32

from asdjax.config.recipe import AudioConfig
from asdjax.data import audio
from asdjax.data.samples import to_float
from asdjax.errors import DataError

Waveforms = Int16[np.ndarray, "B T"] | Float32[np.ndarray, "B T"]
Clips = dict[str, np.ndarray]  # "waveform" [B, channels, T] and "length" [B]
LabelledBatches = Iterator[tuple[dict[str, np.ndarray], int]]  # "waveform" [B, T], "label" [B]


@dataclasses.dataclass(frozen=True)
class EpochPlan:
    """How the clips of an epoch are divided into global batches."""

    clips: int
    batch_size: int
    tail: int
    """Clips in the last, shorter batch; 0 without one."""
    notes: tuple[str, ...]

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return self.clips // self.batch_size + (self.tail > 0)

    def clips_in(self, step: int) -> int:
        """Clips in the batch of a step, over all epochs counted from 0."""
        return self.tail if self.tail and (step + 1) % self.steps == 0 else self.batch_size

    @property
    def largest(self) -> int:
        """Clips in the largest batch."""
        return self.batch_size if self.clips >= self.batch_size else self.tail


def plan_epoch(
    clips: int, batch_size: int, devices: int, drop_last: bool, accumulate: int = 1
) -> EpochPlan:
    """Divide an epoch into batches; the last one may be shorter.

    The last batch is cut to a multiple of the devices, and of the `accumulate` parts of each.
    Single clips are left out: they have no batch statistics. Too few clips for one batch are an
    `AsdjaxError`.

    Example:
        >>> plan_epoch(11, batch_size=4, devices=2, drop_last=False).tail
        2
    """
    left = clips % batch_size
    cut = left - left % (devices * accumulate)
    tail = 0 if drop_last or cut < 2 * accumulate else cut
    where = f"{devices} device{'s' * (devices > 1)}"
    where += f" in {accumulate} parts" if accumulate > 1 else ""
    if clips < batch_size and not tail:
        raise DataError(
            f"train.batch_size: {clips} training clips are too few for a batch of {batch_size}"
            + (" with train.drop_last" if drop_last else f" on {where}")
            + f": set train.batch_size to at most {clips}"
        )
    notes = []
    if left != tail:
        why = "train.drop_last" if drop_last else where
        notes.append(
            f"each epoch leaves out {left - tail} of {clips} clips "
            f"(last batch of {left} cut to {tail}: {why})"
        )
    return EpochPlan(clips, batch_size, tail, tuple(notes))


@dataclasses.dataclass(frozen=True)
class OwnSound:
    """How clips of a user's own data are read: files of any format, rate and number of channels."""

    sample_rate: int
    """Hertz, to which files are resampled."""
    channels: Sequence[int | None]
    """For each clip its channel, counted from 1; None: as the configuration says."""


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads clips by index, as int16 if `pcm16`, otherwise as float32."""

    paths: Sequence[Path]
    frames: Sequence[int]
    channel: Literal["near", "far"] | None
    pcm16: bool
    own: OwnSound | None

    def __call__(self, clip: int) -> np.ndarray:
        """Samples [T], or [T, channels] if `channel` is None."""
        channel: Literal["near", "far"] | int | None = self.channel
        rate = None
        if self.own is not None:
            channel, rate = self.own.channels[clip] or channel, self.own.sample_rate
        wave = audio.read(self.paths[clip], channel=channel, sample_rate=rate)
        if self.channel is None and wave.ndim == 1:
            wave = wave[:, None]
        if len(wave) != self.frames[clip]:
            raise DataError(
                f"{self.paths[clip]}: {len(wave)} samples, but {self.frames[clip]} when the data "
                "set was checked: do not change files while they are in use"
            )
        return wave if self.pcm16 else to_float(wave)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.int16 if self.pcm16 else np.float32)


class TrainingBatches:
    """An iterator over {"waveform": [b, T], "label": int32 [b]}: this process's part of a batch.

    Attributes:
        plan: how an epoch is divided into batches.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        frames: Sequence[int],
        labels: Int32[np.ndarray, " N"],
        config: AudioConfig,
        plan: EpochPlan,
        *,
        n_samples: int,
        pcm16: bool,
        epochs: int,
        seed: int,
        process: tuple[int, int] = (0, 1),
        own: OwnSound | None = None,
    ):
        """Set up the pipeline; nothing is read yet.

        Args:
            paths: the training clips.
            frames: their lengths in samples; a file with another length is an `AsdjaxError`.
            labels: their classes.
            config: channel, crop and prefetching.
            plan: from `plan_epoch`.
            n_samples: T.
            pcm16: whether all clips are 16-bit PCM: waveforms are int16, otherwise float32.
            epochs: passes over the clips.
            seed: for the order and the crops.
            process: this process's index and the number of processes.
            own: for clips of a user's own data.
        """
        self.plan = plan
        reader = _Reader(paths, frames, config.channel, pcm16, own)
        index, count = process

        def place(clip: int, rng: np.random.Generator) -> tuple[int, float]:
            return clip, rng.random() if config.train_crop == "random" else 0.0

        def read(batch: list[tuple[int, float]]) -> dict[str, np.ndarray]:
            size = len(batch) if len(batch) == plan.batch_size else plan.tail
            rows = batch[index * size // count : (index + 1) * size // count]
            waveform = np.empty((len(rows), n_samples), reader.dtype)
            for row, (clip, u) in zip(waveform, rows, strict=True):
                wave = reader(clip)
                start = audio.crop_start(len(wave), n_samples, u)
                row[:] = audio.fit_length(wave, n_samples, start)
            return {"waveform": waveform, "label": labels[[clip for clip, _ in rows]]}

        places = grain.MapDataset.range(len(paths)).seed(seed).shuffle().random_map(place)
        batched = places.batch(plan.batch_size, drop_remainder=not plan.tail, batch_fn=list)
        options = grain.ReadOptions(
            num_threads=config.read_threads, prefetch_buffer_size=config.prefetch_batches
        )
        self._iterator = iter(batched.repeat(epochs).map(read).to_iter_dataset(options))

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self._iterator)

    def state(self) -> dict[str, int]:
        """The iterator's position, as a JSON document."""
        return self._iterator.get_state()

    def restore(self, state: dict[str, int]) -> None:
        """Continue from a state that `state` returned."""
        self._iterator.set_state(state)


def validation_batches(
    paths: Sequence[Path],
    frames: Sequence[int],
    labels: Int32[np.ndarray, " N"],
    config: AudioConfig,
    *,
    batch_size: int,
    n_samples: int,
    pcm16: bool,
    own: OwnSound | None = None,
) -> LabelledBatches:
    """Clips in order with their classes, from their start, padded to batches of a fixed shape.

    Args:
        paths: the clips.
        frames: as for `TrainingBatches`.
        labels: as for `TrainingBatches`.
        config: channel and prefetching.
        batch_size: rows of a batch.
        n_samples: T; shorter clips are repeated, longer ones cropped at the start.
        pcm16: as for `TrainingBatches`.
        own: as for `TrainingBatches`.

    Yields:
        {"waveform": [batch_size, T], "label": int32 [batch_size]}, and the number of clips in the
        batch; further rows are silent, of class 0.
    """
    reader = _Reader(paths, frames, config.channel, pcm16, own)

    def read(batch: list[int]) -> tuple[dict[str, np.ndarray], int]:
        waveform = np.zeros((batch_size, n_samples), reader.dtype)
        label = np.zeros(batch_size, np.int32)
        for i, clip in enumerate(batch):
            waveform[i] = audio.fit_length(reader(clip), n_samples, 0)
            label[i] = labels[clip]
        return {"waveform": waveform, "label": label}, len(batch)

    options = grain.ReadOptions(
        num_threads=config.read_threads, prefetch_buffer_size=config.prefetch_batches
    )
    clips = grain.MapDataset.range(len(paths)).batch(batch_size, batch_fn=list)
    yield from clips.map(read).to_iter_dataset(options)


def batch_count(clips: Sequence[Any], batch_size: int) -> int:
    """The number of batches of `inference_batches`, over all processes."""
    return -(-len(clips) // batch_size)


def inference_batches(
    paths: Sequence[Path],
    frames: Sequence[int],
    config: AudioConfig,
    *,
    batch_size: int,
    room: int,
    two_channels: bool,
    pcm16: bool,
    process: tuple[int, int] = (0, 1),
    own: OwnSound | None = None,
) -> Iterator[tuple[Clips, int]]:
    """Clips in order, zero-padded to batches of a fixed shape.

    Several processes take the batches in turn, all equally many: those for which none is left read
    the last one, too, so that none of them waits idle for the others.

    Args:
        paths: the clips.
        frames: as for `TrainingBatches`.
        config: channel and prefetching.
        batch_size: rows of a batch.
        room: samples of a row; longer clips are cut.
        two_channels: read both channels, near then far, instead of only `config.channel`.
        pcm16: as for `TrainingBatches`.
        process: this process's index and the number of processes.
        own: as for `TrainingBatches`.

    Yields:
        {"waveform": [batch_size, channels, room], "length": int32 [batch_size]}, and the number of
        clips in the batch; further rows are silent.
    """
    reader = _Reader(paths, frames, None if two_channels else config.channel, pcm16, own)
    index, processes = process
    last = batch_count(paths, batch_size) - 1

    def read(turn: int) -> tuple[Clips, int]:
        start = min(turn * processes + index, last) * batch_size
        batch = range(start, min(start + batch_size, len(paths)))
        waveform = np.zeros((batch_size, 1 + two_channels, room), reader.dtype)
        length = np.full(batch_size, room, np.int32)
        for i, clip in enumerate(batch):
            wave = reader(clip)[:room]
            length[i] = len(wave)
            waveform[i, :, : len(wave)] = wave.T
        return {"waveform": waveform, "length": length}, len(batch)

    options = grain.ReadOptions(
        num_threads=config.read_threads, prefetch_buffer_size=config.prefetch_batches
    )
    turns = grain.MapDataset.range(-(-(last + 1) // processes))
    yield from turns.map(read).to_iter_dataset(options)

"""Batches of waveforms: the grain pipelines that feed training and extraction.

Order and crops depend on the seed, the epoch and the clip's place in the epoch alone, so every
number of devices and processes sees the same global batches, and a pipeline resumed at a step
continues exactly as the uninterrupted one. Audio stays 16-bit until it is on the device.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import grain
import numpy as np
from jaxtyping import Float32, Int16, Int32

from asdjax.config.recipe import AudioConfig
from asdjax.data import audio
from asdjax.errors import AsdjaxError

Waveforms = Int16[np.ndarray, "B T"] | Float32[np.ndarray, "B T"]
Clips = dict[str, np.ndarray]  # "waveform" [B, channels, T] and each clip's "length" [B]


@dataclasses.dataclass(frozen=True)
class EpochPlan:
    """How one epoch's clips fall into global batches."""

    clips: int
    batch_size: int
    tail: int
    """Clips in the last, shorter batch; 0 when there is none."""
    notes: tuple[str, ...]

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return self.clips // self.batch_size + (self.tail > 0)


def plan_epoch(clips: int, batch_size: int, devices: int, drop_last: bool) -> EpochPlan:
    """Decide what becomes of the clips that do not fill a whole batch.

    They make a shorter batch, cut to a multiple of the devices. One clip alone has no batch
    statistics and is left out.
    """
    left = clips % batch_size
    cut = left - left % devices
    tail = 0 if drop_last or cut < 2 else cut
    if clips < batch_size and not tail:
        raise AsdjaxError(
            f"train.batch_size: {clips} training clips give no batch of {batch_size}"
            + (" with train.drop_last" if drop_last else f" on {devices} devices")
            + f": set train.batch_size to at most {clips}"
        )
    notes = []
    if left != tail:
        why = "train.drop_last" if drop_last else f"{devices} device{'s' * (devices > 1)}"
        notes.append(
            f"each epoch leaves out {left - tail} of {clips} clips "
            f"(last batch of {left} cut to {tail}: {why})"
        )
    return EpochPlan(clips, batch_size, tail, tuple(notes))


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads clips as they are stored, int16 or float32."""

    paths: Sequence[Path]
    frames: Sequence[int]
    channel: Literal["near", "far"] | None
    pcm16: bool

    def __call__(self, clip: int) -> np.ndarray:
        """Samples [T], or [T, channels] where `channel` is None."""
        wave = audio.read(self.paths[clip], channel=self.channel)
        if len(wave) != self.frames[clip]:
            raise AsdjaxError(
                f"{self.paths[clip]}: {len(wave)} samples where its header said "
                f"{self.frames[clip]} before: the file was changed while it was in use"
            )
        if not self.pcm16 and wave.dtype == np.int16:
            wave = wave.astype(np.float32) / np.float32(32768)
        return wave

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.int16 if self.pcm16 else np.float32)


class TrainingBatches:
    """An iterator of {"waveform": [b, T], "label": int32 [b]}, this process's share of each batch.

    Attributes:
        plan: the epoch's division into batches.
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
    ):
        """Set up the pipeline; nothing is read yet.

        Args:
            paths: the training clips.
            frames: their lengths in samples, which the files must still have when they are read.
            labels: each clip's class.
            config: channel, crop and reading ahead.
            plan: from `plan_epoch`.
            n_samples: T.
            pcm16: all clips are 16-bit, so waveforms are int16; otherwise float32 in [-1, 1].
            epochs: passes over the clips.
            seed: of the order and the crops.
            process: this process's index and the number of processes.
        """
        self.plan = plan
        reader = _Reader(paths, frames, config.channel, pcm16)
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
        """Where the iterator stands, as JSON."""
        return self._iterator.get_state()

    def restore(self, state: dict[str, int]) -> None:
        """Continue from a stored state."""
        self._iterator.set_state(state)


def inference_batches(
    paths: Sequence[Path],
    frames: Sequence[int],
    config: AudioConfig,
    *,
    batch_size: int,
    room: int,
    two_channels: bool,
    pcm16: bool,
) -> Iterator[tuple[Clips, int]]:
    """The clips in order and at their own lengths, as batches of one fixed shape.

    Args:
        paths: the clips.
        frames: as for `TrainingBatches`.
        config: channel and reading ahead.
        batch_size: rows of every batch.
        room: samples of every row; what a longer clip holds beyond them is left out.
        two_channels: read both channels, near then far, instead of `config.channel` alone.
        pcm16: as for `TrainingBatches`.

    Yields:
        {"waveform": [batch_size, channels, room], "length": int32 [batch_size]}, zeros beyond a
        clip's length, and how many of the rows are clips; the others are silence.
    """
    reader = _Reader(paths, frames, None if two_channels else config.channel, pcm16)

    def read(batch: list[int]) -> tuple[Clips, int]:
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
    clips = grain.MapDataset.range(len(paths)).batch(batch_size, batch_fn=list)
    yield from clips.map(read).to_iter_dataset(options)

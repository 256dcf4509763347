"""Batches for waveforms of any lengths, of few shapes, because each new shape is compiled."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from asdjax.data import audio
from asdjax.data.samples import to_float
from asdjax.embedder.network import LONG, Network, rounded_up
from asdjax.errors import DataError


@dataclasses.dataclass(frozen=True)
class Group:
    """Clips that share a batch."""

    clips: list[int]
    """Indices of the clips."""
    rows: int
    """Rows of the batch; those after the clips are padding."""
    row_length: int
    """Samples per row."""


@dataclasses.dataclass(frozen=True)
class Batching:
    """Makes the batches for a network."""

    network: Network

    @property
    def shortest(self) -> int:
        """Length of the shortest clip that can be embedded, samples."""
        if self.network.n_samples is not None:
            return 1
        return self.network.config.model.shortest

    def row_length(self, samples: int) -> int:
        """The row length for a clip of `samples` samples."""
        if self.network.n_samples is not None:
            return self.network.n_samples
        return self.network.config.model.row_length(samples)

    def groups(self, lengths: Sequence[int], *, alike: bool = False) -> list[Group]:
        """Group clips of these lengths by row length, into batches of limited size.

        With `alike` a lone clip has a batch of the size that several have.
        """
        row_lengths, groups = [self.row_length(n) for n in lengths], []
        for row_length in sorted(set(row_lengths)):
            clips = [i for i, n in enumerate(row_lengths) if n == row_length]
            most = self.network.config.extract.batch_size
            if self.network.n_samples is None:
                most = max(1, most * LONG // max(row_length, LONG))
            # all batches of two or more clips get the same size, because each size is compiled
            rows = rounded_up(most if alike or len(clips) > 1 else 1, self.network.devices)
            starts = range(0, len(clips), rows)
            groups += [Group(clips[i : i + rows], rows, row_length) for i in starts]
        return groups

    def batch(self, waveforms: Sequence[np.ndarray], group: Group) -> dict[str, np.ndarray]:
        """The arrays "waveform" and "length" of a group; padding rows are zero."""
        integers = all(waveforms[i].dtype == np.int16 for i in group.clips)
        dtype = np.int16 if integers else self.network.dtype
        batch = {
            "waveform": np.zeros((group.rows, group.row_length), dtype),
            "length": np.full(group.rows, group.row_length, np.int32),
        }
        for row, clip in enumerate(group.clips):
            wave = waveforms[clip]
            if not integers:
                wave = to_float(wave, dtype)
            if self.network.n_samples is not None:
                wave = audio.fit_length(wave, group.row_length)
            wave = wave[: group.row_length]
            batch["waveform"][row, : len(wave)] = wave
            batch["length"][row] = len(wave)
        return batch

    def check(self, wave: np.ndarray, name: str) -> float:
        """Check a waveform, and return its peak (0 for integers).

        Raises:
            AsdjaxError: it has the wrong shape or type, is too short, or not finite.
        """
        if wave.ndim != 1 or not (wave.dtype == np.int16 or wave.dtype.kind == "f"):
            raise DataError(
                f"{name} is of shape {wave.shape} and type {wave.dtype}: give one channel, as "
                "int16 or as float in [-1, 1]"
            )
        if len(wave) < self.shortest:
            raise DataError(
                f"{name} has {len(wave)} samples, too few for this model: give at least "
                f"{self.shortest}"
            )
        if wave.dtype == np.int16:
            return 0.0
        peak = float(max(np.max(wave), -np.min(wave)))  # NaN if any sample is NaN
        if not math.isfinite(peak):
            raise DataError(f"{name} is not finite: repair the recording")
        return peak

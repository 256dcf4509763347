"""Embedding of sound files: their channels, lengths and blocks, and what is noted on it."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from asdjax._version import __version__
from asdjax.data import audio
from asdjax.data.audio import Header
from asdjax.embedder.embedding import Embedder, Pool, pool_tree
from asdjax.embedder.loading import digests
from asdjax.errors import DataError, UsageError
from asdjax.files.copied_files import Copied

SCHEMA = "asdjax.embeddings/1"
Channel = int | Literal["each"]
Row = TypeVar("Row")

_BLOCK_ROWS, _BLOCK_SAMPLES = 256, 2**25
"""Size of a block: waveforms of similar length are batched within it, while the next is read."""


@dataclasses.dataclass(frozen=True)
class SoundClip:
    """A sound file to embed."""

    name: str
    """The path as written to the output."""
    path: Path | Copied
    header: Header
    channels: range
    """The channels to embed, counted from 0."""

    def samples(self, embedder: Embedder) -> int:
        """Number of samples to embed, at the model's sample rate."""
        rate = embedder.config.audio.sample_rate
        length = math.ceil(self.header.frames * rate / self.header.rate)
        return length if embedder.n_samples is None else min(length, embedder.n_samples)

    def read(self, embedder: Embedder) -> np.ndarray:
        """The samples [T, channels] to embed.

        Raises:
            AsdjaxError: the file cannot be read, or is not what its header was.
        """
        rate = embedder.config.audio.sample_rate
        samples = audio.read_any(self.path, rate, most=embedder.n_samples)
        if samples.shape != (self.samples(embedder), self.header.channels):
            raise DataError(f"{self.path}: the file was changed while it was in use: start again")
        wanted = samples[:, self.channels.start : self.channels.stop]
        return wanted.copy("F")  # releases the memory of the other channels


def open_clip(
    name: str, path: Path | Copied, header: Header, wanted: Channel, embedder: Embedder
) -> SoundClip:
    """A sound file with the channels that are wanted, counted from 1.

    Raises:
        AsdjaxError: it has no such channel, or is too short for the model.
    """
    channels = range(header.channels)
    if wanted != "each":
        channels = channels[wanted - 1 : wanted]
    if not channels:
        raise DataError(
            f"{path}: no channel {wanted}, the file has {header.channels}: choose another "
            "with --channel, or each"
        )
    clip = SoundClip(name, path, header, channels)
    samples = clip.samples(embedder)
    if samples < embedder.shortest:
        raise DataError(
            f"{path}: {samples} samples at {embedder.config.audio.sample_rate} Hz are too "
            f"short for this model, which needs {embedder.shortest}: leave the file out"
        )
    return clip


def check_channel(wanted: Channel) -> Channel:
    """The channel to embed; `UsageError` if none can have this number."""
    if wanted != "each" and wanted < 1:
        raise UsageError(f"--channel: channels count from 1, found {wanted}")
    return wanted


def conversions(
    embedder: Embedder,
    weights: Path,
    total: int,
    rates: Counter[int],
    *,
    several: int,
    channel: int,
    longer: int,
) -> Iterator[str]:
    """Notes on how files are resampled and cut, and which channel and view is embedded.

    Args:
        embedder: the model.
        weights: its path.
        total: number of files.
        rates: of these, hertz.
        several: files with more channels than the first, of which nobody chose one.
        channel: the one that is embedded, counted from 1.
        longer: files that are longer than the clips of a run.
    """
    sound, views = embedder.config.audio, embedder.config.extract.view_names
    others = Counter({rate: n for rate, n in rates.items() if rate != sound.sample_rate})
    if others:
        yield (
            f"{others.total()} of {total} files are resampled to {sound.sample_rate} Hz: "
            + ", ".join(f"{count} of {rate} Hz" for rate, count in sorted(others.items()))
        )
    if several:
        yield (
            f"{several} of {total} files have more than one channel: channel {channel} is embedded "
            "(for all channels: --channel each)"
        )
    if embedder.n_samples is None:
        return
    if longer:
        seconds = embedder.n_samples / sound.sample_rate
        yield (
            f"{longer} of {total} files are longer than this run's clips: their first {seconds:g} "
            "s are embedded"
        )
    if not all(view.is_raw for view in embedder.config.extract.views):
        yield f"{weights}: of this run's views ({', '.join(views)}) the raw one is embedded"


def blocks(rows: Iterable[tuple[Row, np.ndarray]]) -> Iterator[tuple[list[Row], list[np.ndarray]]]:
    """Waveforms [T] in blocks to embed together, each with what it was given with."""
    keys: list[Row] = []
    waveforms: list[np.ndarray] = []
    for key, waveform in rows:
        keys.append(key)
        waveforms.append(waveform)
        if len(keys) >= _BLOCK_ROWS or sum(map(len, waveforms)) >= _BLOCK_SAMPLES:
            yield keys, waveforms
            keys, waveforms = [], []
    if keys:
        yield keys, waveforms


def about(embedder: Embedder, weights: Path, pool: Pool) -> dict[str, Any]:
    """How embeddings are made, for a file with them."""
    found: dict[str, Any] = {"schema": SCHEMA, "asdjax": __version__, "weights": str(weights)}
    found |= digests(weights)
    model = embedder.config.model
    if model.for_tests_only:
        found["random_init"] = True
    parts = embedder.parts(pool)
    if len(parts) > 1 or any(part.bands > 1 for part in parts):
        found["parts"] = [dataclasses.asdict(part) for part in parts]
    return found | {
        "pool": pool_tree(pool),
        "compute_dtype": embedder.network.model.compute_dtype,
        "layers": list(model.layers),
        "sample_rate": embedder.config.audio.sample_rate,
    }

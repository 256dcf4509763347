"""Embedding: audio files and a trained embedder in, one file of embeddings out."""

import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from asdjax.config.interfaces import ComputeDtype
from asdjax.data import audio, sound_search
from asdjax.data.read_ahead import in_order
from asdjax.data.retries import Retries
from asdjax.embedder import Embedder, Pool, load, sound_clips
from asdjax.embedder.sound_clips import Channel, SoundClip
from asdjax.errors import ArtifactError, UsageError
from asdjax.files import atomic
from asdjax.runtime import console
from asdjax.store import parquet_files

Format = Literal["npz", "parquet"]


def embed(
    weights: Path,
    inputs: Sequence[Path],
    out: Path,
    *,
    layers: Sequence[int] = (),
    pool: Pool | None = None,
    compute_dtype: ComputeDtype | None = None,
    channel: Channel | None = None,
    format: Format | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the embeddings of audio files with any lengths and sample rates to one file.

    There is one row per embedded channel, in the order of the inputs; the files of a directory are
    sorted by path, and a file named twice has two rows. The arrays are `path` [N] (text, as given),
    `channel` [N] int32 (counted from 1), `embedding` [N, D] float32 and `about`, a JSON text that
    describes how they were made. Without pooling, `embedding` is [sum of tokens, D], and the tokens
    of row i are `embedding[start[i]:start[i + 1]]`, with `start` [N + 1] int64. A Parquet file has
    the columns path, channel and embedding, and `about` in its metadata under "asdjax".

    Args:
        weights: a run directory or a folder of converted weights.
        inputs: audio files, and directories to search for them, with subfolders and links to
            folders but without hidden files and folders.
        out: the file to write.
        layers: for converted weights: the layers whose tokens are concatenated; default: the last.
        pool: see `embedder.Pool`; None: "head" for a run, "mean" for converted weights.
        compute_dtype: see `embedder.load`.
        channel: the channel to embed, counted from 1, or "each"; None: the run's, or the first.
        format: None: given by the ending of `out`.
        overwrite: whether to replace an existing file.

    Returns:
        The content of `about`.

    Raises:
        AsdjaxError: an input is missing or faulty, the model does not support `pool`, or `out`
            cannot be written.
    """
    format = _format(out, format, overwrite)
    found = sound_search.find(inputs, "embed")
    for _, path in found:
        sound_search.require_text(path)
    embedder = load(weights, layers=layers, compute_dtype=compute_dtype)
    pool = embedder.pooling(pool)
    wanted = sound_clips.check_channel(embedder.channel if channel is None else channel)
    retries = Retries()
    files = _clips(found, wanted, embedder, retries)
    _say_conversions(embedder, weights, files, channel)
    about = sound_clips.about(embedder, weights, pool)

    arrays = [array for block in _embeddings(embedder, files, pool, retries) for array in block]
    table = {
        "path": np.array([file.name for file in files for _ in file.channels]),
        "channel": np.array([c + 1 for file in files for c in file.channels], np.int32),
    }
    if pool == "none":
        table["start"] = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
        table["embedding"] = np.concatenate(arrays)
    else:
        table["embedding"] = np.stack(arrays)
    del arrays
    words = json.dumps(about)
    if format == "npz":
        content = _npz(table, words)
    else:
        content = parquet_files.to_bytes(parquet_files.embedding_table(table, {"asdjax": words}))
    atomic.write_bytes(out, content, overwrite=overwrite)
    shape = " x ".join(map(str, table["embedding"].shape))
    console.say(f"{out}: embeddings of {len(files)} files, {shape} values")
    return about


# input files


def _clips(
    found: Sequence[tuple[str, Path]], wanted: Channel, embedder: Embedder, retries: Retries
) -> list[SoundClip]:
    with ThreadPoolExecutor() as threads:
        read = (partial(audio.inspect_any, path) for _, path in found)
        headers = threads.map(retries, read)
        return [
            sound_clips.open_clip(name, path, header, wanted, embedder)
            for (name, path), header in zip(found, headers, strict=True)
        ]


def _say_conversions(
    embedder: Embedder, weights: Path, files: Sequence[SoundClip], channel: Channel | None
) -> None:
    """Print once how files are resampled and cut, and which channel and view is embedded."""
    endless = [file for file in files if not file.header.stated]
    if endless:
        console.say(
            f"{len(endless)} of {len(files)} files state no length (streaming recorders write such "
            f"files) and are read to the end: {endless[0].path}"
            + (", ..." if len(endless) > 1 else "")
        )
    seconds = embedder.n_samples and embedder.n_samples / embedder.config.audio.sample_rate
    for line in sound_clips.conversions(
        embedder,
        weights,
        len(files),
        Counter(file.header.rate for file in files),
        several=sum(file.header.channels > 1 for file in files) if channel is None else 0,
        channel=files[0].channels[0] + 1,
        longer=sum(file.header.seconds > seconds for file in files) if seconds else 0,
    ):
        console.say(line)


# embedding


def _embeddings(
    embedder: Embedder, files: Sequence[SoundClip], pool: Pool, retries: Retries
) -> Iterator[list[np.ndarray]]:
    """Embeddings [D], or tokens [L, D], of every file's channels, block by block."""
    total = sum(len(file.channels) for file in files)
    loud: dict[str, float] = {}
    with console.progress("embedding", total, "clips") as advance:
        for names, waveforms in sound_clips.blocks(_read_ahead(embedder, files, retries)):
            block = embedder.embed(
                waveforms,
                pool,
                names=names,
                finished=lambda clips: advance(clips, ""),
                loud=loud.update,
            )
            yield [np.array(embedding, np.float32) for embedding in block]
    if loud:
        console.say(audio.words_on_loudness(loud))


def _read_ahead(
    embedder: Embedder, files: Sequence[SoundClip], retries: Retries
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and samples [T] of every channel, read by threads while others are embedded."""
    sizes = [file.header.channels * file.samples(embedder) for file in files]
    read = in_order(lambda file: retries(lambda: file.read(embedder)), files, sizes)
    for file, samples in zip(files, read, strict=True):
        for channel in samples.T:
            yield file.name, channel
    if retries.count:
        console.say(retries.words())


# output file


def _format(out: Path, format: Format | None, overwrite: bool) -> Format:
    """The format to write; `AsdjaxError` if `out` cannot be written, before anything is read."""
    formats: dict[str, Format] = {".npz": "npz", ".parquet": "parquet"}
    found = formats.get(out.suffix.lower())
    if found is None or format not in (None, found):
        endings = f".{format}" if format else ".npz or .parquet"
        raise UsageError(f"{out}: the file name must end in {endings}")
    atomic.require_free(out, overwrite)
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ArtifactError(f"{out}: {folder} is not a writable folder: name another file")
    if found == "parquet":
        parquet_files.require_pyarrow(out, "write .npz")
    return found


def _npz(table: dict[str, np.ndarray], about: str) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {**table, "about": np.array(about)}
    np.savez(buffer, **arrays)
    return buffer.getvalue()

"""Embedding: audio files and a trained embedder in, one file of embeddings out."""

import dataclasses
import importlib.util
import io
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from asdjax._version import __version__
from asdjax.config.interfaces import ComputeDtype
from asdjax.data import audio, sound_search
from asdjax.data.audio import Header
from asdjax.data.read_ahead import in_order
from asdjax.embedder import Embedder, Pool, digests, load, pool_tree
from asdjax.errors import ArtifactError, DataError, UsageError
from asdjax.files import atomic
from asdjax.runtime import console

SCHEMA = "asdjax.embeddings/1"
Format = Literal["npz", "parquet"]
Channel = int | Literal["each"]

_BLOCK_ROWS, _BLOCK_SAMPLES = 256, 2**25
"""Size of a block: waveforms of similar length are batched within it, while the next is read."""


@dataclasses.dataclass(frozen=True)
class _File:
    """An audio file to embed."""

    name: str
    """The path as written to the output."""
    path: Path
    header: Header
    channels: range
    """The channels to embed, counted from 0."""


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
    files = _headers(found, embedder.channel if channel is None else channel)
    _check_lengths(embedder, files)
    _say_conversions(embedder, weights, files, channel)
    about = _about(embedder, weights, pool)

    arrays = [array for block in _embeddings(embedder, files, pool) for array in block]
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
    write = {"npz": _npz, "parquet": _parquet}[format]
    atomic.write_bytes(out, write(table, json.dumps(about)), overwrite=overwrite)
    shape = " x ".join(map(str, table["embedding"].shape))
    console.say(f"{out}: embeddings of {len(files)} files, {shape} values")
    return about


# input files


def _headers(found: Sequence[tuple[str, Path]], wanted: Channel) -> list[_File]:
    if wanted != "each" and wanted < 1:
        raise UsageError(f"--channel: channels count from 1, found {wanted}")
    files = []
    with ThreadPoolExecutor() as threads:
        headers = threads.map(audio.inspect_any, [path for _, path in found])
        for (name, path), header in zip(found, headers, strict=True):
            channels = range(header.channels)
            if wanted != "each":
                channels = channels[wanted - 1 : wanted]
            if not channels:
                raise DataError(
                    f"{path}: no channel {wanted}, the file has {header.channels}: choose another "
                    "with --channel, or each"
                )
            files.append(_File(name, path, header, channels))
    return files


def _check_lengths(embedder: Embedder, files: Sequence[_File]) -> None:
    for file in files:
        samples = _length(embedder, file)
        if samples < embedder.shortest:
            raise DataError(
                f"{file.path}: {samples} samples at {embedder.config.audio.sample_rate} Hz are too "
                f"short for this model, which needs {embedder.shortest}: leave the file out"
            )


def _say_conversions(
    embedder: Embedder, weights: Path, files: Sequence[_File], channel: Channel | None
) -> None:
    """Print once how files are resampled and cut, and which channel and view is embedded."""
    audio_config, views = embedder.config.audio, embedder.config.extract.view_names
    endless = [file for file in files if not file.header.stated]
    if endless:
        console.say(
            f"{len(endless)} of {len(files)} files state no length (streaming recorders write such "
            f"files) and are read to the end: {endless[0].path}"
            + (", ..." if len(endless) > 1 else "")
        )
    rates = Counter(file.header.rate for file in files)
    rates.pop(audio_config.sample_rate, None)
    if rates:
        console.say(
            f"{sum(rates.values())} of {len(files)} files are resampled to "
            f"{audio_config.sample_rate} Hz: "
            + ", ".join(f"{count} of {rate} Hz" for rate, count in sorted(rates.items()))
        )
    several = sum(file.header.channels > 1 for file in files)
    if channel is None and several:
        console.say(
            f"{several} of {len(files)} files have more than one channel: channel "
            f"{files[0].channels[0] + 1} is embedded (for all channels: --channel each)"
        )
    if embedder.n_samples is None:
        return
    seconds = embedder.n_samples / audio_config.sample_rate
    longer = sum(file.header.seconds > seconds for file in files)
    if longer:
        console.say(
            f"{longer} of {len(files)} files are longer than this run's clips: their first "
            f"{seconds:g} s are embedded"
        )
    if not all(view.is_raw for view in embedder.config.extract.views):
        console.say(f"{weights}: of this run's views ({', '.join(views)}) the raw one is embedded")


def _about(embedder: Embedder, weights: Path, pool: Pool) -> dict[str, Any]:
    about: dict[str, Any] = {"schema": SCHEMA, "asdjax": __version__, "weights": str(weights)}
    about |= digests(weights)
    model = embedder.config.model
    if model.for_tests_only:
        about["random_init"] = True
    parts = embedder.parts(pool)
    if len(parts) > 1 or any(part.bands > 1 for part in parts):
        about["parts"] = [dataclasses.asdict(part) for part in parts]
    return about | {
        "pool": pool_tree(pool),
        "compute_dtype": embedder.network.model.compute_dtype,
        "layers": list(model.layers),
        "sample_rate": embedder.config.audio.sample_rate,
    }


# embedding


def _embeddings(
    embedder: Embedder, files: Sequence[_File], pool: Pool
) -> Iterator[list[np.ndarray]]:
    """Embeddings [D], or tokens [L, D], of every file's channels, block by block."""
    total = sum(len(file.channels) for file in files)
    loud: dict[str, float] = {}
    with console.progress("embedding", total, "clips") as advance:
        for names, waveforms in _blocks(embedder, files):
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


def _blocks(
    embedder: Embedder, files: Sequence[_File]
) -> Iterator[tuple[list[str], list[np.ndarray]]]:
    names: list[str] = []
    waveforms: list[np.ndarray] = []
    for file, samples in zip(files, _read_ahead(embedder, files), strict=True):
        for channel in samples.T:
            names.append(file.name)
            waveforms.append(channel)
        if len(names) >= _BLOCK_ROWS or sum(map(len, waveforms)) >= _BLOCK_SAMPLES:
            yield names, waveforms
            names, waveforms = [], []
    if names:
        yield names, waveforms


def _read_ahead(embedder: Embedder, files: Sequence[_File]) -> Iterator[np.ndarray]:
    """Samples [T, channels] of every file, read by threads while others are embedded."""
    sizes = [file.header.channels * _length(embedder, file) for file in files]
    return in_order(partial(_read, embedder), files, sizes)


def _read(embedder: Embedder, file: _File) -> np.ndarray:
    samples = audio.read_any(file.path, embedder.config.audio.sample_rate, most=embedder.n_samples)
    if samples.shape != (_length(embedder, file), file.header.channels):
        raise DataError(f"{file.path}: the file was changed while it was in use: start again")
    wanted = samples[:, file.channels.start : file.channels.stop]
    return wanted.copy("F")  # releases the memory of the other channels


def _length(embedder: Embedder, file: _File) -> int:
    """Number of samples to embed, at the model's sample rate."""
    length = math.ceil(file.header.frames * embedder.config.audio.sample_rate / file.header.rate)
    return length if embedder.n_samples is None else min(length, embedder.n_samples)


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
    if found == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ArtifactError(
            f"{out}: Parquet files need pyarrow: pip install 'asdjax[parquet]', or write .npz"
        )
    return found


def _npz(table: dict[str, np.ndarray], about: str) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {**table, "about": np.array(about)}
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _parquet(table: dict[str, np.ndarray], about: str) -> bytes:
    import pyarrow
    from pyarrow import parquet

    values = table["embedding"]
    embedding = pyarrow.FixedSizeListArray.from_arrays(values.reshape(-1), values.shape[1])
    if "start" in table:
        embedding = pyarrow.LargeListArray.from_arrays(table["start"], embedding)
    columns = {"path": table["path"], "channel": table["channel"], "embedding": embedding}
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(columns, metadata={"asdjax": about}), buffer)
    return buffer.getvalue()

"""Embedding or scoring of batches of recordings by engines that own the data, as Ray Data does.

Nothing here needs Ray: a batch is a dictionary of NumPy arrays.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from asdjax.archive import work as works
from asdjax.archive.inputs import Unusable
from asdjax.archive.work import Embedding
from asdjax.config.interfaces import ComputeDtype
from asdjax.data import audio
from asdjax.data.audio import Header
from asdjax.data.retries import Retries
from asdjax.detector.prediction import Prediction, table_of
from asdjax.embedder import Pool
from asdjax.embedder.sound_clips import Channel
from asdjax.errors import AsdjaxError, DataError
from asdjax.files.copied_files import Copied, Held
from asdjax.runtime import console
from asdjax.store import parquet_files


class BatchWorker:
    """Embeds or scores batches of recordings, for `ray.data.Dataset.map_batches`.

    Each actor makes one, which loads the weights once. A batch has a column `path` [N] of text. If
    it has a column `bytes` [N], the contents of the files, these are used, and nothing is read.

    With weights, the result has a row for each channel: `path` [M] text, `channel` [M] int32
    (counted from 1), `embedding` [M, D] float32, as `asdjax embed` writes them, and `error` [M]
    text, empty. A recording that cannot be used is one row at the end, with the reason in `error`,
    channel 0, and an embedding of NaN. With a detector, the columns are those of `asdjax predict
    --parquet`; numbers that there are not are NaN, `alarm` is then None.

    Args:
        weights: a run, converted weights or a detector, at a path that all actors reach.
        pool: as for `Embedder.embed`, but not "none"; omitted for a detector, as are the others.
        layers: see `asdjax.load`.
        channel: counted from 1, or "each"; None: the run's, or the first.
        compute_dtype: see `asdjax.load`.

    Raises:
        AsdjaxError: the weights cannot be read, or do not support an option; or when called, a
            batch lacks a column.

    Example:
        >>> worker = asdjax.BatchWorker("runs/seed0")
        >>> found = worker({"path": np.array(["today.wav", "lost.wav"])})
        >>> found["channel"].tolist()
        [1, 0]
        >>> print(found["error"][1])
        lost.wav: unreadable: cannot be read (No such file or directory)...
    """

    def __init__(
        self,
        weights: Path | str,
        *,
        pool: Pool | None = None,
        layers: Sequence[int] = (),
        channel: Channel | None = None,
        compute_dtype: ComputeDtype | None = None,
    ):
        parquet_files.require_pyarrow(Path(weights), "use asdjax.load")
        self._work = works.choose(
            Path(weights), pool=pool, layers=layers, channel=channel, compute_dtype=compute_dtype
        )

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The rows of a batch of recordings, see the class."""
        retries = Retries()
        with ThreadPoolExecutor() as threads:
            found = list(threads.map(partial(self._inspect, retries), _sources(batch)))
        given = [one for one in found if isinstance(one, _Given)]
        unusable = [one for one in found if isinstance(one, Unusable)]
        table, errors = self._work.rows(given, retries, lambda clips: None)
        if retries.count:
            console.say(retries.words())
        if isinstance(self._work, Embedding):
            return _with_errors(table, unusable + errors)
        rows = [Prediction(one.path, error=f"{one.path}: {one.reason}").row() for one in unusable]
        return _arrays([table, table_of(rows)])

    def _inspect(self, retries: Retries, one: tuple[str, Path | Held]) -> "_Given | Unusable":
        name, source = one
        try:
            header = retries(lambda: audio.inspect_any(source))
            return _Given(name, source, header, self._work.samples(source, header))
        except AsdjaxError as error:
            return Unusable(name, works.reason(error, name))


@dataclasses.dataclass(frozen=True)
class _Given:
    """A recording of a batch, see `asdjax.archive.work.Clip`."""

    name: str
    source: Path | Copied
    header: Header
    samples: int

    def require_unchanged(self) -> None:
        """Nothing is known of what it was before."""


def _sources(batch: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Path | Held]]:
    """Name and source of each recording."""
    if "path" not in batch:
        columns = ", ".join(batch) or "none"
        raise DataError(
            f"a batch without a column path (its columns: {columns}): give paths, or files read by "
            "ray.data.read_binary_files with include_paths=True"
        )
    names = [str(name) for name in batch["path"]]
    if "bytes" not in batch:
        yield from ((name, Path(name)) for name in names)
        return
    for name, content in zip(names, batch["bytes"], strict=True):
        if type(content) is not bytes:  # those of NumPy lose zeros at the end
            raise DataError(f"{name}: its bytes are {type(content).__name__}: give Python's bytes")
        yield name, Held(name, content)


def _with_errors(table: Any, errors: Sequence[Unusable]) -> dict[str, np.ndarray]:
    """The rows of a table of embeddings, and one for each recording without."""
    size = table["embedding"].type.list_size
    values = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, size)
    words = [f"{error.path}: {error.reason}" for error in errors]
    return {
        "path": np.array(table["path"].to_pylist() + [error.path for error in errors], str),
        "channel": np.append(table["channel"], np.zeros(len(errors), np.int32)),
        "embedding": np.append(values, np.full((len(errors), size), np.nan, np.float32), axis=0),
        "error": np.array([""] * len(values) + words, str),
    }


def _arrays(tables: Sequence[Any]) -> dict[str, np.ndarray]:
    """The columns of tables of predictions; no text is empty text."""
    import pyarrow

    table = pyarrow.concat_tables(tables)
    return {
        name: np.array([text or "" for text in column.to_pylist()], str)
        if column.type == pyarrow.string()
        else column.to_numpy()
        for name, column in zip(table.column_names, table.columns, strict=True)
    }

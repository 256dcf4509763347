"""Parquet files: tables of embeddings, written by pyarrow if it is installed."""

import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from asdjax.errors import ArtifactError


def require_pyarrow(path: Path, instead: str) -> None:
    """Raise `AsdjaxError` if pyarrow is not installed.

    Args:
        path: the file to read or write, for the message.
        instead: what else the user may do.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise ArtifactError(
            f"{path}: Parquet files need pyarrow: pip install 'asdjax[parquet]', or {instead}"
        )


def embedding_table(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> Any:
    """A table of pyarrow with the columns path, channel and embedding.

    Args:
        arrays: path [N] text, channel [N] int32, embedding [N, D] float32; or, with start [N + 1]
            int64, embedding [sum of tokens, D].
        metadata: of the table.
    """
    import pyarrow

    values = arrays["embedding"]
    embedding = pyarrow.FixedSizeListArray.from_arrays(values.reshape(-1), values.shape[1])
    if "start" in arrays:
        embedding = pyarrow.LargeListArray.from_arrays(arrays["start"], embedding)
    columns = {"path": arrays["path"], "channel": arrays["channel"], "embedding": embedding}
    return pyarrow.table(columns, metadata=dict(metadata))


def to_bytes(table: Any) -> bytes:
    """A table of pyarrow as the content of a Parquet file, whose pages have checksums."""
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(table, buffer, write_page_checksum=True)
    return buffer.getvalue()

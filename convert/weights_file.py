"""Reading the arrays of a safetensors file or a PyTorch file, whichever it is."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - gives NumPy the type of bfloat16 arrays
import numpy as np
from safetensors import SafetensorError, safe_open

from asdjax.convert import torch_file
from asdjax.errors import ArtifactError
from asdjax.files import user_files

_LARGEST_HEADER = 2**24
"""Bytes; that of a transformer of 24 layers has 4e4."""
_NUMPY = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}
"""Types that become arrays; of the others, such as those of 8 bits, no weights are published."""


def read(path: Path, *, placeholders_outside: str | None = None) -> Any:
    """Read the content of a file of weights.

    Args:
        path: a safetensors file, or one written by `torch.save`.
        placeholders_outside: for PyTorch files, as in `torch_file.read`.

    Returns:
        For a safetensors file its arrays by name; else what `torch_file.read` returns.

    Raises:
        AsdjaxError: the file cannot be read, is damaged, or holds what weights do not need.
    """
    if not is_safetensors(path):
        return torch_file.read(path, placeholders_outside=placeholders_outside)
    return _safetensors(path)


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as a safetensors file: the header's length, then JSON."""
    return _start(path, 9)[8:] == b"{"


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    length = int.from_bytes(_start(path, 8), "little")
    if length > _LARGEST_HEADER:
        raise ArtifactError(
            f"{path}: its header has {length} bytes, more than {_LARGEST_HEADER}: do not use this "
            "file"
        )
    repeated = _repeated_names(_start(path, 8 + length)[8:])
    if repeated:
        raise ArtifactError(
            f"{path}: its header names {', '.join(map(ascii, repeated[:5]))} twice: do not use "
            "this file"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            kinds = {name: file.get_slice(name).get_dtype() for name in names}
            wrong = [f"{name} of type {kind}" for name, kind in kinds.items() if kind not in _NUMPY]
            if wrong:
                raise ArtifactError(
                    f"{path}: holds {'; '.join(wrong[:5])}, which is not supported: name a file of "
                    "weights"
                )
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise ArtifactError(
            f"{path}: not a safetensors file, or damaged ({error}): download it again"
        ) from error


def _repeated_names(header: bytes) -> list[str]:
    """Names that occur twice in an object of a JSON text; none if it is no JSON."""
    found: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found.extend(name for name, count in Counter(n for n, _ in items).items() if count > 1)
        return dict(items)

    try:
        json.loads(header, object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        return []  # the library names the fault
    return found


def _start(path: Path, size: int) -> bytes:
    """The first bytes of a file, fewer if it is shorter."""
    try:
        with user_files.open_regular(path) as file:
            return file.read(min(size, os.fstat(file.fileno()).st_size))
    except OSError as error:
        raise ArtifactError(
            f"{path}: cannot be read ({error.strerror}): name a readable file"
        ) from error

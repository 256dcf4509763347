"""Files of NumPy arrays (.npz) that may come from an untrusted source."""

import hashlib
import io
import math
import tokenize
import zipfile
from collections.abc import Collection, Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy


def to_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of an .npz file; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    named: dict[str, Any] = dict(arrays)
    np.savez(buffer, **named)
    return buffer.getvalue()


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Digest of the names, shapes, dtypes and values of all arrays."""
    state = hashlib.blake2b(digest_size=16)
    for name, array in sorted(arrays.items()):
        array = np.ascontiguousarray(array)
        state.update(f"{name} {array.dtype} {array.shape}\n".encode())
        state.update(array.tobytes())
    return state.hexdigest()


def read(file: BinaryIO, names: Collection[str] | None = None) -> dict[str, np.ndarray] | None:
    """The arrays of a file written by `to_bytes`; None if its content is invalid.

    Nothing is allocated for an array whose header states more than there is, and no pickles are
    read.

    Args:
        file: the open file.
        names: the arrays that there must be, and no others; None: any.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            found = sorted(member.filename for member in members)
            if len(set(found)) != len(found):
                return None
            if names is not None and found != sorted(f"{name}.npy" for name in names):
                return None
            if not all(_is_complete(archive, member) for member in members):
                return None
        file.seek(0)
        with np.load(file, allow_pickle=False) as loaded:
            return {name: loaded[name] for name in loaded.files}
    except (
        ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, tokenize.TokenError,
        OSError,  # a position before the beginning of the file
    ):  # fmt: skip
        return None


def _is_complete(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    """Whether a member is an array as `np.savez` writes it, and as long as its header states."""
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        return False  # compressed or encrypted
    if not member.filename.endswith(".npy"):
        return False
    with archive.open(member) as file:
        if npy.read_magic(file) != (1, 0):
            return False
        try:
            shape, _, dtype = npy.read_array_header_1_0(file)
        except (TypeError, MemoryError, RecursionError):  # of a header that Python cannot parse
            return False
        if dtype.hasobject or not all(type(n) is int and 0 <= n < 2**40 for n in shape):
            return False
        return bool(math.prod(shape) * dtype.itemsize == member.file_size - file.tell())

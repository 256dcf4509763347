"""Reading PyTorch checkpoints as NumPy arrays, without PyTorch and without executing anything.

Both formats of `torch.save` are read: zip files (PyTorch 1.6 and later; see torch/serialization.py
and caffe2/serialize), and the older format of five pickles followed by the storages. The file is
memory-mapped, and arrays are views of it.
"""

import hashlib
import io
import math
import mmap
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from asdjax.convert.torch_pickle import WORK, Placeholder, Storage, Tensor, damaged, load
from asdjax.errors import ArtifactError, AsdjaxError
from asdjax.files import user_files

_MAX_PICKLE = 2**24  # bytes; that of a BEATs checkpoint has 3e4
_MAX_DEPTH = 100
_RECORD = b"PK\3\4"  # starts each record of a zip file, and thus the file
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001  # of the old format
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_PLAIN = frozenset({str, bytes, int, float, bool, complex, type(None)})


def read(path: Path, *, placeholders_outside: str | None = None) -> Any:
    """Read a file written by `torch.save`.

    Args:
        path: the checkpoint.
        placeholders_outside: the key of the weights in the outermost dict, for checkpoints that
            also contain objects of other libraries. Objects of unknown classes become
            `torch_pickle.Placeholder`s, but are refused under this key.

    Returns:
        Nested dicts, lists, tuples and scalars as saved. Tensors and parameters become arrays of
        the same dtype (bfloat16 and float8 from ml_dtypes): read-only views of the mapped file,
        which must not change while they are used. Tensors that share a storage share memory.
        OrderedDict becomes dict, torch.Size a tuple; dtypes, devices and layouts become text.

    Raises:
        AsdjaxError: the file cannot be read, is not a checkpoint, is damaged or truncated, contains
            objects that weights do not need, or lacks the key `placeholders_outside`.
    """
    placeholders = placeholders_outside is not None
    opened = user_files.open_regular(path)
    try:
        with opened as file:
            data = _mapped(file)
            if data[:4] == _RECORD:
                tree, buffers = _read_zip(file, data, placeholders)
            else:
                tree, buffers = _read_old(data, placeholders)
        builder = _Builder(buffers)
        if not placeholders:
            return builder.build(tree)
        if type(tree) is not dict or placeholders_outside not in tree:
            raise ArtifactError(f"has no {placeholders_outside}: choose another checkpoint")
        return {
            builder.build(key): builder.build(value, placeholders=key != placeholders_outside)
            for key, value in tree.items()
        }
    except OSError as error:
        raise _unreadable(path, error) from error
    except AsdjaxError as error:
        raise ArtifactError(f"{path}: {error}") from error


def sha256(path: Path) -> str:
    """The SHA-256 digest of a file, hexadecimal; `AsdjaxError` if it cannot be read."""
    try:
        with user_files.open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> AsdjaxError:
    return ArtifactError(f"{path}: cannot be read ({error.strerror}): name a readable file")


def _mapped(file: BinaryIO) -> memoryview:
    if os.fstat(file.fileno()).st_size == 0:
        raise ArtifactError("empty: download it again")
    return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _read_zip(
    file: BinaryIO, data: memoryview, placeholders: bool
) -> tuple[Any, dict[str, memoryview]]:
    """The unpickled tree and the bytes of each storage of a zip file."""
    archive = _Zip(file, data)
    roots = [name for name in archive.names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise ArtifactError(
            f"a zip file with {len(roots)} files data.pkl: name a PyTorch checkpoint"
        )
    folder = roots[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.names:
        if bytes(archive.record(f"{folder}byteorder", 16)) != b"little":
            raise _big_endian()
    tree, storages = load(
        io.BytesIO(archive.record(roots[0], _MAX_PICKLE)), placeholders=placeholders
    )
    buffers = {}
    for key, storage in storages.items():
        record = archive.record(f"{folder}data/{key}", storage.nbytes)
        if len(record) != storage.nbytes:
            raise damaged(f"record {key!a:.50} has {len(record)} bytes, not {storage.nbytes}")
        buffers[key] = _buffer(storage, record)
    return tree, buffers


class _Zip:
    """The records of a zip file; uncompressed ones are views of the mapped file."""

    def __init__(self, file: BinaryIO, data: memoryview) -> None:
        try:
            with zipfile.ZipFile(file) as archive:
                self.names = archive.NameToInfo
                total = sum(info.compress_size for info in archive.infolist())
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            # zipfile raises the last two for invalid fields
            raise damaged("the zip directory cannot be read") from error
        if total > len(data):
            raise damaged("records overlap")
        self._data = data
        # Deflate can compress up to 1000:1, but weights hardly at all, unless they are zeros.
        self._inflatable = max(8 * len(data), 2**28)

    def record(self, name: str, limit: int) -> memoryview:
        """The bytes of a record, at most `limit`; the CRC-32 is checked."""
        if name not in self.names:
            raise damaged(f"record {name!a:.100} is missing")
        info = self.names[name]
        header = bytes(self._data[info.header_offset : info.header_offset + 30])
        if len(header) < 30 or not header.startswith(_RECORD):
            raise damaged(f"record {name!a:.100} is not at its offset")
        start = info.header_offset + 30 + sum(struct.unpack_from("<HH", header, 26))
        body = self._data[start : start + info.compress_size]
        if info.file_size > limit:
            raise damaged(f"record {name!a:.100} has {info.file_size} bytes, more than {limit}")
        if info.flag_bits & 1 or info.compress_type not in _METHODS:
            raise ArtifactError("an encrypted zip file, or unsupported compression: save it again")
        if info.compress_type == zipfile.ZIP_DEFLATED:
            self._inflatable -= info.file_size
            if self._inflatable < 0:
                raise ArtifactError("unpacks to far more than its size: do not use this file")
            try:
                body = memoryview(zlib.decompressobj(-15).decompress(body, info.file_size + 1))
            except zlib.error as error:
                raise damaged(f"record {name!a:.100} cannot be unpacked") from error
        if len(body) != info.file_size or zlib.crc32(body) != info.CRC:
            raise damaged(f"the checksum of record {name!a:.100} is wrong")
        return body


def _read_old(data: memoryview, placeholders: bool) -> tuple[Any, dict[str, memoryview]]:
    """The unpickled tree and the bytes of each storage of a file in the older format."""
    if data[0] != 0x80:  # starts every pickle of protocol 2 or later
        raise ArtifactError("not a PyTorch checkpoint (perhaps a web page): download it again")
    position = 0

    def next_pickle(placeholders: bool = False) -> tuple[Any, dict[str, Storage]]:
        nonlocal position
        stream = io.BytesIO(data[position : position + _MAX_PICKLE])
        loaded = load(stream, placeholders=placeholders)
        position += stream.tell()
        return loaded

    if next_pickle()[0] != _MAGIC:
        raise ArtifactError("a pickle, but not a PyTorch checkpoint: name another file")
    if next_pickle()[0] != _VERSION:
        raise ArtifactError("an unknown version of PyTorch's format: download it again")
    system, _ = next_pickle()
    if type(system) is not dict or system.get("little_endian") is not True:
        raise _big_endian()
    tree, storages = next_pickle(placeholders)
    keys, _ = next_pickle()
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise damaged("the list of storages is missing")
    buffers = {}
    for key in keys:
        if key not in storages or key in buffers:
            raise damaged(f"storage {key!a:.50} is unused or listed twice")
        start, storage = position + 8, storages[key]
        position = start + storage.nbytes
        if position > len(data):
            raise damaged("the end is missing")
        if struct.unpack("<q", data[start - 8 : start]) != (storage.elements,):
            raise damaged(f"storage {key!a:.50} has the wrong length")
        buffers[key] = _buffer(storage, data[start:position])
    if buffers.keys() != storages.keys():
        raise damaged("storages are not listed")
    return tree, buffers


def _big_endian() -> AsdjaxError:
    return ArtifactError("written on a big-endian machine: save it again on a little-endian one")


def _buffer(storage: Storage, data: memoryview) -> memoryview:
    """The bytes of a storage; booleans are copied as 0 or 1, which NumPy assumes."""
    if storage.dtype != bool:
        return data
    return memoryview(np.frombuffer(data, np.uint8) != 0).toreadonly()


class _Builder:
    """Builds the tree of arrays from the tree of descriptions, with limits on its size."""

    def __init__(self, buffers: Mapping[str, memoryview]) -> None:
        self._buffers = buffers
        self._arrays: dict[int, np.ndarray] = {}
        self._nodes = WORK
        # Views may overlap or repeat. This limits their total size as copies.
        self._nbytes = 4 * sum(buffer.nbytes for buffer in buffers.values()) + 2**26

    def build(self, value: Any, *, placeholders: bool = False, depth: int = 0) -> Any:
        """Build a part of the tree; a part that occurs twice is built twice."""
        self._nodes -= 1
        if self._nodes < 0 or depth > _MAX_DEPTH:
            raise ArtifactError("nested too deeply, or too many items: do not use this file")

        def inner(part: Any) -> Any:
            return self.build(part, placeholders=placeholders, depth=depth + 1)

        kind = type(value)
        if kind in _PLAIN or (kind is Placeholder and placeholders):
            return value
        if kind is dict:
            return {inner(key): inner(item) for key, item in value.items()}
        if kind is list or kind is tuple:
            return kind(inner(item) for item in value)
        if kind is Tensor:
            return self._array(value)
        if kind is Placeholder:
            raise ArtifactError(
                f"contains {f'{value.module}.{value.name}'!a:.100} among its weights: "
                "do not use this file"
            )
        raise damaged("a function or storage in place of data")

    def _array(self, tensor: Tensor) -> np.ndarray:
        buffer, itemsize = self._buffers[tensor.storage.key], tensor.dtype.itemsize
        self._nbytes -= math.prod(max(size, 1) for size in tensor.shape) * itemsize
        if self._nbytes < 0:
            raise ArtifactError("expands to many times the stored data: do not use this file")
        if id(tensor) in self._arrays:
            return self._arrays[id(tensor)]
        # Strides of axes of length 0 or 1 are not used, and may be so large that they overflow.
        steps = [s if n > 1 else 0 for n, s in zip(tensor.shape, tensor.strides, strict=True)]
        last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, steps, strict=True))
        if 0 in tensor.shape:
            array = np.frombuffer(b"", tensor.dtype).reshape(tensor.shape)
        elif (last + 1) * itemsize <= buffer.nbytes:
            steps = [itemsize * s for s in steps]
            array = np.ndarray(tensor.shape, tensor.dtype, buffer, tensor.offset * itemsize, steps)
        else:
            raise damaged(f"a tensor of shape {tensor.shape} reaches beyond its storage")
        return self._arrays.setdefault(id(tensor), array)

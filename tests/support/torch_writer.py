"""Writes what torch.save would write, without torch: for checkpoints that only tests need.

The opcodes are protocol 2's, from the documentation in `pickletools`. Beside data, a tree may hold
`Global`s, `Call`s of them and `Stored` arrays, which give every file that somebody might send us.
"""

import dataclasses
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np

_CLASSES = {
    np.dtype(name): cls
    for name, cls in {
        np.float64: "DoubleStorage",
        np.float32: "FloatStorage",
        np.float16: "HalfStorage",
        ml_dtypes.bfloat16: "BFloat16Storage",
        np.int64: "LongStorage",
        np.int32: "IntStorage",
        np.int16: "ShortStorage",
        np.int8: "CharStorage",
        np.uint8: "ByteStorage",
        np.bool_: "BoolStorage",
        np.complex64: "ComplexFloatStorage",
        np.complex128: "ComplexDoubleStorage",
    }.items()
}


@dataclasses.dataclass(frozen=True)
class Global:
    module: str
    name: str


@dataclasses.dataclass(frozen=True)
class Call:
    """A global called with arguments; or, where it is `new`, an object made without a call."""

    function: Global
    args: tuple
    state: Any = None
    new: bool = False


@dataclasses.dataclass(frozen=True)
class Stored:
    """The bare storage of an array; with `elements`, one that lies about its length."""

    array: np.ndarray
    elements: int | None = None


def tensor(array: np.ndarray, shape=None, strides=None, offset: int = 0) -> Call:
    """A view of an array's storage, whatever its sizes: nothing is checked here."""
    shape = array.shape if shape is None else shape
    if strides is None:
        strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    args = (Stored(array), offset, tuple(shape), tuple(strides), False, OrderedDict())
    if array.dtype in _CLASSES:
        return Call(Global("torch._utils", "_rebuild_tensor_v2"), args)
    args = (*args, Global("torch", array.dtype.name))
    return Call(Global("torch._utils", "_rebuild_tensor_v3"), args)


def parameter(array: np.ndarray) -> Call:
    args = (tensor(array), True, OrderedDict())
    return Call(Global("torch._utils", "_rebuild_parameter"), args)


def write(
    path: Path, tree: Any, *, container: Literal["zip", "legacy"] = "zip", deflate: bool = False
) -> None:
    """Write a checkpoint; arrays that are one object share one storage.

    An OrderedDict is written as torch writes a state dict: with a `_metadata` attribute.
    """
    pickled, arrays = dumps(tree, container)
    if container == "legacy":
        system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
        keys = [str(i) for i in range(len(arrays))]
        head = [dumps(part)[0] for part in (0x1950A86A20F9469CFC6C, 1001, system)]
        with path.open("wb") as file:
            file.writelines([*head, pickled, dumps(keys)[0]])
            for array in arrays:
                size = array.size if array.dtype in _CLASSES else array.nbytes
                file.write(struct.pack("<q", size))
                file.write(_bytes(array))
        return
    method = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(f"{path.stem}/data.pkl", pickled)
        archive.writestr(f"{path.stem}/byteorder", sys.byteorder)
        for i, array in enumerate(arrays):
            with archive.open(f"{path.stem}/data/{i}", "w") as file:
                file.write(_bytes(array))
        archive.writestr(f"{path.stem}/version", "3\n")


def write_pickle(path: Path, pickled: bytes, records: Mapping[str, bytes] | None = None) -> Path:
    """Write a zip checkpoint of this very pickle, with these storages."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        for key, content in (records or {}).items():
            archive.writestr(f"x/data/{key}", content)
    return path


def dumps(tree: Any, container: str = "zip") -> tuple[bytes, list[np.ndarray]]:
    """The pickle, and the arrays that its storages hold, in the order of their keys."""
    out, arrays = bytearray(b"\x80\x02"), []

    def put(value: Any) -> None:
        match value:
            case None | True | False:
                out.extend({None: b"N", True: b"\x88", False: b"\x89"}[value])
            case int() if -(2**31) <= value < 2**31:
                out.extend(b"J" + struct.pack("<i", value))
            case int():
                digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
                out.extend(b"\x8a" + bytes([len(digits)]) + digits)
            case float():
                out.extend(b"G" + struct.pack(">d", value))
            case str():
                text = value.encode()
                out.extend(b"X" + struct.pack("<I", len(text)) + text)
            case bytes():
                put(Call(Global("_codecs", "encode"), (value.decode("latin1"), "latin1")))
            case tuple():
                out.extend(b"(")
                for item in value:
                    put(item)
                out.extend(b"t")
            case list():
                out.extend(b"](")
                for item in value:
                    put(item)
                out.extend(b"e")
            case dict():
                if isinstance(value, OrderedDict):
                    out.extend(b"ccollections\nOrderedDict\n)R")
                else:
                    out.extend(b"}")
                out.extend(b"(")
                for key, item in value.items():
                    put(key)
                    put(item)
                out.extend(b"u")
                if isinstance(value, OrderedDict) and value:
                    put({"_metadata": OrderedDict()})
                    out.extend(b"b")
            case np.ndarray():
                put(tensor(value))
            case Global(module, name):
                out.extend(f"c{module}\n{name}\n".encode())
            case Call():
                put(value.function)
                put(value.args)
                out.extend(b"\x81" if value.new else b"R")
                if value.state is not None:
                    put(value.state)
                    out.extend(b"b")
            case Stored(array, elements):
                key = next((i for i, a in enumerate(arrays) if a is array), len(arrays))
                if key == len(arrays):
                    arrays.append(array)
                if array.dtype in _CLASSES:
                    cls, size = Global("torch", _CLASSES[array.dtype]), array.size
                else:
                    cls, size = Global("torch.storage", "UntypedStorage"), array.nbytes
                size = size if elements is None else elements
                view = (None,) if container == "legacy" else ()
                put(("storage", cls, str(key), "cpu", size, *view))
                out.extend(b"Q")
            case _:
                raise TypeError(type(value))

    put(tree)
    return bytes(out + b"."), arrays


def _bytes(array: np.ndarray) -> memoryview:
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))

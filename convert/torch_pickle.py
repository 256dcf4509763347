"""Data-only unpickling of files written by `torch.save`.

A `pickle.Unpickler` with an allow-list would still call the allowed functions with arguments from
the file, without any limits. This interpreter executes nothing from the file. `pickletools` decodes
the arguments of opcodes. The globals that weights need are compared as text and interpreted in
`_Machine._call`; they are never imported. Tensors become descriptions, whose bytes `torch_file`
reads. There is no recursion, no memory is allocated for stated sizes, and operations are counted.
"""

import dataclasses
import pickletools
from collections.abc import Iterator
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from asdjax.errors import ArtifactError, AsdjaxError

WORK = 1_000_000
"""Limit on the opcodes and copied items of a pickle; a BEATs checkpoint needs 7000."""

_MAX_RANK = 64  # the limit of PyTorch and NumPy
_NAMES = (
    "float64 float32 float16 bfloat16 complex64 complex128 int64 int32 int16 int8 uint8 bool "
    "uint16 uint32 uint64 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu"
).split()
_DTYPES = {
    name: np.dtype(getattr(ml_dtypes if name.startswith(("bfloat", "float8")) else np, name))
    for name in _NAMES
}
_CLASSES = (  # of storages, for the first dtypes in _NAMES
    "Double Float Half BFloat16 ComplexFloat ComplexDouble Long Int Short Char Byte Bool"
).split()
_STORAGES = {
    f"torch {cls}Storage": _DTYPES[name] for cls, name in zip(_CLASSES, _NAMES, strict=False)
} | {"torch.storage UntypedStorage": _DTYPES["uint8"]}
_REBUILD = frozenset(
    {
        "torch._utils _rebuild_tensor",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_tensor_v3",
    }
)
_CALLED = _REBUILD | {
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_parameter_with_state",
    "torch._tensor _rebuild_from_type_v2",
    "torch Size",
    "torch device",
    "torch.serialization _get_layout",
    "collections OrderedDict",
    "_codecs encode",
    "__builtin__ bytes",
    "__builtin__ complex",
    "builtins complex",
}
_GLOBALS = _CALLED | _STORAGES.keys() | {"torch Tensor"}

# Opcodes of protocols 2 to 4 by their effect, without LONG4: no number needs 256 bytes.
_LITERALS = frozenset(
    "BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "BINBYTES SHORT_BINBYTES BINBYTES8 BINSTRING SHORT_BINSTRING".split()
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_STEPS = frozenset(
    "PROTO FRAME BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET MARK POP POP_MARK TUPLE EMPTY_DICT "
    "EMPTY_LIST SETITEM SETITEMS APPEND APPENDS GLOBAL STACK_GLOBAL BINPERSID REDUCE NEWOBJ "
    "NEWOBJ_EX BUILD STOP".split()
)
_OPCODES = {opcode.code.encode("latin1"): opcode for opcode in pickletools.opcodes}
_ALLOWED = _LITERALS | _CONSTANTS.keys() | _SHORT_TUPLES.keys() | _STEPS
_SCALARS = (str, bytes, int, float, bool, type(None))


@dataclasses.dataclass(frozen=True, slots=True)
class Storage:
    """The memory of one or more tensors: the record `key` with `elements` values of `dtype`."""

    key: str
    dtype: np.dtype
    elements: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.elements * self.dtype.itemsize


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A view of a storage, bounds unchecked; offset and strides >= 0, in elements."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(slots=True, eq=False, repr=False)
class Placeholder:
    """The description of an object of an unknown class, which is not created."""

    module: str
    name: str
    args: Any = None
    """Arguments of the call that would create it; None for the class or function itself."""
    state: Any = None
    items: list[Any] = dataclasses.field(default_factory=list)
    """Items that would be added: values, or keys and values alternately."""

    def __repr__(self) -> str:
        return f"Placeholder({self.module}.{self.name})"


@dataclasses.dataclass(frozen=True, slots=True)
class _Global:
    name: str  # module and name, separated by a space


def load(stream: BinaryIO, *, placeholders: bool = False) -> tuple[Any, dict[str, Storage]]:
    """Interpret one pickle, up to its STOP.

    Args:
        stream: positioned at the pickle; afterwards positioned at its end.
        placeholders: unknown globals become `Placeholder`s instead of being refused.

    Returns:
        The unpickled tree: dicts (also for OrderedDict, without its attributes), lists, tuples
        (also for torch.Size), scalars, text for torch's dtypes, devices and layouts, `Tensor`s,
        placeholders, and possibly functions and storages; and the storages by key.

    Raises:
        AsdjaxError: the pickle is damaged, refers to a global that is not allowed, or needs too
            many operations. The caller adds the file name to the message.
    """
    machine = _Machine(placeholders)
    return machine.run(stream), machine.storages


def damaged(what: str) -> AsdjaxError:
    """The error for a damaged or truncated file."""
    return ArtifactError(f"damaged or cut short ({what}): download it again")


def _operations(stream: BinaryIO) -> Iterator[tuple[str, Any]]:
    """The name and argument of each opcode; opcodes that are not allowed are not decoded."""
    while (code := stream.read(1)) in _OPCODES:
        opcode = _OPCODES[code]
        if opcode.name not in _ALLOWED:
            raise damaged(f"the pickle operation {opcode.name}, which weights do not need")
        try:
            if opcode.name == "GLOBAL":  # pickletools would interpret escapes
                argument: Any = [line.decode() for line in (stream.readline(), stream.readline())]
            else:
                argument = opcode.arg.reader(stream) if opcode.arg else None
            yield opcode.name, argument
        except ValueError as error:  # from pickletools, if it cannot decode the argument
            raise damaged("incomplete pickle") from error
    raise damaged("incomplete pickle")


class _Machine:
    """Pickle's stack machine. Items below a mark are not accessible until the mark is removed."""

    def __init__(self, placeholders: bool) -> None:
        self.storages: dict[str, Storage] = {}
        self._placeholders = placeholders
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._work = WORK

    def run(self, stream: BinaryIO) -> Any:
        operations = _operations(stream)
        while (operation := next(operations))[0] != "STOP":
            self._charge(1)
            name, argument = operation
            if name in _LITERALS:
                self._stack.append(argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name in _SHORT_TUPLES:
                items = [self._pop() for _ in range(_SHORT_TUPLES[name])]
                self._stack.append(tuple(reversed(items)))
            else:
                self._step(name, argument)
        return self._pop()

    def _step(self, name: str, argument: Any) -> None:  # noqa: C901 - a case for each operation
        match name:
            case "PROTO" | "FRAME":
                pass
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._top()
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._top()
            case "BINGET" | "LONG_BINGET":
                if argument not in self._memo:
                    raise damaged("a reference to an undefined object")
                self._stack.append(self._memo[argument])
            case "MARK":
                self._below.append(self._stack)
                self._stack = []
            case "POP" if self._stack:
                self._stack.pop()
            case "POP" | "POP_MARK":
                self._since_mark()
            case "TUPLE":
                items = tuple(self._since_mark())
                self._stack.append(items)
            case "EMPTY_DICT":
                self._stack.append({})
            case "EMPTY_LIST":
                self._stack.append([])
            case "SETITEM":
                value, key = self._pop(), self._pop()
                self._set_items([key, value])
            case "SETITEMS":
                self._set_items(self._since_mark())
            case "APPEND":
                self._append([self._pop()])
            case "APPENDS":
                self._append(self._since_mark())
            case "GLOBAL":
                module, name = argument
                self._global(module.removesuffix("\n"), name.removesuffix("\n"))
            case "STACK_GLOBAL":
                name, module = self._pop(), self._pop()
                if type(name) is not str or type(module) is not str:
                    raise damaged("a global without a name")
                self._global(module, name)
            case "BINPERSID":
                self._stack.append(self._storage(self._pop()))
            case "REDUCE":
                args, function = self._pop(), self._pop()
                self._stack.append(self._call(function, args))
            case "NEWOBJ":
                args, cls = self._pop(), self._pop()
                self._stack.append(_placeholder(cls, args))
            case "NEWOBJ_EX":
                options, args, cls = self._pop(), self._pop(), self._pop()
                self._stack.append(_placeholder(cls, (args, options)))
            case "BUILD":
                state, top = self._pop(), self._top()
                if type(top) is Placeholder:
                    top.state = state
                elif type(top) is not dict or type(state) is not dict:
                    raise damaged("attributes of an object that has none")

    def _charge(self, work: int) -> None:
        self._work -= work
        if self._work < 0:
            raise ArtifactError("needs far more operations than weights do: do not use this file")

    def _top(self) -> Any:
        if not self._stack:
            raise damaged("an operation on an empty stack")
        return self._stack[-1]

    def _pop(self) -> Any:
        self._top()
        return self._stack.pop()

    def _since_mark(self) -> list[Any]:
        if not self._below:
            raise damaged("an operation on an empty stack")
        items, self._stack = self._stack, self._below.pop()
        return items

    def _append(self, items: list[Any]) -> None:
        top = self._top()
        if type(top) is Placeholder:
            top = top.items
        if type(top) is not list:
            raise damaged("items of an object that is not a list")
        top.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        top = self._top()
        if type(top) is Placeholder:
            top.items.extend(items)
        elif type(top) is dict and len(items) % 2 == 0:
            self._update(top, zip(items[::2], items[1::2], strict=True))
        else:
            raise damaged("keys of an object that is not a dict")

    def _update(self, target: dict, pairs: Iterator[tuple[Any, Any]]) -> None:
        for key, value in pairs:
            # Hashing deeply nested tuples would overflow the C stack. It also costs time.
            parts = key if type(key) is tuple else (key,)
            self._charge(len(parts))
            for part in parts:
                if type(part) not in _SCALARS and type(part) is not Placeholder:
                    raise damaged("a key that is neither a text nor a number")
            target[key] = value

    def _global(self, module: str, name: str) -> None:
        known = f"{module} {name}"
        if known in _GLOBALS:
            self._stack.append(_Global(known))
        elif module == "torch" and name in _DTYPES:
            self._stack.append(f"torch.{name}")
        elif self._placeholders:
            self._stack.append(Placeholder(module, name))
        else:
            raise ArtifactError(
                f"refers to {f'{module}.{name}'!a:.100}, which weights do not need: "
                "do not use this file"
            )

    def _storage(self, identity: Any) -> Storage:
        match identity:
            # The location (cpu, cuda:0) is not used. The older format has a sixth entry.
            case ("storage", _Global(cls), str(key), str(), int(elements), *rest):
                if cls in _STORAGES and _is_size(elements) and rest in ([], [None]):
                    storage = Storage(key, _STORAGES[cls], elements)
                    if self.storages.setdefault(key, storage) == storage:
                        return self.storages[key]
        raise damaged("a storage that torch.save does not write like this")

    def _call(self, function: Any, args: Any) -> Any:  # noqa: C901 - a case for each function
        if type(function) is Placeholder:
            return _placeholder(function, args)
        if type(function) is not _Global or type(args) is not tuple:
            raise damaged("a call of an object that is not a function")
        match function.name, args:
            case "collections OrderedDict", ():
                return {}
            case "collections OrderedDict", (list(pairs),):  # written by Python 2
                if all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
                    result: dict[Any, Any] = {}
                    self._update(result, iter(pairs))
                    return result
            case "torch._utils _rebuild_tensor", (
                Storage() as storage, offset, shape, strides
            ):  # fmt: skip
                return _tensor(storage, storage.dtype, offset, shape, strides)
            case "torch._utils _rebuild_tensor_v2", (
                Storage() as storage, offset, shape, strides, _, _, *metadata
            ) if not any(metadata):  # fmt: skip
                return _tensor(storage, storage.dtype, offset, shape, strides)
            case "torch._utils _rebuild_tensor_v3", (
                Storage() as storage, offset, shape, strides, _, _, str(dtype), *metadata
            ) if not any(metadata) and dtype.removeprefix("torch.") in _DTYPES:  # fmt: skip
                dtype = _DTYPES[dtype.removeprefix("torch.")]
                return _tensor(storage, dtype, offset, shape, strides)
            case (
                ("torch._utils _rebuild_parameter" | "torch._utils _rebuild_parameter_with_state"),
                (Tensor() as tensor, *_),
            ):
                return tensor
            case "torch._tensor _rebuild_from_type_v2", (
                _Global(rebuild), _Global("torch Tensor"), tuple(arguments), _
            ) if rebuild in _REBUILD:  # fmt: skip
                return self._call(_Global(rebuild), arguments)
            case "torch Size", (tuple(shape),):
                return shape
            case "torch device", (str(kind), *index):
                if not index or (len(index) == 1 and type(index[0]) is int):
                    return ":".join([kind, *map(str, index)])
            case "torch.serialization _get_layout", (str(layout),):
                return layout
            case "_codecs encode", (str(text), "latin1"):  # bytes in protocol 2
                self._charge(len(text))
                if all(ord(character) < 256 for character in text):
                    return text.encode("latin1")
            case "__builtin__ bytes", ():
                return b""
            case (("__builtin__ complex" | "builtins complex"), (float(real), float(imaginary))):
                return complex(real, imaginary)
        raise damaged(f"{function.name.replace(' ', '.')} called with unexpected arguments")


def _placeholder(cls: Any, args: Any) -> Placeholder:
    if type(cls) is not Placeholder:
        raise damaged("an instance of an object that is not a class")
    return Placeholder(cls.module, cls.name, args=args)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _tensor(storage: Storage, dtype: np.dtype, offset: Any, shape: Any, strides: Any) -> Tensor:
    if not (type(shape) is tuple and type(strides) is tuple):
        raise damaged("a tensor without a shape")
    if len(shape) != len(strides) or len(shape) > _MAX_RANK:
        raise damaged(f"a tensor of {len(shape)} dimensions with {len(strides)} strides")
    if not all(map(_is_size, (offset, *shape, *strides))):
        raise damaged("a tensor whose offset, size or stride is negative or not a whole number")
    return Tensor(storage, dtype, offset, shape, strides)

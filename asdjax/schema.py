"""Strict reading of frozen dataclasses from trees of dictionaries, lists and scalars (YAML).

Types, bounds and choices come from the dataclasses' annotations. Every error is an `AsdjaxError`
that names the source, the dotted key and what would be valid.
"""

import dataclasses
import difflib
import math
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from asdjax.errors import AsdjaxError


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a number, both included unless `above` asks for strictly more than `low`."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        return (value > self.low if self.above else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        words = []
        if self.low > -math.inf:
            words.append(f"{'above' if self.above else 'at least'} {self.low:g}")
        if self.high < math.inf:
            words.append(f"at most {self.high:g}")
        return " and ".join(words) or "finite"


def read(kind: Any, tree: Any, key: str, source: str) -> Any:
    """Convert a YAML value to the annotated type `kind`, or raise naming `key` and `source`."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return read(args[0], tree, key, source)
    if dataclasses.is_dataclass(kind):
        return _section(kind, tree, key, source)
    if all(map(dataclasses.is_dataclass, _options(kind))):
        return _section(_named(_options(kind), tree, key, source), tree, key, source)
    if origin is tuple:
        if not isinstance(tree, list | tuple):
            raise AsdjaxError(f"{source}: {key}: expected a list, found {tree!r}")
        kinds = [args[0]] * len(tree) if args[-1] is Ellipsis else list(args)
        if len(kinds) != len(tree):
            raise AsdjaxError(f"{source}: {key}: expected {len(kinds)} values, found {tree!r}")
        pairs = enumerate(zip(kinds, tree, strict=True))
        return tuple(read(k, v, f"{key}[{i}]", source) for i, (k, v) in pairs)
    for option in _options(kind):
        found, value = _scalar(option, tree)
        if found:
            return value
    raise AsdjaxError(f"{source}: {key}: expected {_words(kind)}, found {tree!r}")


def check(kind: Any, value: Any, key: str, source: str) -> None:
    """Check the bounds annotated on every number below `value`."""
    if dataclasses.is_dataclass(value):
        for name, hint in get_type_hints(type(value), include_extras=True).items():
            check(hint, getattr(value, name), _join(key, name), source)
    elif get_origin(kind) is tuple:
        kinds = get_args(kind)
        for i, v in enumerate(value):
            check(kinds[0] if kinds[-1] is Ellipsis else kinds[i], v, f"{key}[{i}]", source)
    else:
        is_union = get_origin(kind) in (Union, types.UnionType)
        for member in get_args(kind) if is_union else (kind,):
            for bound in getattr(member, "__metadata__", ()):
                if isinstance(value, int | float) and value not in bound:
                    raise AsdjaxError(f"{source}: {key}: must be {bound}, found {value!r}")


def to_tree(value: Any) -> dict[str, Any]:
    """A dataclass as nested dictionaries and lists of scalars, the inverse of `read`."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return [plain(v) for v in value] if isinstance(value, tuple) else value

    return plain(value)


def _section(kind: type, tree: Any, key: str, source: str) -> Any:
    if not isinstance(tree, Mapping):
        where = key or "the file"
        raise AsdjaxError(f"{source}: {where}: expected keys and values, found {tree!r}")
    hints = get_type_hints(kind, include_extras=True)
    for name in tree:
        if name not in hints:
            close = difflib.get_close_matches(str(name), hints, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise AsdjaxError(
                f"{source}: unknown key {_join(key, name)!r}: {hint}valid keys: {', '.join(hints)}"
            )
    required = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.name not in tree
    ]
    if required:
        raise AsdjaxError(f"{source}: {_join(key, required[0])}: this key is missing")
    return kind(**{name: read(hints[name], tree[name], _join(key, name), source) for name in tree})


def _named(kinds: tuple[Any, ...], tree: Any, key: str, source: str) -> Any:
    """Which of several sections a tree's `name` asks for; without a name the first."""
    choices = {kind.name: kind for kind in kinds}  # each one's default is its only name
    name = tree.get("name", kinds[0].name) if isinstance(tree, Mapping) else kinds[0].name
    if name not in choices:
        where = _join(key, "name")
        raise AsdjaxError(
            f"{source}: {where}: expected one of {', '.join(choices)}, found {name!r}"
        )
    return choices[name]


def _options(kind: Any) -> tuple[Any, ...]:
    is_union = get_origin(kind) in (Union, types.UnionType)
    members = get_args(kind) if is_union else (kind,)
    return tuple(get_args(m)[0] if get_origin(m) is Annotated else m for m in members)


def _scalar(kind: Any, value: Any) -> tuple[bool, Any]:
    """Whether `value` is of the scalar type `kind`, and the value as that type."""
    if get_origin(kind) is Literal:
        return value in get_args(kind), value
    if kind is float and not isinstance(value, bool):
        if isinstance(value, int | float):
            return math.isfinite(value), float(value)
        if isinstance(value, str):  # PyYAML reads 1e-4 as a string
            try:
                number = float(value)
            except ValueError:
                return False, value
            return math.isfinite(number), number
        return False, value
    return type(value) is kind, value


def _words(kind: Any) -> str:
    """A type in a user's words."""
    simple = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    words = [
        "one of " + ", ".join(map(str, get_args(k)))
        if get_origin(k) is Literal
        else simple.get(k, str(k))
        for k in _options(kind)
    ]
    return " or ".join(words)


def _join(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)

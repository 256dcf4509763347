"""Strict conversion of parsed YAML (dictionaries, lists, scalars) to frozen dataclasses.

Types, bounds and choices are taken from the dataclasses' annotations. An error is an `AsdjaxError`:
one short sentence that names the source, the dotted key and the valid values.
"""

import abc
import dataclasses
import difflib
import functools
import math
import re
import reprlib
import types
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from asdjax.config import registry
from asdjax.errors import ConfigError

PLUGIN = registry.PLUGIN
Check = tuple[Any, str, str]
"""A condition on settings: whether it holds (truthy), the key, and the message if it does not."""
_SHOWN = 80
"""Longest part of a user's value that an error message repeats, characters."""
_DECIMAL = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a number, both included; with `above`, `low` is excluded."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        if isinstance(value, float) and not math.isfinite(value):
            return False
        return (value > self.low if self.above else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        words = []
        if self.low > -math.inf:
            words.append(f"{'above' if self.above else 'at least'} {digits(self.low)}")
        if self.high < math.inf:
            words.append(f"at most {digits(self.high)}")
        return " and ".join(words) or "finite"


Count = Annotated[int, Range(low=1, high=2**20)]
NonNegative = Annotated[float, Range(low=0)]
Positive = Annotated[float, Range(low=0, above=True)]
Probability = Annotated[float, Range(low=0, high=1)]


@dataclasses.dataclass(frozen=True)
class Choice(abc.ABC):
    """A section of a recipe whose settings depend on the class that it names.

    Attributes:
        kind: kind of class, a key of `registry.BUILT_IN`.
        tag: the setting that names the class.
        required: settings without a default.
        conditional: methods that a class must define if one of its attributes is true:
            {attribute: methods}.
        ignores_foreign: whether settings that only other classes of the kind have are ignored
            instead of refused. Runs of earlier versions saved the settings of all classes.
    """

    kind: ClassVar[str]
    tag: ClassVar[str] = "name"
    required: ClassVar[tuple[str, ...]] = ()
    conditional: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    ignores_foreign: ClassVar[bool] = True


def digits(number: float) -> str:
    """The shortest text that reads back as the same number: 1048576, 0.5, 1e-05."""
    whole = math.isfinite(number) and number == int(number) and abs(number) < 1e16
    return str(int(number)) if whole else repr(number)


def shown(value: Any) -> str:
    """A value for an error message: its `repr`, cut if it is long."""
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:
        return f"a number of more than {_SHOWN} digits"
    # repr of a deeply nested list would raise RecursionError
    return cut(reprlib.repr(value) if isinstance(value, list | tuple | dict) else repr(value))


def array_shown(value: Any) -> str:
    """An array for an error message, as float32[8, 16000]; something else by its type."""
    if not (hasattr(value, "dtype") and hasattr(value, "shape")):
        return "None" if value is None else type(value).__name__
    return f"{value.dtype}{list(value.shape)}"


def cut(text: str) -> str:
    """A text for an error message, cut if it is long."""
    if len(text) <= _SHOWN:
        return text
    return f"{text[:_SHOWN]}... ({len(text):,} characters)"


def similar(name: str, choices: Collection[str]) -> str:
    """A hint at the choice that is most similar to a name, ignoring case; empty if none is."""
    folded = {choice.casefold(): choice for choice in sorted(choices)}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f": did you mean {folded[close[0]]!r}?" if close else ""


def found(value: Any) -> str:
    """Words for a value that was found instead of a text."""
    if isinstance(value, bool):
        return f"found {value} (put a text such as yes, no, on or off in quotes)"
    return f"found {shown(value)}"


def read(kind: Any, tree: Any, key: str, source: str) -> Any:
    """Convert a YAML value to the annotated type `kind`.

    Raises:
        AsdjaxError: the value has another type; the message names `source` and `key`.
    """
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return read(args[0], tree, key, source)
    if isinstance(kind, type) and issubclass(kind, Choice):
        return _section(*_chosen(kind, tree, key, source), key, source)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _section(kind, tree, key, source)
    if origin is tuple:
        if not isinstance(tree, list | tuple):
            raise ConfigError(f"{source}: {key}: expected a list, found {shown(tree)}")
        kinds = [args[0]] * len(tree) if args[-1] is Ellipsis else list(args)
        if len(kinds) != len(tree):
            what = f"expected {len(kinds)} values, found {len(tree)}"
            raise ConfigError(f"{source}: {key}: {what}")
        pairs = enumerate(zip(kinds, tree, strict=True))
        return tuple(read(k, v, f"{key}[{i}]", source) for i, (k, v) in pairs)
    for option in _options(kind):
        fits, value = _scalar(option, tree)
        if fits:
            return value
    what = found(tree) if _is_text(kind) else f"found {shown(tree)}"
    raise ConfigError(f"{source}: {key}: expected {_words(kind)}, {what}")


def check(kind: Any, value: Any, key: str, source: str) -> None:
    """Check the annotated bounds and names of `value` and, if it is a dataclass, of all in it."""
    if dataclasses.is_dataclass(value):
        for name, hint in field_types(type(value)).items():
            check(hint, getattr(value, name), _join(key, name), source)
    elif get_origin(kind) is tuple:
        kinds = get_args(kind)
        for i, v in enumerate(value):
            check(kinds[0] if kinds[-1] is Ellipsis else kinds[i], v, f"{key}[{i}]", source)
    else:
        is_union = get_origin(kind) in (Union, types.UnionType)
        for member in get_args(kind) if is_union else (kind,):
            for bound in getattr(member, "__metadata__", ()):
                if isinstance(bound, registry.Name) and value not in bound:
                    raise ConfigError(f"{source}: {key}: {_not_among(bound.kind, value)}")
                if isinstance(value, int | float) and value not in bound:
                    raise ConfigError(f"{source}: {key}: must be {bound}, found {shown(value)}")


def to_tree(value: Any) -> dict[str, Any]:
    """A dataclass as nested dictionaries and lists of scalars, the inverse of `read`.

    A choice without settings becomes its name; one from a plugin gets the key `PLUGIN`.
    """

    def plain(value: Any) -> Any:
        if not dataclasses.is_dataclass(value):
            return [plain(v) for v in value] if isinstance(value, tuple) else value
        tree = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        for name, kind in named_things(type(value)).items():
            if (plugin := registry.plugin_of(kind, tree[name])) is not None:
                return {name: tree[name], PLUGIN: plugin, **tree}
        if isinstance(value, Choice) and len(tree) == 1:
            return tree[value.tag]
        return tree

    return plain(value)


def _section(kind: type, tree: Any, key: str, source: str) -> Any:
    if not isinstance(tree, Mapping):
        where = key or "the file"
        raise ConfigError(f"{source}: {where}: expected keys and values, found {shown(tree)}")
    hints = field_types(kind)
    tree = dict(tree)
    plugin = tree.pop(PLUGIN, None) if named_things(kind) else None
    changed = ""
    for name, thing in named_things(kind).items():
        if not isinstance(plugin, str) or name not in tree:
            continue
        if tree[name] not in registry.names(thing):
            where = f"{_join(key, name)}: {_not_among(thing, tree[name])}"
            raise ConfigError(f"{source}: {where}{_missing(plugin)}")
        if (now := registry.plugin_of(thing, tree[name])) != plugin:
            changed = f"; written with the plugin {cut(plugin)}, and {now or 'no plugin'} is loaded"
    for name in tree:
        if name not in hints:
            hint = similar(cut(str(name)), hints)
            raise ConfigError(
                f"{source}: unknown key {_join(key, cut(str(name)))!r}{hint or ':'} valid keys: "
                f"{', '.join(hints)}{changed}"
            )
    required = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is field.default_factory is dataclasses.MISSING and field.name not in tree
    ]
    if required:
        raise ConfigError(f"{source}: {_join(key, required[0])}: this key is missing")
    return kind(**{name: read(hints[name], tree[name], _join(key, name), source) for name in tree})


def named_things(kind: type) -> dict[str, str]:
    """The fields of a dataclass that hold a registered name, with the kind of each."""
    bounds = {n: getattr(hint, "__metadata__", ()) for n, hint in field_types(kind).items()}
    named = {n: b.kind for n, of in bounds.items() for b in of if isinstance(b, registry.Name)}
    return named | ({kind.tag: kind.kind} if issubclass(kind, Choice) else {})


def name_values(kind: type) -> dict[str, tuple[str, ...]]:
    """The values that a user may choose of fields that hold a registered name."""
    values = {name: registry.choices(of) for name, of in named_things(kind).items()}
    for name, hint in field_types(kind).items():
        for bound in getattr(hint, "__metadata__", ()):
            if isinstance(bound, registry.Name):
                values[name] = bound.values()
    return values


def _missing(plugin: str) -> str:
    return (
        f", which is in the plugin {cut(plugin)}: name its file with --plugin, or name another one "
        "in that file and remove the other settings of this section"
    )


def field_types(kind: type) -> Mapping[str, Any]:
    """The types of a dataclass's fields."""
    return _resolved(kind)


@functools.cache  # Python evaluates the annotations at each call, which takes long
def _resolved(kind: type) -> Mapping[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return types.MappingProxyType({f.name: hints[f.name] for f in dataclasses.fields(kind)})


def _chosen(
    kind: type[Choice], tree: Any, key: str, source: str
) -> tuple[type[Choice], dict[str, Any]]:
    """The class that a section names, and its settings without those that are ignored."""
    tag = kind.tag
    if isinstance(tree, str) and not kind.required:  # `pooling: mean`, short for {name: mean}
        tree = {tag: tree}
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{source}: {key}: expected keys and values, found {shown(tree)}")
    if tag not in tree and tag in kind.required:
        raise ConfigError(f"{source}: {_join(key, tag)}: this key is missing")
    choices = registry.names(kind.kind)
    name = tree.get(tag, choices[0])
    if not isinstance(name, str) or name not in choices:
        plugin = tree.get(PLUGIN)
        hint = _missing(plugin) if isinstance(plugin, str) else ""
        where = f"{_join(key, tag)}: {_not_among(kind.kind, name)}"
        raise ConfigError(f"{source}: {where}{hint}")
    chosen = registry.find(kind.kind, name)
    settings = {PLUGIN, *(field.name for field in dataclasses.fields(chosen))}
    unused: set[str] = set()
    if kind.ignores_foreign and not {*tree} <= settings:
        others = (registry.find(kind.kind, other) for other in choices)
        unused |= {field.name for other in others for field in dataclasses.fields(other)} - settings
    return chosen, {k: v for k, v in tree.items() if k not in unused}


def _not_among(kind: str, name: Any) -> str:
    """Words for a name that is not registered, with those that are."""
    choices = ", ".join(registry.choices(kind))
    return f"expected one of {choices} (or of a plugin, named with --plugin), {found(name)}"


def _options(kind: Any) -> tuple[Any, ...]:
    """The members of a union without their annotations; of any other type, the type alone."""
    is_union = get_origin(kind) in (Union, types.UnionType)
    members = get_args(kind) if is_union else (kind,)
    return tuple(get_args(m)[0] if get_origin(m) is Annotated else m for m in members)


def _scalar(kind: Any, value: Any) -> tuple[bool, Any]:
    """Whether `value` is of the scalar type `kind`, and the value as that type."""
    if get_origin(kind) is Literal:
        return any(type(value) is type(a) and value == a for a in get_args(kind)), value
    if kind is not float:
        return type(value) is kind, value
    # PyYAML (YAML 1.1) reads 1e-4, which has no point, as text
    if not (type(value) in (int, float) or (type(value) is str and _DECIMAL.fullmatch(value))):
        return False, value
    try:
        number = float(value)
    except OverflowError:  # an integer beyond the range of float
        return False, value
    return math.isfinite(number), number


def _is_text(kind: Any) -> bool:
    """Whether texts are among the values of a scalar type."""
    choices = (a for k in _options(kind) if get_origin(k) is Literal for a in get_args(k))
    return str in _options(kind) or any(isinstance(choice, str) for choice in choices)


def _words(kind: Any) -> str:
    """A type as an error message describes it."""
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

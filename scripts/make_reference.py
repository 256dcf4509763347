"""Write asdjax/docs/configuration.md, the reference of all settings, from their dataclasses.

Called by scripts/make_reference. A test compares the page with what `page` returns.
"""

import argparse
import dataclasses
import math
import re
import textwrap
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from docstring_parser import parse_from_object

from asdjax.config import registry
from asdjax.config.recipe import NEUTRAL_KEYS, Config, SynthConfig
from asdjax.config.schema import Choice, Range, digits, field_types
from asdjax.errors import AsdjaxError
from asdjax.files import atomic

PAGE = Path(__file__).parent.parent / "asdjax" / "docs" / "configuration.md"
_START = """
# Configuration

Every setting of a recipe: its key, values, default and meaning.

A recipe is a YAML file with these keys. It states only what differs from the defaults.
`train.epochs` is the key `epochs` of the section `train`:

    train:
      epochs: 40

On the command line the same setting is `--train.epochs 40`; an underscore becomes a hyphen. The
defaults below are those of asdjax. A recipe may have others: `asdjax run system1 --help-all` shows
them. `RUN/config.yaml` has every key of a run. [Training](training.md) says how recipes extend
each other.

The sections `model`, `loss`, `backend`, `decision` and each entry of `extract.views` name a class.
The class decides which other keys the section has. Another class than that of the recipe or run
begins with its own defaults, in a recipe that extends another one and on the command line. There, a
section may also be given as in a recipe: `--loss "{name: arcface, margin: 0.3}"`. `[N]` is the
number of an entry of a list, counted from 0. A setting marked *neutral* may change when a run is
resumed, because the trained weights do not depend on it.

`scripts/make_reference` makes this page from the source.
"""


def meanings(kind: type) -> dict[str, str]:
    """The docstrings of a dataclass's fields, also of those that it inherits, each on one line."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            for parameter in parse_from_object(base).params:
                if parameter.description:
                    found[parameter.arg_name] = " ".join(parameter.description.split())
    return found


def summary(kind: type) -> str:
    """The first paragraph of a class's docstring, on one line."""
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


def described(kind: Any) -> str:
    """The values of an annotated type in words."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        words = described(args[0])
        for bound in args[1:]:
            if isinstance(bound, registry.Name):
                words = f"one of {_listed(bound.values())}"
            elif isinstance(bound, Range):
                words = f"{words} {_bounded(bound)}".strip()
        return words
    if origin in (Union, types.UnionType):
        words = ["null" if a is types.NoneType else described(a) for a in args]
        return " or ".join(word.removeprefix("only ") for word in words)
    if origin is Literal:
        return f"{'one of' if len(args) > 1 else 'only'} {_listed([_value(a) for a in args])}"
    if origin is tuple:
        words = described(args[0]).replace("number", "numbers", 1).replace("text", "texts")
        many = "a list of" if args[-1] is Ellipsis else f"a list of {len(args)}"
        return f"{many} {words.removeprefix('one of ')}"
    if isinstance(kind, type) and issubclass(kind, Choice):
        return f"entries with the keys of a {kind.kind}"
    if dataclasses.is_dataclass(kind):
        return "entries with the keys below"
    return {int: "whole number", float: "number", str: "text", bool: "true or false"}[kind]


def _bounded(bound: Range) -> str:
    """The bounds of a number in words."""
    low, high = digits(bound.low), digits(bound.high)
    if bound.low > -math.inf and bound.high < math.inf and not bound.above:
        return f"from {low} to {high}"
    return "" if str(bound) == "finite" else str(bound)


def _listed(values: Sequence[str]) -> str:
    return ", ".join(f"`{value}`" for value in values)


def _value(value: Any) -> str:
    """A default as it is written in YAML."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Choice) and not value.required and value == type(value)():
        return str(getattr(value, value.tag))
    if dataclasses.is_dataclass(value):
        inner = (f"{f.name}: {_value(getattr(value, f.name))}" for f in dataclasses.fields(value))
        return f"{{{', '.join(inner)}}}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return digits(value) if isinstance(value, float) else str(value)


def default_of(field: dataclasses.Field) -> Any:
    """The default of a field; MISSING if it has none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _item(key: str, hint: Any, default: Any, meaning: str, neutral: bool) -> str:
    """One setting as an item of a list, wrapped."""
    values = described(hint)
    if default is dataclasses.MISSING:
        given = "; must be given"
    else:
        shown = _value(default)
        given = f"; default: `{shown}`" if shown else "; default: empty"
    mark = "; *neutral*" if neutral else ""
    return _wrapped(f"* `{key}` ({values}{given}{mark}). {meaning}", "  ")


def _wrapped(text: str, indent: str = "") -> str:
    """A paragraph in lines of at most 100 characters, without breaks inside of backticks."""
    whole = re.sub(r"`[^`]*`", lambda code: code[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(
        whole, 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines).replace("\0", " ")


def _items(prefix: str, kind: type, without: frozenset[str], neutral: set[str]) -> Iterator[str]:
    """The settings of a dataclass; sections inside of it follow their key."""
    words, hints = meanings(kind), field_types(kind)
    for field in dataclasses.fields(kind):
        if field.name in without:
            continue
        key, default = f"{prefix}{field.name}", default_of(field)
        if isinstance(default, Choice):
            yield from _chosen_inside(key, default)
        elif dataclasses.is_dataclass(default):
            yield _wrapped(f"* `{key}`: {summary(type(default))} Its keys:", "  ")
            yield from _items(f"{key}.", type(default), frozenset(), neutral)
        else:
            yield _item(key, hints[field.name], default, words.get(field.name, ""), key in neutral)
            for inner in _entries(hints[field.name]):
                if issubclass(inner, Choice):  # of a fusion: these keys are on the page already
                    continue
                yield from _items(f"{key}[N].", inner, frozenset(), neutral)


def _entries(hint: Any) -> list[type]:
    """The dataclass of the entries of a list; none if they are values."""
    if get_origin(hint) is not tuple:
        return []
    return [hint for hint in get_args(hint)[:1] if dataclasses.is_dataclass(hint)]


def _chosen_inside(key: str, default: Choice) -> Iterator[str]:
    """A class that is chosen by name inside of another one, with what can be chosen."""
    names = registry.choices(default.kind)
    chosen = [f"`{name}`: {summary(registry.find(default.kind, name))}" for name in names]
    what = meanings(type(default))[default.tag]
    first = getattr(default, default.tag)
    yield _wrapped(
        f"* `{key}.{default.tag}` (one of {_listed([*names])}; default: `{first}`). {what} "
        f"`{key}: {first}` is short for it. {' '.join(chosen)}",
        "  ",
    )
    for name in names:
        chosen = registry.find(default.kind, name)
        items = list(_items(f"{key}.", chosen, frozenset({default.tag}), set()))
        if items:
            yield f"* `{key}.{default.tag}: {name}` has further keys:"
            yield textwrap.indent("\n".join(items), "  ")


def _section(name: str, interface: type[Choice], key: str) -> Iterator[str]:
    """A section whose class is chosen by name: what all classes share, then each class."""
    kind, tag = interface.kind, interface.tag
    names = registry.choices(kind)
    yield f"## {name}"
    yield _wrapped(summary(interface))
    common = [field.name for field in dataclasses.fields(interface)]
    default = "must be given" if tag in interface.required else f"default: `{next(iter(names))}`"
    meaning = meanings(interface)[tag]
    items = [_wrapped(f"* `{key}.{tag}` (one of {_listed([*names])}; {default}). {meaning}", "  ")]
    items += _items(f"{key}.", interface, frozenset({tag}), set())
    yield "\n".join(items)
    for own in registry.BUILT_IN[kind]:
        chosen = registry.find(kind, own)
        neutral = {f"{key}.{setting}" for setting in getattr(chosen, "neutral", ())}
        yield f"### {name}: {own}"
        yield _wrapped(summary(chosen))
        listed = "\n".join(_items(f"{key}.", chosen, frozenset(common), neutral))
        yield listed or "No further settings."


def page() -> str:
    """The page."""
    parts = [_START.strip()]
    words, hints = meanings(Config), field_types(Config)
    plain: list[str] = []
    for field in dataclasses.fields(Config):
        default, hint = default_of(field), hints[field.name]
        if isinstance(default, Choice):
            parts += _section(field.name, hint, field.name)
        elif dataclasses.is_dataclass(default):
            parts += [f"## {field.name}", _wrapped(summary(type(default)))]
            without = frozenset(f.name for f in dataclasses.fields(default) if f.name == "views")
            parts.append(
                "\n".join(_items(f"{field.name}.", type(default), without, {*NEUTRAL_KEYS}))
            )
            for inner in without:
                (of,) = _entries(field_types(type(default))[inner])
                key = f"{field.name}.{inner}"
                parts += _section(key, of, f"{key}[N]")
        else:
            plain.append(_item(field.name, hint, default, words[field.name], False))
    parts[1:1] = ["## Top level", *plain]
    parts += ["## Synthetic data", _synth()]
    return "\n\n".join(parts) + "\n"


def _synth() -> str:
    """The options of `asdjax synth`."""
    words, hints = meanings(SynthConfig), field_types(SynthConfig)
    items = ["Options of `asdjax synth`. They are no keys of a recipe.", ""]
    for field in dataclasses.fields(SynthConfig):
        option = f"--{field.name.replace('_', '-')}"
        items.append(_item(option, hints[field.name], field.default, words[field.name], False))
    return "\n".join(items)


def main(arguments: Sequence[str]) -> int:
    """Write the page, or say with --check whether it is up to date."""
    parser = argparse.ArgumentParser(prog="scripts/make_reference", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="only compare; exit code 1 if it differs"
    )
    given = parser.parse_args(arguments)
    text = page()
    if given.check:
        if not PAGE.exists() or PAGE.read_text("utf-8") != text:
            raise AsdjaxError(f"{PAGE} is out of date: run scripts/make_reference")
        return 0
    atomic.write_bytes(PAGE, text.encode())
    return 0

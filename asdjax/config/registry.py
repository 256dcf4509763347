"""What a recipe chooses by name: encoders, losses, views, backends and so on.

`BUILT_IN` is the one place that lists them, with the module that holds each. A module is imported
when its name is first asked for. `register` is called by these modules and by plugins: files of
Python that a user names with `--plugin`.
"""

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from asdjax.errors import AsdjaxError, ConfigError
from asdjax.files import user_files

BUILT_IN: Mapping[str, Mapping[str, str]] = {
    "view": {
        "raw": "asdjax.signal.view_raw",
        "wiener": "asdjax.signal.view_wiener",
        "cancel": "asdjax.signal.view_cancel",
        "calibrated": "asdjax.signal.view_calibrated",
        "far": "asdjax.signal.view_far",
        "difference": "asdjax.signal.view_difference",
    },
    "backend": {
        "nearest_neighbours": "asdjax.scoring.nearest_neighbours",
        "kmeans": "asdjax.scoring.kmeans",
        "rescaled": "asdjax.scoring.rescaled",
        "mahalanobis": "asdjax.scoring.mahalanobis",
    },
    "edition": {
        "dcase2022": "asdjax.data.editions",
        "dcase2023": "asdjax.data.editions",
        "dcase2024": "asdjax.data.editions",
        "dcase2025": "asdjax.data.editions",
        "dcase2026": "asdjax.data.editions",
    },
    "loss": {
        "sub_cluster_adacos": "asdjax.training.adacos",
        "adacos": "asdjax.training.adacos",
        "arcface": "asdjax.training.arcface",
    },
    "encoder": {
        "multiresnet": "asdjax.models.multiresnet_encoder",
        "beats": "asdjax.models.beats_encoder",
    },
    "pooling": {
        "attentive_statistics": "asdjax.models.poolings",
        "mean": "asdjax.models.poolings",
    },
    "threshold": {
        "quantile": "asdjax.scoring.thresholds",
        "gamma": "asdjax.scoring.thresholds",
        "conformal": "asdjax.scoring.thresholds",
        "in_sample": "asdjax.scoring.thresholds",
    },
}
"""Module by kind and name. The first class of a kind is its default."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
_LARGEST_PLUGIN = 2**20  # bytes


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A registered thing and where it is from."""

    thing: Any
    source: str
    """A module, or the path of a plugin."""
    plugin: str | None
    """Name and digest of the plugin's file."""


_ENTRIES: dict[tuple[str, str], _Entry] = {}
changes = 0
"""How often something was registered: what was read before may mean something else now."""
_loading: list[tuple[str, str]] = []  # path and digest of the plugin that is being executed

Thing = TypeVar("Thing")


@dataclasses.dataclass(frozen=True)
class Name:
    """Marks a setting, `Annotated[str, Name(kind)]`, that names a registered thing."""

    kind: str

    def __contains__(self, name: object) -> bool:
        return name in names(self.kind)


def register(thing: Thing) -> Thing:
    """Make a class or an edition available to recipes under its name.

    Args:
        thing: a frozen dataclass that extends `Encoder`, `Loss`, `View`, `Backend`, `Threshold` or
            `Pooling`, with a default for every setting; or an `Edition`.

    Returns:
        The same, so that this can decorate a class.

    Raises:
        AsdjaxError: a method or a default is missing, or the name is taken.

    Example:
        >>> @asdjax.register
        ... @dataclasses.dataclass(frozen=True)
        ... class Largest(asdjax.Threshold):
        ...     method: str = "largest"
        ...     ...
    """
    kind = thing.kind  # type: ignore[attr-defined]
    source, plugin = _loading[-1] if _loading else (_module(thing), None)
    name = _checked_name(thing, source)
    listed, present = BUILT_IN[kind].get(name), _ENTRIES.get((kind, name))
    if source.startswith("asdjax.") and listed is None:
        raise ConfigError(
            f"{source}: {kind} {name!r} is not listed: add it to BUILT_IN in "
            "asdjax/config/registry.py"
        )
    owner = listed or (present.source if present else source)
    if owner != source:
        raise ConfigError(
            f"{source}: the name {name!r} is taken, by the {kind} of {owner}: choose another one"
        )
    _ENTRIES[kind, name] = _Entry(thing, source, plugin)
    global changes
    changes += 1
    return thing


def _module(thing: Any) -> str:
    """Where a thing is registered from, outside of a plugin."""
    if isinstance(thing, type):
        return thing.__module__
    if (thing.kind, thing.name) in _ENTRIES:  # the module of the built-in ones comes first
        return "this program"
    return BUILT_IN[thing.kind].get(thing.name, "this program")


def _checked_name(thing: Any, source: str) -> str:
    """The name of a thing, if nothing is missing of it."""
    if not isinstance(thing, type):
        name, where = thing.name, f"{source}: {thing.kind} {thing.name!r}"
    else:
        where = f"{source}: {thing.__qualname__}"
        if inspect.isabstract(thing):
            missing = ", ".join(sorted(thing.__abstractmethods__))
            raise ConfigError(f"{where}: a {thing.kind} needs {missing}: define it")
        if "__dataclass_fields__" not in vars(thing) or not thing.__dataclass_params__.frozen:
            raise ConfigError(f"{where}: not a frozen dataclass: add dataclass(frozen=True)")
        for field in dataclasses.fields(thing):
            no_default = field.default is field.default_factory is dataclasses.MISSING
            if no_default and field.name not in thing.required:
                raise ConfigError(f"{where}: setting {field.name!r} has no default: give it one")
        name = thing.__dataclass_fields__[thing.tag].default
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: {name!r} is no name: begin with a letter, then letters, digits and _, at "
            "most 40"
        )
    return name


def names(kind: str) -> tuple[str, ...]:
    """The names of all things of a kind, the default first."""
    others = (name for of_kind, name in _ENTRIES if of_kind == kind)
    return tuple(dict.fromkeys([*BUILT_IN[kind], *others]))


def find(kind: str, name: str) -> Any:
    """The class, or the edition, that is registered under a name.

    Raises:
        KeyError: there is none.
    """
    if (kind, name) not in _ENTRIES:
        importlib.import_module(BUILT_IN[kind][name])
    return _ENTRIES[kind, name].thing


def default(kind: str, **required: Any) -> Any:
    """An instance of a kind's default class, with its default settings and the required ones."""
    return find(kind, names(kind)[0])(**required)


def plugin_of(kind: str, name: str) -> str | None:
    """The plugin that registered a name, as `toy.py 0123456789abcdef`: its file and digest.

    None: it comes with asdjax, or was registered by a program's call.
    """
    entry = _ENTRIES.get((kind, name))
    return entry and entry.plugin


def load_plugin(path: Path) -> None:
    """Execute a file of Python that registers things.

    Raises:
        AsdjaxError: the file cannot be read, is not Python, or registers nothing.
    """
    if path.suffix != ".py":
        raise ConfigError(f"{path}: a plugin is a file of Python: its name must end in .py")
    content = user_files.read_bytes(path, most=_LARGEST_PLUGIN)
    digest = hashlib.sha256(content).hexdigest()[:16]
    source, label = str(path), f"{path.name} {digest}"
    if any((entry.source, entry.plugin) == (source, label) for entry in _ENTRIES.values()):
        return  # named twice
    module_name = f"asdjax_plugin_{digest}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None  # of a file that ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # where the types of its settings are looked up
    _loading.append((source, label))
    try:
        spec.loader.exec_module(module)
    except AsdjaxError:
        raise
    except Exception as error:  # whatever the user's code raises is the user's to repair
        raise ConfigError(f"{path}: {_place(error, path)}: repair the plugin") from error
    finally:
        _loading.pop()
    if all(entry.source != source for entry in _ENTRIES.values()):
        raise ConfigError(f"{path}: registers nothing: call asdjax.register in it")


def _place(error: Exception, path: Path) -> str:
    """The line of a file that an exception comes from, and the exception."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f"line {lines[-1] if lines else '?'}: {type(error).__name__}: {error}"

"""Registry of everything that a recipe chooses by name: encoders, losses, views, backends ...

`BUILT_IN` lists what asdjax provides, with its module, which is imported when the name is first
used. These modules call `register`, and so do plugins: Python files given with `--plugin`.
"""

import dataclasses
import hashlib
import importlib
import inspect
import json
import os
import re
import reprlib
import sys
import traceback
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from asdjax.errors import ArtifactError, AsdjaxError, ConfigError
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
        "local_density": "asdjax.scoring.local_density",
        "rescaled": "asdjax.scoring.rescaled",
        "variance_minimised": "asdjax.scoring.variance_minimised",
        "standardised_domains": "asdjax.scoring.standardised_domains",
        "mahalanobis": "asdjax.scoring.mahalanobis",
        "principal_components": "asdjax.scoring.principal_components",
        "fusion": "asdjax.scoring.fusion",
        "combined_scores": "asdjax.scoring.combined_scores",
        "chosen": "asdjax.scoring.chosen",
    },
    "edition": {
        "own": "asdjax.data.editions",
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
        "member_scores": "asdjax.models.member_scores_encoder",
        "ast": "asdjax.models.ast_encoder",
        "eat": "asdjax.models.eat_encoder",
        "dasheng": "asdjax.models.dasheng_encoder",
    },
    "pooling": {
        "attentive_statistics": "asdjax.models.poolings",
        "mean": "asdjax.models.poolings",
        "relative_deviation": "asdjax.models.pooling_relative_deviation",
        "generalised_mean": "asdjax.models.pooling_generalised_mean",
        "several": "asdjax.models.pooling_several",
    },
    "threshold": {
        "quantile": "asdjax.scoring.thresholds",
        "gamma": "asdjax.scoring.thresholds",
        "conformal": "asdjax.scoring.thresholds",
        "in_sample": "asdjax.scoring.thresholds",
    },
}
"""Module by kind and name. The first name of a kind is the default of its section; that of
`dataset.edition` stands in `DatasetConfig`."""

WRITTEN_BY: Mapping[tuple[str, str], str] = {
    ("encoder", "member_scores"): "asdjax combine",
    ("backend", "combined_scores"): "asdjax combine",
    ("backend", "chosen"): "asdjax select",
}
"""What users do not choose, by kind and name: the command that alone writes it into a run."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
PLUGIN = "plugin"
"""The key of a section that names the plugin that its class comes from."""
_INTERFACES = "asdjax.config.interfaces"
_LARGEST_PLUGIN = 2**20  # bytes


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A registered class or edition, and its origin."""

    thing: Any
    source: str
    """Name of the module, or path of the plugin."""
    plugin: str | None
    """Name and digest of the plugin's file."""


_ENTRIES: dict[tuple[str, str], _Entry] = {}
changes = 0
"""Number of calls of `register`; part of the key under which parsed recipes are cached."""
_loading: list[tuple[str, str]] = []  # path and label (name, digest) of plugins being executed


class _HasKind(Protocol):
    """A class or an edition: its kind is one of `BUILT_IN`."""

    @property
    def kind(self) -> str: ...


Thing = TypeVar("Thing", bound=_HasKind)


@dataclasses.dataclass(frozen=True)
class Name:
    """Marks a setting that holds a registered name: `Annotated[str, Name(kind)]`."""

    kind: str
    besides: tuple[str, ...] = ()
    """Further values."""

    def __contains__(self, name: object) -> bool:
        return name in self.values()

    def values(self) -> tuple[str, ...]:
        """All values of the setting."""
        return *self.besides, *names(self.kind)


def register(thing: Thing) -> Thing:
    """Make a class or an edition available to recipes; usable as a class decorator.

    Args:
        thing: a frozen dataclass that extends `Encoder`, `Loss`, `View`, `Backend`, `Threshold` or
            `Pooling`, with a default for every setting; or an `Edition`. A class is registered
            under the default of its field `name` (`method` for views and thresholds).

    Returns:
        `thing` itself.

    Raises:
        AsdjaxError: a method or a default is missing, or the name is in use.

    Example:
        >>> @asdjax.register
        ... @dataclasses.dataclass(frozen=True)
        ... class Largest(asdjax.Threshold):
        ...     method: str = "largest"
        ...     def fit(self, scores):
        ...         return float(scores.max())
        ...     def sentence(self, scores):
        ...         return f"largest of the {scores}"
    """
    kind = getattr(thing, "kind", None)
    if not (isinstance(kind, str) and kind in BUILT_IN and _is_thing(thing)):
        raise ConfigError(
            f"register: found {reprlib.repr(thing)}: give a class that extends Encoder, Pooling, "
            "Loss, View, Backend or Threshold, or an Edition"
        )
    source, plugin = _origin(thing)
    name = _checked_name(thing, source)
    listed, present = BUILT_IN[kind].get(name), _ENTRIES.get((kind, name))
    if source.startswith("asdjax.") and listed is None:
        raise ConfigError(
            f"{source}: {kind} {name!r} is not in the registry: add it to BUILT_IN in "
            "asdjax/config/registry.py"
        )
    owner = listed or (present.source if present else source)
    if owner != source:
        raise ConfigError(
            f"{source}: the name {name!r} is already used by the {kind} of {owner}: choose another"
        )
    _ENTRIES[kind, name] = _Entry(thing, source, plugin)
    global changes
    changes += 1
    return thing


def _is_thing(thing: Any) -> bool:
    """Whether a thing is a class that a recipe chooses, or an edition; not an instance of one."""
    if isinstance(thing, type):
        return hasattr(thing, "tag") and hasattr(thing, "required")
    return isinstance(getattr(thing, "name", None), str) and not hasattr(thing, "tag")


def _origin(thing: Any) -> tuple[str, str | None]:
    """Where a class or edition comes from: a module, or a plugin's path and label.

    A plugin may be what first imports a module of asdjax, which then registers its own classes.
    """
    if isinstance(thing, type):
        module = thing.__module__
        built_in = module.startswith("asdjax.")
    else:  # the built-in editions are registered when their class is defined, before all others
        built_in = (thing.kind, thing.name) not in _ENTRIES and thing.name in BUILT_IN[thing.kind]
        module = BUILT_IN[thing.kind][thing.name] if built_in else "this program"
    return _loading[-1] if _loading and not built_in else (module, None)


def _checked_name(thing: Any, source: str) -> str:
    """The name under which to register a class or edition; `AsdjaxError` if it is incomplete."""
    if isinstance(thing, type):
        where = f"{source}: {thing.__qualname__}"
        name = _name_of_class(thing, where)
    else:
        where = f"{source}: {thing.kind} {thing.name!r}"
        name = thing.name
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: {name!r} is not a valid name: use a letter, then letters, digits and _, at "
            "most 40 characters"
        )
    return name


def _name_of_class(chosen: Any, where: str) -> Any:
    """The default of the setting that names a class, if nothing is missing of the class."""
    if inspect.isabstract(chosen):
        missing = ", ".join(sorted(chosen.__abstractmethods__))
        raise ConfigError(f"{where}: a {chosen.kind} needs {missing}: define it")
    taken = sorted(
        {PLUGIN, "kind", "tag", "required"} & vars(chosen).get("__annotations__", {}).keys()
    )
    if taken:
        raise ConfigError(f"{where}: a setting cannot be called {taken[0]}: choose another name")
    for feature, methods in chosen.conditional.items():
        missing = ", ".join(name for name in methods if _has_default(chosen, name))
        if missing and not _has_default(chosen, feature) and getattr(chosen, feature):
            raise ConfigError(f"{where}: a {chosen.kind} with {feature} needs {missing}: define it")
    if "__dataclass_fields__" not in vars(chosen) or not chosen.__dataclass_params__.frozen:
        raise ConfigError(f"{where}: not a frozen dataclass: add dataclass(frozen=True)")
    if chosen.tag not in {field.name for field in dataclasses.fields(chosen)}:
        raise ConfigError(f"{where}: no setting {chosen.tag!r}: add it, with the name as default")
    for field in dataclasses.fields(chosen):
        no_default = field.default is field.default_factory is dataclasses.MISSING
        if no_default and field.name not in chosen.required:
            raise ConfigError(f"{where}: setting {field.name!r} has no default: give it one")
    if not chosen.__module__.startswith("asdjax."):
        _check_settings(chosen, where)
        for interface in chosen.__mro__:
            if interface.__module__ == _INTERFACES:
                check_methods(chosen, interface, where)
    return chosen.__dataclass_fields__[chosen.tag].default


def _has_default(chosen: type, name: str) -> bool:
    """Whether an attribute is that of the interface: the class does not define it."""
    owner = next(of for of in chosen.__mro__ if name in vars(of))
    return owner.__module__ == _INTERFACES


def check_methods(thing: type, interface: type, where: str) -> None:
    """Refuse methods that do not take the arguments of the interface's methods.

    Args:
        thing: a class that extends `interface`.
        interface: the class that declares the methods.
        where: start of the message.

    Raises:
        AsdjaxError: a method of `thing` cannot be called as `interface` says.
    """
    for name, declared in vars(interface).items():
        own = inspect.getattr_static(thing, name)
        if inspect.isfunction(declared) and not callable(getattr(thing, name)):
            raise ConfigError(f"{where}: {name} is not a method: define it as one")
        if inspect.isfunction(declared) and inspect.isfunction(own) and own is not declared:
            check_call(own, inspect.signature(declared), f"{where}: {name}")


def check_call(method: Callable[..., Any], declared: inspect.Signature, where: str) -> None:
    """Raise `AsdjaxError` unless a function takes the arguments of a declared signature."""
    parameters = declared.parameters.values()
    keywords = {p.name: None for p in parameters if p.kind is p.KEYWORD_ONLY}
    try:
        inspect.signature(method).bind(*[None] * (len(parameters) - len(keywords)), **keywords)
    except TypeError as error:
        taken = ", ".join(map(str, inspect.signature(method).parameters))
        needed = ", ".join(map(str, declared.parameters))
        raise ConfigError(f"{where}({taken}): {error}: it must take ({needed})") from error


def _check_settings(chosen: Any, where: str) -> None:
    """Refuse settings that no recipe can hold: defaults must survive writing and reading."""
    from asdjax.config import schema  # imports this module

    try:
        instance = chosen(**dict.fromkeys(set(chosen.required) - {chosen.tag}, "x"))
        tree = schema.to_tree(instance)
        hash(instance)  # part of the key of compiled programs
        json.dumps(tree, allow_nan=False)
        if not all(field.init for field in dataclasses.fields(chosen)):
            raise ValueError("one has init=False")
        for name, kind in schema.field_types(chosen).items() if isinstance(tree, dict) else ():
            if schema.read(kind, tree[name], name, where) != getattr(instance, name):
                raise ValueError(f"the default of {name} is not of its type")
        schema.check(chosen, instance, "", where)
    except (TypeError, ValueError, NameError, LookupError, AttributeError) as error:
        raise ConfigError(
            f"{where}: settings that no recipe can hold ({error}): use numbers, text, true or "
            "false, tuples, and frozen dataclasses of these"
        ) from error


def names(kind: str) -> tuple[str, ...]:
    """All registered names of a kind, the default first."""
    others = (name for of_kind, name in _ENTRIES if of_kind == kind)
    return tuple(dict.fromkeys([*BUILT_IN[kind], *others]))


def choices(kind: str) -> tuple[str, ...]:
    """The names of a kind that a user may choose: not those that only a command writes."""
    return tuple(name for name in names(kind) if (kind, name) not in WRITTEN_BY)


def find(kind: str, name: str) -> Any:
    """The class or edition that is registered under a name; `KeyError` if there is none."""
    if (kind, name) not in _ENTRIES:
        importlib.import_module(BUILT_IN[kind][name])
    return _ENTRIES[kind, name].thing


def default(kind: str, **required: Any) -> Any:
    """An instance of a kind's default class; `required` are the settings without a default."""
    return find(kind, names(kind)[0])(**required)


def plugin_of(kind: str, name: str) -> str | None:
    """Name and digest of the plugin that registered a name, as `toy.py 0123456789abcdef`.

    None if it was not registered by a plugin.
    """
    entry = _ENTRIES.get((kind, name))
    return None if entry is None else entry.plugin


def loaded_plugins() -> set[str]:
    """Name and digest of each plugin that is loaded."""
    return {entry.plugin for entry in _ENTRIES.values() if entry.plugin is not None}


def load_plugin(path: Path) -> None:
    """Execute a Python file that calls `register`; a file that was loaded before is skipped.

    Raises:
        AsdjaxError: the file cannot be read, raises an exception, or registers nothing.

    Example:
        >>> asdjax.load_plugin(Path("mine.py"))
    """
    if path.suffix != ".py":
        raise ConfigError(f"{path}: a plugin is a Python file: its name must end in .py")
    try:
        content = user_files.read_bytes(path, most=_LARGEST_PLUGIN)
    except ArtifactError as error:
        raise ConfigError(f"plugin {error}") from error
    digest = hashlib.sha256(content).hexdigest()[:16]
    source, label = os.path.realpath(path), f"{path.name} {digest}"
    if any((entry.source, entry.plugin) == (source, label) for entry in _ENTRIES.values()):
        return
    module = types.ModuleType(f"asdjax_plugin_{digest}")
    module.__file__ = source
    sys.modules[module.__name__] = module  # typing.get_type_hints looks up annotations here
    _loading.append((source, label))
    try:
        # These very bytes, whose digest results state: Python's own import might take a cached
        # .pyc of a file that was changed within the same second.
        exec(compile(content, source, "exec"), vars(module))
    except AsdjaxError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise ConfigError(f"{path}: {_place(error, source)}: repair the plugin") from error
    finally:
        _loading.pop()
    if all(entry.source != source for entry in _ENTRIES.values()):
        raise ConfigError(f"{path}: registers nothing: call asdjax.register in it")


def plugin_error(error: BaseException) -> ConfigError | None:
    """The error to report for an exception that was raised in or below a plugin's code.

    None if no line of a plugin was being executed, or the message needs no plugin to explain it.
    """
    if isinstance(error, AsdjaxError | MemoryError):
        return None
    plugins = {entry.source for entry in _ENTRIES.values() if entry.plugin is not None}
    frames = traceback.extract_tb(error.__traceback__)
    at_fault = [frame.filename for frame in frames if frame.filename in plugins]
    if not at_fault:
        return None
    return ConfigError(f"{at_fault[-1]}: {_place(error, at_fault[-1])}: repair the plugin")


def _place(error: BaseException, source: str) -> str:
    """The line of a plugin in which an exception was raised, and the exception's first line."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f"line {error.lineno}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == source]
    message = (str(error).splitlines() or [""])[0]
    return f"line {lines[-1] if lines else '?'}: {type(error).__name__}: {message}"

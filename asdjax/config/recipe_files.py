"""The files of recipes: installed ones by name, others by path, and those that they extend.

A recipe may say `extends: system1`, or the path of another file relative to its own folder, and
state only what differs from it.
"""

import dataclasses
import difflib
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from asdjax.config import registry, schema, strict_yaml
from asdjax.errors import AsdjaxError, ConfigError
from asdjax.files import user_files

EXTENDS = "extends"
MOST_FILES = 8
"""Longest chain of recipes, each of which extends the next one."""


@dataclasses.dataclass(frozen=True)
class RecipeFile:
    """What one recipe states."""

    source: str
    """Its name in error messages."""
    tree: Any
    """Its content without the key `extends`; a mapping, if it is a recipe."""
    extends: Any
    """The value of that key; None without one."""
    folder: Path | None
    """Where relative paths begin; None for installed recipes, which extend installed ones."""
    identity: str
    """The same for the same file, however it was named."""


def names() -> list[str]:
    """The names of the recipes that are installed with asdjax."""
    files = resources.files("asdjax.configs").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


def chain(name_or_path: str) -> list[RecipeFile]:
    """A recipe, the one that it extends, and so on, to one that extends none.

    Raises:
        AsdjaxError: one of them does not exist or cannot be read, they extend each other in a
            circle, or there are more than `MOST_FILES`.

    Example:
        >>> [file.source for file in chain("system3")]
        ['recipe system3', 'recipe system2']
    """
    found = [_read(name_or_path)]
    while found[-1].extends is not None:
        last = found[-1]
        where = f"{last.source}: {EXTENDS}"
        if not isinstance(last.extends, str):
            raise ConfigError(
                f"{where}: expected the name of a recipe or the path of a YAML file, "
                f"{schema.found(last.extends)}"
            )
        path = last.extends
        if path not in names() and last.folder is not None:
            path = str(last.folder / os.path.expanduser(path))
        following = _read(path, where)
        if following.identity in {file.identity for file in found}:
            circle = " -> ".join(file.source for file in [*found, following])
            raise ConfigError(f"{where}: a recipe extends itself ({circle}): remove one {EXTENDS}")
        if len(found) == MOST_FILES:
            raise ConfigError(
                f"{where}: more than {MOST_FILES} recipes that extend each other: join some of them"
            )
        found.append(following)
    return found


def merged(kind: Any, base: Any, changes: Any) -> Any:
    """The settings of a recipe that extends another one.

    Sections are merged key by key. Everything else, lists too, is replaced. If a section names
    another class than before, nothing of it is inherited: its other settings belong to that class.

    Args:
        kind: the type of the settings, such as `Config`.
        base: what the other recipe states, as the YAML reader returns it; valid.
        changes: what the recipe itself states.

    Example:
        >>> merged(asdjax.Config, {"train": {"epochs": 4, "devices": 1}}, {"train": {"epochs": 8}})
        {'train': {'epochs': 8, 'devices': 1}}
    """
    if isinstance(kind, type) and issubclass(kind, schema.Choice):
        base, changes = ({kind.tag: t} if isinstance(t, str) else t for t in (base, changes))
        if not (isinstance(base, Mapping) and isinstance(changes, Mapping)):
            return changes
        name = base.get(kind.tag, registry.names(kind.kind)[0])
        if changes.get(kind.tag, name) != name:
            return changes
        kind = registry.find(kind.kind, name)
    if not (
        dataclasses.is_dataclass(kind)
        and isinstance(kind, type)
        and isinstance(base, Mapping)
        and isinstance(changes, Mapping)
    ):
        return changes
    result, hints = dict(base), schema.field_types(kind)
    named = schema.named_things(kind)
    if any(changes.get(name, base.get(name)) != base.get(name) for name in named):
        result.pop(schema.PLUGIN, None)  # of an edition that is replaced
    for key, value in changes.items():
        result[key] = merged(hints.get(key), base.get(key), value)
    return result


def _read(name_or_path: str, where: str = "") -> RecipeFile:
    """One recipe; `where` begins the message if there is none of this name."""
    if name_or_path in names():
        text = (resources.files("asdjax.configs") / f"{name_or_path}.yaml").read_text("utf-8")
        return _parsed(text, f"recipe {name_or_path}", None, name_or_path)
    path = Path(name_or_path)
    try:
        text = user_files.read_text(path, most=strict_yaml.MOST_BYTES)
    except AsdjaxError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        close = difflib.get_close_matches(path.stem.lower(), names(), n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        relative = ", relative to this one," if where else ""
        raise ConfigError(
            f"{where}{': ' * bool(where)}no recipe or file {name_or_path!r}: {hint}give the path "
            f"of a YAML file{relative} or one of the recipes {', '.join(names())}"
        ) from error
    return _parsed(text, str(path), path.parent, os.path.realpath(path))


def _parsed(text: str, source: str, folder: Path | None, identity: str) -> RecipeFile:
    tree, extends = strict_yaml.parse(text, source), None
    if tree is None:
        tree = {}
    if isinstance(tree, dict) and EXTENDS in tree:
        extends = tree.pop(EXTENDS)
        if extends is None or extends == "":
            raise ConfigError(
                f"{source}: {EXTENDS}: is empty: name a recipe or a YAML file, or remove the key"
            )
    return RecipeFile(source, tree, extends, folder, identity)

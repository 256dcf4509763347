"""Parsing of a verb's arguments: the types of paths, recipes and numbers, and defaults from files.

tyro makes the options from a verb's dataclass. What it cannot do is done here: the class of a
section (`--loss.name arcface`) decides which options there are, and a recipe or run the defaults.
"""

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, get_args, get_origin

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructTypeInfo,
)

from asdjax.config import recipe as configs
from asdjax.config import registry, schema, strict_yaml
from asdjax.config.interfaces import Pooling
from asdjax.config.recipe import Config
from asdjax.config.schema import Choice, Range, cut, field_types, shown
from asdjax.config.strict_yaml import MOST_DIGITS
from asdjax.errors import ArtifactError, AsdjaxError, UsageError
from asdjax.files import atomic, url_files
from asdjax.runtime import console

if TYPE_CHECKING:
    from asdjax.store.runs import Run

_NUMBERS = {
    int: re.compile(r"[-+]?(0|[1-9][0-9]*)"),
    float: re.compile(r"[-+]?(([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|inf)|nan"),
}  # as in a recipe; int() and float() would also accept 1_0 and digits of other scripts
ALL_OR_NOTHING = "nothing is half written: run the same command again if the result is missing"
"""What an interruption costs a command that writes one result."""
HELP = ("-h", "--help", "--help-all")
"""Options that ask for a verb's help; the last one for all of its options."""
VERSION = ("-V", "--version")
QUIET, VERBOSE, NO_CACHE, PLUGIN = "--quiet", "--verbose", "--no-compile-cache", "--plugin"
"""Options of all commands, see `asdjax.cli`."""


def path_text(given: str, *, any_bytes: bool = False) -> str:
    """A path from the command line or a recipe, with `~` and `~user` expanded.

    Args:
        given: the path.
        any_bytes: whether it may have bytes that are not UTF-8.

    Raises:
        UsageError: it is empty, a URL, or has a NUL byte or an unknown user.
        AsdjaxError: it is not UTF-8 text.

    Example:
        >>> path_text("~/runs") == os.path.expanduser("~/runs")
        True
    """
    if not given:
        raise UsageError("an empty path was given: name a file or directory (. is the current one)")
    if url_files.is_url(given):
        raise UsageError(
            f"{url_files.without_secrets(given)}: URLs are not supported: download or mount it, "
            "and give the path of a local file or directory"
        )
    if "\0" in given:
        raise UsageError(f"{given}: a path cannot contain a NUL byte")
    if not any_bytes and given != given.encode(errors="replace").decode():
        raise ArtifactError(f"{given}: the name is not UTF-8 text: rename it (or set PYTHONUTF8=1)")
    found = os.path.expanduser(given)
    if given.startswith("~") and found == given:
        raise UsageError(f"{given}: no such user: for a name that begins with ~, write ./{given}")
    return found


def _path_or_url(given: str) -> Path | str:
    """A URL without secrets, or the path of `path_text`."""
    if not url_files.is_url(given):
        return Path(path_text(given))
    url_files.require_usable(given)
    return given


def config_name(given: str) -> str:
    """The name of an installed recipe, or `path_text` of the path of a YAML file."""
    return given if given in configs.names() else path_text(given)


def pool(given: str) -> str | Pooling:
    """What `embed --pool` names: none, head, or a pooling as in a recipe.

    Raises:
        ValueError: there is no such pooling, or a setting is unknown or of another type.

    Example:
        >>> pool("{name: relative_deviation, gamma: 4}").gamma
        4.0
    """
    if given in ("none", "head"):
        return given
    try:
        return schema.read(Pooling, strict_yaml.parse(given, "--pool"), "pool", "--pool")
    except AsdjaxError as error:
        raise ValueError(str(error)) from error


def _read_by(
    make: Callable[[str], Any], kind: Any, metavar: str = "PATH"
) -> PrimitiveConstructorSpec:
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: make(words[0]),
        is_instance=lambda value: isinstance(value, kind),
        str_from_instance=lambda value: [str(value)],
    )


UserPath = Annotated[Path, _read_by(lambda given: Path(path_text(given)), Path)]
"""Type of arguments that are a path of a file or directory."""
AnyPath = Annotated[Path, _read_by(lambda given: Path(path_text(given, any_bytes=True)), Path)]
"""The same, of recordings, whose names may have bytes that are not UTF-8."""
PathOrUrl = Annotated[Path | str, _read_by(_path_or_url, Path | str)]
"""The same, or a URL as text."""
PathText = Annotated[str, _read_by(path_text, str)]
"""Type of arguments that are a path or a special name: the text as given, `./` included."""
ConfigName = Annotated[str, _read_by(config_name, str)]
"""Type of all arguments that are the name of a recipe or the path of a YAML file."""


PoolName = Annotated[str | Pooling, _read_by(pool, str | Pooling, "POOLING")]
"""Type of arguments that are a pooling of tokens, see `pool`."""


def _plain_number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Tyro rule: numbers are plain decimal digits, as in a recipe."""
    kind = info.type
    if kind not in _NUMBERS:
        return None

    def number(words: list[str]) -> int | float:
        if not _NUMBERS[kind].fullmatch(words[0]):
            what = "whole number" if kind is int else "number"
            raise ValueError(f"{shown(words[0])} is not a {what} in plain digits")
        if len(words[0]) > MOST_DIGITS:
            raise ValueError(f"a number of more than {MOST_DIGITS} characters")
        return kind(words[0])

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=number,
        is_instance=lambda value: isinstance(value, int | kind) and not isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )


_OPEN = object()
"""Marks a type whose fields are being listed by `_open_choices`, which would else call itself."""


def _open_choices(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Tyro rule: a setting that holds a registered name accepts all names of its kind."""
    if not dataclasses.is_dataclass(info.type) or _OPEN in info.markers:
        return None
    marked = dataclasses.replace(info, markers=(*info.markers, _OPEN))
    spec = ConstructorRegistry.get_struct_spec(marked)
    if not isinstance(spec, StructConstructorSpec):
        return None
    values = schema.name_values(info.type)
    if isinstance(info.default, Choice):  # which may be one that only a command writes
        tag = info.default.tag
        values[tag] = tuple(dict.fromkeys([*values[tag], getattr(info.default, tag)]))
    fields = [
        # tyro reads any annotation, but declares that it takes classes alone
        dataclasses.replace(field, type=Literal[values[field.name]])  # type: ignore[arg-type]
        if field.name in values
        else field
        for field in spec.fields
    ]
    return dataclasses.replace(spec, fields=tuple(fields))


def _registry(*rules: Callable[[StructTypeInfo], StructConstructorSpec | None]) -> Any:
    """The rules by which tyro makes options from types; `rules` are tried first."""
    registry = ConstructorRegistry()
    registry.primitive_rule(_plain_number)
    for rule in (_open_choices, *rules):
        registry.struct_rule(rule)
    return registry


_FLAT = object()
"""Marks a type whose fields are being listed by `_first_settings`."""


def _first_settings(
    command: Any, first: Sequence[tuple[Any, str, str]]
) -> Callable[[StructTypeInfo], StructConstructorSpec | None]:
    """Tyro rule for the help: a verb's own arguments and the `first` settings, without sections.

    Args:
        command: an instance of the verb.
        first: of each setting the section, the name of its field, and the option.
    """

    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        if info.type is not type(command) or _FLAT in info.markers:
            return None

        def fields(section: Any) -> dict[str, Any]:
            about = {"type": type(section), "default": section}
            marked = dataclasses.replace(info, **about, markers=(*info.markers, _FLAT))
            spec = ConstructorRegistry.get_struct_spec(marked)
            assert isinstance(spec, StructConstructorSpec)
            return {field.name: field for field in spec.fields}

        shown = [f for f in fields(command).values() if not is_section(getattr(command, f.name))]
        for section, name, option in first:
            field = fields(section)[name]
            named: Any = Annotated[field.type, tyro.conf.arg(name=option)]
            shown.append(dataclasses.replace(field, name=option, type=named))
        return StructConstructorSpec(instantiate=type(command), fields=tuple(shown))

    return rule


def is_section(value: Any) -> bool:
    """Whether a value is a dataclass, or a tuple of them, whose settings are options."""
    parts = value if isinstance(value, tuple) and value else (value,)
    return all(dataclasses.is_dataclass(part) for part in parts)


def _options_in(value: Any) -> int:
    """The number of arguments and options that a verb, or a section of it, has."""
    if not is_section(value):
        return 1
    if isinstance(value, tuple):
        return sum(map(_options_in, value))
    return sum(_options_in(getattr(value, field.name)) for field in dataclasses.fields(value))


def require_apart(run: Path, data: Path, option: str = "--run") -> None:
    """Raise `UsageError` if one of run directory and data set contains the other, also by links.

    Files of a run would be read as data, and `--no-resume` deletes files in the run directory.
    """
    real_run, real_data = Path(os.path.realpath(run)), Path(os.path.realpath(data))
    if real_run.is_relative_to(real_data):
        raise UsageError(
            f"{option} {run}: lies in the data set {data}: name a directory outside of it"
        )
    if real_data.is_relative_to(real_run):
        raise UsageError(f"--data {data}: lies in {option} {run}: name a directory outside of it")


def open_run(path: Path) -> "Run":
    """The run at a path.

    Raises:
        AsdjaxError: there is no run directory, or its configuration cannot be read.
    """
    from asdjax.store.runs import Run

    require_folder(path, "run directory")
    run = Run(path)
    run.config()
    return run


def require_folder(path: Path, what: str, made_by: str = "train") -> None:
    """Raise `AsdjaxError` if there is no directory at a path; the message calls it `what`."""
    try:
        os.scandir(path).close()
    except OSError as error:
        why = "" if isinstance(error, FileNotFoundError) else f" ({error.strerror})"
        raise ArtifactError(
            f"{path}: there is no such {what}{why}: name one that asdjax {made_by} has written"
        ) from error


def check_options(command: Any) -> None:
    """Raise `UsageError` if a number among a verb's own options is out of its bounds."""
    for name, hint in field_types(type(command)).items():
        value = getattr(command, name)
        for bound in getattr(hint, "__metadata__", ()):
            if isinstance(bound, Range) and value is not None and value not in bound:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option}: must be {bound}, found {shown(value)}")


def check_outputs(command: Any) -> None:
    """Raise `AsdjaxError` if a file that a verb writes (its attribute `writes`) exists already.

    Its command checks this, too, but the libraries that it needs take seconds to import.
    """
    for name in getattr(command, "writes", ()):
        if (path := getattr(command, name)) is not None:
            atomic.require_free(path, command.overwrite)


def check_overrides(config: Config) -> Config:
    """Validate a configuration with the values of the command line; expands its paths.

    Raises:
        UsageError: a value or a combination of values is invalid.
    """
    config = locate_weights(config)
    try:
        configs.validate(config, "command line")
    except AsdjaxError as error:
        raise UsageError(str(error)) from error
    return config


def locate_weights(config: Config) -> Config:
    """The configuration with `path_text` of the folder of weights, the only path in it."""
    folder = config.model.weights_folder
    if folder is None:
        return config
    return dataclasses.replace(config, model=config.model.with_weights_folder(path_text(folder)))


def parse(verb: str, kind: type[Any], args: Sequence[str]) -> Any:
    """Parse arguments into an instance of a verb's class.

    If the class has an attribute `source`, that is the name of its first positional argument, a
    recipe or run, and `kind.defaults(named)` returns its settings: the defaults of the options.
    """
    source = getattr(kind, "source", None)
    if source is None:
        return _parse_with(verb, args, kind)
    # The defaults are needed to parse, and parsing finds the positional argument: guess it, parse,
    # and parse again if the guess was the value of an option.
    guess = _first_positional(kind, args)
    try:
        default = None if guess is None else default_of(kind, guess)
    except AsdjaxError:
        default = None
    words, chosen, replaced = _choose(args, default or default_of(kind, None))
    command = _parse_with(verb, words, chosen)
    named = str(getattr(command, source))
    if guess is None or default is None or named != config_name(guess):
        words, chosen, replaced = _choose(args, default_of(kind, named))
        command = _parse_with(verb, words, chosen)
    for path, before in replaced.items():
        if lost := _not_kept(before, _inside(command, path)):
            console.say(f"--{'.'.join(path).replace('_', '-')}: {lost}")
    return command


def _flags(kind: Any, around: tuple[Any, ...] = ()) -> set[str]:
    """The names of all options below a dataclass that take no value.

    `around` holds the dataclasses that it is in: a fusion has backends, and is one.
    """
    if get_origin(kind) in (Annotated, tuple):
        return _flags(get_args(kind)[0], around)
    if not isinstance(kind, type) or kind in around:
        return set()
    if issubclass(kind, Choice):
        classes = [registry.find(kind.kind, name) for name in registry.names(kind.kind)]
    else:
        classes = [kind] if dataclasses.is_dataclass(kind) else []
    types = [item for found in classes for item in field_types(found).items()]
    return {name for name, of in types if of is bool}.union(
        *(_flags(of, (*around, kind)) for _, of in types)
    )


def _choose(
    args: Sequence[str], command: Any
) -> tuple[list[str], Any, dict[tuple[str, ...], Choice]]:
    """Replace the classes of sections by those that the arguments name.

    The options of a section are the settings of its class, so the class must be known before tyro
    parses. `--loss arcface` is short for `--loss.name arcface`. A whole section may be given as in
    a recipe: `--loss "{name: arcface, margin: 0.3}"`.

    Args:
        args: of the command line.
        command: an instance of the verb with the defaults.

    Returns:
        The arguments without short forms and whole sections; `command` with the chosen classes;
        and the sections that were replaced, by their paths, as they were.

    Raises:
        UsageError: a name is not registered, or a section is not as in a recipe.
    """
    args, chosen = list(args), []
    for i, argument in enumerate(args):
        option, equals, value = argument.partition("=")
        if not equals:
            value = next((word for word in args[i + 1 : i + 2] if not word.startswith("-")), "")
        if option.startswith("--") and (equals or value):
            chosen.append((option[2:].replace("-", "_").split("."), i, value))

    def depth(choice: tuple[list[str], int, str]) -> int:  # outer sections first
        path = choice[0]
        section = _inside(command, path[:-1])
        return len(path) - (isinstance(section, Choice) and path[-1] == section.tag)

    sections: dict[tuple[str, ...], Choice] = {}  # with the default's settings
    whole: set[int] = set()  # words of sections that are given as in a recipe
    for path, i, name in sorted(chosen, key=depth):
        section = _inside(command, path)
        if isinstance(section, Choice) and name.startswith("{"):
            command = _with(command, path, _as_in_a_recipe(section, name, path))
            whole |= {i} if "=" in args[i] else {i, i + 1}
            continue
        if isinstance(section, Choice):
            path = [*path, section.tag]
            args[i] = args[i].replace("=", f".{section.tag}=", 1)
            args[i] += "" if "=" in args[i] else f".{section.tag}"
        section = _inside(command, path[:-1])
        if isinstance(section, Choice) and path[-1] == section.tag:
            section = sections.setdefault(tuple(path[:-1]), section)
            _require_choice(section, name, ".".join(path))
            command = _with(command, path[:-1], _of_class(section, name))
    return [word for i, word in enumerate(args) if i not in whole], command, sections


def _require_choice(section: Choice, name: str, key: str) -> None:
    """Raise `UsageError` if no class of this name may be chosen for a section."""
    choices = registry.choices(section.kind)
    if name not in (*choices, getattr(section, section.tag)):
        words, by = ", ".join(choices), registry.WRITTEN_BY.get((section.kind, name))
        if by is not None:
            raise UsageError(f"--{key}: only {by} writes {name}: choose one of {words}")
        raise UsageError(f"--{key}: expected one of {words}, found {shown(name)}")


def _as_in_a_recipe(section: Choice, text: str, path: Sequence[str]) -> Choice:
    """A section given as a YAML mapping; what it does not state has its default."""
    option, key = f"--{'.'.join(path).replace('_', '-')}", ".".join(path)
    try:
        tree = strict_yaml.parse(text, option)
        return schema.read(type(section), tree, key, "command line")
    except AsdjaxError as error:
        raise UsageError(str(error)) from error


def _of_class(section: Choice, name: str) -> Choice:
    """The section if it is of this class; else one of the class with its own defaults.

    As in a recipe that extends another one, settings belong to their class. A setting without
    default is kept.
    """
    if name == getattr(section, section.tag):
        return section
    kept = {s: getattr(section, s) for s in section.required if s != section.tag}
    return registry.find(section.kind, name)(**kept | {section.tag: name})


def _not_kept(before: Choice, now: Choice) -> str:
    """Words for settings that both classes have, and whose value is now the other default."""
    default = _of_class(before, getattr(now, now.tag))
    changed = [
        f"{name} {cut(str(value))} (was {cut(str(old))})"
        for name, old in ((s, getattr(before, s)) for s in field_types(type(before)))
        if name != now.tag
        and name in field_types(type(now))
        and not is_section(old)
        and old != (value := getattr(now, name)) == getattr(default, name)
    ]
    if not changed:
        return ""
    name = getattr(now, now.tag)
    return f"{name} begins with its own defaults: {', '.join(changed)}"


def of_each_class(section: Any) -> list[Any]:
    """A section with each class that may be chosen for it."""
    if not isinstance(section, Choice):
        return [section]
    return [_of_class(section, name) for name in registry.choices(section.kind)]


def _inside(value: Any, path: Sequence[str]) -> Any:
    """The value at a path of attributes and indices; None if there is none.

    Sections of the configuration are found without the prefix `config`, as options name them.
    """
    for part in path:
        if isinstance(value, tuple):
            value = value[int(part)] if part.isdecimal() and int(part) < len(value) else None
        else:
            value = getattr(value, part, getattr(getattr(value, "config", None), part, None))
    return value


def _with(value: Any, path: Sequence[str], new: Any) -> Any:
    """A copy of `value` with `new` at a path of `_inside`."""
    if not path:
        return new
    if isinstance(value, tuple):
        changed = [_with(v, path[1:], new) if str(i) == path[0] else v for i, v in enumerate(value)]
        return tuple(changed)
    if not hasattr(value, path[0]):
        path = ["config", *path]
    return dataclasses.replace(value, **{path[0]: _with(getattr(value, path[0]), path[1:], new)})


def default_of(kind: type[Any], named: str | None) -> Any:
    """The defaults of a verb: those of the recipe or run `named`; MISSING where there is none."""
    values = {
        field.name: tyro.MISSING if field.default is dataclasses.MISSING else field.default
        for field in dataclasses.fields(kind)
        if field.default_factory is dataclasses.MISSING
    }
    return kind(**values | ({} if named is None else kind.defaults(config_name(named))))


def _parse_with(verb: str, args: Sequence[str], default: Any) -> Any:
    """Parse with tyro, given the class or an instance with the defaults."""
    is_class = isinstance(default, type)
    if {*HELP} & {*args}:
        # the defaults have the recipe and the classes that the other arguments choose
        _print_help(verb, default_of(default, None) if is_class else default, HELP[-1] in args)
    return tyro.cli(
        default if is_class else type(default),
        prog=f"asdjax {verb}",
        args=args,
        default=None if is_class else default,
        config=(tyro.conf.AvoidSubcommands,),
        registry=_registry(),
    )


def _print_help(verb: str, command: Any, every: bool) -> NoReturn:
    """Print all options of a verb, or those in its attribute `first`, and exit.

    Args:
        verb: its name.
        command: an instance with the defaults.
        every: whether all options are shown.
    """
    first, others = [], 0
    if not every and (named := getattr(command, "first", ())):
        for option in named:
            *path, name = option.replace("-", "_").split(".")
            section = _inside(command, path or ["config"])
            if name in getattr(section, "__dataclass_fields__", ()):  # of the class that is chosen
                first.append((section, name, option))
        own = [getattr(command, field.name) for field in dataclasses.fields(command)]
        shown = len(first) + sum(not is_section(value) for value in own)
        others = _options_in(command) - shown
    rules = [_first_settings(command, first)] if others else []
    with contextlib.suppress(SystemExit):
        tyro.cli(
            type(command),
            prog=f"asdjax {verb}",
            args=["--help"],
            default=command,
            config=(tyro.conf.AvoidSubcommands,),
            registry=_registry(*rules),
        )
    if not every:
        more = f"{others or 'no'} more option{'s' * (others != 1)}"
        print(f"{HELP[-1]} shows {more}; asdjax --help lists the options of all commands.")
    raise SystemExit(0)


def _first_positional(kind: type[Any], args: Sequence[str]) -> str | None:
    """The first argument that is neither an option nor an option's value."""
    flags, previous = _flags(kind), ""
    for argument in args:
        is_option = argument.startswith("-")
        if not is_option and not _needs_value(previous, flags):
            return argument
        previous = argument if is_option else ""
    return None


def asked(kind: Any, args: Sequence[str], names: Sequence[str]) -> bool:
    """Whether an option of these names is among a verb's arguments, not in the place of a value."""
    if not {*names} & {*args}:
        return False
    flags = _flags(kind)
    pairs = zip(["", *args], args, strict=False)
    return any(one in names and not _needs_value(previous, flags) for previous, one in pairs)


def _needs_value(argument: str, flags: Set[str]) -> bool:
    """Whether an argument is an option whose value must follow, given `_flags`."""
    last = argument.rpartition(".")[2].removeprefix("--").removeprefix("no-").replace("-", "_")
    of_all = (name[2:].replace("-", "_") for name in (*HELP, *VERSION, QUIET, VERBOSE, NO_CACHE))
    return argument.startswith("--") and "=" not in argument and last not in {*flags, *of_all}

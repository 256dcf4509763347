"""A strict YAML reader for files of any origin: recipes, config.yaml, --info and meta.yaml.

PyYAML parses the text into events. The values are built from them here, so that time and memory are
bounded by the text's length, and ambiguous text is an error:

* Duplicate keys are errors. Aliases are read, except inside the node of their anchor.
* Texts, numbers, booleans and null are as in YAML 1.1. Dates are texts. Numbers that YAML 1.1 and
  1.2 read differently (010, 0x10, 1_000, 1:30), tags (!!int) and merge keys (<<) are errors.
* One document of at most `MOST_CHARACTERS`, or of `MOST_EXPANDED` with its aliases expanded.
"""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from asdjax.config.schema import cut, shown
from asdjax.errors import ConfigError
from asdjax.files import user_files

MOST_CHARACTERS = 2**16
MOST_BYTES = 4 * MOST_CHARACTERS
MOST_EXPANDED = 2**20
"""Characters and values, with aliases expanded."""
MOST_DEPTH = 32
MOST_DIGITS = 100

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?|[-+]?\.inf|\.nan", re.I)
_OCTAL = re.compile(r"[-+]?0+[1-7][0-7]+")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_BREAKS = "\n\r\x85\u2028\u2029"
_NO_KEY = object()
_RESOLVER = yaml.resolver.Resolver()
_TOO_DEEP = f"more than {MOST_DEPTH} levels of nesting"
_WORDS = (
    ("found character '\\t'", "a tab: indent with spaces"),
    ("that cannot start any token", "a text that begins with this character needs quotes"),
    ("could not find expected ':'", "a key without a colon"),
    ("values are not allowed here", "a colon that does not follow a key: put the text in quotes"),
    ("entries are not allowed here", "a hyphen that does not begin a line: begin a new line"),
    ("expected <block end>", "wrong indentation: align it with the lines above"),
    ("expected ',' or ']'", "a list in [ ] lacks a comma or its end"),
    ("expected ',' or '}'", "keys in { } lack a comma or their end"),
    ("found unexpected end of stream", "a text without its closing quotation mark"),
    ("found unexpected document separator", "a text without its closing quotation mark"),
    ("expected the node content", "a value is missing or not allowed here"),
    ("escape", "an unknown escape (backslash) in double quotes"),
)
"""Our messages for PyYAML's errors, by a part of its message."""


class _Invalid(Exception):
    """Why a text is not read, and the index of the character."""

    def __init__(self, why: str, index: int):
        super().__init__(why)
        self.index = index


def read(path: Path) -> Any:
    """Read a YAML file as lists, dictionaries and scalars; None if it is empty.

    Raises:
        AsdjaxError: the file cannot be read, or as for `parse`.
    """
    return parse(user_files.read_text(path, most=MOST_BYTES), str(path))


def parse(text: str, source: str) -> Any:
    """Read YAML text as lists, dictionaries and scalars; None if it is empty.

    Args:
        text: one document.
        source: name of the text in error messages.

    Raises:
        AsdjaxError: the text is not valid YAML, too large, nested too deeply, or ambiguous as
            described above. The message has the line and column, counted from 1.

    Example:
        >>> parse("views: [{name: raw}, {name: far}]", "recipe.yaml")
        {'views': [{'name': 'raw'}, {'name': 'far'}]}
    """
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"{source}: larger than {MOST_CHARACTERS:,} characters: shorten it")
    try:
        document = _Document()
        for event in _events(text, source):
            document.take(event)
        return document.value
    except _Invalid as error:
        why, index = str(error), error.index
    except yaml.reader.ReaderError as error:
        why, index = "not valid YAML: an unprintable character", error.position
    except yaml.MarkedYAMLError as error:
        problem, mark = error.problem, error.problem_mark
        assert problem is not None and mark is not None, "PyYAML's parser states both"
        # what is found missing at the end of the text or line is reported where it began
        late = mark.index >= len(text.rstrip()) or "':'" in problem
        mark = (late and error.context_mark) or mark
        known = (words for part, words in _WORDS if part in problem)
        why, index = f"not valid YAML: {next(known, 'a syntax error')}", mark.index
    raise ConfigError(f"{source}: {_position(text, index)}: {why}") from None


def _events(text: str, source: str) -> Iterator[yaml.Event]:
    try:
        yield from yaml.parse(text, Loader=yaml.SafeLoader)
    except (ValueError, OverflowError):  # for "\U00110000" and %YAML 1.999... (5000 digits)
        raise ConfigError(
            f"{source}: not valid YAML: an escape (backslash) or a directive (%) with too large a "
            "number"
        ) from None


def _position(text: str, index: int) -> str:
    """Line and column of a character, with the part of the line around it."""
    before, after = re.split(f"[{_BREAKS}]", text[:index])[-1], text[index:]
    line = len(re.findall(f"\r\n|[{_BREAKS}]", text[:index])) + 1
    part = (before[-40:] + re.split(f"[{_BREAKS}]", after, maxsplit=1)[0][:40]).strip()
    return f"line {line}, column {len(before) + 1} ({part!r})"


@dataclasses.dataclass
class _Node:
    """A value, with its size and depth when aliases are expanded."""

    value: Any
    size: int = 1
    """Characters and values."""
    height: int = 0
    """Levels of nesting inside it."""
    anchor: str | None = None
    key: Any = _NO_KEY
    """In a mapping that is being read: the key whose value comes next."""


class _Document:
    """Builds a value from PyYAML's events."""

    def __init__(self) -> None:
        self.value: Any = None
        self._count = 0
        self._open: list[_Node] = []
        """Unfinished lists and mappings, the outermost first."""
        self._anchors: dict[str, _Node] = {}

    def take(self, event: yaml.Event) -> None:
        """Process the next event."""
        assert event.start_mark is not None, "PyYAML's parser states it"
        index = event.start_mark.index
        if isinstance(event, yaml.DocumentStartEvent):
            self._count += 1
            if self._count > 1:
                raise _Invalid("a second document (---): only one is allowed", index)
        elif isinstance(event, yaml.AliasEvent):
            assert event.anchor is not None, "an alias has a name"
            self._add(self._expanded(event.anchor, index), index)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._add(self._open.pop(), index)
        elif isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            if event.tag is not None:
                tag = cut(event.tag.replace("tag:yaml.org,2002:", "!!"))
                raise _Invalid(f"the tag {tag} is not allowed: remove it", index)
            if isinstance(event, yaml.ScalarEvent):
                size = 1 + len(event.value)
                self._add(_Node(_scalar(event, index), size, anchor=event.anchor), index)
                return
            if len(self._open) >= MOST_DEPTH:
                raise _Invalid(_TOO_DEEP, index)
            empty: Any = [] if isinstance(event, yaml.SequenceStartEvent) else {}
            self._open.append(_Node(empty, anchor=event.anchor))

    def _expanded(self, anchor: str, index: int) -> _Node:
        """The node that an alias refers to."""
        if anchor not in self._anchors:
            raise _Invalid(f"*{cut(anchor)} refers to no value that ends before it", index)
        node = dataclasses.replace(self._anchors[anchor], anchor=None)
        if sum(outer.size for outer in self._open) + node.size > MOST_EXPANDED:
            raise _Invalid("too large with its aliases (*) expanded: use fewer", index)
        if len(self._open) + node.height > MOST_DEPTH:
            raise _Invalid(_TOO_DEEP, index)
        return node

    def _add(self, node: _Node, index: int) -> None:
        """Add a finished node to the list or mapping that contains it."""
        if node.anchor is not None:
            self._anchors[node.anchor] = node
        if not self._open:
            self.value = node.value
            return
        parent, value = self._open[-1], node.value
        parent.size += node.size
        parent.height = max(parent.height, node.height + 1)
        if isinstance(parent.value, list):
            parent.value.append(value)
        elif parent.key is not _NO_KEY:
            parent.value[parent.key], parent.key = value, _NO_KEY
        elif isinstance(value, list | dict):
            raise _Invalid("a list or mapping as a key: use a text or a number", index)
        elif value in parent.value:
            raise _Invalid(f"the key {shown(value)} appears twice", index)
        else:
            parent.key = value


def _scalar(event: yaml.ScalarEvent, index: int) -> Any:
    """A scalar's value, with the type that YAML 1.1 gives it."""
    text, plain = event.value, event.style is None
    tag = _RESOLVER.resolve(yaml.ScalarNode, text, (plain, not plain)).rpartition(":")[2]
    if tag == "null":
        return None
    if tag == "bool":
        return text.lower() in ("yes", "true", "on")
    if tag == "merge":
        raise _Invalid("a merge key (<<) is not allowed: write out the keys", index)
    if tag in ("int", "float"):
        if len(text) > MOST_DIGITS:
            raise _Invalid(f"a number of more than {MOST_DIGITS} characters", index)
        if not (_INT if tag == "int" else _FLOAT).fullmatch(text):
            both = f"{int(text, 8)} or {int(text)}" if _OCTAL.fullmatch(text) else "plain digits"
            raise _Invalid(
                f"{text!r} is ambiguous: write {both}, or put it in quotes if it is a text", index
            )
        return int(text) if tag == "int" else float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    if found := _UNPRINTABLE.search(text):
        raise _Invalid(f"{found[0]!r} is not allowed in a text: remove it", index)
    return text

"""Reading YAML that anybody may have written: recipes, config.yaml, --info and meta.yaml.

PyYAML parses the text; what its events mean is decided here, so that no text costs more than its
length allows, or means another thing than its author thinks:

* A key may stand once in a mapping. Aliases are read, but not inside what they name.
* Texts, numbers, booleans and null are as in YAML 1.1. Dates stay texts. Numbers that YAML 1.1 and
  1.2 read differently (010, 0x10, 1_000, 1:30), tags (!!int) and merge keys (<<) are refused.
* One document of at most `MOST_CHARACTERS`; aliases may not make it longer than `MOST_EXPANDED`.
"""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from asdjax.config.schema import cut, shown
from asdjax.errors import AsdjaxError
from asdjax.files import user_files

MOST_CHARACTERS = 2**16
MOST_BYTES = 4 * MOST_CHARACTERS
MOST_EXPANDED = 2**20
"""Characters and values, with every alias written out."""
MOST_DEPTH = 32
MOST_DIGITS = 100

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?|[-+]?\.inf|\.nan", re.I)
_OCTAL = re.compile(r"[-+]?0+[1-7][0-7]+")
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_BREAKS = "\n\r\x85\u2028\u2029"
_NO_KEY = object()
_RESOLVER = yaml.resolver.Resolver()
_TOO_DEEP = f"more than {MOST_DEPTH} levels inside each other"
_WORDS = (
    ("found character '\\t'", "a tab, where only blanks may stand"),
    ("that cannot start any token", "a text that begins with this character needs quotes"),
    ("could not find expected ':'", "a key without a colon"),
    ("values are not allowed here", "a colon where no key can stand: put such a text in quotes"),
    ("entries are not allowed here", "a hyphen where no list can stand: begin a new line"),
    ("expected <block end>", "not in line with the lines above: mind the blanks at its begin"),
    ("expected ',' or ']'", "a list in [ ] without a comma or its end"),
    ("expected ',' or '}'", "keys in { } without a comma or their end"),
    ("found unexpected end of stream", "a quotation mark without its partner"),
    ("found unexpected document separator", "a quotation mark without its partner"),
    ("expected the node content", "a value is missing or cannot stand here"),
    ("escape", "a backslash in double quotes that begins no known character"),
)
"""What to say of PyYAML's errors, by a part of its own words."""


class _Refusal(Exception):
    """Why a text is not read, and the place."""

    def __init__(self, why: str, index: int):
        super().__init__(why)
        self.index = index


def read(path: Path) -> Any:
    """Read a YAML file as lists, dictionaries and scalars; None where it is empty.

    Raises:
        AsdjaxError: the file cannot be read, or as for `parse`.
    """
    return parse(user_files.read_text(path, most=MOST_BYTES), str(path))


def parse(text: str, source: str) -> Any:
    """Read YAML text as lists, dictionaries and scalars; None where it is empty.

    Args:
        text: one document.
        source: names the text in error messages.

    Raises:
        AsdjaxError: not YAML, too large, too deep, or one of the forms refused above: a sentence
            with line and column, from 1.
    """
    if len(text) > MOST_CHARACTERS:
        raise AsdjaxError(f"{source}: larger than {MOST_CHARACTERS:,} characters")
    try:
        document = _Document()
        for event in _events(text, source):
            document.take(event)
        return document.value
    except _Refusal as error:
        why, index = str(error), error.index
    except yaml.reader.ReaderError as error:
        why, index = "not valid YAML: a character that does not print", error.position
    except yaml.MarkedYAMLError as error:
        # what is missed only at the end of the text, or of a line, is better shown where it began
        late = error.problem_mark.index >= len(text.rstrip()) or "':'" in error.problem
        mark = (late and error.context_mark) or error.problem_mark
        known = (words for part, words in _WORDS if part in error.problem)
        why, index = f"not valid YAML: {next(known, 'cannot be understood here')}", mark.index
    raise AsdjaxError(f"{source}: {_place(text, index)}: {why}") from None


def _events(text: str, source: str) -> Iterator[yaml.Event]:
    try:
        yield from yaml.parse(text, Loader=yaml.SafeLoader)
    except (ValueError, OverflowError):  # of "\U00110000" and %YAML 1.999... (5000 digits)
        raise AsdjaxError(
            f"{source}: not valid YAML: a backslash or a directive (%) with a number that is too "
            "large"
        ) from None


def _place(text: str, index: int) -> str:
    """A place in words: line and column, and the line itself, or the part of it around."""
    before, after = re.split(f"[{_BREAKS}]", text[:index])[-1], text[index:]
    line = len(re.findall(f"\r\n|[{_BREAKS}]", text[:index])) + 1
    part = (before[-40:] + re.split(f"[{_BREAKS}]", after, maxsplit=1)[0][:40]).strip()
    return f"line {line}, column {len(before) + 1} ({part!r})"


@dataclasses.dataclass
class _Node:
    """A value and what it costs with every alias written out."""

    value: Any
    size: int = 1
    """Characters and values."""
    height: int = 0
    """Levels inside it."""
    anchor: str | None = None
    key: Any = _NO_KEY
    """Of a mapping that is being read: the key that waits for its value."""


class _Document:
    """The value that PyYAML's events describe, built as they come."""

    def __init__(self) -> None:
        self.value: Any = None
        self._count = 0
        self._open: list[_Node] = []
        """Lists and mappings whose end has not been read, the outermost first."""
        self._anchors: dict[str, _Node] = {}

    def take(self, event: yaml.Event) -> None:
        """Take the next event into account."""
        index = event.start_mark.index
        if isinstance(event, yaml.DocumentStartEvent):
            self._count += 1
            if self._count > 1:
                raise _Refusal("a second document (---): give one", index)
        elif isinstance(event, yaml.AliasEvent):
            self._place(self._named(event.anchor, index), index)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._place(self._open.pop(), index)
        elif isinstance(event, yaml.NodeEvent):
            if event.tag is not None:
                tag = cut(event.tag.replace("tag:yaml.org,2002:", "!!"))
                raise _Refusal(f"the tag {tag} is not read: write the value without it", index)
            if isinstance(event, yaml.ScalarEvent):
                size = 1 + len(event.value)
                self._place(_Node(_scalar(event, index), size, anchor=event.anchor), index)
                return
            if len(self._open) >= MOST_DEPTH:
                raise _Refusal(_TOO_DEEP, index)
            empty: Any = [] if isinstance(event, yaml.SequenceStartEvent) else {}
            self._open.append(_Node(empty, anchor=event.anchor))

    def _named(self, anchor: str, index: int) -> _Node:
        """What an alias stands for."""
        if anchor not in self._anchors:
            raise _Refusal(f"*{cut(anchor)} names nothing that ends before it", index)
        node = dataclasses.replace(self._anchors[anchor], anchor=None)
        if sum(outer.size for outer in self._open) + node.size > MOST_EXPANDED:
            raise _Refusal("aliases (*) make it too large: write fewer", index)
        if len(self._open) + node.height > MOST_DEPTH:
            raise _Refusal(_TOO_DEEP, index)
        return node

    def _place(self, node: _Node, index: int) -> None:
        """Put a whole value into the list or mapping around it."""
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
            raise _Refusal("a list or mapping as a key: a key is a text or a number", index)
        elif value in parent.value:
            raise _Refusal(f"the key {shown(value)} stands twice", index)
        else:
            parent.key = value


def _scalar(event: yaml.ScalarEvent, index: int) -> Any:
    """A scalar's value by the type that YAML 1.1 gives it."""
    text, plain = event.value, event.style is None
    tag = _RESOLVER.resolve(yaml.ScalarNode, text, (plain, not plain)).rpartition(":")[2]
    if tag == "null":
        return None
    if tag == "bool":
        return text.lower() in ("yes", "true", "on")
    if tag == "merge":
        raise _Refusal("a merge key (<<) is not read: write the keys themselves", index)
    if tag in ("int", "float"):
        if len(text) > MOST_DIGITS:
            raise _Refusal(f"a number of more than {MOST_DIGITS} characters", index)
        if not (_INT if tag == "int" else _FLOAT).fullmatch(text):
            both = f"{int(text, 8)} or {int(text)}" if _OCTAL.fullmatch(text) else "plain digits"
            raise _Refusal(
                f"programs read {text!r} differently: write {both}, or quotes around a text", index
            )
        return int(text) if tag == "int" else float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    if found := _NO_TEXT.search(text):
        raise _Refusal(f"{found[0]!r} in a text: leave it out", index)
    return text

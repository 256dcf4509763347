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

from asdjax import user_files
from asdjax.errors import AsdjaxError

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


@dataclasses.dataclass
class _Open:
    """A list or mapping whose end has not been read."""

    value: list[Any] | dict[Any, Any]
    anchor: str | None
    begin: int
    """What had been counted before it."""
    height: int = 0
    """Levels inside it."""
    key: Any = _NO_KEY
    """Of a mapping: the key that waits for its value."""


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
        return _document(yaml.parse(text, Loader=yaml.SafeLoader))
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
    except (ValueError, OverflowError):  # PyYAML's, of "\U00110000" and %YAML 1.999... (digits)
        raise AsdjaxError(
            f"{source}: not valid YAML: a backslash or a directive (%) with a number that is too "
            "large"
        ) from None
    raise AsdjaxError(f"{source}: {_place(text, index)}: {why}") from None


def _place(text: str, index: int) -> str:
    """A place in words: line and column, and the line itself, or the part of it around."""
    before, after = re.split(f"[{_BREAKS}]", text[:index])[-1], text[index:]
    line = len(re.findall(f"\r\n|[{_BREAKS}]", text[:index])) + 1
    shown = (before[-40:] + re.split(f"[{_BREAKS}]", after, maxsplit=1)[0][:40]).strip()
    return f"line {line}, column {len(before) + 1} ({shown!r})"


def _document(events: Iterator[yaml.Event]) -> Any:
    """The value that PyYAML's events describe."""
    scalar_type = yaml.resolver.Resolver().resolve
    anchors: dict[str, tuple[Any, int, int]] = {}  # value, what it counts, levels
    stack: list[_Open] = []
    result: Any = None
    counted = documents = 0
    for event in events:
        index = event.start_mark.index
        height, anchor = 0, getattr(event, "anchor", None)
        begin = counted
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise _Refusal("a second document (---): give one", index)
            continue
        if isinstance(event, yaml.NodeEvent) and getattr(event, "tag", None) is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")[:40]
            raise _Refusal(f"the tag {tag} is not read: write the value without it", index)
        if isinstance(event, yaml.CollectionStartEvent):
            if len(stack) >= MOST_DEPTH:
                raise _Refusal(f"more than {MOST_DEPTH} levels inside each other", index)
            counted += 1
            value = [] if isinstance(event, yaml.SequenceStartEvent) else {}
            stack.append(_Open(value, anchor, begin))
            continue
        if isinstance(event, yaml.AliasEvent):
            if anchor not in anchors:
                raise _Refusal(f"*{anchor[:40]} names nothing that ends before it", index)
            value, more, height = anchors[anchor]
            anchor, counted = None, counted + more
            if counted > MOST_EXPANDED:
                raise _Refusal("aliases (*) make it too large: write fewer", index)
            if len(stack) + height > MOST_DEPTH:
                raise _Refusal(f"more than {MOST_DEPTH} levels inside each other", index)
        elif isinstance(event, yaml.ScalarEvent):
            plain = event.style is None
            tag = scalar_type(yaml.ScalarNode, event.value, (plain, not plain))
            value = _scalar(event.value, tag.rpartition(":")[2], index)
            counted += 1 + len(event.value)
        elif isinstance(event, yaml.CollectionEndEvent):
            ended = stack.pop()
            value, anchor, begin, height = ended.value, ended.anchor, ended.begin, ended.height + 1
        else:
            continue
        if anchor is not None:
            anchors[anchor] = value, counted - begin, height
        if stack:
            stack[-1].height = max(stack[-1].height, height)
            _add(stack[-1], value, index)
        else:
            result = value
    return result


def _add(parent: _Open, value: Any, index: int) -> None:
    """Put a value into the list or mapping around it."""
    if isinstance(parent.value, list):
        parent.value.append(value)
    elif parent.key is not _NO_KEY:
        parent.value[parent.key], parent.key = value, _NO_KEY
    elif isinstance(value, list | dict):
        raise _Refusal("a list or mapping as a key: a key is a text or a number", index)
    elif value in parent.value:
        raise _Refusal(f"the key {str(value)[:40]!r} stands twice", index)
    else:
        parent.key = value


def _scalar(text: str, tag: str, index: int) -> Any:
    """A scalar's value by the type that YAML 1.1 gives it."""
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

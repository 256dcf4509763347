"""The one reader of YAML: what it reads, and what it refuses in a sentence and in bounded time."""

import math
import random
import re
import time
from pathlib import Path

import pytest
import yaml

from asdjax.config import recipe as configs
from asdjax.config import strict_yaml
from asdjax.errors import AsdjaxError


def refusal(text):
    """The sentence of a text that is refused."""
    with pytest.raises(AsdjaxError) as error:
        strict_yaml.parse(text, "f.yaml")
    message = str(error.value)
    assert message.startswith("f.yaml: ") and "\n" not in message and len(message) < 400
    for word in ("unicode string", "constructor", "<stream end>", "<block end>", "tag:yaml.org"):
        assert word not in message
    return message


def deepest(levels):
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# only a comment\n", None),
        ("---\n", None),
        ("\ufeffa: 1", {"a": 1}),
        ("a: 1\r\nb: 2\r\n", {"a": 1, "b": 2}),
        ("a: [0, -3, +4, -0]", {"a": [0, -3, 4, 0]}),
        ("a: [1.5, .5, 1., -2.5e+3]", {"a": [1.5, 0.5, 1.0, -2500.0]}),
        ("a: 1e-4", {"a": "1e-4"}),  # as YAML 1.1; schema reads it as a number
        ("a: [.inf, -.Inf]", {"a": [math.inf, -math.inf]}),
        ("a: [yes, No, on, OFF, true, y]", {"a": [True, False, True, False, True, "y"]}),
        ("a: [~, null, ]", {"a": [None, None]}),
        ("a: ['010', \"1:30\", '<<', 08, 0o10]", {"a": ["010", "1:30", "<<", "08", "0o10"]}),
        ("a: [2001-99-99, 2001-01-01]", {"a": ["2001-99-99", "2001-01-01"]}),
        ("=: =", {"=": "="}),
        ("1: a\n1.5: b\nno: c\n~: d", {1: "a", 1.5: "b", False: "c", None: "d"}),
        ("a: &x [1, {b: 2}]\nc: *x\nd: [*x, *x]", None),
        (deepest(strict_yaml.MOST_DEPTH), None),
        ("a: |\n  x\n  y\n", {"a": "x\ny\n"}),
        ("9" * strict_yaml.MOST_DIGITS, int("9" * strict_yaml.MOST_DIGITS)),
    ],
)
def test_what_is_read(text, value):
    found = strict_yaml.parse(text, "f.yaml")
    assert found == value if value is not None or not text else found == yaml.safe_load(text)


def test_not_a_number_is_read_as_such():
    assert math.isnan(strict_yaml.parse("[.nan]", "f.yaml")[0])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # ambiguous numbers
        ("seed: 010", "column 7 ('seed: 010'): '010' .* 8 or 10,"),
        ("a: -0777", "'-0777' .* -511 or -777,"),
        ("a: 1_000", ": '1_000' .*digits"),
        ("a: 1:30", ": '1:30' .*digits"),
        ("a: 190:20:30.15", ": '190:20:30.15' .*digits"),
        ("a: 0x10", ": '0x10' .*digits"),
        ("a: 0b1", ": '0b1' .*digits"),
        ("a: 0.0_1", ": '0.0_1' .*digits"),
        ("a: " + "9" * 5000, "column 4 .*100 characters"),
        ("a: " + "9" * 5000 + ".5", "column 4 .*100 characters"),
        ("a: " + "1:" * 5000 + "1", "column 4 .*100 characters"),
        # tags, keys, documents
        ("a: !!int abc", "column 4 .*tag !!int "),
        ("a: !!float x", "tag !!float "),
        ("a: !!binary x", "tag !!binary "),
        ("a: !!timestamp 2001-99-99", "tag !!timestamp "),
        ("!!set {a}", "tag !!set "),
        ("a: !!python/object/apply:os.system [x]", "tag !!python/object/apply:os.system "),
        ("a: !" + "x" * 5000 + " b", "tag !xxx"),
        ("<<: {a: 1}", "column 1 .*merge key"),
        ("a: 1\nb: 2\na: 3", "line 3, column 1 ('a: 3'): .*'a' .*twice"),
        ("{1: a, true: b}", "True .*twice"),
        ("? [a]\n: b", "as a key"),
        ("? {a: b}\n: c", "as a key"),
        ("a: 1\n---\nb: 2", "line 2, column 1 ('---'): .*document"),
        # aliases and depth
        ("&a [*a]", "column 5 .*: *a "),
        ("a: &a {b: *a}", "column 11 .*: *a "),
        ("a: *nowhere", "column 4 .*: *nowhere "),
        (deepest(strict_yaml.MOST_DEPTH + 1), "32 levels"),
        ("[" * 5000, "32 levels"),
        ("- " * 5000, "32 levels"),
        ("{a: " * 5000, "32 levels"),
        ("x0: &x0 [y]\n" + "".join(f"x{i}: &x{i} [*x{i - 1}]\n" for i in range(1, 40)), "levels"),
        ("a: &a " + "x" * 50000 + "\nb: [" + "*a, " * 1000 + "]", "large .*aliases (*)"),
        # characters
        ("a: \0", "line 1, column 4 ('a: \\x00'): not valid YAML: .*character"),
        ("b: 1\na: \x1b[31m", "line 2, column 4 .*character"),
        ('a: "\\ud800"', "column 4 .*: '\\ud800' "),
        ('a: "\\0"', "column 4 .*: '\\x00' "),
        ('a: "\\e[31m"', "column 4 .*: '\\x1b' "),
        ('a: "\\U00110000"', "not valid YAML: .*number"),
        ('a: "\\UFFFFFFFF"', "not valid YAML: .*number"),
        ("%YAML 1." + "9" * 5000 + "\n---\na", "not valid YAML: .*number"),
        ('a: "\\q"', "not valid YAML: .*backslash"),
        # slips
        ("b: 1\na: [1, 2", "line 2, column 4 ('a: [1, 2'): not valid YAML: .*[ ]"),
        ("a: {b: 1", "not valid YAML: .*{ }"),
        ("a: 'x\nb: 1", "line 1, column 4 (\"a: 'x\"): not valid YAML: .*quotation mark"),
        ("a: b: c", "line 1, column 5 ('a: b: c'): not valid YAML: .*colon"),
        ("a: 1\n b: 2", "line 2, column 3 ('b: 2'): not valid YAML: .*colon"),
        ("a: - b", "not valid YAML: .*hyphen"),
        ("a:\n  b: 1\n c: 2", "line 3, column 2 ('c: 2'): not valid YAML: .*indentation"),
        ("a:\n\tb: 1", "line 2, column 1 ('b: 1'): not valid YAML: .*tab"),
        ("a: @x", "not valid YAML: .*quotes"),
        ("a\nb: c", "not valid YAML: .*colon"),
        ("a: b\nc\nd: e", "line 2, column 1 ('c'): not valid YAML: .*colon"),
        ("...", "not valid YAML: .*value"),
        ("%YAML 2.0\n---\na", "line 1, column 1 ('%YAML 2.0'): not valid YAML"),
        ("x" * 2000 + ": 1", "column 2001 .*not valid YAML"),
    ],
)  # fmt: skip
def test_what_is_refused(text, words):
    """`.*` in `words` is any text, all else is literal."""
    assert re.search(".*".join(map(re.escape, words.split(".*"))), refusal(text))


def laughs():
    lines = ["a0: &a0 [" + "x," * 9 + "]"]
    lines += [f"a{i}: &a{i} [" + f"*a{i - 1}," * 9 + "]" for i in range(1, 10)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        laughs(),
        "[" * strict_yaml.MOST_CHARACTERS,
        "".join(f"k{i}: \n" for i in range(7000)),  # counting each key among all takes minutes
        "a: " + "0" * 60000 + "x",
        "a: " + "1:" * 30000 + "x",
        "a: " + "1_" * 30000,
        '"' + "\\x41" * 15000 + '"',
        "[" + "[]," * 20000 + "]",
        "[" + "&a b, " * 10000 + "]",
    ],
)
def test_no_text_takes_long(text):
    began = time.process_time()
    try:
        strict_yaml.parse(text, "f.yaml")
    except AsdjaxError as error:
        assert len(str(error)) < 400
    assert time.process_time() - began < 5  # well below 1, but for a busy machine


def test_texts_that_are_too_long(tmp_path):
    assert "65,536 characters" in refusal("#" * (strict_yaml.MOST_CHARACTERS + 1))
    file = tmp_path / "a.yaml"
    file.write_bytes(b"#" * (strict_yaml.MOST_BYTES + 1))
    with pytest.raises(AsdjaxError, match=r"a\.yaml: .*262,144 bytes"):
        strict_yaml.read(file)


@pytest.mark.parametrize("content", ["a: é".encode("latin-1"), "a: 1".encode("utf-16")])
def test_files_in_other_encodings(tmp_path, content):
    file = tmp_path / "a.yaml"
    file.write_bytes(content)
    with pytest.raises(AsdjaxError, match=r"a\.yaml: .*UTF-8"):
        strict_yaml.read(file)


_PARTS = (
    *"[]{}:?|>%@`#\n\t\0\x85\u2028\ufeff'\"\\", "- ", ": ", "&a ", "*a", "&b [*b]", "!!int ",
    "---\n",
    "<<: *a\n", "010", "1:30", "9" * 5000, ".nan", "1e999", "no", "2001-99-99", '"\\ud800"', "\x1b",
    "\\UFFFFFFFF", "[" * 40, "{a: " * 40, "x" * 3000,
)  # fmt: skip


def test_broken_recipes_end_in_a_sentence():
    """A small part of a longer search, which found nothing else."""
    rng = random.Random(0)
    text = configs.dump(configs.load("system2"))
    for _ in range(200):
        broken = text
        for _ in range(rng.choice([1, 2, 4])):
            at = rng.randrange(len(broken))
            broken = broken[:at] + rng.choice(_PARTS) + broken[at + rng.randrange(3) :]
        try:
            config = configs.parse(broken, "f.yaml")
        except AsdjaxError as error:
            assert str(error).startswith("f.yaml: ") and len(str(error)) < 2500
        else:
            assert configs.parse(configs.dump(config), "again") == config


def test_nothing_else_reads_yaml():
    package = Path(strict_yaml.__file__).parent
    for file in package.rglob("*.py"):
        if file.name != "strict_yaml.py":
            text = file.read_text("utf-8")
            assert not any(f"yaml.{call}" in text for call in ("safe_load", "load(", "SafeLoader"))

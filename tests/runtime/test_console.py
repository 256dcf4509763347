"""What commands print: names with unprintable characters, errors, warnings; exit codes."""

import logging
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from asdjax.errors import AsdjaxError, UsageError
from asdjax.runtime import console

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("fan, 10 ± 2 %, Größe", "fan, 10 ± 2 %, Größe"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("a\udcffb", "a\\udcffb"),
        ("a\u202eb\x9b", "a\\u202eb\\x9b"),
    ],
)
def test_printable(text, printed, capsys):
    assert console.printable(text) == printed
    console.say(text)
    assert capsys.readouterr().err == printed + "\n"


def failing(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (AsdjaxError("fan.wav: is empty"), 1, "asdjax: fan.wav: is empty\n"),
        (UsageError("name --out"), 2, "asdjax: name --out\n"),
        (MemoryError(), 1, "asdjax: out of memory\n"),
        (MemoryError("4 GiB"), 1, "asdjax: out of memory (4 GiB)\n"),
        (
            ImportError("_flapack.so: failed to map segment from shared object"),
            1,
            "asdjax: out of memory (_flapack.so: failed to map segment from shared object)\n",
        ),
        (KeyboardInterrupt(), 130, "asdjax: interrupted: all is lost\n"),
    ],
)
def test_an_error_is_one_line(error, code, words, capsys):
    assert console.finish(failing(error), "all is lost") == code
    assert capsys.readouterr().err == words


def test_a_command_prints_the_warnings_of_the_package_once(capsys, caplog):
    logger = logging.getLogger("asdjax.data.corpus")

    def command():
        logger.info("not this")
        logger.warning("fan\x1b[31m: 2 clips, 10 %")

    for _ in range(2):
        assert console.finish(lambda: console.finish(command, ""), "") == 0
        assert capsys.readouterr().err == "fan\\x1b[31m: 2 clips, 10 %\n"
        assert caplog.messages == []  # which a handler of the root logger collects
    logger.warning("outside of a command")
    assert (caplog.messages, capsys.readouterr().err) == (["outside of a command"], "")


def test_no_memory_on_the_device(capsys):
    error = RuntimeError("RESOURCE_EXHAUSTED: 9 GiB\nat ...")
    assert console.finish(failing(error), "") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("asdjax: ") and "RESOURCE_EXHAUSTED: 9 GiB" in line
    assert "batch_size" in line


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "no", "x"), BrokenPipeError(), RuntimeError("x"), KeyError("x")]
)
def test_a_defect_keeps_its_traceback(error, capsys):
    with pytest.raises(type(error)) as raised:
        console.finish(failing(error), "")
    assert raised.value is error and not capsys.readouterr().err


@pytest.mark.parametrize(
    ("verbosity", "expected"),
    [
        ("quiet", ["always", "an error"]),
        ("normal", ["said", "always", "a warning", "an error", "counting 2/2"]),
        ("verbose", ["said", "always", "a step", "a warning", "an error", "counting 2/2"]),
    ],
)
def test_how_much_is_printed(verbosity, expected, capsys):
    logger = logging.getLogger("asdjax.data.corpus")

    def command():
        console.say("said")
        console.say_always("always")
        logger.info("a step")
        logger.warning("a warning")
        logger.error("an error")
        with console.progress("counting", 2, "steps") as advance:
            advance(1, "")
            advance(1, "")

    with console.verbosity(verbosity):
        assert console.finish(command, "") == 0
        assert console.finish(failing(AsdjaxError("fan.wav: is empty")), "") == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines.pop() == "asdjax: fan.wav: is empty"
    logged = re.compile(r"\d\d:\d\d:\d\d (INFO|WARNING|ERROR) asdjax\.data\.corpus: ")
    assert len(lines) == len(expected)
    for line, words in zip(lines, expected, strict=True):
        assert bool(logged.match(line)) == (
            verbosity == "verbose" and words.startswith(("a ", "an "))
        )
        assert logged.sub("", line).startswith(words)
    assert logger.getEffectiveLevel() == logging.WARNING  # as before


def test_minor_progress_is_of_commands_and_of_long_tasks(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)

    def task(seconds):
        nonlocal now
        with console.progress("reading", 4, "files", minor=True) as advance:
            for _ in range(4):
                now += seconds
                advance(1, "")

    task(6)
    assert not capsys.readouterr().err
    assert console.finish(lambda: task(2), "") == 0
    assert not capsys.readouterr().err
    assert console.finish(lambda: task(6), "") == 0
    assert capsys.readouterr().err.splitlines() == [
        "reading 2/4 0.167 files/s, 12 s left",
        "reading 4/4 0.167 files/s, 0 s left",
    ]


PROGRAM = """
import sys
from asdjax.runtime import console
def command():
    with console.progress("reading", 2, "files") as advance:
        for i in range(2):
            advance(1, "")
            print("row", i, flush=True)
console.prepare()
with console.verbosity(sys.argv[1]):
    sys.exit(console.finish(command, ""))
"""


@pytest.mark.parametrize(("verbosity", "shown"), [("normal", True), ("quiet", False)])
def test_a_bar_on_a_terminal_leaves_results_on_standard_output(verbosity, shown):
    reading, terminal = pty.openpty()
    command = [sys.executable, "-c", PROGRAM, verbosity]
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=terminal, check=True)
    os.write(terminal, b"end")
    said = b""
    while not said.endswith(b"end"):
        said += os.read(reading, 4096)
    os.close(terminal)
    os.close(reading)
    assert ended.stdout == b"row 0\nrow 1\n"
    assert (b"reading" in said and b"files/s" in said) == shown and b"row" not in said


@pytest.mark.parametrize(
    "words, code", [("docs", 1), ("-V", 1), ("--help", 1), ("data --help", 1), ("docs nothing", 2)]
)
def test_closed_standard_output_is_an_error_if_there_is_any(words, code):
    command = ["sh", "-c", f'exec "$0" -m asdjax {words} >&-', sys.executable]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == code
    assert ("standard output: cannot be written" in line) == (code == 1)


@pytest.mark.parametrize(
    "words", ["synth out --machines fan --train-source 2 --train-target 1 --seconds 1",
              "convert beats GOLDEN/beats_tiny.pt out"],
)  # fmt: skip
def test_a_result_in_files_needs_no_standard_output(words, tmp_path):
    words = words.replace("out", str(tmp_path / "out")).replace("GOLDEN", str(GOLDEN))
    command = ["sh", "-c", f'exec "$0" -m asdjax {words} >&-', sys.executable]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 0 and str(tmp_path / "out") in ended.stderr


WITHIN = """
import sys, time
from asdjax.runtime import console
def command():
    with console.progress("scoring", 2, "machines", minor=True) as advance:
        for _ in range(2):
            with console.progress("searching", 3, "clips", minor=True) as inner:
                time.sleep(0.3)  # bars are drawn ten times a second
                inner(3, "")
            advance(1, "")
console.prepare()
sys.exit(console.finish(command, ""))
"""


def test_a_task_within_another_has_its_own_bar():
    reading, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 120))
    ended = subprocess.run([sys.executable, "-c", WITHIN], stderr=terminal)
    os.write(terminal, b"done")
    said = b""
    while not said.endswith(b"done"):
        said += os.read(reading, 4096)
    os.close(terminal)
    os.close(reading)
    assert ended.returncode == 0
    assert re.search(rb"scoring[^\n]* machines/s[^\n]*\nsearching", said), "one below the other"


LONG = """
import sys
from asdjax.runtime import console
def command():
    with console.progress("reading", 2, "files", minor=True) as advance:
        print("long " * 40 + "end", flush=True)
console.prepare()
sys.exit(console.finish(command, ""))
"""


def test_a_long_result_above_a_bar_stays_one_line():
    """The terminal wraps it, at 80 columns; whoever copies it has no line breaks in it."""
    reading, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    ended = subprocess.Popen([sys.executable, "-c", LONG], stdout=terminal, stderr=terminal)
    assert ended.wait() == 0
    os.write(terminal, b"done")
    said = b""
    while not said.endswith(b"done"):
        said += os.read(reading, 4096)
    os.close(terminal)
    os.close(reading)
    assert b"long " * 40 + b"end\r\n" in said


def test_the_log_of_a_defect_has_its_traceback(capsys):
    def command():
        try:
            raise KeyError("the cause")
        except KeyError as error:
            logging.getLogger("asdjax.somewhere").error("not done", exc_info=error)

    assert console.finish(command, "nothing") == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "not done" and said[-1] == "KeyError: 'the cause'"
    assert sum("Traceback" in line for line in said) == 1

"""What commands print: names with unprintable characters, errors, warnings; exit codes."""

import logging

import pytest

from asdjax.errors import AsdjaxError, UsageError
from asdjax.runtime import console


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

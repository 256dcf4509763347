"""What a person at the terminal sees, and the exit code that a command ends with."""

import errno
import io
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from asdjax.errors import AsdjaxError, UsageError
from asdjax.runtime import interruption

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def printable(text: str) -> str:
    """Text that may hold a name from outside, safe on a terminal and always one line.

    Control characters (ESC, newlines), surrogates (bytes that are not UTF-8) and other characters
    that do not print become Python's escapes.

    Example:
        >>> printable("fan\\x1b[31m")
        'fan\\\\x1b[31m'
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def say(line: str) -> None:
    """Print one line on standard error."""
    print(printable(line), file=sys.stderr, flush=True)


class _Say(logging.Handler):
    """Prints log messages with `say`."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


@contextmanager
def _warnings_printed() -> Iterator[None]:
    """Print what asdjax logs, once: some libraries add a handler to the root logger."""
    logger = logging.getLogger("asdjax")
    before = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [_Say(logging.WARNING)], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before


class _OutputClosed(Exception):
    """Whoever read standard output has seen enough."""


class _StandardOutput(io.FileIO):
    """Standard output, whose errors are told from those of all other files."""

    def write(self, content: "ReadableBuffer", /) -> int:
        try:
            return super().write(content)
        except OSError as error:
            _discard(self.fileno())  # and what still waits to be written
            if error.errno == errno.EPIPE:
                raise _OutputClosed from error
            raise AsdjaxError(
                f"standard output: cannot be written ({error.strerror}): give it another place"
            ) from error


class _StandardError(io.FileIO):
    """Standard error; when nobody can read it any more, work goes on."""

    @interruption.uninterrupted  # or what was written would be written once more
    def write(self, content: "ReadableBuffer", /) -> int:
        try:
            return super().write(content)
        except OSError:  # the terminal was closed, or the pipe's reader has gone
            _discard(self.fileno())
            return memoryview(content).nbytes


def prepare() -> None:
    """Make the process's standard output and error fit for every text and every reader."""
    if sys.stdout is not None:
        sys.stdout = _stream(sys.stdout, _StandardOutput, bool(sys.stdout.line_buffering))
    if sys.stderr is None:  # closed: print would take standard output instead
        sys.stderr = open(os.devnull, "w")
    else:
        sys.stderr = _stream(sys.stderr, _StandardError, True)


def _stream(stream: TextIO, kind: type[io.FileIO], line_buffering: bool) -> TextIO:
    unbuffered = isinstance(stream, io.TextIOWrapper) and stream.write_through  # python -u
    return io.TextIOWrapper(
        io.BufferedWriter(kind(stream.fileno(), "wb", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace",  # for what the terminal's encoding lacks
        line_buffering=line_buffering or unbuffered,
    )


@_warnings_printed()
def finish(command: Callable[[], int | None], lost: str) -> int:
    """Carry out a command and return its exit code; what went wrong is one sentence.

    0 done; 1 bad input, no memory or no room; 2 wrong usage; 128 and its number after a signal.
    Any other exception is a defect and leaves with its traceback.

    Args:
        command: what to do; may return an exit code.
        lost: what an interruption costs, in words for the user.
    """
    interruption.lost = lost
    try:
        code = command() or 0
        if sys.stdout is not None:
            sys.stdout.flush()
        interruption.over()
        return code
    except BaseException as error:  # all but the known ones are raised again
        interruption.over()
        # A library may have made any exception of an interruption.
        if isinstance(error, KeyboardInterrupt) or interruption.code():
            say(f"asdjax: interrupted: {lost}")
            return interruption.code() or 130
        if isinstance(error, _OutputClosed):
            return 0
        sentence = _sentence(error)
        if sentence is None:
            raise
        say(f"asdjax: {sentence}")
        return 2 if isinstance(error, UsageError) else 1


def _sentence(error: BaseException) -> str | None:
    """What to tell the user; None of a defect."""
    if isinstance(error, AsdjaxError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"out of memory ({error})" if str(error) else "out of memory"
    if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error):  # in XLA's words
        return (
            f"out of memory on the device ({str(error).splitlines()[0][:200]}): give shorter "
            "clips or a smaller batch_size, or set model.remat in training"
        )
    return None


def _discard(descriptor: int) -> None:
    """Let what is written there go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


Advance = Callable[[int, str], None]
"""Called with the number of units finished and a few words on how it goes."""


@contextmanager
def progress(title: str, total: int, unit: str, done: int = 0) -> Iterator[Advance]:
    """Show progress: a bar with rate and time left on a terminal, plain lines otherwise.

    Args:
        title: what is going on.
        total: units in all.
        unit: what is counted, for the rate.
        done: units finished before (a resumed run).
    """
    began, first = time.monotonic(), done

    def rate() -> str:
        return f"{(done - first) / max(time.monotonic() - began, 1e-9):.3g} {unit}/s"

    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=total, completed=done, words="")

            def show(units: int, words: str) -> None:
                nonlocal done
                done += units
                bar.update(task, completed=done, words=f"{words} {rate()}".strip())

            yield show
        return

    shown = began

    def line(units: int, words: str) -> None:
        nonlocal done, shown
        done += units
        now = time.monotonic()
        if done >= total or now - shown >= 10:
            shown = now
            left = (now - began) / max(done - first, 1) * (total - done)
            say(f"{title} {done}/{total} {words} {rate()}, {left:.0f} s left".replace("  ", " "))

    yield line

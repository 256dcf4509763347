"""Terminal output and progress of commands, and their exit codes."""

import errno
import io
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TextIO

from asdjax.errors import ArtifactError, AsdjaxError, UsageError
from asdjax.runtime import interruption

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from rich.progress import Progress


def printable(text: str) -> str:
    """A text as one line that is safe to print, whatever file names it contains.

    Control characters (ESC, newlines), surrogates (bytes that are not UTF-8) and other unprintable
    characters are replaced by Python escapes.

    Example:
        >>> printable("fan\\x1b[31m")
        'fan\\\\x1b[31m'
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


Verbosity = Literal["quiet", "normal", "verbose"]
_LEVELS = {"quiet": logging.ERROR, "normal": logging.WARNING, "verbose": logging.INFO}
_verbosity: Verbosity = "normal"
_commands = 0  # that run in this process
_shown: "Progress | None" = None  # on the terminal


def duration(seconds: float) -> str:
    """A time in the largest unit of which it has one.

    Example:
        >>> duration(5400)
        '1.5 h'
    """
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


@contextmanager
def verbosity(chosen: Verbosity) -> Iterator[None]:
    """Choose how much commands print: errors and results; also progress and notes; also the log."""
    global _verbosity
    before, _verbosity = _verbosity, chosen
    if _commands:
        logging.getLogger("asdjax").setLevel(_LEVELS[chosen])
    try:
        yield
    finally:
        _verbosity = before


def chosen() -> Verbosity:
    """How much commands print."""
    return _verbosity


def say(line: str) -> None:
    """Print one line on standard error, as `printable` gives it, unless commands are quiet."""
    if _verbosity != "quiet":
        say_always(line)


def say_always(line: str) -> None:
    """Print an error or a result on standard error, as `printable` returns it."""
    print(printable(line), file=sys.stderr, flush=True)


class _Say(logging.Handler):
    """Prints log messages, and tracebacks of defects; with times, if commands are verbose."""

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if _verbosity == "verbose":
            now = time.strftime("%H:%M:%S", time.localtime(record.created))
            line = f"{now} {record.levelname} {record.name}: {line}"
        say_always(line)
        if record.exc_info:
            for line in "".join(traceback.format_exception(*record.exc_info)).splitlines():
                say_always(line)


@contextmanager
def _log_printed() -> Iterator[None]:
    """Print what asdjax logs, once: some libraries add a handler to the root logger."""
    global _commands
    logger = logging.getLogger("asdjax")
    before, level = (logger.handlers, logger.propagate), logger.level
    logger.handlers, logger.propagate = [_Say()], False
    logger.setLevel(_LEVELS[_verbosity])
    _commands += 1
    try:
        yield
    finally:
        _commands -= 1
        logger.handlers, logger.propagate = before
        logger.setLevel(level)


class _OutputClosed(Exception):
    """The reader of standard output has closed the pipe."""


class _StandardOutput(io.FileIO):
    """Standard output; its write errors can be told from those of other files."""

    def write(self, content: "ReadableBuffer", /) -> int:
        try:
            return super().write(content)
        except OSError as error:
            _discard(self.fileno())  # also what is still buffered
            if error.errno == errno.EPIPE:
                raise _OutputClosed from error
            raise ArtifactError(
                f"standard output: cannot be written ({error.strerror}): redirect it elsewhere"
            ) from error


class _StandardError(io.FileIO):
    """Standard error; the command continues if it cannot be written any more."""

    @interruption.uninterrupted  # or what was written would be written once more
    def write(self, content: "ReadableBuffer", /) -> int:
        try:
            return super().write(content)
        except OSError:  # the terminal or the reader of the pipe was closed
            _discard(self.fileno())
            return memoryview(content).nbytes


def prepare() -> None:
    """Set up standard output and error: encodings without some characters, closed readers."""
    if sys.stdout is None:  # closed: print would drop what it is given, and say nothing
        unwritable = os.open(os.devnull, os.O_RDONLY)
        sys.stdout = open(unwritable, closefd=False)
    sys.stdout = _stream(sys.stdout, _StandardOutput, bool(sys.stdout.line_buffering))
    if sys.stderr is None:  # closed: print would write to standard output instead
        sys.stderr = open(os.devnull, "w")
    else:
        sys.stderr = _stream(sys.stderr, _StandardError, True)


def _stream(stream: TextIO, kind: type[io.FileIO], line_buffering: bool) -> TextIO:
    unbuffered = isinstance(stream, io.TextIOWrapper) and stream.write_through  # python -u
    return io.TextIOWrapper(
        io.BufferedWriter(kind(stream.fileno(), "wb", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace",  # for characters that the terminal's encoding lacks
        line_buffering=line_buffering or unbuffered,
    )


@_log_printed()
def finish(command: Callable[[], int | None], lost: str) -> int:
    """Run a command and return its exit code; errors and warnings are printed as one line each.

    0: done. 1: bad input, out of memory or disk space. 2: wrong usage. 128 + n: signal n.
    Other exceptions are bugs and are raised again.

    Args:
        command: the command; it may return an exit code.
        lost: what an interruption loses, as told to the user.
    """
    interruption.lost = lost
    try:
        code = command() or 0
        if sys.stdout is not None:
            sys.stdout.flush()
        interruption.over()
        return code
    except BaseException as error:  # unknown exceptions are raised again
        interruption.over()
        # a library may turn an interruption into any other exception
        if isinstance(error, KeyboardInterrupt) or interruption.code():
            say_always(f"asdjax: interrupted: {interruption.lost}")
            return interruption.code() or 130
        if isinstance(error, _OutputClosed):
            return 0
        sentence = _sentence(error)
        if sentence is None:
            raise
        say_always(f"asdjax: {sentence}")
        return 2 if isinstance(error, UsageError) else 1


def _sentence(error: BaseException) -> str | None:
    """The message for the user; None for a bug."""
    if isinstance(error, AsdjaxError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"out of memory ({error})" if str(error) else "out of memory"
    if isinstance(error, ImportError) and "failed to map segment" in str(error):  # from the linker
        return f"out of memory ({error})"
    if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error):  # from XLA
        return (
            f"out of memory on the device ({str(error).splitlines()[0][:200]}): use shorter "
            "clips or a smaller batch_size; in training also train.accumulate or model.remat save "
            "memory"
        )
    return None


def _discard(descriptor: int) -> None:
    """Redirect a descriptor to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


@contextmanager
def _bars(minor: bool) -> "Iterator[Progress]":
    """The bars on the terminal: a task within another is added to those that are shown."""
    global _shown
    if _shown is not None:
        yield _shown
        return
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
    # What is printed meanwhile goes above the bar, but results stay on standard output.
    redirected = sys.stdout is not None and sys.stdout.isatty()
    console = Console(stderr=True, soft_wrap=True)  # results keep their lines
    with Progress(*columns, console=console, redirect_stdout=redirected, transient=minor) as bars:
        _shown = bars
        try:
            yield bars
        finally:
            _shown = None


Advance = Callable[[int, str], None]
"""Called with the number of units just finished and a short status text."""


@contextmanager
def progress(
    title: str, total: int | None, unit: str, done: int = 0, *, minor: bool = False
) -> Iterator[Advance]:
    """Show progress with rate and time left: a bar on a terminal, a line per 10 s otherwise.

    Nothing is shown if commands are quiet. A task within another has its bar below the other's.

    Args:
        title: the task.
        total: total number of units; None: unknown.
        unit: name of the units, in the plural.
        done: units finished earlier, by a run that is resumed.
        minor: whether nothing is shown outside of commands, nothing is left on a terminal at the
            end, and elsewhere a task of less than 10 s has no line.
    """
    began, first = time.monotonic(), done

    def rate() -> str:
        return f"{(done - first) / max(time.monotonic() - began, 1e-9):.3g} {unit}/s"

    if _verbosity == "quiet" or (minor and not _commands):
        yield lambda units, words: None
        return
    if sys.stderr.isatty():
        with _bars(minor) as bars:
            task = bars.add_task(title, total=total, completed=done, words="")

            def show(units: int, words: str) -> None:
                nonlocal done
                done += units
                bars.update(task, completed=done, words=f"{words} {rate()}".strip())

            try:
                yield show
            finally:
                if minor:
                    bars.remove_task(task)
        return

    shown = began

    def line(units: int, words: str) -> None:
        nonlocal done, shown
        done += units
        now = time.monotonic()
        if total is None:
            if now - shown >= 10:
                shown = now
                say(f"{title} {done} {words} {rate()}".replace("  ", " "))
        elif (done >= total and not minor) or now - shown >= 10:
            shown = now
            left = (now - began) / max(done - first, 1) * (total - done)
            say(f"{title} {done}/{total} {words} {rate()}, {left:.0f} s left".replace("  ", " "))

    yield line

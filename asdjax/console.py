"""What a person at the terminal sees; everything here goes to standard error."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from asdjax.errors import AsdjaxError


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
    """Print one line."""
    print(printable(line), file=sys.stderr, flush=True)


def finish(command: Callable[[], int | None], interrupted: str) -> int:
    """Carry out a command and return its exit code; what went wrong is one sentence.

    Args:
        command: what to do; may return an exit code.
        interrupted: what Ctrl-C leaves.
    """
    try:
        return command() or 0
    except AsdjaxError as error:
        say(f"asdjax: {error}")
    except (OSError, MemoryError) as error:  # a full disk, a folder without permission
        say(f"asdjax: {error or 'out of memory'}")
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):  # what XLA says of a device's memory
            raise
        say(
            f"asdjax: out of memory on the device ({str(error).splitlines()[0][:200]}): give "
            "shorter clips or a smaller batch_size, or set model.remat in training"
        )
    except KeyboardInterrupt:
        say(f"asdjax: interrupted: {interrupted}")
        return 130
    return 1


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

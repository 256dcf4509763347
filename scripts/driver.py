"""What the scripts that run asdjax commands share: paths, the commands' processes, their end."""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asdjax import console, interruption
from asdjax.arguments import path_text
from asdjax.errors import AsdjaxError

ASDJAX = (sys.executable, "-m", "asdjax")
LOST = "the same command continues where it stopped"


def path(given: str) -> Path:
    """The type of argparse arguments that are paths, by the rules of asdjax's own."""
    try:
        return Path(path_text(given))
    except AsdjaxError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


@contextmanager
def started(arguments: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """An asdjax command at work, which an exception in the block ends; it can be continued."""
    with subprocess.Popen([*ASDJAX, *arguments], **options) as process:
        try:
            yield process
        except BaseException:
            process.terminate()
            raise


def end(main: Callable[[Sequence[str]], int]) -> int:
    """Carry out a script and return its exit code, as the command asdjax does."""
    interruption.handle()
    console.prepare()
    return console.finish(lambda: main(sys.argv[1:]), LOST)

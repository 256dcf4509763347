"""What the scripts that run asdjax commands share: paths, and the commands' processes."""

import argparse
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from asdjax.arguments import path_text
from asdjax.errors import AsdjaxError
from asdjax.runtime import interruption

ASDJAX = (sys.executable, "-m", "asdjax")


def path(given: str) -> Path:
    """The type of argparse arguments that are paths, by the rules of asdjax's own."""
    try:
        return Path(path_text(given))
    except AsdjaxError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


@contextmanager
def started(arguments: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """An asdjax command at work, which an exception in the block ends; it can be continued."""
    with ExitStack() as ending:
        yield _start(ending, arguments, options)


@interruption.uninterrupted
def _start(
    ending: ExitStack, arguments: Sequence[str], options: Mapping[str, Any]
) -> subprocess.Popen[bytes]:
    """Start a command that `ending` waits for, and tells to end where an exception came."""
    process = ending.enter_context(subprocess.Popen([*ASDJAX, *arguments], **options))

    def terminate(kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            process.terminate()

    ending.push(terminate)
    return process

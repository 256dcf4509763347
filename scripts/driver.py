"""What the scripts that run asdjax commands share: paths, and the commands' processes."""

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asdjax.arguments import path_text
from asdjax.errors import AsdjaxError

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
    with subprocess.Popen([*ASDJAX, *arguments], **options) as process:
        try:
            yield process
        except BaseException:
            process.terminate()
            raise

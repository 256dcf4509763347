"""Shared by the scripts: argument types, and processes."""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from asdjax import arguments, cli, verbs
from asdjax.arguments import path_text
from asdjax.errors import AsdjaxError
from asdjax.runtime import console, interruption

ASDJAX = (sys.executable, "-m", "asdjax")


def path(given: str) -> Path:
    """argparse type: a path, checked as asdjax checks its arguments."""
    try:
        return Path(path_text(given))
    except AsdjaxError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def checked(verb: str, *given: object) -> Any:
    """Parse and check an asdjax command without running it.

    Raises:
        AsdjaxError: the command cannot work.
        SystemExit: wrong usage.
    """
    words = [str(argument) for argument in given if argument != cli.NO_CACHE]
    command = arguments.parse(verb, verbs.VERBS[verb], words)
    if isinstance(command, verbs.Train):
        config = arguments.check_overrides(command.config)
        try:
            config.model.resolved()
        except AsdjaxError as error:
            raise AsdjaxError(f"{command.recipe}: {error}") from error
    return command


def count(given: str) -> int:
    """argparse type: an integer, at least 1."""
    number = int(given)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, found {given}")
    return number


def seconds(given: str) -> float:
    """argparse type: the length of a clip, in the limits of the recipes."""
    number = float(given)
    if not 0 < number <= 3600:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 3600, found {given}")
    return number


def started(command: Sequence[str], **options: Any) -> AbstractContextManager[subprocess.Popen]:
    """Start an asdjax command, as `running` does; running it again continues it."""
    return running([*ASDJAX, *command], **options)


def asdjax(*arguments: object) -> None:
    """Run an asdjax command, its output on standard error; `AsdjaxError` if it fails."""
    command = [str(argument) for argument in arguments]
    console.say(f"$ asdjax {shlex.join(command)}")
    with started(command, stdout=sys.stderr) as process:
        code = process.wait()
    if code:
        raise AsdjaxError(
            f"asdjax {command[0]} ended with code {code}, see above: the same command continues"
        )


@contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen]:
    """Start a process; it is terminated if the block raises, and waited for at its end."""
    with ExitStack() as ending:
        yield _start(ending, command, options)


@interruption.uninterrupted
def _start(
    ending: ExitStack, command: Sequence[str], options: Mapping[str, Any]
) -> subprocess.Popen:
    """Start a process that `ending` waits for, and terminates after an exception."""
    process = ending.enter_context(subprocess.Popen(command, **options))

    def terminate(kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            process.terminate()

    ending.push(terminate)
    return process

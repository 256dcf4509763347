"""The command `asdjax`: it listens to signals before it imports anything large."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `handle`: an end without a traceback

# ruff: noqa: E402 (what follows takes a moment)
import sys
from collections.abc import Callable

from asdjax.runtime import interruption


def main() -> int:
    """Carry out the command line and return the exit code."""
    return start(_command, "nothing was done")


def start(command: Callable[[], int | None], lost: str) -> int:
    """Carry out a command in a process of its own and return its exit code.

    Args:
        command: what to do, imports included; as for `console.finish`.
        lost: what an interruption costs, in words for the user.
    """
    try:
        interruption.handle()
        from asdjax.runtime import console

        console.prepare()
        code = console.finish(command, lost)
    except KeyboardInterrupt:  # in the few lines around the command
        sys.stderr.write(f"asdjax: interrupted: {interruption.lost}\n")
        interruption.leave()
    if code == interruption.code():
        interruption.leave()
    return code


def _command() -> int | None:
    from asdjax import cli

    try:
        return cli.main()
    except SystemExit as end:  # of the parser, after help or wrong usage
        if isinstance(end.code, str):
            raise  # words, which Python prints
        return end.code


if __name__ == "__main__":
    sys.exit(main())

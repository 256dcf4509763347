"""The command `asdjax`. Signals are handled before slow imports: Ctrl-C shows no traceback."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `handle`: exit without a traceback

# ruff: noqa: E402 (the imports come after the signal handler)
import sys
from collections.abc import Callable

from asdjax.runtime import interruption


def main() -> int:
    """Run the command line and return the exit code."""
    return start(_command, "nothing was done")


def start(command: Callable[[], int | None], lost: str) -> int:
    """Run a command as the main program of this process and return its exit code.

    Args:
        command: the command, including its imports; as for `console.finish`.
        lost: message for the user after an interruption.
    """
    try:
        interruption.handle()
        from asdjax.runtime import console

        console.prepare()
        code = console.finish(command, lost)
    except KeyboardInterrupt:  # outside of `console.finish`
        sys.stderr.write(f"asdjax: interrupted: {interruption.lost}\n")
        interruption.leave(interruption.code())
    if code == interruption.code() or interruption.others_wait:  # JAX would wait for the others
        interruption.leave(code)
    return code


def _command() -> int | None:
    from asdjax import cli

    try:
        return cli.main()
    except SystemExit as end:  # from the parser, after help or wrong usage
        if isinstance(end.code, str):
            raise  # a message, which Python prints
        return end.code


if __name__ == "__main__":
    sys.exit(main())

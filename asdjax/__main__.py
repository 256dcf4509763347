"""The command `asdjax`: it listens to signals before it imports anything large."""

import sys

from asdjax import interruption


def main() -> int:
    """Carry out the command line and return the exit code."""
    try:
        interruption.handle()
        from asdjax import console

        console.prepare()
        code = console.finish(_command, "nothing was done")
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
        return end.code


if __name__ == "__main__":
    sys.exit(main())

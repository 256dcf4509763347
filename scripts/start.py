"""Starts a script: `python scripts/start.py NAME ARGUMENTS`.

As in the command asdjax, signals are handled before large imports, and errors end with one
sentence.
"""

import importlib
import sys

from asdjax.__main__ import start
from asdjax.errors import UsageError
from asdjax.runtime import interruption

_CONTINUES = "the same command continues where it stopped"
SCRIPTS = {  # name: message after an interruption
    "all_systems": _CONTINUES,
    "make_reference": "nothing was written",
    "measure_detector": _CONTINUES,
    "measure_methods": _CONTINUES,
    "measure_views": _CONTINUES,
    "check_tpu": "the lines above are complete",
    "make_picture": "the picture is unchanged",
    "bench_archive": "the lines above are complete",
    "bench_memory": "the figures above are complete",
    "bench_serve": "the lines above are complete",
    "bench_scaling": "the figures printed above are in the .jsonl file",
}


def script() -> int | None:
    """Run the script named on the command line."""
    interruption.watch()
    if len(sys.argv) < 2 or sys.argv[1] not in SCRIPTS:
        found = f", found {sys.argv[1]!r}" if len(sys.argv) > 1 else ""
        raise UsageError(
            f"python scripts/start.py NAME ARGUMENTS: NAME is one of {', '.join(SCRIPTS)}{found}"
        )
    name, *arguments = sys.argv[1:]
    return importlib.import_module(name).main(arguments)


if __name__ == "__main__":
    sys.exit(start(script, SCRIPTS.get(sys.argv[1] if sys.argv[1:] else "", "nothing was done")))

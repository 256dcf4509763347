"""The command line: parses it, calls a sub-command, and turns errors into exit codes.

Exit codes: 0 success; 1 a problem with the files or the system; 2 an invalid command line, whatever
the files contain; 3 an alarm, if `predict` is asked for it; 128 + n after signal n (130 Ctrl-C, 143
SIGTERM, 129 SIGHUP). Every code but 0 comes with one sentence on standard error, except that `data`
and `submit --verify` print the faults that they find on standard output.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from asdjax import arguments
from asdjax._version import __version__
from asdjax.arguments import check_overrides, path_text
from asdjax.config import recipe as configs
from asdjax.config import registry, schema
from asdjax.config.recipe import Config
from asdjax.errors import AsdjaxError, UsageError
from asdjax.runtime import console, devices, host_memory, interruption
from asdjax.verbs import COMPILING, VERBS, Convert

NO_CACHE = "--no-compile-cache"
PLUGIN = "--plugin"


def _usage() -> str:
    summaries = {name: str(verb.__doc__).splitlines()[0] for name, verb in VERBS.items()}
    lines = "\n".join(f"  {name:<9} {summary}" for name, summary in summaries.items())
    return f"""usage: asdjax COMMAND ...

Anomalous sound detection for machine condition monitoring, on JAX (asdjax {__version__}).

commands:
{lines}

recipes: {", ".join(configs.names())}

  asdjax fit normal/ --out pump.asd               learn from normal recordings of your machine
  asdjax predict pump.asd new/                    ALARM or ok for each new recording
  asdjax synth data                               write a small corpus of synthetic machines
  asdjax run system1 --data data --run runs/one   train, extract, score, evaluate
  asdjax COMMAND --help                           all options with types and defaults
  asdjax train system1 --help                     the same, with the defaults of this recipe

exit codes: 0 success; 1 a problem with the files or the system; 2 an invalid command line; 3 an
alarm (asdjax predict --fail-on-alarm); 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP.

{PLUGIN} FILE.py        load a Python file that adds an encoder, a view, a backend ...
                        (asdjax docs plugins); needed in every command on a run that uses it
{NO_CACHE}      do not use the cache of compiled programs in the user's cache directory
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    keep_programs = NO_CACHE not in args
    args = [argument for argument in args if argument != NO_CACHE]
    plugins, args = _without_plugins(args)
    if not args or args[0] in ("-h", "--help"):
        print(_usage(), file=sys.stdout if args else sys.stderr)
        return 0 if args else 2
    if args[0] == "--version":
        print(f"asdjax {__version__}")
        return 0
    if args[0] not in VERBS:
        hint = schema.similar(args[0], VERBS)
        console.say(f"asdjax: no command {args[0]!r}{hint} (asdjax --help lists all)")
        return 2
    kind, own_process = VERBS[args[0]], argv is None
    if own_process:
        if issubclass(kind, COMPILING):
            host_memory.keep()  # before JAX starts threads
        interruption.watch()

    def command() -> int | None:
        _load(plugins)
        try:
            if kind is Convert:
                from asdjax.convert.__main__ import carry_out

                return carry_out(args[1:])
            return _carry_out(args[0], kind, args[1:], keep_programs)
        except (Exception, SystemExit) as error:  # a plugin's code may raise anything
            plugin_error = registry.plugin_error(error)
            if plugin_error is None:
                raise
            raise plugin_error from error

    return console.finish(command, kind.lost)


def _without_plugins(args: Sequence[str]) -> tuple[list[str | None], list[str]]:
    """The values of --plugin, None where one is missing, and the other arguments."""
    plugins: list[str | None] = []
    others: list[str] = []
    rest = iter(args)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if option == PLUGIN:
            plugins.append(value if equals else next(rest, None))
        else:
            others.append(argument)
    return plugins, others


def _load(plugins: Sequence[str | None]) -> None:
    for plugin in plugins:
        if plugin is None:
            raise UsageError(f"{PLUGIN}: the path of a Python file must follow")
        registry.load_plugin(Path(path_text(plugin)))


def _carry_out(verb: str, kind: type, args: list[str], keep_programs: bool) -> int | None:
    command = arguments.parse(verb, kind, args)
    if isinstance(getattr(command, "config", None), Config):
        command = dataclasses.replace(command, config=check_overrides(command.config))
    if not isinstance(command, COMPILING):
        return command()
    devices.start()
    return _with_kept_programs(command) if keep_programs else command()


def _with_kept_programs(command: Callable[[], int | None]) -> int | None:
    """Run a command with the cache of compiled programs; without it, and say so, if it fails."""
    from asdjax.runtime import compile_cache

    try:
        compile_cache.use()
    except AsdjaxError as error:
        console.say(f"asdjax: compiled programs are not kept: {error}")
    try:
        return command()
    finally:
        compile_cache.seal()

"""The command line: parses it, calls a sub-command, and turns errors into exit codes.

Exit codes: 0 success; 1 a problem with the files or the system; 2 an invalid command line, whatever
the files contain; 3 an alarm, if `predict` is asked for it; 128 + n after signal n (130 Ctrl-C, 143
SIGTERM, 129 SIGHUP). Every code but 0 comes with one sentence on standard error, except that `data`
and `submit --verify` print the faults that they find on standard output.
"""

import dataclasses
import logging
import os
import platform
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from asdjax import arguments
from asdjax._version import __version__
from asdjax.arguments import (
    HELP,
    NO_CACHE,
    PLUGIN,
    QUIET,
    VERBOSE,
    VERSION,
    asked,
    check_overrides,
    path_text,
)
from asdjax.config import recipe as configs
from asdjax.config import registry, schema
from asdjax.config.recipe import Config
from asdjax.errors import AsdjaxError, UsageError
from asdjax.runtime import console, devices, host_memory, interruption
from asdjax.runtime.console import Verbosity
from asdjax.runtime.hosts import Hosts
from asdjax.verbs import COMPILING, JOBS, VERBS, Batch, Convert

_LOG = logging.getLogger(__name__)


def _usage() -> str:
    jobs = []
    for job, verbs in JOBS.items():
        summaries = [f"  {name:<10} {_summary(verb)}" for name, verb in verbs.items()]
        jobs.append("\n".join([f"{job}:", *summaries, ""]))
    listed = "\n".join(jobs)
    recipes = textwrap.fill(f"recipes: {', '.join(configs.names())}", 100, subsequent_indent="  ")
    return f"""usage: asdjax COMMAND ...

Anomalous sound detection for machine condition monitoring, on JAX (asdjax {__version__}).

{listed}
{recipes}

  asdjax fit normal/ --out pump.asd               learn from normal recordings of your machine
  asdjax predict pump.asd new/                    ALARM or ok for each new recording
  asdjax synth data                               write a small corpus of synthetic machines
  asdjax run system1 --data data --run runs/one   train, extract, score, evaluate
  asdjax COMMAND --help                           the options that are used first
  asdjax COMMAND --help-all                       all options with types and defaults
  asdjax train system1 --help-all                 the same, with the defaults of this recipe

exit codes: 0 success; 1 a problem with the files or the system; 2 an invalid command line; 3 an
alarm (asdjax predict --fail-on-alarm); 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP.

options of all commands, anywhere on the line:
  -V, --version         print the version
  {QUIET}               results and errors only
  {VERBOSE}             also what is done, with times
  {PLUGIN} FILE.py      load a Python file that adds an encoder, a view, a backend ...
                        (asdjax docs plugins); needed in every command on a run that uses it
  {NO_CACHE}    do not use the cache of compiled programs in the user's cache directory
"""


def _summary(verb: type) -> str:
    return str(verb.__doc__).splitlines()[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    plugins, args = _without_plugins(sys.argv[1:] if argv is None else argv)
    end = args.index("--") if "--" in args else len(args)  # what follows are names
    given = {*args[:end]}
    version = asked(_named(args)[1], args[:end], VERSION)
    args = [a for i, a in enumerate(args) if i > end or a not in (NO_CACHE, QUIET, VERBOSE)]
    verb, kind, rest = _named(args)
    if argv is None:  # the process runs this command alone
        if kind is not None and issubclass(kind, COMPILING):
            host_memory.keep()  # before JAX starts threads
        interruption.watch()
    if version:
        print(f"asdjax {__version__}")
        return 0
    if {QUIET, VERBOSE} <= given:
        console.say_always(f"asdjax: {QUIET}: cannot be used with {VERBOSE}: omit one of them")
        return 2
    if not args or args[0] in HELP:
        print(_usage(), file=sys.stdout if args else sys.stderr)
        return 0 if args else 2
    if args[0] not in VERBS:
        hint = schema.similar(args[0], VERBS)
        console.say_always(f"asdjax: no command {args[0]!r}{hint} (asdjax --help lists all)")
        return 2
    if kind is Batch:
        return _no_batch_command(rest)

    def command() -> int | None:
        began = time.monotonic()
        _LOG.info(f"asdjax {__version__}, Python {platform.python_version()}: {verb}")
        _load(plugins)
        try:
            if kind is Convert:
                from asdjax.convert.__main__ import carry_out

                return carry_out(rest)
            return _carry_out(verb, kind, rest, keep_programs=NO_CACHE not in given)
        except (Exception, SystemExit) as error:  # a plugin's code may raise anything
            plugin_error = registry.plugin_error(error)
            if plugin_error is None:
                raise
            raise plugin_error from error
        finally:
            _LOG.info(f"{verb}: ended after {time.monotonic() - began:.1f} s")

    chosen: Verbosity = "quiet" if QUIET in given else "verbose" if VERBOSE in given else "normal"
    with console.verbosity(chosen):
        return console.finish(command, kind.lost)


def _named(args: Sequence[str]) -> tuple[str, Any, list[str]]:
    """The verb that arguments name, its class (None if there is no such), and the others."""
    verb, rest = args[0] if args else "", list(args[1:])
    kind: Any = VERBS.get(verb)
    if kind is Batch and rest and rest[0] in Batch.commands:
        return f"{verb} {rest[0]}", Batch.commands[rest[0]], rest[1:]
    return verb, kind, rest


def _no_batch_command(args: Sequence[str]) -> int:
    """Say which commands `asdjax batch` has; the exit code."""
    if args and args[0] not in HELP:
        hint = schema.similar(args[0], Batch.commands)
        console.say_always(f"asdjax: no command 'batch {args[0]}'{hint} (asdjax batch --help)")
        return 2
    lines = [f"  {name:<7} {_summary(kind)}" for name, kind in Batch.commands.items()]
    words = ["usage: asdjax batch COMMAND ...", "", _summary(Batch), "", *lines]
    print("\n".join(words), file=sys.stdout if args else sys.stderr)
    return 0 if args else 2


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


def _carry_out(verb: str, kind: type, args: list[str], *, keep_programs: bool) -> int | None:
    command = arguments.parse(verb, kind, args)
    arguments.check_options(command)
    arguments.check_outputs(command)
    if isinstance(getattr(command, "config", None), Config):
        command = dataclasses.replace(command, config=check_overrides(command.config))
    if not isinstance(command, COMPILING):
        return command()
    job = getattr(command, "hosts", Hosts())
    arguments.check_options(job)
    job.check()
    if job.several:
        return _with_others(command, job, keep_programs=keep_programs)
    devices.start()
    return _with_kept_programs(command) if keep_programs else command()


def _with_others(
    command: Callable[[], int | None], job: Hosts, *, keep_programs: bool
) -> int | None:
    """Run a command together with the other processes of a job; process 0 speaks for all."""
    # unless asked for, JAX says only what ends it
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from asdjax.runtime import parallel

    parallel.join(job)
    interruption.others_wait = True
    devices.start()
    parallel.require_equal_hosts(job)
    speaks = console.chosen() if parallel.is_first() else "quiet"
    with console.verbosity(speaks), parallel.others_lost():
        code = _with_kept_programs(command) if keep_programs else command()
        parallel.leave()
        interruption.others_wait = False
    return code


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

"""Run recipes with several seeds, and write one table with the figures of the report.

Called by scripts/all_systems. Each run is a process of `asdjax run`. Finished runs are started
again, too: `asdjax run` checks within seconds whether the results are up to date with data,
settings and version, and repeats only what is not.
"""

import argparse
import json
import os
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import driver

from asdjax.arguments import require_apart
from asdjax.config import recipe as configs
from asdjax.errors import AsdjaxError
from asdjax.files import atomic
from asdjax.report import published
from asdjax.runtime import console
from asdjax.store import runs

ENSEMBLE = "ensemble"
"""Name of the combination of all other systems, seed by seed."""
FAMILIES = ("official", "within")
FIGURES = {
    "auc_source": "AUC source",
    "auc_target": "AUC target",
    "pauc": "pAUC",
    "score": "harmonic mean",
}
CAPTION = """\
Per cent; mean ± standard deviation over seeds. Official: each domain's normal clips against the
anomalies of both domains; within: against the same domain's anomalies. The pAUC covers both
domains. Harmonic mean: of the machine's three figures; under "all", over all machines.

Warning: the report's AUCs are within-domain and its pAUC follows neither convention exactly: only
the within column is comparable with the report, and never the official one."""


def main(argv: Sequence[str]) -> int:
    """Run all systems and seeds; 0, or 1 if one failed."""
    arguments, extra = _arguments(argv)
    for recipe in arguments.systems:
        for seed in arguments.seeds:
            require_apart(_place(arguments.out, recipe, seed), arguments.data, option="--out")
            if recipe != ENSEMBLE:
                driver.checked(*_command(arguments, recipe, seed, extra))
    return _all(arguments, extra)


def _arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The script's arguments, and those after --, which are for `asdjax run`."""
    given, extra = list(argv), []
    if "--" in given:
        given, extra = given[: given.index("--")], given[given.index("--") + 1 :]
    parser = argparse.ArgumentParser(
        prog="all_systems",
        description="Run recipes with several seeds and write one table.",
        epilog="Arguments after -- are passed to asdjax run.",
    )
    systems = [name for name in configs.names() if name.startswith("system")]
    parser.add_argument("--data", type=driver.path, required=True, help="root of the data set")
    parser.add_argument(
        "--out", type=driver.path, required=True, help="runs, logs, table.md, table.csv"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument(
        "--systems",
        type=_recipe,
        nargs="+",
        default=systems,
        metavar="SYSTEM",
        help=f"numbers, recipes' names or YAML files (default: {' '.join(systems)}); {ENSEMBLE}: "
        "the combination of the others",
    )
    parser.add_argument(
        "--beats",
        type=driver.path,
        metavar="FOLDER",
        help="converted weights (asdjax convert beats) for systems that use BEATs",
    )
    arguments = parser.parse_args(given)
    names = [_name(recipe) for recipe in arguments.systems]
    if len(set(names)) < len(names) or len(set(arguments.seeds)) < len(arguments.seeds):
        parser.error("--systems, --seeds: a value is given twice")
    if ENSEMBLE in arguments.systems:
        arguments.systems = [r for r in arguments.systems if r != ENSEMBLE] + [ENSEMBLE]
        if len(arguments.systems) < 3:
            parser.error(f"--systems: {ENSEMBLE} needs two other systems")
    if min(arguments.seeds) < 0:
        parser.error("--seeds: must be 0 or more")
    taken = {option.partition("=")[0] for option in extra} & {"--data", "--run", "--seed"}
    if taken:
        parser.error(f"{', '.join(sorted(taken))} not possible after --: the script sets it")
    return arguments, extra


def _recipe(given: str) -> str:
    """A recipe's name or path for `asdjax run`; also from a system's number."""
    if given == ENSEMBLE:
        return given
    name = f"system{given}" if given.isdecimal() else given
    return name if name in configs.names() else str(driver.path(name))


def _name(recipe: str) -> str:
    """The name of a recipe's folder and in the table."""
    return Path(recipe).stem


def _place(out: Path, recipe: str, seed: int) -> Path:
    return out / _name(recipe) / f"seed{seed}"


def _all(arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    tables = [arguments.out / "table.md", arguments.out / "table.csv"]
    for path in tables:  # so that no old table remains with newer runs
        atomic.delete(path)
    planned = [(recipe, seed) for recipe in arguments.systems for seed in arguments.seeds]
    finished: dict[str, dict[int, Path]] = {_name(recipe): {} for recipe in arguments.systems}
    failures = {}
    for i, (recipe, seed) in enumerate(planned, start=1):
        name, run = _name(recipe), _place(arguments.out, recipe, seed)
        title = f"[{i}/{len(planned)}] {name} seed {seed}"
        console.say(f"{title}: started")
        began = time.monotonic()
        command = _command(arguments, recipe, seed, extra)
        failure = _run(command, run.with_name(f"{run.name}.log"))
        seconds = time.monotonic() - began
        if failure is None:
            finished[name][seed] = run
            console.say(f"{title}: finished in {seconds:.0f} s")
        else:
            failures[f"{name} seed {seed}"] = failure
            console.say(f"{title}: failed after {seconds:.0f} s: {failure}")

    rows, notes, report = [], [], _report()
    for name, by_seed in finished.items():
        note = _note(name, list(by_seed), arguments.seeds)
        if by_seed:
            try:
                document = _evaluate(list(by_seed.values()))
                rows += _rows(name, document, len(by_seed), report.get(name, {}))
            except AsdjaxError as error:
                failures[f"{name}: evaluate"] = str(error)
                note += "; not evaluated"
        notes.append(note)
    if rows:
        text = _markdown(rows, notes)
        atomic.write_bytes(tables[0], text.encode())
        atomic.write_bytes(tables[1], runs.csv_bytes(rows))
        print(text)
    for what, failure in failures.items():
        console.say(f"failed: {what}: {failure}")
    return int(bool(failures))


def _command(
    arguments: argparse.Namespace, recipe: str, seed: int, extra: Sequence[str]
) -> list[str]:
    """The arguments of asdjax for one run."""
    run = _place(arguments.out, recipe, seed)
    if recipe == ENSEMBLE:
        members = [_place(arguments.out, r, seed) for r in arguments.systems if r != ENSEMBLE]
        return ["combine", *map(str, members), "--out", str(run), "--overwrite"]
    named = ["--data", str(arguments.data), "--run", str(run), "--seed", str(seed)]
    if arguments.beats is not None and hasattr(configs.load(recipe).model, "weights"):
        named += ["--model.weights", str(arguments.beats)]
    return ["run", recipe, *named, *extra]


def _run(arguments: Sequence[str], log_path: Path) -> str | None:
    """Run asdjax with its output in a log; None, or the reason of a failure."""
    with atomic.writing(log_path):
        log_path.parent.mkdir(parents=True, exist_ok=True)
    last = b""
    with (
        atomic.writing(log_path),
        atomic.open_to_append(log_path) as log,
    ):  # errors when it is closed, too

        def write(line: bytes) -> None:
            with atomic.writing(log_path):
                log.write(line)
                log.flush()

        write(f"$ asdjax {shlex.join(arguments)}\n".encode())
        # without jax's filter, the last line of a traceback is the exception
        environment = {"JAX_TRACEBACK_FILTERING": "off", **os.environ}
        with driver.started(
            arguments, env=environment, stdout=log, stderr=subprocess.PIPE
        ) as process:
            for line in process.stderr:
                write(line)
                last = line.strip() or last
            code = process.wait()
    if code == 0:
        return None
    how = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
    text = last.decode(errors="replace")
    return f"{text} ({how})" if text and code < 0 else text or how


def _evaluate(finished: Sequence[Path]) -> dict[str, Any]:
    """The metrics of one run, or means and standard deviations of several."""
    command = [*driver.ASDJAX, "evaluate", *map(str, finished), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.split("\n")
        raise AsdjaxError(
            next(
                (x for x in reversed(lines) if x.strip()), f"evaluate: exit code {done.returncode}"
            )
        )
    if not done.stdout.startswith("{"):  # a message: no clip has a label
        raise AsdjaxError(done.stdout.strip())
    return json.loads(done.stdout)


def _report() -> dict[str, dict[tuple[str, str], float]]:
    """The report's figures as fractions, by system, then by machine and figure."""
    return {
        system: {key: round(value / 100, 6) for key, value in figures.items()}
        for system, figures in published.table1().items()
    }


def _rows(
    name: str, document: Mapping[str, Any], seeds: int, report: Mapping[tuple[str, str], float]
) -> list[dict[str, Any]]:
    """Rows of fractions: one per machine and figure, and those over all machines."""
    scores = {f"{family}_score": document[f"{family}_score"] for family in FAMILIES}
    tables = {**document["machines"], "all": {**document["mean"], **scores}}
    if set(tables) != {
        machine for machine, _ in report
    }:  # the report's mean is over other machines
        report = {key: value for key, value in report.items() if key[0] != "all"}
    rows = []
    for machine, table in tables.items():
        for figure in FIGURES:
            row = {"system": name, "machine": machine, "figure": figure}
            for family in FAMILIES:
                in_family = table if figure == "score" else table[family]
                value = in_family[f"{family}_score" if figure == "score" else figure]
                if not isinstance(value, Mapping):  # one seed, or no clips
                    value = {"mean": value, "std": None}
                row |= {f"{family}_mean": value["mean"], f"{family}_std": value["std"]}
            rows.append({**row, "seeds": seeds, "report": report.get((machine, figure))})
    return rows


def _note(name: str, finished: Sequence[int], wanted: Sequence[int]) -> str:
    """The number of seeds of a system's means, and the missing seeds."""
    note = f"{name}: {len(finished)} of {len(wanted)} seeds"
    failed = [str(seed) for seed in wanted if seed not in finished]
    return f"{note}; failed: {', '.join(failed)}" if failed else note


def _markdown(rows: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> str:
    lines = ["# Systems over seeds", "", CAPTION, "", *(f"* {note}" for note in notes), ""]
    if any(row["machine"] == "all" and row["report"] is None for row in rows):
        lines += ['"all" has no figure of the report if the machines differ.', ""]
    lines += [
        "| system | machine | figure | official | within | report |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        cells = [row["system"], row["machine"], FIGURES[row["figure"]]]
        cells += [_per_cent(row[f"{f}_mean"], row[f"{f}_std"]) for f in FAMILIES]
        lines.append(f"| {' | '.join([*cells, _per_cent(row['report'], None)])} |")
    return "\n".join(lines) + "\n"


def _per_cent(mean: float | None, std: float | None) -> str:
    if mean is None:
        return "-"
    return f"{100 * mean:.2f}" + ("" if std is None else f" ± {100 * std:.2f}")

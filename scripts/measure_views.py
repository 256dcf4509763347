"""Measure every view on synthetic corpora of several noise and leakage levels.

Called by scripts/measure_views. The near channel does not depend on the leakage, so one training is
enough for all leakage levels of a noise level and seed. Every step is a process of an asdjax
command, which does not repeat what is finished.
"""

import argparse
import dataclasses
import itertools
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import driver
import numpy as np

from asdjax.config import recipe as configs
from asdjax.config.interfaces import View
from asdjax.errors import AsdjaxError
from asdjax.files import atomic, documents, user_files
from asdjax.scoring import averages, metrics
from asdjax.signal.view_calibrated import Calibrated
from asdjax.signal.view_cancel import Cancel
from asdjax.signal.view_difference import Difference
from asdjax.signal.view_far import Far
from asdjax.signal.view_raw import RAW
from asdjax.signal.view_wiener import Wiener
from asdjax.store.runs import Run
from asdjax.synth import corpus

CORPUS = ("--train-source", "118", "--seconds", "5")
VIEWS = (
    RAW,
    Wiener("mild", alpha=0.5, beta=0.05),
    Wiener("strong", alpha=1.0, beta=0.01),
    Cancel("cancel"),
    Calibrated("calibrated"),
    Calibrated("calibrated24", context=24),
    Far("far"),
    Difference("difference"),
)
SETS = {  # the mean of the views' scores
    "system1 (raw + mild + strong)": ("raw", "mild", "strong"),
    "raw + cancel": ("raw", "cancel"),
    "raw + calibrated": ("raw", "calibrated"),
    "system1 + calibrated": ("raw", "mild", "strong", "calibrated"),
}
TRAINING, TABLE = "training.json", "views.md"
TABLES = ("Official score", "Mean within-domain AUC")

Figures = Mapping[str, tuple[float, float]]
"""View or set: its official score and mean within-domain AUC, fractions."""


def main(argv: Sequence[str]) -> int:
    """Measure all views; returns 0; `AsdjaxError` if a command fails."""
    arguments, corpus_options = _arguments(argv)
    views = tuple(view for view in VIEWS if view.name in arguments.views)
    _check(arguments, corpus_options, views)
    _measure(argv, arguments, corpus_options, views)
    return 0


def _arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The script's arguments, and those after --, which are for `asdjax synth`."""
    given, extra = list(argv), []
    if "--" in given:
        given, extra = given[: given.index("--")], given[given.index("--") + 1 :]
    parser = argparse.ArgumentParser(
        prog="measure_views",
        description="Measure every view on synthetic corpora.",
        epilog=f"Arguments after -- are passed to asdjax synth; default: {shlex.join(CORPUS)}.",
    )
    parser.add_argument("--out", type=driver.path, required=True, help="corpora, runs and views.md")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--noise", type=float, nargs="+", default=[-8, 3], help="decibels")
    parser.add_argument("--leakage", type=float, nargs="+", default=[-12, 0], help="decibels")
    parser.add_argument("--recipe", default="quickstart", help="name of a recipe, or a YAML file")
    names = [view.name for view in VIEWS]
    parser.add_argument("--views", nargs="+", default=names, choices=names, metavar="VIEW")
    arguments = parser.parse_args(given)
    for name in ("seeds", "noise", "leakage", "views"):
        values = getattr(arguments, name)
        if len(set(values)) < len(values):
            parser.error(f"--{name}: a value is given twice")
    taken = {x.partition("=")[0] for x in extra} & {"--noise-db", "--leakage-db", "--seed"}
    if taken:
        parser.error(f"{', '.join(sorted(taken))} not possible after --: the script sets it")
    return arguments, extra or list(CORPUS)


def _check(
    arguments: argparse.Namespace, corpus_options: Sequence[str], views: tuple[View, ...]
) -> None:
    """Check the arguments of all steps before the first one runs."""
    out = arguments.out
    atomic.require_free(out / TABLE, overwrite=True)
    for noise, seed, leakage in itertools.product(
        arguments.noise, arguments.seeds, arguments.leakage
    ):
        levels = _levels(noise, leakage, seed)
        corpus.clips(driver.checked("synth", out, *corpus_options, *levels).corpus)
    for seed in arguments.seeds:
        place = ["--data", out, "--run", out, "--seed", seed]
        config = driver.checked("train", arguments.recipe, *place).config
        extract = dataclasses.replace(config.extract, views=views)
        configs.validate(dataclasses.replace(config, extract=extract), arguments.recipe)


def _levels(noise: float, leakage: float, seed: int) -> list[object]:
    """The options of `asdjax synth` that the script sets."""
    return ["--noise-db", f"{noise:g}", "--leakage-db", f"{leakage:g}", "--seed", seed]


def _measure(
    argv: Sequence[str],
    arguments: argparse.Namespace,
    corpus_options: Sequence[str],
    views: tuple[View, ...],
) -> None:
    sets = {view.name: (view.name,) for view in views} | {
        name: members for name, members in SETS.items() if set(members) <= set(arguments.views)
    }
    columns: dict[str, list[Figures]] = {}
    for noise in arguments.noise:
        for seed in arguments.seeds:
            here = arguments.out / f"noise{noise:g}" / f"seed{seed}"
            corpora = {level: here / f"leakage{level:g}" for level in arguments.leakage}
            for leakage, root in corpora.items():
                driver.asdjax("synth", root, *corpus_options, *_levels(noise, leakage, seed))
            lowest = min(corpora)  # the same for any order of the levels
            trained = here / f"trained_leakage{lowest:g}"
            place = ["--data", corpora[lowest], "--run", trained]
            driver.asdjax("train", arguments.recipe, *place, "--seed", seed)
            for leakage, root in corpora.items():
                run = here / f"run_leakage{leakage:g}"
                _copy(trained, run, views)
                driver.asdjax("extract", run, "--data", root)
                driver.asdjax("score", run)
                title = f"noise {noise:g} dB, leakage {leakage:g} dB"
                columns.setdefault(title, []).append(_figures(Run(run), sets))
    versions = Run(trained).finished_training()["versions"]
    text = "\n".join(
        [
            "# Views on synthetic corpora",
            "",
            f"`{shlex.join(['scripts/measure_views', *argv])}`, seeds "
            f"{', '.join(map(str, arguments.seeds))}, recipe {arguments.recipe}, corpora "
            f"`{shlex.join(corpus_options)}`; "
            + ", ".join(f"{name} {version}" for name, version in versions.items()),
            "",
            "Per cent; mean ± standard deviation over seeds. The within-domain AUC is the plain "
            "mean over machines and domains. Several views: the mean of their scores.",
            "; ".join(f"{view.name}: {view.sentence('channel 1')}" for view in views),
            *(line for i in range(len(TABLES)) for line in _table(i, list(sets), columns)),
            "",
        ]
    )
    atomic.write_bytes(arguments.out / TABLE, text.encode())
    print(text)


def _copy(trained: Path, run: Path, views: tuple[View, ...]) -> None:
    """Copy a trained run, unless that is done, and set other views in the copy."""
    if not _is_copy(run, trained):

        def check() -> None:
            if run.is_symlink() or (run.exists() and not documents.present(run / TRAINING)):
                raise AsdjaxError(
                    f"{run}: not a copy of the trained run: delete it, or choose another --out"
                )

        with atomic.whole_folder(run, check) as made:
            for file in sorted(path for path in trained.rglob("*") if path.is_file()):
                content = user_files.read_bytes(file, most=2**31)
                atomic.write_bytes(made / file.relative_to(trained), content)
    config = Run(trained).config()
    extract = dataclasses.replace(config.extract, views=views)
    Run(run).write_config(dataclasses.replace(config, extract=extract))


def _is_copy(run: Path, trained: Path) -> bool:
    one, other = run / TRAINING, trained / TRAINING
    return documents.present(one) and documents.digest(one) == documents.digest(other)


def _figures(run: Run, sets: Mapping[str, Sequence[str]]) -> Figures:
    """The figures of each set of views, from the columns of the run's scores."""
    result = {}
    for name, members in sets.items():
        machines = {}
        for machine in run.machines():
            rows = [
                row for row in run.read_scores(machine) if row["label"] and row["split"] == "test"
            ]
            machines[machine] = {
                section: _section([row for row in rows if row["section"] == section], members)
                for section in {row["section"] for row in rows}
            }
        document = averages.summary({m: sections for m, sections in machines.items() if sections})
        aucs = [
            table["within"][figure]
            for table in document["machines"].values()
            for figure in ("auc_source", "auc_target")
        ]
        result[name] = document["official_score"], float(np.mean(aucs))
    return result


def _section(rows: Sequence[Mapping[str, str]], members: Sequence[str]) -> metrics.Figures:
    scores = np.array([[float(row[view]) for view in members] for row in rows])
    return metrics.figures(
        scores.mean(axis=1),
        np.array([row["label"] == "anomaly" for row in rows]),
        np.array([row["domain"] == "target" for row in rows]),
    )


def _table(
    figure: int, names: Sequence[str], columns: Mapping[str, Sequence[Figures]]
) -> list[str]:
    lines = ["", f"## {TABLES[figure]}", "", f"| view | {' | '.join(columns)} |"]
    lines.append("| --- |" + " ---: |" * len(columns))
    for name in names:
        cells = [_cell([seed[name][figure] for seed in column]) for column in columns.values()]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return lines


def _cell(values: Sequence[float]) -> str:
    mean = f"{100 * np.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * np.std(values, ddof=1):.2f}"

"""Evaluation: scores and the labels in the clips' names in, metrics and tables out; no jax."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from asdjax import config as configs
from asdjax import console, metrics, runs
from asdjax.errors import AsdjaxError
from asdjax.runs import Run

COLUMNS = [("official", name) for name in (*metrics.FIGURES, "score")] + [
    ("within", name) for name in ("auc_source", "auc_target", "score")
]
"""Family and figure of each column of a printed table; the families share their pAUC."""


def evaluate(run: Run) -> dict[str, Any] | None:
    """Compute a run's metrics and write metrics/metrics.json and metrics/metrics.csv.

    Returns:
        the document of `metrics.summary`, or None when no scored clip has a label.
    """
    machines = {}
    for machine in run.machines():
        tests = [row for row in run.read_scores(machine) if row["split"] == "test"]
        labelled = [row for row in tests if row["label"]]
        if len(labelled) < len(tests):
            console.say(
                f"{machine}: {len(tests) - len(labelled)} of {len(tests)} test clips have no "
                "label and are not evaluated"
            )
        if labelled:
            machines[machine] = _sections(labelled)
    paths = [run.metrics / "metrics.json", run.metrics / "metrics.csv"]
    if not machines:
        for path in paths:
            path.unlink(missing_ok=True)
        return None
    seed = run.config().seed
    document = {**metrics.summary(machines), "seed": seed}
    runs.write_json(paths[0], document)
    rows = [{**row, "seed": seed} for row in metrics.rows(document)]
    runs.write_bytes(paths[1], runs.csv_bytes(rows))
    for figure in document["missing"]:
        console.say(f"{figure}: no clips, left out of every mean")
    return document


def evaluate_runs(all_runs: Sequence[Run]) -> dict[str, Any]:
    """Evaluate runs that differ in their seed: mean and standard deviation of every figure.

    Raises:
        AsdjaxError: the runs differ in more than the seed, two have the same seed, or one has no
            labelled clips.
    """
    sections = tuple(name for name in configs.to_tree(configs.Config()) if name != "seed")
    first, seeds = all_runs[0].config(), [run.config().seed for run in all_runs]
    for run in all_runs[1:]:
        changed = configs.differences(first, run.config(), sections)
        if changed:
            raise AsdjaxError(
                f"{run.path}: not the recipe of {all_runs[0].path} ({'; '.join(changed)}): a mean "
                "is over runs that differ in their seed alone"
            )
    if len(set(seeds)) < len(seeds):
        raise AsdjaxError(
            f"the runs' seeds are {', '.join(map(str, seeds))}: a mean is over runs of different "
            "seeds, each named once"
        )
    documents = []
    for run in all_runs:
        document = evaluate(run)
        if document is None:
            raise AsdjaxError(f"{run.path}: no scored clip has a label: leave this run out")
        documents.append(document)
    unseeded = [{k: v for k, v in document.items() if k != "seed"} for document in documents]
    return {**metrics.spread(unseeded), "seed": seeds}


def _sections(rows: Sequence[Mapping[str, str]]) -> dict[str, metrics.Figures]:
    def figures(section: str) -> metrics.Figures:
        mine = [row for row in rows if row["section"] == section]
        return metrics.figures(
            np.array([float(row["score"]) for row in mine]),
            np.array([row["label"] == "anomaly" for row in mine]),
            np.array([row["domain"] == "target" for row in mine]),
        )

    return {section: figures(section) for section in sorted({row["section"] for row in rows})}


def cells(document: Mapping[str, Any]) -> list[list[str]]:
    """The printed table: a header, a row per machine (and section), and the mean; per cent."""
    words = {"auc_source": "AUC source", "auc_target": "AUC target", "pauc": "pAUC"}
    header = ["machine"] + [f"{family} {words.get(name, name)}" for family, name in COLUMNS]
    table = [header]
    for machine, figures in document["machines"].items():
        if len(figures["sections"]) > 1:
            for section, in_section in figures["sections"].items():
                table.append(_row(f"{machine} {section}", in_section))
        table.append(_row(machine, figures))
    scores = {name: document[name] for name in ("official_score", "within_score")}
    table.append(_row("harmonic mean", {**document["mean"], **scores}))
    return table


def _row(name: str, figures: Mapping[str, Any]) -> list[str]:
    def value(family: str, figure: str) -> Any:
        return figures.get(f"{family}_score") if figure == "score" else figures[family][figure]

    return [name] + [_per_cent(value(family, figure)) for family, figure in COLUMNS]


def _per_cent(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        spread = "" if value["std"] is None else f" ± {100 * value['std']:.2f}"
        return f"{100 * value['mean']:.2f}{spread}"
    return f"{100 * value:.2f}"


def markdown(document: Mapping[str, Any]) -> str:
    """The printed table as Markdown."""
    header, *rows = cells(document)
    rule = ["---"] + ["---:"] * (len(header) - 1)
    lines = ["| " + " | ".join(row) + " |" for row in (header, rule, *rows)]
    return "\n".join([_caption(document), "", *lines])


def terminal_table(document: Mapping[str, Any]) -> Table:
    """The printed table for a terminal."""
    header, *rows = cells(document)
    table = Table(title=_caption(document), title_justify="left")
    table.add_column(header[0])
    for name in header[1:]:
        table.add_column(name.replace(" ", "\n", 1), justify="right")
    for row in rows:
        table.add_row(*row, end_section=row is rows[-2])
    return table


def _caption(document: Mapping[str, Any]) -> str:
    seeds = document.get("seeds", 1)
    over = f"mean ± standard deviation over {seeds} runs; " if seeds > 1 else ""
    return (
        f"Per cent; {over}official: each domain's normal clips against the anomalies of both "
        "domains; within: against the same domain's anomalies. The pAUC covers both domains."
    )

"""Comparison of two runs over the same clips: a paired bootstrap; no jax.

Both runs' figures are taken from the same resamples of the clips, so that what makes a clip hard
for both cancels in the difference.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group

from asdjax import bootstrap, console, metrics, submission
from asdjax.bootstrap import Machines
from asdjax.errors import AsdjaxError
from asdjax.runs import Run

SCHEMA = "asdjax.compare/1"
_SCOPE = (
    "Of these two runs on these clips: how far a figure moves with the seed of the training is not "
    "covered."
)


def compare(
    run_a: Run, run_b: Run, *, resamples: int = bootstrap.RESAMPLES, truth: Path | None = None
) -> dict[str, Any]:
    """How far two runs' figures differ, and how sure that is.

    Args:
        run_a: with scores.
        run_b: with scores of the same labelled clips.
        resamples: of the bootstrap.
        truth: folder with ground_truth_data and ground_truth_domain, for clips whose names tell
            neither label nor domain.

    Returns:
        `schema`; `a` and `b`, each the run's `run` (its path) and `seed`; `resamples`, `level`,
        `single_clip_strata` and `scope`; and the nesting of `metrics.means` with, in the place of
        each figure, None where it has no clips, else `a`, `b`, `difference` (a - b), its `interval`
        [low, high], and `probability`: the share of resamples in which A is better, ties counting
        half.

    Raises:
        AsdjaxError: the runs scored different clips or none that has a label; or as
            `evaluate.evaluate`.
    """
    known = None if truth is None else submission.read_truth(truth)
    a, b = _labelled(run_a, known), _labelled(run_b, known)
    _require_same_clips((run_a, a), (run_b, b))
    for note in bootstrap.describe(a, resamples)["single_clip_strata"]:
        console.say(f"{note}: a single clip, which no resample varies: intervals too narrow")
    return {
        "schema": SCHEMA,
        "a": {"run": str(run_a.path), "seed": run_a.config().seed},
        "b": {"run": str(run_b.path), "seed": run_b.config().seed},
        **bootstrap.describe(a, resamples),
        "scope": _SCOPE,
        **_difference(
            (_figures(a), bootstrap.resample(a, resamples)),
            (_figures(b), bootstrap.resample(b, resamples)),
        ),
    }


def tables(document: Mapping[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """The printed tables: captions and cells, per cent.

    The first has a row for each figure over all machines, the others a row per machine and a column
    per figure; further lines of a cell are the interval and the probability that A is better.
    """
    over_all = metrics.overall(document)
    columns = metrics.COLUMNS + metrics.DECISION_COLUMNS[1:]
    header = ["harmonic mean", "A", "B", "A - B", "interval", "P(A better)"]
    first = [header]
    for family, name in columns:
        value = metrics.figure(over_all, family, name)
        words = metrics.title(family, name)
        if value is None:
            first.append([words, *"-----"])
            continue
        per_cent = [metrics.per_cent(value[key]) for key in ("a", "b")]
        first.append([words, *per_cent, *_parts(value)])
    how = (
        f"Per cent; A: {document['a']['run']}, B: {document['b']['run']}; A - B with its "
        f"{bootstrap.words(document)}, the same for both. {document['scope']}"
    )
    rows = [*document["machines"].items(), ("harmonic mean", over_all)]
    result = [(how, first)]
    for what, chosen in (("", metrics.COLUMNS), (" (decisions)", metrics.DECISION_COLUMNS)):
        cells = [["machine", *(metrics.title(*column) for column in chosen)]]
        for machine, table in rows:
            values = [metrics.figure(table, *column) for column in chosen]
            cells.append([machine, *("-" if v is None else "\n".join(_parts(v)) for v in values)])
        result.append((f"A - B [interval] P(A better) per machine{what}; per cent.", cells))
    return result


def markdown(document: Mapping[str, Any]) -> str:
    """The printed tables as Markdown."""
    return "\n\n".join(metrics.markdown(*table) for table in tables(document))


def terminal_table(document: Mapping[str, Any]) -> Group:
    """The printed tables for a terminal."""
    return Group(*(metrics.terminal_table(*table) for table in tables(document)))


def _labelled(run: Run, truth: bootstrap.Truth | None) -> Machines:
    rows = {machine: run.read_scores(machine) for machine in run.scored_machines()}
    machines, notes = bootstrap.labelled(rows, truth)
    for note in notes:
        console.say(f"{run.path}: {note}")
    if not machines:
        raise AsdjaxError(
            f"{run.path}: no scored clip has a label: name a ground truth for them, or compare "
            "runs that scored labelled clips"
        )
    return machines


def _require_same_clips(*both: tuple[Run, Machines]) -> None:
    (run_a, a), (run_b, b) = (
        (
            run,
            {name for sections in machines.values() for c in sections.values() for name in c.name},
        )
        for run, machines in both
    )
    for run, other, alone in ((run_a, run_b, a - b), (run_b, run_a, b - a)):
        if alone:
            raise AsdjaxError(
                f"{run.path}: scored {bootstrap.first_of(alone)}, which {other.path} did not: "
                "compare runs that scored the same clips"
            )


def _figures(machines: Machines) -> dict[str, Any]:
    return metrics.means(
        {m: {s: clips.figures() for s, clips in machines[m].items()} for m in machines}
    )


def _difference(a: tuple[Any, Any], b: tuple[Any, Any]) -> Any:
    """Compare two nestings of figures, each with its nesting of resampled figures."""
    (value_a, drawn_a), (value_b, drawn_b) = a, b
    if isinstance(drawn_a, Mapping):
        return {
            key: _difference((value_a[key], drawn_a[key]), (value_b[key], drawn_b[key]))
            for key in drawn_a
        }
    if value_a is None:
        return None
    difference = drawn_a - drawn_b
    better = np.sign(np.round(difference, 12))  # equal figures may differ in their last bits
    return {
        "a": value_a,
        "b": value_b,
        "difference": value_a - value_b,
        "interval": bootstrap.interval(difference),
        "probability": float((1 + better.mean()) / 2),
    }


def _parts(value: Mapping[str, Any]) -> list[str]:
    """Difference, interval and probability of one figure as they are printed."""
    low, high = (f"{100 * end:+.2f}" for end in value["interval"])
    return [
        f"{100 * value['difference']:+.2f}",
        f"[{low}, {high}]",
        f"{100 * value['probability']:.0f}",
    ]

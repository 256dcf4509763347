"""Comparison of two runs on the same clips by a paired bootstrap; no jax."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asdjax.challenge import submission
from asdjax.errors import DataError
from asdjax.runtime import console
from asdjax.scoring import bootstrap, comparison, evaluation, labels, layout, tables
from asdjax.scoring.labels import Machines
from asdjax.scoring.tables import Table
from asdjax.store.runs import Run, snapshots

SCHEMA = "asdjax.compare/1"


def compare(
    run_a: Run, run_b: Run, *, resamples: int = bootstrap.RESAMPLES, truth: Path | None = None
) -> dict[str, Any]:
    """The differences of two runs' figures, with bootstrap intervals.

    Args:
        run_a: a scored run.
        run_b: a run that scored the same labelled clips.
        resamples: number of bootstrap resamples.
        truth: folder with ground_truth_data and ground_truth_domain, for clips whose names state
            neither label nor domain.

    Returns:
        `schema`; `a` and `b`, each with `run` (the path) and `seed`; `resamples`, `level`,
        `single_clip_strata` and `scope`; and the result of `comparison.difference`.

    Raises:
        AsdjaxError: the runs scored different clips or no labelled ones; or as in
            `evaluate.evaluate`.
    """
    known = None if truth is None else submission.read_truth(truth)
    with snapshots((run_a, run_b)):
        a, b = _labelled(run_a, known), _labelled(run_b, known)
        seeds = [run.config().seed for run in (run_a, run_b)]
        both = evaluation.scored(run_a, a), evaluation.scored(run_b, b)
    evaluation.require_same_clips(*both)
    if note := evaluation.other_training(*both):
        console.say(note)
    for note in bootstrap.describe(a, resamples)["single_clip_strata"]:
        console.say(f"{note}: a single clip, which resampling cannot vary: intervals too narrow")
    return {
        "schema": SCHEMA,
        "a": {"run": str(run_a.path), "seed": seeds[0]},
        "b": {"run": str(run_b.path), "seed": seeds[1]},
        **bootstrap.describe(a, resamples),
        "scope": comparison.SCOPE,
        **comparison.difference(a, b, resamples),
    }


def printed(document: Mapping[str, Any], *, intervals: bool = True) -> list[Table]:
    """The printed tables, in per cent.

    The first table has one row per figure, over all machines. The others have one row per machine
    and one column per figure. A cell has the difference, with `intervals` its interval, and the
    probability that A is better, one per line.
    """
    over_all = layout.overall(document)
    columns = layout.COLUMNS + layout.DECISION_COLUMNS[1:]
    between = ["interval"] * intervals
    first = [["harmonic mean", "A", "B", "A - B", *between, "P(A better)"]]
    for family, name in columns:
        value = layout.figure(over_all, family, name)
        words = layout.title(family, name)
        if value is None:
            first.append([words, *"-" * (len(first[0]) - 1)])
            continue
        per_cent = [layout.per_cent(value[key]) for key in ("a", "b")]
        first.append([words, *per_cent, *_parts(value, intervals)])
    a, b = (console.printable(document[key]["run"]) for key in "ab")
    how = f" with its {bootstrap.words(document)}, the same for both" if intervals else ""
    caption = f"Per cent; A: {a}, B: {b}; A - B{how}. {document['scope']}"
    rows = [*document["machines"].items(), ("harmonic mean", over_all)]
    result = [Table(caption, first, total=False)]
    for what, chosen in (("", layout.COLUMNS), (" (decisions)", layout.DECISION_COLUMNS)):
        cells = [["machine", *(layout.title(*column) for column in chosen)]]
        for machine, table in rows:
            values = [layout.figure(table, *column) for column in chosen]
            shown = ["-" if v is None else "\n".join(_parts(v, intervals)) for v in values]
            cells.append([console.printable(machine), *shown])
        how = " [interval]" if intervals else ""
        result.append(Table(f"A - B{how} P(A better) per machine{what}; per cent.", cells))
    return result


def markdown(document: Mapping[str, Any]) -> str:
    """The printed tables as Markdown."""
    return "\n\n".join(map(tables.markdown, printed(document)))


def terminal_table(document: Mapping[str, Any]) -> tables.Fitted:
    """The printed tables for a terminal."""
    return tables.Fitted(printed(document), printed(document, intervals=False), [])


def _labelled(run: Run, truth: labels.Truth | None) -> Machines:
    machines, notes = evaluation.labelled_with_notes(run, truth)
    for note in notes:
        console.say(f"{run.path}: {note}")
    if not machines:
        raise DataError(
            f"{run.path}: no scored clip has a label: give a ground truth with --truth, or compare "
            "runs that scored labelled clips"
        )
    return machines


def _parts(value: Mapping[str, Any], intervals: bool) -> list[str]:
    """The printed difference, interval (if `intervals`) and probability of one figure."""
    ends = ", ".join(map(_signed, value["interval"] or ())) or "-"
    interval = [f"[{ends}]"] * intervals
    return [_signed(value["difference"]), *interval, f"{100 * value['probability']:.0f}"]


def _signed(difference: float) -> str:
    return f"{round(100 * difference, 2) + 0.0:+.2f}"  # + 0.0 turns -0.0 into 0.0

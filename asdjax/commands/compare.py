"""Comparison of two runs on the same clips by a paired bootstrap; no jax.

Both runs' figures are computed from the same resamples of the clips, so that the difficulty of a
clip for both runs cancels in the difference.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from asdjax.challenge import submission
from asdjax.errors import DataError
from asdjax.runtime import console
from asdjax.scoring import averages, bootstrap, labels, layout, tables
from asdjax.scoring.labels import Machines
from asdjax.scoring.tables import Table
from asdjax.store.runs import Run, snapshots

SCHEMA = "asdjax.compare/1"
_SCOPE = (
    "Valid for these two runs on these clips: the variation between training seeds is not included."
)


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
        `single_clip_strata` and `scope`; and the nesting of `averages.means`, where each figure is
        replaced by `a`, `b`, `difference` (a - b), its `interval` [low, high] (None if neither
        figure has one) and `probability`, or by None if it has no clips. `probability` is the share
        of resamples in which A is better; ties count half.

    Raises:
        AsdjaxError: the runs scored different clips or no labelled ones; or as in
            `evaluate.evaluate`.
    """
    known = None if truth is None else submission.read_truth(truth)
    with snapshots((run_a, run_b)):
        a, b = _labelled(run_a, known), _labelled(run_b, known)
        seeds = [run.config().seed for run in (run_a, run_b)]
        from_a, from_b = run_a.made_from(), run_b.made_from()
    _require_same_clips((run_a, a), (run_b, b))
    if other := [
        machine
        for machine, sections in a.items()
        if any(from_a[machine].tests(s) != from_b[machine].tests(s) for s in sections)
    ]:
        raise DataError(
            f"{run_b.path}: its test clips of {', '.join(other)} have other contents than those of "
            f"{run_a.path}, though equal names: compare runs that scored the same clips"
        )
    if other := [machine for machine in a if from_a[machine].train != from_b[machine].train]:
        console.say(
            f"{run_a.path} and {run_b.path} have other training clips of {', '.join(other)}: the "
            "difference is not one of the systems alone"
        )
    for note in bootstrap.describe(a, resamples)["single_clip_strata"]:
        console.say(f"{note}: a single clip, which resampling cannot vary: intervals too narrow")
    return {
        "schema": SCHEMA,
        "a": {"run": str(run_a.path), "seed": seeds[0]},
        "b": {"run": str(run_b.path), "seed": seeds[1]},
        **bootstrap.describe(a, resamples),
        "scope": _SCOPE,
        **_difference(
            (_figures(a), bootstrap.resample(a, resamples)),
            (_figures(b), bootstrap.resample(b, resamples)),
        ),
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
    rows = {machine: run.read_scores(machine) for machine in run.scored_machines()}
    machines, notes = labels.labelled(rows, truth)
    for note in notes:
        console.say(f"{run.path}: {note}")
    if not machines:
        raise DataError(
            f"{run.path}: no scored clip has a label: give a ground truth with --truth, or compare "
            "runs that scored labelled clips"
        )
    return machines


def _require_same_clips(*both: tuple[Run, Machines]) -> None:
    (run_a, a), (run_b, b) = ((run, _names(machines)) for run, machines in both)
    for run, other, alone in ((run_a, run_b, a - b), (run_b, run_a, b - a)):
        if alone:
            raise DataError(
                f"{run.path}: scored {labels.first_of(alone)}, which {other.path} did not: "
                "compare runs that scored the same clips"
            )


def _names(machines: Machines) -> set[str]:
    """Machine, section and file name of each clip, wherever the machine's folder is."""
    return {
        f"{machine}/test/{path.rpartition('/')[2]} (section {section})"
        for machine, sections in machines.items()
        for section, clips in sections.items()
        for path in clips.name
    }


def _figures(machines: Machines) -> dict[str, Any]:
    return averages.means(
        {m: {s: clips.figures() for s, clips in machines[m].items()} for m in machines}
    )


def _difference(a: tuple[Any, Any], b: tuple[Any, Any]) -> Any:
    """Compare two nested dictionaries of figures, each given with its resampled figures."""
    (value_a, drawn_a), (value_b, drawn_b) = a, b
    if isinstance(drawn_a, Mapping):
        return {
            key: _difference((value_a[key], drawn_a[key]), (value_b[key], drawn_b[key]))
            for key in drawn_a
        }
    if value_a is None:
        return None
    difference = drawn_a - drawn_b
    varied = any(map(bootstrap.interval, (drawn_a, drawn_b)))
    better = np.sign(np.round(difference, 12))  # rounding errors are no difference
    return {
        "a": value_a,
        "b": value_b,
        "difference": value_a - value_b,
        "interval": bootstrap.ends(difference) if varied else None,
        "probability": float((1 + better.mean()) / 2),
    }


def _parts(value: Mapping[str, Any], intervals: bool) -> list[str]:
    """The printed difference, interval (if `intervals`) and probability of one figure."""
    ends = ", ".join(map(_signed, value["interval"] or ())) or "-"
    interval = [f"[{ends}]"] * intervals
    return [_signed(value["difference"]), *interval, f"{100 * value['probability']:.0f}"]


def _signed(difference: float) -> str:
    return f"{round(100 * difference, 2) + 0.0:+.2f}"  # + 0.0 turns -0.0 into 0.0

"""The metrics of a run: its scores joined with labels, figures, and bootstrap intervals."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from asdjax.errors import DataError
from asdjax.scoring import averages, bootstrap, labels
from asdjax.scoring.labels import Machines, Truth
from asdjax.store.embeddings import MadeFrom
from asdjax.store.runs import Run


def labelled(run: Run, truth: Truth | None = None, column: str = "score") -> Machines:
    """The labelled test clips of a scored run, see `labelled_with_notes`."""
    return labelled_with_notes(run, truth, column)[0]


def labelled_with_notes(
    run: Run, truth: Truth | None = None, column: str = "score"
) -> tuple[Machines, list[str]]:
    """The labelled test clips of a scored run, and notes on the others (see `labels.labelled`).

    Args:
        run: a scored run.
        truth: labels of clips whose names state none.
        column: `score`, or the name of a view.

    Raises:
        AsdjaxError: the scores are outdated, or the ground truth is faulty, contradicts a clip's
            name or lacks a clip.
    """
    rows = {machine: run.read_scores(machine) for machine in run.scored_machines()}
    return labels.labelled(rows, truth, column)


def summary(machines: Machines) -> dict[str, Any]:
    """The document of `averages.summary` without its schema."""
    figures = {m: {s: clips.figures() for s, clips in machines[m].items()} for m in machines}
    return {key: value for key, value in averages.summary(figures).items() if key != "schema"}


def document(machines: Machines, resamples: int, seed: int | None) -> dict[str, Any]:
    """The metrics document: figures with the results of `bootstrap.intervals` and `false_alarms`.

    Args:
        machines: labelled clips, at least one.
        resamples: number of bootstrap resamples.
        seed: of the run.
    """
    return {
        "schema": averages.SCHEMA,
        **summary(machines),
        **bootstrap.intervals(machines, resamples),
        **bootstrap.false_alarms(machines, resamples),
        "seed": seed,
    }


@dataclasses.dataclass(frozen=True)
class Scored:
    """What is compared of a run, read at once."""

    run: Run
    machines: Machines
    made_from: Mapping[str, MadeFrom]


def scored(run: Run, machines: Machines) -> Scored:
    """A run with its labelled clips, within a snapshot."""
    return Scored(run, machines, run.made_from())


def other_training(a: Scored, b: Scored) -> str | None:
    """A sentence if two runs have other training clips, so that these differ, too."""
    other = [name for name in a.machines if a.made_from[name].train != b.made_from[name].train]
    if not other:
        return None
    return (
        f"{a.run.path} and {b.run.path} have other training clips of {', '.join(other)}: the "
        "difference is not one of the systems alone"
    )


def require_same_clips(a: Scored, b: Scored) -> None:
    """Check that two runs can be compared clip by clip.

    Raises:
        AsdjaxError: one scored a clip that the other did not, or clips of equal names have other
            contents.
    """
    names = _names(a.machines), _names(b.machines)
    for run, other, alone in (
        (a.run, b.run, names[0] - names[1]),
        (b.run, a.run, names[1] - names[0]),
    ):
        if alone:
            raise DataError(
                f"{run.path}: scored {labels.first_of(alone)}, which {other.path} did not: "
                "compare runs that scored the same clips"
            )
    if other_content := [
        machine
        for machine, sections in a.machines.items()
        if any(a.made_from[machine].tests(s) != b.made_from[machine].tests(s) for s in sections)
    ]:
        raise DataError(
            f"{b.run.path}: its test clips of {', '.join(other_content)} have other contents than "
            f"those of {a.run.path}, though equal names: compare runs that scored the same clips"
        )


def _names(machines: Machines) -> set[str]:
    """Machine, section and file name of each clip, wherever the machine's folder is."""
    return {
        f"{machine}/test/{path.rpartition('/')[2]} (section {section})"
        for machine, sections in machines.items()
        for section, clips in sections.items()
        for path in clips.name
    }

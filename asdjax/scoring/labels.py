"""Labelled clips: scores of test clips joined with labels and domains.

Labels and domains come from the file names or from a ground truth.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float64

from asdjax.errors import DataError
from asdjax.scoring import metrics
from asdjax.scoring.metrics import Figures

Truth = Mapping[tuple[str, str], Mapping[str, tuple[bool, bool]]]
"""(machine, section) -> file name -> (is anomalous, is of the target domain)."""


@dataclasses.dataclass(frozen=True)
class Clips:
    """The labelled test clips of one machine and section."""

    name: tuple[str, ...]
    """Path or file name of each clip, sorted."""
    score: Float64[np.ndarray, " N"]
    is_anomaly: Bool[np.ndarray, " N"]
    is_target: Bool[np.ndarray, " N"]
    decision: Bool[np.ndarray, " N"] | None = None
    """Whether the clip was declared anomalous; None without decisions."""

    def figures(self) -> Figures:
        """`metrics.figures` of these clips."""
        return metrics.figures(self.score, self.is_anomaly, self.is_target, self.decision)

    def false_alarm_rate(self) -> dict[str, float | None]:
        """Share of normal clips declared anomalous, by domain; None without normal clips."""
        normal = {domain: self.strata()[f"{domain}_normal"] for domain in ("source", "target")}
        return {
            domain: None
            if self.decision is None or not mask.any()
            else float(self.decision[mask].mean())
            for domain, mask in normal.items()
        }

    def strata(self) -> dict[str, Bool[np.ndarray, " N"]]:
        """`metrics.strata` of these clips."""
        return metrics.strata(self.is_anomaly, self.is_target)


Machines = dict[str, dict[str, Clips]]
"""machine -> section -> its labelled test clips."""


def labelled(
    rows: Mapping[str, Sequence[Mapping[str, str]]],
    truth: Truth | None = None,
    column: str = "score",
) -> tuple[Machines, list[str]]:
    """The labelled test clips among the rows of score files.

    Args:
        rows: of each machine, as `runs.Run.read_scores` gives them.
        truth: labels and domains of clips whose file names do not state them.
        column: the column of the scores; decisions are used only with the column `score`.

    Returns:
        The machines that have labelled clips; and notes on clips that are left out, and on machines
        averaged together that the challenge evaluates separately.

    Raises:
        AsdjaxError: a file name and `truth` contradict each other, or `truth` lacks a clip of one
            of its sections or has no scored section.
    """
    machines: Machines = {}
    notes = []
    named: set[bool] = set()
    truth = truth or {}
    sections: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for machine, of_machine in rows.items():
        for row in sorted(of_machine, key=lambda row: row["path"]):
            if row["split"] == "test":
                sections.setdefault((machine, row["section"]), []).append(row)
    if truth and not sections.keys() & truth.keys():
        raise DataError(
            f"the ground truth is of {_listed(truth)}, the scores are of {_listed(sections)}: "
            "name the ground truth of the scored machines"
        )
    if unused := sorted(truth.keys() - sections.keys()):
        notes.append(f"{_listed(unused)}: in the ground truth, but not scored")
    for (machine, section), tests in sorted(sections.items()):
        where, known = f"{machine} section {section}", truth.get((machine, section))
        labels = [_label(row, known or {}, where) for row in tests]
        unknown = [_name(row) for row, label in zip(tests, labels, strict=True) if label is None]
        if known is not None:
            if unknown:
                raise DataError(f"{where}: the ground truth lacks {first_of(unknown)}")
            unscored = len(known.keys() - {_name(row) for row in tests})
            if unscored:
                notes.append(f"{where}: {unscored} clips of the ground truth were not scored")
        elif unknown:
            notes.append(
                f"{where}: {len(unknown)} of {len(tests)} test clips have no label and are not "
                "evaluated"
            )
        pairs = [
            (row, label) for row, label in zip(tests, labels, strict=True) if label is not None
        ]
        if pairs:
            named |= {bool(row["label"]) for row, _ in pairs}
            machines.setdefault(machine, {})[section] = Clips(
                name=tuple(row["path"] for row, _ in pairs),
                score=np.array([float(row[column]) for row, _ in pairs]),
                is_anomaly=np.array([is_anomaly for _, (is_anomaly, _) in pairs]),
                is_target=np.array([is_target for _, (_, is_target) in pairs]),
                decision=np.array([row["decision"] == "1" for row, _ in pairs])
                if column == "score"
                else None,
            )
    if len(named) > 1:
        notes.append(
            "means and official score are over development and evaluation machines together; the "
            "challenge evaluates them separately"
        )
    return machines, notes


def first_of(names: Iterable[str]) -> str:
    """The first of some names in sorted order, and how many others there are."""
    first, *others = sorted(names)
    return f"{first} (and {len(others)} others)" if others else first


def _label(
    row: Mapping[str, str], known: Mapping[str, tuple[bool, bool]], where: str
) -> tuple[bool, bool] | None:
    """Whether a clip is anomalous and whether it is of the target domain; None if unknown."""
    named = (row["label"] == "anomaly", row["domain"] == "target") if row["label"] else None
    stated = known.get(_name(row))
    if named and stated and named != stated:
        raise DataError(
            f"{where}: {_name(row)}: its name says {_words(named)}, the ground truth "
            f"{_words(stated)}: correct the ground truth, or leave it out"
        )
    return stated or named


def _words(label: tuple[bool, bool]) -> str:
    is_anomaly, is_target = label
    return f"{'target' if is_target else 'source'} {'anomaly' if is_anomaly else 'normal'}"


def _name(row: Mapping[str, str]) -> str:
    return row["path"].rpartition("/")[2]


def _listed(sections: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{machine} section {section}" for machine, section in sorted(sections))

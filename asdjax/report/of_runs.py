"""The comparison of several runs, the first part of their report."""

import itertools
from collections.abc import Sequence

from asdjax.errors import AsdjaxError
from asdjax.report import facts, score_figures
from asdjax.report.facts import Facts
from asdjax.report.of_run import between, signed
from asdjax.report.parts import Figure, Item, Section, Table, Text
from asdjax.runtime import console
from asdjax.scoring import comparison, evaluation

_MOST_COMPARED = 6  # runs, each with each other; with more, each with the first


def comparison_of(runs: Sequence[Facts]) -> Section:
    """Scores of the runs side by side, and which differences are significant."""
    scored = [run for run in runs if run.document is not None]
    if not scored:
        return Section("Comparison", [Text("No run has labelled test clips: nothing to compare.")])
    names = {id(run): console.printable(str(run.run.path)) for run in runs}
    rows = [["run", "seed", "official score", "within score"]]
    points = []
    for run in scored:
        document = run.document
        assert document is not None
        cells = []
        for key in ("official_score", "within_score"):
            value, ends = document[key], document["intervals"][key]
            cells.append("-" if value is None else f"{100 * value:.1f}\n{between(ends)}".rstrip())
        rows.append([names[id(run)], str(run.config.seed), *cells])
        if document["official_score"] is not None:
            ends = document["intervals"]["official_score"]
            shown = None if ends is None else (100 * ends[0], 100 * ends[1])
            points.append((_short(names[id(run)]), 100 * document["official_score"], shown))
    items: list[Item] = [Table(rows, "Per cent, with 95 % intervals:")]
    if points:
        picture = score_figures.intervals(points, "official score (%)")
        items.append(Figure(picture, "official scores with 95 % intervals", long=True))
    items.append(_by_machine(scored, names))
    return Section("Comparison", [*items, *_differences(scored, names)])


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"…{name[-39:]}"


def _by_machine(runs: Sequence[Facts], names: dict[int, str]) -> Table:
    rows = [["machine", *(names[id(run)] for run in runs)]]
    documents = [run.document or {} for run in runs]
    for machine in sorted({machine for document in documents for machine in document["machines"]}):
        cells = []
        for document in documents:
            value = document["machines"].get(machine, {}).get("official_score")
            cells.append("-" if value is None else f"{100 * value:.1f}")
        rows.append([machine, *cells])
    return Table(rows, "Official score of each machine, per cent:")


def _differences(runs: Sequence[Facts], names: dict[int, str]) -> list[Item]:
    pairs = list(itertools.combinations(runs, 2))
    if len(runs) > _MOST_COMPARED:
        pairs = [(runs[0], other) for other in runs[1:]]
    rows = [["A", "B", "A - B, official", "A - B, within", "conclusion (official)"]]
    notes: list[Item] = []
    for a, b in pairs:
        try:
            evaluation.require_same_clips(a.scored(), b.scored())
        except AsdjaxError as error:
            notes.append(Text(f"Not compared: {error}."))
            continue
        if note := evaluation.other_training(a.scored(), b.scored()):
            notes.append(Text(f"{note}."))
        found = comparison.difference(a.labelled, b.labelled, facts.RESAMPLES)
        official = found["official_score"]
        rows.append([
            names[id(a)], names[id(b)], signed(official), signed(found["within_score"]),
            _conclusion(official and official["interval"]),
        ])  # fmt: skip
    words = "Paired bootstrap on the same clips; per cent, with 95 % intervals. "
    if len(rows) > 2:
        words += "Of many pairs, some differ by chance. "
    return [*([Table(rows, words + comparison.SCOPE)] if len(rows) > 1 else []), *notes]


def _conclusion(interval: Sequence[float] | None) -> str:
    if interval is None or interval[0] <= 0 <= interval[1]:
        return "no significant difference"
    return "A is better" if interval[0] > 0 else "B is better"

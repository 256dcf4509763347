"""Evaluation: scores and labels in, metrics and tables out; no jax.

Labels and domains come from the clips' names, or from a ground truth in the organisers' layout.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asdjax.challenge import submission
from asdjax.config import recipe as configs
from asdjax.errors import ArtifactError, DataError
from asdjax.files import atomic
from asdjax.files.documents import csv_bytes, write_json
from asdjax.runtime import console
from asdjax.scoring import averages, bootstrap, evaluation, labels, layout, tables
from asdjax.scoring.labels import Clips, Machines
from asdjax.scoring.tables import Table
from asdjax.store.embeddings import MadeFrom
from asdjax.store.runs import Run, snapshots

VIEWS_SCHEMA = "asdjax.views/1"


def evaluate(
    run: Run, *, resamples: int = bootstrap.RESAMPLES, truth: Path | None = None
) -> dict[str, Any] | None:
    """Compute a run's metrics and write metrics/metrics.json and metrics/metrics.csv.

    In a run directory that cannot be written to, nothing is stored, which is said.

    Args:
        run: a scored run.
        resamples: number of bootstrap resamples.
        truth: folder with ground_truth_data and ground_truth_domain, for clips whose names state
            neither label nor domain.

    Returns:
        The document of `averages.summary` with the results of `bootstrap.intervals` and
        `bootstrap.false_alarms`, and the `seed`. None if no scored clip has a label.

    Raises:
        AsdjaxError: the scores are outdated, or the ground truth is faulty, contradicts a clip's
            name or lacks a clip.
    """
    with run.snapshot():
        machines = _labelled(run, truth)
        seed, marks, version = run.config().seed, run.marks(), run.scores_version()
    paths = [run.metrics / "metrics.json", run.metrics / "metrics.csv"]
    needed = [run.path, run.path / ".lock", run.metrics]
    stored = all(os.access(path, os.W_OK) for path in needed if path.exists())
    if not stored:
        console.say(f"{run.path}: cannot be written to: the metrics are printed and not stored")
    if not machines and not stored:
        return None
    if not machines:
        with run.lock(existing=True):
            for path in paths:
                atomic.delete(path)
        return None
    document = _document(machines, resamples, seed) | marks
    if not stored:
        return document
    rows = [{**row, "seed": document["seed"]} for row in layout.rows(document)]
    with run.lock(existing=True):
        if run.scores_version() != version:
            raise ArtifactError(
                f"{run.path / 'scores'}: changed meanwhile by another process: run asdjax evaluate "
                f"{run.path} again"
            )
        write_json(paths[0], document)
        atomic.write_bytes(paths[1], csv_bytes(rows))
    return document


def evaluate_submission(
    scores: Path, truth: Path, *, resamples: int = bootstrap.RESAMPLES
) -> dict[str, Any]:
    """Metrics of a system's folder in any submission.

    Args:
        scores: folder with anomaly_score_<machine>_section_<NN>_test.csv. Decisions are evaluated
            if there is a file of decisions for every machine of the ground truth.
        truth: folder with ground_truth_data and ground_truth_domain. Machines without ground truth
            are left out.
        resamples: number of bootstrap resamples.

    Returns:
        The document of `evaluate`, with `seed` None.

    Raises:
        AsdjaxError: a file is faulty, a machine has no scores, or its clips are not those of the
            ground truth.
    """
    known, submitted = submission.read_truth(truth), submission.scores(scores)
    for machine, section in sorted(known.keys() - submitted.keys()):
        raise DataError(
            f"{scores}: no scores of {machine} section {section}, which is in {truth}: add "
            f"{submission.score_file((machine, section))}"
        )
    for machine, section in sorted(submitted.keys() - known.keys()):
        console.say(f"{machine} section {section}: not in the ground truth, left out")
    undecided = [key for key in known if any(row[2] is None for row in submitted[key])]
    if undecided and len(undecided) < len(known):
        first = labels.first_of(submission.decision_file(key) for key in undecided)
        console.say(f"{scores}: decisions are not evaluated: there is no {first}")
    machines: Machines = {}
    for (machine, section), label_of in sorted(known.items()):
        rows = submitted[machine, section]
        names = {name for name, _, _ in rows}
        file = scores / submission.score_file((machine, section))
        if label_of.keys() - names:
            raise DataError(f"{file}: no row for {labels.first_of(label_of.keys() - names)}")
        if names - label_of.keys():
            raise DataError(
                f"{file}: not in the ground truth: {labels.first_of(names - label_of.keys())}"
            )
        machines.setdefault(machine, {})[section] = Clips(
            name=tuple(name for name, _, _ in rows),
            score=np.array([score for _, score, _ in rows]),
            is_anomaly=np.array([label_of[name][0] for name, _, _ in rows]),
            is_target=np.array([label_of[name][1] for name, _, _ in rows]),
            decision=None if undecided else np.array([row[2] == 1 for row in rows]),
        )
    return _document(machines, resamples, None)


def by_view(
    run: Run, *, resamples: int = bootstrap.RESAMPLES, truth: Path | None = None
) -> dict[str, Any] | None:
    """Metrics of each view's scores alone and of the run's combination of them.

    Args:
        run: a scored run.
        resamples: number of bootstrap resamples, the same ones for all views.
        truth: as in `evaluate`.

    Returns:
        `schema`; `views`: for each view the document of `averages.summary` without its schema, with
        its `intervals`; `combination`: the same for the run's scores, with `name`, the way in which
        the views are combined; the result of `bootstrap.describe`; and `seed`. None if no scored
        clip has a label.

    Raises:
        AsdjaxError: as in `evaluate`.
    """
    with run.snapshot():
        config, marks = run.config(), run.marks()
        combined = _labelled(run, truth)
        views = {view: _labelled(run, truth, view) for view in config.extract.view_names}
    if not combined:
        return None

    def summary(machines: Machines) -> dict[str, Any]:
        certainty = bootstrap.intervals(machines, resamples)
        return {**evaluation.summary(machines), "intervals": certainty["intervals"]}

    return {
        "schema": VIEWS_SCHEMA,
        "views": {view: summary(machines) for view, machines in views.items()},
        "combination": {"name": config.backend.combine_views, **summary(combined)},
        **bootstrap.describe(combined, resamples),
        "seed": config.seed,
        **marks,
    }


def evaluate_runs(
    all_runs: Sequence[Run], *, resamples: int = bootstrap.RESAMPLES, truth: Path | None = None
) -> dict[str, Any]:
    """Mean and standard deviation of every figure over runs that differ in their seed only.

    Evaluates each run as in `evaluate`. Returns the document of `averages.spread` with the `seed`s.

    Raises:
        AsdjaxError: the runs differ in more than the seed, two have the same seed, or one has no
            labelled clips.
    """
    sections = tuple(name for name in configs.to_tree(configs.Config()) if name != "seed")
    with snapshots(all_runs):
        first, seeds = all_runs[0].config(), [run.config().seed for run in all_runs]
        marks = all_runs[0].marks()
        for run in all_runs[1:]:
            changed = configs.differences(first, run.config(), sections)
            if changed:
                raise DataError(
                    f"{run.path}: not the recipe of {all_runs[0].path} ({'; '.join(changed)}): "
                    "average runs that differ in their seed only"
                )
        if len(set(seeds)) < len(seeds):
            raise DataError(
                f"the runs' seeds are {', '.join(map(str, seeds))}: average runs with different "
                "seeds, each named once"
            )
        documents = []
        for run in all_runs:
            console.say(f"{run.path}:")
            document = evaluate(run, resamples=resamples, truth=truth)
            if document is None:
                raise DataError(f"{run.path}: no scored clip has a label: leave this run out")
            documents.append(document)
        for run, document in zip(all_runs, documents, strict=True):
            if document["machines"].keys() != documents[0]["machines"].keys():
                raise DataError(
                    f"{run.path}: scored {', '.join(document['machines'])}, but {all_runs[0].path} "
                    f"{', '.join(documents[0]['machines'])}: average runs that scored the same "
                    "machines"
                )
        of_first = _files(all_runs[0])
        trained = [_training(run) for run in all_runs]
        for run, facts in zip(all_runs, trained, strict=True):
            other = [key for key, value in facts.items() if value != trained[0][key]]
            if other:
                raise DataError(
                    f"{run.path}: was not trained on the same as {all_runs[0].path} (see "
                    f"{', '.join(other)} in training.json): average runs that differ in their seed "
                    "only"
                )
        for run in all_runs[1:]:
            if _files(run) != of_first:
                raise DataError(
                    f"{run.path}: has other clips or another compute_dtype than "
                    f"{all_runs[0].path}: average runs of the same files and precision"
                )
    return {**averages.spread(documents), "seed": seeds, **marks}


def _files(run: Run) -> dict[str, MadeFrom]:
    """Which clips a run embedded, and in which precision."""
    return {m: dataclasses.replace(of, recipe="", clips="") for m, of in run.made_from().items()}


def _training(run: Run) -> dict[str, Any]:
    """What a run was trained on: clips, classes, and the weights that it started from."""
    training = run.finished_training()
    return {key: training.get(key) for key in ("classes", "n_samples", "clips", "pretrained")}


def _labelled(run: Run, truth: Path | None, column: str = "score") -> Machines:
    """A run's labelled test clips; notes on the others are printed for the column `score` only."""
    known = None if truth is None else submission.read_truth(truth)
    machines, notes = evaluation.labelled_with_notes(run, known, column)
    for note in notes if column == "score" else ():
        console.say(note)
    return machines


def _document(machines: Machines, resamples: int, seed: int | None) -> dict[str, Any]:
    """The metrics document; what a reader should know is printed."""
    document = evaluation.document(machines, resamples, seed)
    for machine, sections in document["false_alarm_rate"].items():
        for section, rates in sections.items():
            clips = machines[machine][section].strata()
            bounds = document["false_alarm_interval"][machine][section]
            parts = [
                f"{domain} {100 * rate:.1f} % of {clips[f'{domain}_normal'].sum()} "
                f"{_bracket(bounds[domain], digits=1)}"
                for domain, rate in rates.items()
                if rate is not None
            ]
            if parts:
                console.say(
                    f"{machine} section {section}: false alarms among normal test clips: "
                    f"{', '.join(parts)}"
                )
    of_target = any(clips.is_target.any() for of in machines.values() for clips in of.values())
    if not of_target:
        console.say("no test clip is of the target domain, so that there are no figures of it")
    for figure in document["missing"]:
        if of_target or not figure.endswith("_target"):
            console.say(f"{figure}: no clips, left out of every mean")
    for stratum in document["single_clip_strata"]:
        console.say(f"{stratum}: a single clip, which resampling cannot vary: intervals too narrow")
    return document


def printed(document: Mapping[str, Any], *, intervals: bool = True) -> list[Table]:
    """The printed tables of a document of this module, in per cent.

    One row per machine (and section) or view, and a last row over all. With `intervals`, a figure's
    interval is the second line of its cell.
    """
    if document["schema"] == VIEWS_SCHEMA:
        combination = document["combination"]
        named = [*document["views"].items(), (f"combined: {combination['name']}", combination)]
        rows: list[tuple[str, Any, Any]] = [
            (name, layout.overall(view), intervals and layout.overall(view["intervals"]))
            for name, view in named
        ]
        how = f"in brackets {bootstrap.words(document)}; " if intervals else ""
        caption = f"Harmonic means over all machines, per view, per cent; {how}{_FAMILIES}"
        return [Table(caption, _cells("view", rows, layout.COLUMNS))]
    bounds = intervals and document.get("intervals")
    rows = []
    for machine, table in document["machines"].items():
        inside = bounds and bounds["machines"][machine]
        if len(table["sections"]) > 1:
            for section, figures in table["sections"].items():
                rows.append(
                    (f"{machine} {section}", figures, inside and inside["sections"][section])
                )
        rows.append((machine, table, inside))
    rows.append(("harmonic mean", layout.overall(document), bounds and layout.overall(bounds)))
    how = ""
    if document.get("seeds", 1) > 1:
        how = f"mean ± standard deviation over {document['seeds']} runs; "
    if bounds:
        how = f"in brackets {bootstrap.words(document)}; "
    result = [Table(f"Per cent; {how}{_FAMILIES}", _cells("machine", rows, layout.COLUMNS))]
    if "decisions" in document["mean"]:
        result.append(Table(_DECISIONS, _cells("machine", rows, layout.DECISION_COLUMNS)))
    return result


_FAMILIES = (
    "official: each domain's normal clips against the anomalies of both domains; within: against "
    "the same domain's anomalies. The pAUC covers both domains."
)
_DECISIONS = "Decisions in each domain, with the official score; per cent."
_RANDOM = "model.random_init: the encoder was not pretrained; these figures are for tests only."
_INVERTED = "! AUC below chance (50 %): the ranking is inverted there."


def _cells(
    first: str, rows: Sequence[tuple[str, Any, Any]], columns: Sequence[tuple[str, str]]
) -> list[list[str]]:
    table = [[first] + [layout.title(*column) for column in columns]]
    for name, figures, bounds in rows:
        cells = []
        for family, figure in columns:
            bracket = bounds and _bracket(layout.figure(bounds, family, figure))
            cells.append(_cell(figure, layout.figure(figures, family, figure), bracket))
        table.append([console.printable(name), *cells])
    return table


def _bracket(interval: Sequence[float] | None, digits: int = 2) -> str:
    """An interval in per cent as it is printed; of resamples that do not differ there is none."""
    ends = (f"{100 * end:.{digits}f}" for end in interval or ())
    return f"[{', '.join(ends) or '-'}]"


def _cell(name: str, value: Any, bracket: str | None) -> str:
    if value is None:
        return "-"
    after = ""
    if isinstance(value, Mapping):
        after = "" if value["std"] is None else f" ± {layout.per_cent(value['std'])}"
        value = value["mean"]
    if bracket:
        after = f"\n{bracket}"
    mark = "!" if averages.is_inverted(name, value) else ""
    return f"{layout.per_cent(value)}{mark}{after}"


def _legend(document: Mapping[str, Any], shown: Sequence[Table]) -> list[str]:
    marked = any("!" in cell for table in shown for row in table.cells[1:] for cell in row[1:])
    random = document.get("random_init", False)
    return [_INVERTED] * marked + [_RANDOM] * random


def markdown(document: Mapping[str, Any]) -> str:
    """The printed tables as Markdown."""
    shown = printed(document)
    return "\n\n".join([*map(tables.markdown, shown), *_legend(document, shown)])


def terminal_table(document: Mapping[str, Any]) -> tables.Fitted:
    """The printed tables for a terminal."""
    shown = printed(document)
    return tables.Fitted(shown, printed(document, intervals=False), _legend(document, shown))

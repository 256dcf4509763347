"""The report of a run: figures, scores of each machine, misses and false alarms, training."""

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asdjax.config import recipe as configs
from asdjax.errors import AsdjaxError
from asdjax.report import facts, of_section, published, score_figures
from asdjax.report.clip_sounds import ClipSounds
from asdjax.report.facts import Facts
from asdjax.report.parts import Figure, Item, Row, Section, Table, Text, Tile, Verbatim
from asdjax.runtime import console
from asdjax.scoring import averages, comparison, layout
from asdjax.synth import corpus as synth

_FEW, _MANY = 4, 12  # sections above which fewer recordings are shown, or none
_MOST_PROBLEMS = 20
_ABSURD = 1e12  # of a loss
_WORDS = {
    "compute_dtype": "precision of large products",
    "parameters": "parameters of the embedder (without the classifier)",
    "trained_parameters": "of these trained",
}


def sections(run: Facts, data: Path | None = None) -> list[Section]:
    """The sections of a report of a scored run.

    Args:
        run: what is known of it.
        data: root of the data set, if it has moved since training.

    Raises:
        AsdjaxError: there is no data set at `data`.
    """
    count = len(run.sections)
    shown = 2 if count <= _FEW else 1 if count <= _MANY else 0
    try:
        sounds, without = ClipSounds(run, data), None
    except AsdjaxError as error:
        if data is not None:  # which somebody has named
            raise
        sounds, without = None, f"The data set cannot be shown: {error}."
        console.say(f"{run.run.path}: without sounds: {error}")
    of_sections = []
    with console.progress("drawing", count, "machines", minor=True) as advance:
        for of in run.sections:
            of_sections.append(of_section.section(of, run, sounds, shown))
            advance(1, run.name(of))
    return [
        Section("Results", _results(run, sounds)),
        Section("Machines", sections=of_sections),
        Section("Data", [_channels(run), *([Text(without)] if without else _problems(sounds))]),
        Section("Training", _training(run.log)),
        Section("How the run was made", _made(run)),
    ]


def _results(run: Facts, sounds: ClipSounds | None) -> list[Item | Row]:
    notes = [Text(f"{note}.") for note in run.notes]
    document = run.document
    tests = sum(int(of.test.sum()) for of in run.sections)
    machines = len({of.machine for of in run.sections})
    counts = Tile(str(machines), "machines" if machines > 1 else "machine", f"{tests} test clips")
    if document is None:
        words = "No test clip has a label, so that there are no figures (labels: --truth)."
        return [Row([counts]), Text(words), *notes]
    tiles = [
        Tile(f"{100 * document[key]:.1f} %", words, between(document["intervals"][key]))
        for key, words in (
            ("official_score", "official score"), ("within_score", "within-domain score"),
        )
        if document[key] is not None
    ]  # fmt: skip
    alarms = [
        bool(c)
        for machine in run.labelled.values()
        for clips in machine.values()
        if clips.decision is not None
        for c in clips.decision[~clips.is_anomaly]
    ]
    if alarms:
        level = run.config.decision.level
        intended = f"{100 * (1 - level):.3g} % intended" if run.config.decision.uses_level else ""
        tiles.append(Tile(f"{100 * np.mean(alarms):.1f} %", "false alarms", intended))
    items: list[Item | Row] = [Row([*tiles, counts]), _figures(document)]
    if run.by_view:
        items.append(_views(run))
    return [*items, *_published(run, sounds), *notes]


def between(interval: Sequence[float] | None) -> str:
    """An interval in per cent, empty if there is none."""
    return "" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def _figures(document: Mapping[str, Any]) -> Table:
    bounds = document["intervals"]
    named = [
        (machine, table, bounds["machines"][machine])
        for machine, table in document["machines"].items()
    ]
    named.append(("harmonic mean", layout.overall(document), layout.overall(bounds)))
    rows = [["machine", *(layout.title(*column) for column in layout.COLUMNS)]]
    for name, table, inside in named:
        rows.append([name, *(_figure(table, inside, *column) for column in layout.COLUMNS)])
    words = (
        f"Per cent; below, {100 * document['level']:g} % bootstrap intervals over "
        f"{document['resamples']} resamples of the clips. official: each domain's normal clips "
        "against the anomalies of both domains; within: against the same domain's."
    )
    cells = [cell for row in rows for cell in row]
    if any("!" in cell for cell in cells):
        words += " ! AUC below chance (50 %): the ranking is inverted there."
    return Table(rows, words)


def _figure(table: Any, bounds: Any, family: str, name: str) -> str:
    value = layout.figure(table, family, name)
    if value is None:
        return "-"
    mark = "!" if averages.is_inverted(name, value) else ""
    return f"{100 * value:.1f}{mark}\n{between(layout.figure(bounds, family, name))}".rstrip()


def _views(run: Facts) -> Table:
    """What each view's scores reach alone, and how far all of them together are above."""
    rows = [["view", "official score", "within score", "all views minus this (official)"]]
    together = {  # views have no decisions of their own
        machine: {s: dataclasses.replace(clips, decision=None) for s, clips in of.items()}
        for machine, of in run.labelled.items()
    }
    for view, machines in run.by_view.items():
        found = comparison.difference(together, machines, facts.RESAMPLES)
        cells = [
            "-" if found[key] is None else f"{100 * found[key]['b']:.1f}"
            for key in ("official_score", "within_score")
        ]
        rows.append([view, *cells, signed(found["official_score"])])
    document = run.document
    assert document is not None
    rows.append([
        f"all ({run.config.backend.combine_views})",
        *(_percent(document[key]) for key in ("official_score", "within_score")), "",
    ])  # fmt: skip
    return Table(rows, "Each view alone, and all together; per cent, differences with intervals:")


def signed(found: Mapping[str, Any] | None) -> str:
    """A difference of `comparison.difference` in per cent, with its interval."""
    if found is None:
        return "-"
    ends = found["interval"]
    between = "" if ends is None else f"\n{100 * ends[0]:+.1f} to {100 * ends[1]:+.1f}"
    return f"{100 * found['difference'] + 0.0:+.1f}{between}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _published(run: Facts, sounds: ClipSounds | None) -> list[Item]:
    """Published figures, if the run scored the development machines of DCASE 2026."""
    labelled = run.labelled
    sizes = {m: sum(len(clips.name) for clips in of.values()) for m, of in labelled.items()}
    is_development = (
        run.config.dataset.edition == "dcase2026"
        and sizes == dict.fromkeys(published.DEVELOPMENT, published.TEST_CLIPS)
        and sounds is not None
        and not any(
            synth.is_synthetic((sounds.root / of.path[0]).parents[1]) for of in run.sections
        )
    )
    document = run.document
    if not is_development or document is None:
        return []
    table = published.table1()
    rows = [["machine", *(name.replace("system", "System ") for name in table), "this run"]]
    for machine in (*published.DEVELOPMENT, "all"):
        value = (document["machines"][machine] if machine != "all" else document)["within_score"]
        name = "harmonic mean" if machine == "all" else machine
        figures = [f"{system[machine, 'score']:.1f}" for system in table.values()]
        rows.append([name, *figures, _percent(value)])
    baseline = [["", "official score"]]
    baseline += [[name, f"{value:.1f}"] for name, value in published.BASELINE.items()]
    baseline.append(["this run", _percent(document["official_score"])])
    return [
        Table(
            rows,
            "Table 1 of J. Xia's report beside this run's within-domain score, per cent (its pAUC "
            "follows neither convention exactly):",
        ),
        Table(baseline, "The challenge's baseline on the development machines, per cent:"),
    ]


def _channels(run: Facts) -> Table:
    views = run.config.extract.view_names
    rows = [["machine", "training clips", "test clips", "level of channel 2 (dB)", "correlation",
             "silent channels", *(f"gain of {view}" for view in views)]]  # fmt: skip
    for of in run.sections:
        cells = [_median(values, 2) for values in (of.level_db, of.correlation)]
        gains = [_median(of.gain[view], 2) for view in views]
        rows.append([
            run.name(of), str(np.count_nonzero(~of.test)), str(np.count_nonzero(of.test)), *cells,
            str(np.count_nonzero(of.silent)), *gains,
        ])  # fmt: skip
    caption = (
        "Medians over the clips, - without a second channel; level: of channel 2 relative to "
        "channel 1; gain: what a view leaves of the first channel, as an amplitude."
    )
    return Table(rows, caption)


def _median(values: np.ndarray, digits: int) -> str:
    known = values[np.isfinite(values)]
    return f"{np.median(known):.{digits}f}" if len(known) else "-"


def _problems(sounds: ClipSounds | None) -> list[Item]:
    found = () if sounds is None else sounds.problems
    if not found:
        return [Text("The data set has no problems.")]
    rows = [["file", "problem", "reason"]]
    rows += [[console.printable(p.path), p.kind, p.reason] for p in found[:_MOST_PROBLEMS]]
    count = len(found)
    more = f", the first {_MOST_PROBLEMS}" if count > _MOST_PROBLEMS else ""
    return [Table(rows, f"Problems of the data set: {count}{more}.")]


def _training(log: Sequence[Mapping[str, Any]]) -> list[Item]:
    log = [row for row in log if _is_step(row)]
    if not log:
        return [Text("Nothing was trained, or the log has no losses.")]
    words = f"{len(log)} steps; last loss {log[-1]['loss']:.4g}"
    return [
        Text(words),
        Figure(score_figures.course(log), "loss and accuracy in training, by step", long=True),
    ]


def _is_step(row: Mapping[str, Any]) -> bool:
    """Whether a row of a log has its numbers."""
    needed = [row.get("loss"), row.get("accuracy")]
    others = [row[key] for key in ("validation_loss", "validation_accuracy") if key in row]
    return all(isinstance(value, float) and abs(value) < _ABSURD for value in needed + others)


def _made(run: Facts) -> list[Item]:
    training = run.training
    keys = ("seed", "devices", "compute_dtype", "parameters", "trained_parameters", "steps")
    rows = [["fact", "value"], *([_WORDS.get(key, key), str(training.get(key))] for key in keys)]
    rows += [["weights", str(training.get("digest"))], ["data", str(training.get("data"))]]
    if training.get("pretrained"):
        rows.append(["pretrained", str(training["pretrained"])])
    command = shlex.join([
        "asdjax", "run", str(run.run.path / "config.yaml"), "--data", str(training.get("data")),
        "--run", "NEW",
    ])  # fmt: skip
    return [
        Table(rows),
        Verbatim("command that makes the run again", command),
        Verbatim("config.yaml", configs.dump(run.config)),
        Verbatim("versions", json.dumps(training.get("versions"), indent=1)),
    ]

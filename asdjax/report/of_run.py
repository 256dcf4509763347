"""The report of a run: figures, scores of each machine, misses and false alarms, training."""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from asdjax.config import recipe as configs
from asdjax.data import audio
from asdjax.data.samples import to_float
from asdjax.errors import AsdjaxError
from asdjax.files.documents import read_json
from asdjax.report import figures
from asdjax.report.parts import Figure, Item, Section, Sound, Table, Text, Verbatim
from asdjax.runtime import console
from asdjax.scoring import averages, layout
from asdjax.store.embeddings import Embeddings
from asdjax.store.runs import Run

_LOG = logging.getLogger(__name__)
_LONGEST = 20.0  # seconds of a recording that is shown
_FEW_MACHINES, _MOST_MACHINES = 4, 12  # above which fewer recordings are shown, or none


@dataclasses.dataclass(frozen=True)
class Clips:
    """The test clips of a machine as arrays, in the order of the table of scores."""

    path: Sequence[str]
    score: Float64[np.ndarray, " N"]
    threshold: Float64[np.ndarray, " N"]
    label: np.ndarray
    """Text [N]: normal, anomaly, or empty."""
    domain: np.ndarray
    """Text [N]: source, target, or empty."""


def sections(run: Run, data: Path | None = None) -> list[Section]:
    """The sections of a report of a scored run.

    Args:
        run: a scored run.
        data: root of the data set, if it has moved since training.

    Raises:
        AsdjaxError: the run has no current scores.
    """
    with run.snapshot():
        machines = run.scored_machines()
        rows = {machine: run.read_scores(machine) for machine in machines}
        config, training = run.config(), run.finished_training()
        view = config.extract.view_names[0]
        embeddings = {machine: run.read_embeddings(view, machine) for machine in machines}
        log = run.read_log()
        metrics = run.metrics / "metrics.json"
        document = None
        if metrics.is_file():
            document = read_json(metrics, f"delete it and run asdjax evaluate {run.path} again")
    root = data or Path(training["data"])
    root = root.parent if root.is_file() else root
    channel = {"near": 0, "far": 1}[config.audio.channel]
    shown = 2 if len(machines) <= _FEW_MACHINES else 1 if len(machines) <= _MOST_MACHINES else 0
    of_machines = []
    with console.progress("drawing", len(machines), "machines", minor=True) as advance:
        for machine in machines:
            found = rows[machine], embeddings[machine]
            of_machines.append(_machine(machine, *found, root, channel, shown))
            advance(1, machine)
    return [
        Section("Results", [*_results(document)]),
        Section("Machines", sections=of_machines),
        Section("Training", [*_training(log)]),
        Section("How the run was made", [*_made(run, config, training)]),
    ]


def _results(document: Mapping[str, Any] | None) -> list[Item]:
    if document is None:
        return [Text("No test clip has a label, or asdjax evaluate was not run: no figures.")]
    header = ["machine", *(layout.title(*column) for column in layout.COLUMNS)]
    bounds = document.get("intervals")
    named = [
        (machine, table, bounds and bounds["machines"][machine])
        for machine, table in document["machines"].items()
    ]
    named.append(("harmonic mean", layout.overall(document), bounds and layout.overall(bounds)))
    rows = [header]
    for name, table, inside in named:
        cells = [_figure(table, inside, *column) for column in layout.COLUMNS]
        rows.append([name, *cells])
    caption = (
        "Per cent; in brackets intervals of 95 %. official: each domain's normal clips against the "
        "anomalies of both domains; within: against the same domain's."
    )
    return [Table(rows, caption)]


def _figure(table: Any, bounds: Any, family: str, name: str) -> str:
    value = layout.figure(table, family, name)
    if value is None:
        return "-"
    mark = "!" if averages.is_inverted(name, value) else ""
    interval = bounds and layout.figure(bounds, family, name)
    ends = f"\n[{', '.join(f'{100 * end:.1f}' for end in interval)}]" if interval else ""
    return f"{100 * value:.1f}{mark}{ends}"


def _machine(
    machine: str,
    rows: Sequence[Mapping[str, str]],
    table: Embeddings,
    root: Path,
    channel: int,
    shown: int,
) -> Section:
    test = [row for row in rows if row["split"] == "test"]
    clips = Clips(
        [row["path"] for row in test],
        np.array([float(row["score"]) for row in test]),
        np.array([float(row["threshold"]) for row in test]),
        np.array([row["label"] for row in test]),
        np.array([row["domain"] for row in test]),
    )
    items: list[Item] = [
        Figure(
            figures.histogram(clips.score, clips.label, clips.domain, clips.threshold),
            f"{machine}: scores of {len(test)} test clips, and the threshold (dashed)",
        )
    ]
    if {"normal", "anomaly"} <= set(clips.label):
        roc = figures.roc(clips.score, clips.label, clips.domain)
        items.append(Figure(roc, f"{machine}: ROC; the shaded part counts for the pAUC"))
        items.append(_decisions(clips))
    points = figures.plane(table.embedding, table.split, table.label, table.domain)
    items.append(
        Figure(points, f"{machine}: embeddings of the first view in two principal components")
    )
    return Section(machine, items, [*_worst(clips, table, root, channel, shown)])


def _decisions(clips: Clips) -> Table:
    rows = [["domain", "false alarms", "detected"]]
    alarm = clips.score > clips.threshold
    for domain in sorted(set(clips.domain)):
        cells = []
        for label in ("normal", "anomaly"):
            mask = (clips.domain == domain) & (clips.label == label)
            share = f" ({100 * alarm[mask].mean():.0f} %)" if mask.any() else ""
            cells.append(f"{alarm[mask].sum()} of {mask.sum()}{share}")
        rows.append([domain or "unknown", *cells])
    return Table(rows, "Decisions at the threshold")


def _worst(clips: Clips, table: Embeddings, root: Path, channel: int, shown: int) -> list[Section]:
    """The misses with the lowest scores, and the false alarms with the highest."""
    margin = clips.score - clips.threshold
    result = []
    for what, label, order in (("missed", "anomaly", margin), ("false alarm", "normal", -margin)):
        wrong = (margin <= 0) if label == "anomaly" else (margin > 0)
        candidates = np.flatnonzero(wrong & (clips.label == label))
        for i in candidates[np.argsort(order[candidates], kind="stable")][:shown]:
            result.append(_card(what, clips, int(i), table, root, channel))
    return result


def _card(what: str, clips: Clips, i: int, table: Embeddings, root: Path, channel: int) -> Section:
    path = clips.path[i]
    title = f"{what}: {path}"
    facts = Text(
        f"score {clips.score[i]:.3g}, threshold {clips.threshold[i]:.3g}, "
        f"{clips.domain[i] or 'unknown'} domain"
    )
    nearest = _nearest(table, path)
    try:
        one, rate = _read(root / path, channel)
        other, _ = _read(root / nearest, channel)
    except AsdjaxError as error:
        return Section(title, [facts, Text(f"The recording cannot be shown: {error}")])
    return Section(
        title,
        [
            facts,
            Figure(
                figures.spectrograms(one, other, rate),
                "the recording, the most similar normal one, and their difference",
            ),
            Sound(audio.to_mp3(one, rate), path),
            Sound(audio.to_mp3(other, rate), f"most similar normal recording: {nearest}"),
        ],
    )


def _nearest(table: Embeddings, path: str) -> str:
    """The training clip whose embedding has the largest cosine to that of a clip."""
    vectors = table.embedding.astype(np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    row = int(np.flatnonzero(table.path == path)[0])
    train = np.flatnonzero(table.split == "train")
    return str(table.path[train[np.argmax(vectors[train] @ vectors[row])]])


def _read(path: Path, channel: int) -> tuple[np.ndarray, int]:
    """The beginning of a channel of a recording, float32, and its sample rate."""
    rate = audio.inspect_any(path).rate
    samples = audio.read_any(path, rate, most=round(_LONGEST * rate))
    return to_float(samples[:, min(channel, samples.shape[1] - 1)]), rate


def _training(log: Sequence[Mapping[str, Any]]) -> list[Item]:
    if not log:
        return [Text("Nothing was trained.")]
    last = log[-1]
    words = f"{len(log)} steps; last loss {last['loss']:.4g}"
    return [Text(words), Figure(figures.course(log), "loss and accuracy in training, by step")]


def _made(run: Run, config: configs.Config, training: Mapping[str, Any]) -> list[Item]:
    keys = ("seed", "devices", "compute_dtype", "parameters", "trained_parameters", "steps")
    rows = [["", ""], *([key, str(training.get(key))] for key in keys)]
    rows += [["weights", str(training.get("digest"))], ["data", str(training.get("data"))]]
    versions = json.dumps(training.get("versions"), indent=1)
    command = f"asdjax run {run.path / 'config.yaml'} --data {training.get('data')} --run NEW"
    return [
        Table(rows),
        Verbatim("command that makes the run again", command),
        Verbatim("config.yaml", configs.dump(config)),
        Verbatim("versions", versions),
    ]

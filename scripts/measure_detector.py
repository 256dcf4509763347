"""Measure detectors with several embedders, on synthetic corpora and on data sets at hand.

Called by scripts/measure_detector. Every corpus and training is a process of an asdjax command,
which does not repeat what is finished.
"""

import argparse
import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import driver
import numpy as np
from sklearn.metrics import roc_auc_score

from asdjax import Detector
from asdjax.config.recipe import Config
from asdjax.data import layouts
from asdjax.files import atomic
from asdjax.runtime import console

CORPUS = ("--train-source", "40", "--train-target", "4", "--test-per-cell", "20", "--seconds", "6")
ONE_MEMBER = "bands/nearest_neighbours"
TABLE = "detector.md"


@dataclasses.dataclass(frozen=True)
class Figures:
    """Of one machine, fractions."""

    auc: float
    """Mean of the domains' AUCs, each within the domain."""
    false_alarms: float
    """Share of normal test clips that alarm."""
    detected: float
    """Share of anomalous test clips that alarm."""


def main(argv: Sequence[str]) -> int:
    """Measure all embedders and print a table; returns 0; `AsdjaxError` if a command fails."""
    parser = argparse.ArgumentParser(
        prog="measure_detector", description="Measure detectors with several embedders."
    )
    parser.add_argument("--out", type=driver.path, required=True, help="corpora, runs, the table")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--noise", type=float, nargs="+", default=[-8, -40], help="decibels")
    parser.add_argument("--data", type=driver.path, nargs="*", default=[], help="data sets")
    names = [*EMBEDDERS]
    parser.add_argument("--embedders", nargs="+", default=names, choices=names)
    parser.add_argument("--epochs", type=int, default=4, help="of System 1's training")
    arguments = parser.parse_args(argv)
    atomic.require_free(arguments.out / TABLE, overwrite=True)
    columns: dict[str, list[Mapping[str, list[Figures]]]] = {}
    for noise in arguments.noise:
        for seed in arguments.seeds:
            root = arguments.out / f"noise{noise:g}" / f"seed{seed}" / "data"
            driver.asdjax("synth", root, *CORPUS, "--noise-db", f"{noise:g}", "--seed", seed)
            found = _measure(root, root.parent, seed, arguments)
            columns.setdefault(f"noise {noise:g} dB", []).append(found)
    for root in arguments.data:
        for seed in arguments.seeds:
            place = arguments.out / root.name / f"seed{seed}"
            columns.setdefault(root.name, []).append(_measure(root, place, seed, arguments))
    text = "\n".join(
        [
            "# Detectors on recordings that they were not fitted to",
            "",
            f"`{shlex.join(['scripts/measure_detector', *argv])}`, corpora "
            f"`{shlex.join(CORPUS)}`. Per cent: mean of the within-domain AUCs over machines, "
            "± standard deviation over seeds; false alarms and detected anomalies at level 0.9.",
            "",
            *_table(columns, arguments.embedders),
            "",
        ]
    )
    atomic.write_bytes(arguments.out / TABLE, text.encode())
    print(text)
    return 0


def _measure(
    root: Path, place: Path, seed: int, arguments: argparse.Namespace
) -> dict[str, list[Figures]]:
    """The figures of each machine, by embedder."""
    clips = layouts.find(root, Config().dataset.edition).clips
    found: dict[str, list[Figures]] = {}
    for name in arguments.embedders:
        embedder, score = EMBEDDERS[name](root, place, seed, arguments.epochs)
        for machine in sorted({clip.machine for clip in clips}):
            ours = [clip for clip in clips if clip.machine == machine]
            train = [root / clip.path for clip in ours if clip.split == "train"]
            test = [clip for clip in ours if clip.split == "test"]
            detector = Detector(embedder).fit(train)
            scores = score(detector, [root / clip.path for clip in test])
            alarms = scores > detector.threshold_
            anomalous = np.array([clip.label == "anomaly" for clip in test])
            domain = np.array([clip.domain for clip in test])
            aucs = [
                roc_auc_score(anomalous[domain == d], scores[domain == d])
                for d in ("source", "target")
            ]
            figures = Figures(
                float(np.mean(aucs)), alarms[~anomalous].mean(), alarms[anomalous].mean()
            )
            found.setdefault(name, []).append(figures)
            console.say(f"{root}: {machine}, {name}: AUC {100 * figures.auc:.1f}")
    return found


def _score(detector: Detector, paths: Sequence[Path]) -> np.ndarray:
    return -detector.score_samples([*paths])


def _score_of_one_member(detector: Detector, paths: Sequence[Path]) -> np.ndarray:
    return np.array([why.members[ONE_MEMBER] for why in detector.explain([*paths])])


def _spectral(root: Path, place: Path, seed: int, epochs: int) -> tuple[str | Path, Callable]:
    return "spectral", _score


def _log_mel(root: Path, place: Path, seed: int, epochs: int) -> tuple[str | Path, Callable]:
    return "spectral", _score_of_one_member


def _system1(root: Path, place: Path, seed: int, epochs: int) -> tuple[str | Path, Callable]:
    run = place / "system1"
    options = ["--train.epochs", epochs, "--seed", seed]
    driver.asdjax("train", "quickstart", "--data", root, "--run", run, *options)
    return run, _score


def _random_beats(root: Path, place: Path, seed: int, epochs: int) -> tuple[str | Path, Callable]:
    run = place / "beats"
    options = ["--model.random-init", "--audio.clip-seconds", "6", "--seed", seed]
    driver.asdjax("train", "beats_frozen", "--data", root, "--run", run, *options)
    return run, _score


EMBEDDERS = {
    "spectral": _spectral,
    "log-mel": _log_mel,
    "system1": _system1,
    "random-beats": _random_beats,
}


def _table(
    columns: Mapping[str, Sequence[Mapping[str, list[Figures]]]], embedders: Sequence[str]
) -> list[str]:
    rows = [f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for name in embedders:
        cells = []
        for seeds in columns.values():
            aucs = [np.mean([figures.auc for figures in found[name]]) for found in seeds]
            every = [figures for found in seeds for figures in found[name]]
            alarms = np.mean([figures.false_alarms for figures in every])
            detected = np.mean([figures.detected for figures in every])
            cells.append(
                f"{100 * np.mean(aucs):.1f} ± {100 * np.std(aucs):.1f}"
                + ("" if name == "log-mel" else f" ({100 * alarms:.0f}, {100 * detected:.0f})")
            )
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows

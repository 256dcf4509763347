"""Measure poolings and backends on synthetic corpora, and selection without anomalies among them.

Called by scripts/measure_methods. Every corpus and extraction is a process of an asdjax command,
which does not repeat what is finished; scoring is done here. The embeddings are those of the near
channel, on which the leakage has no influence: `measure_views` varies that.
"""

import argparse
import dataclasses
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

import driver
import numpy as np
from sklearn.metrics import roc_auc_score

from asdjax.commands import select
from asdjax.config.interfaces import Backend
from asdjax.errors import AsdjaxError
from asdjax.files import atomic
from asdjax.runtime import console
from asdjax.scoring import of_views, selection
from asdjax.store.runs import Run

CORPUS = ("--train-source", "60", "--train-target", "6", "--test-per-cell", "20", "--seconds", "4")
BACKENDS = (
    "nearest_neighbours", "local_density", "variance_minimised", "standardised_domains",
    "principal_components",
)  # fmt: skip
KINDS = {"all kinds": selection.KINDS, "machines and draws": ("machines", "draws")}
SMALL = "encoder: {encoder_layers: 4}"
RECIPE = """\
audio: {{clip_seconds: 4.0}}
model:
  name: beats
  adaptation: frozen
  embedding_size: 0
  {weights}
  pooling:
    name: several
    members:
      - mean
      - {{name: mean, keep_bands: true}}
      - {{name: relative_deviation, gamma: 8}}
      - {{name: relative_deviation, gamma: 8, keep_bands: true}}
      - {{name: generalised_mean, power: 3}}
      - {{name: generalised_mean, power: 3, gamma: 16}}
"""
TABLE = "methods.md"


@dataclasses.dataclass(frozen=True)
class Found:
    """Of one corpus: mean within-domain AUC over machines of each choice, fractions."""

    fixed: np.ndarray
    """[candidates]"""
    selected: dict[str, float]
    """By the kinds of pseudo-anomalies."""
    best: float
    """The best candidate of each machine by its labels."""
    seconds: np.ndarray
    """[candidates]: of scoring all machines."""
    system1: float | None


def main(argv: Sequence[str]) -> int:
    """Measure all corpora and print a table; returns 0; `AsdjaxError` if a command fails."""
    parser = argparse.ArgumentParser(
        prog="measure_methods", description="Measure poolings, backends and selection."
    )
    parser.add_argument("--out", type=driver.path, required=True, help="corpora, runs, the table")
    parser.add_argument("--weights", type=driver.path, help="of BEATs; default: random, 4 layers")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--noise", type=float, nargs="+", default=[-20, -8, 0], help="decibels")
    parser.add_argument("--backends", nargs="+", default=BACKENDS, choices=BACKENDS)
    parser.add_argument("--system1", action="store_true", help="train the recipe quickstart, too")
    arguments = parser.parse_args(argv)
    atomic.require_free(arguments.out / TABLE, overwrite=True)
    weights = f"random_init: true\n  {SMALL}"
    if arguments.weights:
        weights = f"weights: {str(arguments.weights.resolve())!r}"
    recipe = arguments.out / "recipe.yaml"
    atomic.write_bytes(recipe, RECIPE.format(weights=weights).encode(), overwrite=True)
    found = []
    for noise in arguments.noise:
        for seed in arguments.seeds:
            place = arguments.out / f"noise{noise:g}_seed{seed}"
            driver.asdjax(
                "synth", place / "data", *CORPUS, "--noise-db", f"{noise:g}", "--seed", seed
            )
            common = ["--data", place / "data", "--run", place / "run", "--seed", seed]
            driver.asdjax("train", recipe, *common)
            driver.asdjax("extract", place / "run")
            candidates, of = _measure(Run(place / "run"), arguments.backends)
            if arguments.system1:
                of = dataclasses.replace(of, system1=_system1(place, seed))
            console.say(f"{place}: {100 * of.fixed[0]:.1f}, best {100 * of.best:.1f}")
            found.append(of)
    text = "\n".join(
        [
            "# Poolings and backends on synthetic corpora",
            "",
            f"`{shlex.join(['scripts/measure_methods', *argv])}`, corpora "
            f"`{shlex.join(CORPUS)}`: {len(found)}. Per cent: mean of the within-domain AUCs over "
            "machines, ± standard deviation over corpora; difference to the first row, paired, "
            "with its 95 % interval (2 standard errors); seconds to score a corpus.",
            "",
            *_table(candidates, found),
            "",
        ]
    )
    atomic.write_bytes(arguments.out / TABLE, text.encode(), overwrite=True)
    print(text)
    return 0


def _measure(run: Run, backends: Sequence[str]) -> tuple[list[Backend], Found]:
    config = run.config()
    candidates = select.candidates(config, backends)
    banks = select.banks_of(run, config)
    aucs, seconds = np.full((len(banks), len(candidates)), np.nan), np.zeros(len(candidates))
    chosen: dict[str, list[float]] = {name: [] for name in KINDS}
    for row, ((machine, section), bank) in zip(aucs, banks.items(), strict=True):
        table = run.read_embeddings(config.extract.view_names[0], machine)
        test = table.rows((table.section == section) & (table.split == "test"))
        for i, candidate in enumerate(candidates):
            began = time.process_time()
            parts = config.model.embedding_parts
            scores = of_views.score(
                candidate, parts, bank.views, bank.is_target, [test.embedding]
            ).combined.new
            seconds[i] += time.process_time() - began
            row[i] = _auc(test.label == "anomaly", test.domain, scores)
        others = [b.views for (m, _), b in banks.items() if m != machine]
        trials = list(selection.trials(bank, others, selection.KINDS, seed=0))
        evidence = [select.outcome(of, config, trials).evidence or {} for of in candidates]
        if not all(evidence):
            raise AsdjaxError(f"{run.path}: a candidate cannot be fitted to {machine}")
        for name, kinds in KINDS.items():
            some = [{kind: auc for kind, auc in of.items() if kind in kinds} for of in evidence]
            chosen[name].append(row[selection.best(some)])
    selected = {name: float(np.mean(values)) for name, values in chosen.items()}
    best = float(aucs.max(axis=1).mean())
    return candidates, Found(aucs.mean(axis=0), selected, best, seconds, None)


def _auc(anomalous: np.ndarray, domain: np.ndarray, scores: np.ndarray) -> float:
    """Mean of the domains' AUCs, each within the domain."""
    of = [roc_auc_score(anomalous[domain == d], scores[domain == d]) for d in np.unique(domain)]
    return float(np.mean(of))


def _system1(place: Path, seed: int) -> float:
    """The same figure of System 1's network, trained by the recipe quickstart."""
    root, run = place / "data", Run(place / "system1")
    driver.asdjax("run", "quickstart", "--data", root, "--run", run.path, "--seed", seed)
    figures = []
    for machine in run.machines():
        rows = [row for row in run.read_scores(machine) if row["split"] == "test"]
        label, domain = (np.array([row[name] for row in rows]) for name in ("label", "domain"))
        scores = np.array([float(row["score"]) for row in rows])
        figures.append(_auc(label == "anomaly", domain, scores))
    return float(np.mean(figures))


def _table(candidates: Sequence[Backend], found: Sequence[Found]) -> list[str]:
    rows = [
        "| pooling | bands | backend | AUC | difference | seconds |",
        "|---|---|---|---:|---:|---:|",
    ]
    fixed = np.array([of.fixed for of in found])
    seconds = np.mean([of.seconds for of in found], axis=0)
    base = fixed[:, 0]
    for i, candidate in enumerate(candidates):
        bands = candidate.bands if candidate.part and candidate.part.endswith("bands") else ""
        cells = f"| {candidate.part} | {bands} | {candidate.name} |"
        rows.append(f"{cells} {_figures(fixed[:, i], base)} | {seconds[i]:.2f} |")
    best_fixed = fixed[:, fixed.mean(axis=0).argmax()]
    extra = {f"selected by {name}": np.array([of.selected[name] for of in found]) for name in KINDS}
    extra["best of each machine by its labels"] = np.array([of.best for of in found])
    if all(of.system1 is not None for of in found):
        extra["System 1, recipe quickstart"] = np.array([of.system1 for of in found])
    rows += [f"| *{name}* | | | {_figures(values, base)} | |" for name, values in extra.items()]
    for name in KINDS:
        against = _difference(extra[f"selected by {name}"] - best_fixed)
        rows += ["", f"Selection by {name} less the best fixed row: {against}."]
    return rows


def _figures(values: np.ndarray, base: np.ndarray) -> str:
    spread = f"{100 * values.mean():.1f} ± {100 * values.std():.1f}"
    return f"{spread} | {_difference(values - base)}"


def _difference(paired: np.ndarray) -> str:
    error = paired.std(ddof=1) / np.sqrt(len(paired)) if len(paired) > 1 else np.nan
    low, high = (100 * (paired.mean() + sign * 2 * error) for sign in (-1, 1))
    return f"{100 * paired.mean():+.1f} [{low:+.1f}, {high:+.1f}]"

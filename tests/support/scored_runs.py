"""Run directories with given scores, their ground truth, and the numbers of a document."""

import dataclasses

import numpy as np

from asdjax.config.recipe import Config, DatasetConfig, to_tree
from asdjax.scoring import false_alarms
from asdjax.signal.view_raw import RAW
from asdjax.signal.view_wiener import Wiener
from asdjax.store.embeddings import Embeddings, MadeFrom
from asdjax.store.runs import Run
from asdjax.store.scores import CLIP_COLUMNS

CELLS = [(d, label) for d in ("source", "target") for label in ("normal", "anomaly")]


CHALLENGE = dataclasses.replace(Config(), dataset=DatasetConfig(edition="dcase2026"))
"""The default configuration on data of the challenge."""


def score_rows(rng, machine, per_cell=6, named=True, lift=1.0, sections=("00",)):
    """Rows as scoring writes them: views raw and mild, their mean, threshold 0.8."""
    rows = []
    for section in sections:
        for i, (domain, label) in enumerate(CELLS * per_cell):
            name = f"section_{section}_{i:04d}.wav"
            if named:
                name = f"section_{section}_{domain}_test_{label}_{i:04d}.wav"
            raw, mild = np.round(rng.normal(size=2) + lift * (label == "anomaly"), 1)
            score = (raw + mild) / 2
            rows.append(
                {
                    "path": f"{machine}/test/{name}",
                    "split": "test",
                    "section": section,
                    "domain": domain if named else "",
                    "label": label if named else "",
                    "score": repr(float(score)),
                    "threshold": "0.8",
                    "decision": str(int(score > 0.8)),
                    "raw": repr(float(raw)),
                    "mild": repr(float(mild)),
                }
            )
        train = {**rows[-1], "path": f"{machine}/train/section_{section}_x.wav", "split": "train"}
        rows.append({**train, "label": "normal", "domain": "source"})
    return sorted(rows, key=lambda row: row["path"])


def make_run(path, machines, seed=0, train="train"):
    """A run directory whose scores are the given rows."""
    views = (RAW, Wiener("mild"))
    config = dataclasses.replace(
        CHALLENGE, seed=seed, extract=dataclasses.replace(Config().extract, views=views)
    )
    run = Run(path)
    run.write_config(config)
    run.write_training(
        {
            "classes": [*machines], "n_samples": 8000, "step": 2, "seed": seed, "data": "data",
            "digest": "weights", "frozen": None, "config": to_tree(config),
        }
    )  # fmt: skip
    made_from = {
        run.embeddings_path(view.name, machine): str(
            MadeFrom(recipe, "float32", "clips", train, "00:test;01:test")
        )
        for view, recipe in run.embedding_recipes().items()
        for machine in machines
    }
    run.begin_extraction(made_from)
    run.write_artefacts({
        path: (embeddings(machines[path.stem], path.parent.name != "raw"), inputs)
        for path, inputs in made_from.items()
    })  # fmt: skip
    for machine, rows in machines.items():
        run.write_scores(machine, rows)
    run.write_thresholds({"schema": false_alarms.SCHEMA})
    return run


def embeddings(rows, second=False):
    """A file of random embeddings of rows' clips; `second`: of a view that uses channel 2."""
    clips = {name: np.array([row[name] for row in rows]) for name in CLIP_COLUMNS}
    nothing = np.full(len(rows), np.nan, np.float32)
    table = Embeddings(
        **clips,
        embedding=np.random.default_rng(len(rows)).normal(size=(len(rows), 4)).astype(np.float32),
        gain=nothing,
        level_db=np.full(len(rows), -1.5, np.float32) if second else nothing,
        correlation=nothing,
        lag=nothing,
        silent=np.zeros((len(rows), 2), bool),
        calibration=np.zeros((2, 0), np.float32),
    )
    return table.to_bytes()


def write_truth(folder, machines):
    """The organisers' layout, from each machine's rows in the order of the cells."""
    for machine, rows in machines.items():
        tests = [row for row in rows if row["split"] == "test"]
        for half, flags in (("data", (0, 1, 0, 1)), ("domain", (0, 0, 1, 1))):
            path = folder / f"ground_truth_{half}" / f"ground_truth_{machine}_section_00_test.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [
                f"{row['path'].rpartition('/')[2]},{flags[i % 4]}\n" for i, row in enumerate(tests)
            ]
            path.write_text("".join(lines[::-1]))
    return folder


def numbers(value):
    """Every number of a document."""
    if isinstance(value, dict | list):
        for inside in value.values() if isinstance(value, dict) else value:
            yield from numbers(inside)
    elif isinstance(value, float | int):
        yield value

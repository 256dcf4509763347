"""Averages of figures over sections and machines, and their spread over runs.

All means over machines and sections are harmonic means, which are 0 if one of the figures is 0.
The challenge floors each figure at float64's machine epsilon instead; the difference is below
1e-12. A figure without clips is None, is left out of every mean and is listed as missing.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from asdjax.errors import DataError
from asdjax.scoring.metrics import FIGURES, Figures

SCHEMA = "asdjax.metrics/2"
SPREAD_SCHEMA = "asdjax.metrics_spread/2"
CHANCE = 0.5
"""AUC of random scores; below it anomalous clips tend to score lower than normal ones."""
_NOT_AVERAGED = (
    "inverted", "intervals", "false_alarm_interval", "resamples", "level", "single_clip_strata",
    "seed",
)  # fmt: skip


def harmonic_mean(values: Iterable[Any]) -> Any:
    """Harmonic mean of numbers >= 0, or of arrays element by element; 0 if a value is 0.

    None values are left out; the mean of no values is None.
    """
    present = np.array([v for v in values if v is not None], np.float64)
    if not len(present):
        return None
    zero = (present == 0).any(axis=0)
    mean = np.where(zero, 0, len(present) / np.sum(1 / np.where(zero, 1, present), axis=0))
    return mean if mean.ndim else float(mean)


def score(sections: Iterable[Figures], family: str) -> Any:
    """Harmonic mean of a family's figures of all sections.

    The score of the challenge is that of `official`, the technical report's that of `within`.
    """
    return harmonic_mean(section[family][name] for section in sections for name in FIGURES)


def means(machines: Mapping[str, Mapping[str, Figures]]) -> dict[str, Any]:
    """The figures of all machines and sections with their means and scores.

    Args:
        machines: machine -> section -> `figures`, numbers or arrays of one shape.

    Returns:
        `machines`: per machine its figures (harmonic means over its sections), `official_score`,
        `within_score` and the given `sections`; over all machines and sections `official_score`,
        `within_score` and `mean` (the harmonic mean of each figure).
    """
    everything = [table for sections in machines.values() for table in sections.values()]
    return {
        "machines": {
            machine: {
                **_mean(list(sections.values())),
                "official_score": score(sections.values(), "official"),
                "within_score": score(sections.values(), "within"),
                "sections": dict(sections),
            }
            for machine, sections in machines.items()
        },
        "official_score": score(everything, "official"),
        "within_score": score(everything, "within"),
        "mean": _mean(everything),
    }


def summary(machines: Mapping[str, Mapping[str, Figures]]) -> dict[str, Any]:
    """The metrics document, ready for JSON, from machine -> section -> `figures`.

    Returns:
        `schema`; the result of `means`, with the number of `clips` of each machine; and the names
        of figures that are `missing` (without clips) and of AUCs that are `inverted` (below
        chance).

    Raises:
        AsdjaxError: If there is no machine, a machine has no section, or only some sections have
            decisions.
    """
    everything = [table for sections in machines.values() for table in sections.values()]
    if not everything or not all(machines.values()):
        raise DataError("no figures to summarise: score the test clips of a machine first")
    if len({"decisions" in table for table in everything}) > 1:
        raise DataError("decisions are given for some sections only: decide all of them, or none")
    document = {"schema": SCHEMA, **means(machines), "missing": [], "inverted": []}
    for machine, sections in machines.items():
        document["machines"][machine]["clips"] = {
            cell: sum(table["clips"][cell] for table in sections.values())
            for cell in next(iter(sections.values()))["clips"]
        }
        for section, table in sections.items():
            for family in families(table):
                for name, value in table[family].items():
                    words = f"{machine} section {section}: {family} {name}"
                    if value is None:
                        document["missing"].append(words)
                    elif is_inverted(name, value):
                        document["inverted"].append(words)
    return document


def is_inverted(name: str, value: float) -> bool:
    """Whether a figure is an AUC (not a pAUC) below chance."""
    return name.startswith("auc_") and value < CHANCE


def spread(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over documents of `summary`, one per seed.

    Returns:
        A document with the same keys, except those of a single run (intervals and `inverted`).
        Each figure becomes `{"mean": m, "std": s}` with the sample standard deviation (ddof 1, None
        for a single seed), or None if no seed has it. `seeds` is the number of documents.

    Raises:
        AsdjaxError: If there is no document, or if they differ in machines, sections, figures or
            numbers of clips.
    """
    if not documents:
        raise DataError("no metrics to average: give at least one run")
    shared = [{k: v for k, v in d.items() if k not in _NOT_AVERAGED} for d in documents]
    return {**_spread(shared, "metrics"), "schema": SPREAD_SCHEMA, "seeds": len(documents)}


def families(table: Mapping[str, Any]) -> list[str]:
    """The families of figures that a table holds, in the order of printing."""
    return [family for family in ("official", "within", "decisions") if family in table]


def _mean(sections: Sequence[Figures]) -> Figures:
    """Harmonic mean of each figure over sections; a single section's figures unchanged."""
    if len(sections) == 1:
        return {family: dict(sections[0][family]) for family in families(sections[0])}
    return {
        family: {
            name: harmonic_mean(table[family][name] for table in sections)
            for name in sections[0][family]
        }
        for family in families(sections[0])
    }


def _spread(values: Sequence[Any], where: str) -> Any:
    first = values[0]
    if isinstance(first, Mapping):
        if any(not isinstance(v, Mapping) or v.keys() != first.keys() for v in values):
            raise DataError(
                f"{where}: the runs differ in machines, sections or figures: "
                "average runs that scored the same clips"
            )
        return {key: _spread([v[key] for v in values], f"{where}.{key}") for key in first}
    if isinstance(first, float | None):
        present = [v for v in values if v is not None]
        if not present:
            return None
        # statistics, not NumPy: its exact sums give equal values the standard deviation 0
        std = statistics.stdev(present) if len(present) > 1 else None
        return {"mean": statistics.mean(present), "std": std}
    if any(v != first for v in values):
        raise DataError(f"{where}: the runs differ: average runs that scored the same clips")
    return first

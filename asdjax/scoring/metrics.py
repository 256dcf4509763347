"""Metrics of anomaly scores: AUC, partial AUC, and the families of figures.

Conventions
* A larger score is more anomalous; ties count half. All figures are fractions, 0..1.
* `official` figures are the challenge's: `auc_source` and `auc_target` compare the domain's normal
  clips with the anomalous clips of both domains; `pauc` compares all normal with all anomalous
  clips up to a false-alarm rate of 0.1, standardised after McClish (chance 0.5, worst 0.4737).
* `within` figures are the technical report's: `auc_source` and `auc_target` compare the domain's
  normal clips with the same domain's anomalous clips; `pauc` is over both domains, the official
  one again, for the report's harmonic mean takes three figures.
* `decisions` figures: precision, recall and F1 of the 0/1 decisions inside one domain; 0 where
  nothing is found.
* Every mean over machines and sections is the harmonic mean; 0 where one of the figures is 0. The
  challenge floors each figure at float64's machine epsilon instead, which differs by less than
  1e-12. A figure that has no clips is None, is left out of every mean and is listed as missing.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from sklearn.metrics import roc_auc_score

from asdjax.errors import AsdjaxError

SCHEMA = "asdjax.metrics/2"
SPREAD_SCHEMA = "asdjax.metrics_spread/2"
MAX_FPR = 0.1
FIGURES = ("auc_source", "auc_target", "pauc")
"""The three figures of the official and of the within-domain family."""
CHANCE = 0.5
"""AUC of a random order; below it the anomalous clips tend to score lower than the normal ones."""

Flags = Bool[np.ndarray, " N"] | Int[np.ndarray, " N"]
Figures = dict[str, dict[str, Any]]
COLUMNS = (
    *(("official", name) for name in (*FIGURES, "score")),
    *(("within", name) for name in ("auc_source", "auc_target", "score")),
)
"""Family and figure of each column of a printed table; the families share their pAUC."""
DECISION_COLUMNS = (
    ("official", "score"),
    *(
        ("decisions", f"{name}_{domain}")
        for domain in ("source", "target")
        for name in ("precision", "recall", "f1")
    ),
)
"""The columns of the table of decisions."""

_WORDS = {"auc": "AUC", "pauc": "pAUC", "f1": "F1"}
_OF_ONE_RUN = (
    "inverted", "intervals", "false_alarm_interval", "resamples", "level", "single_clip_strata",
    "seed",
)  # fmt: skip


def auc(normal_scores: Num[np.ndarray, " N"], anomaly_scores: Num[np.ndarray, " M"]) -> float:
    """Area under the ROC curve: how often an anomalous clip outscores a normal one.

    Raises:
        AsdjaxError: If either set is empty or holds a score that is not finite.
    """
    return pauc(normal_scores, anomaly_scores, max_fpr=1.0)


def pauc(
    normal_scores: Num[np.ndarray, " N"],
    anomaly_scores: Num[np.ndarray, " M"],
    max_fpr: float = MAX_FPR,
) -> float:
    """Area under the ROC curve up to the false-positive rate `max_fpr`, standardised.

    McClish (1989), "Analyzing a portion of the ROC curve": 0.5 + (area - chance) / (2 (best -
    chance)), as scikit-learn computes it. With `max_fpr` 1 it is the plain AUC.

    Raises:
        AsdjaxError: If either set is empty or holds a score that is not finite.
    """
    normal, anomaly = _scores(normal_scores), _scores(anomaly_scores)
    if not (len(normal) and len(anomaly)):
        raise AsdjaxError(
            f"an AUC needs normal and anomalous clips, found {len(normal)} and {len(anomaly)}"
        )
    is_anomaly = np.repeat([0, 1], [len(normal), len(anomaly)])
    return float(roc_auc_score(is_anomaly, np.concatenate([normal, anomaly]), max_fpr=max_fpr))


def figures(
    scores: Num[np.ndarray, " N"],
    is_anomaly: Flags,
    is_target: Flags,
    decisions: Flags | None = None,
) -> Figures:
    """All figures of one machine and section.

    Args:
        scores: Anomaly scores of the test clips.
        is_anomaly: True (or 1) where the clip is anomalous.
        is_target: True (or 1) where the clip is of the target domain.
        decisions: True (or 1) where the clip was declared anomalous.

    Returns:
        Families `official`, `within`, with decisions also `decisions`, each from a figure's name
        to its value, None where it has no clips; and `clips`, the number of clips in each cell.

    Raises:
        AsdjaxError: If the arrays differ in length, a score is not finite or a flag is not 0 or 1.
    """
    scores = _scores(scores)
    anomaly = _flags(is_anomaly, len(scores), "anomaly labels")
    target = _flags(is_target, len(scores), "domains")
    result: Figures = {
        "official": {
            "auc_source": _auc(scores, ~anomaly & ~target, anomaly),
            "auc_target": _auc(scores, ~anomaly & target, anomaly),
            "pauc": _auc(scores, ~anomaly, anomaly, MAX_FPR),
        },
        "within": {
            "auc_source": _auc(scores, ~anomaly & ~target, anomaly & ~target),
            "auc_target": _auc(scores, ~anomaly & target, anomaly & target),
            "pauc": _auc(scores, ~anomaly, anomaly, MAX_FPR),
        },
    }
    if decisions is not None:
        decided = _flags(decisions, len(scores), "decisions")
        result["decisions"] = {
            f"{figure}_{name}": value
            for name, domain in (("source", ~target), ("target", target))
            for figure, value in _found(anomaly[domain], decided[domain]).items()
        }
    result["clips"] = {
        f"{domain}_{label}": int(np.count_nonzero((target == t) & (anomaly == a)))
        for domain, t in (("source", False), ("target", True))
        for label, a in (("normal", False), ("anomaly", True))
    }
    return result


def harmonic_mean(values: Iterable[Any]) -> Any:
    """Harmonic mean; 0 where a value is 0. None values are left out.

    Args:
        values: Numbers 0 or above, or arrays of one shape, which are averaged element by element.

    Returns:
        A number or an array, as the values; None when there is no value.
    """
    present = np.array([v for v in values if v is not None], np.float64)
    if not len(present):
        return None
    zero = (present == 0).any(axis=0)
    mean = np.where(zero, 0, len(present) / np.sum(1 / np.where(zero, 1, present), axis=0))
    return mean if mean.ndim else float(mean)


def official_score(sections: Iterable[Figures]) -> Any:
    """The challenge's score: harmonic mean of the official figures of all machines and sections."""
    return harmonic_mean(s["official"][name] for s in sections for name in FIGURES)


def within_score(sections: Iterable[Figures]) -> Any:
    """The technical report's score: harmonic mean of all within-domain figures."""
    return harmonic_mean(s["within"][name] for s in sections for name in FIGURES)


def means(machines: Mapping[str, Mapping[str, Figures]]) -> dict[str, Any]:
    """Figures of machine -> section with all their means and scores.

    The figures may be numbers, or arrays of one shape (`bootstrap.replicates`).

    Returns:
        `machines`: per machine its figures (of its section, or the harmonic mean over its
        sections), its `official_score` and `within_score`, and its `sections` as given; over all
        machines and sections `official_score`, `within_score` and `mean` (each figure's harmonic
        mean).
    """
    everything = [table for sections in machines.values() for table in sections.values()]
    return {
        "machines": {
            machine: {
                **_mean(list(sections.values())),
                "official_score": official_score(sections.values()),
                "within_score": within_score(sections.values()),
                "sections": dict(sections),
            }
            for machine, sections in machines.items()
        },
        "official_score": official_score(everything),
        "within_score": within_score(everything),
        "mean": _mean(everything),
    }


def summary(machines: Mapping[str, Mapping[str, Figures]]) -> dict[str, Any]:
    """The metrics document, ready for JSON, from machine -> section -> `figures`.

    Returns:
        `schema`; all that `means` gives, each machine with the sum of its sections' `clips`; and
        by name the figures that are `missing` (they have no clips) and the AUCs that are
        `inverted` (below chance).

    Raises:
        AsdjaxError: If there is no machine, a machine has no section, or only some sections have
            decisions.
    """
    everything = [table for sections in machines.values() for table in sections.values()]
    if not everything or not all(machines.values()):
        raise AsdjaxError("no figures to summarise: score the test clips of a machine first")
    if len({"decisions" in table for table in everything}) > 1:
        raise AsdjaxError("decisions are given for some sections only: decide all of them, or none")
    document = {"schema": SCHEMA, **means(machines), "missing": [], "inverted": []}
    for machine, sections in machines.items():
        document["machines"][machine]["clips"] = {
            cell: sum(table["clips"][cell] for table in sections.values())
            for cell in next(iter(sections.values()))["clips"]
        }
        for section, table in sections.items():
            for family in _families(table):
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
        The nesting of one document, less what is about one run alone (intervals and `inverted`); in
        the place of each figure `{"mean": m, "std": s}` with the sample standard deviation (ddof 1;
        None for a single seed), or None where every seed has none; and `seeds`, their number.

    Raises:
        AsdjaxError: If there is no document, or if they differ in machines, sections, figures or
            numbers of clips.
    """
    if not documents:
        raise AsdjaxError("no metrics to average: give at least one run")
    shared = [{k: v for k, v in d.items() if k not in _OF_ONE_RUN} for d in documents]
    return {**_spread(shared, "metrics"), "schema": SPREAD_SCHEMA, "seeds": len(documents)}


def overall(document: Mapping[str, Any]) -> dict[str, Any]:
    """The figures over all machines, nested as one machine's."""
    scores = {name: document[name] for name in ("official_score", "within_score")}
    return {**document["mean"], **scores}


def figure(table: Mapping[str, Any], family: str, name: str) -> Any:
    """One figure of a machine, or its family's `score`."""
    return table.get(f"{family}_score") if name == "score" else table[family][name]


def rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A document of `summary` or `spread` as flat rows, for a CSV file.

    Returns:
        Rows `machine`, `section`, `family`, `figure` (`score`: the harmonic mean of the family's
        three), then `value` and, of a document with `intervals`, `low` and `high`, or `mean` and
        `std`. Sections come first, then their machine (section `all`), and at the end the rows
        over all machines (machine `all`).
    """
    result = []
    bounds = document.get("intervals")

    def add(machine: str, section: str, table: Mapping[str, Any], bounds: Any) -> None:
        for family in _families(table):
            scored = ["score"] if f"{family}_score" in table else []
            for name in [*table[family], *scored]:
                value = figure(table, family, name)
                row = {"machine": machine, "section": section, "family": family, "figure": name}
                if "seeds" in document:
                    row |= value or {"mean": None, "std": None}
                else:
                    row |= {"value": value}
                if bounds:
                    low, high = figure(bounds, family, name) or (None, None)
                    row |= {"low": low, "high": high}
                result.append(row)

    for machine, table in document["machines"].items():
        inside = bounds and bounds["machines"][machine]
        for section, in_section in table["sections"].items():
            add(machine, section, in_section, inside and inside["sections"][section])
        add(machine, "all", table, inside)
    add("all", "all", overall(document), bounds and overall(bounds))
    return result


def title(family: str, name: str) -> str:
    """A figure's name in a printed table."""
    words = " ".join(_WORDS.get(word, word) for word in name.split("_"))
    return words if family == "decisions" else f"{family} {words}"


def per_cent(value: float) -> str:
    """A fraction as it is printed."""
    return f"{100 * value:.2f}"


def _auc(
    scores: Float[np.ndarray, " N"], normal: Flags, anomaly: Flags, max_fpr: float = 1.0
) -> float | None:
    if not (normal.any() and anomaly.any()):
        return None
    return pauc(scores[normal], scores[anomaly], max_fpr)


def _found(anomaly: Flags, decided: Flags) -> dict[str, float | None]:
    """Precision, recall and F1 of one domain's clips; None unless it has both kinds of clips."""
    if not anomaly.any() or anomaly.all():
        return {"precision": None, "recall": None, "f1": None}
    hits = np.count_nonzero(anomaly & decided)
    declared, present = np.count_nonzero(decided), np.count_nonzero(anomaly)
    return {
        "precision": hits / max(declared, 1),
        "recall": hits / present,
        "f1": 2 * hits / (declared + present),
    }


def _families(table: Mapping[str, Any]) -> list[str]:
    return [family for family in ("official", "within", "decisions") if family in table]


def _mean(sections: Sequence[Figures]) -> Figures:
    """Harmonic mean of each figure over sections; a single section's own figures, unrounded."""
    if len(sections) == 1:
        return {family: dict(sections[0][family]) for family in _families(sections[0])}
    return {
        family: {
            name: harmonic_mean(table[family][name] for table in sections)
            for name in sections[0][family]
        }
        for family in _families(sections[0])
    }


def _spread(values: Sequence[Any], where: str) -> Any:
    first = values[0]
    if isinstance(first, Mapping):
        if any(not isinstance(v, Mapping) or v.keys() != first.keys() for v in values):
            raise AsdjaxError(
                f"{where}: the runs differ in machines, sections or figures: "
                "average runs that scored the same clips"
            )
        return {key: _spread([v[key] for v in values], f"{where}.{key}") for key in first}
    if isinstance(first, float | None):
        present = [v for v in values if v is not None]
        if not present:
            return None
        # exact sums: equal values have the standard deviation 0, not some 1e-17
        std = statistics.stdev(present) if len(present) > 1 else None
        return {"mean": statistics.mean(present), "std": std}
    if any(v != first for v in values):
        raise AsdjaxError(f"{where}: the runs differ: average runs that scored the same clips")
    return first


def _scores(scores: Num[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    scores = np.asarray(scores)
    if scores.ndim != 1 or scores.dtype.kind not in "iuf":
        raise AsdjaxError(
            f"scores are of shape {scores.shape} and type {scores.dtype}: give one number per clip"
        )
    bad = np.count_nonzero(~np.isfinite(scores))
    if bad:
        raise AsdjaxError(f"{bad} of {len(scores)} scores are not finite: score the clips again")
    return scores.astype(np.float64)


def _flags(flags: Flags, count: int, what: str) -> Bool[np.ndarray, " N"]:
    flags = np.asarray(flags)
    if flags.shape != (count,):
        raise AsdjaxError(f"{count} scores and {what} of shape {flags.shape}: give one per clip")
    if flags.dtype.kind not in "biu" or np.any((flags != 0) & (flags != 1)):
        raise AsdjaxError(f"{what} must all be 0 or 1")
    return flags.astype(bool)

"""Layout of a metrics document: rows of a CSV file, columns and titles of printed tables."""

from collections.abc import Mapping
from typing import Any

from asdjax.scoring.averages import families
from asdjax.scoring.metrics import FIGURES

COLUMNS = (
    *(("official", name) for name in (*FIGURES, "score")),
    *(("within", name) for name in ("auc_source", "auc_target", "score")),
)
"""Family and figure of each column of a printed table; both families have the same pAUC."""
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


def overall(document: Mapping[str, Any]) -> dict[str, Any]:
    """The figures over all machines, with the keys of a single machine."""
    scores = {name: document[name] for name in ("official_score", "within_score")}
    return {**document["mean"], **scores}


def figure(table: Mapping[str, Any], family: str, name: str) -> Any:
    """One figure of a machine, or the score of a family for the name `score`."""
    return table.get(f"{family}_score") if name == "score" else table[family][name]


def rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A document of `averages.summary` or `averages.spread` as flat rows, for a CSV file.

    Returns:
        Rows with `machine`, `section`, `family`, `figure` (`score` is the harmonic mean of the
        family's three), and `value` or, of a spread, `mean` and `std`; with intervals also `low`
        and `high`. The sections of a machine precede the machine (section `all`); the rows over
        all machines come last (machine `all`).
    """
    result = []
    bounds = document.get("intervals")

    def add(machine: str, section: str, table: Mapping[str, Any], bounds: Any) -> None:
        for family in families(table):
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
    """A fraction in per cent with two decimals."""
    return f"{100 * value:.2f}"

"""A metrics document as flat rows, and the columns and titles of its printed tables."""

from collections.abc import Mapping
from typing import Any

from asdjax.scoring.averages import families
from asdjax.scoring.metrics import FIGURES

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
    """A fraction as it is printed."""
    return f"{100 * value:.2f}"

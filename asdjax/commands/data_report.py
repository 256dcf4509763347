"""An overview of a data set, as a JSON document for scripts and as a table."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_type_hints

from asdjax.config.recipe import DatasetConfig
from asdjax.data.audio import Header
from asdjax.data.corpus import edition_note
from asdjax.data.dcase import (
    Clip,
    Dataset,
    attribute_pairs,
    class_names,
    scored_machines,
    training_clips,
)
from asdjax.data.editions import find_edition
from asdjax.errors import AsdjaxError
from asdjax.runtime.console import printable

SCHEMA = "asdjax.data/1"
_MOST_LINES = 20  # of one kind in the table


def describe(
    dataset: Dataset, headers: Mapping[str, Header], config: DatasetConfig
) -> dict[str, Any]:
    """The data set as a JSON document.

    Args:
        dataset: the data set with all its problems, as `corpus.survey` returns it.
        headers: headers of the readable files, by path.
        config: selects the machines to train on and to score. If it selects none, a note is added.

    Returns:
        For each machine: counts by section, split, domain and label ("unknown" for evaluation test
        clips), seconds, channels, sample rates and the attributes of the training clips. Then the
        number of classes for each kind of label, the problems, folders with audio that is not read,
        and notes. Names are passed through `console.printable`.
    """
    notes = []
    if note := edition_note(dataset, headers):
        notes.append(note)
    try:
        training = training_clips(dataset, config)
    except AsdjaxError as error:
        training = ()
        notes.append(str(error))
    try:
        scored = scored_machines(dataset, config)
    except AsdjaxError as error:
        scored = {}
        notes.append(str(error))
    names = sorted({c.machine for c in dataset.clips})
    machines = {
        name: _machine([c for c in dataset.clips if c.machine == name], headers) for name in names
    }
    if find_edition(dataset.edition).channels > 1:
        mono = [name for name in names if machines[name]["channels"] == [1]]
        if mono:
            notes.append(f"mono files, so that every view is the raw one: {', '.join(mono)}")
    labels = get_args(get_type_hints(DatasetConfig)["label"])
    return {
        "schema": SCHEMA,
        "root": printable(str(dataset.source)),
        "edition": dataset.edition,
        "clips": len(dataset.clips),
        "machines": machines,
        "training": {
            "clips": len(training),
            "machines": sorted({c.machine for c in training}),
            "label": config.label,
            "classes": list(class_names(training, config.label)),
        },
        "classes": {label: len(class_names(training, label)) for label in labels},
        "scored": {
            name: {"test": len(m.test), "train": len(m.train)} for name, m in scored.items()
        },
        "problems": [
            {"path": printable(p.path), "kind": p.kind, "reason": printable(p.reason)}
            for p in dataset.problems
        ],
        "unused": [
            {"folder": printable(u.folder), "files": u.files, "why": printable(u.why)}
            for u in dataset.unused
        ],
        "notes": [printable(note) for note in notes],
    }


def render(document: Mapping[str, Any]) -> str:
    """The document of `describe` as text: one line per machine and section, then the rest.

    Counts are given as source/target; test counts as normal+anomaly, or as one number if the names
    have no label.
    """
    head = ["machine", "section", "subset", "train", "test", "seconds", "channels", "Hz"]
    rows = [[*head, "attributes"]]
    for name, machine in document["machines"].items():
        for section, counts in machine["sections"].items():
            cells = [name, section, "+".join(counts["subsets"])]
            cells += [_cell(counts["train"]), _cell(counts["test"])]
            cells.append("-".join(f"{s:g}" for s in dict.fromkeys(machine["seconds"])))
            cells += [",".join(map(str, machine[key])) for key in ("channels", "rates")]
            cells.append(" ".join(machine["attributes"]) or "-")
            rows.append(cells)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{document['root']} ({document['edition']}): {document['clips']} clips"]
    lines += [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines.append(
        "train: source/target clips; test: normal+anomaly of source/target, or clips without labels"
    )
    training, scored = document["training"], document["scored"]
    lines.append(f"trains: {training['clips']} clips of {_list(training['machines'])}")
    lines.append(f"scored: {sum(m['test'] for m in scored.values())} clips of {_list(scored)}")
    classes = ", ".join(f"{label} {n}" for label, n in document["classes"].items())
    lines.append(f"classes ({training['label']} trains): {classes}")
    problems = document["problems"]
    kinds = Counter(problem["kind"] for problem in problems)
    lines.append("problems: " + (", ".join(f"{n} {k}" for k, n in sorted(kinds.items())) or "none"))
    # Folders of this kind are listed below, with the other unused folders.
    listed = [problem for problem in problems if problem["kind"] != "unused"]
    lines += _first(f"{p['path']}: {p['kind']}: {p['reason']}" for p in listed)
    if document["unused"]:
        lines.append("audio that is not used:")
        lines += _first(map(_unused, document["unused"]))
    lines += [f"note: {note}" for note in document["notes"]]
    return "\n".join(printable(line) for line in lines)


def _unused(of: Mapping[str, Any]) -> str:
    count = f" ({of['files']})" if of["files"] else ""  # else the reason has numbers
    return f"{of['folder']}{count}: {of['why']}"


def _machine(clips: list[Clip], headers: Mapping[str, Header]) -> dict[str, Any]:
    found = [headers[c.path] for c in clips if c.path in headers]
    seconds = [h.seconds for h in found]
    attributes: dict[str, set[str]] = {}
    for clip in clips:
        if clip.split == "train":  # a test clip's attributes may reveal its label
            for key, value in attribute_pairs(clip.attributes):
                attributes.setdefault(key, set()).add(value)
    sections = sorted({c.section for c in clips})
    return {
        "sections": {s: _section([c for c in clips if c.section == s]) for s in sections},
        "seconds": [min(seconds), max(seconds)] if seconds else [],
        "channels": sorted({h.channels for h in found}),
        "rates": sorted({h.rate for h in found}),
        "attributes": {key: sorted(values) for key, values in sorted(attributes.items())},
    }


def _section(clips: list[Clip]) -> dict[str, Any]:
    """The subsets of a section, and counts of its clips by split, domain and label."""
    counts: dict[str, Any] = {"subsets": sorted({c.subset for c in clips}), "train": {}, "test": {}}
    cells = Counter((c.split, c.domain or "unknown", c.label or "unknown") for c in clips)
    for (split, domain, label), n in sorted(cells.items()):
        counts[split].setdefault(domain, {})[label] = n
    return counts


def _cell(domains: Mapping[str, Mapping[str, int]]) -> str:
    order = ("normal", "anomaly", "unknown")
    cells = ("+".join(str(n[label]) for label in order if label in n) for n in domains.values())
    return "/".join(cells) or "0"


def _first(lines: Iterable[str]) -> list[str]:
    """The first lines, indented, and the number of the others."""
    all_lines = [f"  {line}" for line in lines]
    rest = len(all_lines) - _MOST_LINES
    more = [f"  and {rest} more (--json lists all)"] if rest > 0 else []
    return all_lines[:_MOST_LINES] + more


def _list(names: Any) -> str:
    return ", ".join(names) or "no machine (a note or a problem says why)"

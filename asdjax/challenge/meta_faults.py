"""Verification of any submission's meta.yaml."""

from collections.abc import Collection, Mapping
from typing import Any

from asdjax.challenge.submission import System
from asdjax.config import strict_yaml
from asdjax.config.schema import cut, found, shown, similar
from asdjax.data.editions import find_edition
from asdjax.errors import AsdjaxError
from asdjax.scoring.metrics import FIGURES as FIGURES

DESCRIPTION = (
    "input_sampling_rate", "data_augmentation", "front_end", "acoustic_features", "embeddings",
    "machine_learning_method", "aggregation_method", "domain_adaptation_method",
    "domain_generalization_method", "ensemble_method_subsystem_count", "decision_making",
    "attribute_usage", "external_data_usage", "development_data_usage",
)  # fmt: skip
"""Keys of `system.description` in meta.yaml."""
_MOST_LISTED = 100  # authors, external data sets, machines with results
_ABSENT = object()


def meta_faults(system: System, edition: str, machines: Collection[str]) -> list[str]:
    """All faults of a system's meta.yaml: one sentence each, which starts with the file name.

    Args:
        system: the system; if `system.faults` is empty, a missing meta.yaml is a fault.
        edition: name of the edition.
        machines: all machines that may have tables, including evaluation machines.
    """
    file = f"{system.folder}/{system.label}.meta.yaml"
    if system.meta is None:
        return [] if system.faults else [f"{file}: this file is missing"]
    try:
        tree = strict_yaml.parse(system.meta.decode("utf-8"), file)
    except UnicodeDecodeError:
        return [f"{file}: not valid YAML: not UTF-8 text"]
    except AsdjaxError as error:
        return [str(error)]
    return [f"{file}: {fault}" for fault in _content_faults(tree, system, edition, machines)]


def _content_faults(
    tree: Any, system: System, edition: str, machines: Collection[str]
) -> list[str]:
    if not isinstance(tree, Mapping):
        return ["expected keys and values"]
    fields = _Fields()
    faults, need, few = fields.faults, fields.need, fields.few
    label = need(tree, "submission.label", "", str, "text")
    if label is not None and label != system.label:
        faults.append(f"submission.label is {shown(label)}, but the folder is {system.label!r}")
    for key in ("name", "abbreviation"):
        need(tree, f"submission.{key}", "", str, "text")
    authors = few("submission.authors", need(tree, "submission.authors", "", list, "a list") or [])
    for i, author in enumerate(authors):
        for key in ("firstname", "lastname", "email", "affiliation.institution",
                    "affiliation.department", "affiliation.location"):  # fmt: skip
            need(author, key, f"submission.authors[{i}].", str | None, "text")
    corresponding = [
        a for a in authors if isinstance(a, Mapping) and a.get("corresponding") is True
    ]
    if len(corresponding) != 1:
        faults.append(f"submission.authors: {len(corresponding)} corresponding, expected 1")
    for key in DESCRIPTION:
        need(tree, f"system.description.{key}", "")
    parameters = need(tree, "system.complexity.total_parameters", "", int, "a whole number")
    if parameters is not None and parameters < 0:
        faults.append(
            f"system.complexity.total_parameters: at least 0 expected, found {shown(parameters)}"
        )
    need(tree, "system.source_code", "", str | None, "an address or null")
    sets = need(tree, "system.external_datasets", "", list | None, "a list or null")
    for i, external in enumerate(few("system.external_datasets", sets or [])):
        for key in ("name", "url"):
            need(external, key, f"system.external_datasets[{i}].", str | None, "text")
    if "results" in tree:  # absent if no development machine was scored
        results = need(tree, "results.development_dataset", "", Mapping, "machines") or {}
        _check_results(results, fields, edition, machines)
    return faults


def _check_results(
    results: Mapping[Any, Any], fields: "_Fields", edition: str, machines: Collection[str]
) -> None:
    facts = find_edition(edition)
    choices = {*facts.development, *machines} - ({*facts.evaluation} - {*facts.development})
    for machine in fields.few("results.development_dataset", [*results]):
        name = cut(str(machine))
        here = f"results.development_dataset.{name}"
        if machine not in choices:
            fields.faults.append(f"{here}: not a development machine{similar(name, choices)}")
        for figure in FIGURES:
            value = fields.need(results[machine], figure, f"{here}.", int | float, "a percentage")
            if value is not None and not 0 <= value <= 100:
                fields.faults.append(
                    f"{here}.{figure}: expected a percentage, found {shown(value)}"
                )


class _Fields:
    """Reads what meta.yaml holds, and notes what is wrong with it in `faults`."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def need(
        self, where: Any, key: str, prefix: str, kind: Any = object, words: str = "a value"
    ) -> Any:
        """The value of a dotted key; None, and a fault, if it is absent or has another type."""
        value = where
        for part in key.split("."):
            value = value.get(part, _ABSENT) if isinstance(value, Mapping) else _ABSENT
        if value is _ABSENT:
            self.faults.append(f"{prefix}{key} is missing")
        elif (
            not isinstance(value, kind)
            or (isinstance(value, bool) and kind is not object)
            or value == ""
        ):
            what = found(value) if words == "text" else f"found {shown(value)}"
            self.faults.append(f"{prefix}{key}: expected {words}, {what}")
        else:
            return value
        return None

    def few(self, key: str, items: list[Any]) -> list[Any]:
        """The first items of a list; a fault if there are too many."""
        if len(items) > _MOST_LISTED:
            self.faults.append(f"{key}: {len(items)} entries, more than {_MOST_LISTED}")
        return items[:_MOST_LISTED]

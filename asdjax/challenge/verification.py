"""Verification of any submission package: every fault is reported with its file and row.

The expected test clips come from the data set, from the expected.json that `asdjax submit` writes
next to its packages, or from the edition's rules.
"""

import dataclasses
import heapq
import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.resources.abc import Traversable
from itertools import product
from pathlib import Path
from typing import Any

from asdjax.challenge.meta_faults import DESCRIPTION as DESCRIPTION
from asdjax.challenge.meta_faults import FIGURES as FIGURES
from asdjax.challenge.meta_faults import meta_faults
from asdjax.challenge.package_files import (
    MOST_ROWS,
    Allowance,
    entries,
    is_folder,
    open_zip,
)
from asdjax.challenge.submission import (
    LABEL,
    MAX_SYSTEMS,
    TABLE,
    Key,
    System,
    Table,
    brief,
    copy_faults,
    decision_file,
    first_faults,
    folder_name,
    pair_faults,
    read_system,
    score_file,
)
from asdjax.config import registry
from asdjax.config.schema import shown, similar
from asdjax.data import dcase
from asdjax.data.editions import NEWEST, find_edition
from asdjax.errors import ArtifactError
from asdjax.files import user_files

Expected = Mapping[Key, frozenset[str] | None]
"""The base names of each section's test clips; None if only their naming scheme is known."""

EXPECTED_SCHEMA = "asdjax.expected/1"
EXPECTED_FILE = "expected.json"
_CELLS = tuple(product(("source", "target"), ("normal", "anomaly")))
_SHOWN = 5  # names listed in one fault
_MOST_HINTS = 20  # searches for a similar name, which are slow
_MOST_SYSTEMS_READ = MAX_SYSTEMS + 2
_MOST_EXPECTED = 2**24  # bytes of an expected.json
_MOST_SECTIONS = 200  # of an expected.json
_LONGEST_NAME = 255
_MOST_PRINTED = 200  # faults
_LONGEST_FAULT = 2000  # characters


@dataclasses.dataclass(frozen=True)
class Reference:
    """The test clips that a package is checked against, and where they come from."""

    origin: str
    edition: str
    names: Expected
    required: frozenset[Key]
    alternative: frozenset[Key] = frozenset()
    """Required instead of `required` if a system has no other machines."""

    def missing(self, present: Collection[Key]) -> list[Key]:
        """The required machines and sections that are not in `present`, sorted."""
        known = {key for key in present if key in self.names}
        only = bool(known) and known <= self.alternative
        return sorted((self.alternative if only else self.required) - set(present))


def expected_document(expected: Mapping[Key, Collection[str]], edition: str) -> dict[str, Any]:
    """The content of expected.json, with which a package can be verified without the data."""
    machines: dict[str, dict[str, list[str]]] = {}
    for (machine, section), names in sorted(expected.items()):
        machines.setdefault(machine, {})[section] = sorted(names)
    return {"schema": EXPECTED_SCHEMA, "edition": edition, "machines": machines}


def find_reference(folder: Path, data: Path | None, edition: str) -> Reference:
    """The clips to check a folder against; the order of the sources is as in `verify`."""
    if data is not None:
        return reference_of_data(data, edition)
    real = Path(os.path.realpath(folder))
    for parent in (real, *real.parents[:2]):
        if os.path.isfile(parent / EXPECTED_FILE):
            return reference_of_package(parent / EXPECTED_FILE)
    return reference_of_rules(edition)


def reference_of_data(root: Path, edition: str) -> Reference:
    """The test clips of a data set; all machines are required if none is for evaluation.

    Raises:
        AsdjaxError: the data set has no test clips, or a misnamed file.
    """
    dataset = dcase.scan(root, edition)
    if dataset.problems:
        raise ArtifactError(
            f"{root}: {len(dataset.problems)} misnamed files, the first is "
            f"{dataset.problems[0]}: repair the data set before checking against it"
        )
    test = [clip for clip in dataset.clips if clip.split == "test"]
    if not test:
        raise ArtifactError(f"{root}: no test clips found: give the root of the data set")
    names: dict[Key, set[str]] = {}
    for clip in test:
        names.setdefault((clip.machine, clip.section), set()).add(clip.name)
    evaluated = {(clip.machine, clip.section) for clip in test if clip.subset == "evaluation"}
    return Reference(
        f"the data set {root}",
        edition,
        _rules(edition) | {key: frozenset(found) for key, found in names.items()},
        frozenset(evaluated or names),
    )


def reference_of_package(path: Path) -> Reference:
    """The clips listed in an expected.json; all are required.

    Raises:
        AsdjaxError: the file is not an `expected_document`.
    """
    text = user_files.read_text(path, most=_MOST_EXPECTED)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    names = _expected_names(document)
    if names is None:
        raise ArtifactError(
            f"{path}: not written by asdjax submit (schema {EXPECTED_SCHEMA}): move it away, or "
            "give the data set with --data"
        )
    edition = document["edition"]
    if edition not in registry.names("edition"):
        raise ArtifactError(
            f"{path}: of an edition {shown(edition)}, which is not known: name the plugin that has "
            "it with --plugin"
        )
    return Reference(str(path), edition, _rules(edition) | names, frozenset(names))


def _expected_names(document: Any) -> dict[Key, frozenset[str]] | None:
    """The names in an `expected_document`; None if the document is not valid."""
    if not isinstance(document, dict) or document.get("schema") != EXPECTED_SCHEMA:
        return None
    edition, machines = document.get("edition"), document.get("machines")
    if not isinstance(edition, str) or not isinstance(machines, dict):
        return None
    names: dict[Key, frozenset[str]] = {}
    for machine, sections in machines.items():
        if not isinstance(sections, dict):
            return None
        for section, listed in sections.items():
            if not isinstance(listed, list) or len(names) >= _MOST_SECTIONS:
                return None
            texts = (machine, section, *listed)
            if not all(isinstance(text, str) and len(text) <= _LONGEST_NAME for text in texts):
                return None
            names[machine, section] = frozenset(listed)
    return names if sum(map(len, names.values())) <= MOST_ROWS else None


def reference_of_rules(edition: str) -> Reference:
    """The test clips by the edition's rules; its evaluation machines are required.

    A system with development machines only must have all of those instead.

    Raises:
        AsdjaxError: the edition's rules are not known.
    """
    names = _rules(edition)
    if not names:
        raise ArtifactError(
            f"{edition}: the number of test clips is not known without the data: give the data "
            "set with --data"
        )
    evaluated = frozenset(key for key in names if find_edition(edition).is_evaluation(*key))
    return Reference(
        f"the rules of {edition}", edition, names, evaluated, frozenset(names) - evaluated
    )


def validate(system: System, reference: Reference) -> list[str]:
    """All faults of a system: one sentence each, with the file and, if there is one, the row."""
    faults = list(system.faults)
    hints = iter(range(_MOST_HINTS))

    def hint(name: str, choices: Collection[str]) -> str:
        return "" if next(hints, None) is None else similar(name, choices)

    if not LABEL.fullmatch(system.label):
        faults.append(
            f"{system.folder}: {system.label!r} is not a valid label: expected "
            f"<Lastname>_<Institute>_task2_<1..{MAX_SYSTEMS}> with letters A-Z, a-z and digits"
        )
    meta_file = f"{system.label}.meta.yaml"
    known = [name(key) for key in reference.names for name in (score_file, decision_file)]
    for name in system.others:
        faults.append(
            f"{system.folder}/{name}: not a file of a submission: rename or delete it"
            f"{hint(name, [*known, meta_file])}"
        )
    for key in sorted(system.keys):
        machine, section = key
        for file_of, tables in ((score_file, system.scores), (decision_file, system.decisions)):
            if key not in tables:
                faults.append(f"{system.folder}/{file_of(key)}: this file is missing")
                continue
            faults += tables[key].faults
            if key in reference.names:
                if tables[key].count:
                    faults += first_faults(_names_faults(tables[key], key, reference))
                continue
            sections = sorted(s for m, s in reference.names if m == machine)
            fault = f"{machine} has no section {section}, only {', '.join(sections)}"
            if not sections:
                similar_name = hint(machine, {m for m, _ in reference.names})
                fault = f"unknown machine {machine!r}{similar_name}"
            faults.append(f"{tables[key].file}: {fault}")
        if key in system.scores and key in system.decisions:
            faults += pair_faults(system.scores[key], system.decisions[key])
    faults += copy_faults(system.scores)
    for key in reference.missing(system.keys):
        faults.append(
            f"{system.folder}: {key[0]} section {key[1]} is missing: add {score_file(key)} and "
            f"{decision_file(key)}"
        )
    machines = {machine for machine, _ in reference.names}
    return faults + meta_faults(system, reference.edition, machines)


def against_rules(systems: Sequence[System], edition: str) -> str | None:
    """Why the challenge would refuse systems that match their own data; None if it would not.

    Also None if the edition's rules are not known. The challenge needs the evaluation machines.
    """
    if not _rules(edition):
        return None
    rules = dataclasses.replace(reference_of_rules(edition), alternative=frozenset())
    faults = [fault for system in systems for fault in validate(system, rules)]
    return f"the challenge would refuse it: {brief(faults)}" if faults else None


def verify(path: Path, *, data: Path | None = None, edition: str = NEWEST) -> tuple[str, list[str]]:
    """Check a submission package.

    Args:
        path: the zip file, a system's folder, the folder task2 or the folder that contains it.
        data: root of the data set that it is checked against. Default: an expected.json in the
            folder or one of the two above it, else the edition's rules.
        edition: name of the edition; an expected.json overrides it.

    Returns:
        A sentence on what was checked against what, and all faults. If there are none, the sentence
        also says what the challenge's rules would find.

    Raises:
        AsdjaxError: there is no submission, or nothing to check it against.
    """
    if not os.path.lexists(path):
        raise ArtifactError(
            f"{path}: no such file or folder: give a submission's folder or zip file"
        )
    reference = find_reference(path, data, edition)
    with _opened(path) as (root, faults):
        folders, misplaced = _system_folders(root, is_archive=not is_folder(path))
        faults = [*faults, *misplaced]
        if len(folders) > _MOST_SYSTEMS_READ:
            raise ArtifactError(
                f"{path}: {len(folders)} folders of systems, at most {MAX_SYSTEMS} are allowed"
            )
        allowance = Allowance()
        systems = [read_system(folder, allowance) for folder in folders]
    for system in systems:
        faults += validate(system, reference)
    numbers: dict[str, str] = {}
    for system in systems:
        if not (match := LABEL.fullmatch(system.label)):
            continue
        first = numbers.setdefault(match["number"], system.label)
        if first != system.label:
            faults.append(
                f"{path}: {first} and {system.label} have the same number: number the systems "
                "from 1"
            )
    if len(systems) > MAX_SYSTEMS:
        faults.append(f"{path}: {len(systems)} systems, at most {MAX_SYSTEMS} are allowed")
    machines = {machine for system in systems for machine, _ in system.keys}
    labels = ", ".join(system.label for system in systems) or "no system"
    what = f"{path}: {labels}; {len(machines)} machines; checked against {reference.origin}"
    refusal = None if faults else against_rules(systems, reference.edition)
    return f"{what}; but {refusal}" if refusal else what, faults


def _rules(edition: str) -> dict[Key, frozenset[str] | None]:
    """The test clips by the edition's rules; empty if these are not known."""
    facts = find_edition(edition)
    if not facts.clips_per_cell:
        return {}
    development = product(facts.development, facts.development_sections)
    names: dict[Key, frozenset[str] | None] = dict.fromkeys(development)
    for machine, section in product(facts.evaluation, facts.evaluation_sections):
        count = range(facts.clips_per_cell * len(_CELLS))
        names[machine, section] = frozenset(f"section_{section}_{i:04d}.wav" for i in count)
    return names


def _opened(path: Path) -> AbstractContextManager[tuple[Traversable, list[str]]]:
    """The root of a folder or zip file, and the faults of the archive itself."""
    return nullcontext((path, [])) if is_folder(path) else open_zip(path)


def _system_folders(root: Traversable, *, is_archive: bool) -> tuple[list[Traversable], list[str]]:
    """The systems' folders, and faults of what is in the wrong place."""
    base, faults = root / "task2", []
    if is_archive:
        others = [e for e in entries(root) if e.name != "task2" and not _is_report(e.name)]
        faults = [f"{e}: only the folder task2 belongs here" for e in others]
    if not is_folder(base):
        if is_archive:
            return [], [*faults, f"{root}: contains no folder task2"]
        name, inside = folder_name(root), entries(root)
        tables = any(TABLE.fullmatch(e.name) or e.name.endswith(".meta.yaml") for e in inside)
        if tables or LABEL.fullmatch(name):
            return [root], faults
        base = root
        if name != "task2":
            if not any(LABEL.fullmatch(entry.name) for entry in inside):
                raise ArtifactError(
                    f"{root}: no submission found: give a system's folder, the folder task2, the "
                    "folder that contains it, or the zip file"
                )
            faults.append(f"{root}: the systems' folders must be in a folder named task2")
    inside = entries(base)
    folders = [entry for entry in inside if is_folder(entry)]
    faults += [
        f"{entry}: only the systems' folders belong here"
        for entry in inside
        if not is_folder(entry) and not _is_report(entry.name)
    ]
    return folders, faults if folders else [*faults, f"{base}: contains no system's folder"]


def _names_faults(table: Table, key: Key, reference: Reference) -> Iterator[str]:
    """Faults of a table's names and number of rows, given the section's test clips."""
    machine, section = key
    expected = reference.names[key]
    each = find_edition(reference.edition).clips_per_cell
    cells: Counter[tuple[str | None, str]] = Counter()
    for name, row in table.rows.items():
        if expected is not None and name in expected:
            continue
        try:
            clip = dcase.parse_clip(f"{machine}/test/{name}", reference.edition)
        except dcase.FaultyFile as fault:
            yield f"{table.file}: row {row.number}: {name!r}: {fault.problem.reason}"
            continue
        if expected is not None or clip.section != section or clip.label is None:
            yield (
                f"{table.file}: row {row.number}: {name!r} is not a test clip of {machine} "
                f"section {section}"
            )
        else:
            cells[clip.domain, clip.label] += 1
    if expected is None:
        for cell in _CELLS:
            if cells[cell] != each:
                counts = f"{cells[cell]}, expected {each}"
                yield f"{table.file}: {' '.join(cell)} clips: {counts}"
    elif missing := expected - set(table.rows):
        yield f"{table.file}: clips without a row ({len(missing)}): {_listed(missing)}"
    count = each * len(_CELLS) if expected is None else len(expected)
    if table.count != count:
        yield f"{table.file}: rows: {table.count}, expected {count}"


def lines(faults: Sequence[str]) -> list[str]:
    """The faults to print: the first ones, cut if long, and the number of the others."""
    others = len(faults) - _MOST_PRINTED
    first = [fault[:_LONGEST_FAULT] for fault in faults[:_MOST_PRINTED]]
    return [*first, f"and {others} more faults"] if others > 0 else first


def _is_report(name: str) -> bool:
    return name.endswith(".technical_report.pdf")


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(heapq.nsmallest(_SHOWN, names))
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} others"

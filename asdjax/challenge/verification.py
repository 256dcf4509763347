"""Verification of a submission package, ours or anyone's: every fault by file and row.

What the names of the test clips are follows from the data set, from the expected.json that
`asdjax submit` leaves beside its packages, or from the edition's rules.
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
from asdjax.config.recipe import DatasetConfig
from asdjax.config.schema import shown, similar
from asdjax.data import dcase
from asdjax.data.editions import find_edition
from asdjax.errors import AsdjaxError
from asdjax.files import user_files

Expected = Mapping[Key, frozenset[str] | None]
"""The base names of each section's test clips; None where only their grammar is known."""

EXPECTED_SCHEMA = "asdjax.expected/1"
EXPECTED_FILE = "expected.json"
_CELLS = tuple(product(("source", "target"), ("normal", "anomaly")))
_SHOWN = 5  # names listed in one sentence
_MOST_HINTS = 20  # names for which a similar one is looked for
_MOST_SYSTEMS_READ = MAX_SYSTEMS + 2
_MOST_EXPECTED = 2**24  # bytes of an expected.json
_MOST_SECTIONS = 200  # in it
_LONGEST_NAME = 255
_MOST_PRINTED = 200  # faults
_LONGEST_FAULT = 2000  # characters: a few paths


@dataclasses.dataclass(frozen=True)
class Reference:
    """What a package is checked against."""

    origin: str
    edition: str
    names: Expected
    required: frozenset[Key]
    alternative: frozenset[Key] = frozenset()
    """Required instead of a folder that holds nothing else."""

    def missing(self, present: Collection[Key]) -> list[Key]:
        """The required machines and sections that are not present, sorted."""
        known = {key for key in present if key in self.names}
        only = bool(known) and known <= self.alternative
        return sorted((self.alternative if only else self.required) - set(present))


def expected_document(expected: Mapping[Key, Collection[str]], edition: str) -> dict[str, Any]:
    """What expected.json says beside a package, so that it can be verified without the data."""
    machines: dict[str, dict[str, list[str]]] = {}
    for (machine, section), names in sorted(expected.items()):
        machines.setdefault(machine, {})[section] = sorted(names)
    return {"schema": EXPECTED_SCHEMA, "edition": edition, "machines": machines}


def find_reference(folder: Path, data: Path | None, edition: str) -> Reference:
    """The data set if given, else an expected.json in or up to two above the folder, else rules."""
    if data is not None:
        return reference_of_data(data, edition)
    own = Path(os.path.realpath(folder))
    for place in (own, *own.parents[:2]):
        if os.path.isfile(place / EXPECTED_FILE):
            return reference_of_package(place / EXPECTED_FILE)
    return reference_of_rules(edition)


def reference_of_data(root: Path, edition: str) -> Reference:
    """The test clips of a data set; its evaluation machines are required, else all.

    Raises:
        AsdjaxError: no data set with test clips there, or a misnamed file in it.
    """
    dataset = dcase.scan(root, edition)
    if dataset.problems:
        raise AsdjaxError(
            f"{root}: {len(dataset.problems)} misnamed files, the first: {dataset.problems[0]}: "
            "repair the data set before checking against it"
        )
    test = [clip for clip in dataset.clips if clip.split == "test"]
    if not test:
        raise AsdjaxError(f"{root}: no test clips to check against: give the data set's root")
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
    """The clips that an expected.json states; all are required.

    Raises:
        AsdjaxError: not a document of `expected_document`.
    """
    text = user_files.read_text(path, most=_MOST_EXPECTED)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    names = _expected_names(document)
    if names is None:
        raise AsdjaxError(
            f"{path}: not as asdjax submit writes it (schema {EXPECTED_SCHEMA}): move it away, or "
            "give the data set's root to check against"
        )
    edition = document["edition"]
    if edition not in registry.names("edition"):
        raise AsdjaxError(
            f"{path}: of an edition {shown(edition)}, which is not known: name the plugin that has "
            "it with --plugin"
        )
    return Reference(str(path), edition, _rules(edition) | names, frozenset(names))


def _expected_names(document: Any) -> dict[Key, frozenset[str]] | None:
    """The names that a document of `expected_document` states; None: it is no such document."""
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
    """What the edition itself fixes; its evaluation machines are required.

    A folder of development machines alone must hold all of these instead.

    Raises:
        AsdjaxError: an edition whose numbers are not known.
    """
    names = _rules(edition)
    if not names:
        raise AsdjaxError(
            f"{edition}: the number of its test clips is known from the data alone: give the data "
            "set's root to check against"
        )
    evaluated = frozenset(key for key in names if find_edition(edition).is_evaluation(*key))
    return Reference(
        f"the rules of {edition}", edition, names, evaluated, frozenset(names) - evaluated
    )


def validate(system: System, reference: Reference) -> list[str]:
    """All faults of a system: sentences that name the file and, where there is one, the row."""
    faults = list(system.faults)
    hints = iter(range(_MOST_HINTS))

    def hint(name: str, choices: Collection[str]) -> str:
        return "" if next(hints, None) is None else similar(name, choices)

    if not LABEL.fullmatch(system.label):
        faults.append(
            f"{system.folder}: {system.label!r} is no label: expected "
            f"<Lastname>_<Institute>_task2_<1..{MAX_SYSTEMS}> of letters A-Z, a-z and digits"
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
            wrong = f"section {section} is none of {machine}'s ({', '.join(sections)})"
            if not sections:
                wrong = f"no machine {machine!r}{hint(machine, {m for m, _ in reference.names})}"
            faults.append(f"{tables[key].file}: {wrong}")
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
    """Why the challenge would refuse systems that are right for their own data; None: it would not.

    None too where an edition's rules are not known. Development machines alone are no entry.
    """
    if not _rules(edition):
        return None
    rules = dataclasses.replace(reference_of_rules(edition), alternative=frozenset())
    faults = [fault for system in systems for fault in validate(system, rules)]
    return f"the challenge would refuse it: {brief(faults)}" if faults else None


def verify(
    path: Path, *, data: Path | None = None, edition: str = DatasetConfig.edition
) -> tuple[str, list[str]]:
    """Check a package: its zip file, a system's folder, the task2 folder or the folder above it.

    Args:
        path: what to check.
        data: root of the data set that it is about; without it, an expected.json in the folder or
            up to two above it, else the edition's rules.
        edition: name of the edition; an expected.json states its own.

    Returns:
        What was checked and against what, and all faults. Where there is none, the first tells too
        what the challenge's own rules would find.

    Raises:
        AsdjaxError: there is no submission here, or nothing to check it against.
    """
    if not os.path.lexists(path):
        raise AsdjaxError(f"{path}: no such file or folder: give a submission's folder or zip file")
    reference = find_reference(path, data, edition)
    with _opened(path) as (root, faults):
        folders, misplaced = _system_folders(root, is_archive=not is_folder(path))
        faults = [*faults, *misplaced]
        if len(folders) > _MOST_SYSTEMS_READ:
            raise AsdjaxError(
                f"{path}: {len(folders)} systems' folders, at most {MAX_SYSTEMS} may be submitted"
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
                f"{path}: {first} and {system.label} are both system {match['number']}: number the "
                "systems from 1"
            )
    if len(systems) > MAX_SYSTEMS:
        faults.append(f"{path}: {len(systems)} systems, at most {MAX_SYSTEMS} may be submitted")
    machines = {machine for system in systems for machine, _ in system.keys}
    labels = ", ".join(system.label for system in systems) or "no system"
    what = f"{path}: {labels}; {len(machines)} machines; against {reference.origin}"
    unruled = None if faults else against_rules(systems, reference.edition)
    return f"{what}; but {unruled}" if unruled else what, faults


def _rules(edition: str) -> dict[Key, frozenset[str] | None]:
    """Test clips by the edition's rules; empty where these are not known."""
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
    """A folder, or the inside of a zip file with the faults of the archive itself."""
    return nullcontext((path, [])) if is_folder(path) else open_zip(path)


def _system_folders(root: Traversable, *, is_archive: bool) -> tuple[list[Traversable], list[str]]:
    """The systems' folders, and what lies where it should not."""
    base, faults = root / "task2", []
    if is_archive:
        strangers = [e for e in entries(root) if e.name != "task2" and not _is_report(e.name)]
        faults = [f"{e}: only the folder task2 belongs here" for e in strangers]
    if not is_folder(base):
        if is_archive:
            return [], [*faults, f"{root}: no folder task2 in it"]
        own, inside = folder_name(root), entries(root)
        tables = any(TABLE.fullmatch(e.name) or e.name.endswith(".meta.yaml") for e in inside)
        if tables or LABEL.fullmatch(own):
            return [root], faults
        base = root
        if own != "task2":
            if not any(LABEL.fullmatch(entry.name) for entry in inside):
                raise AsdjaxError(
                    f"{root}: no submission here: give a system's folder, the folder task2, the "
                    "folder that holds it, or the zip file"
                )
            faults.append(f"{root}: the systems' folders must lie in a folder named task2")
    inside = entries(base)
    folders = [entry for entry in inside if is_folder(entry)]
    faults += [
        f"{entry}: only the systems' folders belong here"
        for entry in inside
        if not is_folder(entry) and not _is_report(entry.name)
    ]
    return folders, faults if folders else [*faults, f"{base}: no system's folder in it"]


def _names_faults(table: Table, key: Key, reference: Reference) -> Iterator[str]:
    """A table's names and numbers of rows against the section's test clips."""
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
                f"{table.file}: row {row.number}: {name!r} is no test clip of {machine} section "
                f"{section}"
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
    """What is printed of some faults: the first ones, and how many others there are."""
    others = len(faults) - _MOST_PRINTED
    first = [fault[:_LONGEST_FAULT] for fault in faults[:_MOST_PRINTED]]
    return [*first, f"and {others} more faults"] if others > 0 else first


def _is_report(name: str) -> bool:
    return name.endswith(".technical_report.pdf")


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(heapq.nsmallest(_SHOWN, names))
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} others"

"""Verification of a submission package, ours or anyone's: every fault by file and row.

What the names of the test clips are follows from the data set, from the expected.json that
`asdjax submit` leaves beside its packages, or from the edition's rules.
"""

import dataclasses
import difflib
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources.abc import Traversable
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from asdjax import dcase, runs
from asdjax.config import StrictLoader
from asdjax.dcase import EDITIONS
from asdjax.errors import AsdjaxError
from asdjax.submission import (
    LABEL,
    MAX_SYSTEMS,
    TABLE,
    Key,
    System,
    Table,
    brief,
    copy_faults,
    decision_file,
    folder_name,
    pair_faults,
    read_system,
    score_file,
)

Expected = Mapping[Key, frozenset[str] | None]
"""The base names of each section's test clips; None where only their grammar is known."""

EXPECTED_SCHEMA = "asdjax.expected/1"
EXPECTED_FILE = "expected.json"
RULED_EDITION = "dcase2026"
"""The edition whose test clips are known without its data."""
FIGURES = ("auc_source", "auc_target", "pauc")
DESCRIPTION = (
    "input_sampling_rate", "data_augmentation", "front_end", "acoustic_features", "embeddings",
    "machine_learning_method", "aggregation_method", "domain_adaptation_method",
    "domain_generalization_method", "ensemble_method_subsystem_count", "decision_making",
    "attribute_usage", "external_data_usage", "development_data_usage",
)  # fmt: skip
"""Keys of `system.description` in meta.yaml."""
_CELLS = tuple(product(("source", "target"), ("normal", "anomaly")))
_CLIPS_PER_CELL = 50
_SHOWN = 5  # names listed in one sentence
_ABSENT = object()


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
    for place in (folder.resolve(), *folder.resolve().parents[:2]):
        if (place / EXPECTED_FILE).is_file():
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
    document = runs.read_json(path)
    try:
        if document["schema"] != EXPECTED_SCHEMA:
            raise KeyError(document["schema"])
        edition = document["edition"]
        names = {
            (machine, section): frozenset(listed)
            for machine, sections in document["machines"].items()
            for section, listed in sections.items()
        }
        ruled = _rules(edition)
    except (KeyError, TypeError, AttributeError) as error:
        raise AsdjaxError(
            f"{path}: not as asdjax submit writes it (schema {EXPECTED_SCHEMA}): move it away, or "
            "give the data set's root to check against"
        ) from error
    return Reference(str(path), edition, ruled | names, frozenset(names))


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
    evaluated = frozenset(key for key in names if EDITIONS[edition].is_evaluation(*key))
    return Reference(
        f"the rules of {edition}", edition, names, evaluated, frozenset(names) - evaluated
    )


def validate(system: System, reference: Reference) -> list[str]:
    """All faults of a system: sentences that name the file and, where there is one, the row."""
    faults = []
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
            f"{_hint(name, [*known, meta_file])}"
        )
    for key in sorted(system.keys):
        machine, section = key
        for name, tables in ((score_file, system.scores), (decision_file, system.decisions)):
            if key not in tables:
                faults.append(f"{system.folder}/{name(key)}: this file is missing")
                continue
            faults += tables[key].faults
            if key in reference.names:
                faults += _names_faults(tables[key], key, reference) if tables[key].count else []
                continue
            sections = sorted(s for m, s in reference.names if m == machine)
            wrong = f"section {section} is none of {machine}'s ({', '.join(sections)})"
            if not sections:
                wrong = f"no machine {machine!r}{_hint(machine, {m for m, _ in reference.names})}"
            faults.append(f"{tables[key].file}: {wrong}")
        if key in system.scores and key in system.decisions:
            faults += pair_faults(system.scores[key], system.decisions[key])
    faults += copy_faults(system.scores)
    for key in reference.missing(system.keys):
        faults.append(
            f"{system.folder}: {key[0]} section {key[1]} is missing: add {score_file(key)} and "
            f"{decision_file(key)}"
        )
    file = f"{system.folder}/{meta_file}"
    if system.meta is None:
        return [*faults, f"{file}: this file is missing"]
    return faults + [f"{file}: {fault}" for fault in _meta_faults(system, reference)]


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
    path: Path, *, data: Path | None = None, edition: str = "dcase2026"
) -> tuple[str, list[str]]:
    """Check a package: its zip file, a system's folder, the task2 folder or the folder above it.

    Args:
        path: what to check.
        data: root of the data set that it is about; without it, an expected.json in the folder or
            up to two above it, else the edition's rules.
        edition: a key of `dcase.EDITIONS`; an expected.json states its own.

    Returns:
        What was checked and against what, and all faults. Where there is none, the first tells too
        what the challenge's own rules would find.

    Raises:
        AsdjaxError: there is no submission here, or nothing to check it against.
    """
    if not path.exists():
        raise AsdjaxError(f"{path}: no such file or folder: give a submission's folder or zip file")
    reference = find_reference(path, data, edition)
    with _opened(path) as (root, faults):
        folders, misplaced = _system_folders(root, is_archive=not path.is_dir())
        faults = [*faults, *misplaced]
        systems = [read_system(folder) for folder in folders]
    for system in systems:
        faults += validate(system, reference)
    numbers: dict[str, str] = {}
    for system in systems:
        match = LABEL.fullmatch(system.label)
        first = numbers.setdefault(match["number"], system.label) if match else system.label
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
    facts = EDITIONS[edition]
    if edition != RULED_EDITION:
        return {}
    development = product(facts.development, facts.development_sections)
    names: dict[Key, frozenset[str] | None] = dict.fromkeys(development)
    for machine, section in product(facts.evaluation, facts.evaluation_sections):
        count = range(_CLIPS_PER_CELL * len(_CELLS))
        names[machine, section] = frozenset(f"section_{section}_{i:04d}.wav" for i in count)
    return names


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Traversable, list[str]]]:
    """A folder, or the inside of a zip file with the faults of the archive itself."""
    if path.is_dir():
        yield path, []
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
        # RuntimeError is zipfile's for encrypted members, NotImplementedError for foreign methods
        raise AsdjaxError(f"{path}: cannot be read as a zip file ({error})") from error
    if damaged:
        raise AsdjaxError(f"{path}: {damaged} in the archive is damaged: make it again")
    with zipfile.ZipFile(path) as archive:
        doubled = [name for name, count in Counter(archive.namelist()).items() if count > 1]
        yield zipfile.Path(archive), [f"{path}: {name} is twice in the archive" for name in doubled]


def _system_folders(root: Traversable, *, is_archive: bool) -> tuple[list[Traversable], list[str]]:
    """The systems' folders, and what lies where it should not."""
    entries = sorted(root.iterdir(), key=lambda entry: entry.name)
    base, faults = root / "task2", []
    if is_archive:
        strangers = [e for e in entries if e.name != "task2" and not _is_report(e.name)]
        faults = [f"{e}: only the folder task2 belongs here" for e in strangers]
    if not base.is_dir():
        if is_archive:
            return [], [*faults, f"{root}: no folder task2 in it"]
        own = folder_name(root)
        tables = any(TABLE.fullmatch(e.name) or e.name.endswith(".meta.yaml") for e in entries)
        if tables or LABEL.fullmatch(own):
            return [root], faults
        base = root
        if own != "task2":
            if not any(LABEL.fullmatch(entry.name) for entry in entries):
                raise AsdjaxError(
                    f"{root}: no submission here: give a system's folder, the folder task2, the "
                    "folder that holds it, or the zip file"
                )
            faults.append(f"{root}: the systems' folders must lie in a folder named task2")
    inside = sorted(base.iterdir(), key=lambda entry: entry.name)
    folders = [entry for entry in inside if entry.is_dir()]
    faults += [
        f"{entry}: only the systems' folders belong here"
        for entry in inside
        if not entry.is_dir() and not _is_report(entry.name)
    ]
    return folders, faults if folders else [*faults, f"{base}: no system's folder in it"]


def _names_faults(table: Table, key: Key, reference: Reference) -> list[str]:
    """A table's names and numbers of rows against the section's test clips."""
    machine, section = key
    expected, faults = reference.names[key], []
    cells = Counter()
    for name, row in table.rows.items():
        if expected is not None and name in expected:
            continue
        try:
            clip = dcase.parse_clip(f"{machine}/test/{name}", reference.edition)
        except dcase.FaultyFile as fault:
            faults.append(f"{table.file}: row {row.number}: {name!r}: {fault.problem.reason}")
            continue
        if expected is not None or clip.section != section or clip.label is None:
            faults.append(
                f"{table.file}: row {row.number}: {name!r} is no test clip of {machine} section "
                f"{section}"
            )
        else:
            cells[clip.domain, clip.label] += 1
    if expected is None:
        faults += [
            f"{table.file}: {' '.join(cell)} clips: {cells[cell]}, expected {_CLIPS_PER_CELL}"
            for cell in _CELLS
            if cells[cell] != _CLIPS_PER_CELL
        ]
    elif missing := expected - set(table.rows):
        faults.append(f"{table.file}: clips without a row ({len(missing)}): {_listed(missing)}")
    count = _CLIPS_PER_CELL * len(_CELLS) if expected is None else len(expected)
    if table.count != count:
        faults.append(f"{table.file}: rows: {table.count}, expected {count}")
    return faults


def _meta_faults(system: System, reference: Reference) -> list[str]:
    try:
        tree = StrictLoader(system.meta.decode("utf-8")).get_single_data()
    except (yaml.YAMLError, ValueError) as error:
        return [f"not valid YAML: {' '.join(str(error).split())}"]
    if not isinstance(tree, Mapping):
        return ["expected keys and values"]
    faults = []

    def need(where: Any, key: str, prefix: str, kind: Any = object, words: str = "a value") -> Any:
        """The value of a dotted key, or None with a fault if it is absent or of another kind."""
        value = where
        for part in key.split("."):
            value = value.get(part, _ABSENT) if isinstance(value, Mapping) else _ABSENT
        if value is _ABSENT:
            faults.append(f"{prefix}{key} is missing")
        elif (
            not isinstance(value, kind)
            or (isinstance(value, bool) and kind is not object)
            or value == ""
        ):
            faults.append(f"{prefix}{key}: expected {words}, found {value!r}")
        else:
            return value
        return None

    own = need(tree, "submission.label", "", str, "text")
    if own is not None and own != system.label:
        faults.append(f"submission.label is {own!r}, but the folder is {system.label!r}")
    for key in ("name", "abbreviation"):
        need(tree, f"submission.{key}", "", str, "text")
    authors = need(tree, "submission.authors", "", list, "a list") or []
    for i, author in enumerate(authors):
        for key in ("firstname", "lastname", "email", "affiliation.institution",
                    "affiliation.department", "affiliation.location"):  # fmt: skip
            need(author, key, f"submission.authors[{i}].", str | None, "text")
    corresponding = [
        a for a in authors if isinstance(a, Mapping) and a.get("corresponding") is True
    ]
    if len(corresponding) != 1:
        faults.append(f"submission.authors: corresponding: {len(corresponding)}, expected 1")
    for key in DESCRIPTION:
        need(tree, f"system.description.{key}", "")
    need(tree, "system.complexity.total_parameters", "", int, "a whole number")
    need(tree, "system.source_code", "", str | None, "an address or null")
    sets = need(tree, "system.external_datasets", "", list | None, "a list or null")
    for i, external in enumerate(sets or []):
        for key in ("name", "url"):
            need(external, key, f"system.external_datasets[{i}].", str | None, "text")
    if "results" in tree:  # absent where no development machine was scored
        results = need(tree, "results.development_dataset", "", Mapping, "machines") or {}
        facts = EDITIONS[reference.edition]
        machines = {*facts.development, *(machine for machine, _ in reference.names)}
        machines -= {*facts.evaluation} - {*facts.development}
        for machine in results:
            here = f"results.development_dataset.{machine}"
            if machine not in machines:
                faults.append(f"{here}: no development machine{_hint(str(machine), machines)}")
            for figure in FIGURES:
                value = need(results[machine], figure, f"{here}.", int | float, "a percentage")
                if value is not None and not 0 <= value <= 100:
                    faults.append(f"{here}.{figure}: expected a percentage, found {value}")
    return faults


def _is_report(name: str) -> bool:
    return name.endswith(".technical_report.pdf")


def _hint(name: str, choices: Collection[str]) -> str:
    folded = {choice.casefold(): choice for choice in sorted(choices)}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f": did you mean {folded[close[0]]!r}?" if close else ""


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} others"

"""The challenge's submission package: its format, writing and reading tables.

    task2/<label>/anomaly_score_<machine>_section_<NN>_test.csv     name, score
    task2/<label>/decision_result_<machine>_section_<NN>_test.csv   name, 0 or 1
    task2/<label>/<label>.meta.yaml

A label is `<Lastname>_<Institute>_task2_<1..4>`; a package holds at most four systems.

Conventions
* The official evaluator pairs rows by their position after sorting and does not compare names, so
  that a missing row silently gives wrong figures. Therefore every row is checked here. A fault is
  one sentence with its file and row, counted from 1.
* Tables are UTF-8, without a header. Rows may end in LF or CRLF. A byte-order mark is a fault: it
  would become part of the first name, which would then be sorted last.
* A row whose name is only misspelt (a path, extra spaces, no extension) is assigned to its clip, so
  that one mistake gives one fault.
* `*.technical_report.pdf` is allowed next to the tables.
"""

import csv
import dataclasses
import io
import itertools
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path

from asdjax.challenge.package_files import MOST_ROWS, Allowance, entries, is_folder
from asdjax.config.schema import cut, digits, shown
from asdjax.errors import ArtifactError, AsdjaxError

Key = tuple[str, str]
"""Machine and section."""

MAX_SYSTEMS = 4
MOST_FAULTS = 300
"""Most faults of one kind that are reported per file."""

_SCORE, _DECISION = "anomaly_score", "decision_result"
TABLE = re.compile(
    rf"(?P<kind>{_SCORE}|{_DECISION}|ground_truth)_(?P<machine>.+)_section_(?P<section>[0-9]{{2}})"
    r"_test\.csv"
)
LABEL = re.compile(r"[A-Za-z0-9]+_[A-Za-z0-9]+_task2_(?P<number>[1-4])")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LONGEST_NAME = 255  # the limit of most file systems


def label(lastname: str, institute: str, number: int) -> str:
    """A system's label.

    Raises:
        AsdjaxError: a part has other characters than A-Z, a-z and 0-9, or the number is not 1 to 4.
    """
    made = f"{lastname}_{institute}_task2_{number}"
    if not LABEL.fullmatch(made):
        raise ArtifactError(
            f"{made!r} is not a valid label: use only letters A-Z, a-z and digits in last name and "
            f"institute, and a number from 1 to {MAX_SYSTEMS}"
        )
    return made


def score_file(key: Key) -> str:
    """File name of a section's anomaly scores."""
    return f"{_SCORE}_{key[0]}_section_{key[1]}_test.csv"


def decision_file(key: Key) -> str:
    """File name of a section's decisions."""
    return f"{_DECISION}_{key[0]}_section_{key[1]}_test.csv"


def score_bytes(values: Mapping[str, float]) -> bytes:
    """A table of scores by base name: exact, at least 8 significant digits, sorted by name.

    Raises:
        AsdjaxError: a score is not finite.
    """
    for name, value in values.items():
        if not math.isfinite(value):
            raise ArtifactError(f"{name}: the score is {value}, but must be finite")

    def text(value: float) -> str:
        padded = f"{value:#.8g}"
        return padded if float(padded) == value else repr(float(value))

    return _table_bytes({name: text(value) for name, value in values.items()})


def decision_bytes(values: Mapping[str, int]) -> bytes:
    """A table of decisions (0 or 1) by base name, sorted by name."""
    return _table_bytes({name: str(int(value)) for name, value in values.items()})


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table."""

    number: int
    """Counted from 1."""
    value: float | None
    """None if the text is not a valid value."""


@dataclasses.dataclass(frozen=True)
class Table:
    """The content of one file of scores, decisions or ground truth."""

    file: str
    count: int
    """Number of rows without a header and empty rows; 0 if the file could not be read."""
    rows: Mapping[str, Row]
    """By base name, with misspellings corrected; the first of duplicate rows."""
    faults: tuple[str, ...]

    @property
    def values(self) -> dict[str, float]:
        """The valid values by base name, sorted."""
        rows = sorted(self.rows.items())
        return {name: row.value for name, row in rows if row.value is not None}


@dataclasses.dataclass(frozen=True)
class System:
    """The content of one system's folder."""

    folder: str
    label: str
    """The folder's name."""
    scores: Mapping[Key, Table]
    decisions: Mapping[Key, Table]
    meta: bytes | None
    """Content of `<label>.meta.yaml`."""
    others: tuple[str, ...]
    """Names of all other files and folders."""
    faults: tuple[str, ...] = ()
    """Why meta.yaml could not be read."""

    @property
    def keys(self) -> set[Key]:
        """The machines and sections that have a table."""
        return {*self.scores, *self.decisions}


def read_system(folder: Traversable, allowance: Allowance | None = None) -> System:
    """Read a system's folder; faults are stored in the result (see `verification.validate`).

    Args:
        folder: the system's folder.
        allowance: limits of the package that the folder belongs to; None: new limits.

    Raises:
        AsdjaxError: the folder does not exist or contains too many files.
    """
    if not is_folder(folder):
        raise ArtifactError(f"{folder}: no such folder: give a system's folder with its tables")
    allowance = allowance or Allowance()
    label = folder_name(folder)
    scores: dict[Key, Table] = {}
    decisions: dict[Key, Table] = {}
    others, meta = [], None
    faults: tuple[str, ...] = ()
    for file in entries(folder):
        match = _table_name(unicodedata.normalize("NFC", file.name))
        if is_folder(file):
            others.append(file.name)
        elif match and match["kind"] == _SCORE:
            _add(scores, match, _read_table(file, _score, allowance))
        elif match and match["kind"] == _DECISION:
            _add(decisions, match, _read_table(file, _flag, allowance))
        elif file.name == f"{label}.meta.yaml":
            try:
                meta = allowance.read(file)
            except AsdjaxError as error:
                faults = (str(error),)
        elif not file.name.endswith(".technical_report.pdf"):
            others.append(file.name)
    name = str(folder).rstrip("/")
    return System(name, label, scores, decisions, meta, tuple(others), faults)


def scores(folder: Path) -> dict[Key, list[tuple[str, float, int | None]]]:
    """The scores and decisions in a system's folder, for evaluation.

    Returns:
        For each machine and section a list of (base name, score, decision), sorted by name. The
        decision is None if there is no table of decisions.

    Raises:
        AsdjaxError: the folder does not exist, or tables are faulty. The message has the first
            fault and the number of the others.
    """
    system = read_system(folder)
    faults = [
        f"{folder / name}: expected {_SCORE} or {_DECISION}, then _<machine>_section_<NN>_test.csv"
        for name in system.others
        if name.startswith((_SCORE, _DECISION))
    ]
    for key in sorted(system.keys):
        for tables in (system.scores, system.decisions):
            faults += tables[key].faults if key in tables else ()
        if key not in system.scores:
            faults.append(f"{folder / score_file(key)}: this file is missing")
        elif key in system.decisions:
            faults += pair_faults(system.scores[key], system.decisions[key], threshold=False)
    if not system.keys and not faults:
        faults = [f"{folder}: no {_SCORE}_<machine>_section_<NN>_test.csv: give a system's folder"]
    _raise_first(faults)

    decisions = {key: table.values for key, table in system.decisions.items()}
    return {
        key: [
            (name, value, int(decisions[key][name]) if key in decisions else None)
            for name, value in table.values.items()
        ]
        for key, table in system.scores.items()
    }


def read_truth(folder: Path) -> dict[Key, dict[str, tuple[bool, bool]]]:
    """Labels and domains from a folder with ground_truth_data/ and ground_truth_domain/.

    Returns:
        For each machine and section, by base name: (is anomalous, is target domain).

    Raises:
        AsdjaxError: a folder, file or row is missing or duplicate, or a value is not 0 or 1. The
            message has the first fault and the number of the others.
    """
    both: list[dict[Key, Table]] = []
    faults: list[str] = []
    allowance = Allowance()
    for place in (folder / "ground_truth_data", folder / "ground_truth_domain"):
        if not is_folder(place):
            raise ArtifactError(
                f"{place}: no such folder: give the folder that contains ground_truth_data and "
                "ground_truth_domain"
            )
        tables: dict[Key, Table] = {}
        for file in entries(place):
            if file.name.startswith(".") or not file.name.lower().endswith(".csv"):
                continue
            match = _table_name(unicodedata.normalize("NFC", file.name))
            if match and match["kind"] == "ground_truth":
                _add(tables, match, _read_table(file, _flag, allowance))
            else:
                faults.append(f"{file}: expected ground_truth_<machine>_section_<NN>_test.csv")
        both.append(tables)
        faults += [fault for table in tables.values() for fault in table.faults]
    labels, domains = both
    if not labels and not domains and not faults:
        faults = [f"{folder}: contains no ground_truth_<machine>_section_<NN>_test.csv"]
    for key in sorted({*labels, *domains}):
        if key in labels and key in domains:
            faults += first_faults(_unpaired_rows(labels[key], domains[key]))
        else:
            table = (labels if key in labels else domains)[key]
            other = "ground_truth_domain" if key in labels else "ground_truth_data"
            faults.append(f"{table.file}: the file with the same name in {other} is missing")
    _raise_first(faults)
    return {
        key: {
            name: (bool(value), bool(domains[key].rows[name].value))
            for name, value in table.values.items()
        }
        for key, table in labels.items()
    }


def folder_name(folder: Traversable) -> str:
    """The name of a folder, also if given as "."; of a link its own name, not its target's."""
    return os.path.basename(os.path.abspath(folder)) if isinstance(folder, Path) else folder.name


def brief(faults: Sequence[str]) -> str:
    """The first fault and the number of the others."""
    return f"{faults[0]} (and {len(faults) - 1} more)" if len(faults) > 1 else faults[0]


def first_faults(faults: Iterable[str]) -> list[str]:
    """At most `MOST_FAULTS` faults; the iterable is not read further."""
    return list(itertools.islice(faults, MOST_FAULTS))


def _table_name(name: str) -> re.Match[str] | None:
    """The parts of a table's file name; None if it is not a table's or not printable."""
    return TABLE.fullmatch(name) if name.isprintable() else None


def _add(tables: dict[Key, Table], name: re.Match[str], table: Table) -> None:
    """Add a section's table; of two whose names print as one the first, with that fault."""
    key = name["machine"], name["section"]
    first = tables.setdefault(key, table)
    if first.file != table.file:
        fault = f"{first.file} and {table.file}: one name in two spellings of Unicode: keep one"
        tables[key] = dataclasses.replace(first, faults=(*first.faults, fault))


def _table_bytes(values: Mapping[str, str]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(sorted(values.items()))
    return text.getvalue().encode()


def _read_table(file: Traversable, parse: Callable[[str], float], allowance: Allowance) -> Table:
    """Read a table and check each row; `verification.validate` compares the names to the clips."""
    faults: list[str] = []
    rows: dict[str, Row] = {}
    try:
        content = allowance.read(file)
    except AsdjaxError as error:
        return Table(str(file), 0, {}, (str(error),))
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        number = content[: error.start].count(b"\n") + 1
        return Table(str(file), 0, {}, (f"{file}: row {number}: not UTF-8 text",))
    if text.startswith("\ufeff"):
        faults.append(f"{file}: row 1: starts with a byte-order mark: save it as UTF-8 without one")
        text = text[1:]
    count = number = 0
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for number, fields in enumerate(reader, start=1):
            where = f"{file}: row {number}"
            allowance.rows -= 1
            if allowance.rows < 0 or len(faults) >= MOST_FAULTS:
                why = "too many faults"
                if allowance.rows < 0:
                    why = f"the tables of the package have more than {MOST_ROWS:,} rows in total"
                faults.append(f"{where}: this and the following rows were not read: {why}")
                return Table(str(file), 0, {}, tuple(faults))
            if number == 1 and _is_header(fields):
                faults.append(f"{where}: a header line ({cut(','.join(fields))}): delete it")
                continue
            if not fields:
                faults.append(f"{where}: an empty row: delete it")
                continue
            count += 1
            if len(fields) != 2:
                faults.append(f"{where}: {len(fields)} columns, expected 2 separated by a comma")
                continue
            name, misspellings = _base_name(fields[0])
            faults += [f"{where}: {shown(fields[0])} {fault}" for fault in misspellings]
            value = None
            try:
                value = parse(fields[1])
            except ValueError as error:
                faults.append(f"{where}: {error}")
            if name in rows:
                faults.append(f"{where}: {name} is a duplicate of row {rows[name].number}")
            elif name:
                rows[name] = Row(number, value)
    except csv.Error as error:
        fault = f"{file}: row {number + 1}: not a comma-separated row ({error})"
        return Table(str(file), 0, {}, (*faults, fault))
    if not count:
        faults.append(f"{file}: empty: expected one row per test clip")
    return Table(str(file), count, rows, tuple(faults))


def _is_header(fields: list[str]) -> bool:
    if len(fields) != 2 or fields[0].lower().endswith(".wav"):
        return False
    try:
        float(fields[1])
    except ValueError:
        return not fields[0].startswith("section_")
    return False


def _base_name(text: str) -> tuple[str, list[str]]:
    """The base name in a row with misspellings corrected, and a fault for each of these."""
    name, faults = text.strip(), []
    if name != text:
        faults.append("has extra spaces")
    if "/" in name or "\\" in name:
        name = re.split(r"[/\\]", name)[-1]
        faults.append("is a path: give the file name only")
    if not name:
        return name, ["contains no file name"]
    if not name.lower().endswith(".wav"):
        name += ".wav"
        faults.append("lacks the extension .wav")
    if len(name) > _LONGEST_NAME:
        return "", [f"is longer than {_LONGEST_NAME} characters"]
    return name, faults


def _score(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is not a number") from None
    if not math.isfinite(value):
        kind = "NaN" if math.isnan(value) else "infinite"
        raise ValueError(f"the score {shown(text)} is {kind}")
    if not _NUMBER.fullmatch(text):  # spaces and 1_000, which float() accepts
        raise ValueError(f"{shown(text)} is not a plain number such as 0.5 or 1e-3")
    return value


def _flag(text: str) -> float:
    if text not in ("0", "1"):
        raise ValueError(f"{shown(text)} is neither 0 nor 1")
    return float(text)


def _unpaired_rows(first: Table, second: Table) -> Iterator[str]:
    """Faults for names that are in only one of two tables; none if one table has no names."""
    if first.rows and second.rows:
        for a, b in ((first, second), (second, first)):
            for name, row in a.rows.items():
                if name not in b.rows:
                    yield f"{a.file}: row {row.number}: {name} is not in {b.file}"


def _raise_first(faults: list[str]) -> None:
    if faults:
        raise ArtifactError(brief(faults))


def pair_faults(scores: Table, decisions: Table, *, threshold: bool = True) -> list[str]:
    """Faults of a table of scores and its table of decisions: names that only one of them has.

    With `threshold`, also decisions that no single threshold gives, and scores that are decisions.
    """
    faults = first_faults(_unpaired_rows(scores, decisions))
    decided: dict[float, list[tuple[float, int]]] = {0.0: [], 1.0: []}
    for name, row in decisions.rows.items():
        value = scores.rows[name].value if name in scores.rows else None
        if value is not None and row.value is not None:
            decided[row.value].append((value, row.number))
    if threshold and all(decided.values()):
        if all(value == flag for flag, pairs in decided.items() for value, _ in pairs):
            faults.append(f"{scores.file}: the scores are the decisions: give the anomaly scores")
        (highest, low_row), (lowest, high_row) = max(decided[0.0]), min(decided[1.0])
        if lowest <= highest:
            fault = (
                f"{decisions.file}: row {high_row}: 1 for the score {digits(lowest)}, but row "
                f"{low_row} is 0 for {digits(highest)}: no single threshold gives these decisions"
            )
            rounded = ": give the scores with all their digits" if lowest == highest else ""
            faults.append(fault + rounded)
    return faults


def copy_faults(scores: Mapping[Key, Table]) -> list[str]:
    """Faults of tables that repeat another machine's scores; machines may share clip names."""
    first: dict[frozenset[tuple[str, float | None]], Table] = {}
    faults = []
    for _, table in sorted(scores.items()):
        values = frozenset((name, row.value) for name, row in table.rows.items())
        if len({value for _, value in values}) < 2:  # a constant score is poor but not a copy
            continue
        if (other := first.setdefault(values, table)) is not table:
            faults.append(f"{table.file}: the same scores as in {other.file}: one is a copy")
    return faults

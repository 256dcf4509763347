"""The challenge's submission package: format, reading, validation.

    task2/<label>/anomaly_score_<machine>_section_<NN>_test.csv     name, score
    task2/<label>/decision_result_<machine>_section_<NN>_test.csv   name, 0 or 1
    task2/<label>/<label>.meta.yaml

A label is `<Lastname>_<Institute>_task2_<1..4>`; a package holds at most four systems.

Conventions
* The official evaluator pairs rows by their sorted position and checks no name, so that one missing
  row corrupts a figure in silence. Hence every row is checked here, and every fault is reported, as
  a sentence with its file and row; rows count from 1.
* Tables are UTF-8, without a header. Rows may end in LF or CRLF. A byte-order mark is a fault: it
  would become part of the first name, which then sorts last.
* A row whose name is only misspelt (a path, stray blanks, no extension) counts as its clip's row,
  so that one mistake is one fault.
* `*.technical_report.pdf` may lie beside the tables.
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
from asdjax.errors import AsdjaxError

Key = tuple[str, str]
"""Machine and section."""

MAX_SYSTEMS = 4
MOST_FAULTS = 300
"""Faults of one kind that are looked for in one file."""

_SCORE, _DECISION = "anomaly_score", "decision_result"
TABLE = re.compile(
    rf"(?P<kind>{_SCORE}|{_DECISION}|ground_truth)_(?P<machine>.+)_section_(?P<section>[0-9]{{2}})"
    r"_test\.csv"
)
LABEL = re.compile(r"[A-Za-z0-9]+_[A-Za-z0-9]+_task2_(?P<number>[1-4])")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LONGEST_NAME = 255  # what file systems take


def label(lastname: str, institute: str, number: int) -> str:
    """A system's label.

    Raises:
        AsdjaxError: a part holds other characters than A-Z, a-z and 0-9, or more than four systems.
    """
    made = f"{lastname}_{institute}_task2_{number}"
    if not LABEL.fullmatch(made):
        raise AsdjaxError(
            f"{made!r} is no label: last name and institute need letters A-Z, a-z and digits alone,"
            f" and the number is 1 to {MAX_SYSTEMS}"
        )
    return made


def score_file(key: Key) -> str:
    """Name of the table of a section's anomaly scores."""
    return f"{_SCORE}_{key[0]}_section_{key[1]}_test.csv"


def decision_file(key: Key) -> str:
    """Name of the table of a section's decisions."""
    return f"{_DECISION}_{key[0]}_section_{key[1]}_test.csv"


def score_bytes(values: Mapping[str, float]) -> bytes:
    """Scores by base name as a table: exact, with at least 8 significant digits, sorted by name.

    Raises:
        AsdjaxError: a score is not finite.
    """
    for name, value in values.items():
        if not math.isfinite(value):
            raise AsdjaxError(f"{name}: its score is {value}, which no package may hold")

    def text(value: float) -> str:
        padded = f"{value:#.8g}"
        return padded if float(padded) == value else repr(float(value))

    return _table_bytes({name: text(value) for name, value in values.items()})


def decision_bytes(values: Mapping[str, int]) -> bytes:
    """Decisions (0 or 1) by base name as a table, sorted by name."""
    return _table_bytes({name: str(int(value)) for name, value in values.items()})


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table."""

    number: int
    """From 1."""
    value: float | None
    """None where the text is no valid value."""


@dataclasses.dataclass(frozen=True)
class Table:
    """One table as it was read."""

    file: str
    count: int
    """Rows but for a header and empty ones; 0 where the file could not be read at all."""
    rows: Mapping[str, Row]
    """By the base name that each row means; of doubled rows the first."""
    faults: tuple[str, ...]

    @property
    def values(self) -> dict[str, float]:
        """The valid values by base name, sorted."""
        rows = sorted(self.rows.items())
        return {name: row.value for name, row in rows if row.value is not None}


@dataclasses.dataclass(frozen=True)
class System:
    """One system's folder as it was read."""

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
        """Machines and sections of which there is a table."""
        return {*self.scores, *self.decisions}


def read_system(folder: Traversable, allowance: Allowance | None = None) -> System:
    """Read a system's folder, faults and all; `validate` and the tables' `faults` report them.

    Args:
        folder: the system's folder.
        allowance: what may be read of the whole package; None: as much as of one package.

    Raises:
        AsdjaxError: no such folder, or one that holds too many files.
    """
    if not is_folder(folder):
        raise AsdjaxError(f"{folder}: no such folder: give a system's folder with its tables")
    allowance = allowance or Allowance()
    own = folder_name(folder)
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
        elif file.name == f"{own}.meta.yaml":
            try:
                meta = allowance.read(file)
            except AsdjaxError as error:
                faults = (str(error),)
        elif not file.name.endswith(".technical_report.pdf"):
            others.append(file.name)
    name = str(folder).rstrip("/")
    return System(name, own, scores, decisions, meta, tuple(others), faults)


def scores(folder: Path) -> dict[Key, list[tuple[str, float, int | None]]]:
    """Anybody's scores and, where there are any, decisions, for evaluation.

    Returns:
        By machine and section, per clip its base name, score and decision (None without a table
        of decisions), sorted by name.

    Raises:
        AsdjaxError: a system's folder is not there, or its tables are faulty: the first fault and
            the number of others.
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
    """Labels and domains in the organisers' layout: ground_truth_data/ and ground_truth_domain/.

    Returns:
        By machine and section, by base name: whether the clip is anomalous, whether it is of the
        target domain.

    Raises:
        AsdjaxError: a folder, file or row is missing, doubled or no 0 or 1: the first fault and
            the number of others.
    """
    halves: list[dict[Key, Table]] = []
    faults: list[str] = []
    allowance = Allowance()
    for place in (folder / "ground_truth_data", folder / "ground_truth_domain"):
        if not is_folder(place):
            raise AsdjaxError(
                f"{place}: no such folder: give the folder that holds ground_truth_data and "
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
        halves.append(tables)
        faults += [fault for table in tables.values() for fault in table.faults]
    labels, domains = halves
    if not labels and not domains and not faults:
        faults = [f"{folder}: no ground_truth_<machine>_section_<NN>_test.csv in its folders"]
    for key in sorted({*labels, *domains}):
        if key in labels and key in domains:
            faults += first_faults(_one_sided(labels[key], domains[key]))
        else:
            lone = (labels if key in labels else domains)[key].file
            other = "ground_truth_domain" if key in labels else "ground_truth_data"
            faults.append(f"{lone}: the file of the same name in {other} is missing")
    _raise_first(faults)
    return {
        key: {
            name: (bool(value), bool(domains[key].rows[name].value))
            for name, value in table.values.items()
        }
        for key, table in labels.items()
    }


def folder_name(folder: Traversable) -> str:
    """A folder's name, of "." too; a link's own, for that is what a package calls it."""
    return os.path.basename(os.path.abspath(folder)) if isinstance(folder, Path) else folder.name


def brief(faults: Sequence[str]) -> str:
    """The first of some faults, and how many others there are."""
    return f"{faults[0]} (and {len(faults) - 1} more)" if len(faults) > 1 else faults[0]


def first_faults(faults: Iterable[str]) -> list[str]:
    """The first faults of a file, at most `MOST_FAULTS`; no more are looked for."""
    return list(itertools.islice(faults, MOST_FAULTS))


def _table_name(name: str) -> re.Match[str] | None:
    """The parts of a table's name; a machine whose name does not print is no machine."""
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
    """Read a table; a row's faults are found here, those against the clips by `validate`."""
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
        faults.append(f"{file}: row 1: begins with a byte-order mark: save it as UTF-8 without one")
        text = text[1:]
    count = number = 0
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for number, fields in enumerate(reader, start=1):
            where = f"{file}: row {number}"
            allowance.rows -= 1
            if allowance.rows < 0 or len(faults) >= MOST_FAULTS:
                why = "too many faults before it"
                if allowance.rows < 0:
                    why = f"the package's tables have more than {MOST_ROWS:,} rows together"
                faults.append(f"{where}: not read, nor what follows: {why}")
                return Table(str(file), 0, {}, tuple(faults))
            if number == 1 and _is_header(fields):
                faults.append(f"{where}: a header line ({cut(','.join(fields))}): delete it")
                continue
            if not fields:
                faults.append(f"{where}: an empty row: delete it")
                continue
            count += 1
            if len(fields) != 2:
                faults.append(f"{where}: columns: {len(fields)}, expected 2 with a comma between")
                continue
            name, wrong = _meant_name(fields[0])
            faults += [f"{where}: {shown(fields[0])} {fault}" for fault in wrong]
            value = None
            try:
                value = parse(fields[1])
            except ValueError as error:
                faults.append(f"{where}: {error}")
            if name in rows:
                faults.append(f"{where}: {name} is doubled, row {rows[name].number} has it too")
            elif name:
                rows[name] = Row(number, value)
    except csv.Error as error:
        broken = f"{file}: row {number + 1}: not a comma-separated row ({error})"
        return Table(str(file), 0, {}, (*faults, broken))
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


def _meant_name(text: str) -> tuple[str, list[str]]:
    """The base name that a row means, and what is wrong with its spelling."""
    name, wrong = text.strip(), []
    if name != text:
        wrong.append("has stray blanks")
    if "/" in name or "\\" in name:
        name = re.split(r"[/\\]", name)[-1]
        wrong.append("is a path: give the file's name alone")
    if not name:
        return name, ["names no file"]
    if not name.lower().endswith(".wav"):
        name += ".wav"
        wrong.append("lacks the extension .wav")
    if len(name) > _LONGEST_NAME:
        return "", ["is longer than a file's name can be"]
    return name, wrong


def _score(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is not a number") from None
    if not math.isfinite(value):
        kind = "NaN" if math.isnan(value) else "infinite"
        raise ValueError(f"the score {shown(text)} is {kind}")
    if not _NUMBER.fullmatch(text):  # Python's own spellings: blanks, 1_000
        raise ValueError(f"{shown(text)} is not a plain number: stray blanks or other characters")
    return value


def _flag(text: str) -> float:
    if text not in ("0", "1"):
        raise ValueError(f"{shown(text)} is neither 0 nor 1")
    return float(text)


def _one_sided(first: Table, second: Table) -> Iterator[str]:
    """Names that only one of two tables has, where both have any."""
    if first.rows and second.rows:
        for a, b in ((first, second), (second, first)):
            for name, row in a.rows.items():
                if name not in b.rows:
                    yield f"{a.file}: row {row.number}: {name} is not in {b.file}"


def _raise_first(faults: list[str]) -> None:
    if faults:
        raise AsdjaxError(brief(faults))


def pair_faults(scores: Table, decisions: Table, *, threshold: bool = True) -> list[str]:
    """Names of one table only; of a submission (`threshold`) also decisions that follow from no
    single threshold, or that stand in the place of the scores.
    """
    faults = first_faults(_one_sided(scores, decisions))
    decided: dict[float, list[tuple[float, int]]] = {0.0: [], 1.0: []}
    for name, row in decisions.rows.items():
        value = scores.rows[name].value if name in scores.rows else None
        if value is not None and row.value is not None:
            decided[row.value].append((value, row.number))
    if threshold and all(decided.values()):
        if all(value == flag for flag, pairs in decided.items() for value, _ in pairs):
            faults.append(f"{scores.file}: holds the decisions, 0 and 1: give the anomaly scores")
        (highest, low_row), (lowest, high_row) = max(decided[0.0]), min(decided[1.0])
        if lowest < highest:
            faults.append(
                f"{decisions.file}: row {high_row}: 1 at the score {digits(lowest)}, but row "
                f"{low_row} is 0 at {digits(highest)}: no one threshold gives these decisions"
            )
    return faults


def copy_faults(scores: Mapping[Key, Table]) -> list[str]:
    """Tables with another machine's scores: evaluation machines share the names of their clips."""
    first: dict[frozenset[tuple[str, float | None]], Table] = {}
    faults = []
    for _, table in sorted(scores.items()):
        values = frozenset((name, row.value) for name, row in table.rows.items())
        if len({value for _, value in values}) < 2:  # a constant is a poor score, but no copy
            continue
        if (other := first.setdefault(values, table)) is not table:
            faults.append(f"{table.file}: the same scores as in {other.file}: one is a copy")
    return faults

"""Untrusted packages: hostile folders, tables, meta.yaml, expected.json and ground truth."""

import json
import os

import pytest
import yaml
from support.packages import (
    CLIPS,
    DECISIONS,
    LABEL,
    META,
    SCORES,
    error,
    faults,
    meta,
    write_system,
    zip_bytes,
)
from support.packages import system as system  # a fixture
from support.permissions import open_folder as open_folder  # a fixture
from support.permissions import permissions

from asdjax import cli
from asdjax.challenge import package_files, submission
from asdjax.errors import AsdjaxError
from asdjax.files import user_files

# folders


def test_files_that_are_not_regular(system, tmp_path):
    for name in (SCORES, META):
        (system / name).unlink()
        os.mkfifo(system / name)
    (system / DECISIONS).unlink()
    (system / DECISIONS).symlink_to("/dev/zero")
    (system / "loop").symlink_to("loop")
    os.mkfifo(system.parent / "fifo")
    found = faults(tmp_path)
    for name, kind in ((SCORES, "a FIFO"), (META, "a FIFO"), (DECISIONS, "a device")):
        assert f"{system / name}: is {kind}: name a regular file" in found
    assert f"{system / 'loop'}: not a file of a submission: rename or delete it" in found
    assert f"{system.parent / 'fifo'}: only the systems' folders belong here" in found
    with pytest.raises(AsdjaxError, match=rf"{SCORES}: is a FIFO: .*\(and 1 more\)"):
        submission.scores(system)
    (tmp_path / "expected.json").unlink()
    os.mkfifo(tmp_path / "expected.json")
    assert faults(tmp_path)


def test_paths_that_are_not_packages(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "short").symlink_to("absent")
    assert "is a FIFO" in error(tmp_path / "fifo")
    assert "Too many levels of symbolic links" in error(tmp_path / "loop")
    assert "No such file" in error(tmp_path / "short")
    for name in ("nul\0", "x" * 300):
        assert "no such file or folder" in error(tmp_path / name)


def test_folders_without_permission(system, monkeypatch):
    """Simulated, because root has all permissions."""

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(system), "iterdir", refuse)
    assert error(system) == user_files.unreadable(system, PermissionError(13, "Permission denied"))


def test_large_folders(system, tmp_path):
    for i in range(package_files.MOST_ENTRIES):
        (system / f"{i}.txt").touch()
    with pytest.raises(AsdjaxError, match=f"{LABEL}: more than 400 files and folders"):
        faults(tmp_path)
    for i in range(9):
        (tmp_path / "many" / "task2" / f"s{i}").mkdir(parents=True)
    assert error(tmp_path / "many").startswith(f"{tmp_path / 'many'}: 9 folders")


def test_names_with_control_characters_are_escaped(system, tmp_path, capsys):
    (system / "\x1b[31m\n\u202e.csv").touch()
    bytes_name = os.fsencode(system) + b"/\xff.csv"
    open(bytes_name, "wb").close()
    assert cli.main(["submit", "--verify", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "\\x1b[31m\\n\\u202e.csv: not a file" in printed and "\\udcff.csv: not a" in printed
    assert "\x1b" not in printed and len(printed.splitlines()) == 4


@pytest.mark.parametrize("machine", [b"\x1b[31mfan", b"fan\xff", b"a\nfan", "fan\u202e".encode()])
def test_machines_with_unprintable_names(system, tmp_path, machine):
    name = b"anomaly_score_%s_section_00_test.csv" % machine
    path = os.fsencode(system) + b"/" + name
    with open(path, "wb") as file:
        file.write(b"a.wav,1\n")
    assert f"{os.fsdecode(path)}: not a file of a submission" in " ".join(faults(tmp_path))
    with pytest.raises(AsdjaxError, match="expected anomaly_score or decision_result"):
        submission.scores(system)
    for half in ("ground_truth_data", "ground_truth_domain"):
        (tmp_path / half).mkdir()
        name = b"ground_truth_%s_section_00_test.csv" % machine
        with open(os.fsencode(tmp_path / half) + b"/" + name, "wb") as file:
            file.write(b"a.wav,1\n")
    with pytest.raises(AsdjaxError, match="expected ground_truth_<machine>_section_<NN>_test"):
        submission.read_truth(tmp_path)


@pytest.mark.parametrize("mode", [0, 0o111, 0o444])  # no permission, enter only, list only
@pytest.mark.parametrize("name", ["task2", f"task2/{LABEL}"])
def test_folders_of_a_package_that_may_not_be_listed_or_entered(open_folder, mode, name):
    write_system(open_folder / "task2" / LABEL, CLIPS)
    assert not any("cannot be read" in fault for fault in faults(open_folder))
    with permissions(open_folder / name, mode):
        try:
            text = " ".join(faults(open_folder))
        except AsdjaxError as refusal:
            text = str(refusal)
    assert f"{open_folder / name}" in text and "cannot be read (Permission denied)" in text


@pytest.mark.parametrize("mode", [0, 0o444])
def test_ground_truth_without_permission_is_not_reported_as_missing(open_folder, mode):
    for half in ("ground_truth_data", "ground_truth_domain"):
        (open_folder / half).mkdir()
        (open_folder / half / "ground_truth_fan_section_00_test.csv").write_text("a.wav,1\n")
    with permissions(open_folder, mode), pytest.raises(AsdjaxError) as refusal:
        submission.read_truth(open_folder)
    denied = PermissionError(13, "Permission denied")
    wanted = user_files.unreadable(open_folder / "ground_truth_data", denied)
    assert str(refusal.value) == wanted


def test_only_the_first_faults_are_printed(system, tmp_path, capsys):
    (system / SCORES).write_text("a;0\n" * 250)
    found = faults(tmp_path)
    assert len(found) > 250
    assert cli.main(["submit", "--verify", str(tmp_path)]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 203
    assert printed[-2:] == [
        f"  and {len(found) - 200} more faults",
        f"{len(found)} faults in the package itself",
    ]


# tables


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\n" * 2**20, "row 301: this and the following rows were not read"),
        (b"a;1\n" * 2**18, "row 301: this and the following rows were not read"),
        (b"x" * 10**6, "field larger than field limit"),
        (b'"' + b"x" * 10**6, "row 1: not a comma-separated row"),
        (b"x" * 100000 + b".wav,1\n", "(100,006 characters) is longer than 255"),
        (b"a.wav," + b"x" * 100000, "(100,002 characters) is not a number"),
        # a pattern that goes back through the digits would need hours
        (b"a.wav," + b"0" * 120000 + b" ", "(120,003 characters) is not a plain number"),
        (b"a.wav," + b"9" * 5000, "is infinite"),
        (b"\0\0,1\n", "row 1: '\\x00\\x00' lacks the extension"),
        (b"a.wav,1\rb.wav,x\r", "row 2: 'x' is not a number"),
        (b"\x1b[31m,1\n", "row 1: '\\x1b[31m' lacks the extension"),
        (b"".join(b"%d.wav,0\n" % i for i in range(100000)), "expected section_NN"),
        (b"name," + b"x" * 100000 + b"\n", "row 1: a header line (name,xxx"),
    ],
)
def test_hostile_tables(system, tmp_path, content, words):
    (system / SCORES).write_bytes(content)
    found = faults(tmp_path)
    mine = [fault for fault in found if fault.startswith(f"{system / SCORES}: ")]
    assert any(words in fault for fault in mine), mine[:3]
    assert len(found) < 1000
    with pytest.raises(AsdjaxError) as refusal:
        submission.scores(system)
    assert len(str(refusal.value)) < 1000


def test_all_tables_together_are_bounded(system, tmp_path, monkeypatch):
    monkeypatch.setattr(package_files, "MOST_TABLES", 3000)
    (system / SCORES).write_bytes(b"x" * 10**6)
    found = faults(tmp_path)
    assert any(f.startswith(f"{system / SCORES}: ") and "3,000 bytes" in f for f in found)
    package = tmp_path / "p.zip"
    package.write_bytes(zip_bytes(system))
    assert any("3,000 bytes" in fault for fault in faults(package))


def test_all_rows_together_are_bounded(system, tmp_path, monkeypatch):
    assert faults(tmp_path) == []  # 24 rows
    monkeypatch.setattr(package_files, "MOST_ROWS", 20)
    assert any(f"{DECISIONS}: row 5: " in f and "rows in total" in f for f in faults(tmp_path))


# meta.yaml


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("~", "expected keys and values"),
        ("[a]: b", "line 1, column 3 ('[a]: b'): a list or mapping as a key"),
        ("1: a\n~: b", "submission.label is missing"),
        ("submission: {label: !!python/name:os.system x}", "the tag !!python/name:os.system"),
        ("submission: &a {label: *a}", "*a "),
        ("submission: {label: no}", "submission.label: expected text, found False (put a text"),
        ("submission: {label: " + "x" * 60000 + "}", "submission.label is 'xxx"),
        ("submission: {name: [" + "x, " * 20000 + "]}", "submission.name: expected text, found ["),
        ("submission: {authors: [" + "a, " * 20000 + "]}", "20000 entries, more than 100"),
        ("system: {external_datasets: [" + "a, " * 20000 + "]}", "20000 entries, more than 100"),
        ("results: {development_dataset: {" + "".join(f"f{i}: 1, " for i in range(5000)) + "}}",
         "5000 entries, more than 100"),
        ("results: {development_dataset: {~: {}, 1: {}, no: {}}}", "development_dataset.None"),
        ("results: {development_dataset: {fan: {pauc: .inf}}}", "a percentage, found inf"),
        ("#" * 10**6, "larger than 65,536 characters"),
        ("- " * 5000, "more than 32 levels"),
        ("a: \0", "line 1, column 4"),
    ],
)  # fmt: skip
def test_hostile_meta(system, tmp_path, text, words):
    (system / META).write_text(text)
    found = faults(tmp_path)
    assert any(f.startswith(f"{system / META}: ") and words in f for f in found), found[:3]
    assert len(found) < 1000


def test_aliases_and_dates_of_an_ordinary_meta(system, tmp_path):
    tree = meta()
    shared = tree["submission"]["authors"][0]["affiliation"]
    second = {**tree["submission"]["authors"][0], "corresponding": False, "affiliation": shared}
    tree["submission"]["authors"].append(second)
    text = yaml.safe_dump(tree)
    assert "&id001" in text and "*id001" in text
    (system / META).write_text(text.replace("name: N", "name: 2026-06-01"))
    assert faults(tmp_path) == []


# expected.json


def document(**changes):
    """An expected.json of one clip, changed."""
    right = {"schema": "asdjax.expected/1", "edition": "dcase2026", "machines": {"fan": {"00": []}}}
    return json.dumps({**right, **changes})


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10**6,
        '{"schema":' * 10**5,
        '{"schema": ' + "9" * 10**6 + "}",
        "NaN",
        "{",
        document(edition=["dcase2026"]),
        document(edition=None),
        document(machines=[]),
        document(machines={"fan": []}),
        document(machines={"fan": {"00": "abc"}}),  # not a list of three names
        document(machines={"fan": {"00": [1]}}),
        document(machines={"fan": {"00": [["a"]]}}),
        document(machines={"fan": {"00": ["x" * 10**6]}}),
        document(machines={f"fan{i}": {"00": []} for i in range(10**5)}),
        document(machines={"fan": {"00": [str(i) for i in range(10**6)]}}),
    ],
)
def test_hostile_expected(system, tmp_path, text):
    (tmp_path / "expected.json").write_text(text)
    with pytest.raises(AsdjaxError, match=r"expected\.json: .*asdjax\.expected/1"):
        faults(tmp_path)


def test_an_expected_json_of_an_unknown_edition(system, tmp_path):
    (tmp_path / "expected.json").write_text(document(edition="dcase1999" + "9" * 10**5))
    with pytest.raises(AsdjaxError, match=r"expected\.json: .*'dcase1999.*--plugin") as refusal:
        faults(tmp_path)
    assert len(str(refusal.value)) < 500


def test_an_expected_json_that_is_too_large_or_not_text(system, tmp_path):
    for content, words in ((b" " * (2**24 + 1), "larger than 16,777,216"), (b"\xff", "not UTF-8")):
        (tmp_path / "expected.json").write_bytes(content)
        with pytest.raises(AsdjaxError, match=rf"expected\.json: {words}"):
            faults(tmp_path)


# the truth


def test_ground_truth_that_is_not_a_file(tmp_path):
    name = "ground_truth_fan_section_00_test.csv"
    for half in ("ground_truth_data", "ground_truth_domain"):
        (tmp_path / half).mkdir()
        (tmp_path / half / name).write_text("a.wav,1\n")
    assert submission.read_truth(tmp_path)
    (tmp_path / "ground_truth_data" / name).unlink()
    os.mkfifo(tmp_path / "ground_truth_data" / name)
    with pytest.raises(AsdjaxError, match=f"ground_truth_data/{name}: is a FIFO"):
        submission.read_truth(tmp_path)
    (tmp_path / "ground_truth_data" / name).unlink()
    (tmp_path / "ground_truth_data" / name).mkdir()
    with pytest.raises(AsdjaxError, match=f"ground_truth_data/{name}: is a directory"):
        submission.read_truth(tmp_path)

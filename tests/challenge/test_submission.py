"""The submission's format: what is written, and every fault that a package may have."""

import zipfile
from itertools import product
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.packages import (
    BRUSH,
    CELLS,
    CLIPS,
    DECISIONS,
    FAN,
    LABEL,
    SCORES,
    meta,
    write_expected,
    write_system,
)
from support.packages import system as system  # a fixture

from asdjax.challenge import submission, verification
from asdjax.data.editions import find_edition
from asdjax.errors import AsdjaxError


def faults(path, **options):
    return verification.verify(path, **options)[1]


def only(path):
    """The one fault of a package."""
    found = faults(path)
    assert len(found) == 1, found
    return found[0]


def lines(path):
    return path.read_text().splitlines(keepends=True)


def edit(path, row, old, new):
    """Replace text in one row, counted from 1."""
    rows = lines(path)
    assert old in rows[row - 1]
    rows[row - 1] = rows[row - 1].replace(old, new)
    path.write_text("".join(rows), newline="")


def zipped(folder, path):
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            archive.write(file, file.relative_to(folder))
    return path


# what is written


def test_tables_are_sorted_exact_and_long_enough():
    content = submission.score_bytes({"b.wav": 0.5, "a.wav": 1 / 3, "c.wav": 0.0})
    assert content == b"a.wav,0.3333333333333333\nb.wav,0.50000000\nc.wav,0.0000000\n"
    assert submission.decision_bytes({"b.wav": True, "a.wav": 0}) == b"a.wav,0\nb.wav,1\n"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_written_scores_read_back_the_same(value):
    text = submission.score_bytes({"a.wav": value}).decode().strip().partition(",")[2]
    assert float(text) == value
    digits = text.lstrip("-").partition("e")[0].replace(".", "").lstrip("0")
    assert len(digits) >= 8 or value == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_table_holds_what_is_not_finite(value):
    with pytest.raises(AsdjaxError, match="a.wav"):
        submission.score_bytes({"a.wav": value})


def test_labels():
    assert submission.label("Doe", "ABC", 4) == "Doe_ABC_task2_4"
    for parts in (("O'Doe", "ABC", 1), ("Doe", "A_B", 1), ("Doe", "ABC", 5), ("Dö", "ABC", 1)):
        with pytest.raises(AsdjaxError, match=f"{parts[0]}_{parts[1]}_task2_{parts[2]}. .*label"):
            submission.label(*parts)


# a package without faults, from every side


def test_a_right_package_passes_from_every_side(system, tmp_path):
    zipped(tmp_path, tmp_path / "with_json.zip")
    package = tmp_path / "package.zip"
    with zipfile.ZipFile(package, "w") as archive:
        for file in system.iterdir():
            archive.write(file, f"task2/{LABEL}/{file.name}")
    for path in (system, tmp_path / "task2", tmp_path, package):
        what, found = verification.verify(path)
        assert found == []
        assert LABEL in what and "2 machines" in what and "expected.json" in what
    assert "expected.json: only the folder task2" in only(tmp_path / "with_json.zip")


def test_folder_given_as_a_dot(system, monkeypatch):
    monkeypatch.chdir(system)
    assert faults(Path(".")) == []
    monkeypatch.chdir(system.parent)
    assert faults(Path(".")) == []


def test_crlf_is_accepted_and_a_byte_order_mark_refused(system):
    for file in system.glob("*.csv"):
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert faults(system) == []
    path = system / SCORES
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert f"{SCORES}: row 1: " in only(system) and "byte-order mark" in only(system)


def test_quoted_fields_and_a_report_are_accepted(system):
    edit(system / DECISIONS, 1, CLIPS[FAN][2], f'"{CLIPS[FAN][2]}"')
    (system / f"{LABEL}.technical_report.pdf").write_bytes(b"%PDF")
    (system.parent / "Doe_ABC_task2.technical_report.pdf").write_bytes(b"%PDF")
    assert faults(system.parent) == []


# rows

NAME = sorted(CLIPS[FAN])[2]  # of row 3


@pytest.mark.parametrize(
    "old, new, words",
    [
        (NAME, f"fan/test/{NAME}", "is a path"),
        (NAME, f"fan\\test\\{NAME}", "is a path"),
        (".wav", "", "lacks the extension .wav"),
        (NAME, f" {NAME}", "spaces"),
        (",", " ,", "spaces"),
        (",0.", ", 0.", "not a plain number"),
        (",0.", ",nan#", "is not a number"),
        (",0.", ",1_", "not a plain number"),
        (",0.", ",,0.", "3 columns"),
        (",0.", ";0.", "1 columns"),
    ],
)
def test_one_faulty_score_row_is_one_fault(system, old, new, words):
    edit(system / SCORES, 3, old, new)
    # a row that cannot be read names no clip
    found = [f for f in faults(system) if "clips without a row (1)" not in f]
    found = [f for f in found if f"{NAME} is not in" not in f]
    assert len(found) == 1 and f"{SCORES}: row 3: " in found[0] and words in found[0]


@pytest.mark.parametrize(
    "text, words",
    [("nan", "NaN"), ("NaN", "NaN"), ("inf", "infinite"), ("-1e999", "infinite"), ("", "''")],
)
def test_scores_that_are_no_numbers(system, text, words):
    rows = lines(system / SCORES)
    rows[2] = f"{NAME},{text}\n"
    (system / SCORES).write_text("".join(rows))
    assert f"{SCORES}: row 3: " in only(system) and words in only(system)


@pytest.mark.parametrize("text", ["2", "1.0", "true", "nan", " 1", ""])
def test_decisions_are_0_or_1(system, text):
    rows = lines(system / DECISIONS)
    rows[2] = f"{NAME},{text}\n"
    (system / DECISIONS).write_text("".join(rows))
    assert f"{DECISIONS}: row 3: {text!r} is neither 0 nor 1" in only(system)


def test_missing_doubled_and_unknown_rows(system):
    rows = lines(system / SCORES)
    (system / SCORES).write_text("".join(rows[:2] + rows[3:]))
    found = faults(system)
    assert any(f"clips without a row (1): {NAME}" in f for f in found)
    assert any("rows: 7, expected 8" in f for f in found)
    assert any(f"{DECISIONS}: row 3: {NAME} is not in" in f for f in found)
    assert len(found) == 3

    (system / SCORES).write_text("".join([*rows, rows[2]]))
    found = faults(system)
    assert any("row 9: " in f and NAME in f and "row 3" in f for f in found)
    assert any("rows: 9, expected 8" in f for f in found) and len(found) == 2

    new = NAME.replace("_0000_", "_0077_")
    (system / SCORES).write_text("".join(rows).replace(NAME, new))
    found = faults(system)
    assert any(f"row 3: {new!r} " in f and "fan section 00" in f for f in found)
    (system / SCORES).write_text("".join(rows).replace(NAME, "clip3.wav"))
    assert any("row 3: 'clip3.wav': expected section_NN_" in f for f in faults(system))


def test_a_doubled_row_in_place_of_another_is_seen(system):
    """The right number of rows hides it from whoever only counts."""
    rows = lines(system / SCORES)
    rows[3] = rows[2]
    (system / SCORES).write_text("".join(rows))
    found = faults(system)
    assert any("row 4: " in f and "row 3" in f for f in found)
    assert any("clips without a row (1)" in f for f in found)
    assert not any("expected 8" in f for f in found)


def test_header_empty_row_and_empty_file(system):
    path = system / SCORES
    text = path.read_text()
    path.write_text("filename,anomaly_score\n" + text)
    assert "row 1: a header line (filename,anomaly_score): delete it" in only(system)
    path.write_text(text + "\n")
    assert "row 9: an empty row" in only(system)
    path.write_text("")
    assert f"{SCORES}: empty" in only(system)
    path.write_text("name,score\n\n")
    found = faults(system)
    assert len(found) == 3 and f"{SCORES}: empty" in found[2]


def test_text_that_is_not_utf8_or_not_csv(system):
    path = system / SCORES
    content = path.read_bytes()
    path.write_bytes(content.replace(b"normal_0000", b"normal_\xff", 1))
    assert f"{SCORES}: row 3: not UTF-8" in only(system)
    path.write_bytes(b'"a.wav"x,1\n')
    assert f"{SCORES}: row 1: not a comma-separated row" in only(system)


def test_decisions_must_follow_from_one_threshold(system):
    rows = lines(system / DECISIONS)
    assert rows[0].endswith(",0\n")
    rows[0] = rows[0].replace(",0\n", ",1\n")
    (system / DECISIONS).write_text("".join(rows))
    fault = only(system)
    assert f"{DECISIONS}: row 1: " in fault and "row 3" in fault and "0.28" in fault


@pytest.mark.parametrize("score", ["0.50000000", "0.5", "5e-1"])
def test_equal_scores_with_unlike_decisions_follow_no_threshold(system, score):
    """Whatever the threshold is: it is fault of the decisions, or of scores that were rounded."""
    names = sorted(CLIPS[FAN])
    (system / SCORES).write_text("".join(f"{name},{score}\n" for name in names))
    (system / DECISIONS).write_text("".join(f"{name},0\n" for name in names))
    assert faults(system) == []
    edit(system / DECISIONS, 5, ",0", ",1")
    fault = only(system)
    assert (
        f"{DECISIONS}: row 5: 1 for the score 0.5, but row" in fault and "all their digits" in fault
    )


def test_scores_of_another_machine_or_decisions_in_their_place(tmp_path):
    """Every name is right: nothing but the values tells."""
    evaluation = find_edition("dcase2026").evaluation
    system = write_system(tmp_path / LABEL, ruled(evaluation))
    first, second, third = (submission.score_file((m, "00")) for m in evaluation[:3])
    for name in (submission.score_file, submission.decision_file):
        rows = lines(system / name((evaluation[0], "00")))
        (system / name((evaluation[1], "00"))).write_text("".join(reversed(rows)))
    copy = only(system)
    assert copy.startswith(f"{system / second}: ") and str(system / first) in copy
    decisions = (system / submission.decision_file((evaluation[2], "00"))).read_text()
    (system / third).write_text(decisions)
    fault, _ = faults(system)
    assert fault.startswith(f"{system / third}: ") and "decisions" in fault


def test_constant_scores_of_two_machines_are_no_copy(tmp_path):
    evaluation = find_edition("dcase2026").evaluation
    system = write_system(tmp_path / LABEL, ruled(evaluation))
    for machine in evaluation[:2]:
        names = sorted(ruled([machine])[machine, "00"])
        content = submission.score_bytes(dict.fromkeys(names, 0.5))
        (system / submission.score_file((machine, "00"))).write_bytes(content)
        content = submission.decision_bytes(dict.fromkeys(names, 0))
        (system / submission.decision_file((machine, "00"))).write_bytes(content)
    assert faults(system) == []


def test_a_table_without_a_readable_row_does_not_blame_the_other(system):
    text = (system / SCORES).read_text()
    (system / SCORES).write_text(text.replace(",", ";"))
    found = faults(system)
    assert sum("1 columns" in f for f in found) == 8
    assert len(found) == 9 and "clips without a row (8)" in found[-1]


def test_all_faults_are_reported_together(system):
    edit(system / SCORES, 1, ",0.", ",x")
    edit(system / SCORES, 8, ",1.", ",y")
    edit(system / submission.decision_file(BRUSH), 2, ",0", ",3")
    (system / f"{LABEL}.meta.yaml").unlink()
    assert len(faults(system)) == 4


# files, machines, labels


def test_wrong_files_and_machines_get_a_suggestion(system):
    (system / SCORES).rename(system / SCORES.replace("fan", "FAN"))
    found = faults(system)
    assert any("'FAN': did you mean 'fan'?" in f for f in found)
    assert any(f"{SCORES}: this file is missing" in f for f in found)
    (system / SCORES.replace("fan", "FAN")).rename(system / "anomaly_score_fan_section_00.csv")
    found = faults(system)
    assert any(f"did you mean '{SCORES}'?" in f and "rename" in f for f in found)
    (system / ".DS_Store").write_bytes(b"")
    (system / "more").mkdir()
    found = faults(system)
    assert sum("not a file of a submission" in f for f in found) == 3


def test_wrong_section(system):
    for name in (SCORES, DECISIONS):
        (system / name).rename(system / name.replace("_00_", "_03_"))
    found = faults(system)
    assert sum("fan has no section 03" in f for f in found) == 2
    assert any("fan section 00 is missing: add anomaly_score_fan" in f for f in found)


def test_a_machine_with_one_of_two_files_and_a_missing_machine(system):
    (system / DECISIONS).unlink()
    assert f"{DECISIONS}: this file is missing" in only(system)
    (system / SCORES).unlink()
    assert "fan section 00 is missing" in only(system)


def test_a_linked_folder_goes_by_the_link_s_name(system, tmp_path):
    system.rename(tmp_path / "elsewhere")
    system.symlink_to(tmp_path / "elsewhere")
    for path in (system, system.parent, tmp_path):
        assert faults(path) == []


def test_labels_of_a_package(tmp_path):
    write_expected(tmp_path)
    for label in (LABEL, "Doe_ABC_task2_5", "Doe_XY_task2_1", "Doe_ABC_task2_2", "Doe_ABC_task2_3"):
        write_system(tmp_path / "task2" / label, CLIPS)
    found = faults(tmp_path)
    assert any("'Doe_ABC_task2_5'" in f and "label" in f for f in found)
    assert any(f"{tmp_path}: {LABEL} and Doe_XY_task2_1 " in f for f in found)
    assert any("5 systems, at most 4" in f for f in found)
    assert len(found) == 3


def test_stray_files_and_other_places(system, tmp_path):
    (system.parent / "readme.txt").write_text("")
    assert "readme.txt: only the systems' folders belong here" in only(tmp_path)
    (system.parent / "readme.txt").unlink()
    system.parent.rename(tmp_path / "mine")
    assert "folder named task2" in only(tmp_path / "mine")
    (tmp_path / "empty" / "task2").mkdir(parents=True)
    assert "no system's folder" in only(tmp_path / "empty")
    (tmp_path / "other").mkdir()
    for path, words in ((tmp_path / "other", "other: no sub"), (tmp_path / "x", "x: no such")):
        with pytest.raises(AsdjaxError, match=words):
            verification.verify(path)


def test_faulty_archives(system, tmp_path):
    (tmp_path / "a.zip").write_text("not a zip")
    with pytest.raises(AsdjaxError, match="cannot be read as a zip"):
        verification.verify(tmp_path / "a.zip")
    flat = zipped(tmp_path / "task2", tmp_path / "flat.zip")
    found = faults(flat)
    assert any(f"{LABEL}/: only the folder task2 belongs here" in f for f in found)
    assert any(f.startswith(f"{flat}") and f.endswith("no folder task2") for f in found)
    package = tmp_path / "twice.zip"
    with zipfile.ZipFile(package, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        for file in [*system.iterdir(), system / SCORES]:
            archive.write(file, f"task2/{LABEL}/{file.name}")
    assert f"task2/{LABEL}/{SCORES} is twice in the archive" in only(package)
    content = bytearray((zipped(tmp_path, tmp_path / "b.zip")).read_bytes())
    at = content.index(b",0.14285714")
    content[at + 2] ^= 1
    (tmp_path / "b.zip").write_bytes(content)
    with pytest.raises(AsdjaxError, match=r"anomaly_score_.* is damaged"):
        verification.verify(tmp_path / "b.zip")


def test_faults_inside_an_archive_name_their_file(system, tmp_path):
    edit(system / SCORES, 3, ",0.", ",x")
    (tmp_path / "expected.json").rename(tmp_path / "away.json")
    package = zipped(tmp_path, tmp_path / "p.zip")
    (tmp_path / "away.json").rename(tmp_path / "expected.json")
    assert any(f"p.zip/task2/{LABEL}/{SCORES}: row 3: " in f for f in faults(package))


# meta.yaml


def changed(path, tree, value):
    """The tree with the value at a dotted path; None deletes it."""
    *parents, last = path.split(".")
    place = tree
    for part in parents:
        place = place[int(part)] if part.isdigit() else place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return tree


@pytest.mark.parametrize(
    "path, value, words",
    [
        ("submission.label", "Doe_ABC_task2_2", "'Doe_ABC_task2_2', but the folder is"),
        ("submission.label", None, "submission.label is missing"),
        ("submission.name", "", "submission.name: expected text"),
        ("submission.abbreviation", 3, "submission.abbreviation: expected text"),
        ("submission.authors", "Jo", "submission.authors: expected a list"),
        ("submission.authors.0.email", None, "submission.authors[0].email is missing"),
        ("submission.authors.0.affiliation", None, "authors[0].affiliation.department is missing"),
        ("submission.authors.0.corresponding", False, "submission.authors: 0 corresponding"),
        ("system.description.front_end", None, "system.description.front_end is missing"),
        ("system.complexity.total_parameters", "many", "expected a whole number"),
        ("system.complexity.total_parameters", True, "expected a whole number"),
        ("system.complexity.total_parameters", -1, "at least 0 expected"),
        ("system.source_code", None, "system.source_code is missing"),
        ("system.external_datasets", "X", "expected a list"),
        ("system.external_datasets.0.url", None, "external_datasets[0].url is missing"),
        ("results.development_dataset", None, "results.development_dataset is missing"),
        ("results.development_dataset.Fan", {}, "dataset.Fan: not a development machine"),
        ("results.development_dataset.ToothBrush", {}, "ToothBrush: not a development machine"),
        ("results.development_dataset.fan.pauc", None, "fan.pauc is missing"),
        ("results.development_dataset.fan.pauc", 101, "fan.pauc: expected a percentage, found 101"),
        ("results.development_dataset.fan.pauc", float("nan"), "found nan"),
        ("results.development_dataset.fan.pauc", "9", "expected a percentage, found '9'"),
    ],
)
def test_faults_of_meta(system, path, value, words):
    file = system / f"{LABEL}.meta.yaml"
    file.write_text(yaml.safe_dump(changed(path, meta(), value)))
    found = faults(system)
    assert any(f.startswith(f"{file}: ") and words in f for f in found), found


def test_no_may_be_an_answer_in_meta(system):
    text = (system / f"{LABEL}.meta.yaml").read_text()
    assert "external_data_usage: null" in text
    text = text.replace("external_data_usage: null", "external_data_usage: no")
    (system / f"{LABEL}.meta.yaml").write_text(text)
    assert faults(system) == []


def test_meta_that_is_absent_misnamed_or_no_yaml(system):
    file = system / f"{LABEL}.meta.yaml"
    for text, words in (("a: [", "not valid YAML"), ("text", "expected keys"), ("a: \t", "YAML")):
        file.write_text(text)
        assert words in only(system)
    file.write_bytes(b"a: \xff")
    assert "not valid YAML" in only(system)
    file.write_text(yaml.safe_dump(changed("results", meta(), None)))
    assert faults(system) == []  # no development machine was scored
    file.rename(system / "Doe_ABC_task2.meta.yaml")
    found = faults(system)
    assert any(f"did you mean '{LABEL}.meta.yaml'?" in f for f in found)
    assert any(f"{LABEL}.meta.yaml: this file is missing" in f for f in found) and len(found) == 2


# references


def test_checked_against_a_data_set(tmp_path, system):
    (tmp_path / "expected.json").unlink()
    root = tmp_path / "data"
    for (machine, _), names in CLIPS.items():
        (root / machine / "test").mkdir(parents=True)
        for name in names:
            (root / machine / "test" / name).touch()
    what, found = verification.verify(system, data=root)
    assert f"against the data set {root}" in what and found == []
    for name in (SCORES, DECISIONS):
        (system / name).unlink()
    assert faults(system, data=root) == []  # only evaluation machines are required
    (root / "ToothBrush" / "test" / "section_00_0009.wav").touch()
    assert any("section_00_0009.wav" in f for f in faults(system, data=root))
    (root / "ToothBrush" / "test" / "x.wav").touch()
    with pytest.raises(AsdjaxError, match=r"ToothBrush/test/x\.wav"):
        verification.verify(system, data=root)


def ruled(machines):
    """Clips as the edition's rules want them."""
    development = [
        f"section_00_{d}_test_{x}_{i:04d}_noAttribute.wav" for d, x in CELLS for i in range(50)
    ]
    evaluation = [f"section_00_{i:04d}.wav" for i in range(200)]
    facts = find_edition("dcase2026")
    return {(m, "00"): evaluation if m in facts.evaluation else development for m in machines}


def test_checked_against_the_rules(tmp_path):
    facts = find_edition("dcase2026")
    path = write_system(tmp_path / "a" / LABEL, ruled(facts.evaluation))
    what, found = verification.verify(path)
    assert what.endswith("against the rules of dcase2026") and found == []
    path = write_system(tmp_path / "b" / LABEL, ruled(facts.development))
    what, found = verification.verify(path)  # development machines alone
    assert found == []
    assert "the challenge would refuse it" in what and "BlowerDustCollector section 00 is" in what
    path = write_system(tmp_path / "c" / LABEL, ruled((*facts.development, *facts.evaluation)))
    assert faults(path) == []
    path = write_system(tmp_path / "d" / LABEL, ruled(facts.development[1:]))
    assert "ToyCar section 00 is missing" in only(path)
    path = write_system(tmp_path / "e" / LABEL, ruled(("fan", *facts.evaluation[1:])))
    assert "BlowerDustCollector section 00 is missing" in only(path)


def test_right_for_its_own_clips_but_not_for_the_challenge(tmp_path):
    evaluation = find_edition("dcase2026").evaluation
    clips = ruled(evaluation)
    for clean in (True, False):
        folder = tmp_path / str(clean)
        path = write_system(folder / "task2" / LABEL, clips)
        write_expected(folder, clips)
        what, found = verification.verify(path)
        assert found == [] and what.endswith("expected.json") == clean
        if not clean:
            assert "but the challenge would refuse it: " in what
            assert "clips without a row (1): section_00_0199.wav (and 3 more)" in what
        clips[BRUSH] = clips[BRUSH][:199]


def test_rows_against_the_rules(tmp_path):
    facts = find_edition("dcase2026")
    clips = ruled((*facts.evaluation, "fan"))
    clips[BRUSH] = [*clips[BRUSH][:199], "section_00_0200.wav"]
    clips[FAN] = [*clips[FAN][1:], "section_00_0007.wav"]
    found = faults(write_system(tmp_path / LABEL, clips))
    for name in (submission.score_file, submission.decision_file):
        mine = [f for f in found if name(BRUSH) in f]
        assert len(mine) == 2
        assert any(
            "row 200: 'section_00_0200.wav' " in f and "ToothBrush section 00" in f for f in mine
        )
        assert any("clips without a row (1): section_00_0199.wav" in f for f in mine)
        mine = [f for f in found if name(FAN) in f]
        assert len(mine) == 2
        assert any("source normal clips: 49, expected 50" in f for f in mine)
        assert any("'section_00_0007.wav' " in f and "fan section 00" in f for f in mine)
    with pytest.raises(AsdjaxError, match="dcase2024: .*--data"):
        verification.verify(tmp_path / LABEL, edition="dcase2024")


def test_another_program_s_expected_json_is_not_trusted(system, tmp_path):
    for text in ('{"schema": "other/1"}', "[]", '{"schema": "asdjax.expected/1"}'):
        (tmp_path / "expected.json").write_text(text)
        with pytest.raises(AsdjaxError, match=r"expected\.json: .*asdjax\.expected/1"):
            verification.verify(system)


def test_an_expected_json_too_far_above_is_not_looked_for(system, tmp_path):
    (tmp_path / "expected.json").rename(tmp_path.parent / "expected.json")
    try:
        assert "the rules" in verification.verify(system)[0]
        assert "expected.json" in verification.verify(system.parent)[0]
    finally:
        (tmp_path.parent / "expected.json").unlink()


# anybody's scores, and the truth


def test_scores_of_anybody(system):
    found = submission.scores(system)
    assert set(found) == {FAN, BRUSH}
    names = sorted(CLIPS[BRUSH])
    values = [i / 7 + 0.001 for i in range(4)]
    assert found[BRUSH] == [(n, v, int(v > 0.3)) for n, v in zip(names, values, strict=True)]
    (system / f"{LABEL}.meta.yaml").unlink()
    (system / "notes.txt").write_text("mine")
    (system / DECISIONS).unlink()
    found = submission.scores(system)
    assert found[FAN][2] == (NAME, 2 / 7, None) and found[BRUSH][0][2] == 0


def test_faulty_scores_are_refused(system, tmp_path):
    original = (system / SCORES).read_text()
    edit(system / SCORES, 3, ",0.", ",nan#")
    edit(system / SCORES, 4, ",0.", ",?")
    with pytest.raises(AsdjaxError, match=rf"{SCORES}: row 3: .*\(and 1 more\)"):
        submission.scores(system)
    (system / SCORES).write_text(original)
    (system / "anomaly_score_fan.csv").write_text("")
    with pytest.raises(AsdjaxError, match="anomaly_score_fan.csv: expected"):
        submission.scores(system)
    (system / "anomaly_score_fan.csv").unlink()
    (system / SCORES).write_text("".join(original.splitlines(keepends=True)[1:]))
    with pytest.raises(AsdjaxError, match=rf"{DECISIONS}: row 1: .* is not in"):
        submission.scores(system)
    (system / SCORES).unlink()
    with pytest.raises(AsdjaxError, match=f"{SCORES}: this file is missing"):
        submission.scores(system)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AsdjaxError, match="give a system's folder"):
        submission.scores(tmp_path / "empty")
    with pytest.raises(AsdjaxError, match="no such folder"):
        submission.scores(tmp_path / "absent")


@pytest.fixture
def truth(tmp_path):
    for folder, rows in (
        ("ground_truth_data", "b.wav,1\na.wav,0\n"),
        ("ground_truth_domain", "a.wav,1\nb.wav,0\n"),
    ):
        place = tmp_path / folder
        place.mkdir()
        (place / "ground_truth_Toy_section_x_section_00_test.csv").write_text(rows)
    return tmp_path


def test_truth(truth):
    expected = {"a.wav": (False, True), "b.wav": (True, False)}
    assert submission.read_truth(truth) == {("Toy_section_x", "00"): expected}


def test_truth_under_a_decomposed_name(truth):
    """As macOS writes it; the names of a data set's machines are composed."""
    for file in truth.rglob("*.csv"):
        file.rename(file.with_name(file.name.replace("Toy", "Lu\u0308fter")))
    assert set(submission.read_truth(truth)) == {("L\u00fcfter_section_x", "00")}


def test_two_tables_whose_names_print_as_one(truth):
    for file in [*truth.rglob("*.csv")]:
        composed, other = (file.name.replace("Toy", u) for u in ("L\u00fcfter", "Lu\u0308fter"))
        file.rename(file.with_name(other))
        if file.parent.name == "ground_truth_domain":
            file.with_name(composed).write_bytes(b"a.wav,0\nb.wav,1\n")
        else:
            file.with_name(other).rename(file.with_name(composed))
    domain = truth / "ground_truth_domain"
    first, second = sorted(domain.iterdir())
    with pytest.raises(AsdjaxError) as refusal:
        submission.read_truth(truth)
    fault = f"{first} and {second}: one name in two spellings of Unicode: keep one"
    assert str(refusal.value) == fault
    for file in (first, second):
        name = file.name.replace("ground_truth", "anomaly_score")
        (domain / name).write_text("a.wav,0.5\nb.wav,0.6\n")
        file.unlink()
    with pytest.raises(AsdjaxError, match="one name in two spellings of Unicode: keep one"):
        submission.scores(domain)


@pytest.mark.parametrize(
    "text, words",
    [
        ("a.wav,1\na.wav,1\nb.wav,0\n", "row 2: a.wav .*row 1"),
        ("a.wav,1\nb.wav,2\n", "row 2: '2' is neither 0 nor 1"),
        ("a.wav,1\nb.wav,0\nc.wav,0\n", "row 3: c.wav is not in"),
        ("a.wav,1\n", "row 1: b.wav is not in"),
        ("", "empty"),
        ("a.wav,1,\nb.wav,0\n", "row 1: 3 columns"),
    ],
)
def test_faulty_truth(truth, text, words):
    file = truth / "ground_truth_domain" / "ground_truth_Toy_section_x_section_00_test.csv"
    file.write_text(text)
    with pytest.raises(AsdjaxError, match=f"ground_truth_Toy.*{words}"):
        submission.read_truth(truth)


def test_truth_of_one_half(truth):
    file = truth / "ground_truth_data" / "ground_truth_Toy_section_x_section_00_test.csv"
    file.rename(file.with_name("labels.csv"))
    with pytest.raises(AsdjaxError, match=r"labels\.csv: expected .*\(and 1 more\)"):
        submission.read_truth(truth)
    (file.with_name("labels.csv")).unlink()
    with pytest.raises(AsdjaxError, match="in ground_truth_data is missing"):
        submission.read_truth(truth)
    file.parent.rmdir()
    with pytest.raises(AsdjaxError, match="ground_truth_data: no such folder"):
        submission.read_truth(truth)


def test_truth_of_the_synthetic_corpus(tmp_path):
    from asdjax.config.recipe import SynthConfig
    from asdjax.synth import corpus as synth

    settings = dict(train_source=1, train_target=1, test_per_cell=2, seconds=0.5)
    synth.write(tmp_path, SynthConfig(machines=("ToothBrush",), ground_truth=True, **settings))
    found = submission.read_truth(tmp_path / "supplemental")
    names = {path.name for path in (tmp_path / "ToothBrush" / "test").glob("*.wav")}
    assert set(found) == {BRUSH} and set(found[BRUSH]) == names
    assert sorted(found[BRUSH].values()) == sorted(list(product((False, True), repeat=2)) * 2)

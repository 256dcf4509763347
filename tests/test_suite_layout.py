"""The tests' own files: helpers in one place, and an origin for every reference array."""

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_helpers_are_in_support():
    for path in HERE.rglob("*.py"):
        found = re.search(r"^\s*(from|import) test_", path.read_text("utf-8"), re.MULTILINE)
        assert not found, f"{path.name} imports another file of tests: share it in tests/support"


def test_folders_are_those_of_the_code():
    code = {path.name for path in (HERE.parent / "asdjax").iterdir() if path.is_dir()}
    folders = {path.parent.name for path in HERE.glob("*/test_*.py")}
    assert folders <= code | {"browser", "convert", "scripts"}


def test_names_are_unique():
    """Files of tests are modules without packages: two of one name cannot be collected."""
    names = [path.name for path in HERE.rglob("test_*.py")]
    assert len(names) == len(set(names))


def test_every_golden_file_has_an_origin():
    text = (HERE / "golden" / "README.md").read_text("utf-8")
    files = {path.name for path in (HERE / "golden").iterdir()} - {"README.md"}
    assert files == set(re.findall(r"`([\w.]+)`", "".join(re.findall(r"^### .*", text, re.M))))

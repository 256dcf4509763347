"""Every block of commands and of Python in the tutorials, in their order, on small data."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TESTS

from asdjax.cli import main

pytestmark = pytest.mark.usefixtures("compiled_fast")

DOCS = ROOT / "asdjax" / "docs"
BLOCK = re.compile(r"(?ms)^```(bash|python)\n(.*?)^```$")
SMALLER = {  # words of a page, and what takes less time
    "tutorial_machine": {"--seconds 4": "--seconds 1"},
    "tutorial_challenge": {
        "--train-source 60 --train-target 6 --test-per-cell 10 --seconds 5": (
            "--train-source 13 --train-target 3 --test-per-cell 4 --seconds 0.5"
        ),
        " quickstart ": f" {TESTS / 'tiny.yaml'} --extract.batch-size 16 ",
    },
    "tables": {},
}
FAILS = {"asdjax predict fan.asd new --csv new.csv --overwrite --fail-on-alarm": 3}
"""Commands whose exit code is not 0."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder in which the pages are carried out, one after the other."""
    return tmp_path_factory.mktemp("tutorials")


@pytest.fixture(scope="module")
def done():
    """The pages that were carried out: a test that runs alone carries out those before its own."""
    return set()


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of the blocks of a page."""
    text = (DOCS / f"{page}.md").read_text("utf-8")
    found = BLOCK.findall(text)
    assert len(found) == text.count("```bash") + text.count("```python")
    for old, new in SMALLER[page].items():
        assert any(old in block for _, block in found), old
        found = [(language, block.replace(old, new)) for language, block in found]
    return found


def run(command: str, capsys) -> None:
    """One command of asdjax in this process, with what a shell does after it left out."""
    command, _, into = command.partition("  #")[0].partition(" > ")
    command = command.partition(" || ")[0].strip()
    assert main(shlex.split(command)[1:]) == FAILS.get(command, 0), command
    printed = capsys.readouterr().out
    if into:
        Path(into).write_text(printed, "utf-8")


def carry_out(page: str, place: Path, capsys) -> None:
    """All blocks of a page; Python's share their names."""
    names: dict[str, Any] = {}
    for language, block in blocks(page):
        if language == "python":
            exec(compile(block, f"{page}.md", "exec"), names)
            continue
        for part in re.split(r"(?m)^(?=asdjax )", block):
            rest = part
            if part.startswith("asdjax "):
                command, _, rest = part.partition("\n")
                run(command, capsys)
            if rest.strip():
                subprocess.run(["bash", "-euc", rest], check=True, cwd=place)


@pytest.mark.parametrize("page", SMALLER)
def test_every_block_runs(page, place, done, monkeypatch, capsys):
    if page == "tables":
        pytest.importorskip("pandas")
    monkeypatch.chdir(place)
    for earlier in SMALLER:
        if earlier not in done:
            carry_out(earlier, place, capsys)
            done.add(earlier)
        if earlier == page:
            break


def test_commands_of_tutorials_are_in_blocks():
    for page in SMALLER:
        text = (DOCS / f"{page}.md").read_text("utf-8")
        assert not re.search(r"(?m)^ {4}asdjax ", text), page

"""Every block of commands and of Python in the documentation, in its order, on small data.

The tutorials are carried out first, one after the other in one folder. Each other page starts with
a copy of it, and with the files that pages take for granted.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import GOLDEN, ROOT, TESTS
from support.plugins import forget
from support.plugins import plugins_of_the_test as plugins_of_the_test  # a fixture

from asdjax.cli import main

pytestmark = pytest.mark.usefixtures("compiled_fast", "plugins_of_the_test")

DOCS = ROOT / "asdjax" / "docs"
BLOCK = re.compile(r"(?ms)^```(bash|python)\n(.*?)^```$")
TUTORIALS = ("tutorial_machine", "tutorial_challenge", "tables")
PAGES = [p.stem for p in sorted(DOCS.glob("*.md")) if BLOCK.search(p.read_text("utf-8"))]
OTHERS = [page for page in PAGES if page not in TUTORIALS]
NOT_HERE = {
    "pip install": "installs from the network",
    "scripts/": "takes minutes to hours, or installs from the network",
    ".ci/run": "runs these tests",
    "tensorboard": "is a server of another project",
    "asdjax watch pump.asd --microphone": "needs a microphone: tests/commands/test_watch.py",
    "asdjax serve": "runs until it is stopped: tests/server/test_serve.py",
    "curl": "asks that server",
    "asdjax convert asdkit": "needs ASDKit's checkpoints: tests/convert/test_convert_asdkit.py",
    **{
        command: "needs published weights: tests/convert, tests/commands/test_spectrogram_systems"
        for command in (
            "asdjax convert openbeats",
            "asdjax run beats_frozen --data data --run runs/openbeats",
            "asdjax convert ast",
            "asdjax embed weights/ast",
            "asdjax fit normal/ --out machine",
            "asdjax convert eat",
            "asdjax convert sslam",
            "asdjax embed weights/eat",
            "asdjax convert dasheng",
            "asdjax embed weights/dasheng",
        )
    },
}
"""Beginnings of commands that are not carried out, and why."""
WORDS = {
    "ROOT": "data",
    "DATA": "data",
    "RUN": "runs/seed0",
    "DIR": "synthetic",
    "TRUTH": "data/supplemental",
    "WEIGHTS FILE_OR_DIR...": "weights/beats new",
    "system1": str(TESTS / "tiny.yaml"),
    "system2": "beats.yaml",
    "system4": "beats.yaml",
}
"""Placeholders of all pages but the tutorials, and recipes that take less time."""
SMALLER = {  # words of a page, and what takes less time, or what is there
    "tutorial_machine": {"--seconds 4": "--seconds 1"},
    "tutorial_challenge": {
        "--train-source 60 --train-target 6 --test-per-cell 10 --seconds 5": (
            "--train-source 13 --train-target 3 --test-per-cell 4 --seconds 0.5"
        ),
        " quickstart ": f" {TESTS / 'tiny.yaml'} --extract.batch-size 16 ",
    },
    "accelerators": {"srun ": "", "/data/dcase2026": "data", "/scratch/$USER/seed0": "runs/job"},
    "training": {"--train.epochs 40": "--train.epochs 4"},
    "live": {"incoming/": "incoming/ --once"},
    "method_thresholds": {"--decision.level 0.95": "--decision.level 0.9"},
    "results": {"runs/seed1 runs/seed2": "runs/seed1"},
    "sources": {"synth DIR": "synth DIR --seconds 1 --train-source 2 --test-per-cell 1"},
    "scale": {"WEIGHTS INPUT...": "runs/seed0 new", "FILE.parquet": "job.parquet"},
    "detector": {"normal/ --train": "few/ --train", "/recordings/today": "new"},
}
MAKES = re.compile(r"(?:--out|--run|--png|watch .*--log|convert beats \S+|export \S+) (\S+)")
"""What a command makes."""
BEATS = """extends: asdkit_lora
audio: {clip_seconds: 0.4}
model: {pooling_ratio: 4, embedding_size: 16, lora: {rank: 4}}
train: {epochs: 2, batch_size: 16}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder in which the tutorials are carried out, one after the other."""
    return tmp_path_factory.mktemp("tutorials")


@pytest.fixture(scope="module")
def done():
    """The tutorials that were carried out: a test that runs alone carries out those before it."""
    return set()


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of the blocks of a page, with what is smaller, or there, in its place."""
    text = (DOCS / f"{page}.md").read_text("utf-8")
    found = BLOCK.findall(text)
    assert len(found) == text.count("```bash") + text.count("```python")
    for old, new in SMALLER.get(page, {}).items():
        assert any(old in block for _, block in found), old
        found = [(language, block.replace(old, new)) for language, block in found]
    if page in TUTORIALS:
        return found
    any_word = re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in WORDS))
    return [
        (language, any_word.sub(lambda m: WORDS[m[0]], block) if language == "bash" else block)
        for language, block in found
    ]


def run(command: str, capsys) -> None:
    """One command of asdjax in this process, with what a shell does after it left out."""
    command, _, into = command.partition("  #")[0].partition(" > ")
    command = command.partition(" || ")[0].strip()
    try:
        code = main(shlex.split(command)[1:])
    except SystemExit as end:  # of --help
        code = int(end.code or 0)
    forget()  # of plugins: each command is a process of its own
    printed = capsys.readouterr()
    assert code == (3 if "--fail-on-alarm" in command else 0), f"{command}: {printed.err}"
    if into:
        Path(into.partition(" || ")[0].strip()).expanduser().write_text(printed.out, "utf-8")


def carry_out(page: str, place: Path, capsys) -> None:
    """All blocks of a page; Python's share their names."""
    sound = np.random.default_rng(0).standard_normal((2, 16_000)).astype(np.float32) / 10
    names: dict[str, Any] = {"waveforms": sound, "chunks": [*sound]}
    for language, block in blocks(page):
        if language == "python":
            exec(compile(block, f"{page}.md", "exec"), names)
            continue
        for part in re.split(r"(?m)^(?=asdjax )", block):
            rest = part
            if part.startswith("asdjax "):
                command, _, rest = part.partition("\n")
                if not command.startswith(tuple(NOT_HERE)):
                    run(command, capsys)
            lines = [line for line in rest.splitlines() if not line.startswith(tuple(NOT_HERE))]
            if any(lines):
                subprocess.run(["bash", "-euc", "\n".join(lines)], check=True, cwd=place)


def tutorials(until: str, place: Path, done: set[str], capsys) -> None:
    """Carry out the tutorials up to one of them."""
    for page in TUTORIALS[: TUTORIALS.index(until) + 1]:
        if page not in done:
            carry_out(page, place, capsys)
            done.add(page)


def prepare() -> None:
    """Files that pages take for granted."""
    shutil.copytree("sounds/fan/train", "normal")
    shutil.copytree("incoming", "more")
    for i, path in enumerate(sorted(Path("normal").iterdir())[:16]):  # in two conditions
        Path("few", "load" if i % 2 else "idle").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, Path("few", "load" if i % 2 else "idle"))
    recordings = sorted(Path("new").iterdir())
    for path, name in zip(recordings, ("a.wav", "b.wav", "today.wav"), strict=False):
        shutil.copy(path, Path("new", name))
    shutil.copy("new/today.wav", "today.wav")
    shutil.copy("new/a.wav", "a.wav")
    soundfile.write("b.mp3", *soundfile.read("new/b.wav"))
    shutil.copy("fan.asd", "pump.asd")
    shutil.copy("fan.jsonl", "pump.jsonl")
    for name in ("a", "other", "asdkit"):
        shutil.copytree("runs/seed0", Path("runs", name))
    assert main(["score", "runs/seed1", "--decision.method", "gamma"]) == 0  # as seed0 was
    shutil.copytree("runs/seed1", "runs/b")
    shutil.copy(GOLDEN / "beats_tiny.pt", "BEATs_iter3.pt")
    assert main(["convert", "beats", "BEATs_iter3.pt", "weights/beats"]) == 0
    Path("beats.yaml").write_text(BEATS, "utf-8")
    plugins = re.findall(r"(?s)```python\n(.*?)```", (DOCS / "plugins.md").read_text("utf-8"))
    Path("mine.py").write_text("\n".join(plugins), "utf-8")


@pytest.fixture
def prepared(place, done, monkeypatch, capsys):
    """The folder of which each page gets a copy; made by the first that asks for it."""
    monkeypatch.chdir(place)
    tutorials("tutorial_challenge", place, done, capsys)
    folder = place.with_name(f"{place.name}-prepared")
    if not folder.exists():
        shutil.copytree(place, folder)
        monkeypatch.chdir(folder)
        prepare()
    return folder


def remove_what_it_makes(page: str) -> None:
    """Leave out the files that a page makes itself."""
    text = "".join(block for language, block in blocks(page) if language == "bash")
    for path in map(Path, re.findall(MAKES, text)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@pytest.mark.parametrize("page", TUTORIALS)
def test_every_block_of_the_tutorials_runs(page, place, done, monkeypatch, capsys):
    if page == "tables":
        pytest.importorskip("pandas")
    monkeypatch.chdir(place)
    tutorials(page, place, done, capsys)


def trains(page: str) -> bool:
    """Whether a page has a command that trains."""
    text = "".join(block for _, block in blocks(page))
    return bool(re.search(r"(?m)^asdjax (run|train) (?!.*--help)|--train ", text))


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=[pytest.mark.slow] if trains(p) else []) for p in OTHERS],
)
def test_every_block_runs(page, prepared, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "page"
    shutil.copytree(prepared, copy)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    remove_what_it_makes(page)
    carry_out(page, copy, capsys)


def test_commands_are_in_blocks():
    for path in DOCS.glob("*.md"):
        text = path.read_text("utf-8")
        assert not re.search(r"(?m)^ {4,}(asdjax|pip|scripts/\S+) ", text), path.name


def test_what_is_not_carried_out_is_in_the_documentation():
    text = "".join(block for page in PAGES for _, block in blocks(page))
    for command in NOT_HERE:
        assert f"\n{command}" in f"\n{text}", command

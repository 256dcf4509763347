"""Processes that are really killed, and the same command again."""

import subprocess
import sys
from pathlib import Path

import pytest

from asdjax.runs import Run

pytestmark = pytest.mark.usefixtures("compiled_fast")

RECIPE = str(Path(__file__).parent / "views.yaml")
PROGRAM = """
import os, signal, sys, threading
from asdjax import atomic, cli, parallel
from asdjax.checkpoint import Checkpoints

moment, count = sys.argv[1], 0

def die_at(n):
    global count
    count += 1
    if count == n:
        os.kill(os.getpid(), signal.SIGKILL)

save, write, split = Checkpoints.save, atomic.write_bytes, parallel.split_batch

def killed_save(self, *args):
    global count
    count += 1
    if count == 2:
        threading.Timer(0.005, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    save(self, *args)

def killed_write(path, content):
    write(path, content)
    if path.suffix == moment:
        die_at(2)

def killed_split(batch, devices):
    die_at(5)
    return split(batch, devices)

if moment == "save":
    Checkpoints.save = killed_save
elif moment == "step":
    parallel.split_batch = killed_split
else:
    atomic.write_bytes = killed_write
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def run_of(corpus_root):
    def run(path, *moment):
        start = ["-c", PROGRAM, *moment] if moment else ["-m", "asdjax.cli"]
        verb = ["run", RECIPE, "--data", str(corpus_root), "--run", str(path)]
        command = [sys.executable, *start, *verb]
        return subprocess.run(command, capture_output=True, check=False).returncode

    return run


@pytest.fixture(scope="module")
def whole(run_of, tmp_path_factory):
    """An uninterrupted run's results."""
    path = tmp_path_factory.mktemp("whole") / "run"
    assert run_of(path) == 0
    return results(path)


def results(path):
    files = [*path.glob("embeddings/*/*.npz"), *path.glob("scores/*"), *path.glob("metrics/*")]
    found = {file.relative_to(path).as_posix(): file.read_bytes() for file in files}
    assert len(found) == 3 * 7 + 3 + 2  # machines and views, scores, metrics
    return {**found, "weights": Run(path).finished_training()["digest"]}


@pytest.mark.parametrize(
    "moment",
    [
        "save",
        pytest.param(".npz", marks=pytest.mark.slow),
        pytest.param("step", marks=pytest.mark.slow),
        pytest.param(".csv", marks=pytest.mark.slow),
    ],
)
def test_killed_and_given_again(moment, run_of, whole, tmp_path):
    assert run_of(tmp_path / "run", moment) == -9
    assert run_of(tmp_path / "run") == 0
    assert results(tmp_path / "run") == whole

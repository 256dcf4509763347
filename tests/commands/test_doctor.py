"""The state of an installation, and the sentence for each fault in it."""

import json
import shutil
import subprocess
import sys
from importlib import metadata

import jax
import pytest

from asdjax.cli import main
from asdjax.commands import doctor
from asdjax.errors import ArtifactError
from asdjax.runtime import compile_cache, devices
from asdjax.training import known_results
from asdjax.training.known_results import Comparison


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    """No computation, and a cache of compiled programs of the test's own."""
    right = [Comparison("embedding", 1e-6, 1e-3)]
    monkeypatch.setattr(known_results, "compare", lambda: right)
    monkeypatch.setattr(compile_cache, "use", lambda: tmp_path)


def examined(capsys, code):
    assert main(["doctor", "--json"]) == code
    printed = capsys.readouterr()
    assert not printed.err and "NaN" not in printed.out
    return json.loads(printed.out)


def test_a_sound_installation(capsys):
    found = examined(capsys, 0)
    assert found["schema"] == doctor.SCHEMA and not found["problems"]
    assert found["packages"]["jax"] == metadata.version("jax")
    assert None not in found["packages"].values() and len(found["packages"]) >= 18
    assert (
        found["extras"]["plot"]["installed"] and "matplotlib" in found["extras"]["plot"]["packages"]
    )
    assert {*found["extras"]} == {*metadata.metadata("asdjax").get_all("Provides-Extra")} - {
        "test",
        "browser",
    }
    assert found["devices"][0]["platform"] == "cpu" and found["cores"]["usable"] >= 1
    assert found["computations"][0]["right"] and found["memory_bytes"] > 10**8
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "no problems" and any(line.startswith("device 0") for line in lines)


def too_old(monkeypatch):
    version = metadata.version
    old = {"jax": "0.4.30"}
    monkeypatch.setattr(metadata, "version", lambda name: old.get(name) or version(name))
    return "jax 0.4.30 is too old", "pip install 'jax>="


def missing(monkeypatch):
    version = metadata.version

    def found(name):
        if name == "optax":
            raise metadata.PackageNotFoundError
        return version(name)

    monkeypatch.setattr(metadata, "version", found)
    return "optax is not installed", "pip install 'optax>="


def no_device(monkeypatch):
    def start():
        raise ArtifactError("JAX finds no working device: set JAX_PLATFORMS=cpu")

    monkeypatch.setattr(devices, "start", start)
    return "JAX finds no working device", "JAX_PLATFORMS=cpu"


def broken_library(monkeypatch):
    def start():
        raise ImportError("libcuda.so: no such file")

    monkeypatch.setattr(devices, "start", start)
    return "libcuda.so: no such file", "new environment"


def wrong_result(monkeypatch):
    monkeypatch.setattr(known_results, "compare", lambda: [Comparison("steps", float("nan"), 1e-3)])
    return "steps: the result", "update the device's driver"


def no_memory(monkeypatch):
    def compare():
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(known_results, "compare", compare)
    return "RESOURCE_EXHAUSTED", "end other programs"


def no_cache(monkeypatch):
    def use():
        raise ArtifactError("cache: owned or writable by other users")

    monkeypatch.setattr(compile_cache, "use", use)
    return "compiled programs are not kept", "owned or writable"


def full_disk(monkeypatch):
    full = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    return "0.0 GB are free", "make room"


def ascii_names(monkeypatch):
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    return "names of files are read as ascii", "PYTHONUTF8=1"


@pytest.mark.parametrize(
    "fault",
    [
        too_old, missing, no_device, broken_library, wrong_result, no_memory, no_cache, full_disk,
        ascii_names,
    ],
    ids=lambda fault: fault.__name__,
)  # fmt: skip
def test_a_fault_is_a_sentence_that_says_what_to_do(fault, monkeypatch, capsys):
    what, remedy = fault(monkeypatch)
    problem, *others = examined(capsys, 1)["problems"]
    assert what in problem and remedy in problem
    assert not others or fault is full_disk  # two folders are on it
    assert main(["doctor"]) == 1
    assert f"problem: {problem[:50]}" in capsys.readouterr().out


def test_an_ascii_terminal():
    program = (
        "import sys; from asdjax.training import known_results\n"
        "known_results.compare = lambda: []\n"
        "from asdjax.__main__ import main; sys.argv = ['asdjax', 'doctor']; sys.exit(main())"
    )
    chosen = {"PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0", "LC_ALL": "C", "PATH": ""}
    chosen |= {"HOME": "/nonexistent-größe", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, env=chosen, capture_output=True, timeout=60)
    assert ended.returncode == 1 and ended.stdout.isascii() and b"Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("version", "least", "old"),
    [
        ("2", "2.0", False),
        ("0.10.2", "0.9", False),
        ("0.9.9", "0.10.0", True),
        ("4.1rc1", "4", False),
    ],
)
def test_versions_are_compared_as_numbers(version, least, old):
    assert (doctor._numbers(version) < doctor._numbers(least)) == old


def test_the_cache_of_compiled_programs(tmp_path, capsys):
    for name, size in (("jit_a-1-cache", 100), ("jit_a-1-cache.digest", 32), ("jit_b-2-cache", 50)):
        (tmp_path / name).write_bytes(bytes(size))
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        found = examined(capsys, 0)["cache"]
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert found == {"path": str(tmp_path), "bytes": 182, "programs": 2, "usable": True}


def test_flags_with_which_jax_aborts_are_named(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_no_such_flag")
    (problem,) = [p for p in doctor.examine()["problems"] if "XLA_FLAGS" in p]
    assert problem.startswith("XLA_FLAGS=--xla_no_such_flag: JAX cannot start (Unknown flag")
    assert problem.endswith("unset XLA_FLAGS")

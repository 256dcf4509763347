"""Random files of the published sizes: converted in the memory that is stated."""

import json
import re
import subprocess
import sys
import time
from collections import OrderedDict

import numpy as np
import pytest
from conftest import GOLDEN
from safetensors.numpy import load_file, save_file
from support.torch_writer import write

from asdjax.cli import main
from asdjax.convert import torch_file

pytestmark = pytest.mark.slow

# by a small process between: on Linux a child's most memory is at least its parent's
BETWEEN = (
    "import os, subprocess, sys\n"
    "_, status, used = os.wait4(subprocess.Popen(sys.argv[1:]).pid, 0)\n"
    "print(status, used.ru_maxrss)"
)


def full(state, rng):
    """Random arrays with the names of a small file, of 12 layers of 768 values."""
    arrays = {}
    for name, array in state.items():
        if (
            array.dtype.kind != "f"
            or "front_end" in name
            or "positions" in name
            and "fixed" in name
        ):
            arrays[name] = array
            continue
        feed = re.search(r"fc1|fc2|intermediate|\doutput\.dense|layer\.\d\.output", name)
        sizes = {32: 768, 96: 2304, **({64: 3072} if feed else {})}
        shape = [sizes.get(size, size) for size in array.shape]
        block = re.search(r"(blocks|layer)\.2\.", name)
        for number in range(2, 12) if block else (None,):
            new = name if number is None else name.replace(block[0], f"{block[1]}.{number}.")
            values = rng.normal(0, 0.02, shape).astype(np.float32)
            arrays[new] = np.abs(values) if name.endswith("running_var") else values
    return arrays


def ast(file, rng):
    save_file(full(load_file(GOLDEN / "ast_tiny.safetensors"), rng), file)


def eat(file, rng):
    content = torch_file.read(GOLDEN / "eat_tiny.pt", placeholders_outside="model")
    state = {k: a for k, a in content["model"].items() if k != "_ema" and "fixed" not in k}
    write(file, {"model": OrderedDict(full(state, rng))})


def dasheng(file, rng):
    content = torch_file.read(GOLDEN / "dasheng_tiny.pt")
    write(file, {"model": OrderedDict(full(content["model"], rng)), "config": content["config"]})


@pytest.mark.parametrize(
    ("verb", "make", "parameters"),
    [("ast", ast, 86_187_264), ("eat", eat, 85_254_144), ("dasheng", dasheng, 85_447_936)],
)
def test_memory_of_conversion(verb, make, parameters, tmp_path, rng, capsys):
    source, folder = tmp_path / "weights", tmp_path / "out"
    make(source, rng)
    command = [sys.executable, "-m", "asdjax.convert", verb, str(source), str(folder)]
    began = time.monotonic()
    run = subprocess.run([sys.executable, "-c", BETWEEN, *command], capture_output=True, check=True)
    seconds = time.monotonic() - began
    status, most = map(int, run.stdout.split()[-2:])
    assert status == 0, run.stderr
    document = json.loads((folder / "encoder.json").read_text())
    print(verb, document["parameters"], f"{seconds:.1f} s, {most * 1024 / 1e9:.2f} GB")
    assert document["encoder"]["depth"] == 12 and document["encoder"]["heads"] == 12
    assert document["parameters"] == parameters
    assert most * 1024 < 1.5e9
    assert main(["convert", "verify", str(folder)]) == 0

"""What the scripts that run asdjax commands share: their start, and the commands' processes."""

import subprocess
import sys

import pytest
from conftest import ROOT

SCRIPTS = ROOT / "scripts"

AIMED = """
import contextlib, os, select, signal, subprocess, sys, threading, time
from asdjax import __main__
from asdjax.runtime import interruption
import driver

driver.ASDJAX = "sleep", "60"
interruption._AGAIN = 0.01
FILES = {contextlib.__file__, driver.__file__, subprocess.__file__}
lines = 0


def script():
    def trace(frame, event, _):
        global lines
        if frame.f_code.co_filename not in FILES:
            return None
        lines += event == "line"
        if event == "line" and lines == aim:
            signal.raise_signal(signal.SIGTERM)
        return trace

    interruption.watch()
    sys.settrace(trace)
    with driver.started([], pass_fds=[writing]):
        sys.settrace(None)
        if lines < aim:
            os.write(writing, b"every line was aimed at")
            signal.raise_signal(signal.SIGTERM)
        time.sleep(60)


aim, answer = 0, b""
while not answer:
    aim += 1
    reading, writing = os.pipe()
    if not os.fork():
        __main__.start(script, "nothing was done")
    os.close(writing)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 143
    assert select.select([reading], [], [], 5)[0], f"a process is left, at line {aim}"
    answer = os.read(reading, 100)  # empty when all writers have ended
    os.close(reading)
print(aim)
"""


def test_a_signal_while_a_command_starts_leaves_no_process():
    """The signal comes at each line of Python between call and block."""
    done = subprocess.run(
        [sys.executable, "-c", AIMED], cwd=SCRIPTS, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


@pytest.mark.parametrize("given", [[], ["cat"], ["driver"], ["--help"]])
def test_only_scripts_can_be_started(given):
    command = [sys.executable, SCRIPTS / "start.py", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "asdjax: python scripts/start.py NAME ARGUMENTS: NAME is one of all_systems, "
    )

"""Memory that is let go of stays with the process, which is another one here."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import numpy as np
from asdjax import host_memory

host_memory._ENOUGH = ENOUGH
print(host_memory.keep())
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(25_000_000)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
before = resident()
host_memory.trim()
print(max(faults[1:]), before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.parametrize(
    "chosen, enough",
    [({}, 0), ({}, 2**60), ({"MALLOC_ARENA_MAX": "2"}, 0), ({"GLIBC_TUNABLES": ""}, 0)],
    ids=["kept", "little memory", "arenas chosen", "tunables chosen"],
)
def test_freed_memory_stays_where_there_is_enough_and_the_user_has_not_chosen(chosen, enough):
    own = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", PROGRAM.replace("ENOUGH = ENOUGH", f"ENOUGH = {enough}")]
    result = subprocess.run(command, env=own | chosen, capture_output=True, text=True, check=True)
    kept, faults, given_back = result.stdout.split()
    pages = 200_000_000 // os.sysconf("SC_PAGESIZE")
    if chosen or enough:
        assert kept == "False"
        assert int(faults) > pages / 1000  # of 2 MiB at the most
    else:
        assert kept == "True"
        assert int(faults) < pages / 1000
        assert int(given_back) > 150_000_000

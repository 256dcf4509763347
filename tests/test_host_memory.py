"""Memory that is let go of stays with the process, which is another one here, as far as needed."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, time
from asdjax import host_memory

print("started", flush=True)
kept = host_memory.keep()
pages = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
faults = []
for _ in range(4):
    before = pages()
    bytearray(b"x") * 200_000_000
    faults.append(pages() - before)
before = host_memory._resident()
host_memory._FORGET = host_memory._SLACK = 0  # what was in use a moment ago is not any more
time.sleep(3 * host_memory._EVERY)
print(sys.argv[1:], kept, max(faults[1:]), before - host_memory._resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.parametrize(
    "chosen",
    [{}, {"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": ""}],
    ids=["kept", "arenas chosen", "tunables chosen"],
)
def test_freed_memory_stays_while_it_is_needed_unless_the_user_has_chosen(chosen):
    own = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-X", "utf8", "-c", PROGRAM, "an argument"]
    result = subprocess.run(command, env=own | chosen, capture_output=True, text=True, check=True)
    *starts, last = result.stdout.splitlines()
    assert starts in (["started"], ["started"] * (1 + (not chosen)))  # again for huge pages
    argument, rest = last.split("] ")
    kept, faults, given_back = rest.split()
    assert argument == "['an argument'"
    pages = 200_000_000 // os.sysconf("SC_PAGESIZE")
    if chosen:
        assert kept == "False"
        assert int(faults) > pages / 1000  # of 2 MiB at the most
    else:
        assert kept == "True"
        assert int(faults) < pages / 1000
        assert int(given_back) > 150_000_000

"""Freed memory stays with the process as far as needed; in processes started for the test."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import concurrent.futures, resource, threading, time
from asdjax.runtime import host_memory

kept = host_memory.keep()
look = lambda: time.sleep(3 * host_memory._INTERVAL * kept)  # of a thread that returns memory
pages = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
together = threading.Barrier(4)
one_by_one = threading.Lock()
faults = []

def scratch(n):
    together.wait()  # so that there are four threads
    with one_by_one:
        before = pages()
        memory = bytearray(b"x") * 200_000_000
        look()
        del memory
        look()
        faults.append(pages() - before)

look()
with concurrent.futures.ThreadPoolExecutor(4) as threads:
    list(threads.map(scratch, range(4)))
before = host_memory._resident()
more = bytearray(b"x") * 400_000_000  # does not fit where the others were
look()
print(kept, max(faults[1:]), host_memory._resident() - before)
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


def run(program, chosen):
    own = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, env=own | chosen, capture_output=True, text=True, check=True)
    return result.stdout.split()


@glibc
@pytest.mark.parametrize(
    "chosen",
    [{}, {"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": ""}, {"LD_PRELOAD": "./libjemalloc.so"}],
    ids=["kept", "arenas chosen", "tunables chosen", "another allocator"],
)
def test_freed_memory_stays_while_it_is_needed_unless_the_user_has_chosen(chosen):
    kept, faults, grown = run(PROGRAM, chosen)
    pages = 200_000_000 // os.sysconf("SC_PAGESIZE")
    if chosen:
        assert kept == "False"
        assert int(faults) > pages / 1000  # of 2 MiB at the most
    else:
        assert kept == "True"
        assert int(faults) < pages / 1000
        assert int(grown) < 250_000_000  # what the others left is given back

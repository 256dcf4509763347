"""Memory that is let go of stays with the process, which is another one here, as far as needed."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import concurrent.futures, resource, threading, time
from asdjax import host_memory

kept = host_memory.keep()
look = lambda: time.sleep(3 * host_memory._EVERY)
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


SPLINTERED = """
import ctypes, time
from asdjax import host_memory

host_memory.keep()
library = ctypes.CDLL(None)
library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
take = lambda n: library.malloc(ctypes.c_size_t(n))
blocks, walls = zip(*[(take(66_000 + 100 * i), take(3000)) for i in range(500)])
for block in blocks:
    library.free(block)

def among_them():
    place = take(65_536)
    library.free(place)
    return min(blocks) <= place <= max(blocks)

before = among_them()
host_memory.compiled()
time.sleep(5 * host_memory._EVERY)
print(before, among_them(), host_memory._resident() < 2e8)
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


def run(program, chosen):
    own = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, env=own | chosen, capture_output=True, text=True, check=True)
    return result.stdout.split()


@glibc
def test_what_a_compiler_leaves_free_is_not_searched():
    assert run(SPLINTERED, {}) == ["True", "False", "True"]


@glibc
@pytest.mark.parametrize(
    "chosen",
    [{}, {"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": ""}],
    ids=["kept", "arenas chosen", "tunables chosen"],
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

"""Memory in huge pages, asked for by a process of its own."""

import os
import platform
import subprocess
import sys

import pytest

from asdjax import host_memory

PROGRAM = """
import os, re, sys
from asdjax import host_memory

if sys.argv[2] == "never":
    host_memory._KERNEL = host_memory._KERNEL.with_name("no such file")
print("started", flush=True)
host_memory.use_huge_pages()
room = bytearray(b"x") * 200_000_000
smaps = open("/proc/self/smaps_rollup").read()
huge = re.search(r"AnonHugePages: +([0-9]+)", smaps)[1]
print(sys.argv[1:], os.environ.get("GLIBC_TUNABLES"), huge)
"""


def can() -> bool:
    library, version = platform.libc_ver()
    recent = library == "glibc" and tuple(map(int, version.split("."))) >= (2, 35)
    kernel = host_memory._KERNEL
    return recent and kernel.is_file() and "[madvise]" in kernel.read_text()


@pytest.mark.skipif(not can(), reason="this machine has no huge pages on request")
@pytest.mark.parametrize(
    "kernel, chosen",
    [("", {}), ("never", {}), ("", {"MALLOC_ARENA_MAX": "2"}), ("", {"GLIBC_TUNABLES": ""})],
    ids=["asked for", "not to be had", "arenas chosen", "tunables chosen"],
)
def test_huge_pages_where_they_can_be_had_and_the_user_has_not_chosen(kernel, chosen):
    own = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-X", "utf8", "-c", PROGRAM, "an argument", kernel]
    result = subprocess.run(command, env=own | chosen, capture_output=True, text=True, check=True)
    *starts, last = result.stdout.splitlines()
    asked = not (kernel or chosen)
    assert starts == ["started"] * (1 + asked)  # once more, and no more often
    tunables = host_memory.TUNABLES if asked else chosen.get("GLIBC_TUNABLES")
    assert last.startswith(f"['an argument', '{kernel}'] {tunables} ")
    assert (int(last.split()[-1]) > 150_000) == asked

"""How the C library hands out memory to XLA.

On a CPU, XLA asks for all the scratch memory of a program at every call and lets go of it at the
end; clearing its pages one by one is a good part of the time of a training step of MultiResNet.
Huge pages are cleared at a fraction of that. Keeping the memory instead is no better: what else is
allocated meanwhile makes the scratch memory move, and a process may come to hold it three times.
"""

import os
import platform
import sys
from pathlib import Path

TUNABLES = ":".join(
    (
        "glibc.malloc.hugetlb=1",
        "glibc.malloc.arena_max=1",  # one heap for all threads
        "glibc.malloc.mmap_threshold=1073741824",  # what is larger is given back at once
        "glibc.malloc.trim_threshold=1073741824",  # of the rest so much is kept
    )
)
_KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_huge_pages() -> None:
    """Start this process again with huge pages, for they can only be asked for at its start.

    Does nothing where the C library (glibc 2.35 or later) or the kernel (huge pages on request)
    cannot, or the user's environment sets the allocator (GLIBC_TUNABLES, MALLOC_...), which stands.
    """
    chosen = [n for n in os.environ if n == "GLIBC_TUNABLES" or n.startswith("MALLOC_")]
    library, version = platform.libc_ver()
    if chosen or library != "glibc" or [int(n) for n in version.split(".")[:2]] < [2, 35]:
        return
    if not (_KERNEL.is_file() and "[madvise]" in _KERNEL.read_text()):
        return
    os.environ["GLIBC_TUNABLES"] = TUNABLES
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

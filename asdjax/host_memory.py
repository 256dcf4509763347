"""What the C library does with memory that this process has let go of.

On a CPU, XLA asks for all the scratch memory of a program at every call and lets go of it at the
end; the kernel would clear every page of it anew, a quarter of the time of a training step of
MultiResNet. So the process keeps what it has had, and gives back what a first call left over.
"""

import ctypes
import os
import platform
import time
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of malloc.h
_ROOM = 2 << 30
_ENOUGH = 15 << 30
_LIMIT = Path("/sys/fs/cgroup/memory.max")  # a container's


def keep() -> bool:
    """Keep freed memory for the next call; to be called once, before any thread starts.

    Not where memory is short, for a process may come to hold twice what it uses.

    Returns:
        Whether the C library is one that can (glibc), the machine or container has 15 GiB at least,
        and the user's environment does not set the allocator (GLIBC_TUNABLES, MALLOC_...), which
        would stand.
    """
    chosen = [n for n in os.environ if n == "GLIBC_TUNABLES" or n.startswith("MALLOC_")]
    if chosen or platform.libc_ver()[0] != "glibc" or _memory() < _ENOUGH:
        return False
    library = ctypes.CDLL(None)
    # One heap for all threads, also for large arrays, whose end is never given back.
    settings = (_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)
    if not all(library.mallopt(*setting) == 1 for setting in settings):
        return False
    # Addresses for all that is small, before the heap's end: what stood behind the scratch memory
    # would keep it from growing into the same place again.
    library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    room, _ = library.malloc(ctypes.c_size_t(_ROOM)), library.malloc(ctypes.c_size_t(4096))
    library.free(room)
    return True


def _memory() -> int:
    """Bytes of this machine, or of the container if it has a limit."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _LIMIT.read_text().strip() if _LIMIT.is_file() else "max"
    return machine if limit == "max" else min(machine, int(limit))


def trim() -> None:
    """Give back what is free: after a program's first call, which compiled it and began the heap.

    Without it the scratch memory of the first call may lie fragmented beside that of the second.
    """
    if platform.libc_ver()[0] == "glibc":
        time.sleep(0.1)  # XLA lets go of it a moment after the results are there
        ctypes.CDLL(None).malloc_trim(0)

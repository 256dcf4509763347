"""What the C library does with memory that this process has let go of.

On a CPU, XLA asks for all the scratch memory of a program at every call and lets go of it at the
end; the kernel would clear every page of it anew, a quarter of the time of a training step of
MultiResNet. So the process keeps what it has had. Since other allocations make the scratch memory
move, which leaves an unused twin behind, a thread gives back what is not needed.
"""

import ctypes
import os
import platform
import threading
import time
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of malloc.h
_SLACK = 1 << 27
_EVERY = 0.1  # seconds between two looks
_STATM = Path("/proc/self/statm")
_GROUP_LIMITS = (  # of control groups, versions 2 and 1
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def keep() -> bool:
    """Keep freed memory for the next call; to be called once, before any thread starts.

    The process then holds about as much as the most that was in use at one of the thread's looks.

    Returns:
        Whether the C library is one that can (glibc, on Linux), and the user's environment neither
        sets its allocator (GLIBC_TUNABLES, MALLOC_...) nor preloads another, which would stand.
    """
    chosen = [n for n in os.environ if n == "GLIBC_TUNABLES" or n.startswith("MALLOC_")]
    if chosen or "malloc" in os.environ.get("LD_PRELOAD", ""):  # jemalloc, tcmalloc, mimalloc
        return False
    if platform.libc_ver()[0] != "glibc" or not _STATM.exists():
        return False
    library = ctypes.CDLL(None)
    # One heap for all threads, also for large arrays, whose end is never given back: other heaps
    # are small, and what does not fit into them would be mapped and unmapped at every call.
    settings = (_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)
    if not all(library.mallopt(*setting) == 1 for setting in settings):
        return False
    threading.Thread(target=_give_back, args=(library,), daemon=True).start()
    return True


def _give_back(library: ctypes.CDLL) -> None:
    """Whenever more is resident than was in use at any look before, give back what is free."""
    most = 0
    while True:
        try:
            if _resident() > most:
                library.malloc_trim(0)
                most = max(most, _resident() + _SLACK)
        except OSError:  # no file can be opened just now
            pass
        time.sleep(_EVERY)


def total() -> int | None:
    """Bytes of memory that this process may use: the machine's or its control group's.

    None on a system that does not tell.
    """
    names = os.sysconf_names if hasattr(os, "sysconf") else {}
    if "SC_PHYS_PAGES" not in names:
        return None
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _GROUP_LIMITS:
        if path.is_file() and (text := path.read_text("ascii").strip()).isdecimal():
            limits.append(int(text))  # else "max"
    return min(limits)


def resident() -> int:
    """Bytes of this process in memory; 0 on a system that does not tell."""
    return _resident() if _STATM.exists() else 0


def _resident() -> int:
    return int(_STATM.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")

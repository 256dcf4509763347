"""Reuse of freed memory by this process, and how much memory there is.

On a CPU, XLA allocates a program's scratch memory at every call and frees it afterwards. If glibc
returned it to the kernel, the kernel would have to clear all its pages again: a quarter of the time
of MultiResNet's training step. Therefore glibc is told to keep freed memory. Other allocations can
move the scratch memory, which leaves an unused copy, so that a thread returns unneeded memory.
"""

import ctypes
import os
import platform
import threading
import time
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # from malloc.h
_SLACK = 1 << 27  # bytes
_INTERVAL = 0.1  # seconds between two measurements
_STATM = Path("/proc/self/statm")
_GROUP_LIMITS = (  # of control groups, versions 2 and 1
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def keep() -> bool:
    """Make glibc keep freed memory; call it once, before any thread starts.

    The process then holds about as much memory as was in use at its measured peak.

    Returns:
        Whether glibc now does. It is left as it is if the user configures the allocator
        (GLIBC_TUNABLES, MALLOC_...) or preloads another one; other C libraries cannot.
    """
    chosen = [n for n in os.environ if n == "GLIBC_TUNABLES" or n.startswith("MALLOC_")]
    if chosen or "malloc" in os.environ.get("LD_PRELOAD", ""):  # jemalloc, tcmalloc, mimalloc
        return False
    if platform.libc_ver()[0] != "glibc" or not _STATM.exists():
        return False
    library = ctypes.CDLL(None)
    # One heap for all threads and for large arrays, whose end is never trimmed: the heaps of other
    # threads are small, and larger blocks would be mapped and unmapped at every call.
    settings = (_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)
    if not all(library.mallopt(*setting) == 1 for setting in settings):
        return False
    threading.Thread(target=_trim, args=(library,), daemon=True).start()
    return True


def _trim(library: ctypes.CDLL) -> None:
    """Return free memory to the kernel whenever the resident size exceeds the peak in use."""
    most = 0
    while True:
        try:
            if _resident() > most:
                library.malloc_trim(0)
                most = max(most, _resident() + _SLACK)
        except OSError:  # no file descriptor is free at the moment
            pass
        time.sleep(_INTERVAL)


def total() -> int | None:
    """Bytes of memory that this process may use: physical memory, or its control group's limit.

    None if the system does not report it.
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
    """Resident bytes of this process; 0 if the system does not report it."""
    return _resident() if _STATM.exists() else 0


def _resident() -> int:
    return int(_STATM.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")

"""What the C library does with memory that this process has let go of.

On a CPU, XLA asks for all the scratch memory of a program at every call and lets go of it at the
end; the kernel would clear every page of it anew, a quarter of the time of a training step of
MultiResNet. So the process keeps what it has had, in huge pages where it can. Since other
allocations make the scratch memory move, which leaves an unused twin behind, a thread gives back
what is not needed.
"""

import ctypes
import os
import platform
import sys
import threading
import time
from pathlib import Path

TUNABLES = "glibc.malloc.hugetlb=1"
"""What `keep` puts into GLIBC_TUNABLES: huge pages, which are cleared in a fraction of the time."""
_ON_REQUEST = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of malloc.h
_ROOM = 2 << 30
_SLACK = 1 << 28
_EVERY = 0.1  # seconds between two looks
_FORGET = 0.999  # from look to look: what was in use counts half after a minute


class _Mallinfo(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    )  # fmt: skip


def keep() -> bool:
    """Keep freed memory for the next call; to be called once, before any thread starts.

    The process holds little more than it had in use at once within the last minutes. Where there
    are huge pages on request, which glibc asks for from its start on, it is started again.

    Returns:
        Whether the C library is one that can (glibc 2.33 or later), and the user's environment does
        not set the allocator (GLIBC_TUNABLES, MALLOC_...), which would stand.
    """
    ours = os.environ.get("GLIBC_TUNABLES") == TUNABLES
    chosen = [n for n in os.environ if n == "GLIBC_TUNABLES" or n.startswith("MALLOC_")]
    if (chosen and not ours) or platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        return False
    if not ours and _ON_REQUEST.is_file() and "[madvise]" in _ON_REQUEST.read_text("ascii"):
        os.environ["GLIBC_TUNABLES"] = TUNABLES
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    library.mallinfo2.restype = _Mallinfo
    # One heap for all threads, also for large arrays, whose end is never given back.
    settings = (_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)
    if not all(library.mallopt(*setting) == 1 for setting in settings):
        return False
    # Addresses for all that is small, before the heap's end: what stood behind the scratch memory
    # would keep it from growing into the same place again.
    library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    room, _ = library.malloc(ctypes.c_size_t(_ROOM)), library.malloc(ctypes.c_size_t(4096))
    library.free(room)
    threading.Thread(target=_give_back, args=(library,), daemon=True).start()
    return True


def _give_back(library: ctypes.CDLL) -> None:
    """Whenever more is resident than was lately in use, give back what is free."""
    peak, beside = 0.0, 0
    while True:
        used = library.mallinfo2().uordblks
        peak = max(used, peak * _FORGET)
        if _resident() > 1.05 * peak + beside + _SLACK:
            library.malloc_trim(0)
            beside = max(0, _resident() - library.mallinfo2().uordblks)  # programs, mapped files
        time.sleep(_EVERY)


def _resident() -> int:
    """Bytes of this process in memory."""
    pages = Path("/proc/self/statm").read_text("ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")

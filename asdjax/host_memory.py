"""What the C library does with memory that this process has let go of.

On a CPU, XLA asks for all the scratch memory of a program at every call and lets go of it at the
end; the kernel would clear every page of it anew, a quarter of the time of a training step of
MultiResNet. So the process keeps what it has had. Since other allocations make the scratch memory
move, which leaves an unused twin behind, a thread gives back what is not needed.
"""

import ctypes
import itertools
import os
import platform
import threading
import time
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of malloc.h
_ROOMS = 1 << 26, 1 << 28, 1 << 30, 1 << 31
_SLACK = 1 << 27
_EVERY = 0.1  # seconds between two looks
_SPLINTERS = [1 << n for n in range(22, 12, -1)]  # sizes of free places that are in the way

_compiled = threading.Event()


def keep() -> bool:
    """Keep freed memory for the next call; to be called once, before any thread starts.

    The process then holds about as much as the most that was in use at one of the thread's looks.

    Returns:
        Whether the C library is one that can (glibc), and the user's environment does not set its
        allocator (GLIBC_TUNABLES, MALLOC_...), which would stand.
    """
    chosen = [n for n in os.environ if n == "GLIBC_TUNABLES" or n.startswith("MALLOC_")]
    if chosen or platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    # One heap for all threads, also for large arrays, whose end is never given back: other heaps
    # are small, and what does not fit into them would be mapped and unmapped at every call.
    settings = (_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)
    if not all(library.mallopt(*setting) == 1 for setting in settings):
        return False
    # Addresses for what is smaller than the scratch memory, whatever that takes, before the heap's
    # end. The smallest free place that fits is taken: what stood in or behind the place of the
    # scratch memory would keep it from being there again.
    library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    rooms = []
    for size in _ROOMS:
        rooms.append(library.malloc(ctypes.c_size_t(size)))
        library.malloc(ctypes.c_size_t(4096))  # a wall to the next
    for room in rooms:
        library.free(room)
    threading.Thread(target=_give_back, args=(library,), daemon=True).start()
    return True


def compiled() -> None:
    """To be called when a program has been compiled: at the next look the heap is tidied.

    A compiler leaves thousands of free places of all sizes. Each allocation of some KiB, and in a
    training step of MultiResNet there are 13000 of them, would then search among these, while the
    other threads wait for the heap: a fifth of the step's time.
    """
    _compiled.set()


def _give_back(library: ctypes.CDLL) -> None:
    """Whenever more is resident than was in use at any look before, give back what is free."""
    most = 0
    while True:
        if _compiled.is_set():
            _compiled.clear()
            library.malloc_trim(0)
            _fill_up(library)
        if _resident() > most:
            library.malloc_trim(0)
            most = max(most, _resident() + _SLACK)
        time.sleep(_EVERY)


def _fill_up(library: ctypes.CDLL) -> None:
    """Take all small free places for good; they hold addresses, no memory, which is given back."""
    for size in _SPLINTERS:
        places: list[int] = []
        # As many side by side are one large place, and there are no smaller ones left.
        while len({b - a for a, b in itertools.pairwise(places[-9:])}) != 1 or len(places) < 9:
            if len(places) > 100_000 or not (place := library.malloc(ctypes.c_size_t(size))):
                break
            places.append(place)
        for place in places[-9:]:
            library.free(place)


def _resident() -> int:
    """Bytes of this process in memory."""
    pages = Path("/proc/self/statm").read_text("ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")

"""Ctrl-C, SIGTERM and SIGHUP: the command ends soon, with a message and the signal's exit code.

The first signal raises `Interrupted` in the main thread, so that `with` and `finally` blocks clean
up; later signals have no effect. A thread raises the exception again if a library swallows it (in a
callback or destructor), and ends the process if that does not help (long computations in C, joins
of a library's threads). A signal that was ignored from the start (nohup) stays ignored.

SIGTERM is often a warning that the machine is taken away: a command may hold it back for a while
(`saving_first`), to save what it has.
"""

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, NoReturn, TypeVar

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 10
"""Seconds after a signal until the process is ended."""
HELD = 15
"""Seconds for which SIGTERM is held back in `saving_first`, before these."""
_AGAIN = 0.25  # seconds until the exception is raised again
_SOON = 0.002  # seconds until a signal that could not raise anything yet is repeated
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Interrupted(KeyboardInterrupt):
    """A signal told this process to end."""


lost = "nothing was done"
"""What an interruption loses now, as told to the user."""

others_wait = False
"""Whether other processes of a job wait for this one: a normal exit would wait for them."""

_signals: int | None = None  # pipe of the signals' numbers, written even while C code runs
_first: int | None = None  # the first signal's number
_raised = -math.inf  # time of the last exception
_held_until = -math.inf  # until then SIGTERM raises nothing
_saves = False  # whether `saving_first` is running
_over = False  # whether the command has ended, so that nothing is raised any more
_uninterrupted: set[CodeType] = set()  # of the functions that run to their end


def handle() -> None:
    """Let signals raise `Interrupted`; called first of all by a command."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise)
    global _signals
    _signals, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    sys.unraisablehook = _unless_interrupted(sys.unraisablehook)
    threading.excepthook = _unless_interrupted(threading.excepthook)


def watch() -> None:
    """Start the thread that ends the process.

    Call it from the main thread, after `host_memory.keep`; without `handle` it does nothing. A
    signal that could not raise anything yet, as in an import, does so here.
    """
    if _signals is not None:
        args = _signals, threading.get_ident()
        threading.Thread(target=_insist, args=args, daemon=True).start()
    if _first is not None:
        raise Interrupted


@contextlib.contextmanager
def saving_first() -> Iterator[None]:
    """Hold SIGTERM back in the block for `HELD` seconds, in which it should end by `stop`."""
    global _saves
    _saves = True
    try:
        yield
    finally:
        _saves = False


def is_told() -> bool:
    """Whether SIGTERM came first, and asks for an end."""
    return _first == signal.SIGTERM


def stop(lost_now: str) -> NoReturn:
    """End the command as SIGTERM does, which was sent to this process or to one of its job.

    Args:
        lost_now: what is lost, as told to the user.
    """
    global lost, _first, _raised
    lost, _first, _raised = lost_now, _first or signal.SIGTERM, time.monotonic()
    raise Interrupted


def uninterrupted(function: _Function) -> _Function:
    """A function that returns before a signal raises anything: what it has done is not lost."""
    _uninterrupted.add(function.__code__)
    return function


def over() -> None:
    """Ignore signals from now on: the command has ended."""
    global _over
    _over = True
    for number in SIGNALS:
        if signal.getsignal(number) is _raise:
            signal.signal(number, signal.SIG_IGN)


def code() -> int | None:
    """128 + the number of the first signal; None without a signal."""
    return None if _first is None else 128 + _first


def leave(code: int | None) -> NoReturn:
    """End the process at once, with an exit code.

    A normal exit would wait for threads of libraries, which may read or compute for long, and print
    exceptions of destructors. Buffered standard output is lost; the command is unfinished anyway.
    """
    os._exit(130 if code is None else code)


def _raise(number: int, frame: FrameType | None) -> None:
    global _first, _raised, _held_until
    if _first is None:
        _first = number
        if _saves and number == signal.SIGTERM:
            _held_until = time.monotonic() + HELD
    if _saves and time.monotonic() < _held_until:
        return
    if _over or _must_end(frame) or _is_handled() or time.monotonic() < _raised + _AGAIN:
        return
    _raised = time.monotonic()
    raise Interrupted


def _unless_interrupted(show: Callable[[Any], object]) -> Callable[[Any], None]:
    """A hook for uncaught exceptions that does nothing after a signal."""

    def hook(exception: Any) -> None:
        if _first is None:
            show(exception)

    return hook


def _must_end(frame: FrameType | None) -> bool:
    """Whether an `uninterrupted` function is running, or a module is being imported.

    Some libraries abort if an exception is raised while they are imported.
    """
    while frame is not None:
        code = frame.f_code
        if code in _uninterrupted or code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _is_handled() -> bool:
    """Whether the exception that is being handled is `Interrupted` or followed from it."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error is not None


def _insist(signals: int, main: int) -> None:
    """Wait for a signal, repeat it in thread `main` for a while, then end the process."""
    number = os.read(signals, 1)[0]
    while number not in SIGNALS:
        number = os.read(signals, 1)[0]
    end = time.monotonic() + PATIENCE + (HELD if _saves and number == signal.SIGTERM else 0)
    while time.monotonic() < end:
        time.sleep(_AGAIN if math.isfinite(_raised) else _SOON)
        signal.pthread_kill(main, number)
    try:
        if os.isatty(2):
            os.write(2, b"\x1b[?25h\n")  # a progress bar hides the cursor
        os.write(2, f"asdjax: interrupted: {lost}\n".encode())
    finally:  # also if standard error is closed
        os._exit(128 + number)

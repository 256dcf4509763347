"""Ctrl-C, SIGTERM and SIGHUP: the command ends soon, with one sentence and the signal's exit code.

The first signal raises `Interrupted` in the main thread, so that every `with` and `finally` tidies
up; later ones change nothing. Where a library loses that exception (in a callback or destructor) a
thread raises it anew, and where nothing helps (long work in C, a library's thread that is waited
for) it ends the process. A signal that was ignored from the start (nohup) stays ignored.
"""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, NoReturn, TypeVar

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 10
"""Seconds after which a command that was told to end is ended."""
_AGAIN = 0.25  # seconds after which a lost exception is raised anew
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Interrupted(KeyboardInterrupt):
    """A signal asks this process to end."""


lost = "nothing was done"
"""What an interruption costs at present, in words for the user."""

_signals: int | None = None  # a pipe that says which came, also while the main thread is in C
_came: int | None = None  # the first signal's number
_raised = -math.inf  # when it was last raised
_over = False  # the command has ended: nothing is raised any more
_uninterrupted: set[CodeType] = set()  # of the functions that run to their end


def handle() -> None:
    """Let signals raise `Interrupted`; the command's very first act."""
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
    """Start the thread that ends the process; from the main thread, after `host_memory.keep`."""
    if _signals is not None:  # `handle` was called: this process is ours
        args = _signals, threading.get_ident()
        threading.Thread(target=_insist, args=args, daemon=True).start()


def uninterrupted(function: _Function) -> _Function:
    """A function that returns before a signal raises anything: what it has done is not lost."""
    _uninterrupted.add(function.__code__)
    return function


def over() -> None:
    """The command has ended: from here on, to the end of the interpreter, signals do nothing."""
    global _over
    _over = True
    for number in SIGNALS:
        if signal.getsignal(number) is _raise:
            signal.signal(number, signal.SIG_IGN)


def code() -> int | None:
    """The exit code of the signal that came, 128 and its number; None where none came."""
    return None if _came is None else 128 + _came


def leave() -> NoReturn:
    """End the process at once, with the signal's exit code.

    The interpreter's own end would wait for the libraries' threads, which may be reading or
    computing for long, and show what their destructors raise. What standard output has not
    passed on yet is of an unfinished command.
    """
    os._exit(code() or 130)


def _raise(number: int, frame: FrameType | None) -> None:
    global _came, _raised
    _came = _came or number
    if _over or _has_to_end(frame) or _on_its_way() or time.monotonic() < _raised + _AGAIN:
        return
    _raised = time.monotonic()
    raise Interrupted


def _unless_interrupted(show: Callable[[Any], object]) -> Callable[[Any], None]:
    """A hook that is silent about exceptions which nobody catches, once a signal has come."""

    def hook(exception: Any) -> None:
        if _came is None:
            show(exception)

    return hook


def _has_to_end(frame: FrameType | None) -> bool:
    """Whether what is at work must not be interrupted.

    That is an `uninterrupted` function, or a module that is being imported: an exception there
    makes some libraries abort.
    """
    while frame is not None:
        code = frame.f_code
        if code in _uninterrupted or code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _on_its_way() -> bool:
    """Whether the exception that is being handled is, or came of, an interruption."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error is not None


def _insist(signals: int, main: int) -> None:
    """Wait for a signal; then see that thread `main` does not lose its exception, and leave."""
    number = os.read(signals, 1)[0]
    while number not in SIGNALS:
        number = os.read(signals, 1)[0]
    for _ in range(round(PATIENCE / _AGAIN)):
        time.sleep(_AGAIN)
        signal.pthread_kill(main, number)
    try:
        if os.isatty(2):
            os.write(2, b"\x1b[?25h\n")  # a progress bar hides the cursor
        os.write(2, f"asdjax: interrupted: {lost}\n".encode())
    finally:  # also where nobody can read standard error any more
        os._exit(128 + number)

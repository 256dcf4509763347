"""A sentence for a process that ends without being able to say one.

JAX ends a process of a job on several hosts at once, by SIGABRT, if the coordinator cannot be
reached or is lost: no code of the process runs after that. A shell waits for its end.
"""

import os
import subprocess

_WORDS = (
    "asdjax: this process was ended: it was killed, or another process of the job was lost or "
    "could not be reached: look at the messages of the other processes; the same command on every "
    "host continues from the last checkpoint"
)
_SHELL = 'read -r over || echo "$0" >&2'
_alive: int | None = None  # pipe to the shell


def prepare() -> None:
    """Let a shell say a sentence if this process ends before `withdraw`; call it before JAX loads.

    JAX's own messages, stack traces among them, are not printed, unless TF_CPP_MIN_LOG_LEVEL asks
    for them.
    """
    global _alive
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "4")
    reading, _alive = os.pipe()
    # a session of its own: Ctrl-C is for this process
    subprocess.Popen(
        ["/bin/sh", "-c", _SHELL, _WORDS],
        stdin=reading,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(reading)


def withdraw() -> bool:
    """Withdraw the last words, because a message was printed; whether there were any."""
    global _alive
    if _alive is None:
        return False
    os.write(_alive, b"over\n")
    os.close(_alive)
    _alive = None
    return True

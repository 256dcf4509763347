"""Reading again after errors that pass: of networks, and of disks that are reached by them."""

import errno
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from asdjax.errors import AsdjaxError

TRANSIENT = frozenset({
    errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNRESET, errno.EHOSTDOWN,
    errno.EHOSTUNREACH, errno.EINTR, errno.EIO, errno.ENETDOWN, errno.ENETUNREACH, errno.ESTALE,
    errno.ETIMEDOUT,
})  # fmt: skip
"""Numbers of errors of the system after which reading again may help."""
PAUSES = (0.1, 0.3, 1.0, 3.0)
"""Seconds before each further attempt."""

Result = TypeVar("Result")


class Retries:
    """Calls functions that read, again after errors that pass; may be used by several threads.

    Attributes:
        count: further attempts so far.

    Example:
        >>> Retries()(lambda: 3)
        3
    """

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def __call__(self, read: Callable[[], Result]) -> Result:
        """The result of `read`; its last error is raised."""
        for pause in PAUSES:
            try:
                return read()
            except (AsdjaxError, OSError) as error:
                if not is_transient(error):
                    raise
            with self._lock:
                self.count += 1
            time.sleep(pause)
        return read()

    def words(self) -> str:
        """A note on the further attempts."""
        reads = "read was" if self.count == 1 else "reads were"
        return f"{self.count} {reads} tried again after errors that may pass"


def is_transient(error: BaseException | None) -> bool:
    """Whether an exception, or one that it was raised from, is an error that may pass."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in TRANSIENT:
            return True
        if isinstance(error, TimeoutError):  # of a library, without a number
            return True
        error = error.__cause__
    return False

"""Bodies of requests as files that vanish with the process, even if it is killed."""

import tempfile
from pathlib import Path
from typing import IO

_DESCRIPTORS = Path("/proc/self/fd")


class Upload:
    """A temporary file, which is deleted when it is closed.

    On Linux it has no name, so that the system deletes it with the process; elsewhere a killed
    process leaves it. `path` is valid until the file is closed: a later file may then have it.
    """

    def __init__(self) -> None:
        """Create it; `OSError` if that is impossible."""
        if _DESCRIPTORS.is_dir():
            self._file: IO[bytes] = tempfile.TemporaryFile(buffering=0)
            self.path = _DESCRIPTORS / str(self._file.fileno())
        else:
            self._file = tempfile.NamedTemporaryFile(buffering=0, prefix="asdjax-")
            self.path = Path(self._file.name)
        self.size = 0

    @property
    def closed(self) -> bool:
        """Whether it was deleted."""
        return self._file.closed

    def write(self, content: bytes) -> None:
        """Append bytes."""
        left = memoryview(content)
        while left:
            left = left[self._file.write(left) :]
        self.size += len(content)

    def close(self) -> None:
        """Delete the file."""
        self._file.close()

"""Files at URLs (object stores, other hosts, memory), which fsspec lists and reads.

fsspec is imported when a URL is reached. Its file systems may be used by threads: those that wait
for several requests at once send all of them from one thread of their own, of others each thread
has its own. They may not be used after a fork, which asdjax does not do.
"""

import dataclasses
import datetime
import glob
import hashlib
import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from asdjax.errors import ArtifactError, DataError, UsageError
from asdjax.files.copied_files import Copied, Held
from asdjax.files.user_files import unreadable

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_MAGIC = re.compile(r"[*?[]")
_WRAPPERS = frozenset(  # of fsspec, around another file system
    "blockcache cached data dir filecache generic libarchive reference simplecache tar zip".split()
)
_LOCAL, _WEB = ("file", "local"), ("http", "https")
_MOST_AT_ONCE = 2**24  # bytes of a request: most recordings are one
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def is_url(given: str) -> bool:
    """Whether a text begins with the scheme of a URL.

    Example:
        >>> is_url("s3://bucket/a.wav"), is_url("/data/a.wav")
        (True, False)
    """
    return _SCHEME.match(given) is not None


def without_secrets(url: str) -> str:
    """A URL for messages.

    Example:
        >>> without_secrets("sftp://me:secret@host/a.wav")
        'sftp://***@host/a.wav'
    """
    if not _may_have_secrets(url):
        return url
    scheme, _, rest = url.partition("://")
    _, at, end = rest.rpartition("@")
    return f"{scheme}://***{at}{end.partition('?')[0] if at else ''}"


def require_usable(url: str) -> None:
    """Raise `UsageError` if a URL has secrets, or does not mean the same on every host."""
    scheme, _, rest = url.partition("://")
    if _may_have_secrets(url):
        raise UsageError(
            f"{without_secrets(url)}: the URL has a password, a signature, or what looks like one, "
            "which would be written into the job's files: give credentials as the settings of its "
            "file system have them (files or environment variables)"
        )
    if "::" in url:
        raise UsageError(f"{url}: URLs with :: are not supported: name the files themselves")
    if scheme.lower() in _WRAPPERS:
        raise UsageError(f"{url}: {scheme} is no place of files: name the files themselves")
    if not rest.strip("/"):
        raise UsageError(f"{url}: names no file, folder or bucket: add it")
    if scheme in _LOCAL and not rest.startswith("/"):
        raise UsageError(f"{url}: not an absolute path: write {scheme}:///, and the path from /")


def _may_have_secrets(url: str) -> bool:
    for part in url.split("::"):
        try:
            found = urlsplit(part)
            _ = found.port
        except ValueError:  # no number, but the first half of a password with a slash
            return True
        if found.password is not None:
            return True
        if found.scheme in _WEB and (found.username is not None or found.query):
            return True
    return False


@dataclasses.dataclass(frozen=True, slots=True)
class UrlFile(Copied):
    """A file at a URL."""

    url: str
    size: int | None = None
    """Bytes that it must have; None: any."""

    @property
    def path(self) -> Path:
        """The URL as a path, whose slashes are not doubled: for messages alone."""
        return Path(self.url)

    def __str__(self) -> str:
        return self.url

    def parts(self) -> Iterator[bytes]:
        """The content, in order.

        Raises:
            AsdjaxError: the file cannot be read, or has another size.
        """
        changed = f"{self.url}: was changed since it was listed: plan the job again"
        with _sentences(self.url):
            system, path = _reached(self.url)
            size = _size(self.url, system.info(path))
            if self.size not in (None, size):
                raise DataError(changed)
            for start in range(0, size, _MOST_AT_ONCE):
                end = min(start + _MOST_AT_ONCE, size)
                content = system.cat_file(path, start=start, end=end)
                if len(content) != end - start:
                    raise DataError(changed)
                yield content

    def held(self) -> Held:
        """The file in memory; raises `AsdjaxError` as `parts`."""
        return Held(self.url, b"".join(self.parts()))

    def state(self) -> tuple[int, int]:
        """Bytes, and the time of modification (nanoseconds) or a number in its place.

        The number is a digest of what the file system says of the content, as an ETag.

        Raises:
            AsdjaxError: the file cannot be reached, or is none.
        """
        with _sentences(self.url):
            system, path = _reached(self.url)
            size = _size(self.url, system.info(path))
            try:
                stated = system.modified(path)
            except NotImplementedError:  # so says fsspec of file systems without times
                stated = system.checksum(path)
        if isinstance(stated, datetime.datetime):
            if stated.tzinfo is None:
                stated = stated.replace(tzinfo=datetime.UTC)
            return size, (stated - _EPOCH) // datetime.timedelta(microseconds=1) * 1000
        digest = hashlib.blake2b(str(stated).encode(), digest_size=8).digest()
        return size, int.from_bytes(digest) >> 1


def file_at(url: str) -> UrlFile | None:
    """The file at a URL; None if that is a folder, or a pattern.

    Raises:
        AsdjaxError: there is neither, or it cannot be reached.
    """
    with _sentences(url):
        system, path = _reached(url)
        try:
            info = system.info(path)
        except FileNotFoundError:
            if not glob.has_magic(url):
                raise
            return None
    return None if info["type"] == "directory" else UrlFile(url)


def entries(folder: str) -> list[tuple[str, UrlFile | None]]:
    """The names in the folder at a URL, in order, and the file of each; None: a folder.

    Links of a local disk are files.

    Raises:
        AsdjaxError: it cannot be read.
    """
    with _sentences(folder):
        system, path = _reached(folder)
        found = system.ls(path, detail=True)
        system.invalidate_cache()  # which else grows with every folder
        return _below(folder, path, {info["name"]: info["type"] for info in found})


def matching(pattern: str) -> list[tuple[str, UrlFile]]:
    """The files at URLs that match a pattern with * ? [] and **, by their paths below its folder.

    Raises:
        AsdjaxError: the folder cannot be read.
    """
    scheme, _, rest = pattern.partition("://")
    folder = f"{scheme}://{_MAGIC.split(rest)[0].rpartition('/')[0]}"
    with _sentences(pattern):
        _, path = _reached(folder)
        system, matched = _reached(pattern)
        found = system.glob(matched, detail=True)
        kinds = {name: info["type"] for name, info in found.items()}
        return [(name, file) for name, file in _below(folder, path, kinds) if file is not None]


def _below(folder: str, path: str, kinds: dict[str, str]) -> list[tuple[str, UrlFile | None]]:
    """Paths below a folder, and files, from names in the file system and their types."""
    before, found = path.rstrip("/") + "/", []
    for name, kind in sorted(kinds.items()):
        if (inside := name.rstrip("/")) == path.rstrip("/"):
            continue  # an object store's mark of the folder itself
        if not inside.startswith(before):
            raise ValueError(f"its file system names {name}, which is not in it")
        relative = inside.removeprefix(before)
        file = None if kind == "directory" else UrlFile(f"{folder.rstrip('/')}/{relative}")
        found.append((relative, file))
    return found


def _size(url: str, info: dict[str, Any]) -> int:
    """Bytes of a file, from what its file system says of it."""
    if info["type"] != "file":
        kind = "a folder" if info["type"] == "directory" else "not a regular file"
        raise DataError(f"{url}: is {kind}: name a file")
    if info.get("size") is None:
        raise DataError(f"{url}: its file system states no size: copy it to another one")
    return int(info["size"])


def _reached(url: str) -> tuple[Any, str]:
    """The file system of a URL, without old listings, and the path in it."""
    require_usable(url)
    if importlib.util.find_spec("fsspec") is None:
        raise ArtifactError(f"{url}: URLs need fsspec: pip install 'asdjax[cloud]'")
    import fsspec

    system, path = fsspec.url_to_fs(url)
    system.invalidate_cache()
    return system, path


@contextmanager
def _sentences(url: str) -> Iterator[None]:
    """Errors that fsspec documents become an `AsdjaxError` that names the URL."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{url}: no such file or folder") from error
    except ImportError as error:  # the text names the package
        raise ArtifactError(f"{url}: its file system needs another package: {error}") from error
    except (OSError, ValueError) as error:
        raise ArtifactError(unreadable(url, error)) from error

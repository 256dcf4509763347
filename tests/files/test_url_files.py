"""Files at URLs: what is refused, listed and read, and when a file counts as changed."""

import datetime
import os

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from asdjax.arguments import path_text
from asdjax.data import retries
from asdjax.data.retries import Retries
from asdjax.errors import AsdjaxError, UsageError
from asdjax.files import url_files
from asdjax.files.url_files import UrlFile, entries, file_at, matching, require_usable


class Undated(MemoryFileSystem):
    """States no times, but an identity; some reads fail for a while, or for good."""

    protocol = "undated"
    store: dict = {}
    pseudo_dirs = [""]
    failures: list = []

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("undated://", "memory://"))

    def modified(self, path):
        raise NotImplementedError

    def info(self, path, **kwargs):
        found = super().info(path)
        found.pop("created", None)
        if found["type"] == "file":
            content = self.store[self._strip_protocol(path)].getvalue()
            found |= {"ETag": str(hash(content)), "size": len(content) or None}
        return found

    def cat_file(self, path, start=None, end=None, **kwargs):
        if self.failures:
            raise self.failures.pop()
        return super().cat_file(path, start, end)


@pytest.fixture
def undated():
    fsspec.register_implementation("undated", Undated, clobber=True)
    Undated.store.clear()
    Undated.failures.clear()
    yield fsspec.filesystem("undated")
    Undated.store.clear()


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def content(file):
    return b"".join(file.parts())


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:secret@bucket/a.wav", "s3://key:sec/ret@bucket/a.wav", "s3://key:secret",
        "sftp://me:secret@host:22/a", "https://secret@host/a.wav", "https://host/a.wav?sig=secret",
        "zip://a.wav::https://me:secret@host/a.zip", "s3://key:se?ret/secret@bucket/a",
    ],
)  # fmt: skip
def test_secrets_are_refused_and_not_repeated(url):
    for refuse in (require_usable, path_text):
        with pytest.raises(UsageError) as found:
            refuse(url)
        said = str(found.value)
        assert said.startswith(url.partition("://")[0] + "://***")
        assert not any(word in said for word in ("secret", "sec/ret", "ret@", "key", "sig="))
    with pytest.raises(UsageError, match="credentials"):
        require_usable(url)


@pytest.mark.parametrize(
    "url, word",
    [
        ("zip://a.wav::s3://bucket/a.zip", "::"), ("dir://x/y", "no place of files"),
        ("reference://x", "no place of files"), ("data://text/plain,abc", "no place of files"),
        ("memory://", "names no"), ("s3:///", "names no"),
        ("file://data/a.wav", "absolute"), ("local://~/a", "absolute"),
    ],
)  # fmt: skip
def test_urls_that_are_refused(url, word):
    for reach in (require_usable, file_at, entries, lambda url: content(UrlFile(url))):
        with pytest.raises(UsageError, match=word):
            reach(url)


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/a@b.wav", "abfs://container@account.dfs.core.windows.net/a", "sftp://me@host/a",
        "hdfs://host:9000/a:b@c.wav", "https://host/a%20b.wav", "s3://bucket/00?.wav", "gs://b/a#1",
    ],
)  # fmt: skip
def test_urls_without_secrets(url):
    require_usable(url)


def test_without_fsspec_or_a_back_end(memory, monkeypatch):
    with pytest.raises(AsdjaxError, match="foo://b: cannot be read .Protocol not known: foo"):
        file_at("foo://b")
    missing = "no_such_package.System"
    fsspec.register_implementation(
        "absent", missing, clobber=True, errtxt="Install no-such-package"
    )
    with pytest.raises(AsdjaxError, match="absent://b: .*package: Install no-such-package"):
        file_at("absent://b")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(AsdjaxError, match=r"memory://b: .*pip install 'asdjax\[cloud\]'"):
        file_at("memory://b")


def test_listing(memory, tmp_path):
    for name in ("b/a.wav", "b/.hidden/c.wav", "b/d/e.wav", "b/d/f[1].wav", "bb/g.wav"):
        memory.pipe(f"/{name}", name.encode())
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "e.wav").write_bytes(b"e")
    (tmp_path / "link").symlink_to(tmp_path / "d")
    assert file_at("memory://b/a.wav") == UrlFile("memory://b/a.wav")
    assert file_at("memory://b") is file_at("memory://b/") is file_at("memory://b/*.flac") is None
    assert file_at("memory://b/d/f[1].wav") is not None
    with pytest.raises(AsdjaxError, match="memory://c: no such file or folder"):
        file_at("memory://c")
    for folder in ("memory://b", "memory:///b/"):
        assert [(name, file and file.url) for name, file in entries(folder)] == [
            (".hidden", None), ("a.wav", f"{folder.rstrip('/')}/a.wav"), ("d", None),
        ]  # fmt: skip
    assert [name for name, _ in matching("memory://b/**/*.wav")] == [
        ".hidden/c.wav", "a.wav", "d/e.wav", "d/f[1].wav",
    ]  # fmt: skip
    (one,) = matching("memory://b/d/?.wav")
    assert one == ("e.wav", UrlFile("memory://b/d/e.wav"))
    for root in (f"file://{tmp_path}", f"local://{tmp_path}"):
        assert entries(root) == [("d", None), ("link", UrlFile(f"{root}/link"))]
        assert matching(f"{root}/*/e.wav") == [("d/e.wav", UrlFile(f"{root}/d/e.wav"))]
    with pytest.raises(AsdjaxError, match="no such file or folder"):
        entries("memory://c")


def test_names_that_are_not_in_the_folder(memory, monkeypatch):
    outside = {"name": "/c/a.wav", "type": "file", "size": 1}
    monkeypatch.setattr(MemoryFileSystem, "ls", lambda *_, **__: [outside])
    with pytest.raises(AsdjaxError, match="memory://b: cannot be read .its file system names /c/a"):
        entries("memory://b")


def test_reading_in_parts_and_only_what_was_listed(memory, monkeypatch):
    monkeypatch.setattr(url_files, "_MOST_AT_ONCE", 4)
    for size in (0, 1, 4, 5, 12):
        memory.pipe("/b/a.wav", bytes(range(size)))
        assert content(UrlFile("memory://b/a.wav", size)) == bytes(range(size))
        with UrlFile("memory://b/a.wav").open() as file:
            assert file.read() == bytes(range(size))
        with pytest.raises(AsdjaxError, match="memory://b/a.wav: was changed"):
            content(UrlFile("memory://b/a.wav", size + 1))
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda *_, **__: b"abc")
    with pytest.raises(AsdjaxError, match="was changed"):
        content(UrlFile("memory://b/a.wav", 12))


def test_what_is_no_file(memory, tmp_path):
    memory.pipe("/b/d.wav/a.wav", b"")
    os.mkfifo(tmp_path / "pipe.wav")  # reading it would wait for ever
    for url, word in (
        ("memory://b/d.wav", "is a folder"),
        (f"file://{tmp_path}/pipe.wav", "is not a regular file"),
        (f"file://{tmp_path}/lost.wav", "no such file"),
        (f"file://{tmp_path}/\0.wav", "cannot be read"),
    ):
        for read in (content, UrlFile.state):
            with pytest.raises(AsdjaxError, match=word):
                read(UrlFile(url))


def test_states(memory, undated, tmp_path):
    file = tmp_path / "a.wav"
    file.write_bytes(b"abc")
    os.utime(file, ns=(1, 1_700_000_000_250_000_000))
    assert UrlFile(f"file://{file}").state() == (3, 1_700_000_000_250_000_000)
    memory.pipe("/a.wav", b"abc")
    before = UrlFile("memory://a.wav").state()
    assert before == UrlFile("memory://a.wav").state() and before[0] == 3
    memory.store["/a.wav"].modified += datetime.timedelta(microseconds=1)
    assert UrlFile("memory://a.wav").state() == (3, before[1] + 1000)
    memory.store["/a.wav"].modified = datetime.datetime(1970, 1, 1, 0, 0, 1)  # without a zone
    assert UrlFile("memory://a.wav").state() == (3, 10**9)


def test_states_without_times(undated):
    undated.pipe("/a.wav", b"abc")
    one = UrlFile("undated://a.wav").state()
    undated.pipe("/a.wav", b"abd")
    other = UrlFile("undated://a.wav").state()
    undated.pipe("/a.wav", b"abc")
    assert (
        one[0] == other[0] == 3 and one[1] != other[1] and one == UrlFile("undated://a.wav").state()
    )
    assert 0 <= one[1] < 2**63
    undated.pipe("/a.wav", b"")
    with pytest.raises(AsdjaxError, match="states no size"):
        UrlFile("undated://a.wav").state()


def test_errors_that_may_pass(undated, monkeypatch):
    monkeypatch.setattr(retries, "PAUSES", (0.0, 0.0))
    undated.pipe("/a.wav", b"abc")
    again, file = Retries(), UrlFile("undated://a.wav")
    Undated.failures += [OSError(5, "Input/output error"), fsspec.FSTimeoutError()]
    assert again(lambda: content(file)) == b"abc" and again.count == 2
    Undated.failures.append(PermissionError(13, "Access Denied"))
    with pytest.raises(AsdjaxError, match="undated://a.wav: cannot be read .Access Denied"):
        again(lambda: content(file))
    assert again.count == 2
    Undated.failures.append(RuntimeError("of a back end"))
    with pytest.raises(RuntimeError):
        again(lambda: content(file))

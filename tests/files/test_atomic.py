"""Writing: whole or not at all, by two processes at once, on a full disk, never through links."""

import errno
import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.permissions import open_folder as open_folder  # a fixture
from support.permissions import permissions

from asdjax.errors import AsdjaxError
from asdjax.files import atomic


def hidden(folder):
    return [path.name for path in folder.rglob(".*")]


def replaced(folder, check=lambda: None, **files):
    with atomic.whole_folder(folder, check) as made:
        for name, text in files.items():
            atomic.write_bytes(made / name, text.encode())


def occupied(folder):
    def check():
        atomic.require_result(folder, overwrite=False, ours=lambda _: True)

    return check


# files


def test_a_file_is_made_with_its_folders_and_replaced(tmp_path):
    path = tmp_path / "a" / "b" / "x"
    atomic.write_bytes(path, b"1")
    atomic.write_bytes(path, b"2")
    assert path.read_bytes() == b"2" and not hidden(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    with pytest.raises(AsdjaxError, match="x: .*--overwrite"):
        atomic.write_bytes(path, b"3", overwrite=False)
    assert path.read_bytes() == b"2"


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_link_in_the_place_is_replaced_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "x").symlink_to(victim)
    atomic.write_bytes(tmp_path / "x", b"new")
    assert victim.read_text() == "precious" and (tmp_path / "x").read_bytes() == b"new"
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    with pytest.raises(AsdjaxError, match="dangling: .*--overwrite"):
        atomic.write_bytes(tmp_path / "dangling", b"new", overwrite=False)
    assert not (tmp_path / "nothing").exists()


def test_only_files_are_replaced(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name in ("fifo", "folder"):
        with pytest.raises(AsdjaxError, match=f"{name}: .*regular file"):
            atomic.write_bytes(tmp_path / name, b"new")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError(errno.ENOSPC, "full")])
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch, error, moment):
    def fail(*_):
        raise error

    owner = os if moment == "fsync" else Path
    monkeypatch.setattr(owner, moment, fail)
    with pytest.raises(AsdjaxError if isinstance(error, OSError) else error):
        atomic.write_bytes(tmp_path / "new" / "folder" / "x", b"content")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "space"),
        (errno.EDQUOT, "space"),
        (errno.EROFS, "permission"),
        (errno.EACCES, "permission"),
        (errno.EFBIG, "ulimit"),
        (errno.EIO, "another path"),
    ],
)
def test_every_failure_names_the_place_and_a_remedy(tmp_path, monkeypatch, code, remedy):
    def fail(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(AsdjaxError, match=f"x: .*{os.strerror(code)}.*{remedy}"):
        atomic.write_bytes(tmp_path / "x", b"content")
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "x", tmp_path / ("n" * 300), tmp_path / ("d" * 300) / "x"):
        reason = f"^{path}: .*(Not a directory|File name too long)"
        with pytest.raises(AsdjaxError, match=reason):
            atomic.write_bytes(path, b"content")
        with pytest.raises(AsdjaxError, match=reason):
            replaced(path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_in_earnest(tmp_path):
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from asdjax import errors; from asdjax.files import atomic\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: atomic.write_bytes(Path(sys.argv[1]), bytes(5000))\n"
        "except errors.AsdjaxError as error: print(error)"
    )
    path = tmp_path / "made" / "x"
    command = [sys.executable, "-c", program, str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said.stdout.startswith(f"{path}: ") and "File too large" in said.stdout
    assert not list(tmp_path.iterdir())


def test_without_hard_links_one_still_wins(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", unsupported)
    atomic.write_bytes(tmp_path / "x", b"1", overwrite=False)
    monkeypatch.setattr(atomic, "require_free", lambda *_: None)  # as if it had come meanwhile
    with pytest.raises(AsdjaxError, match="--overwrite"):
        atomic.write_bytes(tmp_path / "x", b"2", overwrite=False)
    assert (tmp_path / "x").read_bytes() == b"1" and not hidden(tmp_path)


def test_what_a_killed_process_left_is_cleared_and_what_is_in_use_is_not(tmp_path):
    left, used, link = (tmp_path / f".asdjax-{digit * 16}.partial" for digit in "012")
    left.write_text("half")
    link.symlink_to(tmp_path / "elsewhere")
    with used.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        atomic.write_bytes(tmp_path / "x", b"whole")
        assert not left.exists() and used.exists() and link.is_symlink()


# folders


def test_a_folder_is_whole_or_absent(tmp_path):
    folder = tmp_path / "above" / "out"
    with pytest.raises(KeyboardInterrupt):
        with atomic.whole_folder(folder, lambda: None) as made:
            (made / "half").write_text("x")
            raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    replaced(folder, a="1")
    replaced(folder, b="2")
    assert [path.name for path in folder.iterdir()] == ["b"] and not hidden(tmp_path)
    with pytest.raises(AsdjaxError, match="out: .*--overwrite"):
        replaced(folder, occupied(folder), c="3")
    assert (folder / "b").read_text() == "2" and not hidden(tmp_path)


def test_what_appears_meanwhile_is_not_replaced(tmp_path):
    folder = tmp_path / "out"
    with pytest.raises(AsdjaxError, match="--overwrite"):
        with atomic.whole_folder(folder, occupied(folder)):
            folder.mkdir()
            (folder / "mine").write_text("precious")
    assert (folder / "mine").read_text() == "precious" and not hidden(tmp_path)


@pytest.mark.parametrize("when", [1, 2])
def test_an_earlier_result_survives_a_failing_renaming(tmp_path, monkeypatch, when):
    folder, rename, calls = tmp_path / "out", Path.rename, []
    replaced(folder, sign="old")

    def fail(self, target):
        calls.append(self)
        if len(calls) == when:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(KeyboardInterrupt):
        replaced(folder, sign="new")
    assert (folder / "sign").read_text() == "old" and not hidden(tmp_path)


def test_what_a_kill_leaves_is_repaired_by_the_next_command(tmp_path):
    folder, work = tmp_path / "out", tmp_path / ".out.asdjax-partial"
    for left in ("made", "earlier"):
        (work / left).mkdir(parents=True)
        (work / left / "sign").write_text(left)
    with pytest.raises(AsdjaxError, match="--overwrite"):
        replaced(folder, occupied(folder))
    assert (folder / "sign").read_text() == "earlier" and not hidden(tmp_path)
    (work / "made").mkdir(parents=True)
    replaced(folder, sign="new")
    assert (folder / "sign").read_text() == "new" and not hidden(tmp_path)


def test_a_link_to_a_folder_stays_one_and_links_in_the_way_are_refused(tmp_path):
    real, link, victim = (tmp_path / name for name in ("real", "link", "victim"))
    for folder in (real, victim):
        folder.mkdir()
        (folder / "precious").write_text("x")
    link.symlink_to(real)
    replaced(link, a="1")
    assert link.is_symlink() and (real / "a").read_text() == "1"
    (tmp_path / ".out.asdjax-partial").symlink_to(victim)
    with pytest.raises(AsdjaxError, match=r"\.out\.asdjax-partial: .*delete it"):
        replaced(tmp_path / "out", a="1")
    assert (victim / "precious").exists()


def test_links_in_what_is_left_are_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("x")
    (tmp_path / ".out.asdjax-partial" / "made").mkdir(parents=True)
    (tmp_path / ".out.asdjax-partial" / "made" / "weights").symlink_to(victim)
    replaced(tmp_path / "out", a="1")
    assert (victim / "precious").exists() and not hidden(tmp_path)


def test_a_folder_with_read_only_parts_is_not_replaced_by_halves(open_folder):
    place = open_folder / "out"
    (place / "sub").mkdir(parents=True)
    (place / "sub" / "x").write_text("before")
    for path in (open_folder, place, place / "sub", place / "sub" / "x"):
        os.chown(path, 65534, -1) if os.geteuid() == 0 else None
    with permissions(place / "sub", 0o555), pytest.raises(AsdjaxError, match="sub: is read-only"):
        replaced(place, new="after")
    assert (place / "sub" / "x").read_text() == "before" and not hidden(open_folder)
    replaced(place, new="after")
    assert [path.name for path in place.iterdir()] == ["new"] and not hidden(open_folder)


def test_a_discarded_folder_goes_whole(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / ".a.discarded" / "left").mkdir(parents=True)
    atomic.discard(tmp_path / "a")
    atomic.discard(tmp_path / "a")
    assert not list(tmp_path.iterdir())


# locks


def test_a_lock_is_a_regular_file_that_is_never_changed(tmp_path):
    (tmp_path / "kept").write_text("content")
    with atomic.locked(tmp_path / "kept", "busy"):
        with pytest.raises(AsdjaxError, match="^busy$"), atomic.locked(tmp_path / "kept", "busy"):
            pass
    assert (tmp_path / "kept").read_text() == "content"
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    for name in ("fifo", "link"):
        with pytest.raises(AsdjaxError, match=name), atomic.locked(tmp_path / name, "busy"):
            pass
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path, monkeypatch, code):
    def unsupported(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    reason = f"{os.strerror(code)}.*local disk"
    with pytest.raises(AsdjaxError, match=f"x: .*{reason}"), atomic.locked(tmp_path / "x", "busy"):
        pass
    with pytest.raises(AsdjaxError, match=f"out: .*{reason}"):
        replaced(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    atomic.write_bytes(tmp_path / "y", b"files need none")


# two processes with one destination

BOTH = """
import sys
from pathlib import Path
from asdjax.files import atomic
from asdjax.errors import AsdjaxError
kind, place, name = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
print("ready", flush=True)
sys.stdin.readline()
try:
    if kind == "file":
        atomic.write_bytes(place, name.encode() * 100_000, overwrite=False)
    else:
        check = lambda: atomic.require_result(place, overwrite=False, ours=lambda _: True)
        with atomic.whole_folder(place, check) as made:
            for i in range(20):
                (made / str(i)).write_text(name)
    print("won")
except AsdjaxError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_of_two_processes_one_wins_and_the_other_says_so(tmp_path, kind):
    place = tmp_path / "deep" / "out"
    command = [sys.executable, "-c", BOTH, kind, str(place)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([*command, name], **pipes) for name in "ab"]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0] and said.count("won") == 1
    (lost,) = [line for line in said if line != "won"]
    assert str(place) in lost and ("--overwrite" in lost or "another process" in lost)
    winner = "ab"[said.index("won")]
    contents = [place.read_text()] if kind == "file" else [p.read_text() for p in place.iterdir()]
    assert {content[:1] for content in contents} == {winner}
    assert len(contents) == (1 if kind == "file" else 20) and not hidden(tmp_path)


def _make_for_ever(place, begun):
    with atomic.whole_folder(place, lambda: None) as made:
        (made / "half").write_text("x")
        begun.set()
        threading.Event().wait(60)


def test_a_second_process_waits_for_none_and_takes_over_from_a_killed_one(tmp_path):
    context = multiprocessing.get_context("spawn")
    begun = context.Event()
    other = context.Process(target=_make_for_ever, args=(tmp_path / "out", begun))
    other.start()
    assert begun.wait(60)
    with pytest.raises(AsdjaxError, match="out: another process"):
        replaced(tmp_path / "out", a="1")
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    assert hidden(tmp_path)
    replaced(tmp_path / "out", a="1")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"] and not hidden(tmp_path)


def test_an_interruption_between_making_and_locking_leaves_nothing(tmp_path, monkeypatch):
    make = Path.mkdir

    def interrupted(self, *given, **named):
        make(self, *given, **named)
        raise KeyboardInterrupt  # a signal that came during the call

    monkeypatch.setattr(Path, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic.whole_folder(tmp_path / "x", lambda: None):
        pass
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_after_replacing_a_folder(tmp_path):
    done, left = tmp_path / "done", tmp_path / ".done.asdjax-partial"
    (left / "earlier").mkdir(parents=True)
    done.mkdir()
    (left / "earlier" / "old").touch()
    with atomic._claimed(left, done):  # another process is still at work
        (left / "earlier").mkdir(exist_ok=True)
        atomic.clear_abandoned(done)
        assert left.exists()
    (left / "earlier").mkdir(parents=True)
    atomic.clear_abandoned(done)
    assert [path.name for path in tmp_path.iterdir()] == ["done"]
    atomic.clear_abandoned(done)

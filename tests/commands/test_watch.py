"""asdjax watch: every complete file is scored once, whatever happens; and microphones."""

import json
import os
import shutil
import sys
import time
import types

import numpy as np
import pytest
import soundfile
from support.busy_folder import SIGNALS, BusyFolder
from support.machines import RATE, folder, sound
from support.permissions import open_folder as open_folder  # a fixture
from support.permissions import permissions

from asdjax import Detector
from asdjax.cli import main
from asdjax.commands import watch
from asdjax.data import microphone
from asdjax.data.arrivals import Arrivals, digest_of
from asdjax.errors import AsdjaxError, UsageError
from asdjax.store import watch_log


class Clock:
    """A clock that tests set; sleeping calls a function of the test."""

    def __init__(self):
        self.now, self.steps = 0.0, []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        if not self.steps:
            raise KeyboardInterrupt
        self.steps.pop(0)()


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    return Detector().fit(folder(tmp_path_factory.mktemp("normal"), range(24)))


@pytest.fixture(scope="module")
def detector_file(fitted, tmp_path_factory):
    path = tmp_path_factory.mktemp("detector") / "d.asd"
    fitted.save(path)
    return path


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    root = tmp_path_factory.mktemp("sounds")
    normal = folder(root, range(100, 130))
    return normal, folder(root / "faulty", range(200, 206), fault="tone")


def lines(log):
    return [json.loads(line) for line in log.read_text().splitlines()]


def files(log):
    return sorted(line["file"] for line in lines(log))


def put(source, place):
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(source.read_bytes())


# arrivals


def test_files_are_complete_when_they_have_not_changed(tmp_path):
    clock = Clock()
    arrivals = Arrivals(tmp_path, 2.0, clock)
    (tmp_path / "a.wav").write_bytes(b"1")
    (tmp_path / ".hidden.wav").write_bytes(b"1")
    (tmp_path / "notes.txt").write_bytes(b"1")
    (tmp_path / "sub").mkdir()
    assert arrivals.look() == [] and arrivals.waiting == 1
    clock.now = 1.9
    assert arrivals.look() == []
    (tmp_path / "a.wav").write_bytes(b"12")
    (tmp_path / "sub" / "b.FLAC").write_bytes(b"1")
    clock.now = 2.5
    assert arrivals.look() == []
    clock.now = 4.5
    found = arrivals.look()
    assert [one.name for one in found] == ["a.wav", "sub/b.FLAC"]
    for one in found:
        assert arrivals.is_unchanged(one)
        arrivals.finish(one.name, one.identity, digest_of(one.path))
    assert arrivals.look() == [] and arrivals.waiting == 0
    (tmp_path / "a.wav").write_bytes(b"123")
    assert not arrivals.is_unchanged(found[0])
    assert arrivals.look() == [] and arrivals.waiting == 1


def names(place, *pairs):
    """Rename files, as "ab" a.wav to b.wav."""
    for old, new in pairs:
        os.rename(place / f"{old}.wav", place / f"{new}.wav")


def link(place):
    os.link(place / "a.wav", place / "c.wav")


CHANGES = {  # to files a.wav and b.wav, which are done: and what is then new
    "renamed": (lambda p: names(p, "ac"), []),
    "hard-linked": (link, []),
    "hard-linked, one renamed": (lambda p: (link(p), names(p, "ad")), []),
    "hard-linked, one deleted": (lambda p: (link(p), (p / "a.wav").unlink()), []),
    "renamed over another": (lambda p: names(p, "ab"), []),
    "exchanged": (lambda p: names(p, "ac", "ba", "cb"), []),
    "moved up, and a new one": (lambda p: (names(p, "bc", "ab"), write(p / "a.wav", b"3")), ["a"]),
    "copied": (lambda p: shutil.copy2(p / "a.wav", p / "c.wav"), ["c"]),
    "replaced": (lambda p: (write(p / "c.wav", b"3"), names(p, "ca")), ["a"]),
    "truncated and rewritten": (lambda p: write(p / "a.wav", b"3"), ["a"]),
    "hard-linked and rewritten": (lambda p: (link(p), write(p / "a.wav", b"3")), ["a"]),
}


def test_another_inode_alone_is_not_new(tmp_path):
    """As after a share was mounted again; the new inode is then known."""
    write(tmp_path / "a.wav", b"1")
    arrivals, log = Arrivals(tmp_path, 0.0, Clock()), []
    assert finish(arrivals, log) == ["a"]
    shutil.copy2(tmp_path / "a.wav", tmp_path / "x")
    os.rename(tmp_path / "x", tmp_path / "a.wav")
    assert finish(arrivals, log) == []
    os.rename(tmp_path / "a.wav", tmp_path / "b.wav")
    assert finish(arrivals, log) == []


def write(path, content):
    """Write a file whose time differs from that of others, however coarse the clock is."""
    path.write_bytes(content)
    os.utime(path, (1e9 + content[0], 1e9 + content[0]))


def finish(arrivals, log):
    """Mark what is new as done, and log it; returns the names."""
    found = []
    while some := arrivals.look():
        for one in some:
            log.append((one.name, one.identity, digest_of(one.path)))
            arrivals.finish(*log[-1])
        found += [one.name.removesuffix(".wav") for one in some]
    return found


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("restarts", [False, True])
def test_each_file_is_new_once(tmp_path, change, restarts):
    write(tmp_path / "a.wav", b"1")
    write(tmp_path / "b.wav", b"2")
    log = []

    def known():
        arrivals = Arrivals(tmp_path, 0.0, Clock())
        for one in log:
            arrivals.finish(*one)
        return arrivals

    arrivals = known()
    assert finish(arrivals, log) == ["a", "b"]
    todo, new = CHANGES[change]
    todo(tmp_path)
    assert finish(arrivals := known() if restarts else arrivals, log) == new
    for path in [*tmp_path.glob("*.wav")]:
        path.rename(path.with_name(f"later {path.name}"))
    assert finish(arrivals := known() if restarts else arrivals, log) == []
    (tmp_path / "sub").mkdir()
    for path in [*tmp_path.glob("*.wav")]:
        path.rename(tmp_path / "sub" / path.name)
    assert finish(known() if restarts else arrivals, log) == []


def test_hard_links_that_arrive_together_are_one_file(fitted, sounds, tmp_path):
    put(sounds[0][0], tmp_path / "in" / "a.wav")
    os.link(tmp_path / "in" / "a.wav", tmp_path / "in" / "b.wav")
    log = tmp_path / "log.jsonl"
    for _ in range(2):
        assert watch.watch_folder(fitted, tmp_path / "in", log, settle=0, once=True) == 0
        assert files(log) == ["a.wav"]


def test_another_file_with_the_inode_size_and_time_of_one_that_is_gone_is_new(tmp_path):
    arrivals = Arrivals(tmp_path, 0.0, Clock())
    path = tmp_path / "a.wav"
    path.write_bytes(b"1")
    os.utime(path, (5, 5))
    (one,) = arrivals.look()
    arrivals.finish(one.name, one.identity, digest_of(path))
    path.rename(tmp_path / "b.wav")  # the same inode
    (tmp_path / "b.wav").write_bytes(b"2")
    os.utime(tmp_path / "b.wav", (5, 5))
    (found,) = arrivals.look()
    assert found.name == "b.wav" and found.identity == one.identity


def test_what_is_gone_is_remembered_for_a_day(tmp_path):
    clock = Clock()
    arrivals = Arrivals(tmp_path, 0.0, clock)
    for hour in range(100):
        clock.now = hour * 3600.0
        (tmp_path / "latest.wav").write_bytes(b"x" * (hour + 1))
        os.rename(tmp_path / "latest.wav", tmp_path / f"{hour}.wav")
        (one,) = arrivals.look()
        arrivals.finish(one.name, one.identity, digest_of(one.path))
        (tmp_path / f"{hour}.wav").unlink()
    assert len(arrivals._done) == len(arrivals._digests) == 25


def test_a_subfolder_that_cannot_be_read_is_said(fitted, sounds, tmp_path, monkeypatch, capsys):
    put(sounds[0][0], tmp_path / "in" / "a.wav")
    (tmp_path / "in" / "locked").mkdir()
    scandir = os.scandir

    def refused(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    log = tmp_path / "log.jsonl"
    assert watch.watch_folder(fitted, tmp_path / "in", log, settle=0, once=True) == 1
    said = capsys.readouterr().err
    assert said.count("locked: cannot be read (Permission denied)") == 1 and files(log) == ["a.wav"]


def rotated(how, log):
    """As logrotate does; returns the place of the earlier lines."""
    old = log.with_name("log.1")
    if how == "copytruncate":
        shutil.copy2(log, old)
        os.truncate(log, 0)
    else:
        log.rename(old)
        if how == "create":
            log.touch()
    return old


@pytest.mark.parametrize("how", ["nocreate", "create", "copytruncate"])
def test_a_rotated_log_is_begun_anew(fitted, sounds, tmp_path, how, capsys):
    """While nothing arrives, and a second time before a line is written."""
    place, log, clock = tmp_path / "in", tmp_path / "log.jsonl", Clock()
    normal = sounds[0]
    put(normal[0], place / "a.wav")
    put(normal[1], place / "b.wav")
    clock.steps = [
        lambda: rotated(how, log),
        lambda: (tmp_path / "log.1").rename(tmp_path / "log.2") and rotated(how, log),
        lambda: put(normal[2], place / "c.wav"),
        lambda: None,
    ]
    options = {"confirm": (1, 5), "settle": 0, "clock": clock, "sleep": clock.sleep}
    with pytest.raises(KeyboardInterrupt):
        watch.watch_folder(fitted, place, log, **options)
    assert capsys.readouterr().err.count("log.jsonl: was moved, deleted or cut short") == 2
    found = lines(log)
    assert [(row["file"], row.get("earlier")) for row in found] == [
        ("a.wav", True), ("b.wav", True), ("c.wav", None),
    ]  # fmt: skip
    assert len(found[1]["recent"]) == 2 and len(found[2]["recent"]) == 3
    assert [row["score"] is not None for row in lines(tmp_path / "log.2")] == [True, True]
    assert [row["earlier"] for row in lines(tmp_path / "log.1")] == [True, True]
    before = log.read_bytes()
    (place / "a.wav").rename(place / "d.wav")
    assert watch.watch_folder(fitted, place, log, settle=0, once=True) == 0
    assert log.read_bytes() == before


@pytest.mark.parametrize("how", ["nocreate", "create", "copytruncate"])
def test_a_log_that_is_rotated_while_files_are_scored(fitted, sounds, tmp_path, how, monkeypatch):
    place, log, appended = tmp_path / "in", tmp_path / "log.jsonl", []
    for i in range(4):
        put(sounds[0][i], place / f"{i}.wav")
        os.utime(place / f"{i}.wav", (i, i))
    append = watch_log.WatchLog.append

    def rotate_then_append(self, document):
        appended.append(document)
        if len(appended) == 3:
            rotated(how, log)
        append(self, document)

    monkeypatch.setattr(watch_log.WatchLog, "append", rotate_then_append)
    assert watch.watch_folder(fitted, place, log, settle=0, once=True) == 0
    assert [row["file"] for row in lines(tmp_path / "log.1")] == ["0.wav", "1.wav"]
    assert [(row["file"], "score" in row) for row in lines(log)] == [
        ("0.wav", False), ("1.wav", False), ("2.wav", True), ("3.wav", True),
    ]  # fmt: skip


def test_what_replaces_a_log_must_be_one(fitted, sounds, tmp_path):
    place, log, clock = tmp_path / "in", tmp_path / "log.jsonl", Clock()
    put(sounds[0][0], place / "a.wav")
    clock.steps = [lambda: (log.unlink(), log.write_text("my notes\n"))]
    with pytest.raises(AsdjaxError, match="line 1"):
        watch.watch_folder(fitted, place, log, settle=0, clock=clock, sleep=clock.sleep)
    assert log.read_text() == "my notes\n"


def test_a_log_that_was_restored_gets_no_lines_twice(fitted, sounds, tmp_path):
    place, log, clock = tmp_path / "in", tmp_path / "log.jsonl", Clock()
    put(sounds[0][0], place / "a.wav")

    def restore():
        content = log.read_bytes()
        log.unlink()
        log.write_bytes(content)

    clock.steps = [restore, lambda: put(sounds[0][1], place / "b.wav"), lambda: None]
    with pytest.raises(KeyboardInterrupt):
        watch.watch_folder(fitted, place, log, settle=0, clock=clock, sleep=clock.sleep)
    assert files(log) == ["a.wav", "b.wav"]


def test_a_share_that_is_away_for_a_while_is_not_new(tmp_path):
    clock = Clock()
    place, away = tmp_path / "share", tmp_path / "away"
    place.mkdir()
    (place / "a.wav").write_bytes(b"1")
    arrivals = Arrivals(place, 0.0, clock)
    (one,) = arrivals.look()
    arrivals.finish(one.name, one.identity, digest_of(one.path))
    place.rename(away)
    with pytest.raises(AsdjaxError, match="share: cannot be read"):
        arrivals.look()
    place.mkdir()
    clock.now = 3600
    assert arrivals.look() == []
    place.rmdir()
    away.rename(place)
    assert arrivals.look() == []
    away.mkdir()
    for seconds in (3600 + 86000, 3600 + 2 * 86500):
        clock.now = seconds
        (place / "a.wav").rename(away / "a.wav")
        assert arrivals.look() == []
        (away / "a.wav").rename(place / "a.wav")
    assert len(arrivals.look()) == 1  # forgotten after a day


# the log


def test_a_line_that_was_not_finished_is_cut_off(tmp_path):
    log = tmp_path / "log.jsonl"
    with watch_log.opened(log) as opened:
        opened.append({"file": "a"})
    whole = log.read_bytes()
    for rest in (b"{", whole[:-1], b"\xff" * 200_000):
        log.write_bytes(whole + rest)
        assert [line["file"] for line in watch_log.documents_of(log)] == ["a"]
        with watch_log.opened(log) as opened:
            assert log.read_bytes() == whole
            opened.append({"file": "b"})
        assert [line["file"] for line in watch_log.documents_of(log)] == ["a", "b"]
    for part in (b"", whole[:1], whole[:-1]):
        log.write_bytes(part)
        with watch_log.opened(log):
            assert log.read_bytes() == b""


@pytest.mark.parametrize("content", [b"my notes\n", b"{}\n", b'{"schema": "asdjax.watch/2"}\n'])
def test_other_files_are_no_logs_and_stay(tmp_path, content, fitted):
    log = tmp_path / "log.jsonl"
    log.write_bytes(content + b"the rest")
    with pytest.raises(AsdjaxError, match="line 1"):
        watch.watch_folder(fitted, tmp_path, log, once=True)
    assert log.read_bytes() == content + b"the rest"
    for content in (b"important notes", b'{"precious": 1}', b"RIFF" + bytes(32_000)):
        log.write_bytes(content)  # no line is complete
        with pytest.raises(AsdjaxError, match="not a log of asdjax watch"):
            watch.watch_folder(fitted, tmp_path, log, once=True)
        assert log.read_bytes() == content


def test_two_watchers_cannot_share_a_log(tmp_path, fitted):
    log = tmp_path / "log.jsonl"
    with (
        watch_log.opened(log),
        pytest.raises(AsdjaxError, match="another process writes this log"),
    ):
        watch.watch_folder(fitted, tmp_path, log, once=True)


# watching


def test_a_day_in_a_folder(fitted, sounds, tmp_path, capsys):
    """Bursts, half-written, faulty, renamed and deleted files, and a restart at every step."""
    normal, faulty = sounds
    place, log, clock = tmp_path / "in", tmp_path / "log.jsonl", Clock()
    place.mkdir()
    whole = normal[3].read_bytes()

    def steps():
        yield lambda: [put(path, place / path.name) for path in normal[:3]]
        yield lambda: (place / "half.wav").write_bytes(whole[:3000])
        yield lambda: (place / "bad.wav").write_bytes(b"no sound")
        yield lambda: os.rename(place / normal[0].name, place / "renamed.wav")
        yield lambda: None
        yield lambda: (place / "half.wav").write_bytes(whole)
        yield lambda: put(faulty[0], place / "sub" / "tone.wav")
        yield lambda: (put(normal[4], place / "gone.wav"), (place / "gone.wav").unlink())
        yield lambda: os.rename(place / "sub", place / "moved")
        for _ in range(70):
            yield lambda: None

    todo = list(steps())
    while todo:
        some, todo = todo[:3], todo[3:]
        clock.steps = some
        with pytest.raises(KeyboardInterrupt):
            watch.watch_folder(
                fitted, place, log, settle=0.5, interval=1.0, clock=clock, sleep=clock.sleep
            )
    found = files(log)
    tone = [name for name in found if name.endswith("tone.wav")]
    assert len(tone) == 1
    first = [name for name in found if name in ("renamed.wav", normal[0].name)]
    assert len(first) == 1
    others = sorted(set(found) - {*tone, *first})
    assert others == sorted(["half.wav", *(p.name for p in normal[1:3])]) and len(found) == 5
    said = capsys.readouterr().err
    assert f"ALARM {tone[0]}" in said and "bad.wav" not in said  # restarts come before its minute
    scores = {line["file"]: line["score"] for line in lines(log)}
    assert scores["half.wav"] == fitted.predict_details(normal[3])[0].score
    clock.steps = [lambda: None] * 70
    with pytest.raises(KeyboardInterrupt):
        watch.watch_folder(
            fitted, place, log, settle=0.5, interval=1.0, clock=clock, sleep=clock.sleep
        )
    assert "ERROR" in capsys.readouterr().err
    (bad,) = (line for line in lines(log) if line["error"])
    assert bad["file"] == "bad.wav" and bad["alarm"] is None and len(lines(log)) == 6


def test_once_ends_with_counts_and_waits_for_new_files_alone(fitted, sounds, tmp_path, capsys):
    """A file that cannot be read is tried while it may grow: for a minute by its time."""
    place, clock = tmp_path / "in", Clock()
    put(sounds[0][0], place / "a.wav")
    for name in ("notes.txt", "more.TXT", "README", ".hidden.wav"):
        (place / name).write_bytes(b"1")
    (place / ".later").mkdir()
    (place / "elsewhere").symlink_to(tmp_path)
    (place / "old.wav").write_bytes(b"no sound")
    os.utime(place / "old.wav", (time.time() - 70,) * 2)
    options = {"settle": 0, "once": True, "clock": clock, "sleep": clock.sleep}
    clock.steps = [lambda: None]
    assert watch.watch_folder(fitted, place, tmp_path / "log.jsonl", **options) == 1
    said = capsys.readouterr().err
    kinds = ".txt, hidden, hidden folder, link to a folder, without ending"
    assert said.count(f"in: passed over: {kinds}") == 1
    assert "in: 1 recordings scored, 1 failed, 6 entries passed over" in said
    (place / "new.wav").write_bytes(b"no sound")
    clock.steps = [lambda: (place / "x.tmp").write_bytes(b"1")] + [lambda: None] * 60
    assert watch.watch_folder(fitted, place, tmp_path / "log.jsonl", **options) == 1
    said = capsys.readouterr().err
    assert said.count("in: 1 files cannot be read (yet): each is tried until it has not") == 1
    assert said.count("passed over: .tmp\n") == 1 and not clock.steps
    assert "in: 0 recordings scored, 1 failed, 7 entries passed over" in said


def test_recordings_of_another_detector_are_said(detector_file, sounds, tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    given = ["watch", str(detector_file), str(sounds[1][0].parent), "--log", str(log)]
    options = ["--once", "--settle", "0"]
    assert main([*given, *options]) == 0
    capsys.readouterr()
    assert main([*given, *options]) == 0
    assert "another detector" not in capsys.readouterr().err
    before = log.read_bytes()
    assert main([*given, *options, "--level", "0.8"]) == 0
    assert "recordings were scored by another detector or level" in capsys.readouterr().err
    assert log.read_bytes() == before
    older = [{k: v for k, v in line.items() if k != "detector"} for line in lines(log)]
    log.write_text("".join(json.dumps(line) + "\n" for line in older))
    assert main([*given, *options]) == 0
    assert "another detector" not in capsys.readouterr().err and lines(log) == older


def test_an_alarm_needs_k_of_n_windows_also_across_restarts(fitted, sounds, tmp_path, capsys):
    normal, faulty = sounds
    place, log = tmp_path / "in", tmp_path / "log.jsonl"
    order = [faulty[0], normal[1], faulty[1], normal[2], faulty[2], faulty[3]]
    above = fitted.predict([*order]) == -1
    for i, path in enumerate(order):
        put(path, place / f"{i}.wav")
        os.utime(place / f"{i}.wav", (i, i))
        watch.watch_folder(fitted, place, log, confirm=(3, 5), settle=0, once=True)
    expected = [bool(above[max(0, i - 4) : i + 1].sum() >= 3 and above[i]) for i in range(6)]
    assert [line["confirmed"] for line in lines(log)] == expected and any(expected)
    assert lines(log)[-1]["recent"] == "".join("01"[int(x)] for x in above[1:])
    assert capsys.readouterr().err.count("ALARM") == sum(expected)


def test_confirmation():
    two_of_three = watch.Confirmation(2, 3)
    found = [two_of_three.add([a], a) for a in (True, False, False, True, True, False, False)]
    assert found == [False, False, False, False, True, False, False]
    assert watch.Confirmation(2, 3).add([True, True, False], False) and two_of_three.recent == "100"
    assert not watch.Confirmation(1, 1).add([], False)
    for alarm in True, False:  # a recording's own decision, whose threshold is that of its windows
        assert watch.Confirmation(1, 1).add([True, False], alarm) is alarm


def test_long_recordings_alarm_as_in_predict(sounds, tmp_path, capsys):
    detector = Detector(clip_seconds=0.25, level=0.8).fit([str(path) for path in sounds[0]])
    place = tmp_path / "new"
    place.mkdir()
    for i in range(6):
        wave = np.concatenate([sound(400 + 10 * i + k) for k in range(3)])
        soundfile.write(place / f"{i}.wav", wave, RATE)
    watch.watch_folder(detector, place, tmp_path / "log.jsonl", settle=0, once=True)
    found = lines(tmp_path / "log.jsonl")
    above = [max(row["window_scores"]) > detector.threshold_ for row in found]
    alarms = [row["alarm"] for row in found]
    assert [row["confirmed"] for row in found] == alarms != above  # else nothing is tested
    assert capsys.readouterr().err.count("ALARM") == sum(alarms)


@pytest.mark.parametrize("text", ["3", "0/5", "6/5", "3/5/7", "a/b", "-1/5", "3/", "1/1001", "²/3"])
def test_confirm_that_makes_no_sense(text):
    with pytest.raises(UsageError, match="--confirm"):
        watch.parse_confirm(text)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--log", "x.jsonl"], "a folder or --microphone"),
        (["in", "--log", "x.jsonl", "--microphone"], "a folder or --microphone"),
        (["in", "--log", "x.jsonl", "--settle", "-1"], "--settle"),
        (["in", "--log", "x.jsonl", "--interval", "0"], "--interval"),
        (["in", "--log", "x.jsonl", "--confirm", "5/3"], "--confirm"),
    ],
)
def test_usage(detector_file, options, named, capsys):
    assert main(["watch", str(detector_file), *options]) == 2
    assert named in capsys.readouterr().err


def test_a_folder_that_is_missing(detector_file, tmp_path, capsys):
    args = ["watch", str(detector_file), str(tmp_path / "no"), "--log", str(tmp_path / "l.jsonl")]
    assert main(args) == 1
    assert f"{tmp_path / 'no'}: no such folder" in capsys.readouterr().err
    assert not (tmp_path / "l.jsonl").exists()


@pytest.mark.parametrize(
    ("files", "seconds", "signals"),
    [
        pytest.param(30, 8, SIGNALS[1:4], id="short"),  # one of each
        pytest.param(3600, 900, SIGNALS, id="hour", marks=pytest.mark.slow),
    ],
)
def test_kills_lose_and_repeat_nothing(fitted, detector_file, tmp_path, files, seconds, signals):
    """As an hour of recordings of a second, four times as fast; see support/busy_folder.py."""
    busy = BusyFolder(tmp_path, detector_file, seed=0)
    busy.receive(files, seconds, signals)
    busy.finish()
    busy.compare(fitted)
    assert busy.faults == []


# microphones


class Sounddevice(types.ModuleType):
    """Stands in for the library: calls back with given blocks, then fails or stays silent."""

    class PortAudioError(Exception):
        """As the library's."""

    def __init__(self, blocks, rate=RATE):
        super().__init__("sounddevice")
        self.blocks, self.rate, self.asked = blocks, rate, None

    def query_devices(self, device, kind):
        if device == "none":
            raise ValueError("No input device matching 'none'")
        return {"default_samplerate": float(self.rate)}

    def InputStream(self, callback, **options):  # noqa: N802
        self.asked = options
        module = self

        class Stream:
            def __enter__(self):
                for samples, status in module.blocks:
                    callback(samples, len(samples), None, status)

            def __exit__(self, *exception):
                return False

        return Stream()


def blocks(wave, size=1600):
    table = wave.astype(np.float32)[:, None]
    return [(table[i : i + size], 0) for i in range(0, len(table), size)]


def heard(monkeypatch, module, detector, log, **options):
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    monkeypatch.setattr(microphone, "_SILENT", 0.05)
    with pytest.raises(AsdjaxError, match="no more sound comes"):
        watch.watch_microphone(detector, microphone.streams(None, 1), log, **options)
    return lines(log)


def test_a_microphone_gives_a_line_per_window(fitted, tmp_path, monkeypatch, capsys):
    wave = np.concatenate([sound(100), sound(200, fault="tone"), sound(101)])
    module = Sounddevice(blocks(wave))
    found = heard(monkeypatch, module, fitted, tmp_path / "log.jsonl", confirm=(1, 2))
    expected = list(fitted.stream([wave.astype(np.float32)]))
    assert [line["score"] for line in found] == [one.score for one in expected]
    assert found[1]["confirmed"] and found[1]["start"] == 1.0 and found[1]["file"] is None
    assert "ALARM microphone, from 1 s" in capsys.readouterr().err
    assert module.asked["samplerate"] == RATE and module.asked["channels"] == 1


def test_windows_do_not_span_a_gap(fitted, tmp_path, monkeypatch, capsys):
    """Neither a gap that the system reports, nor one because the buffer was full."""
    before, after = sound(100, seconds=1.5), sound(101, seconds=2.2)
    first, *rest = blocks(after)
    module = Sounddevice([*blocks(before), (first[0], "input overflow"), *rest])
    found = heard(monkeypatch, module, fitted, tmp_path / "log.jsonl")
    assert "a gap" in capsys.readouterr().err
    expected = [p for w in (before, after) for p in fitted.stream([w.astype(np.float32)])]
    assert [(line["start"], line["score"]) for line in found] == [
        (one.start, one.score) for one in expected
    ]
    monkeypatch.setattr(microphone, "_BUFFERED", 1.2)  # 12 of 15 chunks, and then none
    found = heard(monkeypatch, Sounddevice(blocks(before)), fitted, tmp_path / "other.jsonl")
    assert [line["score"] for line in found] == [expected[0].score]


def test_without_the_library_or_a_device(detector_file, tmp_path, monkeypatch, capsys):
    args = ["watch", str(detector_file), "--microphone", "--log", str(tmp_path / "l.jsonl")]
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert main(args) == 1
    assert "pip install 'asdjax[live]'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "sounddevice", Sounddevice([]))
    assert main([*args, "--device", "none"]) == 1
    said = capsys.readouterr().err
    assert "No input device matching" in said and "listening" not in said
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_read_leaves_no_log(fitted, tmp_path, open_folder):
    place, log = open_folder / "in", tmp_path / "log.jsonl"
    place.mkdir()
    with permissions(place, 0o000), pytest.raises(AsdjaxError, match="in: cannot be read .*make"):
        watch.watch_folder(fitted, place, log, once=True)
    assert not log.exists()

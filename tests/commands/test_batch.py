"""Jobs on archives: equal to one process, whatever dies, changes or is hostile."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import TESTS, relative
from pyarrow import parquet
from support.archives import member, pack, write_noise
from support.converted_beats import convert

from asdjax.archive import claims, job
from asdjax.archive.claims import Claims
from asdjax.cli import main
from asdjax.commands.batch_run import Worker, worker
from asdjax.data import retries, sound_files
from asdjax.errors import UsageError

pytestmark = pytest.mark.usefixtures("compiled_fast")
COMMAND = [sys.executable, "-m", "asdjax", "batch"]
SECONDS = [0.3, 0.5, 0.4, 0.2, 0.6, 0.4, 0.3, 0.5, 0.2, 0.4, 0.7]


@pytest.fixture(scope="module")
def weights(corpus_root, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    command = ["train", str(TESTS / "tiny.yaml"), "--data", str(corpus_root), "--run", str(run)]
    assert main([*command, "--train.epochs", "1"]) == 0
    return run


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Eleven recordings."""
    folder = tmp_path_factory.mktemp("archive") / "sounds"
    write_noise(folder, SECONDS)
    return folder


def batch(*words):
    return main(["batch", *map(str, words)])


def planned(weights, inputs, out, *options, shard_clips=3):
    inputs = inputs if isinstance(inputs, list) else [inputs]
    words = [weights, *inputs, "--out", out, "--shard-clips", shard_clips, *options]
    assert batch("plan", *words) == 0
    return out


def started(folder, *options):
    """A worker in a process of its own."""
    return subprocess.Popen(
        [*COMMAND, "run", str(folder), *options], stderr=subprocess.PIPE, text=True
    )


def shards(folder):
    return {path.name: path.read_bytes() for path in (folder / "shards").glob("*.parquet")}


def rows(path):
    return {row.pop("path"): row for row in parquet.read_table(path).to_pylist()}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(weights, archive, tmp_path_factory):
    """A job that one worker has done."""
    folder = planned(weights, archive, tmp_path_factory.mktemp("jobs") / "job")
    assert batch("run", folder) == 0
    return folder


def test_a_job_gives_what_embed_gives(weights, archive, finished, tmp_path, capsys):
    assert batch("merge", finished, "--out", tmp_path / "m.parquet") == 0
    words = ["embed", str(weights), str(archive), "--out", str(tmp_path / "e.parquet")]
    assert main(words) == 0
    merged, one = rows(tmp_path / "m.parquet"), rows(tmp_path / "e.parquet")
    assert len(merged) == len(SECONDS) and merged.keys() == one.keys()
    for name, row in one.items():
        assert relative(np.array(merged[name]["embedding"]), np.array(row["embedding"])) < 2e-5
    metadata = parquet.read_schema(tmp_path / "m.parquet").metadata
    about = json.loads(metadata[b"asdjax"])
    assert about == json.loads(parquet.read_schema(tmp_path / "e.parquet").metadata[b"asdjax"])
    assert metadata[b"asdjax_job"].decode() == job.Job.open(finished).digest
    lengths = [len(sound_files.read_any(Path(name), 16000)) for name in merged]
    used = np.minimum(lengths, 6400)
    assert (np.diff(used) >= 0).all()  # the order of the manifest
    assert "in different ways" not in capsys.readouterr().err
    assert batch("run", finished) == 0
    assert "all 4 shards are finished" in capsys.readouterr().err
    assert batch("merge", finished, "--out", tmp_path / "m.parquet") == 1
    assert "exists already" in capsys.readouterr().err


def test_results_do_not_depend_on_the_number_of_workers(weights, archive, finished, tmp_path):
    for count in (2, 4):
        folder = planned(weights, archive, tmp_path / f"of{count}")
        for index in range(count):
            assert batch("run", folder, "--worker", f"{index}/{count}") == 0
        assert shards(folder) == shards(finished)


def test_two_processes_at_once(weights, archive, finished, tmp_path):
    folder = planned(weights, archive, tmp_path / "job")
    workers = [started(folder, "--worker", f"{i}/2") for i in range(2)]
    said = [one.communicate()[1] for one in workers]
    assert [one.returncode for one in workers] == [0, 0], said
    assert shards(folder) == shards(finished)
    assert not list((folder / "claims").iterdir())


def test_a_killed_worker_is_succeeded(weights, archive, tmp_path, monkeypatch, capsys):
    """The kill comes between claim and result; the claim stays."""
    folder = planned(weights, archive, tmp_path / "job")
    stop = "import os, asdjax.archive.job as j; j.Job.write = lambda *_: os.kill(os.getpid(), 9)"
    code = f"{stop}; from asdjax.cli import main; main(['batch', 'run', {str(folder)!r}])"
    dead = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert dead.returncode == -signal.SIGKILL and not shards(folder)
    assert [path.name for path in (folder / "claims").iterdir()] == ["00000-0.json"]
    assert batch("status", folder, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["shards"] == {"all": 4, "finished": 0, "claimed": 1, "open": 3}
    assert [claim["shard"] for claim in document["silent"]] == [0]
    assert batch("run", folder, "--patience", "3") == 0
    assert len(shards(folder)) == 4 and not list((folder / "claims").iterdir())


def test_a_claim_is_passed_over_by_one_alone_and_by_own_time(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "HEARTBEAT", 0.02)
    now = [0.0]
    monkeypatch.setattr(claims.time, "monotonic", lambda: now[0])
    one, two, three = (Claims(tmp_path) for _ in range(3))
    with one.taken(7, 60, {}) as mine:
        assert mine
        path = one.path(7, 0)
        for jump in (-1e9, 1e9):  # the clock of the host or of the disk jumps
            os.utime(path, (1e9 + jump, 1e9 + jump))
            with two.taken(7, 60, {}) as taken:
                assert not taken
            now[0] += 59
        held = path.stat().st_mtime_ns
        for _ in range(500):  # its heartbeat is seen
            if path.stat().st_mtime_ns != held:
                break
            time.sleep(0.01)
        now[0] += 59
        with two.taken(7, 60, {}) as taken:
            assert not taken
    assert not list(tmp_path.iterdir())
    path.touch()  # of a dead worker
    for observer in (two, three):
        with observer.taken(7, 60, {}) as taken:
            assert not taken
    now[0] += 61
    with two.taken(7, 60, {}) as taken, three.taken(7, 60, {}) as also:
        assert (taken, also) == (True, False)
        assert one.last() == {7: 1}
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_kills_of_two_workers_lose_nothing(weights, tmp_path):
    """SIGKILL, SIGTERM, and a pause that is longer than the other's patience; then a new worker."""
    write_noise(tmp_path / "sounds", [0.2 + i % 7 / 10 for i in range(600)])
    folder = planned(weights, tmp_path / "sounds", tmp_path / "job", shard_clips=2)
    alone = planned(weights, tmp_path / "sounds", tmp_path / "alone", shard_clips=2)
    assert batch("run", alone) == 0
    chance = random.Random(0)

    def new():
        return started(folder, "--worker", f"{chance.randrange(2)}/2", "--patience", "3")

    running = [new(), new()]
    for _ in range(20):
        time.sleep(chance.random() * 8)
        i, number = chance.randrange(2), chance.choice(["SIGKILL", "SIGTERM", "SIGSTOP"])
        running[i].send_signal(getattr(signal, number))
        if number == "SIGSTOP":
            time.sleep(5)
            running[i].send_signal(signal.SIGCONT)
            continue
        running[i].communicate()
        running[i] = new()
    said = [one.communicate()[1] for one in running]
    assert [one.returncode for one in running] == [0, 0], said
    assert not [path for path in (folder / "shards").iterdir() if path.name.startswith(".")]
    assert len(shards(folder)) == 300 and shards(folder) == shards(alone)


def test_files_that_changed_or_broke_are_rows_of_errors(weights, archive, tmp_path, capsys):
    sounds = tmp_path / "sounds"
    shutil.copytree(archive, sounds)
    (sounds / "broken.wav").write_bytes(b"RIFF")
    os.mkfifo(sounds / "pipe.wav")
    folder = planned(weights, sounds, tmp_path / "job")
    refused = {Path(row["path"]).name: row["reason"] for row in lines(folder / "errors-plan.jsonl")}
    assert refused.keys() == {"broken.wav", "pipe.wav"} and "FIFO" in refused["pipe.wav"]
    write_noise(sounds, [0.9])
    (sounds / "001.wav").unlink()
    os.mkfifo(sounds / "001.wav")
    (sounds / "002.wav").unlink()
    capsys.readouterr()
    assert batch("run", folder) == 1
    said = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("asdjax: ") for line in said) == 1
    assert "5 do not (errors-*.jsonl), more than --max-errors 0" in said[-1]
    found = [row for path in folder.glob("errors-0*.jsonl") for row in lines(path)]
    reasons = {Path(row["path"]).name: row["reason"] for row in found}
    assert reasons.keys() == {"000.wav", "001.wav", "002.wav"}
    for name, word in (("000.wav", "changed"), ("001.wav", "FIFO"), ("002.wav", "No such file")):
        assert word in reasons[name], reasons
    assert batch("run", folder, "--max-errors", "5") == 0
    assert batch("merge", folder, "--out", tmp_path / "m.parquet") == 1
    assert batch("merge", folder, "--out", tmp_path / "m.parquet", "--max-errors", "5") == 0
    assert len(rows(tmp_path / "m.parquet")) == len(SECONDS) - 3
    (sounds / "001.wav").unlink()
    for name in ("000.wav", "001.wav", "002.wav"):
        shutil.copy2(archive / name, sounds / name)
    assert batch("run", folder, "--retry-errors", "--max-errors", "2") == 0
    assert not list(folder.glob("errors-0*.jsonl"))
    assert batch("merge", folder, "--out", tmp_path / "n.parquet", "--max-errors", "2") == 0
    assert len(rows(tmp_path / "n.parquet")) == len(SECONDS)


def test_a_shard_without_results(weights, archive, tmp_path, capsys):
    sounds = tmp_path / "sounds"
    shutil.copytree(archive, sounds)
    folder = planned(weights, sounds, tmp_path / "job")
    first = job.Job.open(folder).clips(0)
    for clip in first:
        Path(clip.path).unlink()
    assert batch("run", folder, "--max-errors", "2") == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("asdjax: shard 0: none of its 3 recordings can be used")
    assert not shards(folder) and not list((folder / "claims").iterdir())
    assert batch("run", folder, "--max-errors", "3") == 0
    tables = [parquet.read_table(path) for path in sorted((folder / "shards").glob("*.parquet"))]
    assert [len(table) for table in tables] == [0, 3, 3, 2]
    schemas = {table.schema.remove_metadata() for table in tables}
    assert len(schemas) == 1  # all shards can be read together
    assert batch("merge", folder, "--out", tmp_path / "m.parquet", "--max-errors", "3") == 0
    assert len(rows(tmp_path / "m.parquet")) == len(SECONDS) - 3


@pytest.mark.parametrize("fault", ["missing", "foreign", "swapped", "flipped", "short"])
def test_merge_refuses(fault, weights, archive, finished, tmp_path, capsys):
    folder = tmp_path / "job"
    shutil.copytree(finished, folder)
    table = folder / "shards" / "00001.parquet"
    if fault == "missing":
        table.unlink()
    elif fault == "foreign":
        other = planned(weights, archive, tmp_path / "other", "--channel", "each")
        assert batch("run", other) == 0
        shutil.copy(other / "shards" / "00001.parquet", table)
    elif fault == "swapped":
        shutil.copy(folder / "shards" / "00002.parquet", table)
    else:
        content = bytearray(table.read_bytes())
        place = content.index(np.float32(parquet.read_table(table)["embedding"][0][3].as_py()))
        content[place] ^= 1
        table.write_bytes(content[:-10] if fault == "short" else content)
    capsys.readouterr()
    assert batch("merge", folder, "--out", tmp_path / "m.parquet") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(table) in line and not (tmp_path / "m.parquet").exists()
    if fault == "flipped":
        table.unlink()
    assert batch("run", folder) == 0
    assert shards(folder) == shards(finished)


def test_merge_says_that_workers_differ(finished, tmp_path, capsys):
    folder = tmp_path / "job"
    shutil.copytree(finished, folder)
    how = folder / "shards" / "00001.json"
    how.write_text(how.read_text().replace('"device": "cpu"', '"device": "TPU v5"'))
    assert batch("merge", folder, "--out", tmp_path / "m.parquet") == 0
    assert "the shards were made in different ways (TPU v5 8 " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["job.json", "manifest.parquet"])
def test_an_edited_job_is_refused(name, finished, tmp_path, capsys):
    folder = tmp_path / "job"
    shutil.copytree(finished, folder)
    file = folder / name
    content = file.read_bytes()
    file.write_bytes(content.replace(b"head", b"mean") if name == "job.json" else content[:-1])
    for words in (["run", folder], ["status", folder], ["merge", folder, "--out", "m.parquet"]):
        capsys.readouterr()
        assert batch(*words) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{file}: was changed" in line


def test_a_plan_does_not_replace_what_is_there(weights, archive, finished, tmp_path, capsys):
    folder = tmp_path / "job"
    shutil.copytree(finished, folder)
    words = ["plan", weights, archive, "--out", folder, "--shard-clips", "3"]
    assert batch(*words) == 1 and "exists already" in capsys.readouterr().err
    assert shards(folder)
    assert batch(*words, "--overwrite") == 0 and not shards(folder)
    assert (folder / "job.json").read_bytes() == (finished / "job.json").read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    assert batch("plan", weights, archive, "--out", other, "--overwrite") == 1
    assert "not a result of this command" in capsys.readouterr().err


def test_every_kind_of_input_names_the_same_recordings(weights, archive, tmp_path, capsys):
    names = sorted(path.name for path in archive.iterdir())
    (tmp_path / "list.txt").write_text("".join(f"{archive / n}\n" for n in names[:5]) + "\n")
    (tmp_path / "rest").write_text("".join(f"{archive / n}\n" for n in names[5:]))
    header = "path,machine,split\n"
    table = "".join(f"{archive / name},m,test\n" for name in names)
    (tmp_path / "table.csv").write_text(header + table)
    inputs = {
        "pattern": [f"{archive}/*.wav"],
        "deep": [f"{archive.parent}/**/*"],
        "lists": [tmp_path / "list.txt", tmp_path / "@rest"],
        "table": [tmp_path / "table.csv"],
        "twice": [archive, archive / names[0], tmp_path / "list.txt"],
    }
    expected = parquet.read_table(planned(weights, archive, tmp_path / "job") / "manifest.parquet")
    for kind, given in inputs.items():
        capsys.readouterr()
        folder = planned(weights, given, tmp_path / kind)
        said = capsys.readouterr().err
        assert parquet.read_table(folder / "manifest.parquet") == expected, kind
        assert ("6 were named more than once" in said) == (kind == "twice")


def test_what_is_done_to_recordings_is_said(weights, tmp_path, capsys):
    write_noise(tmp_path / "stereo", [0.3, 0.6], rate=8000, channels=2)
    planned(weights, tmp_path / "stereo", tmp_path / "job")
    said = capsys.readouterr().err
    assert "2 of 2 files are resampled to 16000 Hz: 2 of 8000 Hz" in said
    assert "2 of 2 files have more than one channel: channel 1 is embedded" in said
    assert "1 of 2 files are longer than this run's clips: their first 0.4 s are embedded" in said


def test_poolings_layers_and_channels_as_embed_has_them(tmp_path):
    weights = tmp_path / "converted"
    convert(weights)
    write_noise(tmp_path / "stereo", [0.3] * 3, channels=2)
    pool = "{name: relative_deviation, gamma: 4}"
    options = ["--pool", pool, "--channel", "each", "--layer", "1", "2"]
    folder = planned(weights, tmp_path / "stereo", tmp_path / "job", *options)
    assert batch("run", folder) == 0
    assert batch("merge", folder, "--out", tmp_path / "m.parquet") == 0
    words = ["embed", weights, tmp_path / "stereo", "--out", tmp_path / "e.parquet", *options]
    assert main([*map(str, words)]) == 0
    merged, one = (
        {(row["path"], row["channel"]): row["embedding"] for row in table.to_pylist()}
        for table in (parquet.read_table(tmp_path / f"{name}.parquet") for name in "me")
    )
    assert len(one) == 6 and merged.keys() == one.keys()
    for key, embedding in one.items():
        assert relative(merged[key], embedding) < 2e-5


def test_inputs_that_are_refused(weights, archive, tmp_path, capsys):
    table = tmp_path / "table.csv"
    table.write_text(f"path,machine,split,channel\n{archive / '000.wav'},m,test,2\n")
    (tmp_path / "empty").mkdir()
    for given, words in (
        (tmp_path / "nope.wav", "no such file or directory"),
        (f"{archive}/*.flac", "matches no sound file"),
        (tmp_path / "empty", "contains no audio file"),
        (table, "states channel 2, but channel 1 is used"),
    ):
        capsys.readouterr()
        assert batch("plan", weights, given, "--out", tmp_path / "job") == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line and not (tmp_path / "job").exists()
    assert batch("plan", weights, archive) == 2
    assert batch("plan", weights, archive, "--out", tmp_path / "job", "--pool", "none") == 2
    assert batch("plan", tmp_path / "w", archive, "--out", tmp_path / "job") == 1


def test_members_of_tar_archives(weights, archive, finished, tmp_path):
    tar = tmp_path / "sounds.tar"
    pack(tar, archive, member("rec/000.json", b"{}"))
    folder = planned(weights, tar, tmp_path / "job")
    assert batch("run", folder) == 0
    assert batch("merge", folder, "--out", tmp_path / "m.parquet") == 0
    assert batch("merge", finished, "--out", tmp_path / "n.parquet") == 0
    inside = {Path(name).name: row for name, row in rows(tmp_path / "m.parquet").items()}
    assert inside == {Path(name).name: row for name, row in rows(tmp_path / "n.parquet").items()}
    assert all(name.startswith(f"{tar}/rec/") for name in rows(tmp_path / "m.parquet"))


def test_a_tar_archive_that_was_changed(weights, archive, tmp_path):
    tar = tmp_path / "sounds.tar"
    pack(tar, archive)
    folder = planned(weights, tar, tmp_path / "job")
    pack(tar, archive, member("rec/new.wav", b"RIFF"))
    os.utime(tar, ns=(1, 1))
    assert batch("run", folder, "--max-errors", len(SECONDS)) == 0
    found = [row for path in folder.glob("errors-0*.jsonl") for row in lines(path)]
    assert len(found) == len(SECONDS)
    assert all("was changed since the job was planned" in row["reason"] for row in found)


def test_hostile_tar_archives(weights, archive, tmp_path):
    wav = (archive / "000.wav").read_bytes()
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s.wav",
              "GNU.sparse.realsize": "1000000000000"}  # fmt: skip
    pack(
        tmp_path / "bad.tar",
        archive,
        member("link.wav", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("hard.wav", type=tarfile.LNKTYPE, linkname="rec/000.wav"),
        member("fifo.wav", type=tarfile.FIFOTYPE),
        member("/absolute.wav", wav),
        member("rec/../../up.wav", wav),
        member("rec/000.wav", wav),
        member("s.wav", b"1\n0\n10\n".ljust(512, b"\0"), pax_headers=sparse),
    )
    huge = tarfile.TarInfo("huge.wav")
    huge.size = 10**13
    (tmp_path / "huge.tar").write_bytes(huge.tobuf() + wav)
    (tmp_path / "cut.tar").write_bytes((tmp_path / "bad.tar").read_bytes()[:5000])
    (tmp_path / "text.tar").write_bytes(b"no archive" * 1000)
    (tmp_path / "none.tar").write_bytes(b"")
    name = tarfile.TarInfo("name")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 2**30
    (tmp_path / "name.tar").write_bytes(name.tobuf() + b"x" * 2**21)
    inputs = [tmp_path / f"{name}.tar" for name in ("bad", "cut", "text", "none", "name", "huge")]
    folder = planned(weights, inputs, tmp_path / "job")
    found = {Path(r["path"]).name: r["reason"] for r in lines(folder / "errors-plan.jsonl")}
    assert found.keys() >= {
        "link.wav", "hard.wav", "fifo.wav", "absolute.wav", "up.wav", "s.wav", "huge.wav",
        "cut.tar", "text.tar", "none.tar", "name.tar",
    }, found  # fmt: skip
    manifest = parquet.read_table(folder / "manifest.parquet")
    assert {Path(p).name for p in manifest["path"].to_pylist()} <= {"bad.tar", "cut.tar"}
    assert batch("run", folder, "--max-errors", "100") == 0


def test_a_detector_predicts_as_by_predict(archive, tmp_path, capsys):
    write_noise(tmp_path / "normal", [0.5] * 12)
    detector = tmp_path / "d.asd"
    assert main(["fit", str(tmp_path / "normal"), "--out", str(detector)]) == 0
    folder = planned(detector, archive, tmp_path / "job")
    assert batch("run", folder) == 0
    assert batch("merge", folder, "--out", tmp_path / "m.parquet") == 0
    main(["predict", str(detector), str(archive), "--parquet", str(tmp_path / "p.parquet")])
    merged, one = (parquet.read_table(tmp_path / f"{name}.parquet") for name in "mp")
    assert merged.schema.equals(one.schema)
    assert merged.sort_by("file").to_pylist() == one.sort_by("file").to_pylist()
    words = ["plan", detector, archive, "--out", tmp_path / "other", "--channel", "1"]
    assert batch(*words) == 2
    assert main(["fit", str(archive), "--out", str(detector), "--overwrite"]) == 0
    (folder / "shards" / "00000.parquet").unlink()
    capsys.readouterr()
    assert batch("run", folder) == 1
    assert "not the weights that the job was planned with" in capsys.readouterr().err
    assert len(shards(folder)) == 3 and not list((folder / "claims").iterdir())


def test_a_dry_run_writes_nothing(weights, archive, tmp_path, capsys):
    before = sorted(tmp_path.iterdir())
    assert batch("plan", weights, archive, "--dry-run") == 0
    said = capsys.readouterr().out
    size = sum(path.stat().st_size for path in archive.iterdir())
    assert "one worker like this: " in said and f"to read: {size:,} bytes" in said
    assert sorted(tmp_path.iterdir()) == before
    assert batch("plan", weights, archive, "--dry-run", "--out", tmp_path / "job") == 2


def test_a_signal_gives_the_claim_back(weights, archive, tmp_path):
    folder = planned(weights, archive, tmp_path / "job")
    stop = (
        "import time, asdjax.archive.work as w\n"
        "def rows(*_): print('here', flush=True); time.sleep(60)\n"
        "w.Embedding.rows = rows\n"
        "from asdjax.__main__ import main; main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", stop, "batch", "run", str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "here\n"
    assert [path.name for path in (folder / "claims").iterdir()] == ["00000-0.json"]
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1].splitlines()
    assert process.returncode == 143
    assert said[-1].startswith("asdjax: interrupted: finished shards are kept")
    assert not [*(folder / "claims").iterdir(), *(folder / "shards").iterdir()]


def test_reading_again_after_errors_that_pass(weights, archive, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(retries, "PAUSES", (0.0, 0.0))
    folder, opened = planned(weights, archive, tmp_path / "job"), sound_files.open_regular
    left = {"000.wav": 2, "001.wav": 3}

    def flaky(path):
        if left.get(path.name, 0):
            left[path.name] -= 1
            raise OSError(5, "Input/output error")
        return opened(path)

    monkeypatch.setattr(sound_files, "open_regular", flaky)
    assert batch("run", folder, "--max-errors", "1") == 0
    said = capsys.readouterr().err
    assert said.count("reads were tried again") == 2
    left["002.wav"] = 1
    out = tmp_path / "e.npz"
    assert main(["embed", str(weights), str(archive / "002.wav"), "--out", str(out)]) == 0
    assert "1 read was tried again after errors that may pass" in capsys.readouterr().err
    (row,) = [row for path in folder.glob("errors-0*.jsonl") for row in lines(path)]
    assert Path(row["path"]).name == "001.wav" and "Input/output error" in row["reason"]


def test_workers_by_the_schedulers_variables():
    assert worker(None, {}) == Worker(0, 1)
    slurm = {"ID": "7", "MIN": "3", "COUNT": "3", "STEP": "2"}
    assert worker(None, {f"SLURM_ARRAY_TASK_{k}": v for k, v in slurm.items()}) == Worker(2, 3)
    kubernetes = {"JOB_COMPLETION_INDEX": "3", "JOB_COMPLETIONS": "64"}
    assert worker(None, kubernetes) == Worker(3, 64)
    assert worker("1/2", kubernetes) == Worker(1, 2)
    for wrong in ("3", "3/3", "-1/3", "a/b", "1/2/3", "/3", ""):
        with pytest.raises(UsageError, match="--worker"):
            worker(wrong, {})
    with pytest.raises(UsageError, match="JOB_COMPLETIONS is not set"):
        worker(None, {"JOB_COMPLETION_INDEX": "3"})
    for count in (1, 2, 5):
        for index in range(count):
            order, own = Worker(index, count).order(7), range(index, 7, count)
            assert sorted(order) == list(range(7)) and order[: len(own)] == list(own)


def test_without_a_job_or_pyarrow(weights, archive, finished, tmp_path, monkeypatch, capsys):
    assert batch("run", tmp_path) == 1
    assert "plan one with asdjax batch plan" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for words in (
        ["plan", weights, archive, "--out", tmp_path / "job"],
        ["run", finished],
        ["status", finished],
        ["merge", finished, "--out", tmp_path / "m.parquet"],
    ):
        capsys.readouterr()
        assert batch(*words) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "pip install 'asdjax[parquet]'" in line

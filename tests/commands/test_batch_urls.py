"""Jobs on recordings at URLs: as of local files, whatever is changed, broken, hidden or refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
from pyarrow import parquet
from support.archives import write_noise
from support.converted_beats import convert

from asdjax.archive import job
from asdjax.cli import main
from asdjax.data import retries
from asdjax.files import url_files

pytestmark = pytest.mark.usefixtures("compiled_fast")
SECONDS = [0.3, 0.5, 0.4, 0.2, 0.6]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Converted weights, a detector, and recordings."""
    root = tmp_path_factory.mktemp("urls")
    convert(root / "weights")
    write_noise(root / "normal", [0.5] * 12)
    assert main(["fit", str(root / "normal"), "--out", str(root / "d.asd")]) == 0
    write_noise(root / "sounds", SECONDS)
    write_noise(root / "sounds" / "deep" / "er", [0.3])
    return root


@pytest.fixture
def memory(place):
    """The recordings in memory, below memory://b."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    for path in (place / "sounds").rglob("*.wav"):
        system.pipe(f"/b/{path.relative_to(place / 'sounds')}", path.read_bytes())
    yield system
    system.store.clear()


def batch(*words):
    return main(["batch", *map(str, words)])


def planned(weights, inputs, out):
    inputs = inputs if isinstance(inputs, list) else [inputs]
    assert batch("plan", weights, *inputs, "--out", out, "--shard-clips", 4) == 0
    return out


def merged(folder, column="path"):
    """The rows of a finished job, without the names of recordings, and these."""
    out = folder.with_name(f"{folder.name}.parquet")
    assert batch("merge", folder, "--out", out) == 0
    table = parquet.read_table(out)
    return table.drop_columns([column]), table[column].to_pylist()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("weights, column", [("weights", "path"), ("d.asd", "file")])
@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_results_of_a_local_folder(scheme, weights, column, place, memory, tmp_path):
    local = planned(place / weights, place / "sounds", tmp_path / "local")
    root = f"file://{place}/sounds" if scheme == "file" else "memory://b"
    remote = planned(place / weights, root, tmp_path / "remote")
    one, other = (parquet.read_table(folder / job.MANIFEST) for folder in (local, remote))
    assert one.drop_columns(["path", "mtime_ns"]) == other.drop_columns(["path", "mtime_ns"])
    assert batch("run", local) == 0 and batch("run", remote) == 0
    (rows, paths), (found, urls) = merged(local, column), merged(remote, column)
    assert found == rows
    assert urls == [path.replace(f"{place}/sounds", root) for path in paths]
    assert len(urls) == len(SECONDS) + 1


def test_two_processes_read_files_by_their_urls(place, tmp_path):
    folder = planned(place / "d.asd", f"file://{place}/sounds", tmp_path / "job")
    alone = tmp_path / "alone"
    shutil.copytree(folder, alone)
    assert batch("run", alone) == 0
    command = [sys.executable, "-m", "asdjax", "batch", "run", str(folder), "--worker"]
    workers = [subprocess.Popen([*command, f"{i}/2"]) for i in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0]
    assert merged(folder, "file") == merged(alone, "file")


def test_every_kind_of_url_names_the_same_recordings(place, memory, tmp_path, capsys):
    names = [name.removeprefix("/b/") for name in memory.store]
    half = [f"memory://b/{name}" for name in names[:3]]
    (tmp_path / "list.txt").write_text("\n".join(half) + "\n\n memory://b/00[4-9].wav\n")
    inputs = {
        "slash": ["memory://b/"],
        "pattern": ["memory://b/**/*.wav"],
        "files": [f"memory://b/{name}" for name in names],
        "list": [tmp_path / "list.txt", "memory://b/deep", "memory://b/00?.wav"],
        "twice": ["memory://b", *half],
    }
    plain = planned(place / "d.asd", "memory://b", tmp_path / "job")
    expected = parquet.read_table(plain / job.MANIFEST)
    assert set(expected["path"].to_pylist()) == {f"memory://b/{name}" for name in names}
    for kind, given in inputs.items():
        capsys.readouterr()
        folder = planned(place / "d.asd", given, tmp_path / kind)
        assert parquet.read_table(folder / job.MANIFEST) == expected, kind
        said = capsys.readouterr().err
        assert ("3 were named more than once" in said) == (kind == "twice")
    mixed = planned(place / "d.asd", ["memory://b", place / "sounds"], tmp_path / "mixed")
    assert len(parquet.read_table(mixed / job.MANIFEST)) == 2 * len(names)


def test_broken_hidden_and_other_files(place, memory, tmp_path, capsys):
    memory.pipe("/b/broken.wav", b"RIFF")
    memory.pipe("/b/empty.wav", b"")
    for name in (".hidden.wav", ".folder/a.wav", ".folder/b.wav", "notes.json", "more.tar"):
        memory.pipe(f"/b/{name}", b"RIFF")
    for url, skipped in (
        ("memory://b", "4 entries skipped: 1 .json, 1 .tar, 1 hidden, 1 hidden folder"),
        ("memory://b/**/*", "5 entries skipped: 3 hidden, 1 .json, 1 .tar"),
    ):
        capsys.readouterr()
        out = tmp_path / skipped[:1]
        planned(place / "d.asd", url, out)
        assert f"{url}: {skipped}" in capsys.readouterr().err
        broken, empty = lines(out / "errors-plan.jsonl")
        assert broken["path"] == "memory://b/broken.wav" and "memory:" not in broken["reason"]
        assert empty == {"path": "memory://b/empty.wav", "reason": "empty: the file has 0 bytes"}
        assert len(parquet.read_table(out / job.MANIFEST)) == len(SECONDS) + 1


@pytest.mark.parametrize("weights", ["weights", "d.asd"])
def test_objects_that_changed_are_rows_of_errors(weights, place, memory, tmp_path, capsys):
    folder = planned(place / weights, "memory://b", tmp_path / "job")
    kept = memory.cat("/b/000.wav")
    memory.pipe("/b/000.wav", kept)  # written again
    memory.pipe("/b/001.wav", kept)  # of another size
    memory.rm("/b/002.wav")
    capsys.readouterr()
    assert batch("run", folder) == 1
    assert "3 do not (errors-*.jsonl)" in capsys.readouterr().err
    found = [row for path in folder.glob("errors-0*.jsonl") for row in lines(path)]
    reasons = {row["path"]: row["reason"] for row in found}
    words = {
        "000.wav": "was changed",
        "001.wav": "was changed",
        "002.wav": "no such file or folder",
    }
    assert reasons.keys() == {f"memory://b/{name}" for name in words}
    for name, word in words.items():
        assert word in reasons[f"memory://b/{name}"]
        assert "memory:" not in reasons[f"memory://b/{name}"]
    assert batch("run", folder, "--max-errors", 3) == 0


def test_a_changed_local_file_by_its_url(place, tmp_path):
    shutil.copytree(place / "sounds", tmp_path / "sounds")
    folder = planned(place / "d.asd", f"file://{tmp_path}/sounds", tmp_path / "job")
    (tmp_path / "sounds" / "001.wav").touch()
    assert batch("run", folder, "--max-errors", 1) == 0
    (row,) = [row for path in folder.glob("errors-0*.jsonl") for row in lines(path)]
    assert row["path"] == f"file://{tmp_path}/sounds/001.wav" and "was changed" in row["reason"]


def test_urls_that_are_refused(place, memory, tmp_path, capsys):
    memory.pipe("/o/notes.json", b"{}")
    secret = tmp_path / "secret.txt"
    secret.write_text("s3://key:hunter2@bucket/a.wav\n")
    for url, code, words in (
        ("memory://nowhere", 1, "memory://nowhere: no such file or folder"),
        ("memory://nowhere.wav", 1, "no recording can be used"),
        ("memory://b/*.flac", 1, "memory://b/*.flac: matches no sound file"),
        ("memory://o", 1, "memory://o: contains no sound file"),
        ("foo://b", 1, "Protocol not known: foo"),
        ("foo://b/a.wav", 1, "no recording can be used"),
        ("s3://key:hunter2@bucket/a.wav", 2, "s3://***@bucket/a.wav: the URL has a password"),
        (secret, 2, "s3://***@bucket/a.wav: the URL has a password"),
        ("file://sounds", 2, "not an absolute path"),
    ):
        capsys.readouterr()
        assert batch("plan", place / "d.asd", url, "--out", tmp_path / "job") == code, url
        *more, line = capsys.readouterr().err.splitlines()
        assert len(more) == ("no recording" in words) and all(str(url) in said for said in more)
        assert words in line and "hunter2" not in line and not (tmp_path / "job").exists()
    for name in ("list.txt", "table.csv", "archive.TAR"):
        memory.pipe(f"/o/{name}", b"")
        assert batch("plan", place / "d.asd", f"memory://o/{name}", "--out", tmp_path / "job") == 1
        assert f"memory://o/{name}: lists, tables and tar archives" in capsys.readouterr().err


def test_a_list_names_a_lost_object(place, memory, tmp_path):
    (tmp_path / "list.txt").write_text("memory://b/lost.wav\nmemory://b/000.wav\n")
    folder = planned(place / "d.asd", tmp_path / "list.txt", tmp_path / "job")
    row = {"path": "memory://b/lost.wav", "reason": "no such file or folder"}
    assert lines(folder / "errors-plan.jsonl") == [row]
    assert len(parquet.read_table(folder / job.MANIFEST)) == 1


def test_a_store_that_lists_a_signed_name(place, memory, tmp_path, monkeypatch):
    file = url_files.UrlFile("https://host/a.wav?sig=hunter2")
    monkeypatch.setattr(url_files, "entries", lambda folder: [("a.wav", file)])
    folder = planned(place / "d.asd", ["memory://b", place / "sounds"], tmp_path / "job")
    (row,) = lines(folder / "errors-plan.jsonl")
    assert row["path"] == "https://***" and "signature" in row["reason"]
    assert b"hunter2" not in b"".join(path.read_bytes() for path in folder.glob("*.*"))


def test_a_dry_run_reads_one_object_by_several_threads(place, memory, capsys):
    assert batch("plan", place / "weights", "memory://b", "--dry-run") == 0
    size = sum(file.size for file in memory.store.values())
    assert f"to read: {size:,} bytes" in capsys.readouterr().out


def test_reading_again_after_errors_that_pass(place, memory, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(retries, "PAUSES", (0.0,) * 4)
    system, left = type(memory), {"ls": 1, "info": 2, "cat_file": 1, "modified": 1}

    def flaky(name):
        called = getattr(system, name)

        def call(self, path, *args, **kwargs):
            if left[name] and (name == "ls" or path == "/b/002.wav"):
                left[name] -= 1
                raise OSError(5, "Input/output error")
            return called(self, path, *args, **kwargs)

        return call

    for name in left:
        monkeypatch.setattr(system, name, flaky(name))
    folder = planned(place / "d.asd", "memory://b", tmp_path / "job")
    assert "5 reads were tried again" in capsys.readouterr().err and not any(left.values())
    left |= {"info": 2, "cat_file": 1, "modified": 1}
    assert batch("run", folder) == 0
    assert "4 reads were tried again" in capsys.readouterr().err and not any(left.values())
    left["cat_file"] = 5
    again = planned(place / "d.asd", "memory://b", tmp_path / "again")
    (row,) = lines(again / "errors-plan.jsonl")
    assert row["path"] == "memory://b/002.wav" and "Input/output error" in row["reason"]


def test_what_a_back_end_raises_otherwise_ends_the_worker(place, memory, tmp_path, monkeypatch):
    folder = planned(place / "d.asd", "memory://b", tmp_path / "job")

    def denied(*_, **__):
        raise RuntimeError("no credentials")

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "cat_file", denied)
        with pytest.raises(RuntimeError):
            batch("run", folder)
    assert not [*(folder / "claims").iterdir(), *(folder / "shards").iterdir()]
    assert batch("run", folder) == 0
    assert len(merged(folder, "file")[1]) == len(SECONDS) + 1


def test_a_list_beside_urls_is_local(place, tmp_path):
    """A path with a scheme in its middle is a path."""
    odd = tmp_path / "x" / "memory:" / "b"
    odd.mkdir(parents=True)
    shutil.copy(place / "sounds" / "000.wav", odd)
    (tmp_path / "list.txt").write_text("x/memory://b/000.wav\n")
    folder = planned(place / "d.asd", tmp_path / "list.txt", tmp_path / "job")
    (path,) = parquet.read_table(folder / job.MANIFEST)["path"].to_pylist()
    assert Path(path) == odd / "000.wav"

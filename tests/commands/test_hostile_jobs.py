"""Jobs whose archives, folders, claims or shards were damaged, replaced or forged."""

import dataclasses
import io
import json
import os
import shutil
import tarfile
import threading
import time
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet
from support.archives import member, pack, write_noise

import asdjax
from asdjax.archive import claims, job
from asdjax.archive.claims import Claims
from asdjax.cli import main
from asdjax.commands import batch_run
from asdjax.commands.batch_run import Worker, worker
from asdjax.config import schema
from asdjax.errors import ArtifactError, UsageError
from asdjax.files import documents, tar_members

COUNT, SHARD = 7, 3


def batch(*words):
    return main(["batch", *map(str, words)])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A detector, recordings, a job that is planned, and one that is finished."""
    root = tmp_path_factory.mktemp("jobs")
    write_noise(root / "normal", [0.5] * 12)
    asdjax.Detector().fit(str(root / "normal")).save(root / "d.asd")
    write_noise(root / "sounds", [0.5] * COUNT)
    for name in ("planned", "finished"):
        words = [root / "d.asd", root / "sounds", "--out", root / name, "--shard-clips", SHARD]
        assert batch("plan", *words) == 0
    assert batch("run", root / "finished") == 0
    return root


@pytest.fixture
def planned(place, tmp_path):
    return Path(shutil.copytree(place / "planned", tmp_path / "job"))


@pytest.fixture
def finished(place, tmp_path):
    return Path(shutil.copytree(place / "finished", tmp_path / "job"))


def merge_refused(folder, capsys, *options):
    """The sentence with which a job is not merged."""
    out = folder.with_name("m.parquet")
    capsys.readouterr()
    assert batch("merge", folder, "--out", out, *options) in (1, 2)
    assert not out.exists()
    (line,) = capsys.readouterr().err.splitlines()
    return line


def archive_of(folder):
    pack(folder.with_suffix(".tar"), folder)
    return bytearray(folder.with_suffix(".tar").read_bytes())


@pytest.mark.parametrize("damage", ["bit", "zeros", "cut", "cut header", "joined", "size", "1e99"])
def test_archives_that_are_not_whole_are_said(place, tmp_path, damage):
    content = archive_of(place / "sounds")
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    third = [found.offset for found in tar_members.members(path)][2] - 512
    if damage == "bit":
        content[third + 3] ^= 1
    elif damage == "zeros":
        content[third : third + 512] = bytes(512)
    elif damage == "cut":
        content = content[:third]
    elif damage == "cut header":
        content = content[: third + 100]
    elif damage == "joined":
        content = content * 2
    else:
        size = "10" if damage == "size" else damage
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name in "ab":
                info, sound = member(f"{name}.wav", bytes(5000), pax_headers={"size": size})
                tar.addfile(info, io.BytesIO(sound))
        content = buffer.getvalue()
    path.write_bytes(content)
    found = list(tar_members.members(path))
    assert isinstance(found[-1], tar_members.Refused) and not found[-1].name
    names = [one.name for one in found if isinstance(one, tar_members.Member)]
    if damage != "joined" and "e" not in damage[1:] or damage == "zeros":
        assert names[:2] == ["rec/000.wav", "rec/001.wav"]


def test_whole_archives_have_no_fault(place, tmp_path):
    content = bytes(archive_of(place / "sounds"))
    end = len(content.rstrip(b"\0"))
    end += -end % 512
    for i, tail in enumerate((bytes(512), bytes(1024), bytes(10240 + 7))):
        path = tmp_path / f"{i}.tar"
        path.write_bytes(content[:end] + tail)
        assert all(isinstance(one, tar_members.Member) for one in tar_members.members(path))


def test_headers_one_within_the_other(tmp_path):
    header = member("x", type=tarfile.GNUTYPE_LONGNAME)[0].tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "a.tar").write_bytes(header * 20_000)
    (found,) = tar_members.members(tmp_path / "a.tar")
    assert not found.name and "cannot be read as a tar archive" in found.reason


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_that_are_damaged(place, tmp_path, kind, capsys):
    wav = (place / "sounds" / "000.wav").read_bytes()
    info, content = member(f"{'long/' * 30}a.wav", wav)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        tar.addfile(info, io.BytesIO(content))
        tar.addfile(*(lambda i, c: (i, io.BytesIO(c)))(*member("b.wav", wav)))
    damaged = bytearray(buffer.getvalue())
    damaged[512:1024] = bytes(512)
    (tmp_path / "a.tar").write_bytes(damaged)
    words = [place / "d.asd", tmp_path / "a.tar", "--out", tmp_path / "job"]
    assert batch("plan", *words) == 0
    said = capsys.readouterr().err
    assert "1 recordings" in said
    gnu = kind == tarfile.GNU_FORMAT
    assert ("has no name" if gnu else "a.tar: 1 entry skipped: 1 without ending") in said


def test_other_files_of_an_archive_are_said(place, tmp_path, capsys):
    pack(tmp_path / "a.tar", place / "sounds", member("b.m4a"), member("c.WMA"))
    assert batch("plan", place / "d.asd", tmp_path / "a.tar", "--out", tmp_path / "job") == 0
    assert "a.tar: 2 entries skipped: " in capsys.readouterr().err


def test_one_name_in_two_spellings(place, tmp_path):
    wav = (place / "sounds" / "000.wav").read_bytes()
    pack(tmp_path / "a.tar", place / "normal", member("./rec/000.wav", wav))
    *_, last = tar_members.members(tmp_path / "a.tar")
    assert isinstance(last, tar_members.Refused) and "twice" in last.reason


def test_an_archive_that_another_replaced(place, tmp_path, capsys):
    tar, folder = tmp_path / "a.tar", tmp_path / "job"
    pack(tar, place / "sounds")
    assert batch("plan", place / "d.asd", tar, "--out", folder) == 0
    times = tar.stat()
    pack(tar, place / "sounds", member("rec/more.wav", bytes(20_000)))
    os.utime(tar, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert batch("run", folder, "--max-errors", COUNT) == 0
    assert f"{COUNT} do not" in capsys.readouterr().err


def test_plan_deletes_nothing_but_jobs(place, finished, tmp_path, capsys):
    words = ["plan", place / "d.asd", place / "sounds", "--out", finished, "--overwrite"]
    (finished / "shards" / "thesis.txt").write_text("precious")
    assert batch(*words) == 1
    assert "thesis.txt: not written by asdjax" in capsys.readouterr().err
    assert (finished / "shards" / "00000.parquet").exists()
    (finished / "shards" / "thesis.txt").unlink()
    (finished / "shards" / f".asdjax-{'0' * 16}.partial").write_bytes(b"of a killed worker")
    assert batch(*words) == 0


def test_results_are_not_written_into_the_job(finished, capsys):
    for name in ("manifest.parquet", "shards/00000.parquet", "all.parquet"):
        before = documents.digest(finished / "manifest.parquet")
        words = ["merge", finished, "--out", finished / name, "--overwrite"]
        assert batch(*words) == 2 and "in the folder of the job" in capsys.readouterr().err
        assert documents.digest(finished / "manifest.parquet") == before


@pytest.mark.parametrize("name", ["shards", "claims"])
def test_folders_that_are_links(name, planned, tmp_path, capsys):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "00000.parquet").write_text("precious")
    (victim / "00000-0.json").write_text("precious")
    (planned / name).rmdir()
    (planned / name).symlink_to(victim)
    for words in (["run", planned], ["status", planned]):
        assert batch(*words) == 1
        assert f"{name}: is a link" in capsys.readouterr().err
    assert {path.read_text() for path in victim.iterdir()} == {"precious"}


def test_folders_that_a_copy_left_out(planned):
    for name in ("shards", "claims"):
        (planned / name).rmdir()
    assert batch("run", planned) == 0


def test_claims_that_cannot_be_read(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(claims.time, "monotonic", lambda: now[0])
    os.mkfifo(tmp_path / "00000-0.json")
    (tmp_path / "00001-0.json").symlink_to("/nowhere")
    (tmp_path / "00002-0.json").mkdir()
    (tmp_path / "00003-0.json").touch(mode=0)
    watcher = Claims(tmp_path)
    for expected in (False, True):
        for shard in range(4):
            with watcher.taken(shard, 60, {}) as taken:
                assert taken == expected
        now[0] += 61
    (tmp_path / "00004-999999.json").touch()
    with watcher.taken(4, 60, {}) as taken:
        assert not taken
    now[0] += 61
    with pytest.raises(ArtifactError, match="no higher number"), watcher.taken(4, 60, {}):
        pass
    for name in ("00006-01.json", "000000006-0.json", "00006-x.json"):  # not of a worker
        (tmp_path / name).touch()
    with watcher.taken(6, 60, {}) as taken:
        assert taken
    (tmp_path / "00005-999998.json").touch()
    with watcher.taken(5, 60, {}):
        now[0] += 61
    with watcher.taken(5, 60, {}) as taken:
        assert taken and watcher.last()[5] == 999_999
    assert 5 not in watcher.last()


def test_a_fifo_in_place_of_a_claim(planned, capsys):
    os.mkfifo(planned / "claims" / "00000-0.json")
    assert batch("status", planned) == 1
    assert "neither a file nor a folder: delete it" in capsys.readouterr().err


def test_claims_of_strangers_on_a_terminal(planned, capsys, monkeypatch):
    monkeypatch.setattr(claims, "HEARTBEAT", 0.01)
    forged = {"host": "\x1b[31mX\nall is well", "pid": "\x1b]0;t\x07", "worker": {"a": 1}}
    (planned / "claims" / "00000-0.json").write_text(json.dumps(forged))
    assert batch("status", planned) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\nall is well" not in said
    assert "shard 0, worker None, process None on \\x1b[31mX\\nall is well" in said


def rewritten(folder, change):
    """Write shard 1 again, with changed rows and its metadata."""
    path = folder / "shards" / "00001.parquet"
    table = parquet.read_table(path)
    parquet.write_table(change(table).replace_schema_metadata(table.schema.metadata), path)
    return path


@pytest.mark.parametrize("told", [False, True])
def test_rows_that_no_worker_computed(finished, capsys, told):
    def zero(table):
        column = table.column_names.index("score")
        return table.set_column(column, "score", pyarrow.array([0.0] * len(table)))

    path = rewritten(finished, zero)
    if told:  # of the same size as it was
        made = path.with_suffix(".json")
        tree = json.loads(made.read_text()) | {"size": path.stat().st_size}
        made.write_text(json.dumps(tree))
    line = merge_refused(finished, capsys)
    assert f"{path}: was changed: delete it" in line if told else f"{path}: missing" in line


def test_rows_of_other_numbers(finished, capsys):
    """Also if the digest was made to fit."""
    path = rewritten(finished, lambda table: pyarrow.concat_tables([table] * 500_000))
    made = path.with_suffix(".json")
    fitting = {"size": path.stat().st_size, "digest": documents.digest(path)}
    made.write_text(json.dumps(json.loads(made.read_text()) | fitting))
    began = time.monotonic()
    assert "not those of the manifest" in merge_refused(finished, capsys)
    assert time.monotonic() - began < 30  # 1,500,000 rows are not read


@pytest.mark.parametrize("value", [["a"], {}, None, 7])
def test_what_a_shard_says_of_itself_has_types(value, finished, capsys):
    made = finished / "shards" / "00001.json"
    made.write_text(json.dumps(json.loads(made.read_text()) | {"device": value}))
    assert "00001.parquet: missing, damaged or of another job" in merge_refused(finished, capsys)
    assert batch("run", finished) == 0
    assert batch("merge", finished, "--out", finished.with_name("m.parquet")) == 0


def test_damaged_shards(finished, capsys, rng):
    path = finished / "shards" / "00001.parquet"
    whole = path.read_bytes()
    for _ in range(300):
        content = bytearray(whole)
        for place in rng.integers(len(content) // 2, len(content), rng.integers(1, 5)):
            content[place] = rng.integers(256)
        if content == whole:
            continue
        path.write_bytes(content)
        assert str(path) in merge_refused(finished, capsys)


@pytest.fixture
def with_errors(place, tmp_path):
    """A finished job with a recording without result, and one that the plan refused."""
    sounds = Path(shutil.copytree(place / "sounds", tmp_path / "sounds"))
    (sounds / "broken.wav").write_bytes(b"RIFF")
    folder = tmp_path / "job"
    words = ["--out", folder, "--shard-clips", SHARD]
    assert batch("plan", place / "d.asd", sounds, *words) == 0
    (sounds / "000.wav").unlink()
    assert batch("run", folder, "--max-errors", 2) == 0
    return folder


def test_recordings_with_results_are_counted(with_errors, capsys):
    out = with_errors.with_name("m.parquet")
    assert batch("merge", with_errors, "--out", out, "--max-errors", 2) == 0
    assert f"{COUNT} rows of {COUNT - 1} recordings" in capsys.readouterr().err


@pytest.mark.parametrize("line", ['{"path": ', "[]", '{"a": 1}', '{"path": ["x"]}', "null", ""])
def test_edited_lists_of_errors(line, with_errors, capsys):
    (with_errors / "errors-00000.jsonl").write_text(line + "\n")
    assert "errors-00000.jsonl" in merge_refused(with_errors, capsys, "--max-errors", 2) or not line


def test_a_list_of_errors_that_is_missing(with_errors, capsys):
    (with_errors / "errors-00000.jsonl").unlink()
    assert "--retry-errors" in merge_refused(with_errors, capsys, "--max-errors", 2)


def forged(folder, **changes):
    """Change columns of the manifest, and make all digests fit."""
    path = folder / "manifest.parquet"
    table = parquet.read_table(path)
    for name, values in changes.items():
        column = table.column_names.index(name)
        table = table.set_column(column, name, pyarrow.array(values[: len(table)]))
    with parquet.ParquetWriter(path, table.schema) as writer:
        for first in range(0, len(table), SHARD):
            writer.write_table(table.slice(first, SHARD))
    tree = json.loads((folder / "job.json").read_text())
    rest = {k: v for k, v in tree.items() if k not in ("schema", "asdjax", "job")}
    rest["manifest"] = documents.digest(path)
    job.write_description(folder, schema.read(job.Description, rest, "", ""))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("path", None), ("path", 5), ("path", b"x"), ("frames", -5), ("frames", "x"), ("rate", 0),
        ("rate", 2**40), ("channels", 0), ("size", -1), ("samples", None),
    ],
)  # fmt: skip
def test_manifests_of_strangers(column, value, planned, capsys):
    forged(planned, **{column: [value] * COUNT})
    capsys.readouterr()
    assert batch("run", planned) == 1
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith(f"asdjax: {planned / 'manifest.parquet'}: {column}: ")


def test_a_manifest_of_another_length(planned, capsys):
    path = planned / "manifest.parquet"
    table = parquet.read_table(path)
    parquet.write_table(pyarrow.concat_tables([table] * 3), path)
    tree = json.loads((planned / "job.json").read_text())
    rest = {k: v for k, v in tree.items() if k not in ("schema", "asdjax", "job")}
    rest["manifest"] = documents.digest(path)
    job.write_description(planned, schema.read(job.Description, rest, "", ""))
    assert batch("run", planned) == 1
    assert "manifest.parquet: is of another job" in capsys.readouterr().err


def test_a_detector_has_one_channel(planned, capsys):
    tree = json.loads((planned / "job.json").read_text())
    rest = {k: v for k, v in tree.items() if k not in ("schema", "asdjax", "job")}
    found = schema.read(job.Description, rest, "", "")
    each = dataclasses.replace(found.settings, channel="each")
    job.write_description(planned, dataclasses.replace(found, settings=each))
    assert batch("run", planned) == 1
    assert "a detector has one channel" in capsys.readouterr().err


def test_archives_in_folders(place, tmp_path, capsys):
    folder = tmp_path / "in"
    shutil.copytree(place / "sounds", folder / "deep")
    pack(folder / "a.TAR", place / "sounds")
    assert batch("plan", place / "d.asd", folder, "--out", tmp_path / "job") == 0
    assert f"job: {2 * COUNT} recordings" in capsys.readouterr().err


def test_patterns_do_not_follow_circles(place, tmp_path, capsys):
    inside = tmp_path / "p" / "deep"
    inside.mkdir(parents=True)
    for target in (tmp_path / "p" / "a.wav", inside / "b.wav", inside / ".hidden.wav"):
        shutil.copy(place / "sounds" / "000.wav", target)
    for name in ("loop", "loop2"):
        (tmp_path / "p" / name).symlink_to(".")
    for i, (pattern, count) in enumerate([
        ("p/**/*.wav", 2), ("p/**", 2), ("**/deep/*.wav", 1), ("p/**/deep/**/b.*", 1),
        ("p/*/b.wav", 1), ("p/**/?.wav", 2), ("p/*/**", 1), ("p/**/.*.wav", 1), ("p/**/deep/**", 1),
    ]):  # fmt: skip
        words = ["plan", place / "d.asd", tmp_path / pattern, "--out", tmp_path / str(i)]
        assert batch(*words) == 0
        said = capsys.readouterr().err
        assert f"{count} recordings in 1 shards" in said
        assert ("2 link to a folder" in said) == ("**" in pattern)


def test_numbers_of_workers():
    for text in ("0/10000000000000", f"0/{'9' * 5000}", "0/٣", "1/1"):
        with pytest.raises(UsageError):
            worker(text)
    with pytest.raises(UsageError):
        worker(None, {"JOB_COMPLETION_INDEX": "1", "JOB_COMPLETIONS": "100000000000000"})
    assert Worker(5, 999_999_999).order(7) == [5, 6, 0, 1, 2, 3, 4]


@pytest.mark.parametrize("moment", ["before", "while"])
def test_a_worker_whose_job_was_planned_again(place, planned, moment, monkeypatch, capsys):
    """It writes nothing into the new job."""
    words = ["plan", place / "d.asd", place / "sounds", "--out", planned, "--shard-clips", "2"]

    def again():
        assert batch(*words, "--overwrite") == 0

    shards = batch_run._Shards
    name = "_do" if moment == "before" else "_about"  # called for the claims, and for each shard
    real, count = getattr(shards, name), [0]

    def replaced(self, *args):
        count[0] += 1
        if count[0] == 2:
            thread = threading.Thread(target=again)
            thread.start()
            thread.join()
        return real(self, *args)

    monkeypatch.setattr(shards, name, replaced)
    assert batch("run", planned) == 1
    assert "planned again while this worker ran" in capsys.readouterr().err
    found = {path.name for path in (planned / "shards").iterdir()}
    assert not found
    monkeypatch.undo()
    assert batch("run", planned) == 0

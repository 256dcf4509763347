"""asdjax fit, predict and update: from folders of recordings to alarms."""

import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from conftest import TESTS
from pyarrow import parquet
from support.machines import RATE, folder, sound

from asdjax import Detector
from asdjax.cli import main
from asdjax.config import recipe as configs
from asdjax.detector.prediction import COLUMNS
from asdjax.files import atomic

pytestmark = pytest.mark.usefixtures("compiled_fast")

TINY = str(TESTS / "tiny.yaml")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    root = tmp_path_factory.mktemp("sounds")
    folder(root / "normal", range(24))
    folder(root / "new", range(100, 104))
    folder(root / "faulty", range(200, 203), fault="tone")
    folder(root / "season", range(300, 306))
    return root


@pytest.fixture(scope="module")
def detector(sounds):
    path = sounds / "pump.asd"
    assert main(["fit", str(sounds / "normal"), "--out", str(path)]) == 0
    return path


def test_two_commands(sounds, tmp_path, capsys):
    out = tmp_path / "pump.asd"
    assert main(["fit", str(sounds / "normal"), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert not said.out
    assert f"{out}: 24 recordings, 24 windows of 1 s at 16000 Hz, channel 1" in said.err
    assert "at level 0.9: about 10 % of normal recordings will alarm" in said.err
    assert main(["predict", str(out), str(sounds / "new"), str(sounds / "faulty")]) == 0
    said = capsys.readouterr()
    header, *rows = said.out.splitlines()
    assert header.split() == ["decision", "score", "ratio", "p-value", "start", "file", "nearest"]
    assert len(rows) == 7 and all(row.startswith("ALARM") for row in rows[4:])
    assert [row.split()[0] for row in rows].count("ok") >= 3
    last = said.err.splitlines()[-1]
    assert last.startswith("7 recordings: ") and "(if all are normal, 0.7 are expected)" in last


def test_json_csv_and_parquet_agree(sounds, detector, tmp_path, capsys):
    args = ["predict", str(detector), str(sounds / "new"), str(sounds / "faulty"), "--json"]
    tables = ["--csv", str(tmp_path / "t.csv"), "--parquet", str(tmp_path / "t.parquet")]
    assert main([*args, *tables]) == 0
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    with open(tmp_path / "t.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    of_parquet = parquet.read_table(tmp_path / "t.parquet")
    assert tuple(of_parquet.column_names) == tuple(rows[0]) == COLUMNS
    expected = Detector.load(detector).predict_details([sounds / "new", sounds / "faulty"])
    for document, row, typed, found in zip(
        documents, rows, of_parquet.to_pylist(), expected, strict=True
    ):
        assert document["schema"] == "asdjax.prediction/1"
        assert float(row["score"]) == document["score"] == typed["score"] == found.score
        assert document["alarm"] == typed["alarm"] == found.alarm == (row["alarm"] == "True")
        assert row["file"] == document["file"] == typed["file"]
        assert document["nearest"][0]["name"] == found.nearest[0].name
    assert main([*args, *tables]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main([*args, *tables, "--overwrite"]) == 0


def test_exit_codes(sounds, detector, tmp_path, capsys):
    (tmp_path / "bad.wav").write_bytes(b"RIFF no sound")
    new, faulty, bad = str(sounds / "new"), str(sounds / "faulty"), str(tmp_path / "bad.wav")
    for inputs, options, code in (
        ([faulty], [], 0),
        ([faulty], ["--fail-on-alarm"], 3),
        ([sounds / "normal" / "take 0.wav"], ["--fail-on-alarm"], 0),
        ([bad, new], [], 1),
        ([bad, faulty], ["--fail-on-alarm"], 3),
        ([tmp_path / "missing.wav"], [], 1),
        ([tmp_path / "missing.wav", faulty], ["--fail-on-alarm"], 3),
        ([], [], 2),
    ):
        assert main(["predict", str(detector), *map(str, inputs), *options]) == code, inputs
    capsys.readouterr()
    assert main(["predict", str(detector), bad, new]) == 1
    said = capsys.readouterr()
    rows = said.out.splitlines()[1:]
    assert len(rows) == 5 and rows[0].startswith("ERROR") and "bad.wav" in rows[0]
    assert "1 could not be scored" in said.err


@pytest.mark.parametrize("option", ["--csv", "--parquet"])
def test_tables_replace_neither_detectors_nor_recordings(sounds, detector, option, capsys):
    before = detector.read_bytes()
    for path in (detector, sounds / "new" / "take 100.wav"):
        args = ["predict", str(detector), str(sounds / "new"), option, str(path), "--overwrite"]
        assert main(args) == 2
        assert "must end in" in capsys.readouterr().err
    assert detector.read_bytes() == before


def test_broken_links_are_rows(sounds, detector, tmp_path, capsys):
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    (tmp_path / "new.wav").write_bytes((sounds / "new" / "take 100.wav").read_bytes())
    assert main(["predict", str(detector), str(tmp_path)]) == 1
    rows = capsys.readouterr().out.splitlines()[1:]
    assert len(rows) == 2 and rows[0].startswith("ERROR") and "gone.wav" in rows[0]


def test_a_single_recording_is_said_to_be_too_few(sounds, tmp_path, capsys):
    soundfile.write(tmp_path / "n.wav", np.concatenate([sound(i) for i in range(30)]), RATE)
    args = [str(tmp_path / "n.wav"), "--out", str(tmp_path / "d.asd"), "--clip-seconds", "1"]
    assert main(["fit", *args]) == 0
    assert "all windows are of one recording" in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "d.asd"), str(sounds / "new")]) == 0
    assert "knows a single normal recording" in capsys.readouterr().err


def test_names_from_files_are_escaped(sounds, detector, tmp_path, capsys):
    evil = tmp_path / "a\x1b[31m\nb.wav"
    evil.write_bytes((sounds / "new" / "take 100.wav").read_bytes())
    assert main(["predict", str(detector), str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and len(printed.splitlines()) == 2


def test_warnings_are_printed(sounds, detector, tmp_path, capsys):
    folder(tmp_path, range(1), fault="louder")
    assert main(["predict", str(detector), str(tmp_path)]) == 0
    assert "its level is" in capsys.readouterr().err


def test_an_update_is_a_fit_to_all(sounds, tmp_path, capsys):
    path, both = tmp_path / "a.asd", tmp_path / "b.asd"
    assert main(["fit", str(sounds / "normal"), "--out", str(path)]) == 0
    assert main(["update", str(path), str(sounds / "season")]) == 0
    said = capsys.readouterr().err
    assert "6 recordings added: 24 normal windows before, 30 now" in said
    inputs = [str(sounds / "normal"), str(sounds / "season")]
    assert main(["fit", *inputs, "--out", str(both)]) == 0
    assert path.read_bytes() == both.read_bytes()
    assert main(["update", str(path), str(sounds / "season")]) == 0
    assert "nothing new, not changed" in capsys.readouterr().err
    assert path.read_bytes() == both.read_bytes()


def test_an_update_can_be_tried_and_written_elsewhere(sounds, detector, tmp_path, capsys):
    path, other = tmp_path / "a.asd", tmp_path / "b.asd"
    path.write_bytes(detector.read_bytes())
    args = ["update", str(path), str(sounds / "faulty")]
    assert main([*args, "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "on 3 of them the detector alarmed before" in said and "not changed" in said
    assert main([*args, "--out", str(other)]) == 0
    assert path.read_bytes() == detector.read_bytes() != other.read_bytes()
    assert main([*args, "--out", str(other)]) == 1
    assert "exists already" in capsys.readouterr().err


def test_odd_normal_recordings_are_named(sounds, tmp_path, capsys):
    folder(tmp_path / "8k", range(1), rate=8000)
    folder(tmp_path / "short", range(1, 2), seconds=0.3)
    soundfile.write(tmp_path / "soft.wav", 0.1 * sound(5), RATE)
    args = ["fit", str(sounds / "normal"), str(tmp_path), "--out", str(tmp_path / "d.asd")]
    assert main(args) == 0
    said = capsys.readouterr().err
    assert f"1 recording not of 16000 Hz, as most are: {tmp_path}/8k" in said
    assert f"1 recording shorter than half a window: {tmp_path}/short" in said
    assert f"1 recording more than 10 dB louder or softer than the median: {tmp_path}/soft" in said


def test_warnings_that_many_recordings_share_are_one_line(sounds, detector, capsys):
    assert main(["predict", str(detector), str(sounds / "normal")]) == 0
    said = capsys.readouterr().err
    assert said.count("has learned it as normal") == 1 and "(and 23 others)" in said


def test_updates_do_not_overlap_or_follow_links(sounds, detector, tmp_path, capsys):
    path = tmp_path / "d.asd"
    path.write_bytes(detector.read_bytes())
    with atomic.locked(path, "busy"):
        assert main(["update", str(path), str(sounds / "season")]) == 1
    assert "another process" in capsys.readouterr().err
    link = tmp_path / "link.asd"
    link.symlink_to(path)
    assert main(["update", str(link), str(sounds / "season")]) == 1
    assert "link" in capsys.readouterr().err
    assert path.read_bytes() == detector.read_bytes()
    assert main(["update", str(tmp_path / "no.asd"), str(sounds / "season")]) == 1
    assert "no such detector" in capsys.readouterr().err and not (tmp_path / "no.asd").exists()


def test_unusual_normal_recordings_are_named(sounds, tmp_path, capsys):
    folder(tmp_path, range(1), fault="knock")
    args = ["fit", str(sounds / "normal"), str(tmp_path), "--out", str(tmp_path / "d.asd")]
    assert main(args) == 0
    assert f"{tmp_path}/take 0.wav" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["{normal}", "--out", "{tmp}/d.npz"], 2, ".asd"),
        (["{tmp}/none", "--out", "{tmp}/d.asd"], 1, "No such file"),
        (["{normal}", "--out", "{tmp}/d.asd", "--level", "0.99"], 1, "level 0.99 needs 99"),
        (["{normal}", "--out", "{tmp}/d.asd", "--level", "7"], 2, "--level: must be"),
        (["{normal}", "--out", "{tmp}/d.asd", "--backend", "knn"], 1, "knn"),
        (["{normal}", "--out", "{tmp}/d.asd", "--embedder", "{tmp}/none"], 1, "none"),
        (["{normal}", "--out", "{tmp}/d.asd", "--channel", "2"], 1, "no channel 2"),
        (["{normal}"], 2, "out"),
        (["--out", "{tmp}/d.asd"], 2, ""),
        (["{normal}", "--out", "s3://bucket/d.asd"], 2, "URLs"),
    ],
)
def test_wrong_command_lines_are_one_sentence(args, code, said, sounds, tmp_path, capsys):
    args = [arg.format(normal=sounds / "normal", tmp=tmp_path) for arg in args]
    try:
        found = main(["fit", *args])
    except SystemExit as error:
        found = error.code
    printed = capsys.readouterr()
    assert found == code and said in printed.err + printed.out
    assert not list(tmp_path.iterdir())


def test_an_existing_detector_is_replaced_only_on_request(sounds, detector, tmp_path, capsys):
    path = tmp_path / "d.asd"
    path.write_bytes(b"precious")
    args = ["fit", str(sounds / "normal"), "--out", str(path)]
    assert main(args) == 1 and path.read_bytes() == b"precious"
    assert main([*args, "--overwrite"]) == 0 and path.read_bytes() == detector.read_bytes()


def test_another_level_is_chosen_when_predicting(sounds, detector, capsys):
    args = ["predict", str(detector), str(sounds / "new"), "--json"]
    assert main(args) == 0
    usual = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert main([*args, "--level", "0.5"]) == 0
    lower = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["score"] for row in lower] == [row["score"] for row in usual]
    assert all(a["threshold"] < b["threshold"] for a, b in zip(lower, usual, strict=True))


def test_recordings_of_any_rate_and_name_in_a_new_process(tmp_path):
    """Twenty files of 48 kHz, mono, MP3 and WAV, as a new user has them; and a second start."""
    for i in range(20):
        kind = ("wav", "mp3")[i % 2]
        place = tmp_path / "normal" / ("sub folder" if i % 3 else "") / f"Aufnahme {i} (ü).{kind}"
        place.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(place, sound(i, rate=48_000), 48_000)
    (tmp_path / "normal" / "notes.txt").write_text("no sound")
    for i in range(4):
        fault = "tone" if i % 2 else None
        soundfile.write(tmp_path / f"new{i}.wav", sound(50 + i, rate=48_000, fault=fault), 48_000)

    def asdjax(*args):
        command = [sys.executable, "-m", "asdjax", *args]
        environment = os.environ | {"HOME": str(tmp_path / "home")}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    for _ in range(2):
        made = asdjax("fit", "normal", "--out", "pump.asd", "--overwrite")
        assert made.returncode == 0, made.stderr
        assert "20 recordings" in made.stderr and "1 entry skipped: 1 .txt" in made.stderr
    found = asdjax("predict", "pump.asd", *(f"new{i}.wav" for i in range(4)))
    assert found.returncode == 0, found.stderr
    decisions = [line.split()[0] for line in found.stdout.splitlines()[1:]]
    assert decisions[1::2] == ["ALARM", "ALARM"]


def test_a_trained_run_is_an_embedder(corpus_root, tmp_path, capsys):
    """A machine is enrolled into a trained run without training; other weights are refused."""
    run, other = tmp_path / "run", tmp_path / "other"
    for path, seed in ((run, "0"), (other, "1")):
        recipe = ["train", str(TESTS / "tiny.yaml"), "--data", str(corpus_root), "--run", str(path)]
        assert main([*recipe, "--train.epochs", "1", "--seed", seed]) == 0
    files = [sound(seed, seconds=2.0) for seed in range(16)]
    for i, wave in enumerate(files):
        (tmp_path / "normal").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "normal" / f"{i}.wav", wave, RATE)
    out = tmp_path / "d.asd"
    args = ["fit", str(tmp_path / "normal"), "--embedder", str(run), "--out", str(out)]
    assert main(args) == 0, capsys.readouterr().err
    assert main(["predict", str(out), str(tmp_path / "normal")]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert len(rows) == 16
    hum = tmp_path / "hum.wav"
    soundfile.write(hum, sound(1, seconds=2.0) + 0.1 * np.sin(np.arange(2 * RATE) / 2), RATE)
    (why,) = Detector.load(out).explain(hum)  # its areas are not those of the network's vectors
    area = why.areas[0]
    assert not why.frequencies and area.low - 20 < RATE / (4 * np.pi) < area.high + 20
    moved = tmp_path / "moved"
    run.rename(moved)
    assert main(["predict", str(out), str(tmp_path / "normal")]) == 1
    assert str(run) in capsys.readouterr().err
    assert main(["predict", str(out), str(tmp_path / "normal"), "--embedder", str(moved)]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == rows
    assert main(["predict", str(out), str(tmp_path / "normal"), "--embedder", str(other)]) == 1
    assert "other weights" in capsys.readouterr().err
    with pytest.raises(Exception, match="clip_seconds"):
        Detector(moved, clip_seconds=0.3).fit([np.asarray(wave) for wave in files])


@pytest.fixture
def smallest(monkeypatch):
    """The smallest network, trained for one epoch, instead of System 1's."""
    load, tiny = configs.load, configs.load(TINY)
    short = dataclasses.replace(tiny, train=dataclasses.replace(tiny.train, epochs=1))
    monkeypatch.setattr(configs, "load", lambda name: short if name == "system1" else load(name))


@pytest.mark.parametrize("table", [False, True])
def test_a_network_is_trained_on_conditions(table, smallest, tmp_path, capsys):
    """Sub-folders, or attributes of a table, are classes; a second start trains no more."""
    folder(tmp_path / "normal" / "slow", range(10))
    folder(tmp_path / "normal" / "fast", range(20, 30), rate=8000)
    source = tmp_path / "normal"
    if table:
        source = tmp_path / "recordings.csv"
        rows = [f"{p},pump,train,{p.parent.name}" for p in (tmp_path / "normal").rglob("*.wav")]
        source.write_text("\n".join(["path,machine,split,speed", *rows]))
    run, out = tmp_path / "run", tmp_path / "pump.asd"
    args = ["fit", str(source), "--train", str(run), "--out", str(out), "--overwrite"]
    for _ in range(2):
        assert main(args) == 0
        said = capsys.readouterr().err
        assert "20 recordings, 20 windows of 1 s" in said
    assert "training has finished" in said
    training = json.loads((run / "training.json").read_text())
    assert len(training["classes"]) == 2 and "slow" in training["classes"][1]
    assert main(["predict", str(out), str(tmp_path / "normal")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 21


@pytest.fixture
def two_channels(smallest, tmp_path):
    """A table of recordings whose machine is on channel 2 alone; channel 1 is noise."""
    rng, rows = np.random.default_rng(0), []
    for i in range(20):
        name, rate = f"{i}.wav", RATE
        both = [0.1 * rng.standard_normal(rate), sound(i, fault="tone" if i % 2 else None)]
        soundfile.write(tmp_path / name, np.stack(both, axis=1), rate)
        rows.append([name, "pump", "train", "2", "fast" if i % 2 else "slow"])

    def write(rows):
        lines = [",".join(row) for row in (["path", "machine", "split", "channel", "load"], *rows)]
        (tmp_path / "t.csv").write_text("\n".join(lines))
        return tmp_path / "t.csv"

    return write, rows


def test_a_table_s_channel_is_the_detector_s(two_channels, tmp_path, capsys):
    write, rows = two_channels
    run, out = tmp_path / "run", tmp_path / "d.asd"
    train = ["--train", str(run), "--out", str(out)]
    mixed = write([rows[0][:3] + ["1"] + rows[0][4:], *rows[1:]])
    assert main(["fit", str(mixed), *train]) == 1
    assert "names several" in capsys.readouterr().err and not run.exists()
    table = write(rows)
    assert main(["fit", str(table), *train, "--channel", "1"]) == 1
    assert "names channel 2" in capsys.readouterr().err and not run.exists()
    assert main(["fit", str(table), *train]) == 0
    assert "channel 2" in capsys.readouterr().err
    detector = Detector.load(out)
    assert detector.channel == 2
    second = [soundfile.read(tmp_path / f"{i}.wav")[0][:, 1] for i in range(20)]
    alone = Detector(run, channel=1).fit(second)
    np.testing.assert_allclose(np.sort(detector.scores_), np.sort(alone.scores_), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--skip-faulty"], 2, "--skip-faulty"),
        (["--backend", "nonsuch"], 1, "nonsuch"),
        (["--level", "0.99"], 1, "needs 99 normal windows"),
        (["--sample-rate", "8000"], 1, "sample_rate"),
        (["--hop-seconds", "9"], 1, "hop_seconds"),
        (["--max-bank", "2"], 2, "--max-bank: must be"),
    ],
)
def test_options_are_checked_before_a_network_is_trained(
    two_channels, tmp_path, capsys, options, code, said
):
    write, rows = two_channels
    run = tmp_path / "run"
    args = ["fit", str(write(rows)), "--train", str(run), "--out", str(tmp_path / "d.asd")]
    assert main([*args, *options]) == code
    assert said in capsys.readouterr().err and not run.exists()


def test_silence_is_found_before_a_network_is_trained(two_channels, tmp_path, capsys):
    write, rows = two_channels
    soundfile.write(tmp_path / "3.wav", np.zeros((RATE, 2)), RATE)
    run = tmp_path / "run"
    args = ["fit", str(write(rows)), "--train", str(run), "--out", str(tmp_path / "d.asd")]
    assert main(args) == 1
    assert "3.wav: channel 2 is silent" in capsys.readouterr().err and not run.exists()


def test_short_recordings_are_repeated_for_a_network(tmp_path, capsys, monkeypatch):
    class Trained(Exception):
        """Instead of the training of System 1."""

    def stop(config, corpus, run):
        raise Trained(config.audio.clip_seconds)

    monkeypatch.setattr("asdjax.commands.train.train", stop)
    for i, name in enumerate(("slow", "fast")):
        folder(tmp_path / "normal" / name, range(10 * i, 10 * i + 10))
    args = ["fit", str(tmp_path / "normal"), "--train", str(tmp_path / "run")]
    args += ["--out", str(tmp_path / "d.asd")]
    with pytest.raises(Trained, match=r"4\.48"):
        main(args)
    assert "are repeated to the 4.48 s" in capsys.readouterr().err
    assert main([*args, "--clip-seconds", "2"]) == 2
    assert (
        "--clip-seconds 2: too short for a network: give at least 4.48" in capsys.readouterr().err
    )


def test_conditions_that_cannot_be_told_apart(tmp_path, capsys):
    folder(tmp_path / "normal", range(10))
    one, out = str(tmp_path / "normal"), str(tmp_path / "d.asd")
    run = ["--train", str(tmp_path / "run"), "--out", out]
    for inputs, code, said in (
        ([one], 1, "put them into sub-folders"),
        ([one, one], 2, "name one folder"),
        ([str(tmp_path / "normal" / "take 0.wav")], 2, "name one folder"),
        ([one, "--embedder", str(tmp_path)], 2, "--embedder"),
        ([one, "--channel", "3"], 1, "sub-folders"),
    ):
        assert main(["fit", *inputs, *run]) == code
        assert said in capsys.readouterr().err
    assert main(["fit", one, "--train", str(tmp_path / "normal" / "run"), "--out", out]) == 2
    assert "lies in the data set" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["normal"]


def test_a_directory_called_spectral_is_one(sounds, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    args = ["fit", str(sounds / "normal"), "--out", "d.asd", "--embedder"]
    assert main([*args, "./spectral"]) == 1
    assert "there is no such run directory" in capsys.readouterr().err
    (tmp_path / "spectral").mkdir()
    assert main([*args, "./spectral"]) == 1
    assert "neither a run directory" in capsys.readouterr().err
    assert main([*args, "spectral"]) == 0


def test_a_name_that_is_not_utf8_is_a_row_as_others(sounds, detector, tmp_path, capsys):
    os.mkdir(tmp_path / "in")
    odd, bad = (tmp_path / "in" / f"{name}\udce9.wav" for name in "ab")
    odd.write_bytes((sounds / "faulty" / "take 200.wav").read_bytes())
    bad.write_bytes(b"RIFF")
    tables = ["--csv", str(tmp_path / "t.csv"), "--parquet", str(tmp_path / "t.parquet")]
    assert main(["predict", str(detector), str(odd), str(bad), "--json", *tables]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["file"][-11:], row["alarm"]) for row in rows] == [
        ("a\\udce9.wav", True), ("b\\udce9.wav", None),
    ]  # fmt: skip
    assert "b\\udce9.wav" in rows[1]["error"]
    assert main(["predict", str(detector), str(tmp_path / "in")]) == 1
    assert capsys.readouterr().out.count("udce9.wav") == 2
    out = tmp_path / "x.asd"
    assert main(["fit", str(sounds / "normal"), str(tmp_path / "in"), "--out", str(out)]) == 1
    assert "b\\udce9.wav" in capsys.readouterr().err
    odd_fit = ["fit", str(sounds / "normal"), str(tmp_path / "in"), "--out", str(out)]
    assert main([*odd_fit, "--skip-faulty"]) == 0
    assert any("a\\udce9" in found.name for found in Detector.load(out).recordings_)


def test_update_to_an_existing_file_names_what_helps(sounds, detector, tmp_path, capsys):
    taken = tmp_path / "t.asd"
    taken.write_bytes(b"mine")
    update, before = ["update", str(detector), str(sounds / "season")], detector.read_bytes()
    assert main([*update, "--out", str(taken)]) == 1
    said = capsys.readouterr().err
    assert f"{taken}: exists already" in said and "--overwrite" in said
    assert taken.read_bytes() == b"mine"
    assert main([*update, "--overwrite"]) == 2
    assert main([*update, "--out", str(taken), "--overwrite"]) == 0
    assert len(Detector.load(taken).recordings_) > len(Detector.load(detector).recordings_)
    assert detector.read_bytes() == before


def test_explain_says_when_and_where(sounds, detector, tmp_path, capsys):
    tone, pictures = sounds / "faulty" / "take 200.wav", tmp_path / "pictures"
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF")
    command = ["explain", str(detector), str(tone), str(sounds / "new"), "--png", str(pictures)]
    assert main(command) == 0
    said = capsys.readouterr()
    first, area = said.out.splitlines()[:2]
    assert first.startswith(f"{tone}: ALARM, score ")
    low, high = re.search(r"([0-9]+) to ([0-9]+) Hz: louder than normal by", area).groups()
    assert int(low) < 3100 < int(high)
    assert said.out.count("\n  most similar: ") == 5
    found = sorted(pictures.iterdir())
    assert len(found) == 5 and all(p.read_bytes().startswith(b"\x89PNG") for p in found)
    assert main(command) == 1
    assert "exists already" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    capsys.readouterr()
    assert main(["explain", str(detector), str(bad), str(tone), "--json"]) == 1
    said = capsys.readouterr()
    assert str(bad) in said.err
    document = json.loads(said.out)
    assert document["schema"] == "asdjax.explanation/1"
    assert document["prediction"]["file"] == str(tone)


def test_a_picture_of_a_recording_with_a_long_name(sounds, detector, tmp_path):
    long = tmp_path / ("é" * 125 + "x.wav")
    shutil.copy(next((sounds / "new").iterdir()), long)
    assert main(["explain", str(detector), str(long), "--png", str(tmp_path / "p")]) == 0
    (name,) = [path.name for path in (tmp_path / "p").iterdir()]
    assert name.endswith("éx.wav.png") and len(name.encode()) < 255


def test_pictures_of_equal_names_are_numbered(sounds, detector, tmp_path):
    tone = sounds / "faulty" / "take 200.wav"
    (tmp_path / tone.name).write_bytes(tone.read_bytes())
    given = [str(tone), str(tmp_path / tone.name)]
    assert main(["explain", str(detector), *given, "--png", str(tmp_path / "p")]) == 0
    names = sorted(p.name for p in (tmp_path / "p").iterdir())
    assert names == ["take 200.wav (2).png", "take 200.wav.png"]
    (tmp_path / "take 200.wav (2)").write_bytes(tone.read_bytes())  # the name of the second one
    third = [*given, str(tmp_path / "take 200.wav (2)")]
    assert main(["explain", str(detector), *third, "--png", str(tmp_path / "q")]) == 0
    assert len([*(tmp_path / "q").iterdir()]) == 3


@pytest.mark.parametrize(
    "given",
    [
        ["predict", "{d}", "{long}"], ["explain", "{d}", "{long}"], ["show", "{long}"],
        ["report", "{long}"], ["report", "{long}.asd"], ["update", "{d}", "{long}"],
        ["watch", "{d}", "{long}", "--log", "q.jsonl", "--once"], ["export", "{d}", "{long}"],
        ["export", "{long}", "q"], ["data", "{long}"], ["serve", "{long}"],
        ["explain", "{d}", "{new}", "--png", "{long}"], ["fit", "{long}", "--out", "q.asd"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_names_that_are_too_long(sounds, detector, tmp_path, monkeypatch, capsys, given):
    monkeypatch.chdir(tmp_path)
    new = str(sounds / "new")
    words = [word.format(d=detector, long="n" * 300, new=new) for word in given]
    assert main(words) == 1
    said = capsys.readouterr()
    assert re.search("n{100}", said.err + said.out)
    assert "Traceback" not in said.err


def test_without_matplotlib_the_remedy_is_named(sounds, detector, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    tone = str(sounds / "faulty" / "take 200.wav")
    assert main(["explain", str(detector), tone, "--png", str(tmp_path / "p")]) == 1
    assert "pip install 'asdjax[plot]'" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()

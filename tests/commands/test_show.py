"""A quick look at recordings: text, JSON and pictures; faulty files; recipes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from conftest import TESTS
from support.machines import RATE, sound

from asdjax.cli import main


@pytest.fixture
def stereo(tmp_path):
    """A recording of 1 s: a machine, and a softer one with an offset."""
    path = tmp_path / "two Größe.wav"
    channels = [sound(0), 0.5 * sound(1) + 0.1]
    soundfile.write(path, np.stack(channels, axis=1), RATE, subtype="PCM_16")
    return path


def documents(words, capsys, code=0):
    assert main(["show", "--json", *map(str, words)]) == code
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_what_is_in_a_file(stereo, capsys):
    (found,) = documents([stereo], capsys)
    assert found["schema"] == "asdjax.show/1" and found["file"] == stereo.as_posix()
    assert (found["rate"], found["channels"], found["samples"]) == (RATE, 2, RATE)
    assert (found["format"], found["seconds"], found["recipe"]) == ("PCM_16", 1.0, None)
    near, far = found["levels"]
    assert far["offset"] == pytest.approx(0.1, abs=1e-3) and abs(near["offset"]) < 1e-2
    assert -40 < far["level_db"] < near["level_db"] < near["peak_db"] < 0


@pytest.mark.parametrize("columns", [10, 80, 1000])
def test_the_picture_is_as_wide_as_the_terminal(columns, stereo, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["show", str(stereo)]) == 0
    lines = capsys.readouterr().out.splitlines()
    pictures = [line for line in lines if "|" in line]
    assert len(pictures) == 2 * 12
    width = len(pictures[0])
    assert all(len(line) == width for line in pictures)
    assert width <= max(columns, 34) and width >= min(columns - 8, 160)
    assert "level" in lines[1] and "peak" in lines[1] and "offset" in lines[2]


def test_ascii_without_jax(stereo):
    program = (
        "import sys; from asdjax.__main__ import main; sys.argv[0] = 'asdjax'; code = main()\n"
        "print(*{'jax', 'matplotlib'} & {*sys.modules}, file=sys.stderr); sys.exit(code)"
    )
    chosen = {"PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0", "LC_ALL": "C"}
    command = [sys.executable, "-c", program, "show", str(stereo.parent)]
    ended = subprocess.run(command, env=os.environ | chosen, capture_output=True, timeout=60)
    assert (ended.returncode, ended.stderr.strip()) == (0, b"")
    assert ended.stdout.isascii() and b"8 kHz |" in ended.stdout and b"@" in ended.stdout


def test_faulty_files_are_a_sentence_and_the_others_are_shown(stereo, tmp_path, capsys):
    bad, gone = tmp_path / "bad.wav", tmp_path / "gone.wav"
    bad.write_bytes(stereo.read_bytes()[:1000])
    assert main(["show", "--json", "--quiet", str(bad), str(stereo), str(gone)]) == 1
    printed = capsys.readouterr()
    (found,) = map(json.loads, printed.out.splitlines())
    assert found["file"] == stereo.as_posix()
    assert [line.split(": ")[0] for line in printed.err.splitlines()] == [str(bad), str(gone)]


def test_silence(tmp_path, capsys):
    path = tmp_path / "silent.flac"
    soundfile.write(path, np.zeros(10), 48000)
    (found,) = documents([path], capsys)
    assert found["levels"] == [{"level_db": None, "peak_db": None, "offset": 0, "clipped": 0}]
    assert main(["show", str(path)]) == 0
    assert "channel 1: silent" in capsys.readouterr().out


def test_what_a_recipe_makes_of_it(stereo, tmp_path, capsys):
    mono = tmp_path / "one.wav"
    soundfile.write(mono, sound(3, seconds=0.2, rate=44100), 44100)
    words = [stereo, mono, "--recipe", TESTS / "views.yaml"]
    two, one = (found["recipe"] for found in documents(words, capsys))
    assert two["length"] == "cropped" and two["samples_from"] == RATE and two["channel"] == 1
    views = {view["name"]: view for view in two["views"]}
    assert 0 < views["strong"]["gain"] <= views["mild"]["gain"] < 1
    assert [name for name, view in views.items() if view["learns"]] == ["calibrated"]
    assert one["length"] == "repeated" and one["rate_from"] == 44100
    assert {view["method"] for view in one["views"]} == {"raw"}
    assert main(["show", *map(str, words)]) == 0
    text = capsys.readouterr().out
    assert "resampled from 44100 to 16000 Hz (refused in data of a challenge)" in text
    assert "cropped from 1 to 0.4 s, at the start, in training at random" in text
    assert "calibrated on this clip alone" in text and "view strong (wiener)" in text


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        ("channel: far", "the recipe uses the far channel"),
        ("sample_rate: 8000, resample: never", "audio.resample is never"),
    ],
)
def test_a_file_that_the_recipe_refuses(audio, words, tmp_path, capsys):
    recipe, path = tmp_path / "r.yaml", tmp_path / "one.wav"
    recipe.write_text(f"audio: {{{audio}}}\nmodel: {{high_hz: 4000}}\n")
    soundfile.write(path, sound(0), RATE)
    assert main(["show", str(path), "--recipe", str(recipe)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path}: ") and words in line


def test_pictures(stereo, tmp_path, capsys):
    folder = tmp_path / "pictures"
    words = ["show", str(stereo), "--png", str(folder)]
    assert main(words) == 0
    (picture,) = folder.iterdir()
    assert picture.name == f"{stereo.name}.png" and picture.read_bytes().startswith(b"\x89PNG")
    assert "|" not in capsys.readouterr().out
    assert main(words) == 1 and main([*words, "--overwrite"]) == 0


def test_nothing_to_show(tmp_path, capsys):
    assert main(["show", str(tmp_path)]) == 1
    assert main(["show", str(tmp_path), "--recipe", str(tmp_path / "no.yaml")]) in (1, 2)
    assert len(capsys.readouterr().err.splitlines()) == 2

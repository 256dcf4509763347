"""Reports: one page that needs nothing else, in which no text of a file is code."""

import base64
import html.parser
import io
import re
import shutil

import numpy as np
import pytest
import soundfile
from conftest import TESTS
from support.machines import folder

from asdjax import Detector
from asdjax.cli import main
from asdjax.report import page
from asdjax.report.parts import Figure, Section, Sound, Table, Text, Verbatim

HOSTILE = "<script>alert(1)</script>\"'&{{ 7*7 }}"


class Page(html.parser.HTMLParser):
    """Collects tags, text, and the addresses of everything that a page loads."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.loads = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [value for name, value in attributes if name in ("src", "href", "srcset")]
        assert not any(name.startswith("on") for name, _ in attributes)

    def handle_data(self, data):
        self.words += data


@pytest.fixture(scope="module")
def run(corpus_root, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "run"
    tiny = ["run", str(TESTS / "tiny.yaml"), "--data", str(corpus_root), "--run", str(path)]
    assert main([*tiny, "--train.epochs", "2"]) == 0
    return path


def made(*sources, out, options=()):
    assert main(["report", *map(str, sources), "--out", str(out), *options]) == 0
    return Page(out.read_text("utf-8"))


def test_a_page_of_a_run_needs_nothing_else(run, tmp_path):
    out = tmp_path / "r.html"
    found = made(run, out=out)
    assert all(address.startswith(("#", "data:")) for address in found.loads)
    assert "script" not in found.tags and "link" not in found.tags
    assert out.stat().st_size < 20e6
    anchors = set(re.findall(r'<section id="([^"]+)"', out.read_text("utf-8")))
    assert {address[1:] for address in found.loads if address.startswith("#")} <= anchors
    for word in ("fan", "bearingEmu", "harmonic mean", "false alarms", "config.yaml", "learning"):
        assert word in found.words
    sounds = [a for a in found.loads if a.startswith("data:audio")]
    assert len(sounds) == found.tags.count("audio") > 0
    for address in sounds:
        content = base64.b64decode(address.partition(",")[2])
        samples, rate = soundfile.read(io.BytesIO(content))
        assert rate == 16000 and len(samples) > 1000 and np.abs(samples).max() > 0


def test_the_figures_are_those_of_evaluate(run, tmp_path):
    import json

    found = made(run, out=tmp_path / "r.html")
    document = json.loads((run / "metrics" / "metrics.json").read_text())
    for value in (document["official_score"], document["machines"]["fan"]["official_score"]):
        assert f"{100 * value:.1f}" in found.words


def test_a_second_page_and_several_runs(run, tmp_path, capsys):
    out = tmp_path / "r.html"
    made(run, out=out)
    assert main(["report", str(run), "--out", str(out)]) == 1
    assert "exists already" in capsys.readouterr().err
    both = made(run, run, out=out, options=["--overwrite"])
    assert both.words.count("How the run was made") >= 2


def test_without_sounds_and_without_labels(run, tmp_path):
    found = made(run, out=tmp_path / "r.html", options=["--data", str(tmp_path / "gone")])
    assert "audio" not in found.tags and "cannot be shown" in found.words
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "metrics")
    assert "no figures" in made(copy, out=tmp_path / "c.html").words


def test_a_page_of_a_detector(tmp_path):
    normal = folder(tmp_path / "normal", range(20))
    odd = tmp_path / "normal" / "<img src=x onerror=alert(1)>.wav"
    normal[0].rename(odd)
    Detector().fit(tmp_path / "normal").save(tmp_path / "d.asd")
    found = made(tmp_path / "d.asd", out=tmp_path / "d.html")
    assert found.tags.count("img") == 1 and "<img src=x onerror" in found.words
    assert "threshold" in found.words and "take 7.wav" in found.words


def test_every_text_is_escaped():
    parts = [
        Table([[HOSTILE], [HOSTILE]], HOSTILE), Figure(b"\x89PNG", HOSTILE),
        Sound(b"", HOSTILE), Text(HOSTILE), Verbatim(HOSTILE, HOSTILE),
    ]  # fmt: skip
    inner = Section(HOSTILE, parts)
    found = Page(page.render(HOSTILE, [Section(HOSTILE, parts, [inner])]))
    assert "script" not in found.tags
    assert found.words.count(HOSTILE) >= 16
    assert "49" not in found.words.replace(HOSTILE, "")


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (["--out", "x.html"], 2, "nothing to report"),
        (["{}/none", "--out", "x.html"], 1, "neither a run directory nor a detector"),
        (["{}", "--out", "x.html"], 1, "not a run directory"),
        (["{}", "--out", "x.pdf"], 2, "must end in .html"),
    ],
)
def test_what_cannot_be_reported(tmp_path, monkeypatch, capsys, given, code, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    args = [word.replace("{}", str(tmp_path / "empty")) for word in given]
    assert main(["report", *args]) == code
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("x.*"))


def test_without_the_libraries(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["report", str(run), "--out", str(tmp_path / "r.html")]) == 1
    assert "pip install 'asdjax[plot]'" in capsys.readouterr().err

"""Reports: one page that needs nothing else, in which no text of a file is code."""

import base64
import html.parser
import io
import json
import re
import shutil

import numpy as np
import pytest
import soundfile
from conftest import TESTS
from support.machines import folder
from support.scored_runs import embeddings, make_run, score_rows, write_truth

import asdjax
from asdjax import Detector
from asdjax.cli import main
from asdjax.commands.compare import compare
from asdjax.commands.evaluate import by_view, evaluate
from asdjax.data.dcase import attributes_of
from asdjax.detector.features import open_features as load_features
from asdjax.report import facts, figures, page, published, score_figures
from asdjax.report.parts import Figure, Row, Section, Sound, Table, Text, Tile, Verbatim
from asdjax.store.embeddings import Embeddings
from asdjax.store.runs import Run

HOSTILE = "<script>alert(1)</script>\"'&{{ 7*7000003 }}"


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
    names = re.findall(r'<section id="([^"]+)"', out.read_text("utf-8"))
    anchors = set(names)
    assert len(anchors) == len(names)
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
    found = made(run, out=tmp_path / "r.html")
    document = json.loads((run / "metrics" / "metrics.json").read_text())
    for value in (document["official_score"], document["machines"]["fan"]["official_score"]):
        assert f"{100 * value:.1f}" in found.words


def test_a_second_page_and_several_runs(run, tmp_path, capsys):
    out = tmp_path / "r.html"
    made(run, out=out)
    assert main(["report", str(run), "--out", str(out)]) == 1
    assert "exists already" in capsys.readouterr().err
    before = out.read_bytes()
    made(run, out=out, options=["--overwrite"])
    assert out.read_bytes() == before
    both = made(run, run, out=out, options=["--overwrite"])
    assert both.words.count("How the run was made") >= 2


def test_without_sounds_and_without_labels(run, tmp_path):
    copy = Run(shutil.copytree(run, tmp_path / "run"))
    copy.write_training({**copy.finished_training(), "data": str(tmp_path / "gone")})
    found = made(copy.path, out=tmp_path / "r.html")
    assert "audio" not in found.tags and "the data set is not there" in found.words


@pytest.mark.parametrize("name", ["gone", "empty"])
def test_a_data_set_that_is_named_must_be_there(name, run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    args = ["report", str(run), "--out", str(tmp_path / "r.html"), "--data", str(tmp_path / name)]
    assert main(args) == 1 and not (tmp_path / "r.html").exists()
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"asdjax: {tmp_path / name}: ")


def test_sounds_of_other_contents_are_not_shown(run, corpus_root, tmp_path):
    shutil.copytree(corpus_root, tmp_path / "data")
    other = sorted((tmp_path / "data" / "fan" / "test").iterdir())[0]
    samples, rate = soundfile.read(other, dtype="int16")
    soundfile.write(other, samples[::-1], rate)
    found = made(run, out=tmp_path / "r.html", options=["--data", str(tmp_path / "data")])
    assert "the files of fan are not those that were scored" in found.words
    assert 0 < found.tags.count("audio") < made(run, out=tmp_path / "a.html").tags.count("audio")


def test_the_channel_and_the_length_of_recordings_of_ones_own(tmp_path):
    """Channel 2 of a table, and a normal recording of another rate than the others."""
    rng = np.random.default_rng(0)
    rows = ["path,machine,split,label,channel,load"]
    for i in range(24):
        name, rate = f"clip {i}.wav", (44_100 if i % 3 == 0 else 16_000)
        tone = 0.2 * np.sin(2 * np.pi * (500 + 10 * i) * np.arange(rate) / rate)
        noise = 0.01 * rng.standard_normal(rate)
        soundfile.write(tmp_path / name, np.stack([noise, tone], axis=1), rate)
        part = "train,normal" if i < 16 else f"test,{'anomaly' if i % 2 else 'normal'}"
        rows.append(f"{name},pump,{part},2,{i % 2}")
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    run = tmp_path / "run"
    given = ["run", str(TESTS / "tiny.yaml"), "--data", str(tmp_path / "table.csv")]
    options = ["--run", str(run), "--train.epochs", "1", "--train.batch-size", "8"]
    options += ["--train.allow-one-class", "--backend.smote.ratio", "0"]
    assert main([*given, *options]) == 0
    found = made(run, out=tmp_path / "r.html")
    sounds = [address for address in found.loads if address.startswith("data:audio")]
    assert sounds
    for address in sounds:
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(address.partition(",")[2])))
        assert rate == 16_000 and len(samples) < 1.2 * rate
        assert np.sqrt(np.mean(np.square(samples))) == pytest.approx(0.2 / np.sqrt(2), rel=0.1)
    assert load_features(run).channel == 2
    file = tmp_path / "clip 1.wav"
    by_path, by_array = (
        asdjax.Embedder.load(run).embed([given])[0]
        for given in (file, soundfile.read(file, dtype="int16")[0][:, 1])
    )
    np.testing.assert_array_equal(by_path, by_array)


def test_clips_without_labels_get_them_from_the_ground_truth(rng, tmp_path):
    rows = {"fan": score_rows(rng, "fan", named=False)}
    run = make_run(tmp_path / "run", rows)
    found = made(run.path, out=tmp_path / "none.html")
    assert "no figures" in found.words and "detected" not in found.words
    truth = write_truth(tmp_path / "truth", rows)
    found = made(run.path, out=tmp_path / "r.html", options=["--truth", str(truth)])
    document = evaluate(run, truth=truth)
    assert f"{100 * document['official_score']:.1f}" in found.words
    assert "missed: fan/test/section_00_" in found.words


def test_runs_are_compared_on_the_same_clips(rng, tmp_path):
    b = {m: score_rows(rng, m, per_cell=12, lift=0.3) for m in ("fan", "valve")}
    a = {
        m: [
            {**row, "score": repr(float(row["score"]) + 2 * (row["label"] == "anomaly"))}
            for row in of
        ]
        for m, of in b.items()
    }
    runs = [make_run(tmp_path / name, rows) for name, rows in (("a", a), ("b", b), ("c", a))]
    found = made(*(run.path for run in runs), out=tmp_path / "r.html")
    document = compare(*runs[:2])
    difference = document["official_score"]
    assert difference["interval"][0] > 0
    assert f"{100 * difference['difference']:+.1f}" in found.words
    words = found.words
    assert (words.count("A is better"), words.count("B is better")) == (1, 1)
    assert words.count("no significant difference") == 1
    other = make_run(tmp_path / "other", {"fan": score_rows(rng, "fan", per_cell=5)})
    found = made(runs[0].path, other.path, out=tmp_path / "o.html")
    assert "Not compared" in found.words and "better" not in found.words


def test_other_training_clips_are_said(rng, tmp_path):
    rows = {"fan": score_rows(rng, "fan", per_cell=12)}
    runs = [make_run(tmp_path / "a", rows), make_run(tmp_path / "b", rows, train="others")]
    assert (
        "have other training clips of fan"
        in made(*(run.path for run in runs), out=tmp_path / "r.html").words
    )


def test_each_view_is_compared_with_all(rng, tmp_path):
    rows = score_rows(rng, "fan", per_cell=10)
    run = make_run(tmp_path / "run", {"fan": rows})
    found = made(run.path, out=tmp_path / "r.html")
    document = by_view(run)
    for view in ("raw", "mild"):
        alone = document["views"][view]["official_score"]
        more = document["combination"]["official_score"] - alone
        assert f"{100 * alone:.1f}" in found.words and f"{100 * more:+.1f}" in found.words


def development(rng, root, *, clips=200):
    """A run on the development machines of the challenge, whose data is in a folder."""
    root.mkdir(exist_ok=True)
    machines = {m: score_rows(rng, m, per_cell=clips // 4) for m in published.DEVELOPMENT}
    return make_run(root / "run", machines)


def clip_file(root, machine):
    """The path of a clip in a data set of the challenge."""
    path = root / machine / "train" / "section_00_source_train_normal_0000_a_1.wav"
    path.parent.mkdir(parents=True)
    return path


def test_published_figures_are_shown_for_the_data_that_they_are_of(rng, tmp_path):
    run, data = development(rng, tmp_path), tmp_path / "data"
    options = ["--overwrite", "--data", str(data)]
    without = made(run.path, out=tmp_path / "r.html", options=options[:1])
    assert "Table 1" not in without.words
    soundfile.write(clip_file(data, "fan"), np.full(16_000, 0.1), 16_000)
    found = made(run.path, out=tmp_path / "r.html", options=options)
    assert "Table 1" in found.words and "66.0" in found.words and "57.7" in found.words
    (data / "fan" / "synth.json").write_text("{}")  # a synthetic corpus has the same names
    assert "Table 1" not in made(run.path, out=tmp_path / "r.html", options=options).words
    fewer = development(rng, tmp_path / "fewer", clips=100)
    (data / "fan" / "synth.json").unlink()
    assert "Table 1" not in made(fewer.path, out=tmp_path / "f.html", options=options).words


def test_p_values_and_nearest_clips_of_a_section(rng, tmp_path):
    rows = score_rows(rng, "fan", sections=("00", "01"))
    train = [row for row in rows if row["split"] == "train"]
    for i in range(9):
        rows += [
            {**row, "path": row["path"].replace("_x", f"_x{i}"), "score": repr(float(i))}
            for row in train
        ]
    rows.sort(key=lambda row: row["path"])
    found = facts.read(make_run(tmp_path / "run", {"fan": rows}))
    assert [found.name(of) for of in found.sections] == ["fan section 00", "fan section 01"]
    table = Embeddings.read(io.BytesIO(embeddings(rows)))
    for of in found.sections:
        known = of.score[of.split == "train"]
        right = [(1 + sum(known >= score)) / (1 + len(known)) for score in of.score]
        np.testing.assert_array_equal(of.p_values(), right)
        vectors = table.embedding[table.section == of.section].astype(float)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        for i, nearest in enumerate(of.nearest):
            others = [j for j in range(len(of.path)) if of.split[j] == "train" and j != i]
            assert nearest == max(others, key=lambda j: vectors[i] @ vectors[j])


def test_the_second_channel_is_known_from_the_views_that_use_it(rng, tmp_path):
    run = make_run(tmp_path / "run", {"fan": score_rows(rng, "fan")})
    (of,) = facts.read(run).sections
    assert (of.level_db == -1.5).all() and np.isnan(of.gain["raw"]).all()
    assert "-1.50" in made(run.path, out=tmp_path / "r.html").words


def test_a_tenth_of_the_false_alarms_is_shaded(monkeypatch):
    monkeypatch.setattr(score_figures, "svg", lambda figure: figure)
    label = np.array(["normal", "anomaly"] * 10)
    figure = score_figures.roc(np.arange(20.0), label, np.full(20, "source"))
    (axes,) = figure.axes
    assert axes.patches[0].get_x() + axes.patches[0].get_width() == 10
    assert max(line.get_xdata().max() for line in axes.lines) == 100


def test_attributes_are_those_of_the_file_name():
    name = "fan/train/section_00_source_train_normal_0001_m-n_2.wav"
    assert attributes_of(name) == "m-n_2"
    assert attributes_of("fan/test/section_00_0001.wav") == ""
    assert attributes_of("take 7 of a long row_of_many_words.wav") == ""


def test_the_map_by_another_method_needs_its_library(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    out = tmp_path / "r.html"
    assert main(["report", str(run), "--out", str(out), "--map", "umap"]) == 1
    assert "pip install 'asdjax[umap]'" in capsys.readouterr().err


def test_few_clips_have_principal_components(rng):
    """UMAP fails with two or three points."""
    for count in (1, 2, 3, 15):
        place, words = facts._plane(rng.standard_normal((count, 8)), "umap")
        assert place.shape == (count, 2) and words.endswith("(too few clips for UMAP)")


def test_the_map_by_umap(run, tmp_path):
    pytest.importorskip("umap", reason="umap-learn is large: pip install 'asdjax[umap]'")
    assert (
        "UMAP by the cosine" in made(run, out=tmp_path / "r.html", options=["--map", "umap"]).words
    )


def test_drawings_follow_the_colours_of_the_page():
    """Letters and axes have the page's colour, and nothing is drawn behind them."""
    drawn = score_figures.course([{"step": i, "loss": 1.0, "accuracy": 0.5} for i in range(3)])
    text = drawn.decode()
    assert text.startswith("<?xml") and "prefers-color-scheme: dark" in text
    assert "currentColor" in text and "#000000" not in text and "#ffffff" not in text
    assert Figure(drawn, "").source.startswith("data:image/svg+xml;base64,")


def test_columns_of_words():
    rows = [["name", "score", "p", "of", "decision"]]
    rows += [["a", "+1.5\n1 to 2", "-", "3 of 4", "ok"], ["2.wav", "-0.1", "", "0 of 4", "ALARM"]]
    assert Table(rows).words == {0, 4} and Table(rows[:1]).words == set()


def test_averages_over_areas():
    power = np.arange(35.0).reshape(5, 7)
    found = figures._averaged(power, 2, 3)
    right = [[power[a:b, c:d].mean() for c, d in ((0, 3), (3, 7))] for a, b in ((0, 2), (2, 5))]
    np.testing.assert_allclose(found, right)
    np.testing.assert_allclose(figures._averaged(power, 9, 9), [[power.mean()]])


def test_the_last_predictions_of_a_detector(tmp_path, capsys):
    normal = folder(tmp_path / "normal", range(20))
    Detector().fit(tmp_path / "normal").save(tmp_path / "d.asd")
    new = tmp_path / "new"
    new.mkdir()
    for path in normal[:3]:
        shutil.copy(path, new)
    (new / "bad <b>.wav").write_bytes(b"RIFF")
    log = tmp_path / "d.jsonl"
    given = ["watch", str(tmp_path / "d.asd"), str(new), "--log", str(log), "--once"]
    assert main([*given, "--settle", "0"]) in (0, 1)
    options = ["--log", str(log), "--overwrite"]
    with open(log, "a") as file:  # what no detector says
        for row in ({"warnings": 5, "score": 1e308, "threshold": 1.0, "alarm": True}, {}):
            file.write(json.dumps({"schema": "asdjax.watch/1", **row}) + "\n")
    found = made(tmp_path / "d.asd", out=tmp_path / "d.html", options=options)
    assert "of another detector" not in found.words
    other = Detector(level=0.8).fit(tmp_path / "normal")
    other.save(tmp_path / "other.asd")
    assert (
        "4 of them are of another"
        in made(tmp_path / "other.asd", out=tmp_path / "o.html", options=options).words
    )
    assert found.words.count("take") >= 3 and "the last 3 scores" in found.words
    assert main(["report", str(tmp_path / "normal"), "--out", "x.html", "--log", str(log)]) == 2
    assert "--log: is of one detector" in capsys.readouterr().err
    log.write_text("{}\n")
    assert main(["report", str(tmp_path / "d.asd"), "--out", "y.html", "--log", str(log)]) == 1
    assert "line 1" in capsys.readouterr().err


def test_a_page_of_a_detector(tmp_path):
    normal = folder(tmp_path / "normal", range(20))
    odd = tmp_path / "normal" / "<img src=x onerror=alert(1)>.wav"
    normal[0].rename(odd)
    Detector().fit(tmp_path / "normal").save(tmp_path / "d.asd")
    found = made(tmp_path / "d.asd", out=tmp_path / "d.html")
    assert found.tags.count("img") == 1 and "<img src=x onerror" in found.words
    assert "threshold" in found.words and "take 7.wav" in found.words


def test_recordings_of_one_name_have_rows_of_their_own(tmp_path, monkeypatch):
    for part, seeds in (("a", range(12)), ("b", range(20, 32))):
        files = folder(tmp_path / part / "normal", seeds)
        for i, path in enumerate(files):
            path.rename(path.with_name(f"n{i}.wav"))
    monkeypatch.chdir(tmp_path / "a")
    Detector().fit("normal").save(tmp_path / "d.asd")
    monkeypatch.chdir(tmp_path / "b")
    assert main(["update", str(tmp_path / "d.asd"), "normal"]) == 0
    made(tmp_path / "d.asd", out=tmp_path / "d.html")
    assert (tmp_path / "d.html").read_text().count("n3.wav") == 2


def test_a_log_without_losses(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    with open(tmp_path / "run" / "log.jsonl", "a") as file:
        file.write('{"step": 100}\n{"step": 101, "loss": 1.0, "accuracy": "x"}\n')
        file.write('{"step": 102, "loss": 1.0, "accuracy": 1.0, "validation_loss": null}\n')
        file.write(f'{{"step": {10**400}}}\n')
    assert "last loss" in made(tmp_path / "run", out=tmp_path / "r.html").words


def test_every_text_is_escaped():
    parts = [
        Table([[HOSTILE], [HOSTILE]], HOSTILE), Figure(b"\x89PNG", HOSTILE),
        Sound(b"", HOSTILE), Text(HOSTILE), Verbatim(HOSTILE, HOSTILE),
        Row([Tile(HOSTILE, HOSTILE, HOSTILE)]),
    ]  # fmt: skip
    inner = Section(HOSTILE, parts)
    found = Page(page.render(HOSTILE, [Section(HOSTILE, parts, [inner])]))
    assert "script" not in found.tags
    assert found.words.count(HOSTILE) >= 22
    assert "49000021" not in found.words


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (["--out", "x.html"], 2, "nothing to report"),
        (["{}/none", "--out", "x.html"], 1, "neither a run directory nor a detector"),
        (["{}", "--out", "x.html"], 1, "not a run directory"),
        (["{}", "--out", "x.pdf"], 2, "must end in .html"),
        (["d.asd", "--out", "x.html", "--data", "{}"], 2, "--data: is of runs"),
        (["d.asd", "--out", "x.html", "--map", "umap"], 2, "--map: is of runs"),
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
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    assert main(["report", str(run), "--out", str(tmp_path / "r.html")]) == 1
    assert "pip install 'asdjax[plot]'" in capsys.readouterr().err

"""Data of a user's own: folders of free names and manifests, and how layouts are told apart."""

import contextlib
import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import soundfile
from conftest import TESTS
from pyarrow import parquet
from support.machines import folder, sound

from asdjax.cli import main
from asdjax.config.recipe import AudioConfig, Config
from asdjax.data import layouts, manifests, own_folders
from asdjax.data.corpus import open_corpus, survey
from asdjax.data.editions import AUTO
from asdjax.errors import AsdjaxError

pytestmark = pytest.mark.usefixtures("compiled_fast")

TINY = str(TESTS / "tiny.yaml")


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def told(dataset):
    return {c.path: (c.machine, c.split, c.label, c.attributes) for c in dataset.clips}


def test_folders_of_machines(tmp_path, caplog):
    touch(
        tmp_path,
        "pump 7/normal/a.wav", "pump 7/normal/low/b.MP3", "pump 7/test/c.flac",
        "hall/fan/train/d.ogg", "hall/fan/test/normal/e.wav", "hall/fan/test/leak/f.wav",
        "hall/fan/broken/g.wav", "hall/saw/Good/h.wav", "hall/saw/Test/x_anomaly_1.wav",
        "hall/saw/Test/normal 3.wav", "notes/i.wav", "pump 7/normal/.hidden.wav",
        "pump 7/normal/readme.txt",
    )  # fmt: skip
    found = layouts.find(tmp_path, AUTO)
    assert told(found) == {
        "pump 7/normal/a.wav": ("pump 7", "train", "normal", ""),
        "pump 7/normal/low/b.MP3": ("pump 7", "train", "normal", "low"),
        "pump 7/test/c.flac": ("pump 7", "test", None, ""),
        "hall/fan/train/d.ogg": ("hall_fan", "train", "normal", ""),
        "hall/fan/test/normal/e.wav": ("hall_fan", "test", "normal", ""),
        "hall/fan/test/leak/f.wav": ("hall_fan", "test", "anomaly", ""),
        "hall/fan/broken/g.wav": ("hall_fan", "test", "anomaly", ""),
        "hall/saw/Good/h.wav": ("hall_saw", "train", "normal", ""),
        "hall/saw/Test/x_anomaly_1.wav": ("hall_saw", "test", None, ""),
        "hall/saw/Test/normal 3.wav": ("hall_saw", "test", None, ""),
    }
    assert not found.problems and found.edition == "own"
    assert [(u.folder, u.files, u.why.partition(": ")[2]) for u in found.unused] == [
        ("notes", 1, ""), ("pump 7/normal", 0, "1 .txt, 1 hidden")
    ]  # fmt: skip
    assert "read as folders of machines of your own" in caplog.text


def test_a_single_machine(tmp_path):
    root = tmp_path / "Pumpe Ü"
    touch(root, "normal/a.wav", "test/b.wav")
    assert {clip.machine for clip in layouts.find(root, AUTO).clips} == {"Pumpe Ü"}


def test_labels_of_tests_without_known_folders_are_unknown(tmp_path):
    touch(tmp_path, "m/normal/a.wav", "m/test/day 1/b.wav", "m/test/day 2/abnormality.wav")
    assert {c.label for c in layouts.find(tmp_path, AUTO).clips if c.split == "test"} == {None}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "no clips found"),
        (("a.wav",), "no clips found"),
        (("m/normal/notes.txt",), "folder per machine"),
        (("all/normal/a.wav",), "cannot be called all"),
        (("a/b/normal/x.wav", "a_b/normal/y.wav"), "both called a_b"),
    ],
)
def test_what_is_no_data_set(tmp_path, names, words):
    touch(tmp_path, *names)
    with pytest.raises(AsdjaxError, match=words):
        layouts.find(tmp_path, AUTO)


def test_folders_that_contradict_each_other_are_problems(tmp_path):
    wrong = ("m/anomaly/normal/c.wav", "m/train/anomaly/b.wav")
    touch(tmp_path, "m/train/normal/a.wav", *wrong)
    found = layouts.find(tmp_path, AUTO)
    assert [clip.path for clip in found.clips] == ["m/train/normal/a.wav"]
    assert [(p.path, p.kind) for p in found.problems] == [(path, "misnamed") for path in wrong]


def test_a_challenge_s_data_in_misnamed_folders_is_not_taken_for_ones_own(tmp_path):
    name = "section_00_source_train_normal_0000_x_1.wav"
    touch(tmp_path / "data", f"fan/Train/{name}")
    with pytest.raises(AsdjaxError, match="fan/Train: .* rename the folder to train"):
        layouts.find(tmp_path / "data", AUTO)
    touch(tmp_path / "one", f"train/{name}")
    with pytest.raises(AsdjaxError, match="one machine's folder"):
        layouts.find(tmp_path / "one", AUTO)


@pytest.mark.parametrize(
    ("machines", "sections", "channels", "edition"),
    [
        (("fan", "bearingEmu"), ("00",), 2, "dcase2026"),
        (("3DPrinter",), ("00",), 1, "dcase2024"),
        (("fan",), ("00", "01", "02"), 1, "dcase2022"),
        (("fan",), ("00",), 2, "dcase2026"),
        (("my_pump",), ("00",), 1, "dcase2026"),
    ],
)
def test_editions_are_recognised(tmp_path, machines, sections, channels, edition):
    for machine in machines:
        for section in sections:
            path = tmp_path / machine / "train" / f"section_{section}_source_train_normal_0000_.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.zeros((100, channels)), 16_000)
    assert layouts.find(tmp_path, AUTO).edition == edition


ROWS = [
    {"path": "x/a.wav", "machine": "pump", "split": "train", "load": "2 kW", "tool": "A"},
    {"path": "x/b.wav", "machine": "pump", "split": "Train", "label": "", "section": "3"},
    {"path": "../c.wav", "machine": "pump", "split": "test", "label": "anomaly", "channel": "2"},
    {"path": "d.wav", "machine": "fan", "split": "test", "label": "normal", "domain": "target"},
    {"path": "e.wav", "machine": "fan", "split": "test"},
]
COLUMNS = ("path", "machine", "split", "section", "domain", "label", "channel", "load", "tool")


def manifest(path, rows, columns=COLUMNS, separator=","):
    cells = [{name: row.get(name, "") for name in columns} for row in rows]
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(cells), path)
        return path
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, columns, delimiter=separator)
        writer.writeheader()
        writer.writerows(cells)
    return path


@pytest.mark.parametrize(("name", "separator"), [("m.csv", ","), ("m.csv", ";"), ("m.parquet", "")])
def test_manifests(tmp_path, name, separator):
    path = manifest(tmp_path / name, ROWS, separator=separator)
    for edition in (AUTO, "own"):
        found = layouts.find(path, edition)
        assert (found.root, found.source, found.edition) == (tmp_path, path, "own")
        facts = {c.path: (c.machine, c.section, c.domain, c.attributes) for c in found.clips}
        assert facts == {
            "x/a.wav": ("pump", "00", "source", "load_2 kW_tool_A"),
            "x/b.wav": ("pump", "03", "source", ""),
            "../c.wav": ("pump", "00", "source", ""),
            "d.wav": ("fan", "00", "target", ""),
            "e.wav": ("fan", "00", None, ""),
        }
        assert {c.path: c.channel for c in found.clips}["../c.wav"] == 2
    with pytest.raises(AsdjaxError, match="dcase2026"):
        layouts.find(path, "dcase2026")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"split": "valid"}, "row 2: split: expected train or test"),
        ({"split": ""}, "row 2: split"),
        ({"label": "anomaly"}, "row 2: label anomaly, but training"),
        ({"label": "bad"}, "row 2: label: expected normal or anomaly"),
        ({"domain": "x"}, "row 2: domain"),
        ({"section": "100"}, "row 2: section"),
        ({"channel": "0"}, "row 2: channel"),
        ({"machine": ""}, "row 2: machine"),
        ({"machine": "all"}, "cannot be called all"),
        ({"machine": "../x"}, "cannot be a machine's name"),
        ({"machine": "a\x1bb"}, "row 2: machine"),
        ({"path": ""}, "row 2: path"),
        ({"path": "x/b.wav"}, "x/b.wav is listed twice"),
    ],
)
def test_rows_that_are_wrong_are_named(tmp_path, change, words):
    rows = [{**ROWS[0], **change}, *ROWS[1:]]
    with pytest.raises(AsdjaxError, match=words) as refusal:
        layouts.find(manifest(tmp_path / "m.csv", rows), AUTO)
    assert str(refusal.value).startswith(str(tmp_path / "m.csv"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no column path"),
        (b"path,machine\na,b\n", "no column split"),
        (b"path,machine,Split,split\na,b,c,d\n", "same name"),
        (b"path,machine,split\na,b\n", "row 2: 2 values, the header has 3"),
        (b"path,machine,split\n", "lists no clips"),
        (b'path,machine,split\n"a', "row"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_files_that_are_no_manifest(tmp_path, content, words):
    path = tmp_path / "m.csv"
    path.write_bytes(content)
    with pytest.raises(AsdjaxError, match=words):
        manifests.read(path)
    (tmp_path / "m.parquet").write_bytes(content)
    with pytest.raises(AsdjaxError, match="Parquet"):
        manifests.read(tmp_path / "m.parquet")
    with pytest.raises(AsdjaxError, match="nor a manifest"):
        layouts.find(TESTS / "tiny.yaml", AUTO)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Two machines: mono at 16 kHz, and two channels at 48 kHz as FLAC and MP3."""
    root = tmp_path_factory.mktemp("own")
    folder(root / "pump" / "normal" / "low", range(8))
    folder(root / "pump" / "normal" / "high", range(20, 28))
    folder(root / "pump" / "test" / "normal", range(100, 105))
    folder(root / "pump" / "test" / "leak", range(200, 205), fault="tone", seconds=1.3)
    for split, seeds in (("normal", range(30, 46)), ("test", range(300, 306))):
        for seed in seeds:
            path = root / "fan" / split / f"{seed}.{('flac', 'mp3')[seed % 2]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            wave = sound(seed, rate=48_000)
            soundfile.write(path, np.stack([wave, wave[::-1]], axis=1), 48_000)
    return root


def test_other_rates_and_formats_are_resampled_or_refused(own, caplog):
    config = Config()
    corpus = open_corpus(own, config)
    assert corpus.dataset.edition == "own" and not corpus.pcm16
    assert "22 of 48 files are resampled to 16000 Hz: 22 of 48000 Hz" in caplog.text
    assert {header.rate for header in corpus.headers.values()} == {16_000}
    for clip in corpus.dataset.clips:
        assert corpus.headers[clip.path].frames in (16_000, 20_800)
    never, _ = survey(own, config.dataset, AudioConfig(resample="never"))
    assert {p.kind for p in never.problems} == {"wrong_rate"} and len(never.problems) == 22


def test_a_challenge_s_data_is_resampled_on_request_only(tmp_path):
    path = tmp_path / "fan" / "train" / "section_00_source_train_normal_0000_x_1.wav"
    path.parent.mkdir(parents=True)
    soundfile.write(path, np.stack([sound(1, rate=8000)] * 2, axis=1), 8000)
    refused, _ = survey(tmp_path, Config().dataset, AudioConfig())
    assert [p.kind for p in refused.problems] == ["wrong_rate"]
    accepted, headers = survey(tmp_path, Config().dataset, AudioConfig(resample="always"))
    assert not accepted.problems and [h.frames for h in headers.values()] == [16_000]


def test_copies_are_found_in_any_format(own, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(own, root)
    shutil.copy(root / "fan" / "normal" / "31.mp3", root / "fan" / "test" / "copy.mp3")
    shutil.copy(root / "pump" / "normal" / "low" / "take 1.wav", root / "pump" / "normal" / "b.wav")
    surveyed, _ = survey(root, Config().dataset, AudioConfig())
    assert {(p.path, p.kind) for p in surveyed.problems} == {
        ("fan/normal/31.mp3", "shared"), ("pump/normal/low/take 1.wav", "copy"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def own_run(own, tmp_path_factory):
    """A finished run, the options of its command line, and what was printed."""
    run = tmp_path_factory.mktemp("own_run") / "run"
    args = ["run", TINY, "--data", str(own), "--run", str(run), "--train.epochs", "1", "--json"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        with contextlib.redirect_stderr(io.StringIO()) as err:
            assert main(args) == 0
    return run, args, out.getvalue(), err.getvalue()


def test_from_training_to_evaluation_twice(own_run, capsys):
    run, args, *first = own_run
    assert main(args) == 0
    for out, err in first, capsys.readouterr():
        figures = json.loads(out)["machines"]["pump"]["within"]
        assert figures["auc_source"] is not None and figures["auc_target"] is None
        assert "mono recordings" not in err  # the recipe has the raw view alone
    rows = list(csv.DictReader(open(run / "scores" / "fan.csv", newline="")))
    assert {row["split"] for row in rows} == {"train", "test"} and len(rows) == 22
    assert main(["extract", str(run)]) == 0
    assert "embeddings are up to date" in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["table beside its files", "folder of one machine"])
def test_short_paths_from_training_to_scores(layout, own, tmp_path, capsys):
    """Paths of one or two parts: `a.wav`, `normal/a.wav`."""
    root, rows = tmp_path / "data", []
    for i, clip in enumerate(own_folders.scan(own).clips):
        split = "train" if clip.split == "train" else "test"
        place = root if layout.startswith("table") else root / {"train": "normal"}.get(split, split)
        place.mkdir(parents=True, exist_ok=True)
        suffix = Path(clip.path).suffix
        shutil.copy(own / clip.path, place / f"{i}{suffix}")
        rows.append(f"{i}{suffix},{clip.machine},{split},{clip.label or ''}")
    data = root
    if layout.startswith("table"):
        data = root / "t.csv"
        data.write_text("\n".join(["path,machine,split,label", *rows]))
    run = tmp_path / "run"
    options = ["--train.epochs", "1", "--train.allow-one-class"]
    args = ["run", TINY, "--data", str(data), "--run", str(run), *options]
    for _ in range(2):
        code = main(args)
        assert code == 0, capsys.readouterr().err
    assert main(["score", str(run)]) == 0


def test_a_manifest_from_training_to_scores(own, tmp_path, capsys):
    """One file of two channels as two machines is two files: here the second channel alone."""
    rows = []
    for clip in own_folders.scan(own).clips:
        channel = "2" if clip.machine == "fan" else ""
        rows.append(
            {
                "path": str(own / clip.path), "machine": clip.machine, "split": clip.split,
                "label": clip.label or "", "channel": channel,
            }
        )  # fmt: skip
    path, run = manifest(tmp_path / "m.csv", rows), tmp_path / "run"
    args = ["run", TINY, "--data", str(path), "--run", str(run), "--train.epochs", "1"]
    for _ in range(2):
        assert main(args) == 0, capsys.readouterr().err
    assert json.loads((run / "training.json").read_text())["data"] == str(path)
    assert main(["extract", str(run)]) == 0
    capsys.readouterr()
    channels = tmp_path / "first.csv"
    manifest(channels, [{**row, "channel": ""} for row in rows])
    assert main(["extract", str(run), "--data", str(channels)]) == 0
    before = (run / "embeddings" / "raw" / "fan.npz").read_bytes()
    assert main(["extract", str(run)]) == 0
    assert (run / "embeddings" / "raw" / "fan.npz").read_bytes() != before


@pytest.fixture(scope="module")
def of_manifest(own, tmp_path_factory):
    """A run of a manifest, the manifest, and its rows."""
    rows, folder = [], tmp_path_factory.mktemp("of_manifest")
    for clip in own_folders.scan(own).clips:
        rows.append({"path": str(own / clip.path), "machine": clip.machine, "split": clip.split})
        rows[-1] |= {"label": clip.label or ""}
    path = manifest(folder / "m.csv", rows)
    first = ["--run", str(folder / "run"), "--train.epochs", "1"]
    assert main(["run", TINY, "--data", str(path), *first]) == 0
    return folder / "run", path, rows


@pytest.mark.parametrize("column", ["label", "domain", "section", "channel"])
def test_a_changed_row_of_a_test_clip_makes_results_anew(of_manifest, tmp_path, column):
    """Results are those of a fresh run on the changed manifest."""
    run, path, rows = of_manifest
    shutil.copytree(run, tmp_path / "run")
    changed = [
        {
            **row,
            column: {"label": "normal", "domain": "target", "section": "1", "channel": "2"}[column],
        }
        if row["machine"] == "fan" and (row["split"] == "test" or column == "section")
        else row
        for row in rows
    ]
    manifest(path, changed)
    again = main(["extract", str(tmp_path / "run")])
    assert again == 0 and main(["score", str(tmp_path / "run")]) == 0
    fresh = ["--run", str(tmp_path / "fresh"), "--train.epochs", "1"]
    assert main(["run", TINY, "--data", str(path), *fresh]) == 0
    before, after = (
        list(csv.DictReader(open(tmp_path / name / "scores" / "fan.csv", newline="")))
        for name in ("run", "fresh")
    )
    names = [name for name in before[0] if name != "score" and "raw" not in name]
    for one, other in zip(before, after, strict=True):
        assert [one[name] for name in names if name != "threshold"] == [
            other[name] for name in names if name != "threshold"
        ]
        assert float(one["score"]) == pytest.approx(float(other["score"]), rel=1e-4)


def test_changed_attributes_are_changed_training_clips(own, tmp_path, capsys):
    rows = [
        {"path": str(own / c.path), "machine": c.machine, "split": c.split, "load": c.attributes}
        for c in own_folders.scan(own).clips
    ]
    columns = ("path", "machine", "split", "load")
    path = manifest(tmp_path / "m.csv", rows, columns)
    args = ["train", TINY, "--data", str(path), "--run", str(tmp_path / "r"), "--train.epochs", "1"]
    args += ["--dataset.label", "machine_section_attributes"]
    assert main(args) == 0
    swap = {"low": "high", "high": "low", "": ""}
    manifest(path, [{**row, "load": swap[row["load"]]} for row in rows], columns)
    assert main(args) == 1
    assert "training clips or their batches changed" in capsys.readouterr().err


def test_copies_of_other_channels_and_links_to_parents(own, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(own, root)
    wave = soundfile.read(root / "pump" / "normal" / "low" / "take 1.wav", dtype="int16")[0]
    soundfile.write(root / "pump" / "test" / "x.wav", np.stack([wave, wave // 2], axis=1), 16_000)
    (root / "self").symlink_to(root)
    surveyed, _ = survey(root, Config().dataset, AudioConfig())
    assert {(p.path, p.kind) for p in surveyed.problems} == {
        ("pump/normal/low/take 1.wav", "shared")
    }
    assert {clip.machine for clip in surveyed.clips} == {"fan", "pump"}


def test_copies_are_of_the_channel_in_use(tmp_path):
    """Different second channels beside an equal first one, and the other way round."""
    for i in range(3):
        for name, both in (("a", (0, i)), ("b", (i, 0))):
            path = tmp_path / name / "pump" / "normal" / f"{i}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.stack([sound(seed) for seed in both], axis=1), 16_000)
    for name, channel, copies in (
        ("a", "far", 0),
        ("a", "near", 2),
        ("b", "far", 2),
        ("b", "near", 0),
    ):
        surveyed, _ = survey(tmp_path / name, Config().dataset, AudioConfig(channel=channel))
        assert [p.kind for p in surveyed.problems] == ["copy"] * copies


@pytest.mark.parametrize(
    ("chosen", "said", "faults"), [("2", False, 0), ("3", False, 0), ("4", False, 3), ("", True, 0)]
)
def test_what_is_said_of_three_channels_of_which_a_table_chooses_one(
    chosen, said, faults, tmp_path, capsys
):
    rows = []
    for i, split in enumerate(["train", "train", "test"]):
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, np.stack([sound(3 * i + c) for c in range(3)], axis=1), 16_000)
        rows.append({"path": path.name, "machine": "pump", "split": split, "channel": chosen})
    table = manifest(tmp_path / "m.csv", rows)
    assert main(["data", str(table)]) == int(faults > 0)
    printed = capsys.readouterr()
    assert ("more than two channels: the first is the near one" in printed.err) == said
    assert printed.out.count("3 channels, but channel 4 is to be used") == faults


def test_tables_of_very_many_rows_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(manifests, "_MOST_ROWS", 3)
    with pytest.raises(AsdjaxError, match="5 rows and 9 columns are more than 3"):
        manifests.read(manifest(tmp_path / "m.parquet", ROWS))


def test_machines_are_spelled_alike(tmp_path):
    rows = [ROWS[0], {**ROWS[1], "machine": "Pump"}]
    with pytest.raises(AsdjaxError, match="row 3: machine Pump is also spelled pump"):
        manifests.read(manifest(tmp_path / "m.csv", rows))


def test_views_of_two_channels_need_two_in_all_recordings(own, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(own, root)
    run = tmp_path / "run"
    views = str(TESTS / "views.yaml")
    args = ["run", views, "--data", str(root), "--run", str(run), "--train.epochs", "1"]
    assert main(args) == 0
    assert "is the raw one: pump" in capsys.readouterr().err
    soundfile.write(root / "fan" / "normal" / "mono.wav", sound(77), 16_000)
    soundfile.write(
        root / "fan" / "test" / "three.wav",
        np.stack([sound(seed) for seed in (801, 802, 803)], 1),
        16_000,
    )
    assert main([*args[:-4], "--run", str(tmp_path / "other"), "--train.epochs", "1"]) == 0
    printed = capsys.readouterr().err
    assert "is the raw one: fan, pump" in printed
    assert "1 of 50 files have more than two channels" in printed


def test_ones_own_data_has_no_submission(own_run, tmp_path, capsys):
    run = own_run[0]
    info = str(TESTS / "submission.yaml")
    assert main(["submit", str(run), "--info", info, "--out", str(tmp_path / "out")]) == 1
    assert "own" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_damaged_files_of_ones_own_are_listed(own, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(own, root)
    (root / "pump" / "test" / "x.flac").write_bytes(b"fLaC no")
    assert main(["data", str(root)]) == 1
    assert "pump/test/x.flac" in capsys.readouterr().out


def test_the_share_of_recordings_of_another_length_is_said(own, tmp_path, capsys):
    args = ["train", TINY, "--data", str(own), "--run", str(tmp_path / "r"), "--train.epochs", "1"]
    assert main([*args, "--audio.clip-seconds", "1.5"]) == 0
    said = "100 % of the training clips are shorter than three quarters of 1.5 s, and repeated"
    assert said in capsys.readouterr().err
    assert main([*args[:5], str(tmp_path / "s"), *args[6:]]) == 0
    assert "100 % of the training clips are longer than 0.4 s" in capsys.readouterr().err

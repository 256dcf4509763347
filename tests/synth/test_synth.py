"""The synthetic corpus: layout, determinism, honest sound, and what it refuses."""

import dataclasses
import errno
import re
import subprocess
import sys
import wave

import numpy as np
import pytest
import soundfile
from scipy import signal
from sklearn.metrics import roc_auc_score

from asdjax.config.recipe import SynthConfig
from asdjax.data import dcase
from asdjax.errors import AsdjaxError
from asdjax.synth import corpus as synth
from asdjax.synth.machine import PROFILES

SMALL = SynthConfig(
    machines=("fan", "ToothBrush"), train_source=3, train_target=2, test_per_cell=2, seconds=1.0
)
LABELLED = re.compile(
    r"section_00_(source|target)_(train_normal|test_normal|test_anomaly)_\d{4}_\S+\.wav"
)


def contents(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*.wav")}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("small")
    synth.write(root, SMALL)
    return root


def test_layout_and_names(small):
    for machine in SMALL.machines:
        assert {p.name for p in (small / machine).iterdir() if p.is_dir()} == {"train", "test"}
        assert (small / machine / "attributes_00.csv").is_file()
        assert len(list((small / machine / "train").glob("*.wav"))) == 5
        assert len(list((small / machine / "test").glob("*.wav"))) == 8
    for path in [*small.glob("fan/*/*.wav"), *small.glob("ToothBrush/train/*.wav")]:
        assert LABELLED.fullmatch(path.name)
    hidden = sorted(p.name for p in small.glob("ToothBrush/test/*.wav"))
    assert hidden == [f"section_00_{i:04d}.wav" for i in range(8)]
    assert not [p for p in small.iterdir() if p.name.startswith(".")]


def test_every_machine_is_understood_and_has_the_real_lists_traps(tmp_path):
    config = dataclasses.replace(SMALL, machines=tuple(PROFILES), seconds=0.5)
    synth.write(tmp_path, config)
    dataset = dcase.scan(tmp_path, "dcase2026")
    assert not dataset.problems and len(dataset.clips) == 13 * len(PROFILES)
    names = [clip.name for clip in dataset.clips if clip.machine == "gearboxEmu"]
    assert any("pro_y" in name for name in names) and any("pro_Y" in name for name in names)
    names = [clip.name for clip in dataset.clips if clip.machine == "ToyCar" and clip.label]
    tests = sorted(re.search(r"_(\d{4})_", name)[1] for name in names if "_test_" in name)
    assert tests == [f"{i:04d}" for i in range(8)]
    assert any("mic_2_mic_1" in clip.name for clip in dataset.clips if clip.machine == "ToyCarEmu")


def test_the_same_bytes_again_and_whatever_else_is_made(small, tmp_path):
    again = tmp_path / "again"
    synth.write(again, SMALL)
    assert contents(again) == contents(small)
    other = tmp_path / "other"
    synth.write(other, dataclasses.replace(SMALL, machines=("fan", "valveEmu"), train_source=5))
    shared = contents(small).keys() & contents(other).keys()
    assert len(shared) == 13
    assert all(contents(other)[name] == contents(small)[name] for name in shared)
    seeded = tmp_path / "seeded"
    synth.write(seeded, dataclasses.replace(SMALL, seed=1))
    assert not set(contents(seeded).values()) & set(contents(small).values())


def test_format_and_levels(small):
    for path in small.rglob("*.wav"):
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16000, 2, "PCM_16")
        assert info.frames == 16000
        samples, _ = soundfile.read(path)
        assert np.abs(samples).max() < 0.9 and (samples.std(axis=0) > 1e-3).all()


def test_far_hears_the_surroundings_louder_and_later():
    config = dataclasses.replace(SMALL, seconds=4.0)
    for clip in synth.clips(config)[:4]:
        machine, environment = synth.components(config, clip)
        level = 10 * np.log10((environment**2).mean(axis=1))
        assert 4 < level[1] - level[0] < 8
        leaked = 10 * np.log10((machine**2).mean(axis=1))
        assert leaked[1] - leaked[0] == pytest.approx(
            config.leakage_db, abs=3
        )  # the rooms colour it
        above = leaked[0] - level[0]  # machine over environment, near
        assert above == pytest.approx(-config.noise_db, abs=5)
        near, far = signal.sosfilt(signal.butter(4, 200, "high", fs=16000, output="sos"), machine)
        lags = signal.correlation_lags(len(far), len(near))
        assert 0 < lags[np.argmax(np.abs(signal.correlate(far, near)))] < 200


def test_the_far_channel_helps_to_suppress_noise_and_less_so_when_the_machine_leaks():
    def gain(leakage_db):
        config = dataclasses.replace(SMALL, seconds=4.0, leakage_db=leakage_db)
        gains = []
        for clip in synth.clips(config)[:4]:
            machine, environment = synth.components(config, clip)
            far = machine[1] + environment[1]
            far *= np.std(machine[0] + environment[0]) / np.std(far)
            own, noise, reference = (
                signal.stft(x, nperseg=1024)[2] for x in (machine[0], environment[0], far)
            )
            keep = np.clip(1 - np.abs(reference) ** 2 / np.abs(own + noise) ** 2, 0.01, 1)
            before = np.sum(np.abs(own) ** 2) / np.sum(np.abs(noise) ** 2)
            after = np.sum(np.abs(keep * own) ** 2) / np.sum(np.abs(keep * noise) ** 2)
            gains.append(10 * np.log10(after / before))
        return np.mean(gains)

    assert gain(-40.0) > gain(-3.0) + 1 > 2


def bands(path):
    """A stand-in for an embedding: mean and deviation over time of log power in 64 bands."""
    samples, rate = soundfile.read(path)
    _, _, spectrum = signal.stft(samples[:, 0], rate, nperseg=1024)
    power = np.abs(spectrum[1:]).reshape(64, 8, -1) ** 2
    decibels = 10 * np.log10(power.mean(axis=1) + 1e-12)
    return np.concatenate([decibels.mean(axis=1), decibels.std(axis=1)])


@pytest.mark.parametrize("seed", [0, 1])
def test_anomalies_are_audible_but_not_all_and_loudness_gives_none_away(tmp_path, seed):
    config = SynthConfig(
        machines=("fan", "bearingEmu", "valveEmu"),
        train_source=30, train_target=10, test_per_cell=15, seconds=3.0, seed=seed,
    )  # fmt: skip
    synth.write(tmp_path, config)
    heard, loud = [], []
    for machine in config.machines:
        train = sorted((tmp_path / machine / "train").glob("*.wav"))
        references = np.array([bands(p) for p in train])
        mean, deviation = references.mean(axis=0), references.std(axis=0)
        references = (references - mean) / deviation
        for domain in ("source", "target"):
            pool = references[[domain in p.name for p in train]]
            tests = sorted((tmp_path / machine / "test").glob(f"*{domain}_test*.wav"))
            labels = ["anomaly" in p.name for p in tests]
            points = (np.array([bands(p) for p in tests]) - mean) / deviation
            distance = np.linalg.norm(points[:, None] - pool, axis=2).min(axis=1)
            heard.append(roc_auc_score(labels, distance))
            level = [np.std(soundfile.read(p)[0][:, 0]) for p in tests]
            loud.append(roc_auc_score(labels, level))
    assert 0.65 < np.mean(heard) < 0.97
    assert abs(np.mean(loud) - 0.5) < 0.12


def test_domains_differ(small):
    config = dataclasses.replace(SMALL, machines=("fan", "valveEmu"), seconds=2.0)
    clips = [clip for clip in synth.clips(config) if clip.split == "train"]
    for machine in config.machines:
        spectra = {"source": [], "target": []}
        for clip in clips:
            if clip.machine == machine:
                sound = np.add(*synth.components(config, clip))[0]
                spectra[clip.domain].append(np.log(signal.welch(sound, nperseg=512)[1]))
        spread = np.abs(spectra["source"][0] - spectra["source"][1]).mean()
        shift = np.abs(np.mean(spectra["source"], 0) - np.mean(spectra["target"], 0)).mean()
        assert shift > 0.8 * spread


@pytest.mark.parametrize("ground_truth", [True, False])
@pytest.mark.parametrize("link", [None, "supplemental", "supplemental/ground_truth_data"])
def test_ground_truth_of_others_is_neither_replaced_nor_deleted(tmp_path, ground_truth, link):
    root, outside = tmp_path / "data", tmp_path / "outside"
    synth.write(root, SMALL)
    mine = (
        root / "supplemental" / "ground_truth_data" / "ground_truth_ToothBrush_section_00_test.csv"
    )
    if link is None:
        mine.parent.mkdir(parents=True)
    else:
        (root / link).parent.mkdir(exist_ok=True)
        (outside / mine.relative_to(root / link).parent).mkdir(parents=True)
        (root / link).symlink_to(outside)
    mine.write_text("section_00_0000.wav,1\n")
    changed = dataclasses.replace(SMALL, seed=9, overwrite=True, ground_truth=ground_truth)
    before = {path: path.read_bytes() for path in root.rglob("*.wav")}
    with pytest.raises(AsdjaxError, match="not written by asdjax synth|is a link"):
        synth.write(root, changed)
    assert mine.read_text() == "section_00_0000.wav,1\n"
    assert {path: path.read_bytes() for path in root.rglob("*.wav")} == before


def test_ground_truth_of_evaluation_machines(tmp_path):
    synth.write(tmp_path, dataclasses.replace(SMALL, ground_truth=True))
    for kind in ("data", "domain"):
        folder = tmp_path / "supplemental" / f"ground_truth_{kind}"
        (path,) = folder.iterdir()
        assert path.name == "ground_truth_ToothBrush_section_00_test.csv"
        rows = [line.split(",") for line in path.read_text().splitlines()]
        assert sorted(name for name, _ in rows) == [f"section_00_{i:04d}.wav" for i in range(8)]
        assert sorted(value for _, value in rows) == ["0"] * 4 + ["1"] * 4
    assert not dcase.scan(tmp_path, "dcase2026").problems
    synth.write(tmp_path, dataclasses.replace(SMALL, seed=1, overwrite=True))
    assert not list(tmp_path.rglob("ground_truth_*.csv")), "labels of the clips that are gone"


def test_a_finished_corpus_is_kept_and_another_refused(small, tmp_path):
    assert synth.write(small, SMALL).kept == SMALL.machines
    louder = dataclasses.replace(SMALL, noise_db=0.0)
    with pytest.raises(AsdjaxError, match="fan: .*settings.*--overwrite"):
        synth.write(small, louder)
    synth.write(tmp_path, louder)
    assert synth.write(tmp_path, dataclasses.replace(SMALL, overwrite=True)).kept == ()
    assert contents(tmp_path) == contents(small)
    (tmp_path / "fan" / "test" / "mine.wav").write_bytes(b"x")
    with pytest.raises(AsdjaxError, match="fan: .*files.*--overwrite"):
        synth.write(tmp_path, SMALL)
    with pytest.raises(AsdjaxError, match="fan/test/mine.wav: not written by asdjax"):
        synth.write(tmp_path, dataclasses.replace(SMALL, overwrite=True))
    (tmp_path / "fan" / "test" / "mine.wav").unlink()
    (tmp_path / "fan" / "notes.txt").write_text("mine")
    with pytest.raises(AsdjaxError, match="fan/notes.txt: not written by asdjax"):
        synth.write(tmp_path, dataclasses.replace(louder, overwrite=True))
    (tmp_path / "fan" / "notes.txt").unlink()
    (tmp_path / "mine" / "fan").mkdir(parents=True)
    (tmp_path / "mine" / "fan" / "precious.txt").write_text("x")
    with pytest.raises(AsdjaxError, match="mine/fan: .*not made by asdjax"):
        synth.write(tmp_path / "mine", dataclasses.replace(SMALL, overwrite=True))
    for document in ("[1]", '{"made_by": "another synth"}'):
        (tmp_path / "mine" / "fan" / "synth.json").write_text(document)
        with pytest.raises(AsdjaxError, match="not made by asdjax synth"):
            synth.write(tmp_path / "mine", dataclasses.replace(SMALL, overwrite=True))
    assert (tmp_path / "mine" / "fan" / "precious.txt").exists()


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), AsdjaxError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_an_interrupted_machine_leaves_nothing(tmp_path, monkeypatch, error, seen):
    calls, original = [], wave.open

    def full(*given):
        calls.append(given)
        if len(calls) == 3:
            raise error
        return original(*given)

    monkeypatch.setattr(wave, "open", full)
    with pytest.raises(seen) as caught:
        synth.write(tmp_path / "new", SMALL)
    assert not list(tmp_path.iterdir())
    if seen is AsdjaxError:
        machine = tmp_path / "new" / SMALL.machines[0]
        assert str(caught.value).startswith(f"{machine}: ")
        assert "No space left on device" in str(caught.value)


def test_a_defect_is_no_full_disk(tmp_path, monkeypatch):
    def defect(*_):
        raise FileNotFoundError("a defect")

    monkeypatch.setattr(synth, "_attributes_csv", defect)
    with pytest.raises(FileNotFoundError, match="a defect"):
        synth.write(tmp_path / "new", SMALL)
    assert not list(tmp_path.iterdir())


def test_two_processes_make_one_corpus(small, tmp_path):
    program = (
        "import dataclasses, sys; from asdjax.synth import corpus as synth\n"
        "from asdjax.config.recipe import SynthConfig\n"
        "from asdjax.errors import AsdjaxError; from pathlib import Path\n"
        f"config = SynthConfig(**{dataclasses.asdict(SMALL)})\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "try: synth.write(Path(sys.argv[1]), config); print('written')\n"
        "except AsdjaxError as error: print(error)"
    )
    root = tmp_path / "corpus"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", program, str(root)]
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0] and "written\n" in said
    for line in said:
        assert line == "written\n" or "another process" in line
    assert contents(root) == contents(small) and not list(root.rglob(".*"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"machines": ("pump",)}, "pump.*fan"),
        ({"machines": ()}, "machines: "),
        ({"machines": ("fan", "fan")}, "machines: .*once"),
        ({"seconds": 0.1}, "seconds: .*0.5"),
        ({"train_source": 0}, "train_source: .*1"),
        ({"leakage_db": 3.0}, "leakage_db: .*3.0"),
    ],
)
def test_refusals(tmp_path, change, words):
    with pytest.raises(AsdjaxError, match=words):
        synth.write(tmp_path / "out", dataclasses.replace(SMALL, **change))
    assert not (tmp_path / "out").exists()

import os
from pathlib import Path

import pytest
from support.permissions import open_folder as open_folder  # a fixture
from support.permissions import permissions

from asdjax.config.recipe import Config, DatasetConfig
from asdjax.data import folders
from asdjax.data.corpus import open_corpus
from asdjax.data.dcase import require_clean, scan
from asdjax.errors import DataError

TRAIN = "section_00_source_train_normal_0000_noAttribute.wav"
TEST = "section_00_target_test_anomaly_0199_noAttribute.wav"
NOISE = "section_00_source_supplemental_noise_0000.wav"


@pytest.fixture
def root(tmp_path) -> Path:
    """A data set of one machine."""
    return touch(tmp_path / "root", f"fan/train/{TRAIN}", f"fan/test/{TEST}")


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def unused(root: Path) -> dict[str, tuple[int, str]]:
    """Number of files and reason of each unused folder; checks the problems, too."""
    found = scan(root, "dcase2026")
    lost = [u.folder for u in found.unused if u.lost]
    assert [p.path for p in found.problems if p.kind == "unused"] == sorted(lost)
    return {u.folder: (u.files, u.why) for u in found.unused}


@pytest.mark.parametrize(
    ("paths", "folder", "why", "files"),
    [
        (["ToyCar/Train/a.wav", "ToyCar/Train/b.wav"], "ToyCar/Train", "folder to train", 2),
        (["ToyCar/TEST/a.wav"], "ToyCar/TEST", "folder to test", 1),
        (
            [f"ToyCar/train/{TRAIN}", "ToyCar/tests/a.wav"],
            "ToyCar/tests",
            "folder to test",
            1,
        ),
        (["ToyCar/training/a.wav"], "ToyCar/training", "folder to train", 1),
        (["ToyCar/train (1)/a.wav"], "ToyCar/train (1)", "folder to train", 1),
        (["ToyCar/source_train/a.wav"], "ToyCar/source_train", "folder to train", 1),
        (
            [f"ToyCar/ToyCar/train/{TRAIN}"],
            "ToyCar/ToyCar/train",
            "give {}/ToyCar as the root",
            1,
        ),
        (
            [f"dev_fan/x/train/{TRAIN}"],
            "dev_fan/x/train",
            "dev_fan/x is too deep",
            1,
        ),
        ([f"fan/old/test/{TEST}"], "fan/old/test", "fan/old is too deep", 1),
        (
            [f"dev_data/raw/x/y/test/{TEST}"],
            "dev_data/raw/x/y/test",
            "give {}/dev_data/raw/x as",
            1,
        ),
        ([f"a/x/source_test/{TEST}"], "a/x/source_test", "DCASE 2021", 1),
        ([f"train/{TRAIN}"], "train", "one with the machine's name", 1),
        ([f"fan/train/more/{TRAIN}"], "fan/train/more", "in fan/train, not below it", 1),
        ([f"fan/train/more/x/{TRAIN}"], "fan/train/more/x", "in fan/train, not below it", 1),
        ([f"fan/{TRAIN}"], "fan", "<machine>/train or <machine>/test", 1),
        ([f"ToyCar/{TRAIN}", "ToyCar/a.wav"], "ToyCar", "<machine>/train or <machine>/test", 2),
        ([TRAIN], ".", "<machine>/train or <machine>/test", 1),
        (
            ["fan/train/a.flac", "fan/train/b.MP3"],
            "fan/train",
            "not in .MP3, .flac",
            2,
        ),
        (["ToyCar/train/a.m4a"], "ToyCar/train", "not in .m4a", 1),
        (
            [
                f"fan/train/{TRAIN.replace('0000', '0001')}{end}"
                for end in (".part", ".crdownload", "(1)", " ")
            ],
            "fan/train",
            ".crdownload, .part, .wav , .wav(1): rename them or download",
            4,
        ),
        (["fan/test/section_00_0000"], "fan/test", "nothing: rename", 1),
        (
            ["ToyCar/train/a.txt", "ToyCar/test/.a.wav"],
            "ToyCar",
            "unpack it again",
            0,
        ),
    ],
)
def test_clips_that_would_be_missing_are_a_problem(root, paths, folder, why, files):
    found = scan(touch(root, *paths), "dcase2026")
    (only,) = found.unused
    assert (only.folder, only.files, only.lost) == (folder, files, True)
    assert why.format(root) in only.why
    assert [(p.path, p.kind, p.reason) for p in found.problems] == [(folder, "unused", str(only))]
    with pytest.raises(DataError, match=r"\(1 unused\).*--dataset.skip unused"):
        require_clean(found, ())
    assert require_clean(found, ("unused",))[1] == {"unused": 1}


@pytest.mark.parametrize(
    ("path", "folder", "why"),
    [
        (f"fan/test_rename/{TEST}", "fan/test_rename", "copies of fan/test,"),
        (f"fan/train_old/{TRAIN}", "fan/train_old", "copies of fan/train,"),
        (f"fan/supplemental/{NOISE}", "fan/supplemental", "supplemental"),
        (f"supplemental/fan/train/{TRAIN}", "supplemental/fan/train", "supplemental"),
        (f"Supplemental/{NOISE}", "Supplemental", "supplemental"),
        ("music/song.mp3", "music", "not a machine's folder"),
        ("latest/a.wav", "latest", "not a machine's folder"),  # holds "test"
        ("test recordings/a.wav", "test recordings", "folder to test"),
        ("test/a.wav", "test", "one with the machine's name"),
        ("fan/noise.wav", "fan", "<machine>/train or <machine>/test"),
        ("noise.wav", ".", "<machine>/train or <machine>/test"),
    ],
)
def test_other_audio_is_reported_and_not_a_problem(root, path, folder, why):
    found = scan(touch(root, path), "dcase2026")
    assert found.problems == ()
    assert [(u.folder, u.files, u.lost) for u in found.unused] == [(folder, 1, False)]
    assert why in found.unused[0].why


@pytest.mark.parametrize(
    "name", ["target_train", "train (1)", "additional_train", "test_source", "test_rename"]
)
def test_files_in_a_folder_like_a_split_that_are_not_copies_of_its_clips(root, name):
    touch(root, f"fan/{name}/{TRAIN}")
    (root / f"fan/{name}/{TRAIN}").write_bytes(b"another")
    split = "test" if "test" in name else "train"
    (before,) = unused(root).items()
    assert before[0] == f"fan/{name}" and f"not copies of fan/{split}:" in before[1][1]
    (root / f"fan/{split}" / (TRAIN if split == "train" else TEST)).write_bytes(b"ANOTHER")
    assert unused(root) == dict([before])


def test_files_that_are_not_audio_are_not_reported(root):
    stem = TRAIN.removesuffix(".wav")
    more = (".npy", ".wav.md5", ".wav.reapeaks", ".wav.asd", ".json", ".wav~", ".a.b", "_mel.npy")
    touch(root, *(f"fan/train/{stem}{end}" for end in more), "fan/train/section_00_mean.npy")
    assert unused(root) == {}


@pytest.mark.parametrize(
    ("path", "folder", "lost"),
    [
        ("dev_gearbox.zip", ".", False),
        ("dev_ToyCarEmu.zip", ".", False),  # ToyCar is another machine
        ("dev_data/raw/eval_data_ToyDrone_train.tar.gz", "dev_data/raw", False),
        ("eval_data_ToyCar_test.zip", ".", False),  # only train is unpacked
        ("valveEmu.tar", ".", False),
        ("ToyCar/test.zip", "ToyCar", True),
        ("ToyCar/test.tbz2", "ToyCar", True),
        ("ToyCar/test.zip.part", "ToyCar", True),
        ("valveEmu/test.zip", "valveEmu", False),
        ("dev_gearbox.zipx", ".", False),
        ("dev_gearbox.tar.zst", ".", False),
        ("dev_gearbox.7z.001", ".", False),
        ("dev_gearbox.zip.crdownload", ".", False),
        ("test.zip", ".", False),
        ("eval_data_ToyCar_train.zip", None, False),
        ("dev_fan.zip", None, False),  # unpacked: the archive is often kept
        ("fan/test.zip", None, False),
        ("fan/test.zip.part", None, False),
        ("fan/train/test.zip", None, False),
    ],
)
def test_archives_that_were_not_unpacked(root, path, folder, lost):
    found = scan(touch(root, path, f"ToyCar/train/{TRAIN}"), "dcase2026").unused
    assert [(u.folder, u.lost) for u in found] == ([] if folder is None else [(folder, lost)])
    assert folder is None or "unpack" in found[0].why
    piece = path.endswith((".part", ".001", ".crdownload"))
    assert folder is None or ("get all parts" in found[0].why) == piece


def test_hidden_entries_of_a_split_do_not_prevent_the_search_for_copies(root):
    touch(root, f"fan/test_rename/{TEST}", "fan/test/.ipynb_checkpoints/a.wav")
    (root / "fan/test/.nothing").symlink_to("nowhere")
    os.mkfifo(root / "fan/test/.fifo.wav")
    (root / "fan/test/@eaDir").mkdir()
    assert scan(root, "dcase2026").problems == ()


def test_clips_and_hidden_files_are_not_reported_as_unused(root):
    touch(root, f"dev_data/raw/ToyCar/train/{TRAIN}", f"eval_data/Sander/train/{TRAIN}")
    touch(root, "fan/attributes_00.csv", "fan/train/.a.flac", ".git/a.wav", "__MACOSX/fan/._a.wav")
    touch(root, "lost+found/a.wav", "supplemental/ground_truth_data/a.csv")
    (root / "fan/train" / TRAIN).rename(root / "fan/train" / TRAIN.replace(".wav", ".WAV"))
    assert unused(root) == {}


def test_hidden_clips_and_machines_are_reported(root):
    touch(root, f"fan/train/.{TRAIN}", f".pump/test/{TRAIN}", f"fan/train/._{TRAIN}")
    found = unused(root)
    assert {folder: files for folder, (files, _) in found.items()} == {"fan/train": 1, ".pump": 0}
    assert all("begins with a dot" in why for _, why in found.values())


@pytest.mark.parametrize("place", ["fan/.train", "fan/test/.sub", ".more", "fan/.old/train"])
def test_hidden_folders_with_clips_are_reported(root, place):
    touch(root, f"{place}/{TRAIN}")
    ((folder, (_, why)),) = unused(root).items()
    assert place.startswith(folder) and "begins with a dot" in why


def test_the_error_for_no_clips_names_what_was_found(tmp_path):
    touch(tmp_path, f"ds/fan/train/{TRAIN}")
    with pytest.raises(DataError, match="no clips.*ds/fan is too deep.*/ds as the root"):
        scan(tmp_path, "dcase2026")
    touch(tmp_path / "flac", "fan/train/a.flac")
    with pytest.raises(DataError, match="no clips.*fan/train: 1 audio file.*flac: convert them"):
        scan(tmp_path / "flac", "dcase2026")
    with pytest.raises(DataError, match="a.flac: not a folder"):
        scan(tmp_path / "flac/fan/train/a.flac", "dcase2026")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DataError, match="loop: no such folder"):
        scan(tmp_path / "loop", "dcase2026")
    with pytest.raises(DataError, match=r"aaa: cannot be listed \(File name too long\)"):
        scan(tmp_path / ("a" * 300), "dcase2026")


def test_links_are_followed_once_and_never_upwards(root):
    touch(root.parent, f"elsewhere/valveEmu/train/{TRAIN}", f"other/{TRAIN}")
    for name, target in [
        *(("loop", "loop"), ("here", "."), ("up", ".."), ("gone", "nowhere"), ("top", "/")),
        *(("dev", "../elsewhere"), ("again", "dev"), ("fan/train/self", "../.."), ("a", "fan")),
    ]:
        (root / name).symlink_to(target)
    (root / "a").unlink()
    ((folder, (files, why)),) = unused(root).items()
    assert folder in ("dev/valveEmu/train", "again/valveEmu/train") and files == 1


def test_a_linked_machine_is_read(root):
    touch(root.parent, f"elsewhere/valveEmu/train/{TRAIN}")
    (root / "valveEmu").symlink_to("../elsewhere/valveEmu")
    assert [c.machine for c in scan(root, "dcase2026").clips] == ["fan", "fan", "valveEmu"]
    assert unused(root) == {}


def test_deep_and_large_trees(root, monkeypatch):
    touch(root, "x/" + "d/" * 900 + "a.wav", f"{'n' * 255}/{'m' * 251}.wav")
    assert {files for files, _ in unused(root).values()} == {1}
    for i in range(50):
        touch(root, f"many/{i}.wav", f"fan/train/section_00_source_train_normal_{i:04d}_a_1.wav")
    monkeypatch.setattr(folders, "_MOST_NAMES", 30)
    found = scan(root, "dcase2026")
    assert len(found.clips) == 52
    assert any("ended after 30 names" in u.why for u in found.unused)


@pytest.mark.parametrize("mode", [0, 0o111, 0o444])  # no permission, enter only, list only
@pytest.mark.parametrize("name", ["fan", "fan/train", "x", "dev_data", "."])
def test_a_folder_without_permission_is_reported(open_folder, name, mode):
    root = touch(open_folder, f"fan/train/{TRAIN}", f"fan/test/{TEST}")
    touch(root, f"ToyCar/train/{TRAIN}", "x/a/a.wav", f"dev_data/valve/test/{TEST}")
    (root / "link").symlink_to("dev_data/valve")
    whole = scan(root, "dcase2026")
    with permissions(root / name, mode):
        try:
            found = scan(root, "dcase2026")
        except DataError as error:
            text = str(error)
        else:
            text = " ".join(map(str, found.problems))
            if (name, mode) == ("fan/train", 0o444):  # its clips are found, and cannot be opened
                assert found == whole
                return
    assert "cannot be listed (Permission denied)" in text and (root / name).name in text


def test_training_reports_what_it_does_not_use(corpus_root, tmp_path, caplog):
    root = tmp_path / "data"
    root.mkdir()
    (root / "fan").symlink_to(corpus_root / "fan")
    touch(root, *(f"supplemental/{i}/noise.wav" for i in range(7)), f"ToyCar/Train/{TRAIN}")
    with pytest.raises(DataError, match=r"\(1 unused\): ToyCar/Train: unused: 1 audio file"):
        open_corpus(root, Config())
    open_corpus(root, Config(dataset=DatasetConfig(skip=("unused",))))
    lines = caplog.messages
    assert len(lines) == 7
    assert lines[0].startswith(f"{root}/ToyCar/Train: not used: 1 audio file is not read: if")
    assert lines[5].startswith(f"{root}: 3 more folders") and "asdjax data" in lines[5]
    assert lines[6].startswith(f"{root}: ") and "dataset.skip: 1 unused" in lines[6]

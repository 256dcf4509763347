import os
import unicodedata
from pathlib import Path

import pytest

from asdjax.config.recipe import DatasetConfig
from asdjax.data.dcase import (
    Dataset,
    Problem,
    class_name,
    class_names,
    parse_clip,
    require_clean,
    scan,
    scored_machines,
    training_clips,
)
from asdjax.data.editions import find_edition
from asdjax.errors import DataError

TRAIN = "section_00_source_train_normal_0000_noAttribute.wav"
TARGET = "section_00_target_train_normal_0990_noAttribute.wav"
TEST = "section_00_target_test_anomaly_0199_noAttribute.wav"
BLIND = "section_00_0007.wav"


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def dataset_of(*paths: str, edition: str = "dcase2026") -> Dataset:
    clips = (parse_clip(path, edition) for path in paths)
    return Dataset(Path("data"), edition, tuple(sorted(clips, key=lambda c: c.path)), ())


def subsets(dataset: Dataset) -> dict[str, str]:
    return {c.path: c.subset for c in dataset.clips}


# folders


def test_the_plain_layout(tmp_path):
    root = touch(
        tmp_path,
        f"fan/train/{TRAIN}",
        f"fan/test/{TEST}",
        f"Sander/train/{TRAIN}",
        f"Sander/test/{BLIND}",
        "fan/attributes_00.csv",
        "fan/train/readme.txt",
        f"fan/train/._{TRAIN}",
        f"fan/supplemental/{TRAIN}",
        f"supplemental/train/{TRAIN}",
        "ground_truth_data/ground_truth_Sander_section_00_test.csv",
        ".cache/train/x.wav",
    )
    dataset = scan(root, "dcase2026")
    assert subsets(dataset) == {
        f"Sander/test/{BLIND}": "evaluation",
        f"Sander/train/{TRAIN}": "additional",
        f"fan/test/{TEST}": "development",
        f"fan/train/{TRAIN}": "development",
    }
    assert [c.path for c in dataset.clips] == sorted(c.path for c in dataset.clips)
    assert dataset.problems == ()


@pytest.mark.parametrize("raw", ["raw/", ""])
def test_the_layout_of_the_download_scripts(tmp_path, raw):
    root = touch(
        tmp_path,
        f"dev_data/{raw}motor/train/{TRAIN}",
        f"dev_data/{raw}motor/test/{TEST}",
        f"eval_data/{raw}pump/train/{TRAIN}",
        f"eval_data/{raw}pump/test/{BLIND}",
    )
    assert list(subsets(scan(root, "dcase2026")).values()) == [
        *("development", "development", "evaluation", "additional")
    ]


def test_the_subset_of_an_unknown_machine_follows_its_test_clips(tmp_path):
    root = touch(
        tmp_path,
        f"labelled/train/{TRAIN}",
        f"labelled/test/{TEST}",
        f"labelled/test/{BLIND}",
        f"blind/train/{TRAIN}",
        f"blind/test/{BLIND}",
        f"untested/train/{TRAIN}",
    )
    assert subsets(scan(root, "dcase2026")) == {
        f"blind/test/{BLIND}": "evaluation",
        f"blind/train/{TRAIN}": "additional",
        f"labelled/test/{BLIND}": "development",
        f"labelled/test/{TEST}": "development",
        f"labelled/train/{TRAIN}": "development",
        f"untested/train/{TRAIN}": "development",
    }


def test_an_edition_with_sections_splits_a_machine(tmp_path):
    name = "section_{}_source_train_normal_0000_a_1.wav"
    root = touch(
        tmp_path,
        "dev_data/raw/fan/train/" + name.format("02"),
        "eval_data/raw/fan/train/" + name.format("03"),
        "eval_data/raw/fan/test/section_03_0000.wav",
    )
    assert list(subsets(scan(root, "dcase2022")).values()) == [
        *("development", "evaluation", "additional")
    ]


def test_problems_do_not_hide_the_other_clips(tmp_path):
    root = touch(tmp_path, f"fan/train/{TRAIN}", f"fan/test/{TRAIN}", "fan/test/noise.wav")
    dataset = scan(root, "dcase2026")
    assert [c.path for c in dataset.clips] == [f"fan/train/{TRAIN}"]
    assert [(p.path, p.kind) for p in dataset.problems] == [
        ("fan/test/noise.wav", "misnamed"),
        (f"fan/test/{TRAIN}", "misnamed"),
    ]


def test_equal_numbers_are_different_clips(tmp_path):
    cells = [(d, kind) for d in ("source", "target") for kind in ("normal", "anomaly")]
    root = touch(tmp_path, *(f"fan/test/section_00_{d}_test_{k}_0000_a_1.wav" for d, k in cells))
    assert len({c.path for c in scan(root, "dcase2026").clips}) == 4


def test_the_extension_may_be_in_capitals_but_not_twice(tmp_path):
    upper = TRAIN.replace(".wav", ".WAV")
    dataset = scan(touch(tmp_path, f"fan/train/{upper}", f"fan/train/{TARGET}"), "dcase2026")
    assert len(dataset.clips) == 2 and not dataset.problems
    touch(tmp_path, f"fan/train/{TRAIN}")
    dataset = scan(tmp_path, "dcase2026")
    assert len(dataset.clips) == 2
    assert [(p.path, p.kind) for p in dataset.problems] == [(f"fan/train/{TRAIN}", "misnamed")]


@pytest.mark.parametrize(
    "second", ["fan/train", "eval_data/raw/fan/train", "dev_data/fan/test", "FAN/train"]
)
def test_a_machine_in_two_places_is_refused(tmp_path, second):
    name = TEST if second.endswith("test") else TARGET
    touch(tmp_path, f"dev_data/raw/fan/train/{TRAIN}", f"{second}/{name}")
    with pytest.raises(DataError, match="(?i)fan section 00 .*fan and .*fan"):
        scan(tmp_path, "dcase2026")


@pytest.mark.parametrize(
    ("path", "year"),
    [
        ("fan/train/normal_id_00_00000000.wav", 2020),
        ("fan/test/anomaly_id_06_00000123.wav", 2020),
        ("fan/test/id_01_00000123.wav", 2020),
        ("fan/source_test/section_00_source_test_normal_0000.wav", 2021),
        ("fan/target_test/section_03_target_test_0000.wav", 2021),
        ("fan/test/section_03_target_test_0000.wav", 2021),
    ],
)
def test_editions_before_2022_are_refused(tmp_path, path, year):
    with pytest.raises(DataError, match=f"{Path(path).parts[0]}.*DCASE {year}.*2022"):
        scan(touch(tmp_path, path), "dcase2022")


def test_only_regular_files_are_clips(tmp_path):
    names = [TRAIN.replace("0000", f"{i:04d}") for i in range(6)]
    folder = touch(tmp_path, f"fan/train/{names[0]}") / "fan/train"
    os.mkfifo(folder / names[1])
    (folder / names[2]).mkdir()
    for name, target in [(names[3], names[0]), (names[4], "nowhere"), (names[5], names[5])]:
        (folder / name).symlink_to(target)
    dataset = scan(tmp_path, "dcase2026")
    assert [c.name for c in dataset.clips] == [names[0], names[3]]
    assert {p.path: p.kind for p in dataset.problems} == {
        f"fan/train/{names[i]}": "unreadable" for i in (1, 2, 4, 5)
    }


@pytest.mark.parametrize("name", ["f\x1b[31mn", "new\nline", "caf\udce9", "a\u202eb"])
def test_a_machine_that_cannot_be_printed_is_one_problem(tmp_path, name):
    root = touch(tmp_path, f"fan/train/{TRAIN}", f"{name}/train/{TRAIN}", f"{name}/test/{TEST}")
    dataset = scan(root, "dcase2026")
    assert [c.machine for c in dataset.clips] == ["fan"]
    assert [(p.path, p.kind) for p in dataset.problems] == [(name, "misnamed")]


def test_a_wrong_root_is_refused(tmp_path):
    with pytest.raises(DataError, match="absent: no such folder"):
        scan(tmp_path / "absent", "dcase2026")
    with pytest.raises(DataError, match=r"no clips.* <machine>/train/\*.wav"):
        scan(tmp_path, "dcase2026")
    touch(tmp_path, f"fan/train/{TRAIN}")
    with pytest.raises(DataError, match="fan: no clips.* parent"):
        scan(tmp_path / "fan", "dcase2026")


def real_shape() -> list[str]:
    """Training paths with as many attributes per machine as the 2026 data.

    Six machines have hidden attributes, fan has 3 values in both domains, five have 62 in all.
    """
    counts = {"ToyCarEmu": 12, "gearboxEmu": 12, "BlowerDustCollector": 13, "Sander": 12}
    counts |= {"ToyDrone": 13, "fan": 3}
    edition, paths = find_edition("dcase2026"), []
    for machine in (*edition.development, *edition.evaluation):
        for i in range(26):
            n = counts.get(machine, 0)
            attributes = f"mic_2_mic_{i % n}-{i % n / 2}" if n else "noAttribute"
            shared = i // 3 % 2 if machine == "fan" else i % n % 2 if n else i % 2
            domain = ("source", "target")[shared]
            name = f"section_00_{domain}_train_normal_{i:04d}_{attributes}.wav"
            paths.append(f"{machine}/train/{name}")
    return paths


@pytest.mark.parametrize(
    ("label", "classes"),
    [
        ("machine_section", 12),
        ("machine_section_attributes", 71),
        ("machine_section_attributes_domain", 80),
    ],
)
def test_classes_of_the_twelve_machines(label, classes):
    names = class_names(training_clips(dataset_of(*real_shape()), DatasetConfig()), label)
    assert len(names) == classes and list(names) == sorted(names)


def test_development_only_has_seven_classes():
    config = DatasetConfig(train_subsets=("development",))
    names = class_names(training_clips(dataset_of(*real_shape()), config), config.label)
    assert names == tuple(sorted(f"{m}/00" for m in find_edition("dcase2026").development))


def test_class_names_consist_of_parts_of_the_file_name():
    clip = parse_clip(
        "gearboxEmu/train/section_00_target_train_normal_0000_volt_2.5_pro_Y.wav", "dcase2026"
    )
    hidden = parse_clip(f"ToyCar/train/{TRAIN}", "dcase2026")
    assert class_name(clip, "machine_section") == "gearboxEmu/00"
    assert class_name(clip, "machine_section_attributes") == "gearboxEmu/00/volt_2.5_pro_Y"
    with_domain = "machine_section_attributes_domain"
    assert class_name(clip, with_domain) == "gearboxEmu/00/volt_2.5_pro_Y/target"
    assert class_name(hidden, with_domain) == "ToyCar/00/noAttribute/source"


def test_composed_and_decomposed_unicode_is_the_same_name(tmp_path):
    """Unicode encodes é as one character or as two; macOS and Linux differ."""
    name = "section_00_source_train_normal_{:04d}_pièce_{}.wav"
    composed, other = (
        unicodedata.normalize(form, "pompe à vélo/train/" + name) for form in ("NFC", "NFD")
    )
    assert composed != other
    paths = [composed.format(0, "a"), other.format(1, "a"), composed.format(2, "b")]
    dataset = dataset_of(*paths)
    assert sorted(c.path for c in dataset.clips) == sorted(paths)
    assert class_names(dataset.clips, "machine_section_attributes") == (
        "pompe à vélo/00/pièce_a",
        "pompe à vélo/00/pièce_b",
    )
    chosen = DatasetConfig(train_machines=(unicodedata.normalize("NFD", "pompe à vélo"),))
    assert len(training_clips(dataset, chosen)) == 3
    assert len(scan(touch(tmp_path, paths[0], paths[2]), "dcase2026").clips) == 2
    twin = f"{paths[0].rpartition('/')[0]}/{other.format(0, 'a').rpartition('/')[2]}"
    (problem,) = scan(touch(tmp_path, twin), "dcase2026").problems
    assert problem.kind == "misnamed" and "the same name as section_00_" in problem.reason
    with pytest.raises(DataError, match="section 00 is in both"):
        scan(touch(tmp_path, paths[1]), "dcase2026")


def test_a_test_clip_has_no_class():
    name = "section_00_target_test_normal_0000_pro_y.wav"
    with pytest.raises(ValueError, match=name):
        class_name(parse_clip(f"gearboxEmu/test/{name}", "dcase2026"), "machine_section")


# selection

TREE = [
    *(f"fan/train/{TRAIN}", f"fan/train/{TARGET}", f"fan/test/{TEST}"),
    *(f"valveEmu/train/{TRAIN}", f"valveEmu/test/{TEST}"),
    *(f"Sander/train/{TRAIN}", f"Sander/test/{BLIND}"),
]


def test_which_clips_train():
    dataset = dataset_of(*TREE)

    def trains(**keys) -> list[str]:
        return [c.path for c in training_clips(dataset, DatasetConfig(**keys))]

    everything = [p for p in sorted(TREE) if "/train/" in p]
    assert trains() == everything
    assert trains(train_subsets=("development",)) == everything[1:]
    assert trains(train_subsets=("additional",)) == everything[:1]
    assert trains(train_machines=("valveEmu", "Sander")) == [everything[0], everything[3]]


def test_which_machines_are_scored():
    dataset = dataset_of(*TREE)
    # The references are the machine's training clips, also if the embedder is trained on others.
    config = DatasetConfig(train_subsets=("development",), train_machines=("fan",))
    scored = scored_machines(dataset, config)
    assert list(scored) == ["Sander", "fan", "valveEmu"]
    assert [c.path for c in scored["Sander"].train] == [f"Sander/train/{TRAIN}"]
    assert [c.path for c in scored["Sander"].test] == [f"Sander/test/{BLIND}"]
    assert [c.name for c in scored["fan"].train] == [TRAIN, TARGET]
    assert list(scored_machines(dataset, DatasetConfig(score_subsets=("evaluation",)))) == [
        "Sander"
    ]
    assert list(scored_machines(dataset, DatasetConfig(score_machines=("fan",)))) == ["fan"]


def test_references_come_from_the_scored_sections():
    name = "section_{}_source_train_normal_0000_a_1.wav"
    dataset = dataset_of(
        *("fan/train/" + name.format(s) for s in ("00", "01", "03")),
        "fan/test/section_00_source_test_normal_0000_a_1.wav",
        "fan/test/section_03_0000.wav",
        edition="dcase2022",
    )
    for subset, section in [("development", "00"), ("evaluation", "03")]:
        fan = scored_machines(dataset, DatasetConfig(score_subsets=(subset,)))["fan"]
        assert [c.section for c in fan.train + fan.test] == [section, section]


def test_absent_subsets_are_ignored():
    dataset = dataset_of(f"fan/train/{TRAIN}", f"fan/test/{TEST}")
    assert len(training_clips(dataset, DatasetConfig())) == 1
    assert list(scored_machines(dataset, DatasetConfig())) == ["fan"]


def test_an_impossible_selection_is_refused():
    dataset = dataset_of(*TREE)
    with pytest.raises(DataError, match="train_machines: 'fam'.*Sander, fan, valveEmu"):
        training_clips(dataset, DatasetConfig(train_machines=("fan", "fam")))
    with pytest.raises(DataError, match="train_machines: 'Sander'.* fan, valveEmu"):
        config = DatasetConfig(train_subsets=("development",), train_machines=("Sander",))
        training_clips(dataset, config)
    with pytest.raises(DataError, match="score_machines: 'fam'"):
        scored_machines(dataset, DatasetConfig(score_machines=("fam",)))
    blind = dataset_of(f"Sander/test/{BLIND}")
    with pytest.raises(DataError, match="training clips.*train_subsets.*evaluation"):
        training_clips(blind, DatasetConfig())
    with pytest.raises(DataError, match="test clips.*score_subsets.*development"):
        scored_machines(blind, DatasetConfig(score_subsets=("development",)))
    with pytest.raises(DataError, match="Sander section 00 .*dataset.score_machines"):
        scored_machines(blind, DatasetConfig())


def test_faulty_files_are_refused_or_skipped_and_counted():
    clean = dataset_of(*TREE)
    assert require_clean(clean, ()) == (clean, {})
    problems = (
        Problem(f"fan/train/{TARGET}", "truncated", "cut"),
        Problem("fan/train/x.wav", "misnamed", "what"),
        Problem("fan/train/y.wav", "misnamed", "what"),
        Problem("fan/train/z.wav", "misnamed", "what"),
    )
    dataset = Dataset(clean.root, clean.edition, clean.clips, problems)
    with pytest.raises(DataError) as caught:
        require_clean(dataset, ())
    assert "(3 misnamed, 1 truncated)" in str(caught.value)
    assert f"fan/train/{TARGET}: truncated: cut; fan/train/x.wav" in str(caught.value)
    assert str(caught.value).endswith("--dataset.skip misnamed truncated")
    with pytest.raises(DataError, match=r"\(1 truncated\)"):
        require_clean(dataset, ("misnamed",))
    kept, counts = require_clean(dataset, ("misnamed", "truncated", "empty"))
    assert counts == {"misnamed": 3, "truncated": 1}
    assert set(clean.clips) - set(kept.clips) == {parse_clip(f"fan/train/{TARGET}", "dcase2026")}
    assert kept.problems == ()


@pytest.mark.parametrize(
    ("name", "words"),
    [("all", "mean over all"), ("m" * 181, "too long"), ("\u0958" * 45, "too long")],
)
def test_names_of_machines_that_results_cannot_have(tmp_path, name, words):
    folder = tmp_path / name / "train"
    folder.mkdir(parents=True)
    (folder / "section_00_source_train_normal_0000_noAttribute.wav").touch()
    with pytest.raises(DataError, match=words):
        scan(tmp_path, "dcase2026")

import dataclasses
import re

import pytest

from asdjax.data.dcase import FaultyFile, attribute_pairs, parse_clip

TRAIN = "section_00_source_train_normal_0000_noAttribute.wav"
TEST = "section_00_target_test_anomaly_0199_noAttribute.wav"
BLIND = "section_00_0007.wav"


@pytest.mark.parametrize(
    ("path", "edition", "fields"),
    [
        (
            "ToyCar/train/section_00_source_train_normal_0003_noAttribute.wav",
            "dcase2026",
            ("ToyCar", "00", "train", "source", "normal", "", "development"),
        ),
        (
            "gearboxEmu/test/section_00_target_test_normal_0049_volt_2.5_pro_y.wav",
            "dcase2026",
            ("gearboxEmu", "00", "test", "target", "normal", "volt_2.5_pro_y", "development"),
        ),
        (
            "ToyDrone/train/section_00_target_train_normal_0990_car_A-1_mic_2_mic_1.WAV",
            "dcase2026",
            ("ToyDrone", "00", "train", "target", "normal", "car_A-1_mic_2_mic_1", "additional"),
        ),
        (
            "Sander/test/section_00_0199.wav",
            "dcase2026",
            ("Sander", "00", "test", None, None, "", "evaluation"),
        ),
        (
            "valve/train/section_02_source_train_normal_0000_strength_1_ambient.wav",
            "dcase2022",
            ("valve", "02", "train", "source", "normal", "strength_1_ambient", "development"),
        ),
        (
            "valve/train/section_04_source_train_normal_0000_.wav",
            "dcase2022",
            ("valve", "04", "train", "source", "normal", "", "additional"),
        ),
        (
            "valve/test/section_05_0000.wav",
            "dcase2022",
            ("valve", "05", "test", None, None, "", "evaluation"),
        ),
        (
            "bandsaw/test/section_00_source_test_anomaly_0000.wav",  # labels given afterwards
            "dcase2023",
            ("bandsaw", "00", "test", "source", "anomaly", "", "evaluation"),
        ),
        (
            "eval_data/raw/fan/train/section_00_source_train_normal_0000_a_1.wav",
            "dcase2026",
            ("fan", "00", "train", "source", "normal", "a_1", "additional"),
        ),
        (
            "dev_data/raw/unheard/test/section_00_0000.wav",
            "dcase2024",
            ("unheard", "00", "test", None, None, "", "development"),
        ),
    ],
)
def test_a_path_is_read(path, edition, fields):
    clip = parse_clip(path, edition)
    assert dataclasses.astuple(clip) == (path, *fields, None)
    assert clip.name == path.split("/")[-1]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (f"fan/test/{TRAIN}", "train, the folder test"),
        (f"fan/train/{TEST}", "test, the folder train"),
        ("fan/train/section_00_source_train_anomaly_0000_a.wav", "anomaly"),
        (f"fan/train/{BLIND}", "expected section_NN_<source or target>_train"),
        ("fan/test/section_00_0000_a_1.wav", "or section_NN_NNNN.wav"),
        ("fan/test/section_01_0000.wav", "section 01 "),
        ("fan/test/section_00_000.wav", "expected"),
        ("fan/test/section_00_sauce_test_normal_0000_a.wav", "expected"),
        ("fan/test/section_00_source_test_normal_٠٠٠٠_a.wav", "expected"),
        ("fan/train/Section_00_source_train_normal_0000_a.wav", "expected"),
        ("fan/train/section_00_source_train_normal_0000_a\n.wav", "unprintable"),
        ("fan/train/section_00_source_train_normal_0000_\udcff.wav", "unprintable"),
        ("fan/train/copy of section_00_source_train_normal_0000_a.wav", "expected"),
        ("fan/train/section_00_source_train_normal_00000_a.wav", "expected"),
        ("fan/train/section_00_source_train_normal_0000 (1).wav", "expected"),
        ("fan/train/section_00_source_train_normal_0000_a.flac", "in .wav"),
        ("fan/test/section_00_0000.mp3", "in .wav"),
        ("fan/test/section_00_0000.", "in .wav"),
        ("fan/test/section_00_0000_wav", "in .wav"),
        ("fan/test/section_00_0000 (1).wav", "expected"),
        ("f\x1bn/train/section_00_source_train_normal_0000_a.wav", "unprintable"),
    ],
)
def test_a_misnamed_file_is_reported_with_the_reason(path, reason):
    with pytest.raises(FaultyFile, match=re.escape(reason)) as caught:
        parse_clip(path, "dcase2026")
    assert caught.value.problem.path == path
    assert caught.value.problem.kind == "misnamed"


@pytest.mark.parametrize(
    "end", [" (1)", " - Copy", " copy 2", " (kopie)", "(1)", "[1]", "~", "\uff081\uff09", " "]
)
@pytest.mark.parametrize("text", ["noAttribute", "car_A1", ""])
def test_suffixes_of_copied_files_are_not_attributes(text, end):
    with pytest.raises(FaultyFile, match="misnamed: spaces, brackets or ~"):
        parse_clip(f"fan/train/section_00_source_train_normal_0000_{text}{end}.wav", "dcase2026")


@pytest.mark.parametrize("end", ["_copy", "_1", "-1", "1", ".wav", "_a_1"])
def test_text_after_hidden_attributes_is_refused(end):
    with pytest.raises(FaultyFile, match="misnamed: .*after noAttribute"):
        parse_clip(
            f"fan/train/section_00_source_train_normal_0000_noAttribute{end}.wav", "dcase2026"
        )


@pytest.mark.parametrize(
    "text",
    "car_A1_spd_28V_mic_1 f-n_A vel_6.5 pat_2 pat_00 strength_1_ambient volt_2.5_pro_Y "
    "noise_washing-machine mic_2_mic_1 v1pat_2_v2pat_None temp_25°C load_50% größe_3,5".split(),
)
def test_attributes_of_many_kinds_are_read(text):
    clip = parse_clip(f"fan/train/section_00_source_train_normal_0000_{text}.wav", "dcase2026")
    assert clip.attributes == text


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("", ()),
        ("car_A1_spd_28V", (("car", "A1"), ("spd", "28V"))),
        ("mic_2_mic_1", (("mic", "2"), ("mic", "1"))),
        ("f-n_A.5", (("f-n", "A.5"),)),
        ("strength_1_ambient", (("strength", "1"), ("ambient", ""))),
        ("ambient", (("ambient", ""),)),
    ],
)
def test_attributes_are_pairs(text, pairs):
    assert attribute_pairs(text) == pairs

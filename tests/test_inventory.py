import json
from pathlib import Path

from asdjax.audio import Header
from asdjax.config import DatasetConfig
from asdjax.dcase import Dataset, Problem, parse_clip
from asdjax.inventory import describe, render

PATHS = [
    "fan/train/section_00_source_train_normal_0000_volt_2.5_pro_Y.wav",
    "fan/train/section_00_source_train_normal_0001_volt_3.0_pro_Y.wav",
    "fan/train/section_00_target_train_normal_0990_volt_3.0_pro_Z.wav",
    "fan/test/section_00_source_test_normal_0000_volt_2.5_pro_Y.wav",
    "fan/test/section_00_target_test_normal_0000_volt_2.5_pro_y.wav",
    "fan/test/section_00_target_test_anomaly_0000_volt_2.5_pro_Y.wav",
    "Sander/train/section_00_source_train_normal_0000_noAttribute.wav",
    "Sander/test/section_00_0000.wav",
    "Sander/test/section_00_0001.wav",
]


def example() -> tuple[Dataset, dict[str, Header]]:
    clips = tuple(parse_clip(path, "dcase2026") for path in sorted(PATHS))
    problems = (Problem(PATHS[8], "truncated", "cut"),)
    dataset = Dataset(Path("data"), "dcase2026", clips, problems)
    headers = {c.path: Header(16000 * 10, 16000, 2, "PCM_16") for c in clips if c.machine == "fan"}
    headers[PATHS[0]] = Header(16000 * 11, 16000, 2, "PCM_16")
    headers |= {path: Header(96000, 16000, 1, "PCM_16") for path in PATHS[6:8]}
    return dataset, headers


def test_the_document():
    document = describe(*example(), DatasetConfig())
    assert json.loads(json.dumps(document)) == document
    assert document["schema"] == "asdjax.data/1"
    assert list(document["machines"]) == ["Sander", "fan"]
    fan, sander = document["machines"]["fan"], document["machines"]["Sander"]
    assert fan["sections"]["00"] == {
        "subsets": ["development"],
        "train": {"source": {"normal": 2}, "target": {"normal": 1}},
        "test": {"source": {"normal": 1}, "target": {"normal": 1, "anomaly": 1}},
    }
    assert sander["sections"]["00"]["subsets"] == ["additional", "evaluation"]
    assert sander["sections"]["00"]["test"] == {"unknown": {"unknown": 2}}
    assert (fan["seconds"], fan["channels"], fan["rates"]) == ([10, 11], [2], [16000])
    # Test names must not show: pro_y gives a label away.
    assert fan["attributes"] == {"pro": ["Y", "Z"], "volt": ["2.5", "3.0"]}
    assert document["classes"] == {
        "machine_section": 2,
        "machine_section_attributes": 4,
        "machine_section_attributes_domain": 4,
    }
    assert document["training"]["classes"] == ["Sander/00", "fan/00"]
    assert document["scored"] == {"Sander": {"test": 2, "train": 1}, "fan": {"test": 3, "train": 3}}
    assert document["problems"] == [{"path": PATHS[8], "kind": "truncated", "reason": "cut"}]
    assert document["notes"] == ["mono files, so that every view is the raw one: Sander"]


def test_a_selection_of_nothing_is_a_note():
    document = describe(*example(), DatasetConfig(train_machines=("fam",), score_subsets=()))
    assert document["training"]["clips"] == 0 and document["scored"] == {}
    assert [note.split(":")[0] for note in document["notes"][:2]] == [
        *("dataset.train_machines", "data")
    ]


def test_the_table():
    text = render(describe(*example(), DatasetConfig()))
    rows = {line.split()[0]: line.split() for line in text.splitlines()}
    assert rows["fan"] == "fan 00 development 2/1 1/1+1 10-11 2 16000 pro volt".split()
    assert rows["Sander"] == "Sander 00 additional+evaluation 1 2 6 1 16000 -".split()
    assert "problems: 1 truncated" in text and f"  {PATHS[8]}: truncated: cut" in text
    assert "trains: 4 clips of Sander, fan" in text and "scored: 5 clips of Sander, fan" in text

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import soundfile

from asdjax.cli import main
from asdjax.commands.data_report import describe, render
from asdjax.config.recipe import Config, DatasetConfig
from asdjax.data.audio import Header
from asdjax.data.corpus import open_corpus
from asdjax.data.dcase import Dataset, Problem, parse_clip
from asdjax.data.folders import Unused

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
        "pseudo": 4,
    }
    assert document["training"]["classes"] == ["Sander/00", "fan/00"]
    assert document["scored"] == {"Sander": {"test": 2, "train": 1}, "fan": {"test": 3, "train": 3}}
    assert document["problems"] == [{"path": PATHS[8], "kind": "truncated", "reason": "cut"}]
    assert document["unused"] == []
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


def test_audio_that_is_not_used_is_listed():
    dataset, headers = example()
    lost = Unused("ToyCar/Train", 3, "call the folder train", lost=True)
    noise = Unused("fan/supplemental", 1, "no use here", lost=False)
    problems = (Problem(lost.folder, "unused", str(lost)), *dataset.problems)
    more = [Unused(f"x/{i:02d}", 1, "why", lost=False) for i in range(30)]
    dataset = dataclasses.replace(dataset, problems=problems, unused=(lost, noise, *more))
    document = describe(dataset, headers, DatasetConfig())
    assert document["unused"][:2] == [
        {"folder": "ToyCar/Train", "files": 3, "why": "call the folder train"},
        {"folder": "fan/supplemental", "files": 1, "why": "no use here"},
    ]
    assert len(document["unused"]) == 32
    lines = render(document).splitlines()
    start = lines.index("audio that is not used:")
    assert lines[start + 1 : start + 3] == [
        *("  ToyCar/Train (3): call the folder train", "  fan/supplemental (1): no use here")
    ]
    assert lines[start + 20 : start + 22] == ["  x/17 (1): why", "  and 12 more (--json lists all)"]
    assert "problems: 1 truncated, 1 unused" in lines
    assert sum("ToyCar" in line for line in lines) == 1


def write(path: Path, rng, channels: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        samples = rng.integers(-9000, 9000, (160, channels), np.int16)
        soundfile.write(file, samples, 16000, "PCM_16", format="WAV")


def test_data_of_another_edition_are_recognised(tmp_path, rng, capsys, caplog):
    for machine in ("bearing", "fan"):
        write(tmp_path / machine / "train" / Path(PATHS[6]).name, rng, 1)
    assert main(["data", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    others = "(dcase2024, dcase2023, dcase2022 have the same machines)"
    assert f"{tmp_path}: read as dcase2025 {others}" in printed.err
    assert printed.out.startswith(f"{tmp_path} (dcase2025): 2 clips")
    assert open_corpus(tmp_path, Config()).dataset.edition == "dcase2025"
    assert f"{tmp_path}: read as dcase2025 {others}" in caplog.messages[0]
    wrong = ["--dataset.edition", "dcase2026"]
    assert main(["data", str(tmp_path), *wrong]) == 0
    hint = "read as dcase2026, but its machines and channels are those of dcase2022 or dcase2023"
    assert f"note: {hint}" in capsys.readouterr().out
    for path in tmp_path.rglob("*.wav"):  # sections that 2022 alone has
        path.rename(path.with_name(path.name.replace("section_00", "section_03")))
    assert main(["data", str(tmp_path)]) == 0
    assert f"{tmp_path}: read as dcase2022;" in capsys.readouterr().err
    assert main(["data", str(tmp_path), *wrong]) == 1
    assert f"note: {hint}" in capsys.readouterr().out
    assert main(["check", "system1", "--data", str(tmp_path), *wrong]) == 1
    printed = capsys.readouterr().err.splitlines()
    assert printed[0].startswith(f"{tmp_path}: {hint}") and printed[1].startswith("asdjax: ")
    assert main(["data", str(tmp_path), "--dataset.edition", "dcase2022"]) == 0
    assert "read as" not in capsys.readouterr().out


def test_names_that_cannot_be_printed_are_escaped(tmp_path, rng, capsys):
    name = Path(PATHS[6]).name
    for machine in ("fan", "e\x1b[31mn", "n\nl", "caf\udce9"):
        write(tmp_path / "root" / machine / "train" / name, rng, 2)
    write(tmp_path / "root" / "fan" / "train" / "b\x1b\n\udce9.wav", rng, 2)
    write(tmp_path / "root" / "t\x1b\udce9" / "Train" / name, rng, 2)
    root = tmp_path / "root"
    assert main(["data", str(root)]) == 1
    text = capsys.readouterr().out
    assert all(line.isprintable() for line in text.splitlines())
    assert r"  e\x1b[31mn: misnamed: " in text
    assert r"  fan/train/b\x1b\n\udce9.wav: misnamed" in text
    assert r"  t\x1b\udce9/Train (1): " in text and text.startswith(str(root))
    assert main(["data", str(root), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    json.dumps(document, ensure_ascii=False).encode()  # no lone surrogates
    assert [p["path"] for p in document["problems"]] == [
        *(
            r"caf\udce9",
            r"e\x1b[31mn",
            r"fan/train/b\x1b\n\udce9.wav",
            r"n\nl",
            r"t\x1b\udce9/Train",
        )
    ]
    assert main(["check", "system1", "--data", os.fspath(root)]) == 1
    error = capsys.readouterr().err
    assert r"caf\udce9: misnamed" in error and all(x.isprintable() for x in error.splitlines())

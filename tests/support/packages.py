"""Submission packages: a folder without faults, its zip file, and what verification says of it."""

import io
import json
import time
import zipfile
from itertools import product

import pytest
import yaml

from asdjax.challenge import submission, verification
from asdjax.errors import AsdjaxError

LABEL = "Doe_ABC_task2_1"
META = f"{LABEL}.meta.yaml"
FAN, BRUSH = ("fan", "00"), ("ToothBrush", "00")
CELLS = list(product(("source", "target"), ("normal", "anomaly")))
CLIPS = {
    FAN: [f"section_00_{d}_test_{x}_{i:04d}_volt_2.wav" for d, x in CELLS for i in range(2)],
    BRUSH: [f"section_00_{i:04d}.wav" for i in range(4)],
}
SCORES, DECISIONS = submission.score_file(FAN), submission.decision_file(FAN)


def meta(label=LABEL):
    """A meta.yaml without faults."""
    author = {
        "firstname": "Jo",
        "lastname": "Doe",
        "email": "jo@abc.org",
        "corresponding": True,
        "affiliation": {"institution": "ABC", "department": "Sound", "location": "Bern"},
    }
    figures = {"auc_source": 61.25, "auc_target": 50, "pauc": 49.9}
    return {
        "submission": {"label": label, "name": "N", "abbreviation": "A", "authors": [author]},
        "system": {
            "description": dict.fromkeys(verification.DESCRIPTION),
            "complexity": {"total_parameters": 7},
            "external_datasets": [{"name": "X", "url": "https://x.org"}],
            "source_code": None,
        },
        "results": {"development_dataset": {"fan": figures}},
    }


def write_system(folder, clips, tree=None):
    """Write score and decision files and meta.yaml of one system."""
    folder.mkdir(parents=True)
    for n, (key, names) in enumerate(clips.items()):
        scores = {name: i / 7 + n / 1000 for i, name in enumerate(sorted(names))}
        content = submission.score_bytes(scores)
        (folder / submission.score_file(key)).write_bytes(content)
        decided = {name: score > 0.3 for name, score in scores.items()}
        (folder / submission.decision_file(key)).write_bytes(submission.decision_bytes(decided))
    text = yaml.safe_dump(tree or meta(folder.name), sort_keys=False)
    (folder / f"{folder.name}.meta.yaml").write_text(text)
    return folder


def write_expected(folder, clips=CLIPS):
    """Write the list of clips that a package must cover, beside the systems' folder."""
    document = verification.expected_document(clips, "dcase2026")
    (folder / "expected.json").write_text(json.dumps(document))


@pytest.fixture
def system(tmp_path):
    """The folder of a system without faults, in a package without faults."""
    folder = write_system(tmp_path / "task2" / LABEL, CLIPS)
    write_expected(tmp_path)
    return folder


def zip_bytes(folder, *more, method=zipfile.ZIP_DEFLATED, comment=b""):
    """The package in a folder, with more (name, content) in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"task2/{folder.name}/{file.name}")
        for name, content in more:
            archive.writestr(name, content)
        archive.comment = comment
    return buffer.getvalue()


def faults(path):
    """All faults of a package, none of them long, found in bounded time."""
    began = time.process_time()
    found = verification.verify(path)[1]
    assert time.process_time() - began < 20  # a second or two, but for a busy machine
    assert all(len(fault) < 1000 for fault in found)
    return found


def error(path):
    """The sentence that refuses a package."""
    with pytest.raises(AsdjaxError) as refusal:
        faults(path)
    message = str(refusal.value)
    assert message.startswith(f"{path}: ") and len(message) < 500
    return message

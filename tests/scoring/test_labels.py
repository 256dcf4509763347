"""Scores joined to labels and domains, of file names and of a ground truth."""

import pytest

from asdjax.errors import AsdjaxError
from asdjax.scoring.labels import labelled


def row(name, label="", domain="", section="00", split="test", score="1.5", decision="0"):
    return {
        "path": f"fan/{split}/{name}", "split": split, "section": section, "domain": domain,
        "label": label, "score": score, "threshold": "1", "decision": decision, "mild": "7",
    }  # fmt: skip


NAMED = [
    row("a.wav", "anomaly", "target", score="2.5", decision="1"),
    row("b.wav", "normal", "source"),
    row("t.wav", "normal", "source", split="train"),
]
UNNAMED = [row("a.wav", score="2.5", decision="1"), row("b.wav")]
TRUTH = {("fan", "00"): {"a.wav": (True, True), "b.wav": (False, False)}}


def test_labels_of_names_and_of_the_ground_truth():
    for rows, truth in ((NAMED, None), (UNNAMED, TRUTH), (NAMED, TRUTH), (NAMED[::-1], None)):
        machines, notes = labelled({"fan": rows}, truth)
        found = machines["fan"]["00"]
        assert found.name == ("fan/test/a.wav", "fan/test/b.wav") and not notes
        assert found.score.tolist() == [2.5, 1.5]
        assert found.is_anomaly.tolist() == found.is_target.tolist() == [True, False]
        assert found.decision.tolist() == [True, False]
    found = labelled({"fan": NAMED}, None, "mild")[0]["fan"]["00"]
    assert found.score.tolist() == [7, 7] and found.decision is None


def test_clips_without_labels_are_left_out_and_counted():
    machines, notes = labelled({"fan": [*NAMED, row("c.wav")], "pump": UNNAMED})
    assert list(machines) == ["fan"] and len(machines["fan"]["00"].name) == 2
    assert notes == [
        "fan section 00: 1 of 3 test clips have no label and are not evaluated",
        "pump section 00: 2 of 2 test clips have no label and are not evaluated",
    ]
    truth = {("fan", "00"): {**TRUTH["fan", "00"], "z.wav": (True, True)}}
    machines, notes = labelled({"fan": UNNAMED, "pump": UNNAMED}, truth)
    assert list(machines) == ["fan"]
    assert notes[0] == "fan section 00: 1 clips of the ground truth were not scored"
    more = TRUTH | {("Fan", "00"): TRUTH["fan", "00"]}
    (note,) = labelled({"fan": UNNAMED}, more)[1]
    assert "Fan section 00" in note


def test_development_and_evaluation_machines_together_are_said():
    machines, notes = labelled({"fan": UNNAMED, "pump": NAMED}, TRUTH)
    assert list(machines) == ["fan", "pump"] and len(notes) == 1
    assert "development and evaluation machines" in notes[0]


@pytest.mark.parametrize(
    ("rows", "truth", "message"),
    [
        (
            NAMED,
            {("fan", "00"): {"a.wav": (False, True)}},
            "fan section 00: a.wav: its name says target anomaly, the ground truth target normal",
        ),
        (NAMED, {("fan", "00"): {"b.wav": (False, True)}}, "the ground truth target normal"),
        (
            [*UNNAMED, row("d.wav"), row("c.wav")],
            TRUTH,
            r"fan section 00: the ground truth lacks c.wav \(and 1 others\)",
        ),
        (NAMED, {("fan", "01"): {}}, "is of fan section 01, the scores are of fan section 00"),
    ],
)
def test_ground_truth_that_does_not_fit_is_refused(rows, truth, message):
    with pytest.raises(AsdjaxError, match=message):
        labelled({"fan": rows}, truth)

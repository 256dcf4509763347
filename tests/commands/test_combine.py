"""asdjax combine: several runs' scores become one run's."""

import dataclasses
import shlex

import numpy as np
import pytest
from support.scored_runs import make_run, score_rows

from asdjax import cli
from asdjax.challenge import meta_yaml
from asdjax.commands.combine import combine
from asdjax.commands.evaluate import evaluate
from asdjax.commands.score import score
from asdjax.errors import AsdjaxError
from asdjax.scoring import backends
from asdjax.scoring.combined_scores import CombinedScores
from asdjax.store.runs import Run


def rows_of(rng, machine, lift=1.0, sections=("00",)):
    """Rows of test clips and of six training clips per section, two of them of the target."""
    rows = score_rows(rng, machine, per_cell=3, lift=lift, sections=sections)
    tests = [row for row in rows if row["split"] == "test"]
    training = [row for row in rows if row["split"] == "train"]
    for row in training:
        for i in range(6):
            number = repr(float(rng.normal()))
            tests.append(
                {
                    **row,
                    "path": row["path"].replace("_x.wav", f"_{i}.wav"),
                    "domain": "target" if i > 3 else "source",
                    **dict.fromkeys(("score", "raw", "mild"), number),
                }
            )
    return sorted(tests, key=lambda row: row["path"])


def rescored(rng, rows):
    return [{**row, "score": repr(5 * float(row["score"]) + float(rng.normal()))} for row in rows]


@pytest.fixture
def members(rng, tmp_path):
    first = {"fan": rows_of(rng, "fan", sections=("00", "01")), "valve": rows_of(rng, "valve")}
    second = {machine: rescored(rng, rows) for machine, rows in first.items()}
    return [
        make_run(tmp_path / name, of, seed=i)
        for i, (name, of) in enumerate({"a": first, "b": second}.items())
    ]


def combined_by_hand(tables, how):
    """The score of each clip by its path, with loops over the rows of each member."""
    found = {}
    for i, row in enumerate(tables[0]):
        values = []
        for table in tables:
            normal = [
                float(other["score"])
                for other in table
                if other["split"] == "train" and other["section"] == row["section"]
            ]
            value = float(table[i]["score"])
            if how != "rank":
                values.append((value - np.mean(normal)) / np.std(normal))
                continue
            normal = sorted(normal)
            if value > normal[-1]:
                values.append(1 + (value - normal[-1]) / (normal[-1] - normal[0]))
            elif value < normal[0]:
                values.append((value - normal[0]) / (normal[-1] - normal[0]))
            else:
                below = max(j for j, other in enumerate(normal) if other <= value)
                rank = float(below)
                if below + 1 < len(normal):
                    rank += (value - normal[below]) / (normal[below + 1] - normal[below])
                values.append(rank / (len(normal) - 1))
        combine_values = {"minimum": min, "maximum": max}.get(how, np.mean)
        found[row["path"]] = combine_values(values)
    return found


@pytest.mark.parametrize("how", ["mean", "minimum", "maximum", "rank"])
def test_scores_are_those_of_the_definition(members, tmp_path, how):
    run = combine(members, tmp_path / "both", how)
    score(run)
    for machine in ("fan", "valve"):
        expected = combined_by_hand([member.read_scores(machine) for member in members], how)
        found = {row["path"]: float(row["score"]) for row in run.read_scores(machine)}
        assert found.keys() == expected.keys()
        for path, value in expected.items():
            assert found[path] == pytest.approx(value, rel=1e-12, abs=1e-12)
    assert evaluate(run, resamples=100)["machines"].keys() == {"fan", "valve"}


def test_equal_ranks_of_equal_training_scores():
    points = np.array([[0.0], [1.0], [1.0], [3.0]])
    config = CombinedScores(combine="rank")
    fitted = backends.fit(config, points, np.zeros(4, bool))
    np.testing.assert_allclose(fitted.leave_one_out(), [0, 1 / 3, 1 / 3, 1])
    np.testing.assert_allclose(fitted.score(np.array([[6.0], [-3.0]])), [2, -1])
    with pytest.raises(AsdjaxError, match="equal scores"):
        backends.fit(config, np.ones((4, 1)), np.zeros(4, bool))


def test_a_second_start_writes_nothing_and_other_scores_need_overwrite(
    members, tmp_path, rng, capsys
):
    out = tmp_path / "both"
    arguments = ["combine", *(str(run.path) for run in members), "--out", str(out)]
    for _ in range(2):
        assert cli.main(arguments) == 0
    assert "combines these scores already" in capsys.readouterr().err
    before = Run(out).read_scores("fan")
    assert cli.main([*arguments, "--how", "rank"]) == 1
    assert "(--overwrite)" in capsys.readouterr().err
    assert Run(out).read_scores("fan") == before
    assert cli.main([*arguments, "--how", "rank", "--overwrite"]) == 0
    assert Run(out).read_scores("fan") != before
    assert cli.main([*arguments, "--overwrite"]) == 0
    with members[1].lock():  # its decisions alone change
        for machine in ("fan", "valve"):
            decided = [{**r, "threshold": "0.1"} for r in members[1].read_scores(machine)]
            members[1].write_scores(machine, decided)
        members[1].write_thresholds({"schema": "asdjax.thresholds/1", "other": True})
    assert cli.main(arguments) == 0
    changed = {m: rescored(rng, members[1].read_scores(m)) for m in ("fan", "valve")}
    for machine, rows in changed.items():
        with members[1].lock():
            members[1].write_scores(machine, rows)
    with members[1].lock():
        members[1].write_thresholds({"schema": "asdjax.thresholds/1", "again": True})
    assert cli.main(arguments) == 1
    assert "(--overwrite)" in capsys.readouterr().err
    assert cli.main([*arguments, "--overwrite"]) == 0


def test_overwriting_keeps_the_decision_and_says_what_changes(members, tmp_path, capsys):
    out = tmp_path / "both"
    arguments = ["combine", *(str(run.path) for run in members), "--out", str(out)]
    assert cli.main(arguments) == 0
    assert cli.main(["score", str(out), "--decision.level", "0.7"]) == 0
    capsys.readouterr()
    assert cli.main([*arguments, "--how", "rank", "--overwrite"]) == 0
    config = Run(out).config()
    assert (config.decision.level, config.backend.combine) == (0.7, "rank")
    said = capsys.readouterr().err
    assert f"{out}: changed by this command: backend.combine: mean -> rank\n" in said


def test_a_damaged_combination_is_made_again_as_its_refusal_says(members, tmp_path):
    out = tmp_path / "both"
    arguments = ["combine", *(str(run.path) for run in members), "--out", str(out)]
    assert cli.main(arguments) == 0
    embeddings = Run(out).embeddings_path("raw", "fan")
    before = embeddings.read_bytes()
    embeddings.write_bytes(before[:-4])
    with pytest.raises(AsdjaxError, match="asdjax combine .* --overwrite again") as refusal:
        Run(out).read_embeddings("raw", "fan")
    command = str(refusal.value).partition("run asdjax ")[2].removesuffix(" again")
    assert cli.main(shlex.split(command)) == 0
    assert embeddings.read_bytes() == before


def test_runs_that_do_not_fit_are_refused(members, tmp_path, rng):
    out = tmp_path / "both"
    with pytest.raises(AsdjaxError, match="named twice"):
        combine([members[0], members[0]], out, "mean")
    fan = members[0].read_scores("fan")
    fewer = make_run(tmp_path / "fewer", {"fan": fan[1:], "valve": rows_of(rng, "valve")})
    with pytest.raises(AsdjaxError, match="other clips of fan"):
        combine([members[0], fewer], out, "mean")
    one = make_run(tmp_path / "one", {"fan": fan})
    with pytest.raises(AsdjaxError, match="combine runs of the same machines"):
        combine([members[0], one], out, "mean")
    tables = {m: members[0].read_scores(m) for m in ("fan", "valve")}
    others = make_run(tmp_path / "others", tables, train="other contents")
    with pytest.raises(AsdjaxError, match="other contents"):
        combine([members[0], others], out, "mean")
    (members[1].path / "scores" / "fan.csv").write_text("changed")
    with pytest.raises(AsdjaxError, match="asdjax score"):
        combine(members, out, "mean")
    assert not out.exists()
    with pytest.raises(SystemExit):
        cli.main(["combine", str(members[0].path), "--out", str(out), "--how", "sum"])


def test_what_was_combined_is_stated(members, tmp_path):
    run = combine(members, tmp_path / "both", "minimum")
    config = run.config()
    assert config.model.members == ("a", "b")
    assert len(set(config.model.scores)) == 2
    described = meta_yaml.describe(config, run.finished_training()["classes"])
    method = described["machine_learning_method"]
    assert "combination of 2 systems" in method and "minimum of the systems' scores" in method
    assert described["ensemble_method_subsystem_count"] == 2
    of_member = meta_yaml.describe(members[0].config(), ["fan", "valve"])
    for key in ("front_end", "data_augmentation", "domain_generalization_method"):
        assert described[key] == of_member[key]
    assert "train the embedder" in described["development_data_usage"]
    assert "quantile of the normal training clips' combined scores" in described["decision_making"]
    assert cli.main(["score", str(run.path), "--backend.name", "local_density"]) == 1
    assert cli.main(["select", str(run.path)]) == 1
    marked = dataclasses.replace(config.model, members=())
    with pytest.raises(AsdjaxError, match="no network of its own"):
        marked.build(None, 16000, None)

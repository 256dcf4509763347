"""Work by several processes: agreement, resumption, signals, and what must not differ."""

import json
import shutil
import signal
import time

import numpy as np
import pytest
from conftest import DEVICES_EMBEDDING, DEVICES_LOSS, TRACE, relative
from support.host_kills import HostKills, ended_well
from support.hosts import TINY, Together, command, ten_steps
from support.kills import leftovers

from asdjax import cli
from asdjax.store.checkpoint import Checkpoints
from asdjax.store.runs import Run

pytestmark = pytest.mark.usefixtures("compiled_fast")


@pytest.fixture(scope="module")
def in_two_processes(tmp_path_factory, compiled_fast):
    """What two processes of two devices found: arrays and facts."""
    out = tmp_path_factory.mktemp("two")
    program = ["-m", "support.hosts", "COORDINATOR", "2"]
    with Together(*([*program, str(i), str(out / str(i))] for i in (0, 1))) as together:
        ends = together.ends()
    assert [code for code, _ in ends] == [0, 0], ends
    arrays = [dict(np.load(out / f"{i}.npz")) for i in (0, 1)]
    return arrays, [json.loads((out / f"{i}.json").read_text()) for i in (0, 1)]


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_two_processes_agree_with_one_in_float64(in_two_processes, float64, devices):
    alone = ten_steps((0, 1), devices)
    for found in in_two_processes[0]:
        assert np.allclose(found["loss"], alone["loss"], rtol=DEVICES_LOSS, atol=0)
        assert relative(found["embedding"], alone["embedding"]) < DEVICES_EMBEDDING
        assert found["scale"] == pytest.approx(float(alone["scale"]), rel=DEVICES_LOSS)


def test_processes_know_the_same(in_two_processes):
    first, second = in_two_processes[1]
    assert first == second
    assert first["shared"] == [{"process": 0, "text": "é"}, {"process": 1, "text": "é" * 6}]
    expected = np.array([[-0.0, 0.0], [np.pi, 0]]), np.array(-0.0, np.float32)
    assert first["sent"] == [a.tobytes().hex() for a in expected]
    assert first["tree"] == {"a": {"b": ["float64", expected[0].tolist()]}, "none": {}}
    assert first["rows"] == [
        {"rows": [[-0.0, 0.0]], "flags": [True, False]},
        {"rows": [[-0.0, 0.0], [np.pi, 1.0]], "flags": [True, True]},
    ]
    assert first["asked"] == [False, True, False]
    assert "processes 0 and 1 differ in the clips, the weights" in first["differ"]


def training(corpus_root, run, *options, devices=0):
    data = ["--data", str(corpus_root), "--run", str(run), "--train.devices", str(devices)]
    return ["train", TINY, *data, *options]


def logged(run):
    return [row["loss"] for row in Run(run).read_log()]


def test_preempted_and_continued_in_one_process(corpus_root, tmp_path):
    """SIGTERM to one of two processes saves a checkpoint; one process goes on from it."""
    run, options = tmp_path / "run", ("--train.epochs", "200", "--train.checkpoint-every", "200")
    args = training(corpus_root, run, *options)
    with Together(command(*args), command(*args, number=1)) as together:
        while not (run / "log.jsonl").exists():
            assert together.processes[0].poll() is None, together.ends()
            time.sleep(0.05)
        together.processes[1].send_signal(signal.SIGTERM)
        ends = together.ends()
    saved = Checkpoints(Run(run).checkpoints).latest()
    words = f"asdjax: interrupted: step {saved} of"
    assert [code for code, _ in ends] == [143, 143], ends
    assert all(words in said and "Traceback" not in said for _, said in ends)
    assert len(logged(run)) == saved
    options = "--train.epochs", str(saved // 3 + 1)  # of three steps
    assert cli.main(training(corpus_root, run, *options, devices=1)) == 0
    record = Run(run).finished_training()
    assert record["processes"] == 1 and len(logged(run)) == record["steps"] > saved


def test_extraction_is_that_of_one_process_bit_for_bit(corpus_root, tmp_path):
    """Of two devices each, with an unfinished batch, and clips to learn from in one batch only."""
    trained, run, recipe = tmp_path / "trained", tmp_path / "run", tmp_path / "views.yaml"
    recipe.write_text(
        f"extends: {TINY}\nextract:\n  batch_size: 24\n  views:\n"
        "    - {name: raw, method: raw}\n    - {name: calibrated, method: calibrated}\n"
    )
    options = ["--run", str(trained), "--train.devices", "2", "--train.epochs", "1"]
    assert cli.main(["train", str(recipe), "--data", str(corpus_root), *options]) == 0
    expected = extracted_by_one(trained)
    shutil.copytree(trained, run)
    missing = [path for path in expected if path.stem in ("fan", "ToothBrush")]
    assert len(missing) == 2 * 3  # of two views, and the comparison of channels
    for path in missing:
        (run / path).unlink()
    folders = run, tmp_path / "none"  # process 0 alone reads and writes the run
    pair = [command("extract", str(folder), number=i) for i, folder in enumerate(folders)]
    with Together(*pair) as together:
        ends = together.ends()
    assert [code for code, _ in ends] == [0, 0], ends
    assert "extracting 64/64" in ends[0][1] and not ends[1][1]  # the third machine is finished
    assert extracted(run) == expected and not folders[1].exists()


@pytest.mark.slow  # two processes, twice
@pytest.mark.parametrize(("number", "hit"), [(signal.SIGTERM, 1), (signal.SIGKILL, 0)])
def test_extraction_killed_and_continued(corpus_root, tmp_path, number, hit):
    run, again = tmp_path / "run", tmp_path / "again"
    args = training(corpus_root, run, "--train.epochs", "1", "--extract.batch-size", "4", devices=2)
    assert cli.main(args) == 0
    shutil.copytree(run, again)
    pair = [command("extract", str(run), number=i, timeout=30) for i in (0, 1)]
    with Together(*pair) as together:
        while not (run / "embeddings" / "machines.json").exists():
            assert together.processes[0].poll() is None, together.ends()
            time.sleep(0.05)
        together.processes[hit].send_signal(number)
        ends = together.ends()
    assert all(
        code != 0 and ended_well(code, said, number if i == hit else None)
        for i, (code, said) in enumerate(ends)
    ), ends
    with Together(*pair) as together:
        ends = together.ends()
    assert [code for code, _ in ends] == [0, 0], ends
    assert leftovers(run) == [] and extracted(run) == extracted_by_one(again)


def extracted(run):
    """The content of every file that extraction writes, by its place in the run."""
    files = [run / "artefacts.json", *run.glob("embeddings/**/*.*"), *run.glob("diagnostics/*")]
    return {path.relative_to(run): path.read_bytes() for path in files if path.exists()}


def extracted_by_one(run):
    """The same, extracted by one process of two devices; with eight it would round otherwise."""
    with Together(["-m", "asdjax", "extract", str(run)]) as alone:
        ((code, said),) = alone.ends()
    assert code == 0, said
    return extracted(run)


@pytest.mark.slow  # two processes, several times, each with seconds of tracing
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("hit", [(0,), (1,)])
def test_killed_and_continued(host_kills, number, hit):
    assert host_kills.send(number, hit, delay=3.0) == []


@pytest.fixture(scope="module")
def host_kills(tmp_path_factory):
    return HostKills(tmp_path_factory.mktemp("kills"))


@pytest.mark.slow  # two processes for a whole run
def test_run_in_two_processes(corpus_root, tmp_path):
    together_run, alone = tmp_path / "two", tmp_path / "one"
    validation = "--train.validation", "0.1", "--train.drop-last"  # of equal batches anywhere
    begun = training(corpus_root, together_run, *validation, "--train.epochs", "1", devices=1)
    assert cli.main(begun) == 0  # on a single device: two processes of two continue
    args = ["run", *training(corpus_root, together_run, *validation)[1:]]
    with Together(command(*args), command(*args, number=1)) as together:
        ends = together.ends()
    assert [code for code, _ in ends] == [0, 0], ends
    assert Run(together_run).scored_machines() == ["ToothBrush", "bearingEmu", "fan"]
    found = extracted(together_run)
    shutil.rmtree(together_run / "embeddings")
    assert extracted_by_one(together_run) == found
    assert cli.main(training(corpus_root, alone, *validation, devices=4)) == 0
    logs = [Run(path).read_log() for path in (together_run, alone)]
    for two, one in zip(*logs, strict=True):
        assert two.keys() == one.keys()
        for name in {"loss", "validation_loss"} & two.keys():
            assert two[name] == pytest.approx(one[name], rel=TRACE[-1])


def test_what_differs_is_an_error(corpus_root, tmp_path):
    args = [training(corpus_root, tmp_path / "run", "--seed", str(seed)) for seed in (0, 1)]
    with Together(command(*args[0]), command(*args[1], number=1)) as together:
        ends = together.ends()
    assert [code for code, _ in ends] == [1, 1]
    for _, said in ends:
        assert said.count("asdjax: processes 0 and 1 differ in the settings: ") == 1
        assert "Traceback" not in said and "Terminating" not in said
    assert not (tmp_path / "run").exists()


def test_no_coordinator(corpus_root, tmp_path):
    args = training(corpus_root, tmp_path / "run")
    with Together(command(*args, number=1, timeout=1)) as together:
        ((code, said),) = together.ends()
    assert code == 1 and said.count("\n") == 1
    assert f"--coordinator {together.coordinator}: no answer for 1 s (" in said
    assert not (tmp_path / "run").exists()


def test_another_does_not_come(corpus_root, tmp_path):
    """JAX ends process 0, and says why; its stack trace is its own."""
    with Together(command(*training(corpus_root, tmp_path / "run"), timeout=1)) as together:
        ((code, said),) = together.ends()
    assert code == -signal.SIGABRT
    assert "Terminating process because the JAX distributed service detected" in said
    assert "asdjax: " not in said and "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_no_job(corpus_root, tmp_path):
    args = ["-m", "asdjax", *training(corpus_root, tmp_path / "run", "--distributed")]
    with Together(args) as together:
        ((code, said),) = together.ends()
    assert code == 1 and said.count("\n") == 1
    assert said.startswith("asdjax: JAX cannot join the other processes (")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--coordinator", "a:1"], "give all three"),
        (["--num-processes", "2"], "give all three"),
        (["--coordinator", "a", "--num-processes", "2", "--process-id", "0"], "HOST:PORT"),
        (["--coordinator", "a:1", "--num-processes", "2", "--process-id", "2"], "at most 1"),
        (["--coordinator", "a:1", "--num-processes", "0", "--process-id", "0"], "at least 1"),
        (
            ["--distributed", "--coordinator", "a:1", "--num-processes", "2", "--process-id", "0"],
            "omit one",
        ),
    ],
)
def test_wrong_options(corpus_root, tmp_path, capsys, options, sentence):
    assert cli.main(training(corpus_root, tmp_path / "run", *options)) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1

"""The command line: paths, exit codes, JAX's environment variables, pipes and terminals."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from support.machines import folder

from asdjax.arguments import AnyPath, PathOrUrl, UserPath, parse, path_text, require_apart
from asdjax.cli import VERBS, main
from asdjax.commands import completion
from asdjax.config import recipe as configs
from asdjax.config import registry, schema, strict_yaml
from asdjax.config.interfaces import Pooling
from asdjax.convert import __main__ as convert
from asdjax.errors import AsdjaxError, ConfigError, UsageError
from asdjax.models.beats_encoder import BEATsConfig
from asdjax.models.multiresnet_encoder import MultiResNetConfig
from asdjax.models.poolings import Mean
from asdjax.scoring.local_density import LocalDensity
from asdjax.verbs import Batch, Check

HERE = Path(__file__).parent
TINY = str(HERE / "tiny.yaml")


def asdjax(*args, stdout=subprocess.PIPE, **environment):
    """Run the command as a separate process."""
    return subprocess.run(
        [sys.executable, "-m", "asdjax", *map(str, args)],
        env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )


# paths


PATHS = UserPath, AnyPath, PathOrUrl


def kinds(hint):
    """A type and all types in it, except `PATHS`."""
    checked = {*(extra for kind in PATHS for extra in get_args(kind)[1:])}
    if checked & set(getattr(hint, "__metadata__", ())):
        return []
    return [hint, *(kind for part in get_args(hint) for kind in kinds(part))]


@pytest.mark.parametrize(
    "verb", [*VERBS.values(), *Batch.commands.values(), *convert.COMMANDS.values()]
)
def test_every_path_among_the_arguments_is_a_user_path(verb):
    if dataclasses.is_dataclass(verb):
        hints = get_type_hints(verb, include_extras=True)
        for field in dataclasses.fields(verb):
            assert Path not in kinds(hints[field.name]), field.name


@pytest.mark.parametrize(
    "args",
    [
        ["train", "system1", "--data", "{}", "--run", "r"],
        ["train", "system1", "--data", "d", "--run", "{}"],
        ["run", "system1", "--data", "d", "--run={}"],
        ["check", "{}", "--data", "d"],
        ["check", "--data", "d", "{}"],
        ["check", "asdkit_lora", "--data", "d", "--model.weights", "{}"],
        ["extract", "r", "--data", "{}"],
        ["embed", "r", "a.wav", "{}", "--out", "e.npz"],
        ["embed", "r", "a.wav", "--out", "{}"],
        ["score", "{}"],
        ["evaluate", "--scores", "s", "--truth", "{}"],
        ["compare", "a", "{}"],
        ["submit", "r", "--info", "{}", "--out", "o"],
        ["submit", "--verify", "{}"],
        ["data", "{}"],
        ["synth", "{}"],
        ["convert", "beats", "{}", "b"],
        ["convert", "asdkit", "a.pt", "r", "--config", "{}"],
        ["convert", "torch", "r", "{}"],
        ["batch", "plan", "r", "d", "--out", "{}"],
        ["batch", "plan", "{}", "d", "--out", "o"],
        ["batch", "run", "{}"],
    ],
)
@pytest.mark.parametrize("path", ["gs://bucket/r1", ""])
def test_urls_and_empty_paths_are_refused(args, path, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([arg.replace("{}", path) for arg in args]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("asdjax: ")
    assert (path or "empty path") in lines[0]
    assert not list(tmp_path.iterdir())


def test_a_recipe_that_names_a_bucket_is_a_faulty_file(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: {name: beats, weights: 'gs://bucket/beats'}\n")
    assert main(["check", str(recipe), "--data", "d"]) == 1
    assert f"{recipe}: model.weights: gs://bucket/beats: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "given", ["file:///home/x", "s3://b", "hdfs+x://h/y", "", "a\0b", "a\udcff", "~nobody-here/x"]
)
def test_paths_refused(given):
    with pytest.raises(AsdjaxError):
        path_text(given)


@pytest.mark.parametrize("given", ["a:b", "c://d"[:2], "a b", "./~x", "Größe", "x/y://z", "."])
def test_paths_that_are_not_changed(given):
    assert path_text(given) == given


def test_home_directories(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert path_text("~") == str(tmp_path) and path_text("~/a") == str(tmp_path / "a")
    assert path_text("~root/a").endswith("/a") and not path_text("~root/a").startswith("~")
    args = ["--machines", "fan", "--train-source", "1", "--train-target", "0", "--seconds", "0.5"]
    assert main(["synth", "~/data", *args, "--test-per-cell", "1"]) == 0
    assert (tmp_path / "data" / "fan" / "train").is_dir()
    assert main(["data", "~/data"]) == 0
    (tmp_path / "recipe.yaml").write_text(Path(TINY).read_text())
    assert main(["train", "~/recipe.yaml", "--data=~/data", "--run=~/data/r"]) == 2
    assert f"--run {tmp_path}/data/r: lies in the data set" in capsys.readouterr().err


def test_neither_run_nor_data_set_may_contain_the_other(tmp_path):
    data, link = tmp_path / "data", tmp_path / "link"
    data.mkdir()
    link.symlink_to(data)
    for run in (data, link, data / "r", link / "a" / "r", data / "a" / ".." / "r", tmp_path):
        with pytest.raises(UsageError):
            require_apart(run, data)
    for run in (tmp_path / "r", tmp_path / "data2", data / ".." / "r"):
        require_apart(run, data)


# exit codes


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["check", TINY, "--data", "d", "--train.epochs", "0"], 2),
        (["check", TINY, "--data", "d", "--loss.dynamic", "--loss.name", "arcface"], 2),
        (["check", TINY, "--data", "d", "--loss.name", "nope"], 2),
        (["check", "{}", "--data", "d"], 1),
        (["check", "{}", "--data", "d", "--train.epochs", "0"], 1),  # the file's fault comes first
    ],
)
def test_a_faulty_override_is_wrong_usage_and_a_faulty_recipe_is_not(args, code, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("train: {epochs: 0}\n")
    assert main([arg.replace("{}", str(recipe)) for arg in args]) == code


@pytest.mark.parametrize(
    ("options", "i", "expected"),
    [
        ([], 1, {"method": "wiener", "alpha": 0.5}),
        (["--extract.views.1.alpha", "0.7"], 1, {"name": "mild", "alpha": 0.7, "beta": 0.05}),
        (["--extract.views.0.method", "wiener"], 0, {"name": "raw", "method": "wiener"}),
        (
            ["--extract.views.0.method=calibrated", "--extract.views.0.context", "9"],
            0,
            {"name": "raw", "method": "calibrated", "context": 9},
        ),
        (
            ["--extract.views.1.method", "cancel", "--extract.views.1.hop", "256"],
            1,
            {"name": "mild", "method": "cancel", "n_fft": 1024, "hop": 256},
        ),
        (["--extract.views.2", "calibrated"], 2, {"name": "strong", "alpha": 1.0, "context": 8}),
    ],
)
def test_options_choose_and_change_views(options, i, expected):
    args = ["system1", "--data", "d", *options]
    views = parse("check", VERBS["check"], args).config.extract.views
    assert len(views) == 3 and {k: getattr(views[i], k) for k in expected} == expected
    others = configs.load("system1").extract.views
    assert [v for j, v in enumerate(views) if j != i] == [v for j, v in enumerate(others) if j != i]


@pytest.mark.parametrize(
    "args",
    [
        ["check", TINY, "--nope", "--data", "d"],
        ["check", TINY],
        ["check", TINY, "--data", "d", "--backend.kmeans-clusters", "8"],  # of another one
        ["check", TINY, "--data", "d", "--backend", "kmeans", "--backend.smote.ratio", "0.2"],
        ["embed", "r", "a.wav", "--out", "e.npz", "--pool", "nope"],
        ["embed", "r", "a.wav", "--out", "e.npz", "--channel", "nope"],
        ["convert", "nope"],
        ["convert", "beats", "a"],
        ["convert"],
        *(
            ["synth", "d", *words]
            for words in (
                ("--train-source", "1_0"), ("--train-source", "\u0663"), ("--seed", "010"),
                ("--seconds", "0.9_5"), ("--seconds", "1e"), ("--seconds", "\u0663.5"),
            )
        ),
    ],
)  # fmt: skip
def test_what_the_parser_refuses_is_wrong_usage(args, capsys):
    with pytest.raises(SystemExit) as end:
        main(args)
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert printed.err and not printed.out


@pytest.mark.parametrize("option", ["--seed", "--train-source", "--seconds"])
def test_a_number_of_thousands_of_digits_is_one_sentence(option, capsys):
    with pytest.raises(SystemExit) as end:
        main(["synth", "d", option, "9" * 5000])
    printed = capsys.readouterr().err
    assert end.value.code == 2 and len(printed) < 2000
    assert f"Error parsing {option}: a number of more than 100 characters" in printed


def test_every_verb_says_what_an_interruption_costs(monkeypatch, capsys):
    verbs = [*VERBS.values(), *Batch.commands.values()]
    assert all(verb.lost for verb in verbs)

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("asdjax.data.dcase.scan", stopped)
    assert main(["data", "d"]) == 130
    assert capsys.readouterr().err == "asdjax: interrupted: this command writes nothing\n"


@pytest.mark.parametrize("name", ["file", "file/run", "n" * 300])
@pytest.mark.parametrize("verb", [["extract"], ["score"], ["embed", "a.wav", "--out", "e.npz"]])
def test_paths_that_are_not_run_directories(name, verb, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main([verb[0], str(tmp_path / name), *verb[1:]]) == 1
    assert f"{tmp_path / name}: there is no such run directory" in capsys.readouterr().err


# the start of JAX


@pytest.mark.parametrize(
    "variable",
    [
        "JAX_PLATFORMS=cuda_that_is_not_there",
        "JAX_DEFAULT_DEVICE=of_no_kind",
        "JAX_NUM_CPU_DEVICES=0",
        "JAX_NUM_CPU_DEVICES=abc",
        "JAX_ENABLE_X64=maybe",
        "JAX_ENABLE_X64=1",
        "JAX_DISABLE_JIT=true",
        "JAX_NO_EXECUTION=1",
        "JAX_TRANSFER_GUARD=disallow",
        "JAX_DEFAULT_PRNG_IMPL=rbg",
        "JAX_THREEFRY_PARTITIONABLE=0",
    ],
)
def test_invalid_environment_variables_of_jax_are_one_sentence(variable, tmp_path):
    name, value = variable.split("=")
    ended = asdjax("check", TINY, "--data", tmp_path, **{name: value})
    lines = ended.stderr.decode().splitlines()
    assert ended.returncode == 1 and len(lines) == 1
    assert lines[0].startswith(f"asdjax: {variable}: ") and f"unset {name}" in lines[0]


# pipes and terminals


@pytest.mark.parametrize("args", [["--help"], ["train", "system1", "--help"], ["data", "{}"]])
def test_a_closed_pipe_is_no_error(args, corpus_root):
    reading, writing = os.pipe()
    os.close(reading)
    ended = asdjax(*(arg.replace("{}", str(corpus_root)) for arg in args), stdout=writing)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.parametrize("args", [["--help"], ["train", "system1", "--help"], ["data", "{}"]])
def test_output_that_cannot_be_written(args, corpus_root):
    with open("/dev/full", "wb") as full:
        ended = asdjax(*(arg.replace("{}", str(corpus_root)) for arg in args), stdout=full)
    assert ended.returncode == 1
    assert ended.stderr.decode().startswith("asdjax: standard output: cannot be written (No space")
    assert ended.stderr.count(b"\n") == 1


def test_unwritable_standard_error_does_not_stop_a_command(tmp_path):
    program = (
        "import os, sys; from asdjax.runtime import console; console.prepare()\n"
        "os.close(2); os.dup2(os.open('/dev/full', os.O_WRONLY), 2)\n"
        "console.say('x'); console.say('y'); print('done')"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert ended.stdout == b"done\n"


@pytest.mark.parametrize("args", [["embed", "--help"], ["data", "Größe"]])
def test_ascii_terminals(args):
    chosen = {"PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0", "LC_ALL": "C"}
    ended = asdjax(*args, **chosen)
    assert (ended.stdout + ended.stderr).isascii()
    assert b"Traceback" not in ended.stderr and ended.returncode == int(args[0] == "data")


def test_tables_in_ascii_terminals(tmp_path):
    program = (
        "from asdjax.runtime import console; console.prepare()\n"
        "from rich.table import Table; from rich.console import Console\n"
        "table = Table('mean \\xb1 deviation'); table.add_row('Gr\\xf6\\xdfe')\n"
        "Console().print(table)\n"
        "print('10 \\xb1 2')"
    )
    chosen = os.environ | {"PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0", "LC_ALL": "C"}
    ended = subprocess.run([sys.executable, "-c", program], env=chosen, capture_output=True)
    assert ended.returncode == 0 and ended.stdout.isascii() and b"10 \\xb1 2" in ended.stdout


def test_the_exit_codes_are_in_the_help(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    codes = printed.partition("exit codes:")[2].partition(".")[0]
    assert re.findall(r"\b\d+\b", codes) == ["0", "1", "2", "3", "130", "143", "129"]
    assert configs.names() and all(name in printed for name in configs.names())


@pytest.mark.parametrize("name", [["--model", "beats"], ["--model.name=beats"]])
@pytest.mark.parametrize("pooling", [["--model.pooling", "mean"], ["--model.pooling.name=mean"]])
def test_classes_of_outer_sections_are_chosen_first(name, pooling):
    for options in [*name, *pooling], [*pooling, *name]:
        command = parse("check", Check, ["system1", "--data", "d", *options])
        assert command.config.model == BEATsConfig(pooling=Mean())


def test_another_class_begins_with_its_own_defaults(tmp_path, capsys):
    """As in a recipe that extends another; what was stated for the former class is not its."""
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "backend: {name: rescaled, metric: euclidean}\ndecision: {level: 0.8}\n"
        "extract: {views: [{name: mild, method: wiener, n_fft: 256, hop: 128}]}\n"
    )
    options = ["--backend", "local_density", "--decision.method=gamma", "--decision.level", "0.7"]
    options += ["--extract.views.0.method", "cancel"]
    config = parse("check", Check, [str(recipe), "--data", "d", *options]).config
    assert config.backend == LocalDensity()
    assert config.decision == registry.find("threshold", "gamma")(level=0.7)
    assert config.extract.views == (registry.find("view", "cancel")(name="mild"),)
    said = capsys.readouterr().err
    assert "rescale_neighbours 1 (was 4)" in said and "metric cosine (was euclidean)" in said
    assert "n_fft 1024 (was 256)" in said and "level" not in said
    same = parse("check", Check, [str(recipe), "--data", "d", "--backend", "rescaled"]).config
    assert same == configs.load(str(recipe)) and not capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("fit", "normal", "--out", "taken.asd"),
        ("embed", "weights", "new", "--out", "taken.npz"),
        ("predict", "pump.asd", "new", "--csv", "taken.csv"),
        ("report", "run", "--out", "taken.html"),
    ],
    ids=lambda words: words[0],
)
def test_a_file_that_exists_is_refused_before_large_imports(words, tmp_path):
    taken = tmp_path / words[-1]
    taken.write_text("mine")
    code = "import sys; from asdjax.cli import main; code = main(sys.argv[1:]); "
    code += "print(code, {'jax', 'numpy'} & {*sys.modules})"
    command = [sys.executable, "-c", code, *words[:-1], str(taken)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "1 set()\n" and f"{taken}: exists already" in done.stderr


def test_a_section_as_in_a_recipe():
    several = "{name: several, members: [mean, {name: relative_deviation, gamma: 4}]}"
    stated = schema.read(Pooling, strict_yaml.parse(several, ""), "", "")
    for options in ["--model.pooling", several], [f"--model.pooling={several}"]:
        command = parse("check", Check, ["system4", *options, "--data", "d", "--json"])
        assert command.config.model.pooling == stated and command.json
    options = ["--loss", "{name: arcface, margin: 0.3}", "--loss.margin", "0.4"]
    assert parse("check", Check, ["system1", "--data", "d", *options]).config.loss.margin == 0.4
    for text in ("{name: several, member: 1}", "{name: several", "{name: most}"):
        with pytest.raises(UsageError, match="pooling"):
            parse("check", Check, ["system4", "--data", "d", "--model.pooling", text])


def test_what_a_command_writes_is_not_to_be_chosen(tmp_path, capsys):
    for (kind, name), command in registry.WRITTEN_BY.items():
        option = {"encoder": "--model", "backend": "--backend"}[kind]
        with pytest.raises(UsageError, match=f"only {command} writes {name}: choose one of"):
            parse("check", Check, ["system1", "--data", "d", option, name])
        with pytest.raises(SystemExit):
            parse("check", Check, ["system1", "--help-all"])
        choices = " ".join(re.findall(r"\{[^}]*\}", capsys.readouterr().out))
        assert "kmeans" in choices and name not in re.findall(r"\w+", choices)
        assert all(name not in (of or ()) for of in completion.words(Check).options.values())
        with pytest.raises(ConfigError, match="found") as caught:
            configs.parse(f"{option[2:]}: {{name: none_such}}", "mine.yaml")
        assert name not in str(caught.value)
        (tmp_path / "mine.yaml").write_text(f"{option[2:]}: {{name: {name}}}\n")
        with pytest.raises(ConfigError, match=command):
            configs.load(str(tmp_path / "mine.yaml"))
    with pytest.raises(ConfigError, match="chosen cannot be a member"):
        configs.parse("backend: {name: fusion, members: [chosen]}", "mine.yaml")


def test_options_of_one_class_remain_with_another():
    options = ["--data", "d", "--model.compute-dtype", "bfloat16"]
    for system, name, other in [
        ("system1", "beats", BEATsConfig(compute_dtype="bfloat16")),
        ("system4", "multiresnet", MultiResNetConfig(compute_dtype="bfloat16")),
    ]:
        assert parse("check", Check, [system, *options, "--model", name]).config.model == other


@pytest.mark.parametrize(
    "flag", ["--json", "--train.drop-last", "--train.no-drop-last", "--model.random-init"]
)
def test_a_flag_before_the_recipe_takes_no_value(flag):
    recipe = str(Path(TINY).with_name("tiny_beats.yaml"))
    command = parse("check", Check, [flag, recipe, "--data", "d", "--model.layers", "1"])
    assert command.recipe == recipe and command.config.model.layers == (1,)


def test_the_last_class_of_a_section_counts():
    options = ["--data", "d", "--loss", "arcface", "--loss.name=sub_cluster_adacos"]
    config = parse("check", Check, ["system1", *options]).config
    assert config.loss == configs.load("system1").loss


@pytest.mark.parametrize("words", [["--backend"], ["--loss", "arcface", "--backend.name"]])
def test_help_after_an_option_without_its_value(words, capsys):
    with pytest.raises(SystemExit) as end:
        parse("check", Check, ["system1", *words, "--help"])
    assert end.value.code == 0 and "--backend.name {" in capsys.readouterr().out


@pytest.mark.parametrize("place", [0, 1, 2])
def test_quiet_anywhere_leaves_results_and_errors(place, tmp_path, capsys):
    folder(tmp_path / "normal", range(20))
    words = ["fit", str(tmp_path / "normal"), "--out", str(tmp_path / "pump.asd")]
    assert main([*words[:place], "--quiet", *words[place:]]) == 0
    assert capsys.readouterr() == ("", "")
    assert main([*words[:place], "--quiet", *words[place:]]) == 1
    assert "pump.asd: exists" in capsys.readouterr().err
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    words = ["predict", str(tmp_path / "pump.asd"), str(tmp_path / "bad.wav")]
    assert main([*words[:place], "--quiet", *words[place:]]) == 1
    printed = capsys.readouterr()
    assert "ERROR" in printed.out and not printed.err


def test_verbose_shows_the_log(tmp_path, capsys):
    words = ["synth", str(tmp_path / "d"), "--machines", "fan", "--train-source", "1"]
    words += ["--train-target", "0", "--test-per-cell", "0", "--seconds", "0.5"]
    assert main([*words, "--verbose"]) == 0
    first, *_, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d INFO asdjax.cli: asdjax .*: synth", first)
    assert re.fullmatch(r"\d\d:\d\d:\d\d INFO asdjax.cli: synth: ended after .* s", last)


def test_quiet_and_verbose_exclude_each_other(capsys):
    assert main(["docs", "--quiet", "--verbose"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["predict", "a.asd", "b", "--level", "2"], "--level: must be at least 0.5"),
        (["fit", "a", "--out", "a.asd", "--max-bank", "2"], "--max-bank: must be at least 3"),
        (["watch", "a.asd", "b", "--log", "c", "--settle", "-1"], "--settle: must be at least 0"),
        (["evaluate", "a", "--resamples", "5"], "--resamples: must be at least 100"),
    ],
)
def test_numbers_out_of_bounds_are_wrong_usage(capsys, given, said):
    assert main(given) == 2
    assert said in capsys.readouterr().err

"""The help: its groups, the options that are used first, and all options."""

import re

import pytest

from asdjax.cli import JOBS, VERBS, main
from asdjax.commands import completion
from asdjax.config import recipe as configs
from asdjax.config import registry
from asdjax.verbs import FIRST_SETTINGS, Batch

OPTION = re.compile(r"(?<!\S)--[a-z][a-z0-9.-]*")
OF_RECIPES = ("run", "train", "check")
SEVERAL = ("batch", "convert")
BATCH = [("batch", verb) for verb in Batch.commands]
CASES = [(verb,) for verb in VERBS if verb not in SEVERAL] + BATCH
CASES += [(verb, name) for verb in OF_RECIPES for name in configs.names()]


@pytest.fixture(autouse=True)
def _columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


def shown(words, capsys, option="--help"):
    with pytest.raises(SystemExit) as end:
        main([*words, option])
    assert end.value.code == 0
    return capsys.readouterr().out


def options(text):
    """The options that a help describes: at the beginning of its lines."""
    lines = re.findall(r"(?m)^[│ ] (-.*?)(?:  .*)?$", text)
    return {option for line in lines for option in OPTION.findall(line.replace(",", " "))}


def test_every_command_is_listed_under_one_job_on_one_line(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 100 for line in lines)
    for job, verbs in JOBS.items():
        at = lines.index(f"{job}:") + 1
        assert [line.split()[0] for line in lines[at : at + len(verbs)]] == [*verbs]
        assert not lines[at + len(verbs)]
    assert sum(map(len, JOBS.values())) == len(VERBS)


@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_help_is_short_and_a_part_of_all(words, capsys):
    text, every = shown(words, capsys), options(shown(words, capsys, "--help-all"))
    some = options(text)
    assert len(text.splitlines()) <= 60
    assert some <= every and "--help" in some
    left = {re.sub(r"(\.|--)no-", r"\1", option) for option in every - some}
    last = text.splitlines()[-1]
    assert last.startswith(f"--help-all shows {len(left) or 'no'} more option")


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in (*OF_RECIPES, *SEVERAL)])
def test_all_options_are_in_the_long_help(verb, capsys):
    """`completion.words` finds the options of all classes, without tyro."""
    found = options(shown([verb], capsys, "--help-all"))
    for kind in ("backend", "decision") if verb == "score" else ():
        for name in registry.choices(kind.replace("decision", "threshold")):
            found |= options(shown([verb, f"--{kind}", name], capsys, "--help-all"))
    assert found - {"--help"} == {*completion.words(VERBS[verb]).options}


def test_all_settings_of_a_recipe_are_in_the_long_help(capsys):
    chosen = [[name] for name in configs.names()]
    sections = {"model": "encoder", "model.pooling": "pooling", "loss": "loss"}
    sections |= {"backend": "backend", "decision": "threshold"}
    sections |= {f"extract.views.{i}": "view" for i in range(3)}
    for section, kind in sections.items():
        recipe = "system4" if section == "model.pooling" else "system1"
        chosen += [[recipe, f"--{section}", name] for name in registry.choices(kind)]
    found = [options(shown(["check", *words], capsys, "--help-all")) for words in chosen]
    known = {*completion.words(VERBS["check"]).options}
    assert set().union(*found) - {"--help"} == known
    assert {"--model.weights", "--loss.margin", "--train.epochs"} <= known


def test_help_of_batch(capsys):
    for words, code in ((["batch", "--help"], 0), (["batch", "-h"], 0), (["batch"], 2)):
        assert main(words) == code
        said = capsys.readouterr()
        assert [line.split()[0] for line in (said.out + said.err).splitlines()[4:]] == [
            *Batch.commands
        ]
        assert bool(said.err) == bool(code)
    assert main(["batch", "pan", "x"]) == 2
    assert "no command 'batch pan': did you mean 'plan'?" in capsys.readouterr().err
    assert main(["batch", "plan", "w", "d", "--overwrite", "-V"]) == 0


def test_every_first_setting_exists():
    known = completion.words(VERBS["check"]).options
    assert all(f"--{name}" in known for name in FIRST_SETTINGS)


def test_help_of_converters(capsys):
    for words in (["convert"], ["convert", "asdkit"]):
        assert shown(words, capsys, "--help-all") == shown(words, capsys)


@pytest.mark.parametrize("option", ["-V", "--version"])
@pytest.mark.parametrize("words", [[], ["train", "system1"], ["convert", "beats"]])
def test_the_version_anywhere_on_the_line(option, words, capsys):
    for i in range(len(words) + 1):
        assert main([*words[:i], option, *words[i:]]) == 0
        assert re.fullmatch(r"asdjax \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize("option", ["-V", "--version", "--quiet", "-x"])
@pytest.mark.parametrize(
    "args", [["synth", "d", "--corpus.seed"], ["fit", "d", "--out"], ["run", "system1", "--data"]]
)
def test_an_option_in_the_place_of_a_value_is_an_error(args, option, capsys):
    try:
        code = main([*args, option])
    except SystemExit as end:  # of the parser
        code = end.code
    said = capsys.readouterr()
    assert code == 2 and not said.out and "asdjax 0" not in said.err


@pytest.mark.parametrize(
    "args", [["data", "d", "--json"], ["fit", "d"], ["train", "system1", "--no-resume"]]
)
def test_the_version_after_other_arguments(args, capsys):
    assert main([*args, "-V"]) == 0
    assert capsys.readouterr().out.startswith("asdjax ")

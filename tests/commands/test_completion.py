"""Completion: what bash, zsh and fish offer with the scripts that asdjax prints."""

import contextlib
import shutil
import subprocess

import pytest

from asdjax.cli import VERBS, main
from asdjax.config import recipe as configs

_BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_asdjax
printf '%s\\n' "${COMPREPLY[@]}"
"""
_FISH = "source $argv[1]; complete -C (string join ' ' -- $argv[2..])"
# as zsh's _bash_complete does; its compadd then drops what begins otherwise
_ZSH = """
autoload -U compinit && compinit -D -u
source "$1"; shift
words=("$@"); COMP_WORDS=("$@"); CURRENT=$#; COMP_CWORD=$((CURRENT - 1))
matches=( ${(f)"$(compgen -F _asdjax -- ${words[CURRENT]})"} )
printf '%s\\n' "${(M)matches[@]:#${words[CURRENT]}*}"
"""
SHELLS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


@pytest.fixture(scope="module", params=SHELLS)
def offered(request, tmp_path_factory):
    """A function that returns what a shell offers for the last of some words."""
    shell, folder = request.param, tmp_path_factory.mktemp("completion")
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = folder / "script"
    with script.open("w") as file, contextlib.redirect_stdout(file):
        assert main(["completion", shell]) == 0
    (folder / "sounds").mkdir()

    def offer(*words: str) -> set[str]:
        given = [] if shell == "fish" else ["asdjax"]
        command = [shell, "-c", SHELLS[shell], *given, str(script), "asdjax", *words]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True)
        assert not ended.stderr
        return {line.split("\t")[0] for line in ended.stdout.splitlines()} - {""}

    return offer


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tr"], {"train"}),
        (["--plugin", "mine.py", "ext"], {"extract"}),
        (["--plugin=mine.py", "ext"], {"extract"}),
        (["train", "sys"], {"system1", "system2", "system3", "system4"}),
        (["train", "system1", "--train.ep"], {"--train.epochs"}),
        (["run", "--model.w"], {"--model.weights"}),
        (["run", "--qu"], {"--quiet"}),
        (["check", "--model.name", "b"], {"beats"}),
        (["check", "--data", "sou"], {"sounds/"}),
        (["predict", "sou"], {"sounds/"}),
        (["docs", "dete"], {"detector"}),
        (["convert", "asd"], {"asdkit"}),
        (["completion", "f"], {"fish"}),
        (["fit", "normal", "--no-over"], {"--no-overwrite"}),
    ],
    ids=lambda value: " ".join(sorted(value)) if isinstance(value, set) else " ".join(value),
)
def test_what_is_offered(words, expected, offered):
    found = offered(*words)
    # bash and zsh complete files by themselves where the script offers nothing
    assert found == expected or (not found and expected == {"sounds/"})


def test_all_commands_and_recipes_are_offered(offered):
    assert offered("") >= {*VERBS}
    assert offered("train", "") >= {*configs.names()}


def test_another_shell_is_wrong_usage():
    with pytest.raises(SystemExit) as end:
        main(["completion", "tcsh"])
    assert end.value.code == 2

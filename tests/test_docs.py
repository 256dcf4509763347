"""The documentation: every page prints, and its links, paths and commands exist."""

import re
import shlex
import textwrap
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from support.machines import folder

from asdjax.challenge import meta_yaml
from asdjax.cli import VERBS, main
from asdjax.config import recipe, registry
from asdjax.config.recipe import Config
from asdjax.config.schema import Choice
from asdjax.convert import __main__ as convert
from asdjax.verbs import Batch

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "asdjax" / "docs"
PAGES = sorted(path.stem for path in FOLDER.glob("*.md"))
FILES = [ROOT / "README.md", *sorted(FOLDER.glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?m)^ {4}(asdjax .+?)(?: +#.*)?$|`(asdjax [^`]+)`")
OPTION = re.compile(r"(?<!\S)--[a-z][a-z0-9.-]*")
SHORT = {"--model", "--model.pooling", "--loss", "--backend", "--decision"}
"""Options that stand for the name of a section's class; the help shows the long ones."""
OF_ALL = {
    "--help",
    "--help-all",
    "--version",
    "--quiet",
    "--verbose",
    "--plugin",
    "--no-compile-cache",
}
"""Options of all commands."""
RECIPE_COMMANDS = ("run", "train", "check")
SECTIONS = "dataset|audio|augment|model|loss|optim|train|extract|backend|decision"


def read(path: Path) -> str:
    """A page in which fenced commands are indented, as those of the README are."""
    text = path.read_text("utf-8")
    return re.sub(r"(?ms)^```bash\n(.*?)^```$", lambda m: textwrap.indent(m[1], "    "), text)


def test_without_a_topic_the_pages_are_listed(capsys):
    assert main(["docs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    entries = [line.split() for line in lines if line.startswith("  ")]
    assert sorted(name for name, *_ in entries) == sorted({*PAGES} - {"index"})
    assert all(len(words) > 3 for words in entries) and all(len(line) <= 100 for line in lines)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_prints(page, capsys):
    assert main(["docs", page]) == 0
    printed = capsys.readouterr().out
    assert printed == (FOLDER / f"{page}.md").read_text("utf-8")
    title, empty, summary, after = printed.splitlines()[:4]
    assert title.startswith("# ") and summary.endswith(".") and not empty and not after


def test_an_unknown_topic_is_wrong_usage(capsys):
    assert main(["docs", "recipe"]) == 2
    printed = capsys.readouterr()
    assert not printed.out and all(page in printed.err for page in PAGES)


def test_pages_are_installed_as_package_data():
    tomllib = pytest.importorskip("tomllib")
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    assert "asdjax" in setuptools["packages"]
    patterns = setuptools["package-data"]["asdjax"]
    found = {path.stem for pattern in patterns for path in (ROOT / "asdjax").glob(pattern)}
    assert found == {*PAGES, "tour"}
    installed = resources.files("asdjax") / "docs"
    assert all((installed / f"{page}.md").is_file() for page in PAGES)


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"(?m)^#+ (.+)$", text)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path):
    for link in LINK.findall(path.read_text("utf-8")):
        target, _, anchor = link.partition("#")
        assert not re.match(r"\w+:", link), f"{link}: pages are read without a network"
        place = path.parent / target if target else path
        assert place.is_file(), link
        assert not anchor or anchor in anchors(place.read_text("utf-8")), link
        assert path.parent != FOLDER or place.parent == FOLDER, f"{link} is not installed"


def test_the_index_has_every_page_with_its_summary():
    text = (FOLDER / "index.md").read_text("utf-8")
    for page in {*PAGES} - {"index"}:
        summary = (FOLDER / f"{page}.md").read_text("utf-8").splitlines()[2]
        assert f"\n* [{page}]({page}.md): {summary}\n" in text


def test_the_readme_links_the_index_and_is_short():
    text = FILES[0].read_text("utf-8")
    linked = {f"asdjax/docs/{page}.md" for page in PAGES} & set(LINK.findall(text))
    assert len(linked) > 5 and "asdjax/docs/index.md" in linked
    assert len(text.splitlines()) <= 100


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_paths_exist(path):
    text = read(path)
    named = re.findall(r"`((?:asdjax|tests|configs|convert|scripts)/[^`\s<*]*)", text)
    named += re.findall(r"(?m)^ {4}(scripts/\S+|\.ci/\S+|tests/\S+)", text)
    assert not [name for name in named if not (ROOT / name).exists() and "compiled" not in name]


def has(config: object, key: str) -> bool:
    """Whether a dotted key is a setting, of the classes at hand or of others of their kinds."""
    possible = [config]
    for part in key.split("."):
        for one in list(possible):
            if isinstance(one, Choice) and not one.required:
                names = registry.BUILT_IN[one.kind]
                possible += [registry.find(one.kind, name)() for name in names]
        possible = [getattr(one, part) for one in possible if hasattr(one, part)]
    return bool(possible)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_settings_exist(path):
    keys = re.findall(rf"`((?:{SECTIONS})\.[a-z_.]+)", path.read_text("utf-8"))
    assert not [key for key in keys if not has(Config(), key)]


def help_of(words: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as end:
        main([*words, "--help-all"])
    assert end.value.code == 0
    return capsys.readouterr().out


def test_options_in_the_text_exist(capsys):
    known = {*OF_ALL, *SHORT}
    about = [(verb,) for verb in VERBS if verb not in ("batch", "convert")]
    about += [("batch", name) for name in Batch.commands]
    about += [("convert", name) for name in convert.COMMANDS]
    about += [("run", "system1"), ("run", "system4")]
    for words in about:
        known.update(OPTION.findall(help_of(list(words), capsys).replace(",", " ")))
    scripts = "".join(path.read_text("utf-8") for path in (ROOT / "scripts").glob("*.py"))
    for path in FILES:
        for code in re.findall(r"`(--[^`]+)`", path.read_text("utf-8")):
            for option in OPTION.findall(code):
                assert option in known or f'"{option}"' in scripts, f"{path.name}: {option}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_commands_and_options_exist(path, capsys):
    text = read(path).replace("\\|", "|")
    wanted: dict[tuple[str, ...], set[str]] = {}
    for indented, inline in COMMAND.findall(text):
        words = " ".join((indented or inline).split()).split(" ")
        verb, rest = words[1], words[2:]
        if verb in ("COMMAND", "--help"):
            continue
        assert verb in VERBS, words
        if verb == "convert":
            for name in rest[0].split("|") if rest else ():
                assert name in convert.COMMANDS, words
            continue
        about = (verb,)
        if verb == "batch" and rest:
            assert rest[0] in Batch.commands, words
            about = (verb, rest[0])
        if verb in RECIPE_COMMANDS and rest and rest[0] in recipe.names():
            about = (verb, rest[0])
        for option, name in re.findall(r"(--[a-z]+\.(?:name|method)) (\w+)", " ".join(rest)):
            if any(name in names for names in registry.BUILT_IN.values()):
                about += (option, name)  # the class decides which other options there are
        wanted.setdefault(about, set()).update(OPTION.findall(" ".join(rest)))
    for about, options in wanted.items():
        options -= {*OF_ALL, *SHORT}
        if options:
            shown = set(OPTION.findall(help_of(list(about), capsys).replace(",", " ")))
            assert not options - shown, about


def test_every_schema_is_described():
    text = (FOLDER / "formats.md").read_text("utf-8")
    for file in [*ROOT.glob("asdjax/**/*.py"), *ROOT.glob("convert/*.py")]:
        for schema in re.findall(r'"(asdjax\.[a-z_]+/[0-9]+)"', file.read_text("utf-8")):
            assert schema in text, f"{file}: {schema}"


def test_the_example_of_what_authors_say_is_read(tmp_path):
    text = (FOLDER / "submission.md").read_text("utf-8")
    start = text.index("    institute: ")
    block = text[start : text.index("\n\n", start)]
    file = tmp_path / "me.yaml"
    file.write_text(re.sub("(?m)^ {4}", "", block), "utf-8")
    info = meta_yaml.read_info(file, 1)
    assert info.institute == "ABC" and info.external_datasets and info.label_lastname == "Doe"


def test_the_first_screen_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    """The commands and the Python lines, in the order that they stand there."""
    text = FILES[0].read_text("utf-8").partition("## The challenge")[0]
    folder(tmp_path / "normal", range(20))
    folder(tmp_path / "new", range(1), fault="tone")
    (tmp_path / "new" / "take 0.wav").rename(tmp_path / "new" / "today.wav")
    monkeypatch.chdir(tmp_path)
    blocks = [re.sub("(?m)^ {4}", "", b) for b in re.findall(r"(?m)(?:^ {4}.*\n|^\n)+", text)]
    commands = [c for block in blocks for c in block.splitlines() if c.startswith("asdjax ")]
    assert len(commands) == 2
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0
    printed, *_ = capsys.readouterr().out.splitlines()
    (table,) = [block for block in blocks if "decision" in block]
    assert printed.split() == table.split()[: len(printed.split())]
    (code,) = [block for block in blocks if "import asdjax" in block]
    (tmp_path / "pump.asd").unlink()
    names: dict[str, Any] = {}
    exec(compile(code.replace(".alarm", ".alarm or 1 / 0"), "README.md", "exec"), names)
    assert (tmp_path / "pump.asd").exists()

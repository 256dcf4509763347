"""The reference of all settings is complete and up to date."""

import dataclasses
import re
import sys

import pytest
from conftest import ROOT

from asdjax.config import registry
from asdjax.config.recipe import Config, SynthConfig
from asdjax.config.schema import field_types

sys.path.insert(0, str(ROOT / "scripts"))

import make_reference  # noqa: E402

SECTIONS = {
    "encoder": "model",
    "pooling": "model",
    "loss": "loss",
    "view": "extract.views",
    "backend": "backend",
    "threshold": "decision",
}
CLASSES = [(kind, name) for kind in SECTIONS for name in registry.BUILT_IN[kind]]


def inside(kind):
    """A dataclass, and the dataclasses among its settings that no name chooses."""
    yield kind
    for hint in field_types(kind).values():
        for part in (hint, *getattr(hint, "__args__", ())):
            if dataclasses.is_dataclass(part) and not hasattr(part, "tag"):
                yield from inside(part)


def part_of(text, heading):
    """The text below a heading, up to the next one."""
    return text.split(f"\n{heading}\n")[1].split("\n#")[0]


def require(kind, text):
    """Every setting of a dataclass has a meaning, and is in a text."""
    for one in inside(kind):
        meanings = make_reference.meanings(one)
        for field in dataclasses.fields(one):
            of = make_reference.default_of(field)
            chosen = hasattr(of, "tag") or field.name == "views"
            assert chosen or dataclasses.is_dataclass(of) or meanings.get(field.name), field.name
            if not chosen:
                assert re.search(rf"(?m)^(## |\* `([\w.\[\]]+\.)?){field.name}\b", text), field.name


def test_the_page_is_up_to_date():
    found = make_reference.PAGE.read_text("utf-8")
    assert found == make_reference.page(), "run scripts/make_reference"


@pytest.mark.parametrize(("kind", "name"), CLASSES)
def test_every_setting_of_a_class_is_listed(kind, name):
    text, section = make_reference.PAGE.read_text("utf-8"), SECTIONS[kind]
    if kind == "pooling":
        part = part_of(text, "### model: beats")
        assert f"`{name}`: " in part
        own = part.partition(f"name: {name}` has further keys:\n")[2]
        for setting in dataclasses.fields(registry.find(kind, name)):
            assert setting.name == "name" or f"  * `model.pooling.{setting.name}` (" in own
        return
    parts = part_of(text, f"## {section}"), part_of(text, f"### {section}: {name}")
    require(registry.find(kind, name), "\n".join(parts))


def test_every_other_setting_is_listed():
    text = make_reference.PAGE.read_text("utf-8")
    require(Config, text)
    options = part_of(text, "## Synthetic data").replace("`--", "`").replace("-", "_")
    require(SynthConfig, options.replace("\n_ ", "\n* "))


def test_check_says_what_to_do(tmp_path, monkeypatch):
    assert make_reference.main(["--check"]) == 0
    monkeypatch.setattr(make_reference, "PAGE", tmp_path / "page.md")
    with pytest.raises(make_reference.AsdjaxError, match="run scripts/make_reference"):
        make_reference.main(["--check"])
    assert make_reference.main([]) == 0
    assert make_reference.main(["--check"]) == 0

"""A page of HTML that needs nothing else: no network, no scripts, no other files."""

import datetime
from collections.abc import Sequence
from importlib import resources
from importlib.util import find_spec

from asdjax._version import __version__
from asdjax.errors import ArtifactError
from asdjax.report.parts import Figure, Row, Section, Sound, Table, Tile, Verbatim


def require_libraries() -> None:
    """Raise `AsdjaxError` if a library for reports is not installed."""
    if any(find_spec(name) is None for name in ("jinja2", "matplotlib")):
        raise ArtifactError("reports need more libraries: pip install 'asdjax[plot]'")


def render(title: str, sections: Sequence[Section]) -> str:
    """The page as HTML; every text is escaped.

    Args:
        title: of the page.
        sections: its content.
    """
    import jinja2

    kinds = {
        "row": Row, "table": Table, "figure": Figure, "sound": Sound, "tile": Tile,
        "verbatim": Verbatim,
    }  # fmt: skip
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    for name, kind in kinds.items():
        environment.tests[f"{name}_item"] = lambda item, kind=kind: isinstance(item, kind)
    text = (resources.files("asdjax.report") / "page.html").read_text("utf-8")
    made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return environment.from_string(text).render(
        title=title, sections=sections, version=__version__, made=made
    )

"""Plugins that last for one test."""

from pathlib import Path

import pytest

from asdjax.config import registry


def load(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a plugin and load it; afterwards the registry is as before."""
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    path = folder / "plugin.py"
    path.write_text(text)
    registry.load_plugin(path)

"""Folders that may not be listed or entered, also for tests that run as root."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def permissions(place: Path, mode: int) -> Iterator[None]:
    """A folder of that mode, while another user takes root's place: root may enter every one."""
    user = os.geteuid()
    place.chmod(mode)
    if user == 0:
        try:
            os.chown(place, 65534, -1)
            os.seteuid(65534)
        except OSError:
            pytest.skip("root alone is known here")
    try:
        yield
    finally:
        os.seteuid(user)
        place.chmod(0o755)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A temporary folder where every user may look; pytest's own are private."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        yield Path(place)

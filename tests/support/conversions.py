"""Converted checkpoints, refused conversions, and trees of arrays compared name by name."""

import json
from collections import OrderedDict

import numpy as np
import pytest
from conftest import GOLDEN, VARIANTS

from asdjax.cli import main
from asdjax.convert import state_dict, torch_file
from asdjax.store import converted_weights

TINY = GOLDEN / "beats_tiny.pt"


def converted(source, folder, *options):
    """The folder of weights that `asdjax convert beats` makes, and its document."""
    assert main(["convert", "beats", str(source), str(folder), *options]) == 0
    return folder, document_of(folder)


def document_of(folder):
    """The description of a folder of converted weights."""
    return json.loads((folder / converted_weights.DOCUMENT).read_text())


def refused(capsys, *arguments):
    """The one sentence with which a command is refused, and nothing is made."""
    capsys.readouterr()
    assert main(["convert", *map(str, arguments)]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("asdjax: ") and err.count("\n") == 1 and not out
    return err


def arrays(tree):
    """The arrays of a tree by their dotted names."""
    return {k: np.asarray(v) for k, v in state_dict.flatten(tree).items()}


def assert_equal(found, expected):
    """Compare arrays name by name, exactly."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The references' small BEATs, converted: folder and document."""
    return converted(TINY, tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture
def nano():
    """A small checkpoint's cfg and arrays, to be changed and written."""
    content = torch_file.read(VARIANTS / "nano_zip.pt")
    return {"cfg": content["cfg"], "model": OrderedDict(content["model"])}

"""What a reading of a PyTorch file gives: arrays, whether they are equal, or why it is refused."""

from pathlib import Path

import numpy as np
import pytest

from asdjax.convert.torch_file import read
from asdjax.errors import AsdjaxError


def leaves(tree):
    """Every array of a tree."""
    if isinstance(tree, np.ndarray):
        yield tree
    elif isinstance(tree, dict | list | tuple):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from leaves(part)


def same_bits(array: np.ndarray, reference: np.ndarray) -> bool:
    """Whether type, shape and every bit are equal."""
    return (
        array.dtype == reference.dtype
        and array.shape == reference.shape
        and array.tobytes() == reference.tobytes()
    )


def refusal(path: Path, **options) -> str:
    """The one sentence with which a file is refused, after the file's name."""
    with pytest.raises(AsdjaxError) as caught:
        read(path, **options)
    name, _, sentence = str(caught.value).partition(": ")
    assert name == str(path) and "\n" not in sentence and ": " in sentence
    return sentence

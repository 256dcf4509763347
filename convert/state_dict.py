"""Conversion between PyTorch state dicts and asdjax's trees, by a table of names and axes.

State dict and tree must match one to one. If PyTorch modules share an array, the state dict lists
it several times: the table then maps several names to one place, and their values must be equal.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from asdjax.models.parameters import Tree

COUNTER = "num_batches_tracked"  # in every BatchNorm of PyTorch; not used in asdjax
_FLOATING = {"float16", "bfloat16", "float32", "float64"}


class Axes(NamedTuple):
    """Conversion between the axes of an array in PyTorch and in asdjax."""

    to_torch: Callable[[np.ndarray], np.ndarray]
    from_torch: Callable[[np.ndarray], np.ndarray]


def _outputs_first(array: np.ndarray) -> np.ndarray:
    last = array.ndim - 1
    return array.transpose(last, last - 1, *range(last - 1))


def _outputs_last(array: np.ndarray) -> np.ndarray:
    return array.transpose(*range(2, array.ndim), 1, 0)


SAME = Axes(lambda a: a, lambda a: a)
# In the comments: shape in PyTorch, shape in asdjax.
KERNEL = Axes(_outputs_first, _outputs_last)  # [out, in, *window], [*window, in, out]
POINTWISE = Axes(lambda a: a.T[:, :, None], lambda a: a[:, :, 0].T)  # [out, in, 1], [in, out]
_AXES = {
    "kernel": KERNEL,
    "weight_v": KERNEL,
    "lora_a": KERNEL,
    "lora_b": KERNEL,
    "weight_g": Axes(lambda a: a[None, None], lambda a: a[0, 0]),  # [1, 1, window], [window]
    "grep_a": Axes(lambda a: a[None, :, None, None], lambda a: a[0, :, 0, 0]),  # [1, H, 1, 1], [H]
}


class Place(NamedTuple):
    """The dotted path of an array in an asdjax tree, and the conversion of its axes."""

    path: str
    axes: Axes


Table: TypeAlias = dict[str, Place]
"""The place of every array, by its name in PyTorch."""


def place(path: str) -> Place:
    """The place of an array with this path; the axes follow from the last part of the path."""
    return Place(path, _AXES.get(path.split(".")[-1], SAME))


def no_arrays(state: Mapping[Any, Any]) -> list[str]:
    """A message for each entry of a state dict that is not an array with a name."""
    return [
        f"{name!r} is not an array"
        for name, array in state.items()
        if type(name) is not str or not isinstance(array, np.ndarray)
    ]


def parameters(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict without BatchNorm's counters."""
    return {name: array for name, array in state.items() if name.split(".")[-1] != COUNTER}


def mismatches(table: Table, state: Mapping[str, np.ndarray], like: Tree) -> list[str]:
    """A message for each array of a state dict that is missing, unexpected or invalid.

    Args:
        table: the names of all arrays of the tree.
        state: the arrays, without BatchNorm's counters.
        like: names and shapes of the tree.
    """
    shapes = flatten(like)
    assert {place.path for place in table.values()} == shapes.keys()
    found = unmatched(table, state)
    firsts: dict[str, str] = {}
    for name in sorted(table.keys() & state.keys()):
        array, (path, axes) = state[name], table[name]
        shape = axes.to_torch(np.broadcast_to(0, shapes[path].shape)).shape
        first = firsts.setdefault(path, name)
        if array.dtype.name not in _FLOATING:
            found.append(f"{name} has type {array.dtype}, which is not floating point")
        elif array.shape != shape:
            found.append(f"{name} has shape {array.shape}, not {shape}")
        elif not np.isfinite(_single(array)).all():
            found.append(f"{name} holds values that are not finite")
        elif first != name and not np.array_equal(array, state[first]):
            found.append(f"{name} differs from {first}, but the two share one array")
    return found


def from_torch(table: Table, state: Mapping[str, np.ndarray], like: Tree) -> Tree:
    """Float32 copies of a state dict's arrays, nested as in `like`. Check `mismatches` first."""
    sources = {path: (state[name], axes) for name, (path, axes) in table.items()}

    def fill(branch: Tree, prefix: str) -> Tree:
        filled: Tree = {}
        for key, value in branch.items():
            path = f"{prefix}{key}"
            if isinstance(value, dict):
                filled[key] = fill(value, f"{path}.")
            else:
                array, axes = sources[path]
                filled[key] = np.array(axes.from_torch(array), np.float32, order="C")
        return filled

    return fill(like, "")


def to_torch(table: Table, tree: Tree) -> dict[str, np.ndarray]:
    """The state dict of a tree, dtypes unchanged; BatchNorm's counters are 0."""
    arrays, state = flatten(tree), {}
    for name, (path, axes) in table.items():
        state[name] = np.array(axes.to_torch(np.asarray(arrays[path])), order="C")
        if name.endswith(".running_var"):
            state[name.replace("running_var", COUNTER)] = np.zeros((), np.int64)
    return state


def unmatched(expected: Iterable[str], given: Iterable[str]) -> list[str]:
    """A message for each missing and each unexpected name."""
    expected, given = set(expected), set(given)
    missing = [f"missing {name}" for name in sorted(expected - given)]
    return missing + [f"unexpected {name}" for name in sorted(given - expected)]


def flatten(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """Leaves by their dotted paths."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def _single(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # large float64 becomes infinite, which the caller rejects
        return np.asarray(array, np.float32)

"""PyTorch state dicts and our trees: names by a table, axes by kind of array, nothing left over.

A table may give several of PyTorch's names one place: modules that share an array list it under
each of their names, and all of these must then hold the same values.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from asdjax.models.parameters import Tree

COUNTER = "num_batches_tracked"  # of every BatchNorm in PyTorch; asdjax has no use for it
_FLOATING = {"float16", "bfloat16", "float32", "float64"}


class Axes(NamedTuple):
    """How an array stands in PyTorch's axes and in ours."""

    theirs: Callable[[np.ndarray], np.ndarray]
    """From ours."""
    ours: Callable[[np.ndarray], np.ndarray]
    """From theirs."""


def _outputs_first(array: np.ndarray) -> np.ndarray:
    last = array.ndim - 1
    return array.transpose(last, last - 1, *range(last - 1))


def _outputs_last(array: np.ndarray) -> np.ndarray:
    return array.transpose(*range(2, array.ndim), 1, 0)


SAME = Axes(lambda a: a, lambda a: a)
KERNEL = Axes(_outputs_first, _outputs_last)  # [out, in, *window], [*window, in, out]
POINTWISE = Axes(lambda a: a.T[:, :, None], lambda a: a[:, :, 0].T)  # [out, in, 1], [in, out]
_AXES = {
    "kernel": KERNEL,
    "weight_v": KERNEL,
    "lora_a": KERNEL,
    "lora_b": KERNEL,
    "weight_g": Axes(lambda a: a[None, None], lambda a: a[0, 0]),  # [1, 1, window]
    "grep_a": Axes(lambda a: a[None, :, None, None], lambda a: a[0, :, 0, 0]),  # [1, H, 1, 1]
}


class Place(NamedTuple):
    """Where an array stands in our tree, and how its axes differ."""

    path: str
    """Dotted."""
    axes: Axes


Table: TypeAlias = dict[str, Place]
"""The place of every array, by PyTorch's name of it."""


def place(path: str) -> Place:
    """The place of an array whose axes follow from its name in our tree."""
    return Place(path, _AXES.get(path.split(".")[-1], SAME))


def no_arrays(state: Mapping[Any, Any]) -> list[str]:
    """In words, what stands among the arrays of a state dict and is none, or has no name."""
    return [
        f"{name!r} is no array"
        for name, array in state.items()
        if type(name) is not str or not isinstance(array, np.ndarray)
    ]


def parameters(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict without BatchNorm's counters."""
    return {name: array for name, array in state.items() if name.split(".")[-1] != COUNTER}


def mismatches(table: Table, state: Mapping[str, np.ndarray], like: Tree) -> list[str]:
    """In words, everything that keeps a state dict from filling a tree, and nothing but it.

    Args:
        table: of the whole tree.
        state: the arrays, without counters.
        like: names and shapes of the tree.
    """
    ours = flatten(like)
    assert {place.path for place in table.values()} == ours.keys()
    found = unmatched(table, state)
    firsts: dict[str, str] = {}
    for name in sorted(table.keys() & state.keys()):
        array, (path, axes) = state[name], table[name]
        shape = axes.theirs(np.broadcast_to(0, ours[path].shape)).shape
        first = firsts.setdefault(path, name)
        if array.dtype.name not in _FLOATING:
            found.append(f"{name} has type {array.dtype}, which is not floating point")
        elif array.shape != shape:
            found.append(f"{name} has shape {array.shape}, not {shape}")
        elif not np.isfinite(_single(array)).all():
            found.append(f"{name} holds values that are not finite")
        elif first != name and not np.array_equal(array, state[first]):
            found.append(f"{name} differs from {first}, with which it is one array")
    return found


def from_torch(table: Table, state: Mapping[str, np.ndarray], like: Tree) -> Tree:
    """Float32 copies of a state dict's arrays in the nesting of `like`, without `mismatches`."""
    sources = {path: (state[name], axes) for name, (path, axes) in table.items()}

    def fill(branch: Tree, prefix: str) -> Tree:
        filled: Tree = {}
        for key, value in branch.items():
            path = f"{prefix}{key}"
            if isinstance(value, dict):
                filled[key] = fill(value, f"{path}.")
            else:
                array, axes = sources[path]
                filled[key] = np.array(axes.ours(array), np.float32, order="C")
        return filled

    return fill(like, "")


def to_torch(table: Table, tree: Tree) -> dict[str, np.ndarray]:
    """The state dict of a tree, whose arrays keep their types; BatchNorm's counters are 0."""
    ours, state = flatten(tree), {}
    for name, (path, axes) in table.items():
        state[name] = np.array(axes.theirs(np.asarray(ours[path])), order="C")
        if name.endswith(".running_var"):
            state[name.replace("running_var", COUNTER)] = np.zeros((), np.int64)
    return state


def unmatched(expected: Iterable[str], given: Iterable[str]) -> list[str]:
    """In words, which of two sets of names have no partner in the other."""
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
    with np.errstate(over="ignore"):  # of float64: infinite, which the caller looks for
        return np.asarray(array, np.float32)

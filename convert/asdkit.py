"""ASDKit's MultiResNet weights (a PyTorch state dict as NumPy arrays) to asdjax's and back."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from asdjax.architectures import MultiResNetConfig
from asdjax.errors import AsdjaxError
from asdjax import models
from asdjax.models import Tree
from asdjax.signal.stft import hann

COUNTER = "num_batches_tracked"  # of every BatchNorm in PyTorch; asdjax has no use for it


def multiresnet_from_torch(
    state: Mapping[str, np.ndarray], config: MultiResNetConfig, n_samples: int, sample_rate: int
) -> tuple[Tree, Tree]:
    """Convert a PyTorch state dict; every array must find its place and every place its array.

    Args:
        state: arrays by their names in ASDKit's module; `num_batches_tracked` are ignored.
        config: the architecture.
        n_samples: length of every clip, samples.
        sample_rate: hertz.

    Returns:
        Trainable arrays and statistics, nested as `asdjax.models.split` gives them, float32.

    Raises:
        AsdjaxError: arrays are missing, unexpected or of another shape, or a window is not
            Hann's (all such arrays are named), or the clips are too short for the network.
    """
    _, params, stats = models.split(models.skeleton(config, n_samples, sample_rate))
    ours = _flatten({"params": params, "stats": stats})
    table = _table(config)
    given = {n: np.asarray(a) for n, a in state.items() if not n.endswith(f".{COUNTER}")}
    problems = _unmatched(table, given)
    for name in table.keys() & given.keys():
        array, shape = given[name], ours[table[name]].shape
        shape = shape if len(shape) < 2 else (*shape[:-3:-1], *shape[:-2])
        if array.shape != shape:
            problems.append(f"{name} has shape {array.shape}, not {shape}")
        elif name.endswith(".window") and not np.allclose(array, hann(len(array)), atol=1e-6):
            problems.append(f"{name} is not the periodic Hann window")
    if problems:
        raise AsdjaxError(
            f"the weights do not fit this MultiResNet ({'; '.join(sorted(problems))}): correct "
            "the model section and audio.clip_seconds to those that they were trained with"
        )
    trees: Tree = {"params": {}, "stats": {}}
    for name, path in table.items():
        *parents, leaf = path.split(".")
        tree = trees
        for key in parents:
            tree = tree.setdefault(key, {})
        tree[leaf] = np.ascontiguousarray(_outputs_last(given[name]), np.float32)
    return trees["params"], trees["stats"]


def multiresnet_to_torch(
    params: Tree, stats: Tree, config: MultiResNetConfig
) -> dict[str, np.ndarray]:
    """Convert to a state dict for ASDKit's module: the inverse of `multiresnet_from_torch`.

    Args:
        params: trainable arrays, nested as `asdjax.models.split` gives them.
        stats: statistics, likewise.
        config: the architecture.

    Returns:
        Arrays by their names in ASDKit's module, of their own dtypes; `num_batches_tracked` are 0.

    Raises:
        AsdjaxError: the arrays are not those of this architecture (all that differ are named).
    """
    ours = _flatten({"params": params, "stats": stats})
    table = _table(config)
    problems = _unmatched(table.values(), ours)
    if problems:
        raise AsdjaxError(
            f"the arrays do not fit this MultiResNet ({'; '.join(sorted(problems))}): correct "
            "the model section to the one that they were trained with"
        )
    state = {}
    for name, path in table.items():
        state[name] = np.ascontiguousarray(_outputs_first(np.asarray(ours[path])))
        if name.endswith(".running_var"):
            state[name.replace("running_var", COUNTER)] = np.zeros((), np.int64)
    return state


def _table(config: MultiResNetConfig) -> dict[str, str]:
    """ASDKit's name of every array that both networks hold, and its place in ours."""
    table = {}

    def weight(theirs: str, ours: str) -> None:
        table[f"{theirs}.weight"] = f"params.{ours}.kernel"

    def norm(theirs: str, ours: str) -> None:
        table[f"{theirs}.running_mean"] = f"stats.{ours}.mean"
        table[f"{theirs}.running_var"] = f"stats.{ours}.var"

    def gate(theirs: str, ours: str) -> None:
        weight(f"{theirs}.layer1.0", f"{ours}.squeeze")
        weight(f"{theirs}.layer2.0", f"{ours}.excite")

    if config.fft_branch:
        theirs = "fft_layer.layer"
        for i in range(len(config.fft_convs)):  # convolution, ReLU, gate
            weight(f"{theirs}.conv1d_layer.{3 * i}", f"fft.convs.{i}.conv")
            gate(f"{theirs}.conv1d_layer.{3 * i + 2}", f"fft.convs.{i}.se")
        weight(f"{theirs}.aggregate_layer.1", "fft.hidden.0.linear")
        norm(f"{theirs}.aggregate_layer.2", "fft.hidden.0.norm")
        for i in range(config.fft_hidden_layers - 1):  # linear, norm, ReLU
            weight(f"{theirs}.last_layer.{3 * i}", f"fft.hidden.{i + 1}.linear")
            norm(f"{theirs}.last_layer.{3 * i + 1}", f"fft.hidden.{i + 1}.norm")
        weight(f"{theirs}.last_layer.{3 * (config.fft_hidden_layers - 1)}", "fft.out")

    for branch in range(len(config.spectrograms)):
        theirs, ours = f"stft_layer_list.{branch}.layer", f"stft.{branch}"
        table[f"stft_layer_list.{branch}.stft.stft.window"] = f"stats.{ours}.window"
        norm(f"{theirs}.bn_freq", f"{ours}.norm_freq")
        weight(f"{theirs}.layers.0.layer.0", f"{ours}.stem.conv")
        norm(f"{theirs}.layers.0.layer.1", f"{ours}.stem.norm")
        for i in range(2 * len(config.stage_channels)):
            block, here = f"{theirs}.layers.{i // 2 + 1}.{i % 2}", f"{ours}.blocks.{i}"
            norm(f"{block}.bn", f"{here}.norm1")
            weight(f"{block}.layer.1", f"{here}.conv1")
            norm(f"{block}.layer.2", f"{here}.norm2")
            weight(f"{block}.layer.4", f"{here}.conv2")
            gate(f"{block}.additional_layer", f"{here}.se")
            if i >= 2 and i % 2 == 0:
                weight(f"{block}.skip_connect.1", f"{here}.projection")
        norm(f"{theirs}.aggregate_layer.1", f"{ours}.norm_out")
        weight(f"{theirs}.aggregate_layer.2", f"{ours}.out")
    return table


def _flatten(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """Leaves by their dotted paths."""
    flat = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= _flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def _unmatched(expected: Iterable[str], given: Iterable[str]) -> list[str]:
    missing = [f"missing {name}" for name in set(expected) - set(given)]
    return missing + [f"unexpected {name}" for name in set(given) - set(expected)]


def _outputs_last(array: np.ndarray) -> np.ndarray:
    """PyTorch's [out, in, *window] to [*window, in, out]; vectors stay as they are."""
    return array if array.ndim < 2 else array.transpose(*range(2, array.ndim), 1, 0)


def _outputs_first(array: np.ndarray) -> np.ndarray:
    """[*window, in, out] to PyTorch's [out, in, *window]; vectors stay as they are."""
    last = array.ndim - 1
    return array if last < 1 else array.transpose(last, last - 1, *range(last - 1))

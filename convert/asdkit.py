"""ASDKit's array names: MultiResNet, and BEATs with adapters and a pooling.

In ASDKit's checkpoints the embedder has the prefix `extractor.`, the loss `head_dict.main.`.
"""

from collections.abc import Mapping

import numpy as np

from asdjax.config.interfaces import Encoder
from asdjax.convert import beats, state_dict
from asdjax.convert.state_dict import POINTWISE, SAME, Place, Table
from asdjax.errors import ArtifactError
from asdjax.models import building, parameters
from asdjax.models.beats_encoder import BEATsConfig
from asdjax.models.multiresnet_encoder import MultiResNetConfig
from asdjax.models.parameters import Tree
from asdjax.signal.stft import hann

EXTRACTOR, HEAD = "extractor.", "head_dict.main."
ADAPTED = f"{EXTRACTOR}model.base_model.model."
"""Prefix of an encoder with adapters; without adapters it is `extractor.model.`."""
PROJECTION = f"{EXTRACTOR}projection_net."
_POOL = {
    "attention_in": "attention.0",
    "attention_norm": "attention.2",
    "attention_out": "attention.4",
    "norm_statistics": "last_layer.0",
    "linear": "last_layer.1",
    "norm_out": "last_layer.2",
}
_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def table(model: Encoder, weights: Tree) -> Table:
    """The table of all arrays that a run trains.

    Args:
        model: the embedder.
        weights: {"params", "stats"} of {"model", "head"} (`asdjax.training.learner`), or
            their shapes.

    Raises:
        AsdjaxError: ASDKit has no such network.
    """
    if isinstance(model, BEATsConfig):
        result = _beats_table(model, weights)
    elif isinstance(model, MultiResNetConfig):
        result = {EXTRACTOR + name: _in_run(path) for name, path in _table(model).items()}
    else:
        raise ArtifactError(
            f"model.name: ASDKit has no {model.name}: convert runs of multiresnet or beats"
        )
    for kind in ("params", "stats"):
        names = {"centres": "W", "scale": "s"}
        for name in weights[kind]["head"]:
            if name not in names:
                raise ArtifactError(
                    f"loss: ASDKit's losses have no weights {name!r}: convert runs of its losses"
                )
            result[HEAD + names[name]] = Place(f"{kind}.head.{name}", SAME)
    return result


def base_table(model: BEATsConfig, encoder: Tree) -> Table:
    """The table of the arrays of a pretrained encoder that are not trained.

    Args:
        model: the embedder.
        encoder: the arrays or their shapes.
    """
    if model.adaptation == "lora":
        return beats.table(encoder, prefix=ADAPTED, adapted=model.lora.targets)
    return beats.table(encoder, prefix=f"{EXTRACTOR}model.")


def wrong_windows(state: Mapping[str, np.ndarray]) -> list[str]:
    """A message for each window that differs from the window of MultiResNet's spectra."""
    return [
        f"{name} is not the periodic Hann window"
        for name, array in state.items()
        if name.endswith(".stft.window")
        and not (array.ndim == 1 and np.allclose(array, hann(len(array)), atol=1e-6))
    ]


def _beats_table(model: BEATsConfig, weights: Tree) -> Table:
    result: Table = {}
    for kind in ("params", "stats"):
        arrays, prefix = weights[kind]["model"], f"{kind}.model."
        if "encoder" in arrays:
            result |= beats.prefixed(base_table(model, arrays["encoder"]), prefix)
        for path in state_dict.flatten(arrays.get("pool", {})):
            layer, leaf = path.split(".")
            name = f"{PROJECTION}0.{_POOL[layer]}.{_LEAVES.get(leaf, leaf)}"
            place = state_dict.place(f"{prefix}pool.{path}")
            pointwise = layer.startswith("attention_") and leaf == "kernel"
            result[name] = place._replace(axes=POINTWISE) if pointwise else place
        linear = f"{PROJECTION}1." if "pool" in arrays else PROJECTION
        for leaf in arrays.get("projection", {}):
            path = f"{prefix}projection.{leaf}"
            result[linear + _LEAVES.get(leaf, leaf)] = state_dict.place(path)
    return result


def _in_run(path: str) -> Place:
    """The place in a run's weights of a path in `_table`."""
    kind, rest = path.split(".", 1)
    return state_dict.place(f"{kind}.model.{rest}")


def multiresnet_from_torch(
    state: Mapping[str, np.ndarray], config: MultiResNetConfig, n_samples: int, sample_rate: int
) -> tuple[Tree, Tree]:
    """Convert a PyTorch state dict, whose arrays must match the model's parameters one to one.

    Args:
        state: arrays by their names in ASDKit's module; `num_batches_tracked` is ignored.
        config: the architecture.
        n_samples: length of every clip in samples.
        sample_rate: in hertz.

    Returns:
        Trainable arrays and statistics, float32, nested as returned by `parameters.split`.

    Raises:
        AsdjaxError: arrays are missing, unexpected, not finite or have another shape, or a window
            is not a Hann window (all of these are named), or the clips are too short.
    """
    _, params, stats = parameters.split(building.skeleton(config, n_samples, sample_rate))
    names = {name: state_dict.place(path) for name, path in _table(config).items()}
    given = state_dict.parameters(state)
    like = {"params": params, "stats": stats}
    problems = state_dict.mismatches(names, given, like) + wrong_windows(given)
    if problems:
        raise ArtifactError(
            f"the weights do not fit this MultiResNet ({'; '.join(sorted(problems))}): set "
            "the model section and audio.clip_seconds as in the training"
        )
    trees = state_dict.from_torch(names, given, like)
    return trees["params"], trees["stats"]


def multiresnet_to_torch(
    params: Tree, stats: Tree, config: MultiResNetConfig
) -> dict[str, np.ndarray]:
    """Convert to a state dict for ASDKit's module: the inverse of `multiresnet_from_torch`.

    Args:
        params: trainable arrays, nested as returned by `parameters.split`.
        stats: statistics, likewise.
        config: the architecture.

    Returns:
        Arrays by their names in ASDKit's module, dtypes unchanged; `num_batches_tracked` is 0.

    Raises:
        AsdjaxError: arrays are missing or unexpected (all of these are named).
    """
    tree = {"params": params, "stats": stats}
    names = {name: state_dict.place(path) for name, path in _table(config).items()}
    paths = [place.path for place in names.values()]
    problems = state_dict.unmatched(paths, state_dict.flatten(tree))
    if problems:
        raise ArtifactError(
            f"the arrays do not fit this MultiResNet ({'; '.join(problems)}): set the model "
            "section as in the training"
        )
    return state_dict.to_torch(names, tree)


def _table(config: MultiResNetConfig) -> dict[str, str]:
    """The dotted path of every array in MultiResNet, by ASDKit's name."""
    table = {}

    def weight(name: str, path: str) -> None:
        table[f"{name}.weight"] = f"params.{path}.kernel"

    def norm(name: str, path: str) -> None:
        table[f"{name}.running_mean"] = f"stats.{path}.mean"
        table[f"{name}.running_var"] = f"stats.{path}.var"

    def gate(name: str, path: str) -> None:
        weight(f"{name}.layer1.0", f"{path}.squeeze")
        weight(f"{name}.layer2.0", f"{path}.excite")

    if config.fft_branch:
        name = "fft_layer.layer"
        for i in range(len(config.fft_convs)):  # convolution, ReLU, gate
            weight(f"{name}.conv1d_layer.{3 * i}", f"fft.convs.{i}.conv")
            gate(f"{name}.conv1d_layer.{3 * i + 2}", f"fft.convs.{i}.se")
        weight(f"{name}.aggregate_layer.1", "fft.hidden.0.linear")
        norm(f"{name}.aggregate_layer.2", "fft.hidden.0.norm")
        for i in range(config.fft_hidden_layers - 1):  # linear, norm, ReLU
            weight(f"{name}.last_layer.{3 * i}", f"fft.hidden.{i + 1}.linear")
            norm(f"{name}.last_layer.{3 * i + 1}", f"fft.hidden.{i + 1}.norm")
        weight(f"{name}.last_layer.{3 * (config.fft_hidden_layers - 1)}", "fft.out")

    for branch in range(len(config.spectrograms)):
        name, path = f"stft_layer_list.{branch}.layer", f"stft.{branch}"
        table[f"stft_layer_list.{branch}.stft.stft.window"] = f"stats.{path}.window"
        norm(f"{name}.bn_freq", f"{path}.norm_freq")
        weight(f"{name}.layers.0.layer.0", f"{path}.stem.conv")
        norm(f"{name}.layers.0.layer.1", f"{path}.stem.norm")
        for i in range(2 * len(config.stage_channels)):
            block, here = f"{name}.layers.{i // 2 + 1}.{i % 2}", f"{path}.blocks.{i}"
            norm(f"{block}.bn", f"{here}.norm1")
            weight(f"{block}.layer.1", f"{here}.conv1")
            norm(f"{block}.layer.2", f"{here}.norm2")
            weight(f"{block}.layer.4", f"{here}.conv2")
            gate(f"{block}.additional_layer", f"{here}.se")
            if i >= 2 and i % 2 == 0:
                weight(f"{block}.skip_connect.1", f"{here}.projection")
        norm(f"{name}.aggregate_layer.1", f"{path}.norm_out")
        weight(f"{name}.aggregate_layer.2", f"{path}.out")
    return table

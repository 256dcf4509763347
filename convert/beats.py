"""Conversion of BEATs checkpoints (Chen et al., ICML 2023), and its verification."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from asdjax._version import __version__
from asdjax.config import schema
from asdjax.config.beats_architecture import BEATsEncoderConfig
from asdjax.convert import state_dict, torch_file
from asdjax.convert.state_dict import Place, Table
from asdjax.errors import ArtifactError, AsdjaxError
from asdjax.files import atomic, documents
from asdjax.models import beats_embedder, building, parameters
from asdjax.models.beats_encoder import BEATsConfig
from asdjax.models.parameters import Tree
from asdjax.models.poolings import Mean
from asdjax.store import checkpoint, converted_weights
from asdjax.store.checkpoint_files import checkpoint_files
from asdjax.store.converted_weights import Pretrained

KNOWN = {"8d1b234032a9ccff353612dc6c20982346dc2968b205b79d97303eb5e77bfb34": "BEATs_iter3.pt"}
"""Published checkpoints by their SHA-256."""
TOLERANCE = 1e-4
"""Allowed difference of the probe's embedding on another version or device, relative to its largest
value."""

# The reference's defaults for keys that cfg may lack. They matter in training only, except for the
# first, which must agree with the names of the arrays.
_OPTIONAL = {
    "finetuned_model": False,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "dropout_input": 0.0,
    "encoder_layerdrop": 0.0,
    "layer_wise_gradient_decay_ratio": 1.0,
}
_CLASSIFIER = {"predictor_class", "predictor_dropout"}  # in fine-tuned checkpoints only
_TABLE = "relative_attention_bias"  # one array, listed under every layer
_RATE = 16000


def convert(
    source: Path,
    folder: Path,
    *,
    dtype: Literal["float32", "bfloat16"] = "float32",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Convert a checkpoint of BEATs; `asdjax.store.converted_weights` reads the result.

    Args:
        source: the checkpoint, pretrained or fine-tuned.
        folder: the folder to create.
        dtype: type of the stored arrays; bfloat16 rounds them to half the size.
        overwrite: whether to replace an earlier conversion.

    Returns:
        The content of beats.json (schema asdjax.beats/1).

    Raises:
        AsdjaxError: the file is not a BEATs checkpoint, its architecture is missing or unknown, or
            its arrays do not match the architecture (all that differ are named); or the folder
            exists or cannot be written.
    """
    sha256 = torch_file.sha256(source)

    def check() -> None:
        atomic.require_result(folder, overwrite, ours=_is_converted)
        written = {folder / converted_weights.DOCUMENT}
        for part in converted_weights.WEIGHTS, converted_weights.PREDICTOR:
            written |= checkpoint_files(folder / part)
        atomic.refuse_foreign(atomic.foreign(folder, written), "--overwrite")

    with atomic.whole_folder(folder, check) as partial:
        network, weights, document = _read(source, dtype)
        weights = jax.device_put(weights)  # no copy on a CPU; the probe would copy NumPy arrays
        values = network.probe(weights)
        if not np.isfinite(values).all():
            raise ArtifactError(f"{source}: its embeddings are not finite: download it again")
        predictor = weights["encoder"].pop("predictor", None)
        _save(partial / converted_weights.WEIGHTS, weights, dtype)
        if predictor is not None:
            predictor = {"predictor": predictor}
            _save(partial / converted_weights.PREDICTOR, predictor, dtype)
        document |= {
            "source": source.name,
            "sha256": sha256,
            "recognised": KNOWN.get(sha256),
            "digest": checkpoint.digest(weights),
            "predictor_digest": predictor and checkpoint.digest(predictor),
            "probe": [float(value) for value in values],
            "version": __version__,
        }
        documents.write_json(
            partial / converted_weights.DOCUMENT, {"schema": converted_weights.SCHEMA, **document}
        )
    return document


def verify(folder: Path) -> float:
    """Load a folder of converted weights and compare the embedding of the probe.

    Returns:
        The largest difference from the stored embedding, relative to its largest value.

    Raises:
        AsdjaxError: the folder is damaged, its weights have changed, or the embedding differs by
            more than `TOLERANCE`.
    """
    weights = converted_weights.read(folder)
    network = _Network(weights.encoder)
    stored = weights.document.get("probe")
    numbers = isinstance(stored, list) and all(type(value) is float for value in stored)
    expected = np.array(stored if numbers else [], np.float32)
    values = network.probe(checkpoint.load_pretrained(weights, network.like))
    if expected.shape != values.shape or not expected.any():
        raise ArtifactError(f"{folder}: beats.json has no embedding of the probe: convert again")
    difference = float(np.max(np.abs(values - expected)) / np.max(np.abs(expected)))
    if not difference <= TOLERANCE:
        raise ArtifactError(
            f"{folder}: the probe's embedding differs by {difference:.1e} of its largest value, "
            f"more than {TOLERANCE:g}: convert again with the installed version of jax"
        )
    return difference


def load(weights: Pretrained) -> Tree:
    """All arrays, {"encoder": ...}, of a folder of converted weights: float32, digest verified."""
    return checkpoint.load_pretrained(weights, _Network(weights.encoder).like)


def table(encoder: Tree, *, prefix: str = "", adapted: tuple[str, ...] = ()) -> Table:
    """The table of an encoder's arrays, by the reference's names.

    Args:
        encoder: the arrays or their shapes, or some of them, nested as in `parameters.split`.
        prefix: prefix of every name.
        adapted: projections with an adapter, whose arrays are named as in the peft library.

    Returns:
        The table; its paths start with "encoder.".
    """
    result: Table = {}
    for path in state_dict.flatten(encoder):
        place = state_dict.place(f"encoder.{path}")
        names = [path]
        if path.endswith(_TABLE):
            layers = range(len(encoder["encoder"]["layers"]))
            names = [f"encoder.layers.{i}.self_attn.{_TABLE}.weight" for i in layers]
        result |= {prefix + _reference_name(name, adapted): place for name in names}
    return result


def prefixed(table: Table, prefix: str) -> Table:
    """The table with a prefix before every path, for a larger tree."""
    return {name: Place(f"{prefix}{path}", axes) for name, (path, axes) in table.items()}


def _reference_name(path: str, adapted: tuple[str, ...]) -> str:
    path = path.replace("encoder.pos_conv.", "encoder.pos_conv.0.")
    *parents, leaf = path.split(".")
    leaf = {
        "kernel": "weight",
        "scale": "weight",
        "lora_a": "lora_A.default.weight",
        "lora_b": "lora_B.default.weight",
    }.get(leaf, leaf)
    if parents and parents[-1] in adapted and leaf in ("weight", "bias"):
        parents.append("base_layer")
    return ".".join([*parents, leaf])


class _Network:
    """A BEATs encoder followed by the mean over the tokens of its last layer.

    Attributes:
        like: names and shapes of the encoder's arrays.
    """

    def __init__(self, encoder: BEATsEncoderConfig):
        self._encoder = encoder
        module = building.skeleton(_model(encoder), None, _RATE)
        self._graphdef, self.like, _ = parameters.split(module)

    def probe(self, weights: Tree) -> Float32[np.ndarray, " D"]:
        """The embedding of a fixed sound of 10 s, or of one patch if that is longer.

        In 10 s, distances between tokens fall into most of the relative-position buckets.
        """
        i = np.arange(max(10 * _RATE, beats_embedder.shortest(self._encoder)))
        chirp = np.sin(2 * np.pi * (100 / _RATE * i + 300 / _RATE**2 * i**2))  # 100 to 6100 Hz
        noise = i**2 * 7919 % 65537 / 65537 - 0.5
        waveform = np.round(2**15 * (0.3 * chirp + 0.1 * noise)) / 2**15

        @jax.jit
        def embed(params: Tree, waveform: jax.Array) -> jax.Array:
            return parameters.apply(self._graphdef, params, {}, waveform, train=False)[0]

        return np.asarray(embed(weights, waveform[None].astype(np.float32)))[0]


def _read(source: Path, dtype: str) -> tuple[_Network, Tree, dict[str, Any]]:
    """The architecture, the arrays (rounded to `dtype`) and the description of a checkpoint."""
    content = torch_file.read(source)
    if type(content) is not dict or not all(
        type(content.get(key)) is dict for key in ("cfg", "model")
    ):
        raise ArtifactError(
            f"{source}: has no cfg, which states the architecture: name a checkpoint with cfg and "
            "model, as published by the BEATs authors"
        )
    encoder, assumed, ignored = _configuration(content["cfg"], source)
    state = content["model"]
    wrong = state_dict.no_arrays(state) or _oversized(encoder, state)
    if not wrong:
        network = _Network(encoder)
        names = table(network.like["encoder"])
        wrong = state_dict.mismatches(names, state, network.like)
        if wrong and "predictor.weight" in state and not encoder.finetuned_model:
            wrong.insert(0, "a classifier, but cfg.finetuned_model is not true")
    if wrong:
        raise ArtifactError(
            f"{source}: its arrays do not match the architecture in its cfg "
            f"({'; '.join(wrong)}): download it again, or name another checkpoint"
        )
    weights = state_dict.from_torch(names, state, network.like)
    if dtype == "bfloat16":
        for leaf in jax.tree.leaves(weights):
            leaf[...] = leaf.astype(jnp.bfloat16)
    document = {
        "encoder": schema.to_tree(encoder),
        "cfg_assumed": assumed,
        "cfg_ignored": ignored,
        "dtype": dtype,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(weights)),
        "tensors": _report(names, state, network.like),
    }
    return network, weights, document


def _oversized(encoder: BEATsEncoderConfig, state: dict[str, np.ndarray]) -> list[str]:
    """A message for each size in cfg that is larger than any axis, checked before allocation."""
    most = max([len(state), *(size for array in state.values() for size in array.shape)])
    names = (
        "encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "embed_dim", "conv_pos",
        "input_patch_size",
    )  # fmt: skip
    return [
        f"cfg.{name} is {getattr(encoder, name)}, but no axis is longer than {most}"
        for name in names
        if getattr(encoder, name) > most
    ]


def _configuration(
    cfg: dict[str, Any], source: Path
) -> tuple[BEATsEncoderConfig, dict[str, Any], list[str]]:
    """The architecture of a cfg, the defaults used for missing keys, and the unknown keys."""
    known = {field.name for field in dataclasses.fields(BEATsEncoderConfig)}
    required = known - _OPTIONAL.keys() - _CLASSIFIER
    if cfg.get("finetuned_model"):
        required |= {"predictor_class"}
    missing = sorted(required - cfg.keys())
    if missing:
        raise ArtifactError(
            f"{source}: its cfg lacks {', '.join(missing)}: name a checkpoint as published by the "
            "BEATs authors"
        )
    assumed = {key: value for key, value in _OPTIONAL.items() if key not in cfg}
    stated = {key: value for key, value in cfg.items() if key in known}
    try:
        encoder = schema.read(BEATsEncoderConfig, stated | assumed, "cfg", str(source))
        schema.check(BEATsEncoderConfig, encoder, "cfg", str(source))
    except AsdjaxError as error:
        raise ArtifactError(
            f"{error}: unsupported architecture: name another checkpoint"
        ) from error
    for possible, key, what in encoder.checks():
        if not possible:
            key = key.replace("model.encoder.", "cfg.")
            raise ArtifactError(f"{source}: {key}: {what}: name another checkpoint")
    return encoder, assumed, sorted(str(key) for key in cfg.keys() - known)


def _report(names: Table, state: dict[str, np.ndarray], like: Tree) -> list[dict[str, Any]]:
    """Name, shape and dtype of each array in the checkpoint, and its name and shape here."""
    shapes = state_dict.flatten(like)
    return [
        {
            "name": name,
            "shape": list(state[name].shape),
            "dtype": state[name].dtype.name,
            "place": path,
            "place_shape": list(shapes[path].shape),
        }
        for name, (path, _) in names.items()
    ]


def _is_converted(folder: Path) -> bool:
    if not documents.present(folder / converted_weights.DOCUMENT):
        return False
    document = documents.read_json(folder / converted_weights.DOCUMENT, "choose another folder")
    return isinstance(document, dict) and str(document.get("schema")).startswith("asdjax.beats/")


def _model(encoder: BEATsEncoderConfig) -> BEATsConfig:
    return BEATsConfig(
        encoder=encoder, random_init=True, adaptation="frozen", pooling=Mean(), embedding_size=0
    )


def _save(folder: Path, weights: Tree, dtype: str) -> None:
    if dtype == "bfloat16":
        weights = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), weights)
    checkpoint.save_weights(folder, weights)

"""Conversion of checkpoints of BEATs and OpenBEATs, and its verification.

BEATs: Chen et al., ICML 2023. OpenBEATs: Bharadwaj et al., WASPAA 2025, the same network trained
with ESPnet, whose checkpoints have different defaults and two arrays more.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from asdjax.config import schema
from asdjax.config.beats_architecture import BEATsEncoderConfig
from asdjax.convert import state_dict, torch_file, weights_folder
from asdjax.convert.state_dict import Place, Table
from asdjax.convert.weights_folder import Checkpoint, Dtype, Network
from asdjax.errors import ArtifactError, AsdjaxError
from asdjax.models.parameters import Tree
from asdjax.store import converted_weights

KNOWN = {"8d1b234032a9ccff353612dc6c20982346dc2968b205b79d97303eb5e77bfb34": "BEATs_iter3.pt"}
"""Published checkpoints by their SHA-256."""

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
_NORMALISATION = {"fbank_mean", "fbank_std"}  # in cfg of some OpenBEATs only
_NOT_IN_CFG = {"published_as"}


class _Publication(NamedTuple):
    """What differs between the checkpoints of BEATs and OpenBEATs."""

    name: Literal["BEATs", "OpenBEATs"]
    optional: dict[str, Any]
    """Values of keys that cfg may lack."""
    ones: tuple[str, ...]
    """Arrays of ones, which ESPnet applies to masks of padding; the network does not need them."""


_BEATS = _Publication("BEATs", _OPTIONAL, ())
_OPENBEATS = _Publication(
    "OpenBEATs",
    {  # of ESPnet's BeatsConfig
        **_OPTIONAL,
        "input_patch_size": 16,
        "embed_dim": 512,
        "conv_bias": False,
        "encoder_layers": 12,
        "encoder_embed_dim": 768,
        "encoder_ffn_embed_dim": 3072,
        "encoder_attention_heads": 12,
        "activation_fn": "gelu",
        "layer_norm_first": False,
        "deep_norm": False,
        "conv_pos": 128,
        "conv_pos_groups": 16,
        "relative_position_embedding": False,
        "num_buckets": 320,
        "max_distance": 1280,
        "gru_rel_pos": False,
    },
    ("patch_embedding_pad.weight", "raw2fbank_pad.weight"),
)
_PUBLICATIONS: dict[str, _Publication] = {
    publication.name: publication for publication in (_BEATS, _OPENBEATS)
}
_TABLE = "relative_attention_bias"  # one array, listed under every layer


def convert(
    source: Path,
    folder: Path,
    *,
    dtype: Dtype = "float32",
    overwrite: bool = False,
    published_as: Literal["BEATs", "OpenBEATs"] = "BEATs",
    fbank_mean: float | None = None,
    fbank_std: float | None = None,
) -> dict[str, Any]:
    """Convert a checkpoint of BEATs; `asdjax.store.converted_weights` reads the result.

    Args:
        source: the checkpoint, pretrained or fine-tuned.
        folder: the folder to create.
        dtype: type of the stored arrays; bfloat16 rounds them to half the size.
        overwrite: whether to replace an earlier conversion.
        published_as: whose checkpoint it is.
        fbank_mean: mean of the filterbank in the pretraining; None: as cfg states, else BEATs'.
        fbank_std: its standard deviation.

    Returns:
        The content of beats.json (schema asdjax.beats/1).

    Raises:
        AsdjaxError: the file is not a BEATs checkpoint, its architecture is missing or unknown, or
            its arrays do not match the architecture (all that differ are named); or the folder
            exists or cannot be written.
    """
    given = {"fbank_mean": fbank_mean, "fbank_std": fbank_std}
    normalisation = {key: value for key, value in given.items() if value is not None}
    return weights_folder.write(
        source,
        folder,
        lambda: _read(source, dtype, _PUBLICATIONS[published_as], normalisation),
        file=converted_weights.DOCUMENT,
        dtype=dtype,
        overwrite=overwrite,
        known=KNOWN,
    )


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


def _read(
    source: Path, dtype: Dtype, publication: _Publication, normalisation: dict[str, float]
) -> Checkpoint:
    content = torch_file.read(source)
    if type(content) is not dict or not all(
        type(content.get(key)) is dict for key in ("cfg", "model")
    ):
        raise ArtifactError(
            f"{source}: has no cfg, which states the architecture: name a checkpoint with cfg and "
            f"model, as published by the {publication.name} authors"
        )
    cfg = content["cfg"] | normalisation
    encoder, assumed, ignored = _configuration(cfg, source, publication)
    state = content["model"]
    wrong = state_dict.no_arrays(state)
    if not wrong:
        state, wrong = _without_ones(state, publication.ones)
        wrong += _oversized(encoder, state)
    if not wrong:
        network = Network("beats", encoder)
        names = table(network.like["encoder"])
        wrong = state_dict.mismatches(names, state, network.like)
        if wrong and "predictor.weight" in state and not encoder.finetuned_model:
            wrong.insert(0, "a classifier, but cfg.finetuned_model is not true")
    if wrong:
        raise ArtifactError(
            f"{source}: its arrays do not match the architecture in its cfg "
            f"({'; '.join(wrong)}): download it again, or name another checkpoint"
        )
    weights = weights_folder.rounded(state_dict.from_torch(names, state, network.like), dtype)
    document = weights_folder.description(encoder, weights, dtype, names, state)
    return Checkpoint(
        network, weights, {**document, "cfg_assumed": assumed, "cfg_ignored": ignored}
    )


def _without_ones(
    state: dict[str, np.ndarray], ones: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays without those called `ones`, and a message for each that has other values."""
    wrong = [f"{name} is not all ones" for name in ones if not np.all(state.get(name, 1) == 1)]
    return {name: array for name, array in state.items() if name not in ones}, wrong


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
    cfg: dict[str, Any], source: Path, publication: _Publication
) -> tuple[BEATsEncoderConfig, dict[str, Any], list[str]]:
    """The architecture of a cfg, the defaults used for missing keys, and the unknown keys."""
    known = {field.name for field in dataclasses.fields(BEATsEncoderConfig)} - _NOT_IN_CFG
    required = known - publication.optional.keys() - _CLASSIFIER - _NORMALISATION
    if cfg.get("finetuned_model"):
        required |= {"predictor_class"}
    missing = sorted(required - cfg.keys())
    if missing:
        raise ArtifactError(
            f"{source}: its cfg lacks {', '.join(missing)}: name a checkpoint as published by the "
            f"{publication.name} authors"
        )
    assumed = {key: value for key, value in publication.optional.items() if key not in cfg}
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
    encoder = dataclasses.replace(encoder, published_as=publication.name)
    return encoder, assumed, sorted(str(key) for key in cfg.keys() - known)

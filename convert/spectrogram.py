"""Conversion of AST, EAT, SSLAM and Dasheng, from safetensors or PyTorch files.

A `Layout` says how a publication names its arrays. Sizes are read from the arrays; nothing is
guessed but the number of heads, which no array shows: it is known for the published widths.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asdjax.config import schema
from asdjax.config.transformer_architecture import EATArchitecture, TransformerConfig
from asdjax.convert import state_dict, weights_file, weights_folder
from asdjax.convert.state_dict import KERNEL, Axes, Place, Table
from asdjax.convert.weights_folder import Checkpoint, Dtype, Network
from asdjax.errors import ArtifactError, AsdjaxError
from asdjax.models.parameters import Tree
from asdjax.models.vision_transformer import sines
from asdjax.signal.mel_decibels import N_FFT, mel_bank
from asdjax.signal.stft import hann
from asdjax.store import converted_weights

State = dict[str, np.ndarray]

HEADS: Mapping[int, int] = {768: 12, 1024: 16}
"""Attention heads of the published base and large networks, by width."""

_BAND_FIRST = Axes(  # [out, 1, bands, frames] in PyTorch, [frames, bands, 1, out] here
    lambda a: a.transpose(3, 2, 1, 0), lambda a: a.transpose(3, 2, 1, 0)
)
_TOKEN = Axes(lambda a: a[None, None], lambda a: a[0, 0])  # [1, 1, D], [D]
_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_FUSED = "qkv"
_QKV = ("q", "k", "v")


class Layout(NamedTuple):
    """How a file of one publication names and orders its arrays."""

    title: str
    prefixes: tuple[str, ...]
    """Possible prefixes of every name."""
    patches: str
    """Module of the patch embedding, by which the layout is recognised."""
    blocks: str
    """Prefix of a layer, with {} for its number."""
    modules: Mapping[str, str]
    """Modules, and arrays outside of modules, by their place in our tree; within a layer by their
    place in a layer."""
    epsilon: float
    """Added to the variance in layer normalisation."""
    left_out: tuple[str, ...] = ()
    """Beginnings of names, with their prefix, that the encoder does not need: classifiers, what
    pretraining needs."""
    fixed: str = ""
    """Table of fixed positions, which must be the one that is computed here."""


_TIMM_BLOCK = {
    "norm1": "norm1",
    "attn.q_proj": f"attn.{_FUSED}",
    "attn.k_proj": f"attn.{_FUSED}",
    "attn.v_proj": f"attn.{_FUSED}",
    "attn.out_proj": "attn.proj",
    "norm2": "norm2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}


class Prepared(NamedTuple):
    """Arrays that are named in the table, what remains open of the architecture, and faults."""

    state: State
    sizes: dict[str, Any]
    wrong: list[str]


class Family(NamedTuple):
    """What is published of one kind of encoder."""

    name: str
    """The encoder's registered name."""
    layouts: tuple[Layout, ...]
    kernel: Axes
    """Axes of the patch embedding."""
    axes: Mapping[str, Axes]
    """Axes of arrays outside of modules, by their place in our tree."""
    prepare: Callable[[State, Layout, str], Prepared]
    """Checks or divides the arrays that are not taken as they are, given layout and prefix."""
    weights_key: str | None = None
    """Key of the weights in PyTorch files that hold other things, too."""


def convert(
    family: Family,
    source: Path,
    folder: Path,
    *,
    published_as: str,
    heads: int | None = None,
    dtype: Dtype = "float32",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Convert published weights; `asdjax.store.converted_weights` reads the result.

    Args:
        family: the kind of encoder.
        source: a safetensors file or a PyTorch file.
        folder: the folder to create.
        published_as: the name of the weights, for meta.yaml.
        heads: number of attention heads; None: known for the published widths.
        dtype: type of the stored arrays; bfloat16 rounds them to half the size.
        overwrite: whether to replace an earlier conversion.

    Returns:
        The content of encoder.json (schema asdjax.encoder/1).

    Raises:
        AsdjaxError: the file does not have one of the layouts, or its arrays do not match it (all
            that differ are named); or the folder exists or cannot be written.
    """
    return weights_folder.write(
        source,
        folder,
        lambda: _read(family, source, published_as, heads, dtype),
        file=converted_weights.ENCODER_DOCUMENT,
        dtype=dtype,
        overwrite=overwrite,
        known={},
    )


def _read(
    family: Family, source: Path, published_as: str, heads: int | None, dtype: Dtype
) -> Checkpoint:
    state, left_out = _arrays(family, source)
    layout, prefix = _layout(family, state, source)
    left_out += sorted(name for name in state if name.startswith(layout.left_out))
    state = {
        name: array
        for name, array in state_dict.parameters(state).items()
        if not name.startswith(layout.left_out)
    }
    state, sizes, wrong = family.prepare(_divided(state), layout, prefix)
    if not wrong:
        kind = converted_weights.architecture(family.name)
        encoder = _architecture(kind, state, layout, prefix, published_as, heads, sizes, source)
        network = Network(family.name, encoder)
        names = _table(family, layout, prefix, network.like["encoder"])
        wrong = state_dict.mismatches(names, state, network.like)
    if wrong:
        raise ArtifactError(
            f"{source}: its arrays do not match the layout {layout.title} of {published_as} "
            f"({'; '.join(wrong)}): download it again, or name another file"
        )
    weights = weights_folder.rounded(state_dict.from_torch(names, state, network.like), dtype)
    document = weights_folder.description(encoder, weights, dtype, names, state)
    more = {"name": family.name, "layout": layout.title, "left_out": left_out}
    return Checkpoint(network, weights, {**more, **document})


def _arrays(family: Family, source: Path) -> tuple[State, list[str]]:
    """The arrays of a file, and the names of what is beside them."""
    key = family.weights_key
    if weights_file.is_safetensors(source):
        content, key = weights_file.read(source), None
    else:
        content = weights_file.read(source, placeholders_outside=key)
    state = content if key is None else content[key]
    if type(state) is not dict:
        raise ArtifactError(f"{source}: holds no arrays by name: name a file of weights")
    inner = [str(name) for name, value in state.items() if type(value) is dict]
    state = {name: value for name, value in state.items() if type(value) is not dict}
    wrong = state_dict.no_arrays(state)
    if wrong:
        raise ArtifactError(f"{source}: {'; '.join(wrong[:5])}: name a file of weights")
    return state, inner


def _layout(family: Family, state: State, source: Path) -> tuple[Layout, str]:
    """The layout that has the name of the patch embedding, and the prefix of its names."""
    known = []
    for layout in family.layouts:
        for prefix in layout.prefixes:
            name = f"{prefix}{layout.patches}.weight"
            if name in state and state[name].ndim == 4:
                return layout, prefix
            known.append(f"{name} ({layout.title})")
    some = ", ".join(sorted(state)[:5]) or "nothing"
    raise ArtifactError(
        f"{source}: an unknown layout: has none of the patch embeddings {', '.join(known)}, but "
        f"{some} ...: name another file"
    )


def _divided(state: State) -> State:
    """The arrays, with those of fused queries, keys and values divided into three."""
    divided: State = {}
    for name, array in state.items():
        fused = name.split(".")[-2:-1] == [_FUSED] and array.ndim and len(array) % 3 == 0
        if fused:
            parts = zip(_QKV, np.split(array, 3), strict=True)
            divided |= {f"{name} ({part})": rows for part, rows in parts}
        else:
            divided[name] = array
    return divided


def _architecture(
    kind: type[TransformerConfig],
    state: State,
    layout: Layout,
    prefix: str,
    published_as: str,
    heads: int | None,
    sizes: dict[str, Any],
    source: Path,
) -> TransformerConfig:
    """The sizes, from the shapes of the arrays."""
    width = len(state[f"{prefix}{layout.patches}.weight"])
    pattern = re.compile(re.escape(prefix + layout.blocks).replace(r"\{\}", r"(\d+)"))
    depth = len({match[1] for match in map(pattern.match, state) if match})
    first = state.get(f"{prefix}{layout.blocks.format(0)}{layout.modules['fc1']}.weight")
    if heads is None and width not in HEADS:
        raise ArtifactError(
            f"{source}: tokens of {width} values, for which the number of attention heads is not "
            "known: state it with --heads"
        )
    tree = {
        "depth": depth,
        "width": width,
        "hidden": len(first) if first is not None and first.ndim else 0,
        "heads": heads or HEADS[width],
        "norm_epsilon": layout.epsilon,
        "published_as": published_as,
        **sizes,
    }
    try:
        encoder: TransformerConfig = schema.read(kind, tree, "encoder", str(source))
        schema.check(kind, encoder, "encoder", str(source))
    except AsdjaxError as error:
        raise ArtifactError(f"{error}: unsupported architecture: name another file") from error
    for possible, key, what in encoder.checks():
        if not possible:
            raise ArtifactError(f"{source}: {key}: {what}: name another file")
    return encoder


def _table(family: Family, layout: Layout, prefix: str, encoder: Tree) -> Table:
    """The place of every array, by its name in the file."""
    table: Table = {}
    for path in state_dict.flatten(encoder):
        place = state_dict.place(f"encoder.{path}")
        if path in family.axes:
            place = Place(place.path, family.axes[path])
        elif path == "patch_embed.kernel":
            place = Place(place.path, family.kernel)
        table[prefix + _source_name(path, layout)] = place
    return table


def _source_name(path: str, layout: Layout) -> str:
    if path in layout.modules:
        return layout.modules[path]
    module, leaf = path.rsplit(".", 1)
    leaf = _LEAVES.get(leaf, leaf)
    block = re.match(r"blocks\.(\d+)\.", module)
    if block is None:
        return f"{layout.patches if module == 'patch_embed' else layout.modules[module]}.{leaf}"
    inner = module[block.end() :]
    name = f"{layout.blocks.format(block[1])}{layout.modules[inner]}.{leaf}"
    return f"{name} ({inner[5]})" if layout.modules[inner].endswith(_FUSED) else name


# AST

_AST_GRIDS = {1212: (10, 101), 850: (12, 85), 657: (14, 73), 512: (16, 64)}
"""Step between patches and columns, by the number of patches, for 1024 frames. Other lengths have
other mean and standard deviation of the filterbank."""
_PATCHES, _CLASS = " (patches)", " (class tokens)"


def _ast(state: State, layout: Layout, prefix: str) -> Prepared:
    """The table of positions divided, and the grid that follows from its length."""
    name = prefix + layout.modules["positions"].removesuffix(_PATCHES)
    table = state.pop(name, None)
    if table is None:
        return Prepared(state, {}, [f"missing {name}"])
    count = table.shape[1] - 2 if table.ndim == 3 and len(table) == 1 else 0
    if count not in _AST_GRIDS:
        known = ", ".join(f"(1, {2 + patches}, D)" for patches in _AST_GRIDS)
        return Prepared(
            state, {}, [f"{name} has shape {table.shape}, not one of {known} of 1024 frames"]
        )
    stride, columns = _AST_GRIDS[count]
    by_band = table[0, 2:].reshape(-1, columns, table.shape[2])
    state |= {name + _PATCHES: by_band, name + _CLASS: table[0, :2]}
    return Prepared(state, {"stride": stride, "columns": columns}, [])


AST = Family(
    "ast",
    (
        Layout(
            "of its authors",
            ("module.v.", "v."),
            "patch_embed.proj",
            "blocks.{}.",
            {
                **_TIMM_BLOCK,
                "class_tokens.0": "cls_token",
                "class_tokens.1": "dist_token",
                "positions": "pos_embed" + _PATCHES,
                "class_positions": "pos_embed" + _CLASS,
                "norm": "norm",
            },
            1e-6,
            ("module.v.head.", "module.v.head_dist.", "module.mlp_head.")
            + ("v.head.", "v.head_dist.", "mlp_head."),
        ),
        Layout(
            "of Hugging Face",
            ("audio_spectrogram_transformer.", ""),
            "embeddings.patch_embeddings.projection",
            "encoder.layer.{}.",
            {
                "norm1": "layernorm_before",
                "attn.q_proj": "attention.attention.query",
                "attn.k_proj": "attention.attention.key",
                "attn.v_proj": "attention.attention.value",
                "attn.out_proj": "attention.output.dense",
                "norm2": "layernorm_after",
                "fc1": "intermediate.dense",
                "fc2": "output.dense",
                "class_tokens.0": "embeddings.cls_token",
                "class_tokens.1": "embeddings.distillation_token",
                "positions": "embeddings.position_embeddings" + _PATCHES,
                "class_positions": "embeddings.position_embeddings" + _CLASS,
                "norm": "layernorm",
            },
            1e-12,
            ("classifier.",),
        ),
    ),
    _BAND_FIRST,
    {
        "class_tokens.0": _TOKEN,
        "class_tokens.1": _TOKEN,
        # bands first in the file
        "positions": Axes(lambda a: a.transpose(1, 0, 2), lambda a: a.transpose(1, 0, 2)),
    },
    _ast,
)


# EAT and SSLAM

_LARGEST_DIFFERENCE = 1e-3
"""Of positions from the sines: float32 angles of 10^3 are rounded by 6e-5."""


def _eat(state: State, layout: Layout, prefix: str) -> Prepared:
    """The arrays without the table of positions, which must be the fixed sines."""
    name = prefix + layout.fixed
    table = state.pop(name, None)
    if table is None:
        return Prepared(state, {}, [])
    bands = EATArchitecture().bands
    fits = table.ndim == 3 and len(table) == 1 and table.shape[2] % 4 == 0
    if not fits or table.shape[1] % bands or not table.size:
        wrong = f"{name} has shape {table.shape}, not (1, {bands} columns, D)"
        return Prepared(state, {}, [wrong])
    expected = sines(table.shape[1] // bands, bands, table.shape[2])
    difference = np.max(np.abs(table.reshape(expected.shape).astype(np.float32) - expected))
    equal = difference <= _LARGEST_DIFFERENCE
    return Prepared(state, {}, [] if equal else [f"{name} is not the table of fixed sines"])


def _eat_layout(title: str, prefixes: tuple[str, ...], encoder: str, norm: str) -> Layout:
    modules = {**_TIMM_BLOCK, "class_tokens.0": f"{encoder}extra_tokens", "pre_norm": norm}
    needless = ("modality_encoders.IMAGE.decoder.", "recon_proj.", "cls_proj.", "center")
    return Layout(
        title,
        prefixes,
        f"{encoder}local_encoder.proj",
        "blocks.{}.",
        modules,
        1e-6,
        (*needless, "model.fc_norm.", "model.head.", "fc_norm.", "head."),
        f"{encoder}fixed_positional_encoder.positions",
    )


EAT = Family(
    "eat",
    (
        _eat_layout(
            "of fairseq",
            ("", "model."),
            "modality_encoders.IMAGE.",
            "modality_encoders.IMAGE.context_encoder.norm",
        ),
        _eat_layout("of Hugging Face", ("model.", ""), "", "pre_norm"),
    ),
    KERNEL,
    {"class_tokens.0": _TOKEN},
    _eat,
    "model",
)


# Dasheng


def _dasheng(state: State, layout: Layout, prefix: str) -> Prepared:
    """The arrays without window and filters, which must be those of the spectrogram here."""
    wrong = []
    fixed = {"spectrogram.window": hann(N_FFT), "mel_scale.fb": mel_bank()}
    for name, expected in fixed.items():
        array = state.pop(f"{prefix}{layout.fixed}{name}", expected)
        if array.shape != expected.shape or not np.allclose(array, expected, rtol=0, atol=1e-4):
            wrong.append(f"{prefix}{layout.fixed}{name} is not that of 64 bands up to 8000 Hz")
    times = state.get(prefix + layout.modules["time_positions"])
    columns = times.shape[-1] if times is not None and times.ndim == 4 else 0
    if not columns:
        wrong.append(f"no {prefix}{layout.modules['time_positions']} of shape (1, D, 1, columns)")
    return Prepared(state, {"stride": 4, "columns": columns}, wrong)


def _dasheng_layout(title: str, prefix: str, left_out: tuple[str, ...]) -> Layout:
    modules = {
        **_TIMM_BLOCK,
        "band_norm": "init_bn.1",
        "time_positions": "time_pos_embed",
        "band_positions": "freq_pos_embed",
        "norm": "norm",
    }
    return Layout(
        title, (prefix,), "patch_embed.proj", "blocks.{}.", modules, 1e-6, left_out, "front_end.0."
    )


DASHENG = Family(
    "dasheng",
    (
        _dasheng_layout("of its authors", "", ()),
        _dasheng_layout("of Hugging Face", "encoder.", ("outputlayer.",)),
    ),
    _BAND_FIRST,
    {
        # [1, D, 1, columns] and [1, D, bands, 1] in PyTorch, [columns or bands, D] here
        "time_positions": Axes(lambda a: a.T[None, :, None], lambda a: a[0, :, 0].T),
        "band_positions": Axes(lambda a: a.T[None, ..., None], lambda a: a[0, ..., 0].T),
    },
    _dasheng,
    "model",
)

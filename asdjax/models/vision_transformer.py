"""The vision transformer (Dosovitskiy et al., ICLR 2021) on patches of a spectrogram.

It is the network of AST, EAT, SSLAM and Dasheng; `Form` states what differs between them. Tokens
are time-major: token index = bands * column + band, where a column is one step in time of the
patches. Modules have the names of timm's, except that queries, keys and values have projections of
their own.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from asdjax.config.beats_architecture import LoRAConfig
from asdjax.config.interfaces import ComputeDtype
from asdjax.config.transformer_architecture import TransformerConfig
from asdjax.errors import ConfigError
from asdjax.models.attention import MultiheadAttention, Tokens, Valid
from asdjax.models.dropout import Draws, at
from asdjax.models.layers import Conv, LayerNorm, Rng
from asdjax.models.lora import LoRALinear
from asdjax.models.mixed_precision import Projection, wide

Remat: TypeAlias = Literal["none", "full"]

_FC1, _FC2 = 6, 7  # random streams of a layer; attention.py has the others


@dataclasses.dataclass(frozen=True)
class Form:
    """What differs between the networks of the encoders."""

    positions: Literal["table", "time_and_band", "sines"]
    """What is added to the patches: a learned vector for each place, the sum of one for its column
    and one for its band, or fixed sines, which know no longest clip."""
    class_tokens: int = 0
    """Tokens before the patches."""
    norm_first: bool = True
    """Whether a layer normalises its parts' inputs and the network its output; else a layer
    normalises the sums of inputs and outputs, and the network the first layer's input."""
    normalised_bands: bool = False
    """Whether each band of the spectrogram is normalised by stored statistics first."""


@overload
def columns(frames: int, config: TransformerConfig) -> int: ...
@overload
def columns(frames: Int[Array, " B"], config: TransformerConfig) -> Int[Array, " B"]: ...
def columns(frames: int | Int[Array, " B"], config: TransformerConfig) -> int | Int[Array, " B"]:
    """Columns of a spectrogram, which are steps in time; an incomplete last patch is dropped."""
    count = (frames - config.patch[0]) // config.stride + 1
    return max(count, 0) if isinstance(count, int) else jnp.maximum(count, 0)


class Output(NamedTuple):
    """What the network computes of a batch of clips."""

    layers: tuple[Tokens, ...]
    """The patches' tokens after each of the chosen layers; those of the last layer normalised, if
    the network normalises its output."""
    class_tokens: Float[Array, "B K D"]
    """The class tokens after the last chosen layer; their mean over the parts of a longer clip."""


class VisionTransformer(nnx.Module):
    """Spectrogram to tokens.

    Args:
        config: the sizes.
        form: the kind of network.
        lora: adapters for the projections that it targets, in every layer.
        remat: what the backward pass recomputes instead of storing: nothing, or all activations
            inside of a layer.
        compute_dtype: precision of the large products.
        rng: source of the initial weights, which are usually replaced by pretrained ones.
    """

    def __init__(
        self,
        config: TransformerConfig,
        form: Form,
        *,
        lora: LoRAConfig | None = None,
        remat: Remat = "none",
        compute_dtype: ComputeDtype = "float32",
        rng: Rng,
    ):
        self.config, self.form, self.remat = config, form, remat
        self.random_in_training = bool(lora and lora.dropout)
        width, eps, bands = config.width, config.norm_epsilon, config.bands

        def drawn(*shape: int) -> nnx.Param:
            return nnx.Param(rng.normal(0, 0.02, shape).astype(np.float32))

        def projection(name: str, n_in: int, n_out: int) -> Projection:
            if lora is not None and name in lora.targets:
                return LoRALinear(n_in, n_out, lora, compute_dtype=compute_dtype, rng=rng)
            return Projection(n_in, n_out, compute_dtype=compute_dtype, rng=rng)

        self.band_norm = BandNorm(config.spectrogram_bands) if form.normalised_bands else None
        self.patch_embed = Conv(
            1, width, config.patch, stride=config.stride, bias=True, compute_dtype=compute_dtype,
            rng=rng,
        )  # fmt: skip
        table, separate = form.positions == "table", form.positions == "time_and_band"
        self.positions = drawn(config.columns, bands, width) if table else None
        self.class_positions = drawn(form.class_tokens, width) if table else None
        self.time_positions = drawn(config.columns, width) if separate else None
        self.band_positions = drawn(bands, width) if separate else None
        self.class_tokens = nnx.List([drawn(width) for _ in range(form.class_tokens)])
        self.pre_norm = None if form.norm_first else LayerNorm(width, eps)
        layers = (
            Block(config, form.norm_first, projection, compute_dtype, rng)
            for _ in range(config.depth)
        )
        self.blocks = nnx.List(layers)
        self.norm = LayerNorm(width, eps) if form.norm_first else None

    def __call__(
        self,
        spectrogram: Float[Array, "B L F"],
        *,
        columns: Int[Array, " B"] | None = None,
        layers: Sequence[int] = (),
        draws: Draws | None = None,
    ) -> Output:
        """The output tokens of each of `layers`.

        A clip with more columns than the table of positions is cut into parts of that many columns;
        each part is embedded alone.

        Args:
            spectrogram: normalised, float32 or float64.
            columns: of each clip without padding, which has no influence on the others' tokens.
                None: clips are not padded.
            layers: counted from 1, in rising order; empty: the last layer. Higher layers are not
                computed.
            draws: random numbers for the dropout of adapters, in training.

        Raises:
            AsdjaxError: the clips are shorter than a patch, or a layer does not exist.
        """
        config = self.config
        layers = tuple(layers) or (config.depth,)
        if min(layers) < 1 or max(layers) > config.depth:
            raise ConfigError(
                f"model.layers: {layers}, but the encoder has {config.depth}: choose among them"
            )
        grid = self.patches(spectrogram)
        batch, steps, bands, width = grid.shape
        part = steps if self.form.positions == "sines" else min(steps, config.columns)
        parts = -(-steps // part)
        if columns is None and parts * part > steps:
            columns = jnp.full(batch, steps, jnp.int32)
        grid = jnp.pad(grid, ((0, 0), (0, parts * part - steps), (0, 0), (0, 0)))
        grid = grid.reshape(batch * parts, part, bands, width)
        x = (grid + self.positions_of(part, grid.dtype)[None]).reshape(batch * parts, -1, width)
        own = None if columns is None else _own_columns(columns, parts, part)
        first, x, valid = self._with_class_tokens(x, own, bands)
        tokens: list[Tokens] = []
        for number, block in enumerate(self.blocks, 1):
            if number > max(layers):
                break
            x = self._apply(block, x, valid, at(draws, number))
            done = self.norm(x) if number == config.depth and self.norm is not None else x
            if number in layers:
                patches = done[:, first:].reshape(batch, -1, width)
                tokens.append(patches[:, : steps * bands])
        return Output(tuple(tokens), _mean_of_parts(done[:, :first], own, batch))

    def patches(self, spectrogram: Float[Array, "B L F"]) -> Float[Array, "B T F D"]:
        """The embedded patches, without positions.

        Raises:
            AsdjaxError: the clips are shorter than a patch.
        """
        if not columns(spectrogram.shape[1], self.config):
            raise ConfigError(
                f"clips of {spectrogram.shape[1]} frames are too short for "
                f"{self.config.published_as}, which needs {self.config.patch[0]}: increase "
                "audio.clip_seconds"
            )
        if self.band_norm is not None:
            spectrogram = self.band_norm(spectrogram)
        return self.patch_embed(spectrogram[..., None])

    def positions_of(self, steps: int, dtype: jnp.dtype) -> Float[Array, "T F D"]:
        """What is added to the patches of the first `steps` columns."""
        if self.positions is not None:
            return self.positions[...][:steps]
        if self.time_positions is not None and self.band_positions is not None:
            return self.time_positions[...][:steps, None] + self.band_positions[...][None]
        return jnp.asarray(sines(steps, self.config.bands, self.config.width), dtype)

    def _with_class_tokens(
        self, x: Tokens, own: Bool[Array, "B T"] | None, bands: int
    ) -> tuple[int, Tokens, Valid]:
        """The number of class tokens, all tokens, and which of them are valid."""
        first = len(self.class_tokens)
        if first:
            tokens = jnp.stack([token[...] for token in self.class_tokens])
            if self.class_positions is not None:
                tokens = tokens + self.class_positions[...]
            x = jnp.concatenate([jnp.broadcast_to(tokens, (len(x), *tokens.shape)), x], axis=1)
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        if own is None:
            return first, x, None
        valid = jnp.repeat(own, bands, axis=1)
        return first, x, jnp.pad(valid, ((0, 0), (first, 0)), constant_values=True)

    def _apply(self, block: "Block", x: Tokens, valid: Valid, draws: Draws | None) -> Tokens:
        run: Callable = jax.checkpoint(block.__call__) if self.remat == "full" else block
        return run(x, valid, draws)


class Block(nnx.Module):
    """Attention, then a feed-forward network, each with a residual sum and a normalisation."""

    def __init__(
        self,
        config: TransformerConfig,
        norm_first: bool,
        projection: Callable[[str, int, int], Projection],
        compute_dtype: ComputeDtype,
        rng: Rng,
    ):
        width, eps = config.width, config.norm_epsilon
        self.norm_first = norm_first
        self.norm1 = LayerNorm(width, eps)
        self.attn = MultiheadAttention(
            width, config.heads, projection, remat=False, compute_dtype=compute_dtype, fused=False,
            rng=rng,
        )  # fmt: skip
        self.norm2 = LayerNorm(width, eps)
        self.fc1 = projection("fc1", width, config.hidden)
        self.fc2 = projection("fc2", config.hidden, width)

    def __call__(self, x: Tokens, valid: Valid, draws: Draws | None) -> Tokens:
        """Apply the layer."""
        if self.norm_first:
            x = x + self.attn(self.norm1(x), None, valid, draws)
            return x + self.mlp(self.norm2(x), draws)
        x = self.norm1(x + self.attn(x, None, valid, draws))
        return self.norm2(x + self.mlp(x, draws))

    def mlp(self, x: Tokens, draws: Draws | None) -> Tokens:
        """The feed-forward network."""
        hidden = jax.nn.gelu(wide(self.fc1(x, at(draws, _FC1))), approximate=False)
        return self.fc2(hidden.astype(x.dtype), at(draws, _FC2))


class BandNorm(nnx.Module):
    """Each band minus its mean, divided by its standard deviation, scaled and shifted.

    The statistics are those of the pretraining, in training, too; they are not trained.
    """

    def __init__(self, bands: int, eps: float = 1e-5):
        self.mean = nnx.Param(np.zeros(bands, np.float32))
        self.var = nnx.Param(np.ones(bands, np.float32))
        self.scale = nnx.Param(np.ones(bands, np.float32))
        self.bias = nnx.Param(np.zeros(bands, np.float32))
        self.eps = eps

    def __call__(self, x: Float[Array, "B L F"]) -> Float[Array, "B L F"]:
        """Normalise."""
        factor = self.scale[...] * jax.lax.rsqrt(self.var[...] + self.eps)
        return (x - self.mean[...][None, None]) * factor[None, None] + self.bias[...][None, None]


def sines(steps: int, bands: int, width: int) -> Float[np.ndarray, "T F D"]:
    """Fixed positions, as MAE's for images: first of the band, then of the column.

    Each half is [sin(p w), cos(p w)] of the position p with w_i = 10000^(-4 i / width), in the
    reference's precision: float32, rounded before the sine.
    """
    quarter = width // 4
    omega = np.float32(1) / np.float32(10000) ** (np.arange(quarter, dtype=np.float32) / quarter)

    def of(count: int) -> np.ndarray:
        angles = np.arange(count, dtype=np.float32)[:, None] * omega
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    band = np.broadcast_to(of(bands)[None], (steps, bands, width // 2))
    column = np.broadcast_to(of(steps)[:, None], (steps, bands, width // 2))
    return np.concatenate([band, column], axis=2, dtype=np.float32)


def _own_columns(columns: Int[Array, " B"], parts: int, part: int) -> Bool[Array, "P T"]:
    """Which columns of each part of each clip are not padding."""
    own = jnp.arange(parts * part, dtype=columns.dtype)[None] < columns[:, None]
    return own.reshape(-1, part)


def _mean_of_parts(
    x: Float[Array, "P K D"], own: Bool[Array, "P T"] | None, batch: int
) -> Float[Array, "B K D"]:
    """The mean of the class tokens over the parts of each clip that have a column of their own."""
    x = x.reshape(batch, len(x) // batch, *x.shape[1:])
    if own is None:
        return jnp.mean(x, axis=1)
    weight = jnp.any(own, axis=1).astype(x.dtype).reshape(batch, -1, 1, 1)
    return jnp.sum(x * weight, axis=1) / jnp.sum(weight, axis=1)

"""BEATs: a transformer on patches of a filterbank (Chen et al., ICML 2023), Iter3's architecture.

Modules and arrays have the names of the reference's checkpoints, except that kernels are
[*window, in, out] and the table of relative positions, which all layers share, is stored once.
Tokens are time-major: token index = (bands / patch size) * time step + frequency step.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from asdjax.config.beats_architecture import BEATsEncoderConfig, LoRAConfig
from asdjax.config.interfaces import ComputeDtype
from asdjax.errors import ConfigError
from asdjax.models import operations
from asdjax.models.attention import Bias, MultiheadAttention, Tokens, Valid
from asdjax.models.dropout import Draws, at, dropout
from asdjax.models.layers import Conv, LayerNorm, Rng
from asdjax.models.lora import LoRALinear
from asdjax.models.mixed_precision import Projection, einsum, wide

Remat: TypeAlias = Literal["none", "attention", "full"]

# random streams of the network; those of the layers are 1, 2, ... 2^20 at most
_PATCHES, _TOKENS = 2**20 + 1, 2**20 + 2
# random streams of a layer; attention.py has the others
_SKIP, _ATTENDED, _HIDDEN, _OUTPUT, _FC1, _FC2 = 0, 2, 3, 4, 6, 7


def n_tokens(frames: int, config: BEATsEncoderConfig) -> int:
    """Number of tokens of a clip of `frames` frames; an incomplete last patch is dropped."""
    return frames // config.input_patch_size * config.bands


def own_patch_mask(
    frames: Int[Array, " B"], n_frames: int, config: BEATsEncoderConfig
) -> Bool[Array, "B N"]:
    """Mask of the tokens that belong to each clip, in a batch padded to `n_frames`.

    Args:
        frames: each clip's number of frames without padding.
        n_frames: frames of the batch.
        config: the architecture.

    Returns:
        True where a token's patch has no padding. These are the tokens that the clip has alone.
    """
    steps = jnp.arange(n_tokens(n_frames, config)) // config.bands
    own = jnp.asarray(frames) // config.input_patch_size
    return steps.astype(own.dtype)[None] < own[:, None]


def reference_token_mask(
    padding: Bool[Array, "B T"], n_frames: int, config: BEATsEncoderConfig
) -> Bool[Array, "B N"]:
    """Mask of the tokens that the reference implementation treats as not padded.

    It reduces the mask of samples to frames, and that of frames to tokens, by equal groups of
    consecutive entries: a group is padding if all its entries are; the remainder at the end is
    dropped. A token then depends on two consecutive frames instead of its patch, so that a clip's
    embedding depends on its padding. Only `own_patch_mask` avoids this.

    Args:
        padding: True for samples that are padding.
        n_frames: frames of the filterbank, at least as many as tokens.
        config: the architecture.

    Returns:
        True for tokens that are not padding: the argument `valid` of `BEATs`.
    """
    for length in n_frames, n_tokens(n_frames, config):
        group = padding.shape[1] // length
        padding = padding[:, : group * length].reshape(-1, length, group).all(axis=2)
    return ~padding


def position_buckets(length: int, config: BEATsEncoderConfig) -> Int[np.ndarray, " 2*length-1"]:
    """The bucket of each relative position (key - query) from 1 - length to length - 1.

    As Raffel et al. (JMLR 2020): the second half of the buckets is for keys after the query. Each
    half has h buckets. With e = h // 2, distances d < e have a bucket each; larger distances have
    bucket e + floor((h - e) log(d / e) / log(max_distance / e)), at most h - 1.

    Raises:
        AsdjaxError: `max_distance` is not above e.
    """
    half = config.num_buckets // 2
    exact = half // 2
    if config.max_distance <= exact:
        raise ConfigError(
            f"model.encoder.max_distance: {config.max_distance} is too small for "
            f"{config.num_buckets} buckets: choose more than {exact}"
        )
    position = np.arange(1 - length, length)
    distance = np.abs(position)
    # in the reference's order and precision, because some quotients are exact integers
    octaves = np.log(np.maximum(distance, exact).astype(np.float32) / np.float32(exact))
    octaves = octaves / np.float32(math.log(config.max_distance / exact))
    far = exact + (octaves * np.float32(half - exact)).astype(np.int64)
    bucket = np.where(distance < exact, distance, np.minimum(far, half - 1))
    return np.where(position > 0, half + bucket, bucket)


class _Plan(NamedTuple):
    """Arguments that all modules share."""

    config: BEATsEncoderConfig
    lora: LoRAConfig | None
    remat: Remat
    scan: bool
    compute_dtype: ComputeDtype
    fused_attention: bool
    rng: Rng

    def projection(self, name: str, n_in: int, n_out: int) -> Projection:
        """The projection `name` of a layer, with an adapter if `lora` targets it."""
        dtype, rng = self.compute_dtype, self.rng
        if self.lora is not None and name in self.lora.targets:
            return LoRALinear(n_in, n_out, self.lora, compute_dtype=dtype, rng=rng)
        return Projection(n_in, n_out, compute_dtype=dtype, rng=rng)


class BEATs(nnx.Module):
    """Normalised filterbank to tokens.

    Args:
        config: the architecture.
        lora: adapters for the projections that it targets, in every layer.
        scan: run the layers as one loop over stacked weights; one layer is then compiled.
        remat: what the backward pass recomputes instead of storing: nothing, the attention weights,
            or all activations inside of a layer.
        compute_dtype: precision of the large products. With "bfloat16", the tokens between and
            inside of layers are bfloat16, too; weights, softmax, norms, gates, sums and the
            positional convolution remain float32.
        fused_attention: use `fused_attention` (NVIDIA GPUs), except where attention weights are
            dropped.
        rng: source of the initial weights, which are usually replaced by pretrained ones.
    """

    def __init__(
        self,
        config: BEATsEncoderConfig,
        *,
        lora: LoRAConfig | None = None,
        remat: Remat = "none",
        scan: bool = False,
        compute_dtype: ComputeDtype = "float32",
        fused_attention: bool = False,
        rng: Rng,
    ):
        plan = _Plan(config, lora, remat, scan, compute_dtype, fused_attention, rng)
        width = config.encoder_embed_dim
        self.config = config
        self.patch_embedding = PatchEmbedding(plan)
        self.layer_norm = LayerNorm(config.embed_dim)
        same = config.embed_dim == width
        self.post_extract_proj = (
            None if same else plan.projection("post_extract_proj", config.embed_dim, width)
        )
        self.encoder = TransformerEncoder(plan)
        self.predictor = (
            Projection(width, config.predictor_class, rng=rng) if config.finetuned_model else None
        )
        rates = [config.dropout, config.attention_dropout, config.activation_dropout]
        rates += [config.dropout_input, config.encoder_layerdrop, lora.dropout if lora else 0.0]
        self.random_in_training = any(rates)

    def __call__(
        self,
        fbank: Float[Array, "B frames 128"],
        *,
        valid: Valid = None,
        layers: Sequence[int] = (),
        train: bool = False,
        draws: Draws | None = None,
    ) -> tuple[Tokens, ...]:
        """The output tokens of each of `layers`.

        Args:
            fbank: normalised, float32 or float64.
            valid: tokens that are not padding. The others are zeroed before the positional
                convolution and masked in the attention; their outputs are meaningless.
            layers: counted from 1, in any order; 0 is the first layer's input; empty: the last
                layer. Higher layers are not computed.
            train: whether dropout and layer drop are applied.
            draws: random numbers for them.

        Raises:
            AsdjaxError: the clips are shorter than a patch, or a layer does not exist.
            ValueError: `draws` is missing in training.
        """
        if not n_tokens(fbank.shape[1], self.config):
            raise ConfigError(
                f"clips of {fbank.shape[1]} frames are too short for BEATs, which needs "
                f"{self.config.input_patch_size}: increase audio.clip_seconds"
            )
        layers = tuple(layers) or (self.config.encoder_layers,)
        if min(layers) < 0 or max(layers) > self.config.encoder_layers:
            raise ConfigError(
                f"model.layers: {layers}, but the encoder has {self.config.encoder_layers}: choose "
                "among them"
            )
        if train and draws is None and self.random_in_training:
            raise ValueError("training with dropout or layer drop needs draws")
        draws = draws if train and self.random_in_training else None
        if draws is not None:  # JAX 0.10.0 cannot save typed keys as residuals of lax.cond
            draws = draws._replace(key=jax.random.key_data(draws.key))
        x = dropout(self.tokens(fbank), self.config.dropout_input, at(draws, _PATCHES))
        return self.encoder(x, valid, layers, draws)

    def tokens(self, fbank: Float[Array, "B frames 128"]) -> Tokens:
        """The projected patches."""
        x = self.layer_norm(self.patch_embedding(fbank))
        return x if self.post_extract_proj is None else self.post_extract_proj(x)

    def probabilities(self, tokens: Tokens, valid: Valid = None) -> Float[Array, "B classes"]:
        """The probability of each class, from the last layer's tokens (fine-tuned models only)."""
        return jax.nn.sigmoid(self.logits(tokens, valid))

    def logits(self, tokens: Tokens, valid: Valid = None) -> Float[Array, "B classes"]:
        """The classifier's logits, averaged over (valid) tokens.

        Raises:
            AsdjaxError: the model is not fine-tuned.
        """
        if self.predictor is None:
            raise ConfigError("this BEATs has no classifier: convert a fine-tuned checkpoint")
        logits = self.predictor(tokens)
        return jnp.mean(logits, axis=1, where=None if valid is None else valid[:, :, None])


class PatchEmbedding(Conv):
    """A linear map of each patch: a convolution whose stride is its window."""

    def __init__(self, plan: _Plan):
        size, features = plan.config.input_patch_size, plan.config.embed_dim
        super().__init__(1, features, (size, size), bias=plan.config.conv_bias, rng=plan.rng)
        self.compute_dtype = plan.compute_dtype

    def __call__(self, x: Float[Array, "B frames 128"]) -> Tokens:
        """Embed the patches."""
        size = self.kernel.shape[0]
        steps, bands = x.shape[1] // size, x.shape[2] // size
        x = x[:, : steps * size, : bands * size].reshape(-1, steps, size, bands, size)
        patches = jnp.swapaxes(x, 2, 3).reshape(-1, size * size)
        kernel = self.kernel[...].reshape(size * size, -1)
        y = einsum("ni,io->no", patches, kernel, self.compute_dtype)
        if self.bias is not None:
            y = y + self.bias[...][None]
        return y.reshape(-1, steps * bands, kernel.shape[1])


class PositionalConv(nnx.Module):
    """Positional encoding: a grouped convolution along the tokens, then GELU.

    Output i depends on the `window` tokens from i - window // 2 on. Weight normalisation (Salimans
    and Kingma, 2016) is applied to each tap k: weight[k] = weight_g[k] weight_v[k] / |weight_v[k]|.
    """

    def __init__(self, plan: _Plan):
        width, self.groups = plan.config.encoder_embed_dim, plan.config.conv_pos_groups
        window = (plan.config.conv_pos,)
        conv = Conv(width // self.groups, width, window, bias=True, rng=plan.rng)
        assert conv.bias is not None, "made with bias=True"
        self.bias = conv.bias
        self.weight_v: nnx.Param | None = conv.kernel
        self.weight_g: nnx.Param | None = nnx.Param(jnp.linalg.norm(conv.kernel[...], axis=(1, 2)))
        self.spectrum: nnx.Param | None = nnx.data(None)  # `fold` puts it in place of both weights

    def fold(self, params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Replace the weight by its spectrum (see `operations.overlap_save`), for inference.

        Changes this module, and returns the parameters for it.
        """
        v, g = (np.asarray(params[name], np.float64) for name in ("weight_v", "weight_g"))
        weight = v * (g / np.linalg.norm(v, axis=(1, 2)))[:, None, None]
        grouped = weight.reshape(*v.shape[:2], self.groups, -1).transpose(2, 0, 1, 3)
        spectrum = np.conj(np.fft.rfft(grouped, 2 * len(v), axis=1))
        kind = np.result_type(params["weight_v"].dtype, np.complex64)
        self.spectrum, self.weight_g, self.weight_v = self.weight_v, None, None
        return {"spectrum": spectrum.astype(kind), "bias": params["bias"]}

    def __call__(self, x: Tokens) -> Tokens:
        """Apply the layer."""
        if self.spectrum is not None:
            y = operations.overlap_save(x, self.spectrum[...])
        else:
            assert self.weight_v is not None and self.weight_g is not None, "not folded"
            v = self.weight_v[...]
            norm = jnp.linalg.norm(v, axis=(1, 2))
            weight = v * (self.weight_g[...] / norm)[:, None, None]
            y = operations.grouped_correlate(x, weight, self.groups)
        return jax.nn.gelu(y + self.bias[...][None, None], approximate=False)


class TransformerEncoder(nnx.Module):
    """Positional convolution, layer norm, transformer layers."""

    def __init__(self, plan: _Plan):
        config = plan.config
        self.config, self.remat, self.scan = config, plan.remat, plan.scan
        self.rounds = plan.compute_dtype == "bfloat16"
        self.pos_conv = PositionalConv(plan)
        self.layer_norm = LayerNorm(config.encoder_embed_dim)
        table = plan.rng.normal(0, 0.02, (config.num_buckets, config.encoder_attention_heads))
        relative = config.relative_position_embedding
        table = table.astype(np.float32)
        self.relative_attention_bias = nnx.Param(table) if relative else None
        layers = (TransformerEncoderLayer(plan) for _ in range(config.encoder_layers))
        self.layers = nnx.List(layers)

    def __call__(
        self, x: Tokens, valid: Valid, layers: tuple[int, ...], draws: Draws | None
    ) -> tuple[Tokens, ...]:
        """The output tokens of each of `layers`; with `draws`, as in training (see `BEATs`)."""
        config = self.config
        x = self.positioned(x, valid)
        x = dropout(x, config.dropout, at(draws, _TOKENS))
        bias = self.position_bias(x.shape[1])
        hidden, done, dtype = {0: x}, 0, x.dtype
        if self.rounds:
            x = x.astype(jnp.bfloat16)
        for number in sorted({*layers} - {0}):
            x = self._through(done, number, x, bias, valid, draws)
            hidden[number], done = x.astype(dtype), number
        return tuple(hidden[number] for number in layers)

    def _through(
        self, first: int, last: int, x: Tokens, bias: Bias, valid: Valid, draws: Draws | None
    ) -> Tokens:
        """Apply the layers `first` + 1 to `last`."""
        layers = list(itertools.islice(self.layers, first, last))
        if not self.scan:
            for number, layer in enumerate(layers, first + 1):
                x = self._apply(layer, number, x, bias, valid, draws)
            return x
        structure = nnx.split(layers[0])[0]
        weights = jax.tree.map(lambda *arrays: jnp.stack(arrays), *map(nnx.state, layers))

        def step(x: Tokens, which: tuple[Int[Array, ""], nnx.State]) -> tuple[Tokens, None]:
            number, state = which
            layer = nnx.merge(structure, state)
            return self._apply(layer, number, x, bias, valid, draws), None

        numbers = jnp.arange(first + 1, last + 1, dtype=jnp.int32)
        return lax.scan(step, x, (numbers, weights))[0]

    def _apply(
        self,
        layer: "TransformerEncoderLayer",
        number: int | Int[Array, ""],
        x: Tokens,
        bias: Bias,
        valid: Valid,
        draws: Draws | None,
    ) -> Tokens:
        """Apply a layer, unless it is dropped."""
        run: Callable = layer
        if self.remat == "full":
            run = jax.checkpoint(layer.__call__, prevent_cse=not self.scan)
        x = optax.scale_gradient(x, self.config.layer_wise_gradient_decay_ratio)
        own = at(draws, number)
        if own is None or self.config.encoder_layerdrop == 0:
            return run(x, bias, valid, own)
        drawn = jax.random.uniform(own.at(_SKIP).key, (), jnp.float32)
        skip = drawn < self.config.encoder_layerdrop  # [0, 1): a rate of 1 always skips
        return lax.cond(skip, lambda x, *_: x, run, x, bias, valid, own)

    def positioned(self, x: Tokens, valid: Valid = None) -> Tokens:
        """The first layer's input: the tokens with positional encoding, normalised."""
        if valid is not None:
            x = jnp.where(valid[:, :, None], x, 0.0)
        return self.layer_norm(x + self.pos_conv(x))

    def position_bias(self, length: int) -> Bias:
        """The relative position bias [heads, query n, key m], before the gate: b(m - n)."""
        if self.relative_attention_bias is None:
            return None
        table = self.relative_attention_bias[...]
        # A product with one-hot rows. The gradient of a look-up would be a scatter, which is slow,
        # and on GPUs adds in random order.
        buckets = position_buckets(length, self.config)
        chosen = jax.nn.one_hot(buckets, self.config.num_buckets, dtype=table.dtype)
        by_position = jnp.einsum("pb,bh->hp", chosen, table, precision="highest")
        # Row n must hold b from position -n on: a shift by one from row to row, without a gather.
        # With N = length, repeat the row b (2N - 1 values, then a zero) N times and cut it into
        # rows of 2N - 1: value j of row n is value j + (2N - 1) n = j - n (mod 2N) of b, whose
        # value N - 1 is position 0. So its values N - 1 .. 2N - 2 are positions -n .. N - 1 - n.
        heads = by_position.shape[0]
        rows = jnp.pad(by_position, ((0, 0), (0, 1)))[:, None]
        rows = jnp.broadcast_to(rows, (heads, length, 2 * length)).reshape(heads, -1)
        return rows[:, :-length].reshape(heads, length, -1)[:, :, length - 1 :]


class TransformerEncoderLayer(nnx.Module):
    """Attention, then a feed-forward network; each is x -> LayerNorm(alpha x + f(x)).

    With deep norm (Wang et al., 2022) alpha = (2 layers)^(1/4), else 1.
    """

    def __init__(self, plan: _Plan):
        self.config = plan.config
        width, hidden = self.config.encoder_embed_dim, self.config.encoder_ffn_embed_dim
        self.self_attn = MultiheadAttention(
            width,
            self.config.encoder_attention_heads,
            plan.projection,
            gated=self.config.gru_rel_pos,
            dropout=self.config.attention_dropout,
            remat=plan.remat == "attention",
            compute_dtype=plan.compute_dtype,
            fused=plan.fused_attention,
            rng=plan.rng,
        )
        self.self_attn_layer_norm = LayerNorm(width)
        self.fc1 = plan.projection("fc1", width, hidden)
        self.fc2 = plan.projection("fc2", hidden, width)
        self.final_layer_norm = LayerNorm(width)
        self.alpha = (2 * self.config.encoder_layers) ** 0.25 if self.config.deep_norm else 1.0

    def __call__(self, x: Tokens, bias: Bias, valid: Valid, draws: Draws | None) -> Tokens:
        """Apply the layer."""
        rate = self.config.dropout
        y = dropout(self.self_attn(x, bias, valid, draws), rate, at(draws, _ATTENDED))
        x = self.self_attn_layer_norm(self.alpha * wide(x) + wide(y)).astype(x.dtype)
        y = jax.nn.gelu(wide(self.fc1(x, at(draws, _FC1))), approximate=False).astype(x.dtype)
        y = dropout(y, self.config.activation_dropout, at(draws, _HIDDEN))
        y = dropout(self.fc2(y, at(draws, _FC2)), rate, at(draws, _OUTPUT))
        return self.final_layer_norm(self.alpha * wide(x) + wide(y)).astype(x.dtype)

"""Multi-head self-attention, with the gated relative positions of BEATs or without positions."""

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from asdjax.config.interfaces import ComputeDtype
from asdjax.models.dropout import Draws, at, dropout
from asdjax.models.layers import Rng
from asdjax.models.mixed_precision import Projection, einsum, wide

Tokens: TypeAlias = Float[Array, "B N D"]
Valid: TypeAlias = Bool[Array, "B N"] | None
Bias: TypeAlias = Float[Array, "H N N"] | None
Heads: TypeAlias = Float[Array, "B N H d"]
Gate: TypeAlias = Float[Array, "B H N"] | None

_WEIGHTS, _OUT_PROJ, _QKV = 1, 5, (8, 9, 10)  # random streams of a layer; beats.py has the others


class MultiheadAttention(nnx.Module):
    """Self-attention with a relative position bias that is scaled by a gate for each query.

    Args:
        width: values in a token.
        heads: attention heads; each has width / heads values.
        projection: makes a projection from its name, input size and output size.
        gated: whether the bias has a gate.
        dropout: rate of dropped attention weights, in training.
        remat: whether the backward pass recomputes the attention weights instead of storing them.
        compute_dtype: precision of the large products.
        fused: use `fused_attention`, except where attention weights are dropped.
        rng: source of the initial weights.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        projection: Callable[[str, int, int], Projection],
        *,
        gated: bool = False,
        dropout: float = 0.0,
        remat: bool,
        compute_dtype: ComputeDtype,
        fused: bool,
        rng: Rng,
    ):
        self.heads = heads
        self.q_proj = projection("q_proj", width, width)
        self.k_proj = projection("k_proj", width, width)
        self.v_proj = projection("v_proj", width, width)
        self.out_proj = projection("out_proj", width, width)
        self.grep_linear = Projection(width // heads, 8, rng=rng) if gated else None
        self.grep_a = nnx.Param(np.ones(heads, np.float32)) if gated else None
        self.dropout, self.remat = dropout, remat
        self.compute_dtype, self.fused = compute_dtype, fused

    def __call__(self, x: Tokens, bias: Bias, valid: Valid, draws: Draws | None) -> Tokens:
        """Let every token attend to the valid ones; `draws` are for dropout."""
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (
            project(x, at(draws, place)).reshape(*x.shape[:2], self.heads, -1)
            for project, place in zip(projections, _QKV, strict=True)
        )
        attend = jax.checkpoint(self.attend) if self.remat else self.attend
        y = attend((q, k, v), self.gate(wide(q)), bias, valid, at(draws, _WEIGHTS))
        return self.out_proj(y.reshape(x.shape), at(draws, _OUT_PROJ))

    def gate(self, q: Heads) -> Gate:
        """Each query's factor on its position bias: g = a (b s - 1) + 2 (Chi et al., 2022).

        a and b are the sigmoids of two linear maps of the query, s is learned for each head.
        """
        if self.grep_linear is None or self.grep_a is None:
            return None
        sums = jnp.sum(self.grep_linear(q).reshape(*q.shape[:-1], 2, 4), axis=-1)
        a, b = jnp.moveaxis(jax.nn.sigmoid(sums), (3, 2), (0, 2))  # [B, H, N] each
        return a * (b * self.grep_a[...][None, :, None] - 1) + 2

    def weights(
        self, q: Heads, k: Heads, gate: Gate, bias: Bias, valid: Valid
    ) -> Float[Array, "B H N N"]:
        """The attention weights: softmax over keys of q k / sqrt(d) + gate * bias."""
        scaled = wide(q) / math.sqrt(q.shape[-1])
        logits = einsum("bqhd,bkhd->bhqk", scaled, k, self.compute_dtype)
        added = _gated(gate, bias)
        if added is not None:
            logits = logits + added
        if valid is not None:
            # not -inf: the softmax of a row without valid tokens would be NaN
            logits = jnp.where(valid[:, None, None], logits, jnp.finfo(logits.dtype).min)
        return jax.nn.softmax(logits, axis=-1)

    def attend(
        self, qkv: tuple[Heads, ...], gate: Gate, bias: Bias, valid: Valid, draws: Draws | None
    ) -> Heads:
        """Each head's weighted sum of the values; `draws` are for dropout of the weights."""
        q, k, v = qkv
        if self.fused and (draws is None or self.dropout == 0):
            return fused_attention(q, k, v, _gated(gate, bias), valid)
        weights = dropout(self.weights(q, k, gate, bias, valid), self.dropout, draws)
        return einsum("bhqk,bkhd->bqhd", weights, v, self.compute_dtype).astype(v.dtype)


def fused_attention(
    q: Heads,
    k: Heads,
    v: Heads,
    bias: Float[Array, "#B H N N"] | None,
    valid: Valid,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Heads:
    """softmax(q k / sqrt(d) + bias) v over valid keys, in one kernel that stores no weights.

    Operands and bias are rounded to bfloat16; softmax and sums are in float32.

    Args:
        q: queries.
        k: keys.
        v: values.
        bias: position bias, gated if it has a gate.
        valid: tokens that are used as keys.
        implementation: "cudnn" needs an NVIDIA GPU (Ampere or later); "xla" computes the same with
            separate operations on any device.
    """
    if valid is not None:  # masked by the bias: cuDNN has no mask [B, keys]
        if bias is None:
            bias = jnp.zeros((1, 1, q.shape[1], k.shape[1]), q.dtype)
        # not the least float, whose differences overflow; JAX masks with this value, too
        bias = jnp.where(valid[:, None, None], bias, -(2.0**41))
    if bias is not None:
        bias = bias.astype(jnp.bfloat16)
    query, key, value = (a.astype(jnp.bfloat16) for a in (q, k, v))
    with jax.numpy_dtype_promotion("standard"):  # JAX mixes dtypes in this function
        y = jax.nn.dot_product_attention(
            query, key, value, bias=bias, implementation=implementation
        )
    return y.astype(q.dtype)


def _gated(gate: Gate, bias: Bias) -> Float[Array, "#B H N N"] | None:
    """The bias that is added to the logits."""
    if bias is None:
        return None
    return bias[None] if gate is None else gate[..., None] * bias[None]

"""Pooling of tokens without weights: mean, relative deviation pooling, generalised mean.

Relative deviation pooling: arXiv 2603.04605. Generalised mean: Radenovic et al., TPAMI 2019.
"""

import abc
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

_LEAST_DEVIATION = 1e-8
"""A clip whose tokens are not farther than this from their mean has equal weights."""


class TokenPool(nnx.Module):
    """Pools all tokens of a clip, or those of each frequency band by themselves.

    Each pooling extends it with `pooled`.

    Args:
        bands: number of bands to keep; token t * bands + f is that of time step t and band f. 1:
            all tokens are pooled together.
    """

    def __init__(self, bands: int = 1):
        self.bands = bands

    def __call__(
        self,
        x: Float[Array, "B L C"],
        *,
        train: bool,
        axis_name: str | None = None,
        valid: Bool[Array, "B L"] | None = None,
    ) -> Float[Array, "B bands*C"]:
        """Pool all tokens, or the valid ones; band after band."""
        if valid is not None:
            x = jnp.where(valid[:, :, None], x, 0)  # not by a weight of 0: 0 * NaN is NaN
        if self.bands == 1:
            return self.pooled(x, valid)
        clips, _, features = x.shape
        x = jnp.swapaxes(x.reshape(clips, -1, self.bands, features), 1, 2)
        if valid is not None:
            valid = jnp.swapaxes(valid.reshape(clips, -1, self.bands), 1, 2)
            valid = valid.reshape(clips * self.bands, -1)
        rows = x.reshape(clips * self.bands, -1, features)
        return self.pooled(rows, valid).reshape(clips, -1)

    @abc.abstractmethod
    def pooled(
        self, x: Float[Array, "B L C"], valid: Bool[Array, "B L"] | None
    ) -> Float[Array, "B C"]:
        """The vectors of clips, or of their bands; tokens that are not valid are 0."""


class TokenMean(TokenPool):
    """The mean over tokens."""

    def pooled(
        self, x: Float[Array, "B L C"], valid: Bool[Array, "B L"] | None
    ) -> Float[Array, "B C"]:
        """The mean over all tokens, or over the valid ones."""
        return token_mean(x, valid)


class RelativeDeviationMean(TokenPool):
    """The mean over tokens with the weights of `deviation_weights`."""

    def __init__(self, gamma: float, bands: int = 1):
        super().__init__(bands)
        self.gamma = gamma

    def pooled(
        self, x: Float[Array, "B L C"], valid: Bool[Array, "B L"] | None
    ) -> Float[Array, "B C"]:
        """The weighted mean."""
        weights = deviation_weights(x, valid, self.gamma)
        return jnp.sum(weights[:, :, None] * x, axis=1)


class GeneralisedMean(TokenPool):
    """The weighted power mean over tokens of each channel, negative values taken as 0.

    (sum_t w_t max(x_t, 0)^power)^(1 / power), with the weights of `deviation_weights`.
    """

    def __init__(self, power: float, gamma: float, bands: int = 1):
        super().__init__(bands)
        self.power, self.gamma = power, gamma

    def pooled(
        self, x: Float[Array, "B L C"], valid: Bool[Array, "B L"] | None
    ) -> Float[Array, "B C"]:
        """The power mean."""
        weights = deviation_weights(x, valid, self.gamma)
        x = jax.nn.relu(x)
        # A power of values relative to the largest neither overflows nor vanishes. The result does
        # not depend on the scale, so that this needs no gradient.
        scale = jax.lax.stop_gradient(jnp.max(x, axis=1))
        positive = scale > 0
        relative = x / jnp.where(positive, scale, 1)[:, None, :]
        total = jnp.sum(weights[:, :, None] * relative**self.power, axis=1)
        root = jnp.where(positive, total, 1) ** (1 / self.power)  # no infinite gradient at 0
        return jnp.where(positive, scale * root, 0)


class SideBySide(nnx.Module):
    """The vectors of several poolings, one after the other."""

    def __init__(self, members: Sequence[nnx.Module]):
        self.members = nnx.List(members)

    def __call__(
        self,
        x: Float[Array, "B L C"],
        *,
        train: bool,
        axis_name: str | None = None,
        valid: Bool[Array, "B L"] | None = None,
    ) -> Float[Array, "B D"]:
        """Pool all tokens, or the valid ones."""
        vectors = [m(x, train=train, axis_name=axis_name, valid=valid) for m in self.members]
        return jnp.concatenate(vectors, axis=1)


def token_mean(
    tokens: Float[Array, "B L C"], valid: Bool[Array, "B L"] | None
) -> Float[Array, "B C"]:
    """The mean over all tokens, or over the valid ones."""
    if valid is None:
        return jnp.mean(tokens, axis=1)
    own = valid.astype(tokens.dtype)[:, :, None]
    return jnp.sum(tokens * own, axis=1) / jnp.sum(own, axis=1)


def deviation_weights(
    x: Float[Array, "B L C"], valid: Bool[Array, "B L"] | None, gamma: float
) -> Float[Array, "B L"]:
    """Weights of tokens that grow with the distance from their mean; their sum is 1.

    The weight of token t is proportional to (1 + d_t / max d)^gamma, where d_t is its Euclidean
    distance from the clip's mean token. If max d is at most 1e-8, all weights are equal.

    Args:
        x: tokens.
        valid: mask of the tokens that have a weight, at least one in each clip; None: all.
        gamma: exponent; 0: equal weights.
    """
    square = jnp.sum(jnp.square(x - token_mean(x, valid)[:, None, :]), axis=2)
    apart = square > 0  # at 0 the gradient of the root would be infinite
    distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1)), 0)
    if valid is not None:
        distance = jnp.where(valid, distance, 0)
    largest = jnp.max(distance, axis=1, keepdims=True)
    differ = largest > _LEAST_DEVIATION
    relative = jnp.where(differ, distance / jnp.where(differ, largest, 1), 0)
    return jax.nn.softmax(gamma * jnp.log1p(relative), axis=1, where=valid)

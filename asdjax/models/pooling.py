"""A sequence of tokens becomes one vector: by their mean, or by attentive statistics pooling.

Attentive statistics: Okabe et al., Interspeech 2018, with the global context of ECAPA-TDNN
(Desplanques et al., Interspeech 2020) and the layout of ASDKit's AttnStatPool.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from asdjax.errors import ConfigError
from asdjax.models.layers import BatchNorm, Linear, Rng

_LEAST_VARIANCE = 1e-4


class TokenMean(nnx.Module):
    """The mean over tokens, without weights."""

    def __call__(
        self,
        x: Float[Array, "B L C"],
        *,
        train: bool,
        axis_name: str | None = None,
        valid: Bool[Array, "B L"] | None = None,
    ) -> Float[Array, "B C"]:
        """Pool the tokens, or the valid ones."""
        return token_mean(x, valid)


def token_mean(
    tokens: Float[Array, "B N D"], valid: Bool[Array, "B N"] | None
) -> Float[Array, "B D"]:
    """The mean over (valid) tokens."""
    if valid is None:
        return jnp.mean(tokens, axis=1)
    own = valid.astype(tokens.dtype)[:, :, None]
    return jnp.sum(tokens * own, axis=1) / jnp.sum(own, axis=1)


class AttnStatPool(nnx.Module):
    """Weighted mean and standard deviation over tokens, mapped back to the width of one token.

    Every channel has weights of its own, which depend on the token and on the clip's plain mean
    and standard deviation. Computed in the dtype of the parameters, whatever the tokens'.

    Args:
        features: channels of a token, and of the pooled vector.
        hidden: units between a token and its weights.
        rng: source of the initial weights.
    """

    def __init__(self, features: int, hidden: int, *, rng: Rng):
        self.attention_in = Linear(3 * features, hidden, bias=True, rng=rng)
        self.attention_norm = BatchNorm(hidden, affine=True)
        self.attention_out = Linear(hidden, features, bias=True, rng=rng)
        self.norm_statistics = BatchNorm(2 * features, affine=True)
        self.linear = Linear(2 * features, features, bias=True, rng=rng)
        self.norm_out = BatchNorm(features, affine=True)

    def __call__(
        self,
        x: Float[Array, "B L C"],
        *,
        train: bool,
        axis_name: str | None = None,
        valid: Bool[Array, "B L"] | None = None,
    ) -> Float[Array, "B C"]:
        """Pool; with `train`, BatchNorm as in training.

        Args:
            x: tokens.
            train: whether BatchNorm uses the batch's statistics and updates the running ones.
            axis_name: the `jax.pmap` axis over which the batch is spread, if it is.
            valid: the tokens that count, at least one in each clip (inference only): the others
                have no influence, a clip in a longer row is pooled as it is alone.

        Raises:
            AsdjaxError: `valid` in training, or a training batch of one clip.
        """
        if train and valid is not None:
            raise ConfigError("training needs clips of one length: pool without `valid` there")
        x = x.astype(self.linear.kernel[...].dtype)
        if valid is not None:
            x = jnp.where(valid[:, :, None], x, 0)  # a weight of 0 would let a NaN through
        weights = self.weights(x, train=train, axis_name=axis_name, valid=valid)
        both = self.norm_statistics(statistics(x, weights), train=train, axis_name=axis_name)
        return self.norm_out(self.linear(both), train=train, axis_name=axis_name)

    def weights(
        self,
        x: Float[Array, "B L C"],
        *,
        train: bool,
        axis_name: str | None = None,
        valid: Bool[Array, "B L"] | None = None,
    ) -> Float[Array, "B L C"]:
        """Each token's share in each channel: they add up to 1 over the tokens that count."""
        where = None if valid is None else valid[:, :, None]
        mean = jnp.mean(x, axis=1, where=where)
        squares = jnp.sum(jnp.square(x - mean[:, None, :]), axis=1, where=where)
        count = x.shape[1] if where is None else jnp.sum(where, axis=1, dtype=x.dtype)
        # unbiased; a single token deviates from nothing and has the least variance
        variance = squares / jnp.maximum(count - 1, 1)
        context = jnp.concatenate([mean, _deviation(variance)], axis=1)
        # the first layer on [x; mean; deviation], of which only x differs between tokens
        kernel, bias = self.attention_in.kernel[...], self.attention_in.bias[...]
        own = jnp.matmul(x, kernel[: x.shape[2]], precision="highest")
        shared = jnp.matmul(context, kernel[x.shape[2] :], precision="highest") + bias[None, :]
        hidden = jax.nn.relu(own + shared[:, None, :])
        hidden = jnp.tanh(self.attention_norm(hidden, train=train, axis_name=axis_name))
        return jax.nn.softmax(self.attention_out(hidden), axis=1, where=where)


def statistics(x: Float[Array, "B L C"], weights: Float[Array, "B L C"]) -> Float[Array, "B 2*C"]:
    """Weighted mean and, after it, weighted standard deviation of every channel, at least 0.01."""
    mean = jnp.sum(weights * x, axis=1)
    # about the mean: E[x^2] - E[x]^2 would cancel where the mean exceeds the deviation
    variance = jnp.sum(weights * jnp.square(x - mean[:, None, :]), axis=1)
    return jnp.concatenate([mean, _deviation(variance)], axis=1)


def _deviation(variance: Float[Array, "B C"]) -> Float[Array, "B C"]:
    return jnp.sqrt(jnp.maximum(variance, _LEAST_VARIANCE))

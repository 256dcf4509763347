"""Attentive statistics pooling of a sequence of tokens.

Sources: Okabe et al., Interspeech 2018, with the global context of ECAPA-TDNN
(Desplanques et al., Interspeech 2020) and the layers of ASDKit's AttnStatPool.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from asdjax.errors import ConfigError
from asdjax.models.layers import BatchNorm, Linear, Rng

_LEAST_VARIANCE = 1e-4


class AttnStatPool(nnx.Module):
    """Weighted mean and standard deviation over tokens, mapped linearly to the size of a token.

    The weights differ between channels. They are computed from the token and the clip's unweighted
    mean and standard deviation, by a network with one hidden layer. Everything is computed in the
    dtype of the parameters.

    Args:
        features: size of a token, and of the pooled vector.
        hidden: hidden units.
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
            axis_name: the `jax.pmap` axis over which the batch is split, if any.
            valid: mask of the tokens to pool, at least one in each clip (inference only); the
                others have no influence.

        Raises:
            AsdjaxError: `valid` is given in training, or a training batch has one clip.
        """
        if train and valid is not None:
            raise ConfigError("training needs clips of one length: omit `valid`")
        x = x.astype(self.linear.kernel[...].dtype)
        if valid is not None:
            x = jnp.where(valid[:, :, None], x, 0)  # not by a weight of 0: 0 * NaN is NaN
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
        """The weight of each token in each channel; the sum over (valid) tokens is 1."""
        where = None if valid is None else valid[:, :, None]
        mean = jnp.mean(x, axis=1, where=where)
        squares = jnp.sum(jnp.square(x - mean[:, None, :]), axis=1, where=where)
        count = x.shape[1] if where is None else jnp.sum(where, axis=1, dtype=x.dtype)
        # unbiased; a single token has the variance 0
        variance = squares / jnp.maximum(count - 1, 1)
        context = jnp.concatenate([mean, _deviation(variance)], axis=1)
        # The first layer maps [x; mean; deviation]. Only x differs between tokens: its part of the
        # product is computed for each token, the other part once per clip.
        assert self.attention_in.bias is not None, "made with bias=True"
        kernel, bias = self.attention_in.kernel[...], self.attention_in.bias[...]
        own = jnp.matmul(x, kernel[: x.shape[2]], precision="highest")
        shared = jnp.matmul(context, kernel[x.shape[2] :], precision="highest") + bias[None, :]
        hidden = jax.nn.relu(own + shared[:, None, :])
        hidden = jnp.tanh(self.attention_norm(hidden, train=train, axis_name=axis_name))
        return jax.nn.softmax(self.attention_out(hidden), axis=1, where=where)


def statistics(x: Float[Array, "B L C"], weights: Float[Array, "B L C"]) -> Float[Array, "B 2*C"]:
    """Weighted means of all channels, then their weighted standard deviations, at least 0.01."""
    mean = jnp.sum(weights * x, axis=1)
    # not E[x^2] - E[x]^2, which loses precision where the mean exceeds the deviation
    variance = jnp.sum(weights * jnp.square(x - mean[:, None, :]), axis=1)
    return jnp.concatenate([mean, _deviation(variance)], axis=1)


def _deviation(variance: Float[Array, "B C"]) -> Float[Array, "B C"]:
    return jnp.sqrt(jnp.maximum(variance, _LEAST_VARIANCE))

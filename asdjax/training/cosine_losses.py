"""What losses on the cosine between an embedding and class centres are made of.

Every class has K centres. Everything is computed in float64 for float64 embeddings, else in
float32. Vectors shorter than 1e-12 are divided by 1e-12. Probabilities exist only as differences of
log-sum-exps, so that none can underflow.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

NORM_FLOOR = 1e-12  # shortest vector that is brought to unit length
COSINE_LIMIT = 1 - 1e-7  # largest cosine whose angle the dynamic scale looks at
COSINE_EPS = 1e-7  # added to the dynamic scale's denominator
LARGEST_SCALE = 1e6  # float32 still tells s * cos apart here


def init(
    n_centres: int, embedding_size: int, key: PRNGKeyArray, *, scale: float, trainable: bool
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Draw the class centres and set the starting scale.

    Args:
      n_centres: C*K, classes times centres of each.
      embedding_size: D, values in an embedding.
      key: random key; the draws are the same in single and double precision.
      scale: factor on the cosine.
      trainable: whether the centres are trained.

    Returns:
      `(params, stats)` in the default float dtype. `params` holds what is trained: `centres`
      [D, C*K], Xavier-uniform, class-major (columns c*K to c*K+K-1 belong to class c). `stats`
      holds `scale` [], and `centres` in place of `params` when they are not trained.
    """
    draw = jax.nn.initializers.glorot_uniform()
    centres = {"centres": draw(key, (embedding_size, n_centres), jnp.float32).astype(float)}
    stats = {"scale": jnp.asarray(scale, dtype=float)}
    return (centres, stats) if trainable else ({}, centres | stats)


def cosines(
    arrays: dict[str, Array], embedding: Float[Array, "B D"], target: Float[Array, "B C"]
) -> tuple[Float[Array, "B C K"], Float[Array, "B C"], Float[Array, ""]]:
    """The cosines to all centres, the label weights and the scale, of one dtype.

    Args:
      arrays: `params` and `stats` together.
      embedding: one vector per clip, of any length.
      target: label weights.
    """
    dtype = jnp.float64 if embedding.dtype == jnp.float64 else jnp.float32
    centres = arrays["centres"].astype(dtype)
    cosine = jnp.matmul(
        _unit_length(embedding.astype(dtype), axis=1),
        _unit_length(centres, axis=0),
        precision=lax.Precision.HIGHEST,
    ).reshape(*target.shape, centres.shape[1] // target.shape[1])
    return cosine, target.astype(dtype), arrays["scale"].astype(dtype)


def _unit_length(x: Float[Array, "M N"], axis: int) -> Float[Array, "M N"]:
    # The floor is under the root, where a zero vector has no NaN gradient.
    return x / jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=axis, keepdims=True), NORM_FLOOR**2))


def log_probabilities(
    scale: Float[Array, ""], cosine: Float[Array, "B C K"]
) -> Float[Array, "B C"]:
    """Logarithm of each class's probability: the sum of its centres' softmax probabilities."""
    return jax.nn.log_softmax(jax.nn.logsumexp(scale * cosine, axis=2), axis=1)


def dynamic_scale(
    scale: Float[Array, ""],
    cosine: Float[Array, "B C K"],
    target: Float[Array, "B C"],
    axis_name: str | None,
    *,
    with_label: bool,
) -> Float[Array, ""]:
    """Estimate the scale from the global batch (Zhang et al., section 4.2; Wilkinghoff 2021).

    ln(mean over clips of sum over columns exp(s*cos)) / cos(min(pi/4, median angle to the label)).
    Sub-cluster AdaCos sums over all columns, and over the label's K angles. AdaCos sums over the
    columns that are not the label's; of a soft label y, column j counts 1 - y_j: the expected
    sum if the label were drawn with the probabilities y.

    Where the label's own column is in the sum, a clip on its centre multiplies the scale by up
    to sqrt(2) per step, which would be infinite in float32 after some hundred steps:
    hence `LARGEST_SCALE`.

    Args:
      scale: the scale before.
      cosine: of this device's clips.
      target: label weights.
      axis_name: mapped axis over which the batch is spread in equal parts; None: it is whole.
      with_label: whether the label's columns are in the sum.
    """
    weight = jnp.ones_like(target) if with_label else 1 - target
    log_sum = jax.nn.logsumexp(scale * cosine, axis=(1, 2), b=weight[:, :, None])
    angle = jnp.arccos(jnp.clip(cosine, -COSINE_LIMIT, COSINE_LIMIT))
    label_angle = jnp.sum(target * jnp.sum(angle, axis=2), axis=1)
    if axis_name is not None:
        both = jnp.stack([log_sum, label_angle])
        log_sum, label_angle = lax.all_gather(both, axis_name, axis=1, tiled=True)
    n_clips = log_sum.shape[0]
    lower_median = jnp.sort(label_angle)[(n_clips - 1) // 2]
    log_mean = jax.nn.logsumexp(log_sum) - math.log(n_clips)
    estimate = log_mean / (jnp.cos(jnp.minimum(math.pi / 4, lower_median)) + COSINE_EPS)
    return jnp.minimum(estimate, LARGEST_SCALE)


def log_probabilities_with_margin(
    margin: float, scale: Float[Array, ""], cosine: Float[Array, "B C"]
) -> Float[Array, "B C"]:
    """Log probability of each class if it were the label, its angle widened by `margin`.

    cos(theta + margin) turns round where theta + margin passes pi; from there on the label's
    cosine is cos(theta) - margin * sin(margin), which keeps falling with theta.
    """
    sine_squared = (1 - cosine) * (1 + cosine)
    positive = sine_squared > 0  # the root has an infinite slope at 0
    sine = jnp.where(positive, jnp.sqrt(jnp.where(positive, sine_squared, 1)), 0)
    label_cosine = jnp.where(
        cosine > math.cos(max(math.pi - margin, 0.0)),
        cosine * math.cos(margin) - sine * math.sin(margin),
        cosine - margin * math.sin(margin),
    )
    is_label = jnp.eye(cosine.shape[1], dtype=bool)[None]  # [1, C, C]: row = assumed label
    logits = scale * jnp.where(is_label, label_cosine[:, None, :], cosine[:, None, :])
    return jnp.diagonal(jax.nn.log_softmax(logits, axis=2), axis1=1, axis2=2)


def mean_over_labels(
    log_probability: Float[Array, "B C"], target: Float[Array, "B C"]
) -> Float[Array, " B"]:
    """The loss of each clip: a soft label weights the hard labels' losses."""
    return -jnp.sum(target * log_probability, axis=1)

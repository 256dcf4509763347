"""Building blocks of losses on the cosines between an embedding and class centres.

Every class has K centres. Losses are computed in float64 for float64 embeddings, else in float32.
Vectors are divided by their norms, or by 1e-12 if that is greater. Probabilities are computed as
logarithms (differences of log-sum-exp), so that they do not underflow.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

NORM_FLOOR = 1e-12  # lower limit of the norm by which a vector is divided
COSINE_LIMIT = 1 - 1e-7  # cosines are clipped to this in the dynamic scale
COSINE_EPS = 1e-7  # added to the denominator of the dynamic scale
LARGEST_SCALE = 1e6  # float32 still resolves s * cos


def init(
    n_centres: int, embedding_size: int, key: PRNGKeyArray, *, scale: float, trainable: bool
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Draw the class centres and set the initial scale.

    Args:
      n_centres: C*K, classes times centres per class.
      embedding_size: D, size of an embedding.
      key: random key; the numbers drawn are the same in single and double precision.
      scale: initial factor on the cosine.
      trainable: whether the centres are trained.

    Returns:
      `(params, stats)` in the default float dtype. `params` has the `centres` [D, C*K],
      Xavier-uniform; columns c*K to c*K+K-1 belong to class c. `stats` has `scale` [], and also
      the `centres` if they are not trained.
    """
    draw = jax.nn.initializers.glorot_uniform()
    centres = {"centres": draw(key, (embedding_size, n_centres), jnp.float32).astype(float)}
    stats = {"scale": jnp.asarray(scale, dtype=float)}
    return (centres, stats) if trainable else ({}, centres | stats)


def cosines(
    arrays: dict[str, Array], embedding: Float[Array, "B D"], target: Float[Array, "B C"]
) -> tuple[Float[Array, "B C K"], Float[Array, "B C"], Float[Array, ""]]:
    """The cosines to all centres, the label weights and the scale, all in the loss's dtype.

    Args:
      arrays: `params` and `stats` in one dictionary.
      embedding: one vector per clip, of any norm.
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
    # The floor is applied before the root, whose gradient at 0 would be NaN.
    return x / jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=axis, keepdims=True), NORM_FLOOR**2))


def log_probabilities(
    scale: Float[Array, ""], cosine: Float[Array, "B C K"]
) -> Float[Array, "B C"]:
    """Logarithm of each class's probability, which is the sum of those of its centres."""
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

    new s = ln(mean over clips of B) / cos(min(pi/4, lower median over clips of the label's angle)),
    where B = sum over centres of exp(s * cos).

    Sub-cluster AdaCos sums B over all centres, and the label's angle is the sum over its K centres.
    AdaCos omits the label's centre from B. With a soft label y, centre j has the weight 1 - y_j,
    which gives the expected B if the label were drawn with the probabilities y.

    With the label's centres in B, clips on their centres multiply the scale by up to sqrt(2) per
    step. In float32 it would be infinite after some hundred steps: hence `LARGEST_SCALE`.

    Args:
      scale: the scale of the previous step.
      cosine: cosines of this device's clips.
      target: label weights.
      axis_name: mapped axis over which the batch is split in equal parts; None: it is not split.
      with_label: whether B includes the label's centres.
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
    """Log probability of each class if it were the label, with `margin` added to its angle theta.

    The label's cosine is cos(theta + margin) = cos(theta) cos(margin) - sin(theta) sin(margin) up
    to theta = pi - margin, where it has its minimum. Beyond, it is cos(theta) - margin sin(margin),
    which decreases further.
    """
    sine_squared = (1 - cosine) * (1 + cosine)
    positive = sine_squared > 0  # the gradient of the root is infinite at 0
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
    """The cross-entropy of each clip: the mean of -log probability, weighted by the label."""
    return -jnp.sum(target * log_probability, axis=1)

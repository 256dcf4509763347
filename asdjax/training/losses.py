"""Classification losses on the cosine between an embedding and trainable class centres.

Sub-cluster AdaCos (Wilkinghoff, IJCNN 2021) gives every class K centres and sums their softmax
probabilities; AdaCos (Zhang et al., CVPR 2019) is the same loss with one centre; ArcFace (Deng et
al., CVPR 2019) has one centre and adds an angular margin to the label's class. `init` makes two
plain dictionaries: what the optimiser trains, and what it does not.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from asdjax.config.recipe import LossConfig
from asdjax.errors import AsdjaxError

NORM_FLOOR = 1e-12  # shortest vector that is brought to unit length
COSINE_LIMIT = 1 - 1e-7  # largest cosine whose angle the dynamic scale looks at
COSINE_EPS = 1e-7  # added to the dynamic scale's denominator
LARGEST_SCALE = 1e6  # float32 still tells s * cos apart here


def init(
    config: LossConfig, n_classes: int, embedding_size: int, key: PRNGKeyArray
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Draw the class centres and set the starting scale.

    Args:
      config: the loss.
      n_classes: C, classes.
      embedding_size: D, values in an embedding.
      key: random key; the draws are the same in single and double precision.

    Returns:
      `(params, stats)` in the default float dtype. `params` holds what is trained: `centres`
      [D, C*K], Xavier-uniform, class-major (columns c*K to c*K+K-1 belong to class c). `stats`
      holds `scale` [], and `centres` in place of `params` when they are not trained.

    Raises:
      AsdjaxError: the scale is to follow from the number of centres, and these are too few.
    """
    n_centres = n_classes * _sub_clusters(config)
    scale = _initial_scale(config, n_classes)
    draw = jax.nn.initializers.glorot_uniform()
    centres = {"centres": draw(key, (embedding_size, n_centres), jnp.float32).astype(float)}
    stats = {"scale": jnp.asarray(scale, dtype=float)}
    return (centres, stats) if config.trainable_centres else ({}, centres | stats)


def apply(
    config: LossConfig,
    params: dict[str, Array],
    stats: dict[str, Array],
    embedding: Float[Array, "B D"],
    target: Float[Array, "B C"],
    *,
    train: bool,
    axis_name: str | None = None,
) -> tuple[Float[Array, " B"], Float[Array, "B C"], dict[str, Array]]:
    """Evaluate the loss of each clip.

    Everything is computed in float64 for float64 embeddings, else in float32. Vectors shorter
    than 1e-12 are divided by 1e-12. Probabilities exist only as differences of log-sum-exps, so
    that none can underflow. A soft label weights the hard labels' losses; for ArcFace each of
    these has the margin at its own class.

    Args:
      config: the loss that `init` was given.
      params: trained arrays.
      stats: arrays that are not trained.
      embedding: one vector per clip, of any length.
      target: label weights, each row summing to 1.
      train: re-estimate the scale where `config.dynamic` asks for it, and use it at once; without
        gradient.
      axis_name: mapped axis over which the batch is spread in equal parts; None: `embedding` is
        the whole batch. Only the dynamic scale looks at the other parts.

    Returns:
      `(loss, log_probabilities, stats)`: one loss per clip, the logarithms of the class
      probabilities (ArcFace: without margin) and the statistics to carry on.
    """
    dtype = jnp.float64 if embedding.dtype == jnp.float64 else jnp.float32
    centres = (params | stats)["centres"].astype(dtype)
    target = target.astype(dtype)
    cosine = jnp.matmul(
        _unit_length(embedding.astype(dtype), axis=1),
        _unit_length(centres, axis=0),
        precision=lax.Precision.HIGHEST,
    ).reshape(*target.shape, _sub_clusters(config))  # [B, C, K]
    scale = stats["scale"].astype(dtype)
    if config.dynamic and train:
        scale = _dynamic_scale(config, scale, *lax.stop_gradient((cosine, target)), axis_name)
        stats = stats | {"scale": scale.astype(stats["scale"].dtype)}
    class_logits = jax.nn.logsumexp(scale * cosine, axis=2)  # [B, C]
    log_probabilities = jax.nn.log_softmax(class_logits, axis=1)
    if config.name == "arcface":
        label_log_probabilities = _with_margin(config.margin, scale, cosine[:, :, 0])
    else:
        label_log_probabilities = log_probabilities
    loss = -jnp.sum(target * label_log_probabilities, axis=1)
    return loss, log_probabilities, stats


def _sub_clusters(config: LossConfig) -> int:
    return config.sub_clusters if config.name == "sub_cluster_adacos" else 1


def _initial_scale(config: LossConfig, n_classes: int) -> float:
    n_centres = n_classes * _sub_clusters(config)
    follows_count = config.name != "arcface" and (config.scale == "auto" or config.dynamic)
    if follows_count and n_centres < 3:
        remedy = (
            "raise loss.sub_clusters"
            if config.name == "sub_cluster_adacos"
            else "set loss.name to sub_cluster_adacos"
        )
        raise AsdjaxError(
            f"loss.scale: {config.name} with {n_classes} class(es) has {n_centres} centre(s), and "
            f"a scale that follows from them needs at least 3: {remedy}, choose a finer "
            "dataset.label, or give loss.scale a number with loss.dynamic false"
        )
    if config.scale != "auto":
        return config.scale
    return 64.0 if config.name == "arcface" else math.sqrt(2) * math.log(n_centres - 1)


def _unit_length(x: Float[Array, "M N"], axis: int) -> Float[Array, "M N"]:
    # The floor is under the root, where a zero vector has no NaN gradient.
    return x / jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=axis, keepdims=True), NORM_FLOOR**2))


def _dynamic_scale(
    config: LossConfig,
    scale: Float[Array, ""],
    cosine: Float[Array, "B C K"],
    target: Float[Array, "B C"],
    axis_name: str | None,
) -> Float[Array, ""]:
    """Estimate the scale from the global batch (Zhang et al., section 4.2; Wilkinghoff 2021).

    ln(mean over clips of sum over columns exp(s*cos)) / cos(min(pi/4, median angle to the label)).
    Sub-cluster AdaCos sums over all columns, and over the label's K angles. AdaCos sums over the
    columns that are not the label's; of a soft label y, column j counts 1 - y_j: the expected
    sum if the label were drawn with the probabilities y.

    Where the label's own column is in the sum, a clip on its centre multiplies the scale by up
    to sqrt(2) per step, which would be infinite in float32 after some hundred steps:
    hence `LARGEST_SCALE`.
    """
    weight = 1 - target if config.name == "adacos" else jnp.ones_like(target)
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


def _with_margin(
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

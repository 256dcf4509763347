"""The optimiser: AdamW (Loshchilov and Hutter, ICLR 2019) with a linear warm-up."""

import functools

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from asdjax.config.recipe import OptimConfig


def learning_rate(config: OptimConfig, step: int | Int[Array, ""]) -> Float[Array, ""]:
    """Return the rate of update `step` = 0, 1, ...: a linear rise from 0, then constant.

    The first update of a warm-up has rate 0; without a warm-up every rate is the same. It is not
    optax.linear_schedule, whose (0 - rate) (1 - step / warmup_steps) + rate cancels in float32: of
    5000 steps the first ones would be wrong by 1e-4 of their rate.
    """
    if config.warmup_steps == 0:
        return jnp.asarray(config.learning_rate, dtype=float)
    progress = jnp.asarray(step, dtype=float) / config.warmup_steps
    return config.learning_rate * jnp.minimum(progress, 1.0)


def build(config: OptimConfig) -> optax.GradientTransformation:
    """Build AdamW with decoupled decay on every array, as torch.optim.AdamW computes it.

    eps is added after the bias-corrected root; the decay is multiplied by the rate of the update.
    """
    adamw = optax.adamw(
        functools.partial(learning_rate, config),
        b1=config.betas[0],
        b2=config.betas[1],
        eps=config.eps,
        eps_root=0.0,
        mu_dtype=None,
        weight_decay=config.weight_decay,
        mask=None,
        nesterov=False,
    )

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        # optax raises a Python float to the power of an integer array: not strict promotion.
        with jax.numpy_dtype_promotion("standard"):
            return adamw.update(updates, state, params)

    return optax.GradientTransformation(adamw.init, update)

"""The optimiser: AdamW (Loshchilov and Hutter, ICLR 2019) with a linear warm-up."""

import functools

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from asdjax.config.recipe import OptimConfig


def learning_rate(config: OptimConfig, step: int | Int[Array, ""]) -> Float[Array, ""]:
    """Return the learning rate of step 0, 1, ...: rate * min(step / warmup_steps, 1).

    Not by optax.linear_schedule: it computes (0 - rate) (1 - step / warmup_steps) + rate, which
    cancels in float32. With 5000 warm-up steps, the first rates have relative errors of 1e-4.
    """
    if config.warmup_steps == 0:
        return jnp.asarray(config.learning_rate, dtype=float)
    progress = jnp.asarray(step, dtype=float) / config.warmup_steps
    return config.learning_rate * jnp.minimum(progress, 1.0)


def build(config: OptimConfig) -> optax.GradientTransformation:
    """Build AdamW with weight decay on all arrays, equal to torch.optim.AdamW.

    eps is added to the square root of the bias-corrected second moment; the decay is multiplied by
    the learning rate of the step.
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
        # optax computes float ** integer array, which strict dtype promotion does not allow
        with jax.numpy_dtype_promotion("standard"):
            return adamw.update(updates, state, params)

    return optax.GradientTransformation(adamw.init, update)

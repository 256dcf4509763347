"""The training step: waveforms and classes in, a new state out; pure and device-side.

State: {"weights": {"params": {"model", "head"}, "stats": {"model", "head"}}, "progress":
{"optimiser", "step"}}, plain nested dictionaries of arrays. Everything under "params" is trained;
"stats" holds BatchNorm's running statistics and the loss's scale.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import serialization
from jaxtyping import Array, Float, Int

from asdjax import augment, losses, models, optim, parallel
from asdjax.config import Config

State = dict[str, Any]
Batch = dict[str, Array]


def to_float(waveform: Float[Array, "B T"] | Int[Array, "B T"], dtype: Any) -> Float[Array, "B T"]:
    """Waveforms in [-1, 1]: 16-bit integers are divided by 32768, floats pass."""
    if waveform.dtype == jnp.int16:
        return waveform.astype(dtype) / jnp.asarray(32768, dtype)
    return waveform.astype(dtype)


class Learner:
    """What is trained and how, with no state of its own."""

    def __init__(self, config: Config, *, n_classes: int, n_samples: int):
        """Describe the training of `config` on waveforms of `n_samples` in `n_classes` classes."""
        self.config = config
        self.n_classes = n_classes
        self.n_samples = n_samples
        self.optimiser = optim.build(config.optim)
        module = models.build(config.model, n_samples, config.audio.sample_rate, config.seed)
        self.graphdef, params, stats = models.split(module)
        key = jax.random.fold_in(jax.random.key(config.seed), 2**32 - 1)  # no step's number
        head_params, head_stats = losses.init(config.loss, n_classes, module.embedding_size, key)
        params = {"model": params, "head": head_params}
        self._start = {
            "weights": {"params": params, "stats": {"model": stats, "head": head_stats}},
            "progress": {
                "optimiser": serialization.to_state_dict(self.optimiser.init(params)),
                "step": jnp.zeros((), jnp.int32),
            },
        }

    def start(self) -> State:
        """The state before the first step, as NumPy arrays."""
        return jax.tree.map(np.asarray, self._start)

    def step(self, state: State, batch: Batch) -> tuple[State, dict[str, Array]]:
        """One update from this device's share of the global batch.

        Args:
            state: replicated.
            batch: "waveform" int16 or float [b, T] and "label" int32 [b].

        Returns:
            the new state and the global batch's mean loss and accuracy, equal on all devices.
        """
        params, stats = state["weights"]["params"], state["weights"]["stats"]
        step = state["progress"]["step"]
        dtype = jax.tree.leaves(params)[0].dtype
        waveform, target = self._mixed(batch, step, dtype)

        def objective(params: Any) -> tuple[Array, tuple[Any, dict[str, Array]]]:
            return self.loss(params, stats, waveform, target)

        gradients, (stats, metrics) = jax.grad(objective, has_aux=True)(params)
        gradients, metrics = parallel.mean_over_devices((gradients, metrics))
        moments = serialization.from_state_dict(
            self.optimiser.init(params), state["progress"]["optimiser"]
        )
        updates, moments = self.optimiser.update(gradients, moments, params)
        new_state = {
            "weights": {"params": optax.apply_updates(params, updates), "stats": stats},
            "progress": {"optimiser": serialization.to_state_dict(moments), "step": step + 1},
        }
        return new_state, metrics

    def loss(
        self, params: Any, stats: Any, waveform: Float[Array, "b T"], target: Float[Array, "b C"]
    ) -> tuple[Array, tuple[Any, dict[str, Array]]]:
        """This device's mean loss in training mode, with (new stats, metrics)."""
        embedding, model_stats = models.apply(
            self.graphdef,
            params["model"],
            stats["model"],
            waveform,
            train=True,
            axis_name=parallel.AXIS,
        )
        per_clip, log_probability, head_stats = losses.apply(
            self.config.loss,
            params["head"],
            stats["head"],
            embedding,
            target,
            train=True,
            axis_name=parallel.AXIS,
        )
        right = jnp.argmax(log_probability, axis=1) == jnp.argmax(target, axis=1)
        loss = per_clip.mean()
        metrics = {"loss": loss, "accuracy": right.astype(loss.dtype).mean()}
        return loss, ({"model": model_stats, "head": head_stats}, metrics)

    def _mixed(
        self, batch: Batch, step: Int[Array, ""], dtype: jnp.dtype
    ) -> tuple[Float[Array, "b T"], Float[Array, "b C"]]:
        """This device's clips and soft labels, mixed with partners from the global batch."""
        everyone = parallel.gather(batch)
        size = everyone["label"].shape[0]
        mine = parallel.my_rows(batch["label"].shape[0])
        lam, partner, mix = augment.mixup_draws(
            augment.step_key(self.config.seed, step), size, self.config.augment.mixup.probability
        )
        lam, partner, mix = lam[mine], partner[mine], mix[mine]
        waveform = augment.mixup(
            to_float(batch["waveform"], dtype),
            to_float(everyone["waveform"][partner], dtype),
            lam,
            mix,
        )
        onehot = jax.nn.one_hot(batch["label"], self.n_classes, dtype=dtype)
        others = jax.nn.one_hot(everyone["label"][partner], self.n_classes, dtype=dtype)
        return waveform, augment.mixup(onehot, others, lam, mix)

"""The training step: waveforms and classes in, a new state out; pure and device-side."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import serialization
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt32

from asdjax.config.interfaces import Weights
from asdjax.config.recipe import Config
from asdjax.config.schema import array_shown
from asdjax.data.samples import to_float
from asdjax.errors import ConfigError
from asdjax.models import building, parameters
from asdjax.models.parameters import Tree
from asdjax.runtime import parallel
from asdjax.training import accumulation, mixup, optim

Batch = dict[str, Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a training step reads and updates: a pytree, with arrays as leaves.

    Floating-point leaves are float32, or float64 in double precision. `params` and `stats` have the
    keys "model" and "head": the embedder, and the loss's class centres and scale.
    """

    params: Tree
    """What is trained, by the names and in the shapes of `parameters.split` and `Loss.init`."""
    stats: Tree
    """What a step updates without gradient: BatchNorm's running statistics, the loss's scale []."""
    optimiser: optax.OptState
    """AdamW's state: two moments with the names and shapes of `params`, and int32 counts []."""
    step: Int[Array, ""]
    """int32, the number of updates so far."""
    frozen: Tree
    """The model's weights that stay as they are; in no checkpoint."""
    seed: UInt32[Array, ""]
    """The configuration's; an array, so that one compiled program serves every seed."""

    @property
    def weights(self) -> Tree:
        """{"params", "stats"}: what training.json states the digest of, and inference needs."""
        return {"params": self.params, "stats": self.stats}

    def to_items(self) -> dict[str, Tree]:
        """The items of a checkpoint (see store/checkpoint.py), as nested dictionaries."""
        optimiser = serialization.to_state_dict(self.optimiser)
        return {"weights": self.weights, "progress": {"optimiser": optimiser, "step": self.step}}

    def with_items(self, items: dict[str, Tree]) -> "TrainState":
        """The state with a checkpoint's items in place of its own: the inverse of `to_items`."""
        weights, progress = items["weights"], items["progress"]
        return dataclasses.replace(
            self,
            params=weights["params"],
            stats=weights["stats"],
            optimiser=serialization.from_state_dict(self.optimiser, progress["optimiser"]),
            step=progress["step"],
        )


class Learner:
    """The training step and the initial state of a configuration; holds no weights."""

    def __init__(self, config: Config, *, n_classes: int, n_samples: int):
        """Describe the training of `config` on waveforms of `n_samples` in `n_classes` classes."""
        self.config = config
        self.n_classes = n_classes
        self.n_samples = n_samples
        self.optimiser = optim.build(config.optim)
        # any, because nnx.Module does not declare the embedding size
        module: Any = building.skeleton(config.model, n_samples, config.audio.sample_rate)
        self.graphdef, self._params, self._stats = parameters.split(module)
        self._embedding_size = module.embedding_size

    def start(self, weights: Weights | None = None) -> TrainState:
        """The state before the first step, as NumPy arrays.

        Args:
            weights: pretrained ones to start from instead of drawn ones.
        """
        config = self.config
        module = building.build(config.model, self.n_samples, config.audio.sample_rate, config.seed)
        _, params, stats = parameters.split(module)
        if weights is not None:
            params = parameters.replace(params, config.model.pretrained(weights, self._params))
        return jax.tree.map(np.asarray, self._state(params, stats))

    @property
    def freezes(self) -> bool:
        """Whether some of the model's weights stay as they are."""
        return bool(building.partition(self.config.model, self._params)[1])

    def frozen(self, weights: Weights | None) -> Tree:
        """The frozen weights of `start`."""
        if weights is not None:
            _, wanted = building.partition(self.config.model, self._params)
            loaded = self.config.model.pretrained(weights, self._params)
            if flatten_dict(loaded).keys() == flatten_dict(wanted).keys():
                return loaded  # without drawing the rest
        return self.start(weights).frozen

    def shapes(self) -> TrainState:
        """Shapes and dtypes of the result of `start`; nothing is computed."""
        return jax.eval_shape(self._state, self._params, self._stats)

    def _state(self, params: Tree, stats: Tree) -> TrainState:
        trained, frozen = building.partition(self.config.model, params)
        parts = [len(jax.tree.leaves(part)) for part in (trained, frozen)]
        assert sum(parts) == len(jax.tree.leaves(params)), "each weight is in one part"
        seed = jnp.asarray(self.config.seed, jnp.uint32)
        # one program, the same for every seed, and not one for each operation and shape
        head_params, head_stats, optimiser = jax.jit(self._head_and_optimiser)(seed, trained)
        return TrainState(
            params={"model": trained, "head": head_params},
            stats={"model": stats, "head": head_stats},
            optimiser=optimiser,
            step=jnp.asarray(0, jnp.int32),
            frozen=frozen,
            seed=seed,
        )

    def _head_and_optimiser(
        self, seed: UInt32[Array, ""], trained: Tree
    ) -> tuple[Tree, Tree, optax.OptState]:
        """The head's weights and statistics, and the optimiser's state, before the first step."""
        key = jax.random.fold_in(jax.random.key(seed), 2**32 - 1)  # no step's number
        made: Any = self.config.loss.init(self.n_classes, self._embedding_size, key)
        if not (isinstance(made, tuple) and [type(part) for part in made] == [dict, dict]):
            raise ConfigError(
                f"loss {self.config.loss.name}: init must return two dictionaries of arrays, "
                "params and stats"
            )
        head_params, head_stats = made
        optimiser = self.optimiser.init({"model": trained, "head": head_params})
        return head_params, head_stats, optimiser

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        """One update from this device's share of the global batch.

        Args:
            state: replicated.
            batch: "waveform" int16 or float [b, T] and "label" int32 [b].

        Returns:
            the new state; the global batch's mean loss and accuracy, and the update's learning
            rate, equal on all devices.
        """
        dtype = jax.tree.leaves(state.params)[0].dtype
        key = mixup.step_key(state.seed, state.step)
        waveform, target = self._mixed(batch, key, dtype)
        everyone = parallel.everyone(len(waveform))

        def gradient(stats: Tree, clips: tuple[Array, ...]) -> tuple[tuple[Tree, Tree], Tree]:
            waveform, target, rows = clips
            more = self.config.model.draws(key, rows, everyone, self.n_samples, self.config.augment)

            def objective(params: Tree) -> tuple[Array, tuple[Tree, dict[str, Array]]]:
                return self.loss(params, stats, waveform, target, state.frozen, **more)

            gradients, (stats, metrics) = jax.grad(objective, has_aux=True)(state.params)
            return (gradients, metrics), stats

        clips = waveform, target, parallel.my_rows(len(waveform))
        (gradients, metrics), stats = accumulation.mean_over_parts(
            gradient, state.stats, clips, self.config.train.accumulate
        )
        gradients, metrics = parallel.mean_over_devices((gradients, metrics))
        metrics["learning_rate"] = optim.learning_rate(self.config.optim, state.step)
        updates, optimiser = self.optimiser.update(gradients, state.optimiser, state.params)
        new_state = dataclasses.replace(
            state,
            params=optax.apply_updates(state.params, updates),
            stats=stats,
            optimiser=optimiser,
            step=state.step + 1,
        )
        return new_state, metrics

    def loss(
        self,
        params: Tree,
        stats: Tree,
        waveform: Float[Array, "b T"],
        target: Float[Array, "b C"],
        frozen: Tree,
        **more: Any,
    ) -> tuple[Array, tuple[Tree, dict[str, Array]]]:
        """This device's mean loss in training mode, with (new stats, metrics)."""
        embedding, model_stats = parameters.apply(
            self.graphdef,
            parameters.join(params["model"], frozen),
            stats["model"],
            waveform,
            train=True,
            axis_name=parallel.AXIS,
            **more,
        )
        result = self.config.loss.apply(
            params["head"],
            stats["head"],
            embedding,
            target,
            train=True,
            axis_name=parallel.AXIS,
        )
        per_clip, log_probability, head_stats = self._checked(
            result, embedding, target, stats["head"]
        )
        right = jnp.argmax(log_probability, axis=1) == jnp.argmax(target, axis=1)
        loss = per_clip.mean()
        metrics = {"loss": loss, "accuracy": right.astype(loss.dtype).mean()}
        return loss, ({"model": model_stats, "head": head_stats}, metrics)

    def _checked(self, result: Any, embedding: Array, target: Array, stats: Tree) -> Any:
        """What `Loss.apply` returned; `AsdjaxError` unless it is what it must return."""
        clips = embedding.shape[0]
        floats = [jax.ShapeDtypeStruct(s, embedding.dtype) for s in [(clips,), target.shape]]
        expected, found = (jax.tree.map(array_shown, tree) for tree in ((*floats, stats), result))
        if found != expected:
            raise ConfigError(
                f"loss {self.config.loss.name}: apply returns {found}: it must return the losses, "
                f"the log probabilities and the new stats, here {expected}"
            )
        return result

    def clip_losses(self, state: Tree, batch: Batch) -> dict[str, Array]:
        """The loss of each clip as in inference: without mixup, dropout and augmentation.

        Args:
            state: "params", "stats" and "frozen" of a `TrainState`.
            batch: as for `step`.

        Returns:
            "loss" float [b], and "right" bool [b]: whether the label is the most probable class.
        """
        params, stats = state["params"], state["stats"]
        dtype = jax.tree.leaves(params)[0].dtype
        embedding, _ = parameters.apply(
            self.graphdef,
            parameters.join(params["model"], state["frozen"]),
            stats["model"],
            to_float(batch["waveform"], dtype),
            train=False,
        )
        target = jax.nn.one_hot(batch["label"], self.n_classes, dtype=dtype)
        result = self.config.loss.apply(
            params["head"], stats["head"], embedding, target, train=False
        )
        per_clip, log_probability, _ = self._checked(result, embedding, target, stats["head"])
        right = jnp.argmax(log_probability, axis=1) == jnp.argmax(target, axis=1)
        return {"loss": per_clip, "right": right}

    def _mixed(
        self, batch: Batch, key: PRNGKeyArray, dtype: jnp.dtype
    ) -> tuple[Float[Array, "b T"], Float[Array, "b C"]]:
        """This device's clips and soft labels, mixed with partners from the global batch."""
        everyone = parallel.gather(batch)
        size = everyone["label"].shape[0]
        mine = parallel.my_rows(batch["label"].shape[0])
        lam, partner, mix = mixup.mixup_draws(key, size, self.config.augment.mixup.probability)
        lam, partner, mix = lam[mine], partner[mine], mix[mine]
        waveform = mixup.mixup(
            to_float(batch["waveform"], dtype),
            to_float(everyone["waveform"][partner], dtype),
            lam,
            mix,
        )
        onehot = jax.nn.one_hot(batch["label"], self.n_classes, dtype=dtype)
        others = jax.nn.one_hot(everyone["label"][partner], self.n_classes, dtype=dtype)
        return waveform, mixup.mixup(onehot, others, lam, mix)

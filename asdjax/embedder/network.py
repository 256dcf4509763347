"""A model with its weights on all local devices, and its compiled programs."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from asdjax.config.recipe import Config
from asdjax.models import building, parameters
from asdjax.models.parameters import Tree
from asdjax.runtime import compile_cache, parallel

AT_ONCE = {"cpu": 4}
"""Clips that the model processes at once, by platform; batches are processed in groups of these. A
CPU is faster if a layer's activations fit into its cache. Others process the whole batch."""
LONG = 480_000
"""Above this row length in samples, batches (and groups on CPUs) have fewer clips, because the
memory of attention grows with the square of the length."""
IN_FLIGHT = 2
"""Batches that are running on the devices before the result of the oldest is awaited."""


class Network:
    """A model with its weights on all local devices.

    Attributes:
        config: the run's configuration.
        n_samples: length of the model's input, samples; None: any.
        devices: the local devices; batch sizes are multiples of their number.
        model: section `model` of the configuration, as used on these devices.
        dtype: dtype of the waveforms.
        weights: {"params", "stats"}, replicated on the devices.
    """

    def __init__(
        self,
        config: Config,
        n_samples: int | None,
        weights: Tree,
        devices: Sequence[jax.Device] | None = None,
    ):
        """Copy the weights to the devices.

        Args:
            config: as in the attributes.
            n_samples: as in the attributes.
            weights: NumPy arrays {"params": {"model"}, "stats": {"model"}}.
            devices: absent devices to compile for, to which nothing is copied; None: local ones.
        """
        self.config, self.n_samples = config, n_samples
        local = parallel.local_devices(config.train.devices, at_most=True)
        self.devices = list(devices or local)
        self.model = config.model.on_platform(self.devices[0].platform)
        module = building.skeleton(self.model, n_samples, config.audio.sample_rate)
        params = building.folded(self.model, module, weights["params"]["model"])
        self._graphdef, _, _ = parameters.split(module)
        self.dtype = jax.tree.leaves(weights["params"]["model"])[0].dtype  # before `folded` rounds
        placed = {"params": params, "stats": weights["stats"]["model"]}
        self.weights = placed if devices else parallel.replicate(placed, self.devices)
        self._compiled: dict[tuple[Any, ...], Callable] = {}

    def module(self, state: Tree) -> Any:
        """The model, for use in a step: of the class that `Encoder.build` makes."""
        return parameters.merged(self._graphdef, state["params"], state["stats"])

    def run(
        self,
        step: Callable,
        static: tuple[Any, ...],
        state: Tree,
        batches: Iterable[tuple[Tree, int]],
        *,
        one_by_one: bool = False,
    ) -> Iterator[Tree]:
        """Run a step on batches; yields its results as NumPy arrays without padding rows.

        Args:
            step: called as `step(network, *static, state, batch)` with each device's part of a
                batch; compiled once for each `static` and batch shape.
            static: hashable arguments.
            state: arrays replicated on the devices.
            batches: "waveform" and "length", with the number of rows that are clips; the rows after
                them are padding.
            one_by_one: whether CPUs process single clips instead of groups, so that a batch with a
                single one costs no more than that.
        """
        in_flight: deque[tuple[Tree, int]] = deque()  # results on the devices

        def oldest() -> Tree:
            result, clips = in_flight.popleft()
            return jax.tree.map(  # from [devices, b, ...]
                lambda a: np.asarray(a).reshape(a.shape[0] * a.shape[1], *a.shape[2:])[:clips],
                result,
            )

        key = step, static, one_by_one
        for batch, clips in batches:
            in_flight.append((self._dispatch(key, state, batch, clips), clips))
            if len(in_flight) > IN_FLIGHT:
                yield oldest()
        while in_flight:
            yield oldest()

    def _dispatch(
        self, key: tuple[Callable, tuple[Any, ...], bool], state: Tree, batch: Tree, clips: int
    ) -> Tree:
        """Start a step, given the arguments of `mapped`, on all devices."""
        batch = {**batch, "used": np.arange(len(batch["length"])) < clips}
        batch = parallel.split_batch(batch, self.devices)
        new = key not in self._compiled
        if new:
            self._compiled[key] = self.mapped(*key)
        result = self._compiled[key](state, batch)
        if new:
            compile_cache.seal()
        return result

    def mapped(
        self, step: Callable, static: tuple[Any, ...], one_by_one: bool = False
    ) -> jax.stages.Wrapped:
        """The step of `run` on all devices, a function of state and batch."""
        single = one_by_one and self.devices[0].platform in AT_ONCE
        at_once = (lambda samples: 1) if single else self.at_once
        grouped = partial(in_groups, partial(step, self, *static), at_once)
        return parallel.inference_step(grouped, self.devices, self.config.train.parallel)

    def at_once(self, samples: int) -> int | None:
        """How many rows of `samples` samples the model processes at once; None: all.

        Above `LONG` this falls with the square of the length; it is always a power of 2.
        """
        most = AT_ONCE.get(self.devices[0].platform)
        if most is None or not self.config.model.memory_is_quadratic:
            return most
        longer = max(1, (self.n_samples or samples) / LONG)
        return 1 << max(0, math.floor(math.log2(most / longer**2)))


def rounded_up(clips: int, devices: Sequence[jax.Device]) -> int:
    """Round a number of clips up, so that every device has complete groups (see `AT_ONCE`)."""
    most, share = AT_ONCE.get(devices[0].platform, 1), -(-clips // len(devices))
    unit = most if share > most else 1 << (share - 1).bit_length()
    return -(-share // unit) * unit * len(devices)


def in_groups(
    step: Callable, at_once: Callable[[int], int | None], state: Tree, batch: Tree
) -> Tree:
    """Run a step on the clips of one device, in groups of `at_once(row length)` clips.

    Groups that have only padding (not "used") are skipped; their results are zero.
    """
    step, clips = jax.jit(step), len(batch["length"])  # traced once, for shapes and values
    most = at_once(batch["waveform"].shape[-1])
    if most is None:
        return step(state, batch)
    size = math.gcd(clips, most)
    groups = jax.tree.map(lambda a: a.reshape(-1, size, *a.shape[1:]), batch)

    def group(some: Tree) -> Tree:
        shapes = jax.eval_shape(step, state, some)
        nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        return jax.lax.cond(jnp.any(some["used"]), lambda: step(state, some), lambda: nothing)

    results = jax.lax.map(group, groups)
    return jax.tree.map(lambda a: a.reshape(clips, *a.shape[2:]), results)

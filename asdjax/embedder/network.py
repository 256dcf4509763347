"""A model and its weights on all local devices, and the programs compiled for them."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from asdjax.config.recipe import Config
from asdjax.models import building, parameters
from asdjax.models.parameters import Tree
from asdjax.runtime import compile_cache, parallel

AT_ONCE = {"cpu": 4}
"""Clips that go through the model at once, by platform, however large the batch: a CPU is faster
while a layer's activations stay in its cache."""
LONG = 480_000
"""Samples beyond which batches have fewer clips, and a CPU takes fewer at once: the memory of
attention grows with the square of the length."""
IN_FLIGHT = 2
"""Batches dispatched before the oldest one's result is awaited."""


class Network:
    """A model with its weights on all local devices.

    Attributes:
        config: the run's configuration.
        n_samples: length of the waveforms that the model takes; None: any.
        devices: where it runs; batches are multiples of their number.
        dtype: of the waveforms.
        weights: {"params", "stats"}, replicated.
    """

    def __init__(self, config: Config, n_samples: int | None, weights: Tree):
        """Place {"params": {"model"}, "stats": {"model"}}, NumPy arrays, on the devices."""
        self.config, self.n_samples = config, n_samples
        self.devices = parallel.local_devices(config.train.devices, at_most=True)
        model = config.model.on_platform(self.devices[0].platform)
        module = building.skeleton(model, n_samples, config.audio.sample_rate)
        params = building.folded(model, module, weights["params"]["model"])
        self._graphdef, _, _ = parameters.split(module)
        self.dtype = jax.tree.leaves(weights["params"]["model"])[0].dtype  # before any is rounded
        placed = {"params": params, "stats": weights["stats"]["model"]}
        self.weights = parallel.replicate(placed, self.devices)
        self._compiled: dict[tuple[Any, ...], Callable] = {}

    def module(self, state: Tree) -> nnx.Module:
        """The model, inside a step."""
        return parameters.merged(self._graphdef, state["params"], state["stats"])

    def run(
        self,
        step: Callable,
        static: tuple[Any, ...],
        state: Tree,
        batches: Iterable[tuple[Tree, int]],
    ) -> Iterator[Tree]:
        """Results of a step on batches, as NumPy arrays without the padding.

        Args:
            step: called as `step(network, *static, state, batch)` with a device's share of a batch.
            static: arguments that the compiled program depends on.
            state: replicated.
            batches: "waveform" and "length", and how many of the rows are clips; the others are
                passed over where that saves anything.
        """
        in_flight: deque[tuple[Tree, int]] = deque()  # results on the devices

        def oldest() -> Tree:
            result, clips = in_flight.popleft()
            return jax.tree.map(  # from [devices, b, ...]
                lambda a: np.asarray(a).reshape(a.shape[0] * a.shape[1], *a.shape[2:])[:clips],
                result,
            )

        for batch, clips in batches:
            in_flight.append((self._dispatch(step, static, state, batch, clips), clips))
            if len(in_flight) > IN_FLIGHT:
                yield oldest()
        while in_flight:
            yield oldest()

    def _dispatch(
        self, step: Callable, static: tuple[Any, ...], state: Tree, batch: Tree, clips: int
    ) -> Tree:
        """Start a step on all devices."""
        batch = {**batch, "used": np.arange(len(batch["length"])) < clips}
        batch = parallel.split_batch(batch, self.devices)
        new = (step, static) not in self._compiled
        if new:
            grouped = partial(in_groups, partial(step, self, *static), self.at_once)
            self._compiled[step, static] = parallel.inference_step(grouped, self.devices)
        result = self._compiled[step, static](state, batch)
        if new:
            compile_cache.seal()
        return result

    def at_once(self, samples: int) -> int | None:
        """Of rows of so many samples, how many go through the model at once; None: all."""
        most = AT_ONCE.get(self.devices[0].platform)
        if most is None or not self.config.model.memory_is_quadratic:
            return most
        longer = max(1, (self.n_samples or samples) / LONG)
        return 1 << max(0, math.floor(math.log2(most / longer**2)))


def rounded_up(clips: int, devices: Sequence[jax.Device]) -> int:
    """A number of rows that every device takes in whole groups (see `AT_ONCE`), or in one."""
    most, share = AT_ONCE.get(devices[0].platform, 1), -(-clips // len(devices))
    unit = most if share > most else 1 << (share - 1).bit_length()
    return -(-share // unit) * unit * len(devices)


def in_groups(
    step: Callable, at_once: Callable[[int], int | None], state: Tree, batch: Tree
) -> Tree:
    """A step on one device's clips, so many at once as suits the device.

    Groups without "used" rows are passed over; what stands for them is zero.
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

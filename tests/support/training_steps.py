"""Training steps: on noise, on some devices, in double precision, and stopped before one."""

from functools import partial

import jax
import numpy as np
import pytest

from asdjax.commands.train import train
from asdjax.models import parameters
from asdjax.runtime import parallel

SMALL_SAMPLES = 5000


def noise(rng, clips, steps, n_samples=SMALL_SAMPLES):
    """Batches of random clips of three classes."""
    return [
        {
            "waveform": rng.integers(-9000, 9000, (clips, n_samples)).astype(np.int16),
            "label": rng.integers(0, 3, clips).astype(np.int32),
        }
        for _ in range(steps)
    ]


def in_float64(tree):
    """The tree with its float32 arrays in double precision."""
    return jax.tree.map(lambda a: a.astype(np.float64) if a.dtype == np.float32 else a, tree)


def run_steps(work, state, batches, devices, how="pmap"):
    """The state after training on the batches, and the loss of each step."""
    devices = jax.local_devices()[:devices]
    state = parallel.replicate(state, devices)
    step = parallel.training_step(work.step, devices, how)
    losses = []
    for batch in batches:
        state, metrics = step(state, parallel.split_batch(batch, devices))
        losses.append(float(metrics["loss"]))
    return jax.tree.map(np.asarray, state), losses


def embedded(work, weights, frozen, waveform):
    """The clips' embeddings by trained and frozen weights, in one program."""
    model = parameters.join(weights["params"]["model"], frozen)
    compiled = jax.jit(partial(parameters.apply, work.graphdef, train=False))
    return compiled(model, weights["stats"]["model"], waveform)[0]


class Killed(BaseException):
    """Stands for a signal that no code survives."""


def kill_at_step(run, config, corpus, step):
    """Stop training abruptly before a step, without any clean-up of its own."""
    original = parallel.split_batch
    seen = 0

    def count(batch, devices):
        nonlocal seen
        seen += 1
        if seen > step:
            raise Killed
        return original(batch, devices)

    parallel.split_batch = count
    try:
        with pytest.raises(Killed):
            train(config, corpus, run)
    finally:
        parallel.split_batch = original

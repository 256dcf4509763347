"""The device memory that a training step needs, and settings with which it needs less."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from asdjax.data import batches
from asdjax.errors import ConfigError, DataError
from asdjax.runtime import console, parallel
from asdjax.training.plan import Plan


def step_bytes(work: Plan) -> int | None:
    """Peak memory of the training step on one device in bytes, as the compiler states it.

    The step of the largest batch is compiled; it is taken from JAX's cache if it is there.

    Returns:
        Arguments and temporaries; None if the compiler refuses because memory does not suffice.

    Raises:
        AsdjaxError: the device's compiler does not state memory.
    """
    learner, size = work.learner(), work.epoch.largest
    step = parallel.training_step(learner.step, work.devices, work.config.train.parallel)
    mine = _batch(work, size // parallel.process()[1])
    lowered = step.lower(learner.shapes(), parallel.split_batch(mine, work.devices))
    try:
        memory = lowered.compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None
    if memory is None:
        raise ConfigError(
            "the device's compiler does not tell how much memory training needs: train without "
            "this check"
        )
    return int(memory.temp_size_in_bytes + memory.argument_size_in_bytes)


def batch_bytes(work: Plan) -> int:
    """Memory of this process's waveforms of the largest batch on the host, bytes."""
    return int(_batch(work, work.epoch.largest // parallel.process()[1])["waveform"].nbytes)


def _batch(work: Plan, size: int) -> dict[str, np.ndarray]:
    dtype = np.int16 if work.corpus.pcm16 else np.float32
    return {
        "waveform": np.zeros((size, work.n_samples), dtype),
        "label": np.zeros(size, np.int32),
    }


def fitted(work: Plan) -> Plan:
    """The plan with settings of the encoder that fit the device, if the recipe leaves them to it.

    The first of `Encoder.saving_memory` whose step fits is taken, or else the last one. On devices
    that do not tell their memory (CPUs), it is the first one.
    """
    limit, ways = parallel.memory_limit(work.devices[0]), work.model.saving_memory()
    if limit is None or not work.config.model.adapts_to_memory:
        return work
    for changes in ways:
        chosen = _with(work, changes, work.config.train.accumulate)
        needed = step_bytes(chosen) if changes != ways[-1] else 0
        if needed is not None and needed <= limit:
            break
    if changes != ways[0]:
        console.say(f"chosen by the device's memory: {_as_options(changes)}")
    return chosen


def remedy(work: Plan, fits: Callable[[int], bool]) -> str | None:
    """Settings with which a step fits that does not, as options; None if none is found.

    Settings of the encoder are tried first, then more and more parts of a batch. Each try compiles
    the step.

    Args:
        work: whose step does not fit.
        fits: whether a step that needs so many bytes fits.
    """
    train, ways = work.config.train, work.model.saving_memory()
    share = train.batch_size // work.device_count
    tries = [(changes, train.accumulate) for changes in ways[1:]]
    if not work.config.loss.of_whole_batch:
        parts = range(train.accumulate + 1, share + 1)
        tries += [(ways[-1], n) for n in parts if share % n == 0 and train.batch_size >= 2 * n]
    for changes, accumulate in tries:
        try:
            changed = _with(work, changes, accumulate)
        except DataError:  # too few clips for so many parts
            continue
        needed = step_bytes(changed)
        if needed is not None and fits(needed):
            more = f" --train.accumulate {accumulate}" if accumulate > train.accumulate else ""
            return (_as_options(changes) + more).strip()
    return None


def _with(work: Plan, changes: Mapping[str, Any], accumulate: int) -> Plan:
    """The plan with other settings of the encoder and another number of parts."""
    train = dataclasses.replace(work.config.train, accumulate=accumulate)
    epoch = batches.plan_epoch(
        work.epoch.clips, train.batch_size, work.device_count, train.drop_last, accumulate
    )
    return dataclasses.replace(
        work,
        config=dataclasses.replace(work.config, train=train),
        epoch=epoch,
        fitted=dataclasses.replace(work.model, **changes),
    )


def _as_options(changes: Mapping[str, Any]) -> str:
    return " ".join(f"--model.{name} {value}" for name, value in changes.items())

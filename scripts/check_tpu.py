"""Compiles the training steps of recipes for a TPU v5e that is not there, by libtpu on a CPU.

Called by scripts/check_tpu. Each line tells whether the compiler takes a step, which memory
it needs on each device, and how much it computes. A step that does not fit is compiled again with
settings that save memory. It shows nothing about speed; and only a TPU can show that the program
runs.

`jax.experimental.topologies` is JAX's only way to compile for absent devices. If it vanishes, this
script fails, and nothing else does.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import driver
import jax
import numpy as np
from jax.experimental import topologies

from asdjax import arguments
from asdjax.config.recipe import Config
from asdjax.errors import ConfigError
from asdjax.runtime import parallel
from asdjax.training.learner import Learner
from asdjax.verbs import VERBS

SYSTEMS = ("system1", "system2", "system3", "system4")
MEMORY = round(15.75 * 2**30)
"""Bytes that programs may use on a v5e."""
CLASSES = 16
TOPOLOGY = "v5e:2x2"


def main(given: list[str]) -> int:
    """Compile each recipe's training step; 1 if one of them does not fit."""
    options: list[str] = []
    if "--" in given:
        given, options = given[: given.index("--")], given[given.index("--") + 1 :]
    parser = argparse.ArgumentParser(
        prog="check_tpu", description=__doc__, epilog="After --: options of asdjax check."
    )
    parser.add_argument("--recipes", nargs="+", default=SYSTEMS)
    parser.add_argument("--batch", type=driver.count, help="clips per step; default: the recipe's")
    parser.add_argument("--seconds", type=driver.seconds, default=12.0, help="length of the clips")
    parser.add_argument("--devices", type=int, choices=(1, 2, 4), default=1)
    chosen = parser.parse_args(given)
    parsed = [
        arguments.parse("check", VERBS["check"], [name, "--data", ".", *options])
        for name in chosen.recipes
    ]
    recipes = [arguments.check_overrides(command.config) for command in parsed]
    try:
        devices = topologies.get_topology_desc(TOPOLOGY, platform="tpu").devices
    except RuntimeError as error:
        raise ConfigError(f"{TOPOLOGY}: {error}: install the extra tpu") from error
    fits = True
    for name, recipe in zip(chosen.recipes, recipes, strict=True):
        batch = chosen.batch or recipe.train.batch_size
        facts = {"fits": False}
        for smaller in in_less_memory(recipe, batch, chosen.devices):
            facts = compiled(smaller, devices[: chosen.devices], batch, chosen.seconds)
            print(json.dumps({"recipe": name, **facts}), flush=True)
            if facts["fits"]:
                break
        fits &= facts["fits"]
    return int(not fits)


def in_less_memory(recipe: Config, batch: int, devices: int) -> Iterator[Config]:
    """The recipe as a v5e runs it, then with settings with which it needs less and less memory.

    These are what `model.remat: auto` chooses among, then more and more parts of a batch.
    """
    model = recipe.model.on_platform("tpu")
    ways = model.saving_memory() if recipe.model.adapts_to_memory else [{}]
    for changes in ways:
        recipe = dataclasses.replace(recipe, model=dataclasses.replace(model, **changes))
        yield recipe
    parts = recipe.train.accumulate
    while not recipe.loss.of_whole_batch and batch % (2 * parts * devices) == 0:
        parts *= 2
        if batch < 2 * parts:
            break
        train = dataclasses.replace(recipe.train, accumulate=parts)
        yield dataclasses.replace(recipe, train=train)


def compiled(recipe: Config, devices: Sequence[Any], batch: int, seconds: float) -> dict[str, Any]:
    """Compile a recipe's training step for some devices.

    Args:
        recipe: from `in_less_memory`.
        devices: of a topology.
        batch: clips of all devices.
        seconds: length of the clips.

    Returns:
        The settings that matter; `fits`; `gib` per device, or the compiler's `reason` for refusing;
        `tflop` per device, with the body of a loop counted once; seconds of lowering and compiling.

    Raises:
        AsdjaxError: the batch cannot be split over the devices, or the clips are too short.
    """
    parallel.check_batch(batch, len(devices), recipe.train.accumulate)
    samples = round(seconds * recipe.audio.sample_rate)
    train = dataclasses.replace(recipe.train, batch_size=batch)
    learner = Learner(
        dataclasses.replace(recipe, train=train), n_classes=CLASSES, n_samples=samples
    )
    step = parallel.training_step(learner.step, list(devices), "shard_map")
    share = batch // len(devices)
    clips = {
        "waveform": jax.ShapeDtypeStruct((len(devices), share, samples), np.int16),
        "label": jax.ShapeDtypeStruct((len(devices), share), np.int32),
    }
    about: dict[str, Any] = {"devices": len(devices), "batch": batch, "seconds": seconds}
    about |= {
        name: getattr(recipe.model, name)
        for name in ("compute_dtype", "remat", "scan_layers")
        if hasattr(recipe.model, name)
    }
    about["accumulate"] = recipe.train.accumulate
    began = time.monotonic()
    lowered = step.lower(learner.shapes(), clips)
    about["lowering_s"] = round(time.monotonic() - began, 1)
    began = time.monotonic()
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).splitlines()[0][:300]
        return {"fits": False, **about, "reason": reason}
    about["compiling_s"] = round(time.monotonic() - began, 1)
    memory, cost = program.memory_analysis(), program.cost_analysis()
    needed = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    about["gib"] = round(needed / 2**30, 2)
    about["tflop"] = round(cost["flops"] / 1e12, 3)
    return {"fits": needed <= MEMORY, **about}

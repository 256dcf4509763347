"""Compiles the programs of recipes for a TPU v5e that is not there, by libtpu on a CPU.

Called by scripts/check_tpu. The programs are the training step, and the making of the views with
their embeddings. Each line tells whether the compiler takes a program, which memory it needs on
each device, how much it computes and communicates. A step that does not fit is compiled again with
settings that save memory. Only a TPU can show that a program runs, and how fast.

`jax.experimental.topologies` is JAX's only way to compile for absent devices. If it vanishes, this
script fails, and nothing else does.
"""

import argparse
import dataclasses
import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import driver
import jax
import jax.export
import numpy as np
from jax.experimental import topologies

from asdjax import arguments
from asdjax.config.recipe import Config
from asdjax.embedder.extraction import embed
from asdjax.embedder.network import Network, rounded_up
from asdjax.errors import ConfigError
from asdjax.models import building, parameters
from asdjax.runtime import parallel
from asdjax.training.learner import Learner
from asdjax.verbs import VERBS

SYSTEMS = ("system1", "system2", "system3", "system4")
MEMORY = round(15.75 * 2**30)
"""Bytes that programs may use on a v5e."""
CLASSES = 16
PROGRAMS = ("extract", "step")
TOPOLOGY = "v5e:2x4"
_COLLECTIVE = re.compile(r"= \S+ (all-(?:reduce|gather|to-all)|collective-permute)(?:-start)?\(")


def main(given: list[str]) -> int:
    """Compile each recipe's programs; 1 if one of them does not fit."""
    options: list[str] = []
    if "--" in given:
        given, options = given[: given.index("--")], given[given.index("--") + 1 :]
    parser = argparse.ArgumentParser(
        prog="check_tpu", description=__doc__, epilog="After --: options of asdjax check."
    )
    parser.add_argument("--recipes", nargs="+", default=SYSTEMS)
    parser.add_argument("--batch", type=driver.count, help="clips per step; default: the recipe's")
    parser.add_argument("--seconds", type=driver.seconds, default=12.0, help="length of the clips")
    parser.add_argument("--devices", type=int, choices=(1, 2, 4, 8), default=1)
    parser.add_argument("--detector", type=driver.path, help="a file of asdjax export, instead")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=PROGRAMS)
    chosen = parser.parse_args(given)
    parsed = [
        arguments.parse("check", VERBS["check"], [name, "--data", ".", *options])
        for name in chosen.recipes
    ]
    recipes = [arguments.check_overrides(command.config) for command in parsed]
    try:
        devices = topologies.get_topology_desc(TOPOLOGY, platform="tpu").devices
    except RuntimeError as error:
        raise ConfigError(f"{TOPOLOGY}: {error} (libtpu comes with the extra tpu)") from error
    if chosen.detector:
        print(json.dumps(exported(chosen.detector, devices[:1], chosen.batch or 8)), flush=True)
        return 0
    fits = True
    for name, recipe in zip(chosen.recipes, recipes, strict=True):
        batch = chosen.batch or recipe.train.batch_size
        used, last = devices[: chosen.devices], False
        if "extract" in chosen.programs:
            facts = extraction(recipe, used, chosen.seconds)
            print(json.dumps({"recipe": name, **facts}), flush=True)
            fits &= facts["fits"]
        for smaller in in_less_memory(recipe, batch, chosen.devices):
            if "step" not in chosen.programs or last:
                break
            facts = training_step(smaller, used, batch, chosen.seconds)
            print(json.dumps({"recipe": name, **facts}), flush=True)
            last = facts["fits"]
        fits &= last or "step" not in chosen.programs
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


def settings(recipe: Config, batch: int, devices: int, seconds: float) -> dict[str, Any]:
    """The settings that matter."""
    names = ("compute_dtype", "remat", "scan_layers")
    about: dict[str, Any] = {"devices": devices, "batch": batch, "seconds": seconds}
    about |= {n: getattr(recipe.model, n) for n in names if hasattr(recipe.model, n)}
    return about


def training_step(
    recipe: Config, devices: Sequence[Any], batch: int, seconds: float
) -> dict[str, Any]:
    """Compile a recipe's training step for some devices.

    Args:
        recipe: from `in_less_memory`.
        devices: of a topology.
        batch: clips of all devices.
        seconds: length of the clips.

    Returns:
        `program`, the settings that matter, and the result of `compiled`.

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
    about = settings(recipe, batch, len(devices), seconds)
    about["accumulate"] = recipe.train.accumulate
    return {"program": "step", **about, **compiled(step, learner.shapes(), clips)}


def extraction(recipe: Config, devices: Sequence[Any], seconds: float) -> dict[str, Any]:
    """Compile the making of a recipe's views and their embeddings for some devices.

    Arguments, result and errors are those of `training_step`; the batch is that of `extract`.
    """
    samples = round(seconds * recipe.audio.sample_rate)
    batch = rounded_up(recipe.extract.batch_size, devices)
    train = dataclasses.replace(recipe.train, parallel="shard_map")
    recipe = dataclasses.replace(recipe, train=train, model=recipe.model.on_platform("tpu"))
    module = building.skeleton(recipe.model, samples, recipe.audio.sample_rate)
    _, params, stats = parameters.split(module)
    ones = jax.tree.map(lambda a: np.ones(a.shape, a.dtype), (params, stats))  # never computed on
    weights = {"params": {"model": ones[0]}, "stats": {"model": ones[1]}}
    network = Network(recipe, samples, weights, devices)
    views = recipe.extract.views
    channels = 1 + any(view.uses_channel_2 for view in views)
    share = len(devices), batch // len(devices)
    rows = {
        "waveform": jax.ShapeDtypeStruct((*share, channels, samples), np.int16),
        "length": jax.ShapeDtypeStruct(share, np.int32),
        "used": jax.ShapeDtypeStruct(share, np.bool_),
    }
    state = {**network.weights, "learned": _learned(views)}
    state = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state)
    step = network.mapped(embed, (views, samples, samples))
    about = settings(recipe, batch, len(devices), seconds)
    return {"program": "extract", "views": len(views), **about, **compiled(step, state, rows)}


def exported(file: Path, devices: Sequence[Any], batch: int) -> dict[str, Any]:
    """Compile a file of `asdjax export`; the result is as that of `training_step`."""
    program = jax.export.deserialize(bytearray(file.read_bytes()))
    (argument,) = program.in_avals
    place = jax.sharding.SingleDeviceSharding(devices[0])
    waveforms = jax.ShapeDtypeStruct((batch, argument.shape[1]), np.float32, sharding=place)
    about = {"program": str(file), "batch": batch, "samples": argument.shape[1]}
    return {**about, **compiled(jax.jit(program.call), waveforms)}


def _learned(views: Sequence[Any]) -> dict[str, np.ndarray]:
    """The parameters of the calibrated views, which are the only ones of asdjax that learn."""
    return {v.name: np.ones((2, v.n_fft // 2 + 1), np.float32) for v in views if v.learns}


def compiled(step: Any, *arguments: Any) -> dict[str, Any]:
    """Compile a program.

    Returns:
        `fits`; `gib` per device, or the compiler's `reason` for refusing; `tflop` per device, with
        the body of a loop counted once; collectives; seconds of lowering and compiling.
    """
    began = time.monotonic()
    lowered = step.lower(*arguments)
    about: dict[str, Any] = {"lowering_s": round(time.monotonic() - began, 1)}
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
    about["gb_moved"] = round(cost["bytes accessed"] / 1e9, 1)
    if "optimal_seconds" in cost and cost["optimal_seconds"] > 0:
        about["optimal_s"] = round(cost["optimal_seconds"], 4)
    about["collectives"] = dict(Counter(_COLLECTIVE.findall(program.as_text())))
    return {"fits": needed <= MEMORY, **about}

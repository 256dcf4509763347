"""Checking a training before it begins: configuration, data, shapes and memory."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from asdjax.config.recipe import Config
from asdjax.data.corpus import Corpus
from asdjax.errors import ConfigError
from asdjax.models import parameters
from asdjax.runtime import console, host_memory, parallel
from asdjax.training.plan import plan


def check(config: Config, corpus: Corpus) -> dict[str, Any]:
    """Verify configuration, data, shapes and memory without training.

    Returns:
        JSON-able facts: clips, classes, steps, parameters; in bytes `step_memory_bytes`, the
        training step's peak on one device as the compiler states it, `audio_buffer_bytes`,
        `needed_bytes` and `available_bytes` of a device's memory (of this machine's for CPUs, which
        share it with the process; None where the device does not tell); and whether that `fits`.

    Raises:
        AsdjaxError: training is impossible.
    """
    work = plan(config, corpus)
    learner = work.learner()
    state = learner.shapes()
    size = min(config.train.batch_size, len(work.clips))
    size = size if size == config.train.batch_size else work.epoch.tail  # of the largest batch
    batch = {
        "waveform": np.zeros((size, work.n_samples), np.int16 if work.corpus.pcm16 else np.float32),
        "label": np.zeros(size, np.int32),
    }
    split = parallel.split_batch(batch, work.devices)
    step = parallel.training_step(learner.step, work.devices, config.train.parallel)
    resident = host_memory.resident()  # before compiling, which a later start need not do
    console.say("compiling the training step, which tells how much memory it needs")
    memory = step.lower(state, split).compile().memory_analysis()
    if memory is None:
        raise ConfigError("the device's compiler does not tell how much memory training needs")
    step_memory = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    audio_buffer = batch["waveform"].nbytes * config.audio.prefetch_batches
    needed, available = step_memory, parallel.memory_limit(work.devices[0])
    if work.devices[0].platform == "cpu":
        needed = len(work.devices) * step_memory + audio_buffer + resident
        available = host_memory.total()
    return {
        "schema": "asdjax.check/1",
        "clips": len(work.clips),
        "classes": list(work.classes),
        "n_samples": work.n_samples,
        "steps": work.steps,
        "devices": [device.device_kind for device in work.devices],
        "parameters": parameters.count(state.params),
        "step_memory_bytes": step_memory,
        "audio_buffer_bytes": audio_buffer,
        "needed_bytes": needed,
        "available_bytes": available,
        "fits": available is None or needed <= available,
        "notes": list(work.notes),
    }


def render(facts: Mapping[str, Any]) -> str:
    """The facts of `check` as text: a line each, the verdict on the memory last."""
    lines = {
        name: ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in facts.items()
        if not name.endswith("_bytes") and name not in ("schema", "fits", "notes")
    }
    for name in "step_memory", "audio_buffer":
        lines[name] = _gib(facts[f"{name}_bytes"])
    width = max(map(len, lines))
    printed = [f"{name:{width}}  {console.printable(text)}" for name, text in lines.items()]
    printed += [f"note: {console.printable(note)}" for note in facts["notes"]]
    needed, available = facts["needed_bytes"], facts["available_bytes"]
    has = "its device does not tell what it has" if available is None else f"has {_gib(available)}"
    ways = ": lower train.batch_size or audio.clip_seconds"
    verdict = "training fits" if facts["fits"] else "training does not fit"
    needs = f"needs about {_gib(needed)}, this machine {has}"
    return "\n".join([*printed, f"{verdict}: {needs}{'' if facts['fits'] else ways}"])


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g} GiB"

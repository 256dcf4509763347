"""Checking a training before it begins: configuration, data, shapes and memory."""

from collections.abc import Mapping
from typing import Any

from asdjax.config.recipe import Config
from asdjax.data.corpus import Corpus
from asdjax.models import parameters
from asdjax.runtime import console, host_memory, parallel
from asdjax.training import memory
from asdjax.training.plan import plan
from asdjax.training.rehearsal import rehearse


def check(config: Config, corpus: Corpus) -> dict[str, Any]:
    """Verify configuration, data, shapes and memory without training.

    Returns:
        JSON-able facts: clips, classes, steps, parameters; in bytes `step_memory_bytes`, the
        training step's peak on one device as the compiler states it (None if it refuses),
        `audio_buffer_bytes`, `needed_bytes` and `available_bytes` of a device's memory (of this
        machine's for CPUs, which share it with the process; None where the device does not tell);
        whether that `fits`; if not, `remedy`, options with which it does, or None.

    Raises:
        AsdjaxError: training is impossible.
    """
    work = plan(config, corpus)
    rehearse(work)
    work = memory.fitted(work)
    resident = host_memory.resident()  # before compiling, which a later start need not do
    console.say("compiling the training step, which tells how much memory it needs")
    step_memory = memory.step_bytes(work)
    audio_buffer = memory.batch_bytes(work) * config.audio.prefetch_batches
    available = parallel.memory_limit(work.devices[0])
    beside = 0  # what shares the memory with the steps
    steps = 1
    if work.devices[0].platform == "cpu":
        steps, beside = len(work.devices), audio_buffer + resident
        available = host_memory.total()

    def fits(step_memory: int) -> bool:
        return available is None or steps * step_memory + beside <= available

    fitting = step_memory is not None and fits(step_memory)
    if not fitting:
        console.say("looking for settings with which it fits, which compiles more steps")
    return {
        "schema": "asdjax.check/1",
        "clips": len(work.clips),
        "held_out": len(work.held_out),
        "classes": list(work.classes),
        "n_samples": work.n_samples,
        "steps": work.steps,
        "devices": [device.device_kind for device in work.devices],
        "parameters": parameters.count(work.learner().shapes().params),
        "step_memory_bytes": step_memory,
        "audio_buffer_bytes": audio_buffer,
        "needed_bytes": None if step_memory is None else steps * step_memory + beside,
        "available_bytes": available,
        "fits": fitting,
        "remedy": None if fitting else memory.remedy(work, fits),
        "notes": list(work.notes),
    }


def render(facts: Mapping[str, Any]) -> str:
    """The facts of `check` as text: a line each, the verdict on the memory last."""
    lines = {
        name: ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in facts.items()
        if not name.endswith("_bytes") and name not in ("schema", "fits", "remedy", "notes")
    }
    for name in "step_memory", "audio_buffer":
        lines[name] = _gib(facts[f"{name}_bytes"])
    width = max(map(len, lines))
    printed = [f"{name:{width}}  {console.printable(text)}" for name, text in lines.items()]
    printed += [f"note: {console.printable(note)}" for note in facts["notes"]]
    available = facts["available_bytes"]
    has = "its device does not tell what it has" if available is None else f"has {_gib(available)}"
    needs = f"needs about {_gib(facts['needed_bytes'])}, this machine {has}"
    if facts["fits"]:
        return "\n".join([*printed, f"training fits: {needs}"])
    way = "lower train.batch_size or audio.clip_seconds"
    if facts["remedy"] is not None:
        way = f"it fits with {facts['remedy']}"
        if "accumulate" in way:
            way += " (batch normalisation is then by the part)"
    return "\n".join([*printed, f"training does not fit: {needs}: {way}"])


def _gib(size: int | None) -> str:
    return "more than the device has" if size is None else f"{size / 2**30:.3g} GiB"

"""Data parallelism: the only file that uses jax.pmap, jax.shard_map and multi-process JAX.

The state is replicated without a leading device axis (`in_axes=None`, `out_axes=None`): every leaf
has its logical shape, also in checkpoints and in inference. The results of a step must therefore be
equal on all devices: gradients and metrics are averaged by `mean_over_devices`, batch statistics by
collectives over `AXIS` in the layers. A step knows nothing else of the devices than these
collectives, so that `jax.pmap` and `jax.jit` of `jax.shard_map` run it alike.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from asdjax.errors import ConfigError

AXIS = "clips"
"""The name of the device axis, for collectives inside a step."""
_EVERYWHERE, _SPLIT = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(AXIS)


def local_devices(count: int, *, at_most: bool = False) -> list[jax.Device]:
    """The first `count` devices of this process; 0 means all.

    Raises:
        AsdjaxError: there are fewer devices, unless `at_most`.
    """
    devices = jax.local_devices()
    if count > len(devices) and not at_most:
        raise ConfigError(
            f"train.devices: {count} devices requested, but this machine has {len(devices)}: set "
            "it lower, or to 0 for all of them"
        )
    return devices[: count or len(devices)]


def memory_limit(device: jax.Device) -> int | None:
    """Bytes that programs on a device may use; None if it does not report them (a CPU)."""
    return (device.memory_stats() or {}).get("bytes_limit")


def check_batch(batch_size: int, devices: int, accumulate: int = 1) -> None:
    """Raise `AsdjaxError` unless the global batch is a multiple of the parts of all devices.

    A part must have two clips or more, over all devices, for batch statistics.

    Args:
        batch_size: clips in the global batch.
        devices: of all processes.
        accumulate: parts into which the clips of a device are divided.
    """
    parts = devices * accumulate
    if batch_size % parts:
        below, above = batch_size // parts * parts, -(-batch_size // parts) * parts
        nearest = f"{below} or {above}" if below else f"{above}"
        in_parts, other = "", "train.devices"
        if accumulate > 1:
            in_parts, other = f" in {accumulate} parts each", "train.devices or train.accumulate"
        raise ConfigError(
            f"train.batch_size: {batch_size} clips cannot be split evenly over {devices} "
            f"devices{in_parts}: the nearest batch sizes are {nearest} (or change {other})"
        )
    if batch_size < 2 * accumulate:
        raise ConfigError(
            f"train.accumulate: {accumulate} parts of {batch_size} clips are single clips, which "
            f"have no batch statistics: choose at most {batch_size // 2}"
        )


def process() -> tuple[int, int]:
    """This process's index and the number of processes."""
    return jax.process_index(), jax.process_count()


def replicate(tree: Any, devices: list[jax.Device]) -> Any:
    """Copy a tree of NumPy arrays to every device.

    The leaves must be NumPy arrays: a jax array may share its buffer with its copy, and donating
    the copy would delete it.
    """
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(tree))
    return jax.tree.map(lambda leaf: jax.device_put(leaf, everywhere), tree)


def split_batch(batch: Any, devices: list[jax.Device]) -> Any:
    """Split arrays [B, ...] into [devices, B / devices, ...]."""
    n = len(devices)
    return jax.tree.map(lambda a: a.reshape(n, a.shape[0] // n, *a.shape[1:]), batch)


def training_step(
    step: Callable, devices: list[jax.Device], how: Literal["pmap", "shard_map"] = "pmap"
) -> jax.stages.Wrapped:
    """Compile `step(state, batch) -> (state, metrics)` for all devices; the state is donated.

    Args:
        step: called with each device's part of the batch.
        devices: the local devices; the batch is from `split_batch`.
        how: the function of JAX that maps the step over them; the results are equal.

    Raises:
        AsdjaxError: "shard_map" in several processes, which are not implemented.
    """
    if how == "shard_map":
        return _mapped(step, devices, (_EVERYWHERE, _EVERYWHERE), donated=(0,))
    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=(None, None),
        donate_argnums=(0,),
        devices=devices if jax.process_count() == 1 else None,
    )


def _mapped(
    step: Callable, devices: list[jax.Device], results: Any, donated: tuple[int, ...] = ()
) -> jax.stages.Wrapped:
    """`step(state, batch)` by `jax.shard_map`, with the partition of its results."""
    if jax.process_count() > 1:
        raise ConfigError("train.parallel: shard_map runs in one process only: choose pmap")

    def mine(state: Any, batch: Any) -> Any:
        return step(state, jax.tree.map(lambda a: a[0], batch))  # from [1, B / devices, ...]

    mapped = jax.shard_map(
        mine,
        mesh=jax.sharding.Mesh(np.array(devices), (AXIS,)),
        in_specs=(_EVERYWHERE, _SPLIT),
        out_specs=results,
        check_vma=False,  # that results are equal on all devices is up to the step, as with pmap
    )
    return jax.jit(mapped, donate_argnums=donated)


def inference_step(
    step: Callable, devices: list[jax.Device], how: Literal["pmap", "shard_map"] = "pmap"
) -> jax.stages.Wrapped:
    """Compile `step(state, batch)`; its results are split: [devices, B / devices, ...].

    Args:
        step: called with each device's part of the batch.
        devices: the local devices; the batch is from `split_batch`.
        how: as in `training_step`.
    """
    if how == "pmap":
        return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=0, devices=devices)

    def with_axis(state: Any, part: Any) -> Any:
        return jax.tree.map(lambda a: a[None], step(state, part))

    return _mapped(with_axis, devices, _SPLIT)


def mean_over_devices(tree: Any) -> Any:
    """The mean of every leaf over all devices, by one collective on a flat vector."""
    if jax.lax.axis_size(AXIS) == 1:
        return tree
    flat, unflatten = ravel_pytree(tree)
    return unflatten(jax.lax.pmean(flat, AXIS))


def gather(tree: Any) -> Any:
    """Concatenate the arrays [b, ...] of all devices to [B, ...], on every device."""
    return jax.tree.map(lambda a: jax.lax.all_gather(a, AXIS, tiled=True), tree)


def everyone(size: int) -> int:
    """The size of the global batch, if each device has `size` clips."""
    return size * jax.lax.axis_size(AXIS)


def my_rows(size: int) -> jax.Array:
    """The indices [b] of this device's `size` clips in the global batch."""
    return jax.lax.axis_index(AXIS) * size + jax.numpy.arange(size, dtype=jax.numpy.int32)

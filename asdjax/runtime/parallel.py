"""Data parallelism: the only file that uses jax.pmap, jax.shard_map and multi-process JAX.

The state is replicated without a leading device axis (`in_axes=None`, `out_axes=None`): every leaf
has its logical shape, also in checkpoints and in inference. The results of a step must therefore be
equal on all devices: gradients and metrics are averaged by `mean_over_devices`, batch statistics by
collectives over `AXIS` in the layers. A step knows nothing else of the devices than these
collectives, so that `jax.pmap` and `jax.jit` of `jax.shard_map` run it alike.

Several processes have one training step: each gives its own part of the global batch, and holds the
whole state. What a process decides by itself would end the others or make them wait for ever:
`share` tells it to all. In inference each process runs batches of its own, of its local devices,
and `share_arrays` hands the results to all. `jax.experimental.multihost_utils` is JAX's documented
way to do so; tests/commands/test_hosts.py fails without it.
"""

import contextlib
import io
import json
import platform
import re
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any, Literal, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.flatten_util import ravel_pytree

from asdjax.errors import AsdjaxError, ConfigError
from asdjax.runtime.hosts import HEARTBEAT, Hosts

AXIS = "clips"
"""The name of the device axis, for collectives inside a step."""
_EVERYWHERE, _SPLIT = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(AXIS)
_T = TypeVar("_T")


def join(hosts: Hosts) -> None:
    """Connect this process with the others of its job; call it before anything uses JAX's devices.

    Raises:
        AsdjaxError: JAX finds no job, the coordinator's port is taken, or nothing listens there.
    """
    hosts.wait_for_coordinator()
    # asdjax handles SIGTERM itself
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            hosts.coordinator,
            hosts.num_processes,
            hosts.process_id,
            cluster_detection_method=None if hosts.distributed else "deactivate",
            initialization_timeout=hosts.join_timeout,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except (RuntimeError, ValueError, OSError) as error:
        remedy = f"choose a free port of process 0 instead of {hosts.coordinator}"
        if hosts.distributed:
            remedy = (
                "start all of them by SLURM, Open MPI, Kubernetes or on a TPU pod, or give "
                "--coordinator HOST:PORT --num-processes N --process-id I"
            )
        raise ConfigError(
            f"JAX cannot join the other processes ({str(error).splitlines()[0][:200]}): {remedy}"
        ) from error


def require_equal_hosts(hosts: Hosts) -> None:
    """Raise `AsdjaxError` if the processes have unlike numbers of devices, or of processes."""
    require_equal({"--num-processes": hosts.num_processes})
    found = [device.process_index for device in jax.devices()]
    counts = [found.count(index) for index in range(jax.process_count())]
    if len({*counts}) > 1:
        raise ConfigError(
            f"the processes have unlike numbers of devices ({', '.join(map(str, counts))}): start "
            "them with equally many"
        )


def leave() -> None:
    """Wait until all processes call this, and disconnect: each goes on alone, or ends."""
    jax.distributed.shutdown()  # nothing in a process that joined no others


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


def is_first() -> bool:
    """Whether this is the process that writes and speaks for all."""
    return jax.process_index() == 0


def share(document: _T) -> list[_T]:
    """The JSON documents that all processes call this with, in every process."""
    if jax.process_count() == 1:
        return [document]
    return [json.loads(content) for content in _of_all(json.dumps(document).encode())]


def share_arrays(arrays: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The arrays by name that all processes call this with, in every process, bit for bit.

    Names, shapes and dtypes may differ from one process to the next.
    """
    if jax.process_count() == 1:
        return [arrays]
    file, named = io.BytesIO(), dict[str, Any](arrays)
    np.savez(file, **named)
    found = []
    for content in _of_all(file.getvalue()):
        with np.load(io.BytesIO(content), allow_pickle=False) as loaded:
            found.append({name: loaded[name] for name in loaded.files})
    return found


def _of_all(content: bytes) -> list[bytes]:
    """The contents that all processes call this with."""
    mine = np.frombuffer(content, np.uint8)
    sizes = multihost_utils.process_allgather(np.array(mine.size, np.int32))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: mine.size] = mine
    rows = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]


def versions() -> dict[str, str]:
    """Those of Python and of the packages that weights and embeddings depend on."""
    packages = ("asdjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain")
    return {"python": platform.python_version(), **{of: metadata.version(of) for of in packages}}


def host_facts(devices: list[jax.Device]) -> dict[str, Any]:
    """What hosts that work together must agree in, by names for the user.

    Args:
        devices: those of this process that are used.
    """
    return {
        "the versions of packages": versions(),
        "the kind of devices": devices[0].device_kind,
        "the number of devices": len(devices),
    }


def require_equal(facts: dict[str, Any]) -> None:
    """Raise `AsdjaxError` that names the facts in which processes differ, in every process."""
    every = share(facts)
    for index, other in enumerate(every):
        differ = [name for name, value in every[0].items() if other.get(name) != value]
        if differ:
            raise ConfigError(
                f"processes 0 and {index} differ in {', '.join(differ)}: start the same command "
                "with the same files and packages on every host"
            )


def of_first(arrays: _T) -> _T:
    """Process 0's tree of NumPy arrays in every process, bit for bit.

    Args:
        arrays: of equal structure, shapes and dtypes in all processes.
    """
    if jax.process_count() == 1:
        return arrays

    def copied(leaf: np.ndarray) -> np.ndarray:
        # as bytes: a sum with zeros would turn -0.0 into 0.0
        content = np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
        sent = np.asarray(multihost_utils.broadcast_one_to_all(content))
        return sent.view(leaf.dtype).reshape(leaf.shape)

    return jax.tree.map(copied, arrays)


def tree_of_first(tree: dict[str, Any] | None) -> dict[str, Any]:
    """Process 0's nested dictionaries of NumPy arrays in every process, bit for bit.

    Args:
        tree: with text keys; None in the other processes, which need not know the structure.
    """
    form = None
    if tree is not None:
        form = jax.tree.map(lambda leaf: [leaf.dtype.name, leaf.shape], tree)
    form = share(form)[0]
    if tree is None:
        tree = jax.tree.map(
            lambda leaf: np.zeros(leaf[1], leaf[0]), form, is_leaf=lambda of: isinstance(of, list)
        )
    return of_first(tree)


class AnyProcess:
    """Whether one of the processes says yes, known to all of them at the same step.

    Devices do not wait for the answer, except CPUs: it comes one step late.
    """

    def __init__(self, devices: list[jax.Device]):
        """Name the local devices that train."""
        self._count = len(devices)
        self._waits = devices[0].platform == "cpu"
        self._asked: jax.Array | None = None
        self._any = jax.pmap(
            lambda said: jax.lax.pmax(said, AXIS),
            axis_name=AXIS,
            out_axes=None,
            devices=_of_all_processes(devices),
        )

    def __call__(self, says: bool) -> bool:
        """Ask at a step; all processes must."""
        if jax.process_count() == 1:
            return says
        before, self._asked = self._asked, self._any(np.full(self._count, says, np.int32))
        answer = self._asked if self._waits else before
        return answer is not None and bool(answer)


@contextlib.contextmanager
def others_lost() -> Iterator[None]:
    """Turn the error of a step with others, which may be gone, into an `AsdjaxError`."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # ValueError: of gloo
        status = re.match("[A-Z_]+: ", str(error))
        alone = not jax.distributed.is_initialized()
        if alone or status is None or "RESOURCE_EXHAUSTED" in str(error):
            raise
        raise AsdjaxError(
            f"process {jax.process_index()}: the other processes do not answer "
            f"({str(error).splitlines()[0][:200]}): look at their messages; the same command on "
            "every host continues"
        ) from error


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
        if jax.process_count() > 1:
            raise ConfigError("train.parallel: shard_map runs in one process only: choose pmap")
        return _mapped(step, devices, (_EVERYWHERE, _EVERYWHERE), donated=(0,))
    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=(None, None),
        donate_argnums=(0,),
        devices=_of_all_processes(devices),
    )


def _of_all_processes(mine: list[jax.Device]) -> list[jax.Device]:
    """As many devices of every process, process by process, like the rows of the global batch."""
    processes = range(jax.process_count())
    return [device for index in processes for device in jax.local_devices(index)[: len(mine)]]


def _mapped(
    step: Callable, devices: list[jax.Device], results: Any, donated: tuple[int, ...] = ()
) -> jax.stages.Wrapped:
    """`step(state, batch)` by `jax.shard_map`, with the partition of its results."""

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

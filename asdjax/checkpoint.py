"""Checkpoints: orbax directories of plain nested dictionaries of arrays, plus JSON.

A checkpoint appears under its step's number all at once; an interrupted save leaves only a
temporary directory, which readers pass over and the next save clears.
"""

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from asdjax.errors import AsdjaxError
from asdjax.pretrained import PREDICTOR, WEIGHTS, Pretrained

Tree = dict[str, Any]
"""Nested dictionaries with text keys and array leaves."""

ITEMS = ("weights", "progress")
"""What a checkpoint holds beside JSON; inference reads the weights alone."""


def digest(tree: Tree) -> str:
    """A digest of names, shapes, dtypes and values of all arrays."""
    state = hashlib.blake2b(digest_size=16)
    for path, leaf in sorted(_flatten(tree).items()):
        array = np.ascontiguousarray(leaf)
        state.update(f"{path} {array.dtype} {array.shape}\n".encode())
        state.update(array.tobytes())
    return state.hexdigest()


_DAMAGED = (
    "{}: this checkpoint is missing or damaged ({}): delete it to continue from an older one, or "
    "train again with --no-resume"
)


@contextlib.contextmanager
def _readable(path: Path, otherwise: str) -> Iterator[None]:
    """Say in the words of `otherwise` that orbax cannot read what is at `path`."""
    try:
        yield
    except Exception as error:
        # For arrays that it cannot read orbax raises Exception itself; an absent item is None.
        known = isinstance(error, OSError | ValueError | KeyError | AttributeError)
        if not known and type(error) is not Exception:
            raise
        raise AsdjaxError(otherwise.format(path, _brief(error))) from error


def _quiet() -> None:
    """Errors reach the user as sentences; orbax's warnings beside them would only confuse."""
    logging.getLogger("absl").setLevel(logging.ERROR)


def save_weights(directory: Path, weights: Tree) -> None:
    """Write arrays into a directory that does not exist yet."""
    _quiet()
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory.absolute(), weights)


def load_weights(directory: Path, like: Tree) -> Tree:
    """Arrays that `save_weights` wrote, as NumPy arrays.

    Args:
        directory: where they are.
        like: names, shapes and dtypes to read them as.

    Raises:
        AsdjaxError: names or shapes differ, or the files are missing or damaged.
    """
    _quiet()
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), like
    )
    damaged = "{}: these weights are missing or damaged ({}): convert again"
    with _readable(directory, damaged), ocp.StandardCheckpointer() as checkpointer:
        stored = checkpointer.metadata(directory.absolute()).item_metadata.tree
        wrong = _differences(stored, like, dtypes=False)
        if not wrong:
            restored = checkpointer.restore(directory.absolute(), target)
    if wrong:
        raise AsdjaxError(f"{directory}: not weights of this architecture: {wrong}")
    return jax.tree.map(np.asarray, restored)


def load_pretrained(weights: Pretrained, like: Tree) -> Tree:
    """A converted encoder's arrays {"encoder"}, in the dtypes of `like`, verified by their digests.

    A fine-tuned checkpoint's classifier is read if it is among those asked for.
    """
    encoder = dict(like["encoder"])
    predictor = encoder.pop("predictor", None)
    loaded = load_weights(weights.path / WEIGHTS, {"encoder": encoder})
    if digest(loaded) != weights.digest:
        raise AsdjaxError(
            f"{weights.path}: the weights are not those that were converted: convert again"
        )
    if predictor is not None:
        found = load_weights(weights.path / PREDICTOR, {"predictor": predictor})
        if digest(found) != weights.document.get("predictor_digest"):
            raise AsdjaxError(
                f"{weights.path}: the classifier is not the one that was converted: convert again"
            )
        loaded["encoder"] |= found
    return loaded


class Checkpoints:
    """The checkpoints in one directory; use as a context manager."""

    def __init__(self, directory: Path, keep: int | None = None):
        """Open a directory.

        Args:
            directory: made when absent, unless only reading.
            keep: how many of the newest checkpoints survive a save; None: only read.
        """
        _quiet()
        self.directory = directory
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            item_handlers={
                **{item: ocp.StandardCheckpointHandler() for item in ITEMS},
                "meta": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                read_only=keep is None,
                create=keep is not None,
                cleanup_tmp_directories=keep is not None,
                enable_async_checkpointing=False,
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.close()

    def latest(self) -> int | None:
        """The newest complete checkpoint's step, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Tree, meta: Mapping[str, Any]) -> None:
        """Write the `ITEMS` of a state and wait until they are on disk."""
        items = {item: ocp.args.StandardSave(state[item]) for item in ITEMS}
        args = ocp.args.Composite(**items, meta=ocp.args.JsonSave(dict(meta)))
        try:
            saved = self._manager.save(step, args=args)
        except (OSError, ValueError) as error:
            raise AsdjaxError(
                f"{self.directory}: checkpoint {step} cannot be written ({_brief(error)}): make "
                "room and give the same command again"
            ) from error
        if not saved:
            raise AsdjaxError(f"{self.directory}: checkpoint {step} exists already")

    def meta(self, step: int) -> dict[str, Any]:
        """A checkpoint's JSON part, without its arrays."""
        return self._read(step, meta=ocp.args.JsonRestore())["meta"]

    def restore(self, step: int, like: Tree) -> Tree:
        """A checkpoint's arrays, as NumPy.

        Args:
            step: which checkpoint.
            like: the `ITEMS` to read, as expected; only structure, shapes and dtypes are used.

        Raises:
            AsdjaxError: names, shapes or dtypes differ (all differences in one message), or the
                files are damaged.
        """
        with _readable(self.directory / str(step), _DAMAGED):
            metadata = self._manager.item_metadata(step)
            stored = {item: metadata[item].tree for item in like}
        wrong = _differences(stored, like)
        if wrong:
            raise AsdjaxError(
                f"{self.directory / str(step)}: not a checkpoint of this configuration: {wrong}"
            )
        # an explicit placement: the checkpoint may come from other or more devices
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), like
        )
        items = {item: ocp.args.StandardRestore(tree) for item, tree in target.items()}
        restored = self._read(step, **items)
        return {item: jax.tree.map(np.asarray, restored[item]) for item in like}

    def _read(self, step: int, **items: Any) -> Any:
        with _readable(self.directory / str(step), _DAMAGED):
            return self._manager.restore(step, args=ocp.args.Composite(**items))


def _flatten(tree: Tree, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        path = f"{prefix}/{key}" if prefix else str(key)
        flat.update(_flatten(value, path) if isinstance(value, Mapping) else {path: value})
    return flat


def _brief(error: Exception) -> str:
    """The first line of orbax's messages, which run to thousands."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _differences(stored: Tree, like: Tree, *, dtypes: bool = True) -> str:
    """In words, in which names, shapes and dtypes two trees differ."""
    found = {k: _shape(v, dtypes) for k, v in _flatten(stored).items()}
    expected = {k: _shape(v, dtypes) for k, v in _flatten(like).items()}
    wrong = [
        f"{k}: {found.get(k, 'absent')}, expected {expected.get(k, 'nothing')}"
        for k in sorted(found.keys() | expected.keys())
        if found.get(k) != expected.get(k)
    ]
    more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    return "; ".join(wrong[:5]) + more


def _shape(leaf: Any, dtypes: bool) -> str:
    return f"{np.dtype(leaf.dtype) if dtypes else ''}{list(leaf.shape)}"

"""Checkpoints: orbax directories of plain nested dictionaries of arrays, plus JSON.

A checkpoint appears under its step's number all at once; an interrupted save leaves only a
temporary directory, which readers pass over and the next save clears.
"""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from asdjax.errors import AsdjaxError

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


class Checkpoints:
    """The checkpoints in one directory; use as a context manager."""

    def __init__(self, directory: Path, keep: int = 1):
        """Open a directory, made when absent; `keep` newest checkpoints survive each save."""
        logging.getLogger("absl").setLevel(logging.ERROR)
        self.directory = directory
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            item_handlers={
                **{item: ocp.StandardCheckpointHandler() for item in ITEMS},
                "meta": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
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
        saved = self._manager.save(
            step, args=ocp.args.Composite(**items, meta=ocp.args.JsonSave(dict(meta)))
        )
        if not saved:
            raise AsdjaxError(f"{self.directory}: checkpoint {step} exists already")

    def meta(self, step: int) -> dict[str, Any]:
        """A checkpoint's JSON part, without its arrays."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args)["meta"]

    def restore(self, step: int, like: Tree) -> Tree:
        """A checkpoint's arrays, as NumPy.

        Args:
            step: which checkpoint.
            like: the `ITEMS` to read, as expected; only structure, shapes and dtypes are used.

        Raises:
            AsdjaxError: names, shapes or dtypes differ; all differences in one message.
        """
        metadata = self._manager.item_metadata(step)
        stored = {item: metadata[item].tree for item in like}
        found = {k: _shape(v) for k, v in _flatten(stored).items()}
        expected = {k: _shape(v) for k, v in _flatten(like).items()}
        wrong = [
            f"{k}: {found.get(k, 'absent')}, expected {expected.get(k, 'nothing')}"
            for k in sorted(found.keys() | expected.keys())
            if found.get(k) != expected.get(k)
        ]
        if wrong:
            raise AsdjaxError(
                f"{self.directory / str(step)}: not a checkpoint of this configuration: "
                + "; ".join(wrong[:5])
                + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
            )
        # an explicit placement: the checkpoint may come from other or more devices
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), like
        )
        items = {item: ocp.args.StandardRestore(tree) for item, tree in target.items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        return {item: jax.tree.map(np.asarray, restored[item]) for item in like}


def _flatten(tree: Tree, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        path = f"{prefix}/{key}" if prefix else str(key)
        flat.update(_flatten(value, path) if isinstance(value, Mapping) else {path: value})
    return flat


def _shape(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype)}{list(leaf.shape)}"

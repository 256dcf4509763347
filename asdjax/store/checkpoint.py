"""Checkpoints: orbax directories of plain nested dictionaries of arrays, plus JSON.

<step>/weights/ progress/   the arrays, by orbax
<step>/meta.json            state of the training besides arrays
<step>/files.json           the digest of every other file

A checkpoint is written to a hidden folder and then renamed to its step; readers ignore what an
interrupted save leaves, and the next save deletes it. Digests are compared before orbax reads
anything: an exception of orbax after that is a bug, not a damaged file.

Written for orbax 0.11 and 0.12. The documented `orbax.checkpoint.v1` cannot be imported in 0.12.8.
"""

import asyncio
import contextlib
import functools
import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict

from asdjax.errors import ArtifactError, AsdjaxError
from asdjax.files import atomic, documents
from asdjax.runtime import parallel
from asdjax.store import arrays
from asdjax.store.checkpoint_files import FILES, checkpoint_files
from asdjax.store.converted_weights import PREDICTOR, WEIGHTS, Pretrained

Tree = dict[str, Any]
"""Nested dictionaries with text keys and array leaves."""

ITEMS = ("weights", "progress")
"""The trees of arrays in a checkpoint; inference reads only the weights."""


def digest(tree: Tree) -> str:
    """Digest of the names, shapes, dtypes and values of all arrays."""
    return arrays.digest(flatten_dict(tree, sep="/"))


_DAMAGED = (
    "{}: this checkpoint is missing or damaged ({}): delete it and train again, which "
    "continues from an older one, or start over with --no-resume"
)
_STEP = re.compile(r"0|[1-9][0-9]{0,17}")
_LOG = logging.getLogger(__name__)
_META = "meta.json"
_PATIENCE = 10  # seconds
_OS_ERROR = re.compile(r"os_error_code='(\d+)'")


def save_weights(directory: Path, weights: Tree) -> None:
    """Write arrays into a directory that does not exist yet; `AsdjaxError` if that fails."""
    _write_arrays(directory, weights)
    _seal(directory)


def load_weights(directory: Path, like: Tree) -> Tree:
    """Read arrays written by `save_weights`, as NumPy arrays.

    Args:
        directory: the directory that they were written to.
        like: the expected names and shapes, and the dtypes to convert to.

    Raises:
        AsdjaxError: names or shapes differ, or the files are missing or damaged.
    """
    _verify(directory, "", "{}: these weights are missing or damaged ({}): convert again")
    wrong = _differences(_stored(directory), like, dtypes=False)
    if wrong:
        raise ArtifactError(f"{directory}: not weights of this architecture: {wrong}")
    return _read_arrays(directory, like)


def load_pretrained(weights: Pretrained, like: Tree) -> Tree:
    """A converted encoder's arrays {"encoder"}, in the dtypes of `like`, checked by their digests.

    The classifier of a fine-tuned checkpoint is included if `like` has one.
    """
    encoder = dict(like["encoder"])
    predictor = encoder.pop("predictor", None)
    loaded = load_weights(weights.path / WEIGHTS, {"encoder": encoder})
    if digest(loaded) != weights.digest:
        raise ArtifactError(
            f"{weights.path}: the weights have changed since conversion: convert again"
        )
    if predictor is not None:
        found = load_weights(weights.path / PREDICTOR, {"predictor": predictor})
        if digest(found) != weights.document.get("predictor_digest"):
            raise ArtifactError(
                f"{weights.path}: the classifier has changed since conversion: convert again"
            )
        loaded["encoder"] |= found
    return loaded


class Checkpoints:
    """The checkpoints in a directory."""

    def __init__(self, directory: Path, keep: int | None = None):
        """Open a directory, and delete what killed processes left in it, if it is written to.

        Args:
            directory: created by the first save.
            keep: number of newest checkpoints to keep at a save; None for reading only.
        """
        self.directory, self._keep = directory, keep
        self._spared: set[Path] = set()
        if keep is not None:
            atomic.clear(directory)

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint, or None."""
        return max(self._steps(), default=None)

    def save(self, step: int, items: Mapping[str, Tree], meta: Mapping[str, Any]) -> None:
        """Write all `ITEMS`, wait until they are on disk, and delete old checkpoints."""
        assert self._keep is not None, "opened for reading only"
        place = self.directory / str(step)

        def free() -> None:
            if place.exists():
                raise ArtifactError(f"{self.directory}: checkpoint {step} exists already")

        with atomic.whole_folder(place, free) as made:
            for item in ITEMS:
                _write_arrays(made / item, items[item])
            documents.write_json(made / _META, meta)
            _seal(made)
        _LOG.info(f"{place}: checkpoint written")
        for old in sorted(self._steps())[: -self._keep]:
            self._delete(self.directory / str(old))

    def _delete(self, place: Path) -> None:
        """Delete a checkpoint, unless its folder has files of other origin or is read-only."""
        others = atomic.foreign(place, checkpoint_files(place))
        why = f"{others[0]}: not written by asdjax" if others else None
        if why is None and not atomic.is_writable(place):
            why = f"{place}: is read-only"
        if why is None:
            atomic.discard(place)
        elif place not in self._spared:
            self._spared.add(place)
            _LOG.warning(f"{why}: {place} is not deleted")

    def meta(self, step: int) -> dict[str, Any]:
        """A checkpoint's JSON part, without its arrays."""
        place = self.directory / str(step)
        _verify(place, _META, _DAMAGED)
        meta = documents.read_json(place / _META)
        if not isinstance(meta, dict):
            raise ArtifactError(_DAMAGED.format(place, f"{_META} is not a JSON object"))
        return meta

    def restore(self, step: int, like: Mapping[str, Tree]) -> dict[str, Tree]:
        """A checkpoint's arrays, as NumPy arrays.

        Args:
            step: the checkpoint's step.
            like: the `ITEMS` to read; only the expected structure, shapes and dtypes are used.

        Raises:
            AsdjaxError: names, shapes or dtypes differ (all differences in one message), or the
                files are damaged.
        """
        place = self.directory / str(step)
        for item in like:
            _verify(place, f"{item}/", _DAMAGED)
        wrong = _differences({item: _stored(place / item) for item in like}, like)
        if wrong:
            raise ArtifactError(f"{place}: not a checkpoint of this configuration: {wrong}")
        return {item: _read_arrays(place / item, tree) for item, tree in like.items()}

    def _steps(self) -> list[int]:
        try:
            names = [path.name for path in self.directory.iterdir() if path.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ArtifactError(
                f"{self.directory}: cannot be read ({error.strerror}): restore the folder, or "
                "delete it and train again"
            ) from error
        return [int(name) for name in names if _STEP.fullmatch(name)]


# orbax


def _orbax(method: str, directory: Path, **arguments: Any) -> Any:
    """Call a method of orbax's checkpointer and wait until it ends, even after Ctrl-C.

    The interrupt is raised afterwards: inside of orbax it would leave writers running in a folder
    that is being deleted. For the same reason orbax's own threads are waited for after an error.
    """
    mine, _ = parallel.process()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=mine, active_processes={mine}, barrier_sync_key_prefix=f"process{mine}"
    )  # or orbax waits for all processes, of which only one reads or writes this
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    checkpointer = ocp.Checkpointer(handler, multiprocessing_options=alone)
    others = set(threading.enumerate())
    with _silent("absl"):
        try:
            with ThreadPoolExecutor(1) as thread:
                call = functools.partial(getattr(checkpointer, method), directory.absolute())
                return thread.submit(call, **arguments).result()
        except BaseException:
            for started in set(threading.enumerate()) - others:
                if not started.daemon:
                    started.join(_PATIENCE)
            raise


@contextlib.contextmanager
def _silent(name: str) -> Iterator[None]:
    """Log nothing: the first error is raised, and orbax would log those of all other arrays."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _write_arrays(directory: Path, tree: Tree) -> None:
    policy = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(_WaitingPolicy())
    with atomic.writing(directory):
        try:
            _orbax("save", directory, args=ocp.args.StandardSave(tree))
        except ValueError as error:  # of tensorstore
            code = _OS_ERROR.search(str(error))
            if not code:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
        finally:
            asyncio.set_event_loop_policy(policy)


class _WaitingLoop(asyncio.SelectorEventLoop):
    """An event loop that is closed when all of its tasks have ended.

    On a full disk orbax closes its loop at the first array that fails, and the writers of the
    others would go on in a folder that is being deleted.
    """

    def close(self) -> None:
        while not self.is_closed() and (tasks := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        super().close()


class _WaitingPolicy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return _WaitingLoop()


def _stored(directory: Path) -> Tree:
    """Names, shapes and dtypes of the arrays in a directory."""
    tree = _orbax("metadata", directory).item_metadata.tree
    return tree if isinstance(tree, dict) else {"no names": tree}


def _read_arrays(directory: Path, like: Tree) -> Tree:
    # an explicit placement, because the checkpoint may come from other devices
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), like
    )
    args = ocp.args.StandardRestore(target)
    return jax.tree.map(np.asarray, _orbax("restore", directory, args=args))


# digests of files


def _seal(folder: Path) -> None:
    """Write the digests of all files in a folder."""
    documents.write_json(
        folder / FILES, {name: documents.digest(folder / name) for name in _names(folder)}
    )


def _verify(folder: Path, below: str, damaged: str) -> None:
    """Check the digests of the files whose names begin with `below`.

    Raises:
        AsdjaxError: a file is missing, unexpected or changed; `damaged` is the message's template.
    """
    try:
        atomic.refuse_links(folder)
        stated = documents.read_json(folder / FILES)
        if not isinstance(stated, dict):
            raise ArtifactError(f"{FILES} has no digests")
        expected = {name: digest for name, digest in stated.items() if name.startswith(below)}
        found = {name for name in _names(folder) if name.startswith(below)}
        for name in sorted(found ^ expected.keys()):
            raise ArtifactError(f"{name} is {'not expected' if name in found else 'missing'}")
        for name in sorted(found):
            if documents.digest(folder / name) != expected[name]:
                raise ArtifactError(f"{name} was changed")
    except AsdjaxError as error:
        if isinstance(error.__cause__, PermissionError):
            raise
        raise ArtifactError(damaged.format(folder, error)) from error


def _names(folder: Path) -> list[str]:
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in names if name != FILES)


# trees


def _differences(
    stored: Mapping[str, Tree], like: Mapping[str, Tree], *, dtypes: bool = True
) -> str:
    """A list of the names, shapes and dtypes that differ between two trees, as text."""
    found = {k: _shape(v, dtypes) for k, v in flatten_dict(stored, sep="/").items()}
    expected = {k: _shape(v, dtypes) for k, v in flatten_dict(like, sep="/").items()}
    wrong = [
        f"{k}: {found.get(k, 'absent')}, expected {expected.get(k, 'nothing')}"
        for k in sorted(found.keys() | expected.keys())
        if found.get(k) != expected.get(k)
    ]
    more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    return "; ".join(wrong[:5]) + more


def _shape(leaf: Any, dtypes: bool) -> str:
    if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
        return f"not an array ({type(leaf).__name__})"
    return f"{np.dtype(leaf.dtype) if dtypes else ''}{list(leaf.shape)}"

"""What training writes: metrics from the device go to log.jsonl, the state to checkpoints."""

import collections
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import jax
import numpy as np

from asdjax.errors import DataError
from asdjax.runtime import parallel
from asdjax.store.checkpoint import Checkpoints, digest
from asdjax.store.event_files import EventFiles
from asdjax.store.runs import Run
from asdjax.training.learner import TrainState
from asdjax.training.plan import Plan


@dataclasses.dataclass(frozen=True)
class Record:
    """Where a training is written."""

    run: Run
    checkpoints: Checkpoints
    events: EventFiles | None = None
    """The log once more, for TensorBoard."""


class StepLog:
    """Fetches metrics from the device some steps late and writes them to the run's log."""

    def __init__(self, work: Plan, record: Record | None, first: int):
        """Begin at step `first`; without a record nothing is written."""
        self._work, self._record = work, record
        if record is not None:
            record.run.truncate_log(first)
            if record.events is not None:
                record.events.begin(record.run.read_log())
        self._pending: collections.deque[tuple[int, Mapping[str, jax.Array], dict[str, float]]] = (
            collections.deque()
        )
        self._since = time.monotonic()
        self._validation_words = ""
        self.words = ""
        """The newest losses that were written, for the terminal."""

    @property
    def waiting(self) -> int:
        """Steps whose metrics are still on the device."""
        return len(self._pending)

    def add(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Remember a dispatched step."""
        self._pending.append((step, metrics, {}))

    def measure(self, validation: Callable[[], Mapping[str, float]]) -> None:
        """Add the values of `validation` to the newest step's line; its time is no step's."""
        _, metrics, values = self._pending[-1]
        jax.block_until_ready(metrics)
        began = time.monotonic()
        values.update(validation())
        self._since += time.monotonic() - began

    def write(self, keep: int) -> None:
        """Wait for all pending steps but the newest `keep` and write their lines."""
        ready = [self._pending.popleft() for _ in range(len(self._pending) - keep)]
        values = jax.device_get([metrics for _, metrics, _ in ready])
        now = time.monotonic()
        elapsed, self._since = max(now - self._since, 1e-9), now
        clips = sum(self._work.epoch.clips_in(step) for step, _, _ in ready)
        rows: list[dict[str, Any]] = []
        for (step, _, validation), metrics in zip(ready, values, strict=True):
            loss = float(metrics["loss"])
            validation_loss = validation.get("validation_loss", 0.0)
            for name, value in (("loss", loss), ("validation loss", validation_loss)):
                if not math.isfinite(value):
                    self._append(rows)
                    self.stop(step, f"the {name} is {value}")
            rows.append(
                {
                    "step": step,
                    "epoch": step // self._work.epoch.steps,
                    "loss": loss,
                    "accuracy": float(metrics["accuracy"]),
                    **validation,
                    "learning_rate": float(f"{metrics['learning_rate']:.6g}"),  # float32's digits
                    "seconds": round(elapsed / len(ready), 4),
                    "clips_per_second": float(f"{clips / elapsed:.4g}"),
                }
            )
            if validation:
                self._validation_words = f" (validation {validation_loss:.4f})"
            self.words = f"loss {loss:.4f}{self._validation_words}"
        self._append(rows)

    def save(self, step: int, state: TrainState, meta: Mapping[str, Any]) -> None:
        """Write the checkpoint after a step; all processes check that its weights are finite."""
        items = jax.tree.map(np.asarray, state).to_items()
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(items)):
            self.stop(step, "the weights are no longer finite")
        if parallel.process()[1] > 1:  # each process computes its copy
            alike = {f"the weights after step {step} (are their processors alike?)": digest(items)}
            parallel.require_equal(alike)
        if self._record is not None:
            self._record.checkpoints.save(step + 1, items, meta)

    def close(self) -> None:
        """Close the event files."""
        if self._record is not None and self._record.events is not None:
            self._record.events.close()

    def _append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if self._record is None:
            return
        self._record.run.append_log(rows)
        if self._record.events is not None:
            self._record.events.add(rows)

    def stop(self, step: int, why: str) -> NoReturn:
        """End the run with a sentence that says where it can go on from."""
        if self._record is None:
            raise DataError(f"{why} at step {step}: see the message of process 0")
        run, good = self._record.run, self._record.checkpoints.latest()
        where = (
            f"the last good checkpoint is {run.checkpoints / str(good)}"
            if good is not None
            else "there is no checkpoint yet"
        )
        raise DataError(
            f"{run.path}: {why} at step {step}; {where}: lower "
            "optim.learning_rate or look for faulty clips with asdjax data"
        )

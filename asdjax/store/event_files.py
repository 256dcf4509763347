"""Event files, in which TensorBoard reads the course of a training: a copy of log.jsonl.

RUN/tensorboard has one file of ours, which each start writes anew from log.jsonl: steps that a
killed training has written and a resumed one repeats are in it once.
"""

import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from asdjax.errors import ArtifactError, ConfigError
from asdjax.files import atomic
from asdjax.runtime import console

FOLDER = "tensorboard"
TAGS = {
    "loss": "loss/training",
    "validation_loss": "loss/validation",
    "accuracy": "accuracy/training",
    "validation_accuracy": "accuracy/validation",
    "learning_rate": "learning_rate",
    "clips_per_second": "clips_per_second",
}
"""TensorBoard's names of the keys of log.jsonl."""
_NAME = re.compile(r"events\.out\.tfevents\.[0-9]{13,}\.asdjax")


def ours(folder: Path) -> list[Path]:
    """The event files that asdjax has written to a folder, which need not exist."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


class EventFiles:
    """Writes the rows of log.jsonl for TensorBoard."""

    def __init__(self, folder: Path):
        """Name the folder, which is created by `begin`.

        Raises:
            AsdjaxError: tensorboardX is not installed.
        """
        try:
            from tensorboardX.proto import event_pb2, summary_pb2
            from tensorboardX.record_writer import RecordWriter
        except ImportError as error:
            raise ConfigError(
                "--log tensorboard: needs tensorboardX: pip install 'asdjax[tensorboard]', or omit "
                "the option"
            ) from error
        self.folder = folder
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._make_writer = RecordWriter
        self._writer: Any = None
        self._path = folder

    def check(self) -> None:
        """Raise `AsdjaxError` if the folder has files of other origin, or is a link or a file."""
        atomic.refuse_links(self.folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ArtifactError(f"{self.folder}: is not a folder: move it away, or omit --log")
        foreign = atomic.foreign(self.folder, ours(self.folder))
        if foreign:
            raise ArtifactError(
                f"{foreign[0]}: not written by asdjax, and TensorBoard would mix it with this run: "
                "move it away, or omit --log"
            )

    def begin(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a new file with the rows of log.jsonl so far, delete the old ones, and say so."""
        old = ours(self.folder)
        # TensorBoard goes on to the file with the next higher name
        newest = max((int(path.name.split(".")[3]) for path in old), default=0)
        number = max(int(1000 * time.time()), newest + 1)
        self._path = self.folder / f"events.out.tfevents.{number:013d}.asdjax"
        with atomic.writing(self._path):
            self.folder.mkdir(exist_ok=True)
            self._writer = self._make_writer(str(self._path))
            self._write(self._event(wall_time=time.time(), file_version="brain.Event:2"))
        # when the steps were computed is known up to the pauses between the starts
        now = time.time() - math.fsum(_number(row, "seconds") or 0.0 for row in rows)
        for row in rows:
            now += _number(row, "seconds") or 0.0
            self._add(row, now)
        self._flush()
        for path in old:
            atomic.delete(path)
        console.say(f"{self.folder}: event files, for tensorboard --logdir")

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write further rows."""
        for row in rows:
            self._add(row, time.time())
        self._flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            with atomic.writing(self._path):
                self._writer.close()
            self._writer = None

    def _add(self, row: Mapping[str, Any], wall_time: float) -> None:
        step = row.get("step")
        if type(step) is not int or not 0 <= step < 2**31:
            return  # of a log that was changed
        values = {tag: _number(row, key) for key, tag in TAGS.items()}
        scalars = [
            self._summary.Value(tag=tag, simple_value=value)
            for tag, value in values.items()
            if value is not None
        ]
        summary = self._summary(value=scalars)
        self._write(self._event(wall_time=wall_time, step=step, summary=summary))

    def _write(self, event: Any) -> None:
        with atomic.writing(self._path):
            self._writer.write(event.SerializeToString())

    def _flush(self) -> None:
        with atomic.writing(self._path):
            self._writer.flush()


def _number(row: Mapping[str, Any], key: str) -> float | None:
    """A number in a row; None if there is none."""
    value = row.get(key)
    return value if isinstance(value, float) and math.isfinite(value) else None

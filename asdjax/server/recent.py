"""The last predictions of a server, and the sounds of its last alarms."""

import asyncio
import collections
import dataclasses
import datetime
from pathlib import Path
from typing import Any

from asdjax.detector.prediction import Prediction
from asdjax.server.explained import Explained

SCHEMA = "asdjax.recent/1"
MOST = 200
"""Predictions."""
MOST_ALARMS = 20
"""Whose sounds are kept."""
MOST_BYTES = 64 * 2**20
"""Of these sounds, and of their explanations."""


@dataclasses.dataclass(eq=False)
class Alarm:
    """An alarm whose sound is kept."""

    prediction: Prediction
    path: Path
    """The sound file, until the alarm is explained."""
    size: int
    """Bytes of the file, or of the explanation."""
    explained: asyncio.Task[Explained] | None = None
    """Why it is one; None: nobody has asked."""


class Recent:
    """The last predictions, numbered from 1. The oldest are forgotten."""

    def __init__(self, folder: Path):
        """Begin without any.

        Args:
            folder: for the sounds of alarms.
        """
        self._folder, self._count = folder, 0
        self._started = _now()
        self._rows: collections.deque[dict[str, Any]] = collections.deque(maxlen=MOST)
        self._alarms: dict[int, Alarm] = {}

    def add(self, prediction: Prediction, path: Path) -> None:
        """Take a prediction and, if it is an alarm, its sound file, which is moved.

        A file that is larger than all that may be kept stays where it is.
        """
        self._count += 1
        row = dataclasses.asdict(prediction)
        del row["window_scores"]  # of a long recording, thousands
        self._rows.append({"id": self._count, "time": _now(), **row})
        size = path.stat().st_size
        if prediction.alarm and size <= MOST_BYTES:
            kept = self._folder / f"alarm-{self._count}"
            path.rename(kept)
            self._alarms[self._count] = Alarm(prediction, kept, size)
            self._forget()

    def alarm(self, number: int) -> Alarm | None:
        """An alarm by its number; None if its sound is not kept."""
        return self._alarms.get(number)

    def replace(self, alarm: Alarm, size: int) -> None:
        """Keep the explanation of an alarm, of so many bytes, instead of its sound file."""
        alarm.path.unlink(missing_ok=True)
        alarm.size = size
        self._forget()

    def since(self, last: int) -> dict[str, Any]:
        """The predictions after number `last`, oldest first, and which alarms can be explained."""
        return {
            "schema": SCHEMA,
            "started": self._started,
            "predictions": [row for row in self._rows if row["id"] > last],
            "alarms": list(self._alarms),
        }

    def _forget(self) -> None:
        """Drop the oldest alarms until the others are within the bounds."""
        while (
            len(self._alarms) > MOST_ALARMS
            or sum(alarm.size for alarm in self._alarms.values()) > MOST_BYTES
        ):
            oldest = self._alarms.pop(next(iter(self._alarms)))
            oldest.path.unlink(missing_ok=True)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")

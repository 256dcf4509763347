"""The last predictions of a server, and the sounds of its last alarms."""

import asyncio
import collections
import dataclasses
import datetime
from typing import Any

from asdjax.detector.prediction import Prediction
from asdjax.server.explained import Explained
from asdjax.server.uploads import Upload

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
    upload: Upload
    """The sound file, until the alarm is explained or dropped."""
    size: int
    """Bytes of the file, or of the explanation."""
    explained: asyncio.Task[Explained] | None = None
    """Why it is one; None: nobody has asked."""


class Recent:
    """The last predictions, numbered from 1. The oldest are forgotten."""

    def __init__(self) -> None:
        """Begin without any."""
        self._count = 0
        self._started = _now()
        self._rows: collections.deque[dict[str, Any]] = collections.deque(maxlen=MOST)
        self._alarms: dict[int, Alarm] = {}

    def add(self, prediction: Prediction, upload: Upload) -> bool:
        """Take a prediction and, if it is an alarm, its sound file.

        Returns:
            Whether the file is kept, and closed later; not if it is larger than all that may be.
        """
        self._count += 1
        row = dataclasses.asdict(prediction)
        del row["window_scores"]  # of a long recording, thousands
        self._rows.append({"id": self._count, "time": _now(), **row})
        kept = bool(prediction.alarm) and upload.size <= MOST_BYTES
        if kept:
            self._alarms[self._count] = Alarm(prediction, upload, upload.size)
            self._forget()
        return kept

    def alarm(self, number: int) -> Alarm | None:
        """An alarm by its number; None if its sound is not kept."""
        return self._alarms.get(number)

    def replace(self, alarm: Alarm, size: int) -> None:
        """Keep the explanation of an alarm, of so many bytes, instead of its sound file."""
        alarm.upload.close()
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
            oldest.upload.close()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")

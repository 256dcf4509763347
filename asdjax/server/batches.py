"""Scoring of the recordings of concurrent requests in batches, in one thread."""

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from asdjax.detector.detector import Detector
from asdjax.detector.prediction import Prediction

_LOG = logging.getLogger(__name__)
_AT_ONCE = 64  # recordings
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class QueueFull(Exception):
    """Too many recordings wait to be scored."""


class NotScored(Exception):
    """A defect, which was logged."""


@dataclasses.dataclass(frozen=True)
class _Request:
    path: Path
    result: asyncio.Future[Prediction]


class Batches:
    """Scores recordings with a detector; those that wait meanwhile are scored together."""

    def __init__(self, detector: Detector, most_waiting: int, observe: Callable[[int], object]):
        """Prepare; `run` does the work.

        Args:
            detector: a fitted detector.
            most_waiting: recordings that may wait.
            observe: called with the size of each batch.
        """
        self._detector, self._observe = detector, observe
        self._waiting: asyncio.Queue[_Request] = asyncio.Queue(most_waiting)
        self._turn, self._other_work = asyncio.Lock(), asyncio.Lock()

    @property
    def waiting(self) -> int:
        """The number of recordings that wait."""
        return self._waiting.qsize()

    async def score(self, path: Path) -> Prediction:
        """The prediction of a sound file, with `error` if it is faulty.

        Raises:
            QueueFull: too many recordings wait.
            NotScored: scoring failed by a defect, which was logged.
        """
        request = _Request(path, asyncio.get_running_loop().create_future())
        try:
            self._waiting.put_nowait(request)
        except asyncio.QueueFull as error:
            raise QueueFull from error
        return await request.result

    async def between(
        self,
        work: Callable[_Arguments, _Result],
        *args: _Arguments.args,
        **options: _Arguments.kwargs,
    ) -> _Result:
        """The result of other work with the detector, which is done between two batches.

        One at a time: of several, each waits for a batch after the one before it.
        """
        async with self._other_work, self._turn:
            return await asyncio.to_thread(work, *args, **options)

    async def run(self) -> None:
        """Score what waits, until cancelled."""
        while True:
            batch = [await self._waiting.get()]
            async with self._turn:
                await self._run(batch)

    async def _run(self, batch: list[_Request]) -> None:
        """Score a batch, and what else waits."""
        while len(batch) < _AT_ONCE and not self._waiting.empty():
            batch.append(self._waiting.get_nowait())
        wanted = [request for request in batch if not request.result.done()]
        self._observe(len(wanted))
        loop = asyncio.get_running_loop()
        scoring = asyncio.create_task(asyncio.to_thread(self._score, wanted, loop))
        await asyncio.wait([scoring])
        if (error := scoring.exception()) is not None:  # a defect; the server goes on
            _LOG.error("recordings could not be scored", exc_info=error)
            for request in wanted:
                if not request.result.done():
                    request.result.set_exception(NotScored())

    def _score(self, batch: Sequence[_Request], loop: asyncio.AbstractEventLoop) -> None:
        paths = [request.path for request in batch]
        predictions = self._detector.iter_predictions(paths, faulty="row")
        for request, found in zip(batch, predictions, strict=True):
            loop.call_soon_threadsafe(_resolve, request.result, found)


def _resolve(result: asyncio.Future[Prediction], found: Prediction) -> None:
    if not result.done():  # the client may have gone
        result.set_result(found)

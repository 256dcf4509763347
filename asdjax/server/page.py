"""The page at /, and what it asks for: the last predictions, and why the last alarms are ones.

GET /                        the page; without data, so that it needs no token
GET /recent?since=ID         the predictions after number ID (asdjax.recent/1)
GET /recent/ID/explanation   why one is an alarm (asdjax.explanation/1)
GET /recent/ID/audio         its worst window as MP3
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from importlib import resources
from pathlib import PurePosixPath

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from asdjax.detector.detector import Detector
from asdjax.errors import AsdjaxError
from asdjax.server.access import Access, Refused
from asdjax.server.batches import Batches
from asdjax.server.explained import Explained, explained
from asdjax.server.recent import Alarm, Recent

Answer = Callable[[Request], Awaitable[Response]]
"""What answers a request; raises `Refused`."""
_FILES = {"/": "page.html", "/page.js": "page.js", "/page.css": "page.css"}  # by path
_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_EXPLAIN_SECONDS = 30.0


class Page:
    """Answers for the page."""

    def __init__(
        self, name: str, detector: Detector, access: Access, batches: Batches, recent: Recent
    ):
        """Prepare the page of one detector.

        Args:
            name: of the detector.
            detector: a fitted detector.
            access: what requests need.
            batches: of the server.
            recent: what it has scored.
        """
        self._detector, self._access = detector, access
        self._batches, self._recent = batches, recent
        about = detector.description()
        about["embedder"] = PurePosixPath(about["embedder"]).name
        self._about = {"name": name, **about}
        folder = resources.files("asdjax.server")
        self._files = {path: (folder / file).read_text("utf-8") for path, file in _FILES.items()}
        if access.needs_token:  # so that the page asks for it first
            self._files["/"] = self._files["/"].replace("<body>", "<body data-token>")

    @property
    def answers(self) -> dict[str, Answer]:
        """The answers to GET, by path."""
        return {
            **{path: partial(self._file, path) for path in _FILES},
            "/recent": self._last,
            "/recent/{number}/explanation": self._explanation,
            "/recent/{number}/audio": self._audio,
        }

    async def _file(self, path: str, request: Request) -> Response:
        """The page, its script or its style."""
        kind = _TYPES[_FILES[path].rpartition(".")[2]]
        return Response(self._files[path], 200, HEADERS, kind)

    async def _last(self, request: Request) -> Response:
        """The detector and the last predictions."""
        self._access.require_page(request)
        since = request.query_params.get("since", "0")
        if not (since.isascii() and since.isdecimal() and len(since) <= 15):
            raise Refused(400, "since: give the number of a prediction, or 0")
        found = self._recent.since(int(since))
        return JSONResponse({**found, "detector": self._about}, headers=HEADERS)

    async def _explanation(self, request: Request) -> Response:
        """Why a prediction is an alarm."""
        found = await self._explained(request)
        return Response(found.document, 200, HEADERS, "application/json")

    async def _audio(self, request: Request) -> Response:
        """The worst window of an alarm."""
        found = await self._explained(request)
        return Response(found.mp3, 200, HEADERS, "audio/mpeg")

    async def _explained(self, request: Request) -> Explained:
        """The explanation of an alarm, which is made when it is first asked for."""
        self._access.require_page(request)
        alarm = self._recent.alarm(_number(request))
        if alarm is None:
            raise Refused(404, "no alarm whose sound is kept")
        if alarm.explained is None:
            alarm.explained = asyncio.create_task(self._explain(alarm))
        try:
            found = await asyncio.wait_for(asyncio.shield(alarm.explained), _EXPLAIN_SECONDS)
        except TimeoutError:
            raise Refused(
                503, "the explanation is not ready: try again later", {"Retry-After": "1"}
            ) from None
        except AsdjaxError as error:
            alarm.explained = None  # it may be tried again
            if self._recent.alarm(_number(request)) is None:  # dropped meanwhile
                raise Refused(404, "no alarm whose sound is kept") from None
            raise Refused(500, f"the explanation failed: {error}") from error
        if self._recent.alarm(_number(request)) is not alarm:
            # dropped meanwhile: it may be of another recording, whose file has the path of this one
            raise Refused(404, "no alarm whose sound is kept")
        return found

    async def _explain(self, alarm: Alarm) -> Explained:
        found = await self._batches.between(
            explained, self._detector, alarm.upload.path, alarm.prediction.file
        )
        self._recent.replace(alarm, found.size)
        return found


def _number(request: Request) -> int:
    """The number of a prediction in an address; -1 if it is none."""
    text = request.path_params["number"]
    return int(text) if text.isdecimal() and len(text) < 16 else -1

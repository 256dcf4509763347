"""The HTTP interface: POST /predict, GET /health, GET /metrics.

The page at / and what it asks for are in `asdjax.server.page`.

    POST /predict?name=today.wav   body: a sound file; answer: its prediction (asdjax.prediction/1)
    GET /health                    200 while recordings can be scored
    GET /metrics                   counters for Prometheus

An error is a JSON document {"error": "..."}. 400: no body or a bad name; 401: no token, or a wrong
one; 403: asked by a page of another site; 408: the body came too slowly; 413: too many bytes or
seconds of sound; 415: not a sound file; 422: a damaged or silent one; 503: too many requests; 507:
the disk is full.
"""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator
from pathlib import Path

import prometheus_client
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from asdjax._version import __version__
from asdjax.data import audio, sound_search
from asdjax.data.dcase import FaultyFile
from asdjax.detector.detector import Detector
from asdjax.detector.prediction import SCHEMA
from asdjax.server.access import Access, Refused
from asdjax.server.batches import Batches, NotScored, QueueFull
from asdjax.server.explained import without_folders
from asdjax.server.page import Answer, Page
from asdjax.server.recent import Recent
from asdjax.server.uploads import Upload

_LONGEST_NAME = 1000  # characters
_PARALLEL_BODIES = 64  # that are received at the same time


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a request may cost."""

    most_bytes: int = 64 * 2**20
    """Of a body."""
    most_seconds: float = 600.0
    """Of sound in a body."""
    most_waiting: int = 64
    """Recordings that wait to be scored."""
    body_seconds: float = 30.0
    """Time in which a body must have come."""


class _Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        registry = self.registry
        self.requests = prometheus_client.Counter(
            "asdjax_requests", "Requests by path and status", ["path", "status"], registry=registry
        )
        self.seconds = prometheus_client.Histogram(
            "asdjax_predict_seconds", "Time of a scored request", registry=registry
        )
        self.alarms = prometheus_client.Counter("asdjax_alarms", "Alarms", registry=registry)
        self.batches = prometheus_client.Histogram(
            "asdjax_batch_size", "Recordings scored together",
            buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry,
        )  # fmt: skip
        self.waiting = prometheus_client.Gauge(
            "asdjax_waiting", "Recordings that wait to be scored", registry=registry
        )


class Server:
    """The requests to one detector."""

    def __init__(self, name: str, detector: Detector, limits: Limits, access: Access):
        """Serve a detector.

        Args:
            name: of the detector.
            detector: a fitted detector.
            limits: of each request.
            access: what requests need.
        """
        self._limits, self._access = limits, access
        self._metrics = _Metrics()
        self._batches = Batches(detector, limits.most_waiting, self._metrics.batches.observe)
        self._recent = Recent()
        self._page = Page(name, detector, access, self._batches, self._recent)
        self._metrics.waiting.set_function(lambda: self._batches.waiting)
        self._worker: asyncio.Task[None] | None = None
        self._receiving = 0

    def app(self) -> Starlette:
        """The application."""
        return Starlette(
            routes=[
                self._route("/predict", self._predict, "POST"),
                self._route("/health", self._health),
                self._route("/metrics", self._show_metrics),
                *(self._route(path, answer) for path, answer in self._page.answers.items()),
            ],
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self._worker = asyncio.create_task(self._batches.run())
        try:
            yield
        finally:
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker

    def _route(self, path: str, answer: Answer, method: str = "GET") -> Route:
        """A route whose `Refused` are turned into responses; answers are counted."""

        async def respond(request: Request) -> Response:
            status = 500
            try:
                response = await answer(request)
                status = response.status_code
                return response
            except Refused as refused:
                status = refused.status
                return JSONResponse({"error": refused.reason}, status, refused.headers)
            except ClientDisconnect:
                status = 499  # as other servers log it; nobody reads the answer
                return Response(status_code=400)
            finally:
                self._metrics.requests.labels(path, status).inc()

        return Route(path, respond, methods=[method])

    async def _predict(self, request: Request) -> Response:
        self._access.require(request)
        start = time.monotonic()
        name = request.query_params.get("name", "request")
        if len(name) > _LONGEST_NAME:
            raise Refused(400, f"name: longer than {_LONGEST_NAME} characters")
        name = sound_search.as_text(name)
        upload, kept = await self._receive(request), False
        try:
            await run_in_threadpool(self._require_sound, upload.path, name)
            try:
                found = await self._batches.score(upload.path)
            except QueueFull:
                raise self._busy("recordings wait") from None
            except NotScored:
                raise Refused(500, "a defect of the server: its log has the cause") from None
            if found.error is not None:
                raise Refused(422, found.error.replace(str(upload.path), name))
            answer = without_folders(found, name)
            kept = self._recent.add(answer, upload)
        finally:
            if not kept:
                upload.close()
        self._metrics.seconds.observe(time.monotonic() - start)
        self._metrics.alarms.inc(bool(found.alarm))
        return JSONResponse({"schema": SCHEMA, **dataclasses.asdict(answer)})

    async def _receive(self, request: Request) -> Upload:
        """The body."""
        stated = request.headers.get("content-length", "0")
        if stated.isdecimal() and int(stated[:20]) > self._limits.most_bytes:
            raise self._too_large()
        if self._receiving >= _PARALLEL_BODIES:
            raise self._busy("requests are being received")
        self._receiving += 1
        try:
            with contextlib.ExitStack() as opened:
                upload = Upload()
                opened.callback(upload.close)
                async with asyncio.timeout(self._limits.body_seconds):
                    await self._write(request, upload)
                opened.pop_all()
                return upload
        except TimeoutError:
            raise Refused(
                408, f"the body did not come within {self._limits.body_seconds:g} s"
            ) from None
        except OSError as error:
            raise Refused(507, f"the body cannot be stored ({error.strerror})") from error
        finally:
            self._receiving -= 1

    async def _write(self, request: Request, upload: Upload) -> None:
        async for part in request.stream():
            if upload.size + len(part) > self._limits.most_bytes:
                raise self._too_large()
            upload.write(part)
        if not upload.size:
            raise Refused(400, "no body: send a sound file, as with curl --data-binary @today.wav")

    def _too_large(self) -> Refused:
        return Refused(
            413, f"more than {self._limits.most_bytes:,} bytes: send a shorter recording"
        )

    def _busy(self, what: str) -> Refused:
        return Refused(503, f"too many {what}: try again later", {"Retry-After": "1"})

    def _require_sound(self, path: Path, name: str) -> None:
        """Refuse a file whose header is not that of sound, or of too much."""
        try:
            header = audio.inspect_any(path)
        except FaultyFile as error:
            status = 422 if audio.has_known_format(path) else 415
            raise Refused(status, str(error).replace(str(path), name)) from error
        seconds, most = header.seconds, self._limits.most_seconds
        if seconds > most or header.frames * header.channels > 8 * most * 48_000:
            raise Refused(
                413, f"{seconds:.0f} s of {header.channels} channels at {header.rate} Hz: "
                f"send at most {most:g} s"
            )  # fmt: skip

    async def _health(self, request: Request) -> Response:
        if self._worker is None or self._worker.done():
            raise Refused(503, "recordings are not scored any more: start the server again")
        return JSONResponse({"status": "ok", "asdjax": __version__})

    async def _show_metrics(self, request: Request) -> Response:
        self._access.require(request)
        return Response(
            prometheus_client.generate_latest(self._metrics.registry),
            media_type=prometheus_client.CONTENT_TYPE_LATEST,
        )

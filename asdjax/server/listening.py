"""Running the server until a signal comes."""

import asyncio
import socket
import threading

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from asdjax.errors import ArtifactError
from asdjax.runtime import console, interruption

_IDLE_SECONDS = 30.0
_GRACE = 8  # seconds for requests in progress after a signal
_MOST_CONNECTIONS = 512


class _Impatient(H11Protocol):
    """Closes connections that keep others out, for which uvicorn has no setting.

    These are connections on which no complete request header comes for some seconds, and, if there
    are too many, the one that has been idle for longest. `limit_concurrency` counts idle ones, too,
    and then refuses all others.
    """

    _deadline: asyncio.TimerHandle | None = None
    _active = 0.0  # when data last came, or an answer was complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._follow()
        open_ones = [one for one in self.connections if isinstance(one, _Impatient)]
        if len(open_ones) > _MOST_CONNECTIONS:
            min(open_ones, key=_Impatient.rank).transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._follow()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._follow()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def rank(self) -> tuple[bool, float]:
        """Idle connections come first, then those on which nothing has happened for longest."""
        return self._is_busy(), self._active

    def _is_busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def _follow(self) -> None:
        self._active = self.loop.time()
        if self._is_busy():
            self._forget()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(_IDLE_SECONDS, self.transport.close)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        AsdjaxError: the address is in use, or is none of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_MOST_CONNECTIONS)
    except (OSError, UnicodeError) as error:  # UnicodeError: not a valid host name
        why = error.strerror if isinstance(error, OSError) else "no valid host name"
        raise ArtifactError(
            f"{host}:{port}: cannot listen ({why}): choose another --port or --host"
        ) from error


def is_local(host: str) -> bool:
    """Whether a host name or address is of this machine alone (loopback)."""
    import ipaddress

    try:
        found = socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return False
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    return bool(addresses) and all(address.is_loopback for address in addresses)


def run(app: Starlette, listening: socket.socket) -> None:
    """Answer requests until a signal comes; those in progress are then finished."""
    config = uvicorn.Config(
        app,
        http=_Impatient,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        log_level="error",  # defects; malformed requests are answered, not logged
        server_header=False,
        timeout_keep_alive=int(_IDLE_SECONDS),
        timeout_graceful_shutdown=_GRACE,
    )
    server, ended = uvicorn.Server(config), threading.Event()

    def answer() -> None:
        try:
            server.run([listening])
        finally:
            ended.set()

    threading.Thread(target=answer, name="server", daemon=True).start()
    try:
        while not ended.wait(timeout=0.5):  # an interrupted join would take the thread for ended
            pass
    finally:
        _stop(server, ended)
    console.say("the server has stopped")


@interruption.uninterrupted
def _stop(server: uvicorn.Server, ended: threading.Event) -> None:
    server.should_exit = True
    ended.wait(timeout=_GRACE + 1)

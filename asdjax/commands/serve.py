"""Serving: a detector behind HTTP."""

import importlib.util
import os
from pathlib import Path

import numpy as np

from asdjax.detector.detector import Detector
from asdjax.errors import ArtifactError, UsageError
from asdjax.files import user_files
from asdjax.runtime import console

TOKEN = "ASDJAX_TOKEN"
"""Environment variable with the token."""
_SHORTEST_TOKEN = 16
_NEEDED = ("starlette", "uvicorn", "prometheus_client")


def require_libraries() -> None:
    """Raise `AsdjaxError` if a library of the server is not installed."""
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        raise ArtifactError("asdjax serve needs more libraries: pip install 'asdjax[serve]'")


def find_token(file: Path | None) -> str | None:
    """The token in a file, or in the environment; None if there is neither.

    Raises:
        AsdjaxError: it cannot be read, is short, or has other characters than visible ASCII.
    """
    if file is not None:
        token, where = user_files.read_text(file, most=2**16).strip(), str(file)
    elif TOKEN in os.environ:
        token, where = os.environ[TOKEN], TOKEN
    else:
        return None
    if len(token) < _SHORTEST_TOKEN or not (token.isascii() and token.isprintable()):
        raise ArtifactError(
            f"{where}: a token has {_SHORTEST_TOKEN} or more letters, digits and signs: make one "
            "with python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token


def serve(
    detector: Detector,
    *,
    name: str,
    host: str,
    port: int,
    token: str | None,
    most_bytes: int,
    most_seconds: float,
    most_waiting: int,
) -> None:
    """Answer requests until a signal comes.

    Args:
        detector: a fitted detector.
        name: that the page shows.
        host: address to listen on.
        port: 0: any free one.
        token: that requests must have; None: none.
        most_bytes: of a body.
        most_seconds: of sound in a body.
        most_waiting: recordings that wait.

    Raises:
        AsdjaxError: others than this machine can connect and there is no token; or the address is
            in use.
    """
    from asdjax.server import access, app, listening

    if token is None and not listening.is_local(host):
        raise UsageError(
            f"--host {host}: others can connect: set a token with --token-file or the environment "
            f"variable {TOKEN}"
        )
    limits = app.Limits(most_bytes, most_seconds, most_waiting)
    socket = listening.bind(host, port)
    noise = 0.1 * np.random.default_rng(0).standard_normal(8000)
    detector.explain([noise])  # compiles
    shown, number = socket.getsockname()[:2]
    server = app.Server(name, detector, limits, access.Access(token, host))
    address = f"[{shown}]" if ":" in shown else shown
    console.say(
        f"listening on http://{address}:{number} (page: /, POST /predict, /health, /metrics)"
    )
    listening.run(server.app(), socket)

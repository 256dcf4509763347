"""Who may ask: those with the token; where there is none, no pages of other sites."""

import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.requests import Request


class Refused(Exception):
    """A request that is answered by an error."""

    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None):
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers


class Access:
    """What a request needs.

    Browsers send requests of any page to this machine, too. A page of another site has another
    `Origin`, or a `Host` that is a name of that site (DNS rebinding). It has no token, so that with
    a token neither is looked at.
    """

    def __init__(self, token: str | None, host: str):
        """State what is needed.

        Args:
            token: that requests must have; None: none.
            host: the name or address that the server was told to listen on.
        """
        self._token, self._host = token, host.lower()

    @property
    def needs_token(self) -> bool:
        """Whether requests must have a token."""
        return self._token is not None

    def require(self, request: Request) -> None:
        """Refuse a request without the token, or of a page of another site."""
        if self._token is not None:
            self._require_token(request, self._token)
        elif "origin" in request.headers:
            self._require_own(request)

    def require_page(self, request: Request) -> None:
        """The same for what the page alone asks for: then `Host` is of this server, too."""
        self.require(request)
        if self._token is None:
            self._require_own(request)

    def _require_token(self, request: Request, token: str) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.encode(), token.encode())
        if not (right and scheme.lower() == "bearer"):
            raise Refused(
                401,
                "send the token: Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )

    def _require_own(self, request: Request) -> None:
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        try:
            name = urlsplit(f"//{host}").hostname or ""
            same = origin is None or urlsplit(origin).netloc == host
        except ValueError:  # no address
            name, same = "", False
        if not (same and self._is_own(name)):
            raise Refused(
                403, "a page of another site: open the server's own address, or set a token"
            )

    def _is_own(self, name: str) -> bool:
        """Whether a host name cannot be one of another site; addresses are not looked up."""
        if name == self._host or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

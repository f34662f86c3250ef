"""A port of its own for who watches the server: `/metrics`, `/health` and `/ready`, without a key.

It is for the network that monitoring is in, and takes no other question. It has the names that the other port has: no
browser reads it for a page of another site.
"""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import FeatureStoreError, RequestError, cut
from ..protocol import encode_error, error_headers
from .sites import Sites, headers_of

PATHS = ("/health", "/metrics", "/ready")
WATCHING = "features.watching"  # in the ASGI scope: the request came by this port


class NotHere(RequestError):
    """What is asked is not answered on this port."""

    status = 404


class Watching:
    """Hands on to the pages what is for this port; `refused` counts what is not."""

    def __init__(self, port: int, sites: Sites, pages: ASGIApp, refused: Callable[[Scope, int], None]) -> None:
        self.port, self._sites, self._pages, self._refused = port, sites, pages, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._sites.check(scope["method"], headers_of(scope["headers"]), http_version=scope["http_version"])
            if scope["method"] != "GET" or scope["path"] not in PATHS:
                raise NotHere(
                    "this port is for watching the server alone", where=cut(scope["path"]), expected=", ".join(PATHS),
                    remedy="ask on the port of `features serve --port`, with a key",
                )  # fmt: skip
        except FeatureStoreError as error:
            self._refused(scope, error.status)
            body = encode_error(error)
            headers = {"content-type": "application/json", "content-length": str(len(body))} | error_headers(error)
            told = [(name.encode(), value.encode()) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": error.status, "headers": told})
            await send({"type": "http.response.body", "body": body})
            return
        await self._pages({**scope, WATCHING: True}, receive, send)

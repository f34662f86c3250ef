"""Airflow and the docs site of `make up` answer nobody that the feature server would not.

As a program it serves a folder: `python -m scripts.local_only FOLDER PORT`.
"""

from __future__ import annotations

import socket
import sys

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from feature_server.app.sites import ForeignPage, UnknownHost, create_sites

HOST = "127.0.0.1"


class LocalOnly:
    """An ASGI application that hands on to another what `feature_server.app.sites` lets pass."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._sites = create_sites(HOST, HOST, ())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._app
        if scope["type"] == "http":
            try:
                self._sites.check(scope["method"], dict(scope["headers"]))
            except (ForeignPage, UnknownHost) as error:
                answer = PlainTextResponse(str(error), error.status)
        await answer(scope, receive, send)


if __name__ == "__main__":
    folder, port = sys.argv[1:]
    served = LocalOnly(StaticFiles(directory=folder, html=True))
    with socket.create_server((HOST, int(port))) as listener:
        print(f"serves {folder} at http://{HOST}:{port}", flush=True)
        uvicorn.Server(uvicorn.Config(served, log_level="warning", lifespan="off")).run([listener])

"""One worker process: the feature server on a listening socket that the supervisor holds.

Run as `python -m feature_server.app.worker`, by the supervisor alone: it reads a WorkerConfig as one line of JSON from
standard input, and ends when that closes, so that no worker outlives its supervisor.
"""

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import uvicorn

from ..online.registry import OnlineRegistry
from .connections import connections, counted_as
from .features import FeatureServer
from .pages import create_pages
from .supervisor import DRAIN_SECONDS, GRACE_SECONDS, WorkerConfig
from .watching import Watching

SPARE_FILES = 64  # for Redis, counts, what is loaded later, and connections that are ending
SWEEP_TICKS = 600  # of a tenth of a second
LAST_REQUEST_SECONDS = 0.2  # how long a connection without a request is then still waited for
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {0x2028: "\\u2028", 0x2029: "\\u2029"}
THREAD_SECONDS = 0.0005  # after which the thread that takes in pushes lets reads go on; Python's own is ten times that


class Worker(uvicorn.Server):
    """uvicorn's server, with an end that loses no request.

    For DRAIN_SECONDS after the signal connections are still accepted, and each answer says that it is its connection's
    last, so that a request which was on its way arrives at an open connection.
    """

    def __init__(self, server: FeatureServer, config: WorkerConfig) -> None:
        count_refused = partial(server.reader.counts.count_request, "other")
        super().__init__(
            uvicorn.Config(
                server,
                loop="uvloop",
                http=connections(config.served.settings.http, _most_connections(), count_refused),
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=bool(config.served.settings.trusted_proxies),
                forwarded_allow_ips=list(config.served.settings.trusted_proxies),
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        self._server = server
        self._worker = config

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(sys.stdin.fileno(), self._supervisor_spoke)
        folder = Path(self._worker.counts_folder)
        self._server.counts.share(folder, f"{self._worker.slot}.counts")
        self._server.door.share(folder)
        self._server.audit.begin(Path(self._worker.counts_folder))
        self._memory = self._server.watch_memory()
        await self._server.prepare()
        await super().startup(sockets)
        gc.collect()
        gc.freeze()  # a full collection would otherwise walk all that was imported, and stop requests meanwhile
        gc.set_threshold(5_000, 20, 50)
        with suppress(BrokenPipeError):  # a worker that replaces another is not waited for
            os.write(self._worker.ready_fd, b"1")
        os.close(self._worker.ready_fd)

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:
            self._server.counts.write()
            self._looking = asyncio.create_task(self._server.door.look())
        if counter % SWEEP_TICKS == 0:
            self._sweeping = asyncio.create_task(self._server.training.sweep())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._accept_the_last()
        await asyncio.sleep(LAST_REQUEST_SECONDS)
        await super().shutdown(sockets)
        self._memory.close()
        self._server.redis.close()
        self._server.pushes.close()
        await asyncio.get_running_loop().run_in_executor(None, self._server.audit.close)
        self._server.counts.write()

    async def _accept_the_last(self) -> None:
        """Stop listening, but first take the connections that the kernel has accepted already."""
        loop = asyncio.get_running_loop()
        listeners = [socket.socket(fileno=os.dup(number)) for number in self._worker.socket_fds]
        for server in self.servers:
            server.close()
        for listener in listeners:
            listener.setblocking(False)
            with listener, suppress(BlockingIOError):
                while True:
                    connection, _ = listener.accept()
                    await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._drain()

    def _supervisor_spoke(self) -> None:
        if not os.read(sys.stdin.fileno(), 1):
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            self._drain()

    def _drain(self) -> None:
        if not self._server.draining:
            self._server.draining = True
            asyncio.get_running_loop().call_later(DRAIN_SECONDS, self._stop)

    def _stop(self) -> None:
        self.should_exit = True


class LogLines(logging.Formatter):
    """What clients send may be in a message, or in what failed: it begins no line, and controls no terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return super().formatMessage(record).translate(_CONTROLS)

    def formatException(self, failed: Any) -> str:
        lines = super().formatException(failed).split("\n")
        return "\n".join(line.translate(_CONTROLS) for line in lines)


def _most_connections() -> int:
    """Each takes a file."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if files == resource.RLIM_INFINITY else max(files - SPARE_FILES, files // 2)


def main() -> None:
    log = logging.StreamHandler()
    log.setFormatter(LogLines("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[log])
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    told = sys.stdin.buffer.raw.readline()  # type: ignore[union-attr]
    config = msgspec.json.decode(told, type=WorkerConfig, dec_hook=lambda path, text: path(text))
    sockets = [socket.socket(fileno=number) for number in config.socket_fds]
    sys.setswitchinterval(THREAD_SECONDS)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a file a connection: the soft limit is for select()
    server = FeatureServer(config.served)
    server.other = create_pages(server)
    if config.served.watched is not None:
        counts, port = server.reader.counts, sockets[1].getsockname()[1]
        server.watching = Watching(
            port, config.served.watched, server.other,
            lambda scope, status: counts.count_request("other", counted_as(scope, status)),
        )  # fmt: skip
    tell = server.reader.on_load

    def loaded(online: OnlineRegistry) -> None:
        tell(online)
        gc.freeze()  # it stays: no collection walks it

    server.reader.on_load = loaded
    Worker(server, config).run(sockets=sockets)
    gc.unfreeze()  # DuckDB tells at length of what is not collected at the end


if __name__ == "__main__":
    main()

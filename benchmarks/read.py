"""Reads: the feature server's CPU a request, and the client's, for one entity and for a hundred, ten features each.

The server has one worker; requests are JSON, over as many connections as said, each with one request at a time. Its
limit is the least that a Python server can do: a bare ASGI function that fetches the rows and writes their numbers row
by row, with no statuses, timestamps, nulls, checks or change of definitions. The client's limit is MGET over a socket
and `struct`. Feast reads the same values from a Redis of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .measure import Numbers, in_child, process_cpu_s, process_peak_mb, stopwatch

ENTITIES = {"tiny": 2_000, "default": 100_000, "full": 100_000}
SECONDS = {"tiny": 0.5, "default": 3.0, "full": 8.0}
TARGETS_US = {1: 60, 100: 170}  # server CPU a request
CONNECTIONS = (16, 1)
READ = "/get-online-features"


def requests(features: list[str], entities: int, known: int, count: int = 500) -> list[dict[str, Any]]:
    draw = random.Random(entities)
    return [
        {"features": features, "entities": {"entity_id": [draw.randrange(known) for _ in range(entities)]}}
        for _ in range(count)
    ]


class _Caller(asyncio.Protocol):
    """One connection: sends a request, waits for the whole answer, sends the next."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._begun = 0.0
        self._missing = 0
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._begun = time.perf_counter()
        self._missing = 0
        self._transport.write(next(self._load.messages))

    def data_received(self, data: bytes) -> None:
        if self._missing == 0:
            head, _, body = data.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise AssertionError(data[:500])
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            self._missing = int(length.partition(b":")[2]) - len(body)
        else:
            self._missing -= len(data)
        if self._missing == 0:
            now = time.perf_counter()
            self._load.walls.append(now - self._begun)
            if now < self._load.until:
                self._send()
            else:
                self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._load.ended(error)


class _Load:
    """`connections` callers for `seconds`; `walls` holds how long each request took."""

    def __init__(self, bodies: list[bytes], connections: int, seconds: float, key: str | None = None) -> None:
        self.walls: list[float] = []
        self.until = time.perf_counter() + seconds
        self.messages = self._endless(bodies, key)
        self._open = connections
        self._done = asyncio.get_running_loop().create_future()

    @staticmethod
    def _endless(bodies: list[bytes], key: str | None) -> Iterator[bytes]:
        shown = "" if key is None else f"authorization: Bearer {key}\r\n"
        head = f"POST {READ} HTTP/1.1\r\nhost: localhost\r\n{shown}content-type: application/json\r\ncontent-length: "
        messages = [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]
        while True:
            yield from messages

    def ended(self, error: Exception | None) -> None:
        self._open -= 1
        if error is not None and not self._done.done():
            self._done.set_exception(error)
        if self._open == 0 and not self._done.done():
            self._done.set_result(None)

    async def run(self, port: int, connections: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            await loop.create_connection(lambda: _Caller(self), "127.0.0.1", port)
        await asyncio.wait_for(self._done, 60)


def load(
    pid: int,
    port: int,
    features: list[str],
    entities: int,
    known: int,
    connections: int,
    seconds: float,
    key: str | None = None,
) -> Numbers:
    """CPU of the server `pid` and its workers a request, the memory they held, and how long requests took."""
    import psutil
    import uvloop

    bodies = [json.dumps(request).encode() for request in requests(features, entities, known)]

    async def run(length: float) -> list[float]:
        work = _Load(bodies, connections, length, key)
        await work.run(port, connections)
        return work.walls

    uvloop.run(run(min(1.0, seconds)))
    cpu, begun = process_cpu_s(pid), time.perf_counter()
    walls = sorted(uvloop.run(run(seconds)))
    server = psutil.Process(pid)
    return {
        "cpu_us": (process_cpu_s(pid) - cpu) / len(walls) * 1e6,
        "p50_ms": walls[len(walls) // 2] * 1e3,
        "p99_ms": walls[int(len(walls) * 0.99)] * 1e3,
        "requests_per_s": len(walls) / (time.perf_counter() - begun),
        "peak_mb": sum(process_peak_mb(each.pid) for each in (server, *server.children(recursive=True))),
    }


async def limit_app(scope: Any, receive: Any, send: Any) -> None:
    """The server's limit: `python -m uvicorn benchmarks.read:limit_app`; finds its rows by BENCH_* variables."""
    import msgspec
    import orjson

    from feature_server.online.readers import AsyncRedisReader

    state = limit_app.__dict__
    if not state:
        width = int(os.environ["BENCH_FEATURES"])
        state["redis"] = AsyncRedisReader(os.environ["BENCH_REDIS"])
        state["unpack"] = struct.Struct(f"<q{(width + 7) // 8}x{width}d").unpack
        state["key"] = os.environ["BENCH_CODE"].encode() + b"{%d}"
    request = msgspec.json.decode((await receive())["body"])
    key, unpack = state["key"], state["unpack"]
    rows = await state["redis"].mget([key % entity for entity in request["entities"]["entity_id"]])
    body = orjson.dumps({"values": [unpack(row) for row in rows]})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def limit_server(url: str, code: str, features: int, log: Path) -> Iterator[tuple[int, int]]:
    from .servers import _answers as answers
    from .servers import _wait as wait
    from .servers import free_port, process

    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "benchmarks.read:limit_app", "--port", str(port), "--no-access-log"]
    command += [
        "--loop",
        "uvloop",
        "--http",
        "httptools",
        "--ws",
        "none",
        "--lifespan",
        "off",
        "--log-level",
        "warning",
    ]
    environ = {"BENCH_REDIS": url, "BENCH_CODE": code, "BENCH_FEATURES": str(features)}
    with process(command, log=log, env=environ) as pid:
        wait(lambda: answers(port), pid, log)
        yield pid, port


def fill(url: str, home: str) -> Numbers:
    """Sync the view into an emptied store; the code that its row keys begin with."""
    import redis

    from feature_server.layout.keys import REGISTRY
    from feature_server.online.registry import decode_online_registry

    from .sync import run_sync

    with redis.Redis.from_url(url) as connection:
        connection.flushall()
        result = run_sync(url, home)
        online = decode_online_registry(connection.get(REGISTRY))
    (view,) = online.views.values()
    return {"rows": result.rows, "code": view.code}


def _timed(read: Any, wanted: list[Any]) -> Numbers:
    """A function called with each of `wanted`: its CPU and time a call, after a few calls to warm up."""
    for item in wanted[:50]:
        read(item)
    walls = []
    with stopwatch() as seen:
        for item in wanted:
            begun = time.perf_counter()
            read(item)
            walls.append(time.perf_counter() - begun)
    walls.sort()
    return {
        "cpu_us": seen["cpu_s"] / len(walls) * 1e6,
        "p50_ms": walls[len(walls) // 2] * 1e3,
        "p99_ms": walls[int(len(walls) * 0.99)] * 1e3,
        "peak_mb": seen["peak_mb"],
    }


def client(url: str, features: list[str], entities: int, known: int, calls: int) -> Numbers:
    """FeatureClient, sync: CPU of this process a call."""
    from feature_server import FeatureClient

    wanted = [request["entities"]["entity_id"] for request in requests(features, entities, known, calls)]
    with FeatureClient(url) as reader:
        found = reader.get_many(features=features, entity_id=wanted[0])
        assert "PRESENT" in found.statuses[features[0].partition(":")[2]]
        return _timed(lambda ids: reader.get_many(features=features, entity_id=ids), wanted)


def client_limit(url: str, code: str, features: list[str], entities: int, known: int, calls: int) -> Numbers:
    """MGET over a socket, and the numbers of each row."""
    import socket

    import hiredis

    key = code.encode() + b"{%d}"
    unpack = struct.Struct(f"<q{(len(features) + 7) // 8}x{len(features)}d").unpack
    wanted = [request["entities"]["entity_id"] for request in requests(features, entities, known, calls)]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(url.removeprefix("unix://"))
        parser = hiredis.Reader()

        def read(ids: list[int]) -> list[Any]:
            connection.sendall(hiredis.pack_command((b"MGET", *[key % i for i in ids])))
            while (rows := parser.gets()) is False:
                parser.feed(connection.recv(1 << 18))
            return [unpack(row) for row in rows]

        return _timed(read, wanted)


def loads(server: tuple[int, int], common: Numbers, seconds: float, runs: int) -> dict[tuple[int, int], Numbers]:
    """What each load on a server (process id, port) gives, by number of entities and of connections."""
    pid, port = server
    found = {}
    for entities in TARGETS_US:
        for connections in CONNECTIONS:
            request = {**common, "pid": pid, "port": port, "entities": entities, "connections": connections}
            found[entities, connections] = in_child("benchmarks.read:load", {**request, "seconds": seconds}, runs=runs)
    return found


def feast(python: Path, work: Path, size: Any, common: Numbers, seconds: float, runs: int) -> tuple[Numbers, Numbers]:
    """Feast's server by number of entities and connections, and Feast in process by number of entities."""
    from .feast_env import FEAST_ENV, feast_repository
    from .servers import feast_server, valkey

    theirs: Numbers = {"runs": 1, "timeout_s": 3600, "python": python, "env": FEAST_ENV}
    with valkey(work / "read-feast") as store:
        repository = feast_repository(python, work, ["s"], size, redis_port=store.port, ttl_days=365)
        span = {"repository": str(repository), "view": "s", "start": "2024-12-31", "end": "2025-02-02"}
        in_child("benchmarks.feast_calls:materialize", span, **theirs)
        calls = {}
        for entities in TARGETS_US:
            request = {**common, "repository": str(repository), "entities": entities, "calls": 2000 // entities + 100}
            calls[entities] = in_child("benchmarks.feast_calls:online", request, **theirs)
        with feast_server(python, repository) as server:
            return loads((server.pid, server.port), common, seconds, runs), calls


def main(arguments: Sequence[str] | None = None) -> int:
    from feature_server.online.embedded import EmbeddedValkey

    from .common import make_case, parser, write_results
    from .data import ViewSize, feature_names, published
    from .servers import our_server

    options = parser(__doc__ or "")
    options.add_argument("--entities", type=int, default=None, help="entities in the store")
    options.add_argument("--seconds", type=float, default=None, help="length of a load on a server")
    chosen = options.parse_args(arguments)
    work, runs = chosen.work.resolve(), chosen.runs or 3
    known = chosen.entities or ENTITIES[chosen.size]
    seconds = chosen.seconds or SECONDS[chosen.size]
    size = ViewSize(entities=known, history=1, doubles=True)
    features = [f"s:{name}" for name in feature_names("s", size)]
    folder, log = work / "read-valkey", work / "read.log"
    shutil.rmtree(folder, ignore_errors=True)
    home = str(published(work, ["s"], size, ttl_days=None).home)
    common: Numbers = {"features": features, "known": known}
    theirs: tuple[Numbers, Numbers] = ({}, {})
    if chosen.feast_python is not None:
        theirs = feast(chosen.feast_python, work, size, common, seconds, runs)
    cases = []
    with EmbeddedValkey(folder) as store:
        code = in_child("benchmarks.read:fill", {"url": store.url, "home": home}, runs=1)["code"]
        with our_server(store.url, log) as server:
            ours = loads(server, common, seconds, runs)
        with limit_server(store.url, code, len(features), log) as server:
            limits = loads(server, common, seconds, runs)
        for (entities, connections), numbers in ours.items():
            targets = {"cpu_us/feast": "<= 0.5"}
            if connections == CONNECTIONS[0]:
                targets["cpu_us"] = f"<= {TARGETS_US[entities]}"
            title = f"HTTP, {entities} × {len(features)}, {connections} connection{'s' if connections > 1 else ''}"
            key = entities, connections
            cases.append(make_case(title, ours=numbers, limit=limits[key], feast=theirs[0].get(key), targets=targets))
        for entities in TARGETS_US:
            request = {**common, "url": store.url, "entities": entities, "calls": 5_000 if entities == 1 else 1_000}
            best = in_child("benchmarks.read:client_limit", {**request, "code": code}, runs=runs)
            direct = in_child("benchmarks.read:client", request, runs=runs)
            targets = {"p50_ms": "<= 1", "cpu_us/feast": "<= 0.5"}
            title = f"client from Redis, {entities} × {len(features)}"
            cases.append(make_case(title, ours=direct, limit=best, feast=theirs[1].get(entities), targets=targets))
    shutil.rmtree(folder, ignore_errors=True)
    write_results(Path(chosen.out), "Read", cases)
    return 0


if __name__ == "__main__":
    sys.exit(main())

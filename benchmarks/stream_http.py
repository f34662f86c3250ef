"""Live events over HTTP: how many a second a server takes in, and how soon a read sees one while it does."""

from __future__ import annotations

import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .measure import Numbers, process_cpu_s, stopwatch
from .stream_events import BATCH, KEYS, SOURCE, VIEW, bodies, put_online

CONNECTIONS = 4
MARK_EVERY_S = 0.02


class Connection:
    """One connection to a server, kept open."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def post(self, path: str, body: bytes) -> Any:
        self._http.request("POST", path, body, {"content-type": "application/json"})
        answer = self._http.getresponse()
        text = answer.read()
        assert answer.status == 200, text[:500]
        return json.loads(text) if text else None


def push(port: int, pid: int, count: int, push_source: str = SOURCE) -> Numbers:
    """As fast as it goes, over four connections."""
    waiting, own = iter(bodies(count, push_source)), threading.Lock()

    def send(connection: Connection) -> None:
        while True:
            with own:
                body = next(waiting, None)
            if body is None:
                return
            connection.post("/push", body)

    connections = [Connection(port) for _ in range(CONNECTIONS)]
    connections[0].post("/push", next(waiting))  # not counted: the definitions are loaded
    server_cpu = process_cpu_s(pid)
    with stopwatch() as watch, ThreadPoolExecutor(CONNECTIONS) as threads:
        list(threads.map(send, connections))
    pushed = count - BATCH
    return {
        "wall_s": watch["wall_s"],
        "server_cpu_s": process_cpu_s(pid) - server_cpu,
        "events_per_s": pushed / watch["wall_s"],
    }


def ours(count: int, folder: str, redis_folder: str) -> Numbers:
    """Our server, one worker, a Valkey of its own."""
    from .servers import our_server
    from .sync import server

    with server(redis_folder) as (url, _):
        put_online(url)
        with our_server(url, Path(folder) / "stream-serve.log") as (pid, port):
            return push(port, pid, count)


class _Load:
    """Batches pushed at a steady rate, whether or not the answers keep up."""

    def __init__(self, port: int, rate: int, seconds: float) -> None:
        self._bodies = bodies(int(rate * seconds) // BATCH * BATCH)
        self._port, self._gap_s = port, BATCH / rate
        self._own, self._next = threading.Lock(), 0
        self._begun = 0.0
        self._threads = [threading.Thread(target=self._send) for _ in range(CONNECTIONS)]
        self.events_per_s = 0.0

    def start(self) -> None:
        self._begun = time.perf_counter()
        for thread in self._threads:
            thread.start()

    def running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _send(self) -> None:
        connection = Connection(self._port)
        while True:
            with self._own:
                number, self._next = self._next, self._next + 1
            if number >= len(self._bodies):
                return
            time.sleep(max(0.0, self._begun + number * self._gap_s - time.perf_counter()))
            connection.post("/push", self._bodies[number])
            self.events_per_s = (
                (number + 1) * BATCH / max(time.perf_counter() - self._begun, (number + 1) * self._gap_s)
            )


def seen(folder: str, redis_folder: str, rate: int, seconds: float) -> Numbers:
    """From before one event is pushed until a read has seen it, while others are pushed at `rate` a second."""
    from .servers import our_server
    from .sync import server

    whole, pushes, reads, unseen = [], [], [], 0
    with server(redis_folder) as (url, _):
        put_online(url)
        with our_server(url, Path(folder) / "stream-serve.log") as (_, port):
            load, client = _Load(port, rate, seconds), Connection(port)
            client.post("/push", mark(0))
            load.start()
            number = 0
            while load.running():
                time.sleep(MARK_EVERY_S)
                number += 1
                body, question = mark(number), wanted(number)
                begun = time.perf_counter()
                client.post("/push", body)
                pushed = time.perf_counter()
                while client.post("/get-online-features", question)["results"][1]["values"] != [1]:
                    unseen += 1
                found = time.perf_counter()
                whole.append((found - begun) * 1e3)
                pushes.append((pushed - begun) * 1e3)
                reads.append((found - pushed) * 1e3)
    whole.sort()
    return {
        "load_events_per_s": load.events_per_s,
        "p50_ms": whole[len(whole) // 2],
        "p99_ms": whole[int(len(whole) * 0.99)],
        "push_p50_ms": sorted(pushes)[len(pushes) // 2],
        "read_p50_ms": sorted(reads)[len(reads) // 2],
        "reads_that_missed_it": unseen,
        "marks": len(whole),
    }


def mark(number: int) -> bytes:
    """A payment of a customer that has no other."""
    now = datetime.now(UTC).isoformat()
    columns = {
        "transaction_id": [10**12 + number], "customer_id": [KEYS + number], "merchant_id": [1], "amount_eur": [1.0],
        "occurred_at": [now], "ingested_at": [now],
    }  # fmt: skip
    return json.dumps({"push_source_name": SOURCE, "df": columns}).encode()


def wanted(number: int) -> bytes:
    request = {"features": [f"{VIEW}:payments_1h"], "entities": {"customer_id": [KEYS + number]}}
    return json.dumps(request).encode()

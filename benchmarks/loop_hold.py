"""How long one request keeps all others waiting: the longest time between two turns of a server's event loop.

A worker of the feature server is run with a timer that looks every millisecond. `held_ms` is the longest time between
two looks in which the process computed all the while: on the loop itself, or in a thread that does not let go of
Python's lock. `loop_ms` is the loop's own part of that, `cpu_ms` what the request cost in all. Of several requests the
least counts, for what holds is seen in each; `first_ms` is `held_ms` of the first, for which what it needs is loaded.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from .measure import ROOT, Numbers, in_child
from .stream_events import READ, SOURCE

VIEWS, FEATURES, ENTITIES = 300, 10, 2_000
MANY, WIDE = 1_000, 500  # features of one view, columns of one event source
MAX_BODY = 8 << 20
TARGETS = {"held_ms": "<= 10"}
ROUNDS = {"tiny": 1, "default": 5, "full": 15}
READ_PATH, PUSH_PATH, HELD_PATH = "/get-online-features", "/push", "/held"
WIDE_SOURCE = "payments.wide"
Ask = tuple[str, str, bytes, dict[str, str]]  # method, path, body, headers
JSON = {"content-type": "application/json"}
HTML = {"accept": "text/html"}


# What is asked


def reads() -> Iterator[tuple[str, Callable[[int], Ask]]]:
    """Each read, given a number that makes another plan of it."""
    narrow = [f"customer__v0:f{i}" for i in range(FEATURES)]
    all_views = [f"customer__v{n}:f{i}" for n in range(VIEWS) for i in range(FEATURES)]
    amounts = [f"customer__amounts:f{i}" for i in range(FEATURES)]
    many = [f"customer__many:f{i}" for i in range(MANY)]
    yield "read 1 × 10", lambda n: read(turned(narrow, n), range(1))
    yield "read 100 × 10", lambda n: read(turned(narrow, n), range(100))
    yield "read 100,000 × 10", lambda n: read(turned(narrow, n), [i % ENTITIES for i in range(100_000)])
    yield "read 90,000 × 10 decimals", lambda n: read(amounts, [i % ENTITIES for i in range(90_000)])
    yield "read 1 × 10 of 300 views each", lambda n: read(turned(all_views, n), range(1), full=True)
    yield "read 300 × 10 of 300 views each", lambda n: read(turned(all_views, n), range(300), full=True)
    yield "read 1 × 1,000", lambda n: read(turned(many, n), range(1))
    yield "read 1,000 × 1,000", lambda n: read(turned(many, n), range(1_000))
    yield "read one text key of 256 KiB", lambda n: read(["shop__names:f0"], ["x" * (255 << 10)], key="shop")
    yield "read 30 text keys of 256 KiB", lambda n: read(["shop__names:f0"], ["x" * (255 << 10)] * 30, key="shop")
    yield "read one text key of 7 MB, escaped", lambda n: read(["shop__names:f0"], ["é" * (7 << 17)], key="shop")
    yield "read 7 MB of names of features", lambda n: read([f"customer__v0:f{i}" for i in range(99_000)], range(1))
    yield "read 9,900 lists of keys that no entity has", lambda n: unknown_keys(9_900)
    yield "read 8 MB of blanks", lambda n: ("POST", READ_PATH, b" " * MAX_BODY, JSON)
    yield "read a text of 8M characters, escaped", lambda n: read(["customer__long:escaped"], range(1))
    yield "read a text of 8 MB", lambda n: read(["customer__long:plain"], range(1, 2))
    yield "read a list of 1,000,000", lambda n: read(["customer__long:numbers"], range(2, 3))
    yield "read a list of 100,000", lambda n: read(["customer__long:numbers"], range(3, 4))
    yield "read 100 texts of 80 kB", lambda n: read([f"customer__texts:f{i}" for i in range(100)], range(1))
    yield "read 100 × 5 windows", lambda n: read(turned(READ, n), range(100))
    yield "read 20,000 × 5 windows", lambda n: read(turned(READ, n), [i % ENTITIES for i in range(20_000)])
    yield "read 10 × 5 windows over 20,000 events each", lambda n: read(turned(READ, n), range(10**6, 10**6 + 10))


def pushes() -> Iterator[tuple[str, Callable[[int], list[Ask]]]]:
    """Each push; several are sent at once."""
    yield "push 1", lambda n: [push(1, n)]
    yield "push 100", lambda n: [push(100, n)]
    yield "push 1,000", lambda n: [push(1_000, n)]
    yield "push 8 MB of events", lambda n: [push(64_000, n)]
    yield "push 8 MB of events of one key", lambda n: [push(64_000, n, keys=1)]
    yield "push 8 MB, each event refused", lambda n: [push(64_000, n, amount_eur="x")]
    yield "push 8 MB, each event ahead of the clock", lambda n: [push(64_000, n, occurred_at="2200-01-01T00:00:00Z")]
    yield "push 8 MB, one column of nulls too many", lambda n: [extra(1_600_000)]
    yield "push 7 MB in one text", lambda n: [wide(1, text="x" * (7 << 20))]
    yield "push 7 MB in one text, escaped", lambda n: [wide(1, text="é" * (7 << 17))]
    yield "push 7 MB of digits in one number", lambda n: [push(1, n, amount_eur=Digits(7 << 20))]
    yield "push 1,200 of 500 columns", lambda n: [wide(1_200)]
    yield "push 20 of 1 MB at once", lambda n: [push(7_000, 20 * n + i) for i in range(20)]
    yield "push 40,000 chunks of a byte", lambda n: [chunked(40_000)]
    yield "push 400,000 chunks of a byte", lambda n: [chunked(400_000)]
    yield "push 8 MB of blanks", lambda n: [("POST", PUSH_PATH, b" " * MAX_BODY, JSON)]
    yield "push 500 of 10 at once", lambda n: [push(10, 500 * n + i) for i in range(500)]


def pages() -> Iterator[tuple[str, Callable[[int], Ask]]]:
    for path in ("/health", "/ready", "/metrics", "/openapi.json", "/feature-views", "/entities", "/feature-services"):
        yield f"GET {path}", lambda n, path=path: ("GET", path, b"", {})
    for path in ("/", "/feature-views/customer__many", "/feature-services/all", "/entities/customer"):
        yield f"GET {path} as a page", lambda n, path=path: ("GET", path, b"", HTML)
    yield "GET /explain of no feature", lambda n: ("GET", f"/explain?feature=a:{'b' * 50_000}", b"", {})
    yield "GET /explain", lambda n: ("GET", f"/explain?feature={READ[0]}&customer_id=1", b"", {})


def turned(names: list[str], n: int) -> list[str]:
    return names[n:] + names[:n]


def read(features: Sequence[str], keys: Iterable[Any], *, key: str = "customer_id", full: bool = False) -> Ask:
    asked = {"features": list(features), "entities": {key: list(keys)}, "full_feature_names": full}
    return "POST", READ_PATH, json.dumps(asked).encode(), JSON


class Digits(int):
    """A number of so many digits, as JSON."""


def push(count: int, n: int, *, keys: int = ENTITIES, **more: Any) -> Ask:
    chosen, now = random.Random(n), datetime.now(UTC)
    columns = {
        "transaction_id": [n * 10**6 + i for i in range(count)],
        "customer_id": [chosen.randrange(keys) + 10**7 for _ in range(count)],
        "merchant_id": [chosen.randrange(200) for _ in range(count)],
        "amount_eur": [chosen.randrange(1, 99_999) / 100 for _ in range(count)],
        "occurred_at": [(now - timedelta(seconds=i)).isoformat() for i in range(60)] * (count // 60 + 1),
        "ingested_at": [now.isoformat()] * count,
    }
    columns["occurred_at"] = columns["occurred_at"][:count]
    digits = {name: value for name, value in more.items() if isinstance(value, Digits)}
    columns |= {name: ["digits"] if name in digits else [value] * count for name, value in more.items()}
    body = json.dumps({"push_source_name": SOURCE, "df": columns}).encode()
    for value in digits.values():
        body = body.replace(b'"digits"', b"9" * value)
    assert len(body) <= MAX_BODY, len(body)
    return "POST", PUSH_PATH, body, JSON


def wide(count: int, text: str = "") -> Ask:
    (_, _, body, _), filled = push(count, 1), {f"c{i}": [i] * count for i in range(WIDE)} | {"note": [text] * count}
    asked = json.loads(body)
    body = json.dumps({"push_source_name": WIDE_SOURCE, "df": asked["df"] | filled}).encode()
    assert len(body) <= MAX_BODY, len(body)
    return "POST", PUSH_PATH, body, JSON


def extra(count: int) -> Ask:
    body = b'{"push_source_name":"%b","df":{"nulls":[null%b]}}' % (SOURCE.encode(), b",null" * (count - 1))
    return "POST", PUSH_PATH, body, JSON


def unknown_keys(count: int) -> Ask:
    asked = {"features": ["customer__v0:f0"], "entities": {f"key_{i}": [i] for i in range(count)}}
    return "POST", READ_PATH, json.dumps(asked).encode(), JSON


def chunked(count: int) -> Ask:
    """A push of blanks, each in a chunk of its own."""
    return "POST", PUSH_PATH, b"1\r\n \r\n" * count + b"0\r\n\r\n", JSON | {"transfer-encoding": "chunked"}


# The server


class Looks:
    """A timer of the loop, and the longest time between two of its looks: `held` and `loop`, in seconds."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self.held = self.loop = 0.0
        self._last = self._now()
        self._look()

    def _now(self) -> tuple[float, float, float]:
        """A clock that stands still while other programs have the processor, and the process' and the loop's CPU."""
        waited = int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
        return time.perf_counter() - waited, time.process_time(), time.thread_time()

    def _look(self) -> None:
        now = self._now()
        clock, process, thread = (after - before for after, before in zip(now, self._last, strict=True))
        self._last = now
        self.held, self.loop = max(self.held, min(clock, process)), max(self.loop, thread)
        self._loop.call_later(0.001, self._look)

    def take(self) -> bytes:
        found = {"held_ms": self.held * 1e3, "loop_ms": self.loop * 1e3}
        self.held = self.loop = 0.0
        return json.dumps(found | {"cpu_ms": time.process_time() * 1e3}).encode()


def serve(url: str, home: str) -> None:
    """A worker as the supervisor starts one, that also tells what its looks have found."""
    import asyncio

    from feature_server.app.features import FeatureServer
    from feature_server.app.pages import create_pages
    from feature_server.app.sites import create_sites
    from feature_server.app.supervisor import Served, WorkerConfig, listen
    from feature_server.app.worker import THREAD_SECONDS, Worker
    from feature_server.settings import load_settings

    class Watched(Worker):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            looks.append(Looks(asyncio.get_running_loop()))

    async def other(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != HELD_PATH:
            await answer(scope, receive, send)
            return
        body = looks[0].take()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    looks: list[Looks] = []
    sys.setswitchinterval(THREAD_SECONDS)
    listener = listen("127.0.0.1", 0)
    settings = load_settings({}, home=home, redis_url=url)
    server = FeatureServer(Served(redis_url=url, settings=settings, sites=create_sites("127.0.0.1", "127.0.0.1", ())))
    answer, server.other = create_pages(server), other
    ready, writing = os.pipe()
    print(listener.getsockname()[1], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        config = WorkerConfig(0, listener.fileno(), writing, folder, server.served)
        Watched(server, config).run(sockets=[listener])
    os.close(ready)


@contextmanager
def serving(url: str, home: str) -> Iterator[int]:
    """Its port."""
    command = [sys.executable, "-m", "benchmarks.loop_hold", "serve", url, home]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield int(process.stdout.readline())
        process.stdin.close()


# The measuring


class Client:
    """Asks a server, and then what its looks have found."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._threads = ThreadPoolExecutor(32)

    def ask(self, asked: Ask) -> tuple[int, bytes]:
        method, path, body, headers = asked
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        try:
            connection.request(method, path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def held(self, asked: list[Ask]) -> Numbers:
        before = json.loads(self.ask(("GET", HELD_PATH, b"", {}))[1])
        begun = time.perf_counter()
        statuses = [status for status, _ in self._threads.map(self.ask, asked)]
        wall = time.perf_counter() - begun
        found: Numbers = json.loads(self.ask(("GET", HELD_PATH, b"", {}))[1])
        found["cpu_ms"] -= before["cpu_ms"]
        return found | {"wall_ms": wall * 1e3, "status": "/".join(map(str, sorted(set(statuses))))}


def measure(client: Client, title: str, make: Callable[[int], Any], rounds: int) -> dict[str, Any]:
    from .common import make_case

    seen = []
    for n in range(rounds + 1):
        asked = make(n)
        seen.append(client.held(asked if isinstance(asked, list) else [asked]))
    first, rest = seen[0], seen[1:]
    ours = {name: round(min(each[name] for each in rest), 2) for name in ("held_ms", "loop_ms", "cpu_ms")}
    ours["first_ms"] = round(first["held_ms"], 2)
    told = {first["status"], *(each["status"] for each in rest)}
    print(f"{title:55} {ours['held_ms']:8.1f} {ours['loop_ms']:8.1f} {ours['first_ms']:8.1f} "
          f"{ours['cpu_ms']:9.1f} {statistics.median(each['wall_ms'] for each in rest):9.1f} {told}",
          file=sys.stderr, flush=True)  # fmt: skip
    return make_case(title, ours=ours, targets=TARGETS)


def main(arguments: Sequence[str] | None = None) -> int:
    from .common import parser, write_results
    from .sync import server

    options = parser(__doc__ or "")
    options.add_argument("--case", default="", help="only what has this in its name")
    chosen = options.parse_args(arguments)
    folder = chosen.work.resolve() / "loop-valkey"
    rounds = chosen.runs or ROUNDS[chosen.size]
    with server(str(folder)) as (url, _):
        in_child("benchmarks.loop_store:fill", {"url": url}, runs=1)
        with serving(url, str(folder)) as port:
            client = Client(port)
            cases = [
                measure(client, title, make, rounds)
                for kind in (pages, reads, pushes)
                for title, make in kind()
                if chosen.case in title
            ]
    shutil.rmtree(folder, ignore_errors=True)
    write_results(Path(chosen.out), "How long a request holds the loop", cases)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(*sys.argv[2:])
        os._exit(0)  # DuckDB would tell at length of what is still open
    sys.exit(main())

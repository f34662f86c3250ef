"""Who pushes events and reads features all the while: each a thread, with what it was told checked at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from threading import Event, Thread

import httpx
import redis

from feature_server import FeatureStoreError

from .ledger import Version, as_columns, as_json
from .shop import SOURCE, Shop

STREAM = f"features:events:{SOURCE}"


class Repeated(Thread):
    """Does its step again and again until it is ended."""

    def __init__(self, shop: Shop, *, pause: float) -> None:
        super().__init__(daemon=True)
        self.shop, self.pause, self.stopped = shop, pause, Event()

    def run(self) -> None:
        while not self.stopped.wait(self.pause):
            self.step()

    def step(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        self.stopped.set()
        self.join()


class Pusher(Repeated):
    """Pushes payments over HTTP and as a producer into the Redis stream; what got no answer it sends again."""

    def __init__(self, shop: Shop, random: Random, *, pause: float) -> None:
        super().__init__(shop, pause=pause)
        self.random, self.held, self.is_idle = random, Event(), Event()

    def step(self) -> None:
        if self.held.is_set():
            self.is_idle.set()
            return
        self._send(self.shop.ledger.batch(self.random, self.random.randint(1, 20)))

    def hold(self) -> None:
        """Send no more once this returns, and have an answer to all that was sent."""
        self.is_idle.clear()
        self.held.set()
        if not self.is_idle.wait(120):
            self.shop.trial.fault("a push gets no answer for 120 s")

    def go_on(self) -> None:
        self.held.clear()

    def _send(self, versions: list[Version]) -> None:
        for version in versions:
            version.sent = time.monotonic()
        by_stream = self.random.random() < 0.3
        while not (self._produce(versions) if by_stream else self._push(versions)):
            self.shop.trial.did("pushes sent again")
            if self.stopped.wait(0.1):
                return
        self.shop.trial.did("events sent", len(versions))

    def _push(self, versions: list[Version]) -> bool:
        body = {"push_source_name": SOURCE, "df": as_columns(versions)}
        try:
            answer = httpx.post(f"{self.shop.address}/push", json=body, timeout=30, trust_env=False)
        except httpx.HTTPError:
            return False
        if answer.status_code == 200 and answer.json() == {"accepted": len(versions), "rejected": []}:
            for version in versions:
                version.acked = time.monotonic()
            return True
        if answer.status_code != 503:
            self.shop.trial.fault(f"a push was answered {answer.status_code}: {answer.text[:300]}")
        return False

    def _produce(self, versions: list[Version]) -> bool:
        """What producers put in the stream counts once the worker has it: `Shop.settle` says so."""
        try:
            with self.shop.redis() as client, client.pipeline() as pipeline:
                for version in versions:
                    pipeline.xadd(STREAM, {"event": as_json(version)})
                pipeline.execute()
        except redis.RedisError:
            return False
        return True


class Reader(Repeated):
    """Reads all customers again and again; a value that no order of things explains is a fault."""

    def step(self) -> None:
        try:
            wrong = self.shop.read()
        except FeatureStoreError:
            self.shop.trial.did("reads without an answer")
            return
        for each in wrong[:1]:
            self.shop.trial.fault(f"read: {each} ({len(wrong)} wrong in this read)")


def disturb(shop: Shop, do: Callable[[Random], None]) -> None:
    """Rounds of a trial: `do` something bad while events come in, then compare; every fifth time, everything."""
    trial = shop.trial
    shop.write_spine(Random(trial.seed))
    shop.serve()
    shop.work()
    pusher = Pusher(shop, Random(trial.seed), pause=0.05)
    pusher.start()
    try:
        for random in trial.rounds():
            do(random)
            pusher.hold()
            shop.settle()
            shop.compare()
            if trial.round % 5 == 0:
                shop.check_all(random)
            pusher.go_on()
        pusher.hold()
        shop.check_all(Random(trial.seed))
    finally:
        pusher.end()

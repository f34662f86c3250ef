"""A Redis that throws keys away: no value is served as PRESENT that is not right, all say so, a full sync heals."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from random import Random

import httpx
import redis

from feature_server import FeatureStoreError

from . import trial
from .ledger import Version, as_columns
from .shop import ALL_FEATURES, SOURCE, Shop, last_words
from .trial import Trial

POLICIES = (
    "noeviction", "allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-lfu", "volatile-random",
    "volatile-ttl",
)  # fmt: skip
WINDOW_SECONDS = 2.0  # the server looks once a second; docs/operations.md says so
ROUND_SECONDS = 8


def play(trial: Trial) -> None:
    with Shop(trial) as shop:
        shop.create(Random(trial.seed))
        shop.serve()
        shop.work()
        for random in trial.rounds():
            evict(shop, POLICIES[trial.round % len(POLICIES)], random)
            recover(shop)


def evict(shop: Shop, policy: str, random: Random) -> None:
    """Another program fills the memory while reads and pushes go on."""
    known = [version for version in shop.ledger.versions() if version.acked is not None]
    shop.trial.say(f"fills the memory, {policy}")
    first: float | None = None  # when a key was seen to have been thrown away
    with shop.redis() as client:
        before = client.info("stats")["evicted_keys"]
        client.config_set("maxmemory-policy", policy)
        client.config_set("maxmemory", client.info("memory")["used_memory"] + random.randrange(2_000_000))
        until, filled = time.monotonic() + ROUND_SECONDS, 0
        while time.monotonic() < until:
            with suppress(redis.RedisError):
                for number in range(filled, filled := filled + 200):
                    client.set(f"other:{number}", random.randbytes(500), ex=random.choice((None, 3600)))
            if first is None and client.info("stats")["evicted_keys"] > before:
                first = time.monotonic()
            read(shop, first)
            # A key that is pushed to before its eviction was noticed reads too low until a full sync.
            if policy == "noeviction" or (first is not None and time.monotonic() > first + WINDOW_SECONDS):
                push_again(shop, random.sample(known, 5))
        shop.trial.did(f"{policy}: {'keys were' if first else 'no key was'} thrown away")
        if first is not None:
            check_told(shop, policy)
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")
        client.delete(*list(client.scan_iter("other:*", count=1000)))


def read(shop: Shop, first: float | None) -> None:
    """Values that are PRESENT are right, but in the documented time after the first key was thrown away."""
    seconds = 0.0 if first is None else time.monotonic() - first
    try:
        wrong = shop.read(ALL_FEATURES, only_present=True)
    except FeatureStoreError as error:
        shop.trial.did(f"reads refused: {error.what}"[:70])
        return
    if wrong and (first is None or seconds > WINDOW_SECONDS):
        shop.trial.fault(f"PRESENT {seconds:.1f} s after a key was thrown away: {wrong[0]}")
    else:
        shop.trial.did("reads with a wrong value within the window" if wrong else "reads with right values")


def push_again(shop: Shop, versions: list[Version]) -> None:
    """Events that have landed already: they count once, so that nothing is lost with the log."""
    body = {"push_source_name": SOURCE, "df": as_columns(versions)}
    answer = httpx.post(f"{shop.address}/push", json=body, timeout=30, trust_env=False)
    shop.trial.did(f"pushes answered {answer.status_code}")
    if answer.status_code not in (200, 503):
        shop.trial.fault(f"a push was answered {answer.status_code}: {answer.text[:300]}")


def check_told(shop: Shop, policy: str) -> None:
    """The status, `/ready` and the metrics say that keys were thrown away."""
    ready = httpx.get(f"{shop.address}/ready", timeout=30, trust_env=False)
    gone = "the online store is empty" in ready.text  # the registry was thrown away: nothing is served
    if "evict" not in ready.text and not gone:
        shop.trial.fault(f"{policy}: /ready is {ready.status_code}: {ready.text[:200]}")
    metrics = httpx.get(f"{shop.address}/metrics", timeout=30, trust_env=False).text
    if not gone and not any(
        "evict" in line and not line.endswith(" 0.0") for line in metrics.splitlines() if line[0] != "#"
    ):
        shop.trial.fault(f"{policy}: /metrics says nothing of evicted keys")
    status = shop.run("status")
    if status.code != 1 or "evict" not in status.output:
        shop.trial.fault(f"{policy}: `status` says nothing of evicted keys: {last_words(status.output)}")


def recover(shop: Shop) -> None:
    """With room again and the policy that is asked for, a full sync brings all values back."""
    done = shop.run("sync --full")
    if done.code != 0:
        shop.trial.fault(f"with room again {done}")
    shop.compare(ALL_FEATURES)
    if "evict" in httpx.get(f"{shop.address}/ready", timeout=30, trust_env=False).text:
        shop.trial.fault("after `sync --full` the server is still not ready")


def main(arguments: list[str] | None = None) -> int:
    return trial.run("evict", __doc__ or "", play, rounds=3, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())

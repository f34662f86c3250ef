"""A Redis that throws keys away: no value is served as PRESENT that is not right, all say so, a full sync heals."""

from __future__ import annotations

import re
import sys
import time
from random import Random

import httpx
import redis

from feature_server import FeatureStoreError

from . import trial
from .ledger import Version, as_columns
from .shop import ALL_FEATURES, PATIENCE_SECONDS, SOURCE, Shop, last_words, wait_for
from .trial import Trial

POLICIES = (
    "noeviction", "allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-lfu", "volatile-random",
    "volatile-ttl",
)  # fmt: skip
ROUND_SECONDS = 8
SAID = "Redis has evicted"


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
    with shop.redis() as client:
        keys = Keys(shop, client)
        client.config_set("maxmemory-policy", policy)
        client.config_set("maxmemory", client.info("memory")["used_memory"] + random.randrange(2_000_000))
        until, filled = time.monotonic() + ROUND_SECONDS, 0
        while time.monotonic() < until:
            with client.pipeline(transaction=False) as pipeline:
                for number in range(filled, filled := filled + 1000):
                    pipeline.set(f"other:{number}", random.randbytes(500), ex=random.choice((None, 3600)))
                pipeline.execute(raise_on_error=False)  # of a Redis that is full
            keys.look()
            read(shop, keys)
            # A key that is pushed to before its eviction was noticed reads too low until then.
            if policy == "noeviction" or keys.are_told:
                push_again(shop, random.sample(known, 5))
        while keys.were_thrown_away and not keys.are_told and time.monotonic() < until + PATIENCE_SECONDS:
            keys.look()
        shop.trial.did(f"{policy}: {'keys were' if keys.were_thrown_away else 'no key was'} thrown away")
        if keys.were_thrown_away:
            check_told(shop, policy, keys)
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")
        for name in client.scan_iter("other:*", count=1000):  # of which none may be left
            client.delete(name)


class Keys:
    """Whether keys were thrown away, and whether the server has noticed.

    Of how long that may take the trial holds what the server itself tells, not the clock: the processor is shared.
    """

    def __init__(self, shop: Shop, client: redis.Redis) -> None:
        self.shop, self.client, self._before = shop, client, client.info("stats")["evicted_keys"]
        self._first: float | None = None  # when a key was seen to have been thrown away
        self.are_told = False

    def look(self) -> None:
        if self.were_thrown_away and not self.are_told:
            self.are_told = SAID in get(self.shop, "/ready").text
            if self.are_told and self._first is not None:
                name, seconds = "longest until keys were noticed, s", time.monotonic() - self._first
                longest = max(seconds, float(self.shop.trial.measured.get(name, "0")))
                self.shop.trial.measured[name] = f"{longest:.1f}"

    @property
    def were_thrown_away(self) -> bool:
        if self._first is None and self.client.info("stats")["evicted_keys"] > self._before:
            self._first = time.monotonic()
        return self._first is not None


def read(shop: Shop, keys: Keys) -> None:
    """Values that are PRESENT are right, but until the server has noticed that a key was thrown away."""
    were_told = keys.are_told
    try:
        wrong = shop.read(ALL_FEATURES, only_present=True)
    except FeatureStoreError as error:
        shop.trial.did(f"reads refused: {error.what}"[:70])
        return
    if wrong and (were_told or not keys.were_thrown_away):
        known = "the server has told that keys were thrown away" if were_told else "no key was thrown away"
        shop.trial.fault(f"PRESENT though {known}: {wrong[0]}")
    else:
        shop.trial.did("reads with a wrong value within the window" if wrong else "reads with right values")


def push_again(shop: Shop, versions: list[Version]) -> None:
    """Events that have landed already: they count once, so that nothing is lost with the log."""
    body = {"push_source_name": SOURCE, "df": as_columns(versions)}
    answer = httpx.post(f"{shop.address}/push", json=body, timeout=30, trust_env=False)
    shop.trial.did(f"pushes answered {answer.status_code}")
    if answer.status_code not in (200, 503):
        shop.trial.fault(f"a push was answered {answer.status_code}: {answer.text[:300]}")


def check_told(shop: Shop, policy: str, keys: Keys) -> None:
    """The status, `/ready` and the metrics say that keys were thrown away, the registry among them or not."""
    ready = get(shop, "/ready")
    if not keys.are_told or SAID not in ready.text:
        shop.trial.fault(f"{policy}: /ready is {ready.status_code}: {ready.text[:200]}")
    counted = re.compile(r"^features_redis_evicted_keys [1-9]", re.MULTILINE)
    if wait_for(lambda: counted.search(get(shop, "/metrics").text)) is None:
        shop.trial.fault(f"{policy}: /metrics says nothing of evicted keys")
    status = shop.run("status")
    if status.code != 1 or SAID not in status.output:
        shop.trial.fault(f"{policy}: `status` says nothing of evicted keys: {last_words(status.output)}")


def recover(shop: Shop) -> None:
    """With room again and the policy that is asked for, a full sync brings all values back."""
    done = shop.run("sync --full")
    if done.code != 0:
        shop.trial.fault(f"with room again {done}")
    shop.compare(ALL_FEATURES)
    if wait_for(lambda: is_ready_and_sure(get(shop, "/ready"))) is None:
        shop.trial.fault(f"after `sync --full` /ready is {get(shop, '/ready').text[:200]}")


def is_ready_and_sure(ready: httpx.Response) -> bool:
    return ready.status_code == 200 and SAID not in ready.text


def get(shop: Shop, path: str) -> httpx.Response:
    return httpx.get(f"{shop.address}{path}", timeout=30, trust_env=False)


def main(arguments: list[str] | None = None) -> int:
    return trial.run("evict", __doc__ or "", play, rounds=3, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())

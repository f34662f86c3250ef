"""Pushes, reads, landings, builds and syncs for as long as one likes: nothing lost or counted twice, nothing grows."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from statistics import median

import psutil
import redis

from . import trial
from .shop import Shop
from .traffic import Pusher, Reader, Repeated
from .trial import Trial

CYCLE_SECONDS, SAMPLE_SECONDS = 30, 2
JUDGED_SECONDS = 150  # of a shorter run growth tells nothing: each process loads much with the first push that it gets
REDIS_BYTES_PER_EVENT = 600  # its record, its key's share, the log until it lands, the append-only file's buffer
LIMITS = {"memory": 64 << 20, "files": 20, "connections": 20}  # what may be more in the last third than in the second

Sample = dict[str, float]  # of one moment: `<what> of <whom>` → how much


class Sampler(Repeated):
    """Looks at all processes every few seconds."""

    samples: list[tuple[float, Sample]]

    def step(self) -> None:
        self.samples.append((self.shop.trial.seconds, sample(self.shop)))
        self.shop.trial.say(said(self.samples[-1][1]))


def play(trial: Trial) -> None:
    with Shop(trial) as shop:
        shop.create(Random(trial.seed))
        shop.serve()
        shop.work(land_every=5)
        pusher, sampler = Pusher(shop, Random(trial.seed), pause=0.02), Sampler(shop, pause=SAMPLE_SECONDS)
        sampler.samples = []
        threads: list[Repeated] = [pusher, sampler, *(Reader(shop, pause=0.05) for _ in range(2))]
        for thread in threads:
            thread.start()
        try:
            for _ in trial.rounds():
                next_cycle = time.monotonic() + CYCLE_SECONDS
                shop.cycle()
                while time.monotonic() < next_cycle and not trial.time_is_up:
                    time.sleep(0.5)
            pusher.hold()
        finally:
            for thread in threads:
                thread.end()
        shop.check_all(Random(trial.seed))
    judge(trial, sampler.samples)


def sample(shop: Shop) -> Sample:
    found: Sample = {"events": shop.trial.done["events sent"]}
    with suppress(psutil.NoSuchProcess, redis.RedisError):
        of: dict[str, list[psutil.Process]] = {name: each.family() for name, each in shop.running.items()}
        of["valkey"] = [shop.valkey()]
        for name, processes in of.items():
            found[f"memory of {name}"] = sum(process.memory_info().rss for process in processes)
            found[f"files of {name}"] = sum(process.num_fds() for process in processes)
        with shop.redis() as client:
            found["connections of valkey"] = client.info("clients")["connected_clients"]
            found["data of valkey"] = client.info("memory")["used_memory"]
    for folder in (*shop.home.glob("*/"), shop.folder / "landing", Path(shop.env["FEATURES_WAREHOUSE"])):
        found[f"disk of {folder.name}"] = disk_bytes(folder)
    return found


def disk_bytes(path: Path) -> int:
    total = 0
    for each in [path, *path.rglob("*")]:
        with suppress(OSError):
            total += each.stat().st_size if each.is_file() else 0
    return total


def said(found: Sample) -> str:
    memory = [f"{found.get(f'memory of {name}', 0) / 1e6:.0f}" for name in ("server", "worker", "valkey")]
    return f"{found['events']:,.0f} events; memory of server, worker and Valkey {', '.join(memory)} MB"


def judge(trial: Trial, samples: list[tuple[float, Sample]]) -> None:
    """How fast each thing grows, from the middle of the second third of the samples to the middle of the last."""
    third = len(samples) // 3
    if third < 2 or samples[-1][0] - samples[0][0] < JUDGED_SECONDS:
        trial.measured["growth"] = f"not told: the run has less than {JUDGED_SECONDS} s"
        return
    early, late = samples[third : 2 * third], samples[2 * third :]
    hours = (median(at for at, _ in late) - median(at for at, _ in early)) / 3600
    events = median(s["events"] for _, s in late) - median(s["events"] for _, s in early)
    for name in sorted({name for _, found in samples for name in found} - {"events"}):
        before, after = (median([s[name] for _, s in part if name in s] or [0]) for part in (early, late))
        what, _, whom = name.partition(" of ")
        grown, limit = after - before, float(LIMITS.get(what, "inf"))
        if name in ("memory of valkey", "data of valkey"):
            limit = REDIS_BYTES_PER_EVENT * events + (16 << 20)
        in_bytes = what in ("memory", "data", "disk")
        shown = [f"{n / 1e6:,.1f} MB" if in_bytes else f"{n:,.0f}" for n in (after, grown / hours)]
        trial.measured[f"{whom}: {what}"] = f"{shown[0]}, {shown[1]} an hour more"
        if grown > limit:
            trial.fault(f"{name} grows: {before:,.0f}, then {after:,.0f} after {events:,.0f} more events")
    trial.measured["events an hour"] = f"{events / hours:,.0f}"


def main(arguments: list[str] | None = None) -> int:
    return trial.run("soak", __doc__ or "", play, rounds=3, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())

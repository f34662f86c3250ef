"""Replay real departures and arrivals as live events: `python -m examples.replay --hours 24 --speed 3600`.

The clock of the example's world moves on from FEATURES_CLOCK as fast as `--speed` says; each event is pushed when that
clock reaches the time at which the airport would have sent it. At the end the events are landed for the next build, and
`features verify` compares what is online with the warehouse at the instant the replay ended.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from examples import flights
from feature_server import FeatureClient
from feature_server.errors import FeatureStoreError
from feature_server.ingest.transaction import Ingestor
from feature_server.online.embedded import connect
from feature_server.settings import Settings, load_settings
from feature_server.times import to_us

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
SOURCES: dict[str, Callable[[Path, int, int], pa.Table]] = {
    "flights.departures": flights.departures,
    "flights.arrivals": flights.arrivals,
}
VIEWS = ("airport__departures", "plane__previous_leg")
AIRPORTS = ("EWR", "JFK", "LGA")


class Clock:
    """The world's clock: `speed` seconds of it pass in one of ours; with speed 0 it jumps from event to event."""

    def __init__(self, now_us: int, speed: float) -> None:
        self.now_us, self._since_us, self._speed = now_us, now_us, speed
        self._started = time.monotonic()

    def wait_until(self, moment_us: int) -> None:
        """Let the clock reach a moment; it never goes back."""
        if self._speed:
            due = self._started + (moment_us - self._since_us) / 1e6 / self._speed
            time.sleep(max(0.0, due - time.monotonic()))
        self.now_us = max(self.now_us, moment_us)


def batches(feeds: dict[str, pa.Table], step_us: int) -> Iterator[tuple[int, str, pa.Table]]:
    """The events of all feeds as they become known: for each step of the clock its end, and each source's events."""
    found = []
    for source, events in feeds.items():
        known_us = pc.cast(events["ingested_at"], pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
        steps = -(-known_us // step_us) * step_us
        starts = [0, *(i for i in range(1, len(steps)) if steps[i] != steps[i - 1]), len(steps)]
        found += [
            (int(steps[first]), source, events.slice(first, last - first))
            for first, last in pairwise(starts)
            if last > first
        ]
    yield from sorted(found, key=lambda batch: batch[:2])


def replay(settings: Settings, feeds: dict[str, pa.Table], until_us: int, speed: float) -> dict[str, int]:
    """Push every event at its moment, printing what a model would read each hour; how many of each source went in."""
    clock = Clock(settings.now_us(), speed)
    pushed = dict.fromkeys(feeds, 0)
    next_report = clock.now_us + HOUR_US
    with connect(settings) as url, Ingestor(url, lambda: clock.now_us, expire=False) as ingestor:
        for moment_us, source, events in batches(feeds, MINUTE_US if speed else 10 * MINUTE_US):
            while moment_us > next_report:
                clock.wait_until(next_report)
                report(url, settings, clock, pushed)
                next_report += HOUR_US
            clock.wait_until(moment_us)
            result = ingestor.push(source, events.to_pylist())
            for index, reason in result.rejected:
                print(f"refused event {index} of {source}: {reason}", file=sys.stderr)
            pushed[source] += result.accepted
        clock.wait_until(until_us)
        report(url, settings, clock, pushed)
    return pushed


def report(url: str, settings: Settings, clock: Clock, pushed: dict[str, int]) -> None:
    """One line: the world's clock, events so far, and the departures of the last hour as a model reads them now."""
    at = load_settings(project_dir=settings.project_dir, clock=iso(clock.now_us))
    with FeatureClient(url, settings=at) as client:
        read = client.get_many(features=["airport__departures:departures_1h"], airport=list(AIRPORTS))
    counts = "  ".join(f"{name} {count}" for name, count in zip(AIRPORTS, read["departures_1h"], strict=True))
    print(f"{iso(clock.now_us)}  {sum(pushed.values()):>5} events  departures_1h: {counts}", flush=True)


def iso(moment_us: int) -> str:
    return (flights.EPOCH + timedelta(microseconds=moment_us)).strftime("%Y-%m-%dT%H:%M:%SZ")


def finish(settings: Settings, until_us: int) -> int:
    """Land the events and verify the views at the replay's end; the exit code."""
    environment = dict(os.environ) | {"FEATURES_CLOCK": iso(until_us)}
    for command in (*(["stream", source, "--once"] for source in SOURCES), ["verify", *VIEWS]):
        ended = subprocess.run(
            [sys.executable, "-m", "feature_server", *command], cwd=settings.project_dir, env=environment, check=False
        )
        if ended.returncode:
            return ended.returncode
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.replay", description=__doc__)
    parser.add_argument("--hours", type=float, default=24.0, help="how long a time to replay [default: 24]")
    parser.add_argument(
        "--speed", type=float, default=3600.0, help="seconds of the replay in one second; 0: no waiting [default: 3600]"
    )
    parser.add_argument("--data", type=Path, default=Path("data/nycflights13"), help="folder of the real flights")
    given = parser.parse_args(arguments)
    settings = load_settings()
    if settings.clock is None:
        parser.error("FEATURES_CLOCK says where the example's clock stands, e.g. FEATURES_CLOCK=2013-12-30T23:00:00Z")
    since_us = to_us(settings.clock)
    until_us = since_us + round(given.hours * HOUR_US)
    try:
        feeds = {source: events(given.data, since_us, until_us) for source, events in SOURCES.items()}
        pushed = replay(settings, feeds, until_us, given.speed)
        print("pushed " + " ".join(f"{source}={count}" for source, count in pushed.items()), flush=True)
        return finish(settings, until_us)
    except FeatureStoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

"""A feature store that random steps are done to, and the comparison of each read with what DuckDB gives."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import psutil
import pyarrow.parquet as pq
import redis

from feature_server.client.features import FeatureClient
from feature_server.definitions.stream import EventSource
from feature_server.history.log import landing_folder, live_files
from feature_server.ingest.transaction import Ingestor, PushResult
from feature_server.layout.keys import DEAD, EVENTS
from feature_server.online.embedded import EmbeddedValkey
from feature_server.online.store import OnlineStore
from feature_server.settings import load_settings
from feature_server.times import to_us
from tests.interleaving.events import LATE, MICROSECOND, Events, columns, identity, lines, spoiled, write_file
from tests.interleaving.reads import Comparison, asked_keys
from tests.interleaving.shop import Shop, paused, run_until_killed
from tests.interleaving.views import CUSTOMER, EVER, MODELS, PAYMENTS, SOURCES, Event, registry_of

START = datetime(2031, 3, 1, 12, tzinfo=UTC)  # so far ahead that Redis' own clock expires no key: `clock` does
FRAMES = sorted({end for model in MODELS for frame in model.frames.values() for end in frame if end is not None})
CLOCK = [timedelta(seconds=s) for s in (0, 1, 29, 60, 300)] + [timedelta(hours=h) for h in (1, 5, 30)]
DAYS = [timedelta(days=d) for d in (3, 8, 30)]
AOF = "appendonlydir"
AT_ONCE = timedelta(days=8)  # how late lifetime windows count an event at once, be it in any version
WEIGHTS = {
    "push": 30, "push_and_die": 3, "stream": 4, "stream_and_die": 2, "land": 5, "land_and_die": 2, "sync": 10,
    "sync_and_die": 4, "sync_and_push": 4, "load": 6, "restate": 6, "clock": 22, "restart": 3, "define": 4,
    "withdraw": 1, "restart_redis": 3, "copy_redis": 3, "lose_redis": 2, "verify": 3, "train": 3,
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One step; its randomness is its own, so that steps before it can be left out."""

    kind: str
    seed: int


def random_steps(seed: int, count: int) -> list[Step]:
    random = Random(seed)
    kinds = random.choices(list(WEIGHTS), list(WEIGHTS.values()), k=count)
    return [Step(kind, random.randrange(2**32)) for kind in kinds]


class Machine:
    """A feature store with a Valkey of its own in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, START
        duckdb.connect(str(folder / "warehouse.duckdb")).close()
        for source in SOURCES:
            landing_folder(source, folder).mkdir(parents=True)
            write_file(source, landing_folder(source, folder) / "empty.parquet", [])
        self.events = {source.name: Events(source) for source in SOURCES}
        self.comparison = Comparison(self.events)
        self.loaded: dict[str, list[Event]] = {}
        self.levels = {model.name: 0 for model in MODELS}
        self.history: list[str] = []
        self.saved: dict[str, list[Event]] | None = None
        self.late: list[Event] = []  # payments that lifetime windows count only after a sync
        self.published: set[Any] = set()  # which payments were in files when the history was published last
        self._loads = 0
        self.valkey = EmbeddedValkey(folder / "valkey")
        self._start_processes()
        self._publish()
        self.shop.sync(only=CUSTOMER.name)

    def _kill_redis(self) -> None:
        with redis.Redis.from_url(self.valkey.url) as client:
            process = psutil.Process(client.info("server")["process_id"])
        process.kill()
        process.wait(timeout=60)
        self.valkey.close()

    def _start_processes(self) -> None:
        self.ingestor = Ingestor(self.valkey.url, lambda: to_us(self.now))
        self.client = FeatureClient(self.valkey.url, settings=load_settings({}))
        self.client._reader.now_us = lambda: to_us(self.now)

    def close(self) -> None:
        self.client.close()
        self.ingestor.close()
        self.comparison.close()
        self.valkey.close()

    @property
    def shop(self) -> Shop:
        models = tuple(model.at(self.levels[model.name]) for model in MODELS if model.name in self.levels)
        return Shop(self.folder, self.valkey.url, registry_of(models), self.now)

    def run(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self.history.append(f"{step.kind}")
            getattr(self, step.kind)(Random(step.seed))
            self.compare()

    def compare(self) -> None:
        """Read all features of all keys of views that are online, and compare."""
        with OnlineStore(self.valkey.url) as store:
            online = store.registry()
        assert online is not None
        for model in MODELS:
            found = online.views.get(model.name)
            if found is None or not found.table_id:
                continue
            kept = {feature.name for feature in found.definition.features}
            declared = [view for view in online.registry.feature_views if view.id == model.name]
            names = [feature.name for view in declared for feature in view.features if feature.name in kept]
            if names:
                late = {str(event["customer"]) for event in self.late}
                self.comparison.compare_online(self.client, model, names, self.now, late)

    def say(self, text: object) -> None:
        self.history[-1] += f"\n      {text}"

    # Steps

    def push(self, random: Random) -> None:
        events = self._source(random)
        batch = events.batch(random, self.now, random.randint(1, 15))
        bad = [i for i in range(len(batch)) if random.random() < 0.04]
        sent = [spoiled(random, e, events.source, self.now) if i in bad else e for i, e in enumerate(batch)]
        names, name = list(events.columns), events.source.name
        form = random.choice(["values", "lines", "columns", "together"])
        self.say(f"as {form}")
        if form == "values":
            refused = self._refused(self.ingestor.push(name, sent))
        elif form == "lines":
            refused = self._refused(self.ingestor.push_lines(name, lines(random, sent)))
        elif form == "columns":
            refused = self._refused(self.ingestor.push_columns(name, columns(random, sent, names)))
        else:
            cut = random.randint(0, len(sent))
            bodies = [columns(random, part, names) for part in (sent[:cut], sent[cut:])]
            one, other = self.ingestor.push_together(name, bodies)
            refused = [*self._refused(one), *(cut + place for place in self._refused(other))]
        assert refused == bad, (refused, bad)
        self._accept(events, [event for i, event in enumerate(batch) if i not in bad])

    def push_and_die(self, random: Random) -> None:
        """A push that is killed half way; the producer sends the events again."""
        events = self._source(random)
        batch = events.batch(random, self.now, random.randint(1, 8))
        sent = lines(random, batch)
        self.say(run_until_killed(self.shop.push, events.source, sent, step=random.randint(1, 9)))
        assert self.shop.push(events.source, sent) == []
        self._accept(events, batch)

    def stream(self, random: Random) -> None:
        events, batch, letters = self._produced(random)
        self.say(self.shop.work(events.source))
        self._streamed(events, batch, letters)

    def stream_and_die(self, random: Random) -> None:
        """A worker that is killed half way, and another one after it."""
        events, batch, letters = self._produced(random)
        self.say(run_until_killed(self.shop.work, events.source, step=random.randint(3, 40)))
        self.shop.work(events.source)
        self._streamed(events, batch, letters)

    def land(self, random: Random) -> None:
        for source in SOURCES:
            self.say(self.shop.land(source, random.choice([1, 3, 10_000])))

    def land_and_die(self, random: Random) -> None:
        source = random.choice(SOURCES)
        self.say(run_until_killed(self.shop.land, source, random.choice([1, 10_000]), step=random.randint(2, 20)))

    def sync(self, random: Random) -> None:
        """A sync, most often after a build; also before one, and of one view alone."""
        if random.random() < 0.8:
            self._publish()
        name = random.choice([None, None, *self.levels])
        full = random.random() < 0.25
        self.say(f"full={full} {self._sync(full=full, only=name)}")

    def sync_and_die(self, random: Random) -> None:
        self._publish()
        full = random.random() < 0.5
        self.say(f"full={full} {run_until_killed(_sync_of, self.shop, full, step=random.randint(10, 90))}")

    def sync_and_push(self, random: Random) -> None:
        """A sync that stands still half way while events are pushed."""
        self._publish()
        with paused(_sync_of, self.shop, random.random() < 0.7, step=random.randint(10, 120)):
            self.push(random)

    def load(self, random: Random) -> None:
        """A batch load of events that were never pushed; a build and a sync, killed at first, follow."""
        events = self._source(random)
        batch = [events.new(random, self.now) for _ in range(random.randint(1, 20))]
        self._loads += 1
        self.loaded[f"{events.source.name}/load{self._loads}"] = batch
        self._accept(events, batch, pushed=False)
        self._build_and_sync(random)

    def restate(self, random: Random) -> None:
        """The source says otherwise of events that it had loaded: some are gone, some are changed in place."""
        if not self.loaded:
            self.load(random)
        for place, batch in self.loaded.items():
            events = self.events[place.partition("/")[0]]
            events.changes += 1
            for event in [event for event in batch if event[events.source.event_id] not in events.pushed]:
                if random.random() < 0.2:
                    batch[:] = [other for other in batch if other is not event]
                    events.accepted = [other for other in events.accepted if other is not event]
                elif random.random() < 0.3 and events.source is PAYMENTS:
                    event["amount"] = (event["amount"] or 0) + 1
                    event["group"] = "restated"
        self._build_and_sync(random)

    def clock(self, random: Random) -> None:
        """Time passes: a little, days, or until an event leaves or enters a frame."""
        kind, past = random.random(), self.now
        self.now += random.choice(DAYS if kind < 0.06 else CLOCK)
        events = self._source(random)
        if kind > 0.4 and events.accepted:
            at = random.choice(events.accepted[-30:])[events.source.event_timestamp].replace(tzinfo=UTC)
            moments = [at + frame + extra * MICROSECOND for frame in FRAMES for extra in (-1, 0, 1)]
            moments = [moment for moment in moments if past < moment <= self.now + timedelta(hours=6)]
            self.now = random.choice(moments or [self.now])
        self.say(self.now)
        self._expire()

    def restart(self, random: Random) -> None:
        """The processes that take events in and that read start anew."""
        self.ingestor.close()
        self.client.close()
        self._start_processes()

    def define(self, random: Random) -> None:
        """Another definition of a view, with more features or fewer, is built; readers see it after a sync."""
        model = random.choice(MODELS)
        self.levels[model.name] = random.randint(0, len(model.more))
        self.say(self.levels)
        self._publish()
        if random.random() < 0.7:
            self.sync(random)

    def withdraw(self, random: Random) -> None:
        """A view is taken away; a `define` may bring it back."""
        if len(self.levels) > 1:
            self.levels.pop(random.choice(list(self.levels)))
            self.say(self.levels)
            self.sync(random)

    def restart_redis(self, random: Random) -> None:
        """The server ends, in order or killed, and comes back with all it had; its users find it again."""
        if random.random() < 0.5:
            self._kill_redis()
        self.valkey.close()
        self.valkey = EmbeddedValkey(self.folder / "valkey")

    def copy_redis(self, random: Random) -> None:
        shutil.rmtree(self.folder / "copy", ignore_errors=True)
        shutil.copytree(self.folder / "valkey" / AOF, self.folder / "copy")
        self.saved = {name: list(events.accepted) for name, events in self.events.items()}

    def lose_redis(self, random: Random) -> None:
        """The server comes back from an older copy: what was pushed since and is in no file is lost, and no more.

        Its producers know nothing of that. A landing, a build and a sync bring back what files hold.
        """
        if self.saved is None:
            return
        self._kill_redis()
        shutil.rmtree(self.folder / "valkey" / AOF)
        shutil.copytree(self.folder / "copy", self.folder / "valkey" / AOF)
        self.valkey = EmbeddedValkey(self.folder / "valkey")
        self._expire()
        for events in self.events.values():
            kept = {id(event) for event in self.saved[events.source.name]}
            kept |= {id(event) for batch in self.loaded.values() for event in batch}
            landed = self._landed(events.source)
            lost = [e for e in events.accepted if id(e) not in kept and identity(e, events.source) not in landed]
            events.changes += 1
            self.late = [event for event in self.late if id(event) not in {id(other) for other in lost}]
            self.say(f"{len(lost)} of {len(events.accepted)} {events.source.name} lost")
            gone = {id(event) for event in lost}
            events.accepted = [event for event in events.accepted if id(event) not in gone]
        self.land(random)
        self._build_and_sync(random)

    def verify(self, random: Random) -> None:
        unexplained = self.shop.verify()
        assert not unexplained, unexplained

    def train(self, random: Random) -> None:
        """A training set made now has the values that are read online now."""
        for source in SOURCES:
            self.shop.land(source, 10_000)
        self._publish()
        for view in self.shop.registry.feature_views:
            model = next(model for model in MODELS if model.name == view.id)
            found = self.shop.train(view, asked_keys(model))
            names = [feature.name for feature in view.features]
            self.comparison.compare(model, names, self.now, lambda name, i, rows=found: (rows[i][name], None))

    # What steps are made of

    def _source(self, random: Random) -> Events:
        return self.events[random.choice([*SOURCES, PAYMENTS]).name]

    def _refused(self, result: PushResult | Exception) -> list[int]:
        if isinstance(result, Exception):
            raise result
        self.say(f"refused: {result.rejected}")
        return [place for place, _ in result.rejected]

    def _accept(self, events: Events, batch: list[Event], *, pushed: bool = True) -> None:
        known = {id(event) for event in events.accepted}
        for event in batch:
            if pushed:
                events.pushed.add(event[events.source.event_id])
            self.say({name: str(value) for name, value in event.items()})
            if events.source is PAYMENTS and event["paid_at"] <= self.now - AT_ONCE + LATE[10]:
                self.late.append(event)
            if id(event) not in known:
                known.add(id(event))
                events.accepted.append(event)

    def _produced(self, random: Random) -> tuple[Events, list[Event], int]:
        """Put events, good ones and bad ones, into the Redis stream that workers read."""
        events = self._source(random)
        batch = events.batch(random, self.now, random.randint(1, 12))
        bad = [spoiled(random, batch[0], events.source, self.now)] if random.random() < 0.3 else []
        with redis.Redis.from_url(self.valkey.url) as client:
            letters = client.xlen(DEAD + events.source.name.encode())
            for line in lines(random, [*batch, *bad]):
                client.xadd(EVENTS + events.source.name.encode(), {"event": line})
        return events, batch, letters + len(bad)

    def _streamed(self, events: Events, batch: list[Event], letters: int) -> None:
        with redis.Redis.from_url(self.valkey.url) as client:
            assert client.xlen(DEAD + events.source.name.encode()) == letters
        self._accept(events, batch)

    def _build_and_sync(self, random: Random) -> None:
        for source in SOURCES:
            for place, batch in self.loaded.items():
                if place.startswith(f"{source.name}/"):
                    write_file(
                        source, landing_folder(source, self.folder) / f"{place.partition('/')[2]}.parquet", batch
                    )
        self._publish()
        if random.random() < 0.5:
            self.say(run_until_killed(_sync_of, self.shop, False, step=random.randint(5, 60)))
        self.say(self._sync())

    def _publish(self) -> None:
        self.shop.publish()
        self.published = self._landed(PAYMENTS) | {
            identity(event, PAYMENTS) for place, batch in self.loaded.items() if place.startswith(PAYMENTS.name)
            for event in batch
        }  # fmt: skip

    def _sync(self, *, full: bool = False, only: str | None = None) -> list[str]:
        done = self.shop.sync(full=full, only=only)
        if only in (None, EVER.name):
            self.late = [event for event in self.late if identity(event, PAYMENTS) not in self.published]
        return done

    def _landed(self, source: EventSource) -> set[Any]:
        paths = live_files(landing_folder(source, self.folder))
        rows = [row for path in paths for row in pq.read_table(path, partitioning=None).to_pylist()]
        return {identity(row, source) for row in rows}

    def _expire(self) -> None:
        """Delete the keys that Redis would have by now if its clock were this one."""
        with redis.Redis.from_url(self.valkey.url) as client:
            names = [name for name in client.scan_iter(count=1000) if b"{" in name]
            with client.pipeline() as pipeline:
                for name in names:
                    pipeline.pexpiretime(name)
                moments = pipeline.execute()
            gone = [name for name, at in zip(names, moments, strict=True) if 0 < at <= to_us(self.now) // 1000]
            if gone:
                client.delete(*gone)
                self.say(f"{len(gone)} keys expired")


def _sync_of(shop: Shop, full: bool) -> None:
    shop.sync(full=full)

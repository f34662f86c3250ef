"""Events of one key with equal event and created timestamps lie in the order of their ids' numbers, wherever asked."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pyarrow as pa
import pytest

from feature_server.client.features import FeatureClient
from feature_server.definitions.facts import FeatureView
from feature_server.definitions.stream import SourceColumn
from feature_server.dtypes import parse_sql_type
from feature_server.history.log import land
from feature_server.online.store import OnlineStore
from feature_server.settings import load_settings
from feature_server.times import to_us
from feature_server.verify.events import verify_events
from feature_server.verify.explain import explain
from tests.support.live_project import NOW, SOURCE, LiveProject, Payment, make_live_view
from tests.support.published import training_store

DAY = "over (partition by customer order by paid_at range between interval 1 day preceding and current row)"
EVER = "over (partition by customer order by paid_at range between unbounded preceding and current row)"
SHOPS = ("first({0})", "last({0})", "arg_min({0}, amount)", "arg_max({0}, amount)")
DAILY = {f"day_{n}": (f"{call.format('merchant')} {DAY}", "varchar") for n, call in enumerate(SHOPS)}
DAILY["amounts"] = (f"(list(cast(amount as double)) {DAY})[-4:]", "double[]")
LIFETIME = {f"ever_{n}": (f"{call.format('merchant')} {EVER}", "varchar") for n, call in enumerate(SHOPS)}
PLAIN = {"shop": ("merchant", "varchar")}
VIEWS = {"plain": PLAIN, "bounded": DAILY | PLAIN, "lifetime": DAILY | LIFETIME, "all": DAILY | LIFETIME | PLAIN}
IDS: dict[str, Callable[[int], Any]] = {
    "bigint": lambda n: n * 7919 % 1000 - 500,
    "ubigint": lambda n: 2**63 - 500 + n * 7919 % 1000,
    "varchar": lambda n: f"payment {n}",
    "uuid": lambda n: UUID(int=n),
}
MINUTES = [5, 5, 120, 20 * 24 * 60, 30 * 24 * 60]  # ago; the last two are in the bases of lifetime windows
CUSTOMERS = 3


def number(event_id: Any) -> int:
    if isinstance(event_id, int):
        return event_id % 2**64
    return int.from_bytes(blake2b(str(event_id).encode(), digest_size=64).digest()[:8], "little")


def expected(events: list[Payment], customer: int) -> dict[str, Any]:
    """The features by hand."""
    chosen = sorted((e for e in events if e[1] == customer), key=lambda e: (e[4], e[5], number(e[0])))

    def shops(of: list[Payment]) -> list[Any]:
        amounts = [Decimal(event[3]) for event in of]
        least, most = (amounts.index(edge(amounts)) if of else 0 for edge in (min, max))
        return [of[place][2] for place in (0, -1, least, most)] if of else [None] * 4

    day = [event for event in chosen if event[4] >= NOW - timedelta(days=1)]
    found: dict[str, Any] = {f"day_{n}": shop for n, shop in enumerate(shops(day))}
    found |= {f"ever_{n}": shop for n, shop in enumerate(shops(chosen))}
    return found | {"amounts": [float(event[3]) for event in day[-4:]] or None, "shop": chosen[-1][2]}


def project_of(folder: Path, url: str, kind: str, more: dict[str, tuple[str, str]]) -> tuple[LiveProject, FeatureView]:
    first = SourceColumn("payment_id", parse_sql_type(kind))
    source = msgspec.structs.replace(SOURCE, columns=(first, *SOURCE.columns[1:]))
    view = make_live_view(more, source=source)
    return LiveProject(folder, url, view, source=source), view


def online(project: LiveProject, view: FeatureView, names: list[str]) -> list[dict[str, Any]]:
    with FeatureClient(project.url, settings=load_settings({"FEATURES_CLOCK": NOW.isoformat()})) as client:
        asked = [f"{view.id}:{name}" for name in names]
        found = client.get_many(features=asked, customer=[*range(CUSTOMERS)]).values
    return [{name: found[name][customer] for name in names} for customer in range(CUSTOMERS)]


def trained(project: LiveProject, view: FeatureView, names: list[str]) -> list[dict[str, Any]]:
    spine = pa.table({"customer": [*range(CUSTOMERS)], "event_timestamp": [NOW] * CUSTOMERS})
    asked = [f"{view.id}:{name}" for name in names]
    found = training_store(project.folder, project.registry).get_historical_features(spine, asked)
    return found.to_arrow().select(names).to_pylist()


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("bigint", "all"), ("bigint", "plain"), ("ubigint", "lifetime"), ("varchar", "all"), ("varchar", "plain"),
        ("varchar", "bounded"), ("uuid", "lifetime"),
    ],
)  # fmt: skip
def test_training_online_verify_and_explain_have_the_same_order(
    tmp_path: Path, valkey: str, kind: str, more: str
) -> None:
    rng = random.Random(f"{kind} {more}")
    project, view = project_of(tmp_path, valkey, kind, VIEWS[more])
    names = [*VIEWS[more]]
    numbers = iter(rng.sample(range(900), 900))
    events: list[Payment] = []

    def some(count: int) -> list[Payment]:
        made = []
        for n, minutes in zip(numbers, rng.choices(MINUTES, k=count), strict=False):
            at = NOW - timedelta(minutes=minutes)
            created = at + timedelta(seconds=rng.choice([1, 1, 2]))
            made.append((IDS[kind](n), n % CUSTOMERS, f"shop {n}", f"{rng.choice([1, 2])}.50", at, created))
        events.extend(made)
        return made

    def landed(name: str, payments: list[Payment]) -> None:
        project.landed(name, [(e[0].bytes if kind == "uuid" else e[0], *e[1:]) for e in payments])

    def check() -> None:
        wanted = [{name: expected(events, customer)[name] for name in names} for customer in range(CUSTOMERS)]
        assert online(project, view, names) == wanted
        with OnlineStore(valkey) as store:
            of = {"now_us": to_us(NOW), "project_dir": tmp_path}
            found = verify_events(view, store, project.offline, sample=0, **of)
            assert (found.keys, found.differences) == (CUSTOMERS, ())
            if "shop" in names:
                key = {"customer": 0}
                because = explain(f"{view.id}:shop", key, store, project.offline, at_us=to_us(NOW), **of)
                assert because.latest is not None
                assert because.warehouse == wanted[0]["shop"]
                assert wanted[0]["shop"] in because.latest.values()

    landed("a", some(40))
    project.publish()
    project.sync()
    assert trained(project, view, names) == online(project, view, names)
    check()
    for step in range(2):
        recent = [event for event in some(30) if event[4] > NOW - timedelta(days=2)]
        del events[-30:]
        events.extend(recent)
        project.push(*recent)
        check()
        if step:
            with OnlineStore(valkey) as store:
                land(store, project.source, project.landing)
            check()
        landed(f"b{step}", some(20))
        project.publish()
        project.sync(full=step == 1)
        if step:
            check()
            assert trained(project, view, names) == online(project, view, names)


def test_of_versions_with_equal_timestamps_the_last_in_the_table_counts_everywhere(tmp_path: Path, valkey: str) -> None:
    project, view = project_of(tmp_path, valkey, "bigint", VIEWS["all"])
    rng, names = random.Random(2), [*VIEWS["all"]]

    def version(number: int) -> Payment:
        at = NOW - timedelta(minutes=MINUTES[number % len(MINUTES)])
        return number, number % CUSTOMERS, f"shop {rng.random()}", f"{rng.randrange(1, 90)}.00", at, at

    for name in ("a", "b", "c"):
        project.landed(name, [version(number) for number in range(60)])
    project.publish()
    for full in (False, True):
        project.sync(full=full)
        assert online(project, view, names) == trained(project, view, names)
        with OnlineStore(valkey) as store:
            at: dict[str, Any] = {"now_us": to_us(NOW), "project_dir": project.folder, "sample": 0}
            assert verify_events(view, store, project.offline, **at).differences == ()

"""Users of Redis with the rights that `features redis-acl` prints: each can do its job, and no reader reads pii."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import msgspec
import pytest
import redis
from typer.testing import CliRunner

from feature_server import AsyncFeatureClient, FeatureClient
from feature_server.cli.rights import app
from feature_server.definitions.facts import FeatureView
from feature_server.errors import AccessDenied, OnlineStoreRefused
from feature_server.history.live import read_live
from feature_server.ingest import trim
from feature_server.ingest.transaction import Ingestor
from feature_server.ingest.worker import Worker
from feature_server.layout.keys import Names, code_text
from feature_server.layout.rights import ROLES, acl_rules
from feature_server.online.store import OnlineStore
from feature_server.settings import load_settings
from feature_server.times import to_us
from feature_server.verify.events import verify_events
from feature_server.verify.rows import verify
from tests.support.live_project import NOW, LiveProject, make_live_view, payment
from tests.support.own_valkey import own_valkey
from tests.support.served import served
from tests.support.sync_project import Tables, make_view

PLAIN = make_live_view()
BATCH = make_view(
    "customer__contact", keys={"customer": "int64"}, features={"plan": "string", "email": "string"}, pii={"email"}
)
AT_NOW = load_settings({}, clock=NOW)
PASSWORD = "secret"
OPEN = [f"{PLAIN.id}:n", f"{BATCH.id}:plan"]
CLOSED = [f"{BATCH.id}:email", "customer__shops:shop"]


def pii_stream() -> FeatureView:
    view = make_live_view({"shop": ("last(merchant) over hour", "varchar")}, name="customer__shops")
    assert view.stream is not None
    arguments = tuple(
        msgspec.structs.replace(argument, pii=True) if argument.dtype.kind == "string" else argument
        for argument in view.stream.arguments
    )
    features = tuple(
        msgspec.structs.replace(feature, pii=True) if feature.name == "shop" else feature for feature in view.features
    )
    stream = msgspec.structs.replace(view.stream, arguments=arguments)
    return msgspec.structs.replace(view, stream=stream, features=features)


PERSONAL = pii_stream()


class Store:
    """A store that its syncer has filled, and `admin`, who may do all."""

    def __init__(self, folder: Path, admin: redis.Redis, namespace: str) -> None:
        self.admin, self.names = admin, Names(namespace)
        self._path = admin.connection_pool.connection_kwargs["path"]
        self._namespace = f"&namespace={namespace}" if namespace else ""
        self.project = LiveProject(folder / "project", self.url("syncer"), PLAIN, PERSONAL)
        self.project.landed("a", [payment(n, n % 3, 10 + n) for n in range(9)])
        self.project.publish()
        tables = Tables(folder / "project" / "offline")
        at = NOW - timedelta(hours=1)
        tables.commit(BATCH, [[(key, at, "gold", f"{key}@example.com") for key in range(3)]])
        self.project.registry = msgspec.structs.replace(
            self.project.registry, feature_views=tuple(sorted((PLAIN, PERSONAL, BATCH), key=lambda view: view.id))
        )
        self.project.sync()

    def user(self, *roles: str) -> str:
        name = "-".join(roles)
        rules = acl_rules(roles, self.names).split()
        self.admin.execute_command("ACL", "SETUSER", name, *rules, f">{PASSWORD}")
        return name

    def url(self, *roles: str) -> str:
        return f"unix://{self._path}?username={self.user(*roles)}&password={PASSWORD}{self._namespace}"

    def may(self, user: str, *command: str | bytes) -> bool:
        return self.admin.execute_command("ACL", "DRYRUN", user, *command) in (b"OK", "OK", True)


def push_over_http(address: str, store: Store) -> httpx.Response:
    event = {
        "payment_id": 500, "customer": 1, "merchant": "shop 9", "amount": "1.00",
        "paid_at": NOW.isoformat(), "ingested_at": NOW.isoformat(),
    }  # fmt: skip
    columns = {name: [value] for name, value in event.items()}
    return httpx.post(f"{address}/push", json={"push_source_name": store.project.source.name, "df": columns})


def binaries() -> list[str | None]:
    return [None, shutil.which("redis-server")]


@pytest.fixture(params=["", "shop"], ids=["bare", "namespace"])
def namespace(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[0, 1], ids=["valkey", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path, namespace: str) -> Iterator[Store]:
    binary = binaries()[request.param]
    if request.param and binary is None:
        pytest.skip("no redis-server here")
    with own_valkey(tmp_path / "redis", binary=binary) as admin:
        yield Store(tmp_path, admin, namespace)


def test_a_syncer_does_all_that_fills_and_watches_a_store(store: Store) -> None:
    project = store.project
    project.push(payment(100, 1, 1))
    source = project.source
    with OnlineStore(project.url) as online:
        assert read_live(online, source.name).pushes == 1
        for view in (PLAIN, PERSONAL):
            found = verify_events(
                view, online, project.offline, now_us=to_us(NOW), project_dir=project.folder, sample=0
            )
            assert (found.keys, found.unexplained) == (3, 0)
        found = verify(BATCH, online, project.offline, now_us=to_us(NOW), sample=0)
        assert (found.keys, found.unexplained) == (3, 0)
        online.put_keys(b"{}", keyed=False)
        assert online.keys() == b"{}"
        online.client.xadd(store.names.events(source.name), {"event": b"{"})
        with Ingestor(project.url, lambda: to_us(NOW), expire=False) as ingestor:
            Worker(online, ingestor, source, project.landing).run(once=True)
        assert read_live(online, source.name).dead_letters == 1
        assert read_live(online, source.name).pushes == 0
    project.sync(full=True, expire=True)
    project.sync(full=True, sweep=True)
    project.registry = msgspec.structs.replace(project.registry, feature_views=())
    project.sync()
    assert [key for key in store.admin.scan_iter() if b"{" in key] == []


def test_a_reader_reads_what_is_not_pii_and_is_told_what_is(store: Store) -> None:
    url = store.url("reader")
    with FeatureClient(url, settings=AT_NOW) as client:
        assert client.get(OPEN, customer=1).to_dict() == {"customer": 1, "n": 3, "plan": "gold"}
        for name in CLOSED:
            with pytest.raises(AccessDenied) as raised:
                client.get([*OPEN, name], customer=1)
            assert raised.value.where == name
            assert "redis-acl reader-pii" in str(raised.value.expected)
            assert raised.value.got == "user 'reader'"
        assert client.get(OPEN, customer=1)["n"] == 3


def test_a_refusal_is_that_requests_alone(store: Store) -> None:
    async def ask() -> list[object]:
        async with AsyncFeatureClient(store.url("reader"), settings=AT_NOW) as client:
            await client.get(OPEN, customer=1)
            asked = [client.get(names, customer=1) for names in (OPEN, CLOSED, OPEN, CLOSED[:1], OPEN)]
            return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(ask())
    assert [isinstance(one, AccessDenied) for one in found] == [False, True, False, True, False]


def test_who_may_read_pii_reads_all(store: Store) -> None:
    for roles in (("reader-pii",), ("reader-pii", "pusher"), ("syncer",)):
        with FeatureClient(store.url(*roles), settings=AT_NOW) as client:
            found = client.get([*OPEN, *CLOSED], customer=1).to_dict()
        assert found == {"customer": 1, "n": 3, "plan": "gold", "email": "1@example.com", "shop": "shop 1"}


def test_a_pusher_writes_what_is_pii_and_cannot_read_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trim, "TRIM_BYTES", 64)  # so that a push tries to cut keys down
    url = store.url("pusher")
    store.project.url = url
    for number in range(100, 110):
        store.project.push(payment(number, 1, 1))
    with redis.Redis.from_url(url.partition("&namespace")[0]) as client:
        for key in store.admin.scan_iter():
            if b"!" in key or b":log:" in key:
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.get(key)
    with FeatureClient(store.url("reader-pii"), settings=AT_NOW) as client:
        assert client.get([f"{PLAIN.id}:n", "customer__shops:shop"], customer=1).to_dict() == {
            "customer": 1,
            "n": 13,
            "shop": "shop 4",
        }


def test_each_key_is_open_to_whom_it_should_be(store: Store) -> None:
    store.project.push(payment(100, 1, 1))
    with OnlineStore(store.project.url) as online:
        online.put_keys(b"{}", keyed=False)
        source = store.project.source.name
        online.client.xadd(store.names.events(source), {"event": b"{"})
        online.client.xadd(store.names.dead(source), {"event": b"{"})
        online.client.set(store.names.landing(source), b"1-1 2-2")
    for user in ("reader", "reader-pii", "pusher"):
        store.user(user)
    store.user("reader", "pusher")
    prefix = f"{store.names.namespace}:" if store.names.namespace else ""
    kept = {key.decode().removeprefix(prefix): key for key in store.admin.scan_iter()}
    rows = {name for name in kept if "{" in name and not name.startswith("!")}
    pii = {name for name in kept if name.startswith("!")}
    assert len(rows) == 3 + 3  # of the stream view, and the other part of the batch view
    assert len(pii) == 3 + 3
    told = {"features:registry", "features:epoch", "features:keys"}

    def readable(user: str) -> set[str]:
        return {name for name, key in kept.items() if store.may(user, "MGET", key)}

    assert readable("reader") == readable("reader-pusher") == told | rows
    assert readable("reader-pii") == told | rows | pii
    for user in ("reader", "reader-pii"):
        for command in (
            "SCAN 0",
            "KEYS *",
            "RANDOMKEY",
            "FLUSHALL",
            "ACL LIST",
            "CONFIG GET *",
            "EVAL x 0",
            "DUMP b{1}",
        ):
            assert not store.may(user, *command.split())
    for key in kept.values():
        assert not store.may("reader-pusher", "SET", key, "x") or b"{" in key or b":log:" in key
        for command in (
            ("SET", key, "x"),
            ("APPEND", key, "x"),
            ("DEL", key),
            ("GETDEL", key),
            ("XADD", key, "*", "a", "b"),
        ):
            assert not store.may("reader", *command)
        assert not store.may("reader", "XRANGE", key, "-", "+")


def test_a_reader_of_one_store_reads_no_other_that_shares_its_redis(store: Store) -> None:
    other = "other:" if store.names.namespace else "shop:"
    store.user("reader-pii")
    for name in (f"{other}b{{1}}", f"{other}!b{{1}}", f"{other}features:registry", "features:log:{1}"):
        assert not store.may("reader-pii", "MGET", name)


def test_every_code_that_may_be_drawn_is_that_of_a_row(store: Store) -> None:
    user = store.user("reader")
    for number in (0, 61, 62, 10**6, int(4e9)):  # the last: a time in the year 2096
        code = store.names.code(number)
        assert code.endswith(code_text(number))
        assert store.may(user, "MGET", f"{code}{{7}}", f"{code}.base{{7|a:b}}")
        assert not store.may(user, "MGET", f"!{code}{{7}}")


@pytest.mark.parametrize("namespace", [""], indirect=True)
def test_a_server_of_a_reader_serves_all_but_pii_and_one_that_pushes_too(store: Store) -> None:
    body = {"features": OPEN, "entities": {"customer": [1]}}
    with served(store.url("reader", "pusher"), clock=NOW.isoformat()) as server:
        assert httpx.get(f"{server.address}/ready").status_code == 200
        read = httpx.post(f"{server.address}/get-online-features", json=body)
        assert read.status_code == 200, read.text
        denied = httpx.post(f"{server.address}/get-online-features", json=body | {"features": CLOSED})
        assert denied.status_code == 403
        assert CLOSED[0] in denied.text or CLOSED[1] in denied.text
        assert httpx.get(f"{server.address}/metrics").status_code == 200
        assert httpx.get(f"{server.address}/").status_code == 200
        pushed = push_over_http(server.address, store)
        assert pushed.status_code == 200, pushed.text
        assert "NOPERM" not in server.log()
    with FeatureClient(store.url("reader-pii"), settings=AT_NOW) as client:
        assert client.get(["customer__shops:shop"], customer=1)["shop"] == "shop 9"


@pytest.mark.parametrize("namespace", ["shop"], indirect=True)
def test_a_server_of_a_reader_alone_reads_and_takes_no_push(store: Store) -> None:
    body = {"features": OPEN, "entities": {"customer": [1, 2, 77]}}
    with served(store.url("reader"), clock=NOW.isoformat()) as server:
        assert httpx.get(f"{server.address}/ready").status_code == 200
        assert httpx.post(f"{server.address}/get-online-features", json=body).status_code == 200
        pushed = push_over_http(server.address, store)
        assert (pushed.status_code, "the Redis user lacks a right" in pushed.text) == (503, True), pushed.text
        assert httpx.post(f"{server.address}/get-online-features", json=body).status_code == 200
        assert "Traceback" not in server.log()


def test_a_user_who_may_nothing_of_a_store_is_no_question_of_pii(store: Store) -> None:
    store.admin.execute_command("ACL", "SETUSER", "nobody", "reset", "on", "-@all", f">{PASSWORD}")
    url = store.url("reader").replace("username=reader", "username=nobody")
    with FeatureClient(url, settings=AT_NOW) as client, pytest.raises(OnlineStoreRefused):
        client.get(CLOSED, customer=1)


@pytest.mark.parametrize("roles", [[role] for role in ROLES] + [["reader", "pusher"]])
def test_the_command_prints_the_rules(roles: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURES_REDIS_URL", "redis://localhost:6379/2?namespace=shop")
    printed = CliRunner().invoke(app, ["redis-acl", *roles])
    assert printed.exit_code == 0, printed.output
    rules = acl_rules(roles, Names("shop"), select=True)
    assert printed.stdout == f"ACL SETUSER features-{'-'.join(roles)} {rules}\n"
    assert "+select" in rules

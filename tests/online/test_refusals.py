"""What Redis answers instead of a result: reads, pushes and the worker tell waiting from what somebody must change."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from feature_server import FeatureClient
from feature_server.errors import OnlineStoreError, OnlineStoreRefused, OnlineStoreUnavailable
from feature_server.ingest.transaction import Ingestor
from feature_server.ingest.worker import Worker
from feature_server.layout.keys import EVENTS
from feature_server.online.store import OnlineStore
from feature_server.times import to_us
from tests.support.live_project import NOW, SOURCE, LiveProject, make_live_view, payment
from tests.support.own_valkey import own_valkey, url_of
from tests.support.payments import EVENT, event
from tests.support.served import eventually, served

VIEW = make_live_view()
READ = {"features": ["customer__payments:n"], "entities": {"customer": [1]}}
COLUMNS = {name: [value.isoformat() if name.endswith("_at") else value] for name, value in EVENT.items()}
PUSH = {"push_source_name": SOURCE.name, "df": COLUMNS}


def synced(folder: Path, client: redis.Redis) -> LiveProject:
    project = LiveProject(folder, url_of(client), VIEW)
    project.landed("a", [payment(1, 1, 60)])
    project.publish()
    project.sync()
    return project


@pytest.fixture
def own(tmp_path: Path) -> Iterator[redis.Redis]:
    """A Valkey with a synced stream view; what a test does to it harms no other."""
    with own_valkey(tmp_path / "valkey") as client:
        synced(tmp_path, client)
        yield client


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[redis.Redis, httpx.Client]]:
    """A Valkey that a test may break and must mend, its administrator, and a feature server over it."""
    folder = tmp_path_factory.mktemp("refusing")
    with own_valkey(folder / "valkey") as client:
        synced(folder, client)
        client.acl_setuser("admin", enabled=True, passwords=["+x"], commands=["+@all"], keys=["*"])
        client.execute_command("AUTH", "admin", "x")
        client.config_set("requirepass", "secret")
        with (
            redis.Redis(unix_socket_path=url_of(client)[7:], username="admin", password="x") as admin,
            served(f"{url_of(client)}?password=secret") as server,
            httpx.Client(base_url=server.address, trust_env=False, timeout=60) as found,
        ):
            assert "secret" not in str([process.cmdline() for process in server.workers()])
            yield admin, found


def refuse(admin: redis.Redis, how: str) -> None:
    """Make a server answer like that to its default user."""
    if how == "OOM":
        admin.config_set("maxmemory", 1)
    elif how == "READONLY":
        admin.execute_command("REPLICAOF", "127.0.0.1", "1")
    elif how == "MISCONF":
        folder = Path(url_of(admin).removeprefix("unix://")).parent
        before, full = admin.config_get("dir")["dir"], folder / "full"
        full.mkdir()
        admin.config_set("dir", str(full))
        full.rmdir()
        admin.config_set("save", "3600 1000000")
        admin.bgsave()
        eventually(lambda: admin.info("persistence")["rdb_last_bgsave_status"] != "ok")
        admin.config_set("dir", before)
    elif how == "NOREPLICAS":
        admin.config_set("min-replicas-to-write", 1)
    elif how == "WRONGPASS":
        admin.config_set("requirepass", "other")
        admin.execute_command("CLIENT", "KILL", "USER", "default")
    else:
        admin.execute_command("ACL", "SETUSER", "default", *how.split())


def mend(admin: redis.Redis, password: str = "") -> None:
    for name, value in {"maxmemory": 0, "min-replicas-to-write": 0, "save": "", "requirepass": password}.items():
        admin.config_set(name, value)
    admin.execute_command("REPLICAOF", "NO", "ONE")
    admin.execute_command("ACL", "SETUSER", "default", "+@all", "~*")


@pytest.mark.parametrize(
    ("how", "pushes", "reads", "what", "remedy"),
    [
        ("OOM", 10, None, "Redis' memory is full", "raise its maxmemory"),
        ("READONLY", 1, None, "this Redis is a replica, which takes no writes", "set FEATURES_REDIS_URL"),
        ("MISCONF", 10, None, "Redis cannot save its data and takes no writes", "whether its disk is full"),
        ("NOREPLICAS", 10, None, "Redis has too few replicas to take writes", "bring its replicas back"),
        ("WRONGPASS", 0, 0, "Redis does not know this user and password", "correct them in FEATURES_REDIS_URL"),
        ("-append", 0, None, "the Redis user lacks a right", "ACL SETUSER <user> +append"),
        ("-mget", None, 0, "the Redis user lacks a right", "ACL SETUSER <user> +mget"),
        ("resetkeys ~features:*", 0, 0, "the Redis user lacks a right", "ACL SETUSER <user> ~"),
    ],
)
def test_pushes_and_reads_say_what_redis_refuses_and_whether_waiting_helps(
    http: tuple[redis.Redis, httpx.Client], how: str, pushes: int | None, reads: int | None, what: str, remedy: str
) -> None:
    """`pushes`, `reads`: seconds to wait, 0 where waiting does not help, None where all is well."""
    admin, client = http
    assert client.post("/push", json=PUSH).status_code == 200
    refuse(admin, how)
    try:
        for route, body, wait in (("/push", PUSH, pushes), ("/get-online-features", READ, reads)):
            answer = client.post(route, json=body)
            if wait is None:
                assert answer.status_code == 200, answer.text
                continue
            error = answer.json()
            assert (answer.status_code, error["what"]) == (503, what)
            assert answer.headers.get("retry-after") == (str(wait) if wait else None)
            assert error["error"] == ("OnlineStoreUnavailable" if wait else "OnlineStoreRefused")
            assert remedy in error["remedy"]
    finally:
        mend(admin, "secret")
    eventually(lambda: client.post("/push", json=PUSH).status_code == 200)
    eventually(lambda: client.post("/get-online-features", json=READ).status_code == 200)


def test_a_redis_that_wants_a_password_says_so_to_those_without_one(own: redis.Redis) -> None:
    own.config_set("requirepass", "secret")
    url = url_of(own)
    with FeatureClient(url) as client, pytest.raises(OnlineStoreRefused, match="put user and password in FEATURES_RED"):
        client.get(features=["customer__payments:n"], customer=1)
    with FeatureClient(url) as client, pytest.raises(OnlineStoreRefused, match="Redis wants a password"):
        client.push(SOURCE.name, [EVENT])
    with OnlineStore(url) as online, pytest.raises(OnlineStoreRefused, match="Redis wants a password"):
        online.registry()


@pytest.mark.parametrize("how", ["OOM", "READONLY", "MISCONF", "NOREPLICAS", "-append"])
def test_the_worker_says_once_what_it_waits_for_and_goes_on(own: redis.Redis, tmp_path: Path, how: str) -> None:
    said, ended = list[str](), list[bool]()
    own.acl_setuser("admin", enabled=True, passwords=["+x"], commands=["+@all"], keys=["*"])
    own.xadd(EVENTS + SOURCE.name.encode(), event(7))
    with (
        redis.Redis(unix_socket_path=url_of(own)[7:], username="admin", password="x") as admin,
        OnlineStore(url_of(own)) as online,
        Ingestor(url_of(own), lambda: to_us(NOW), expire=False) as ingestor,
    ):
        refuse(admin, how)
        worker = Worker(online, ingestor, SOURCE, tmp_path / "landing" / "payments")
        arguments = {"stopped": lambda: bool(ended), "report": said.append, "retry_seconds": 0.05}
        thread = threading.Thread(target=worker.run, kwargs=arguments)
        thread.start()
        try:
            eventually(lambda: said)
            mend(admin)
            eventually(lambda: worker.done.accepted == 1)
        finally:
            ended.append(True)
            thread.join()
    assert [line.partition(":")[0] for line in said] == ["waiting for Redis", "landed shop.payments events=1 files=1"]


def test_the_worker_goes_on_after_redis_was_emptied(own: redis.Redis, tmp_path: Path) -> None:
    said, ended = list[str](), list[bool]()
    project = LiveProject(tmp_path, url_of(own), VIEW)
    with OnlineStore(project.url) as online, Ingestor(project.url, lambda: to_us(NOW), expire=False) as ingestor:
        worker = Worker(online, ingestor, SOURCE, project.landing)
        arguments = {"stopped": lambda: bool(ended), "report": said.append, "retry_seconds": 0.05}
        thread = threading.Thread(target=worker.run, kwargs=arguments)
        thread.start()
        try:
            eventually(lambda: own.exists(EVENTS + SOURCE.name.encode()))
            own.flushall()
            eventually(lambda: said)
            project.sync()
            own.xadd(EVENTS + SOURCE.name.encode(), event(7))
            eventually(lambda: worker.done.accepted == 1)
        finally:
            ended.append(True)
            thread.join()
    assert said[0].startswith("waiting for Redis: the producers' stream")


def test_a_node_of_a_redis_cluster_is_called_that(tmp_path: Path) -> None:
    options = ("--cluster-enabled", "yes", "--cluster-port", str(_free_port()), "--port", str(_free_port()))
    with own_valkey(tmp_path / "valkey", *options) as client:
        url = url_of(client)
        for slots in (False, True):
            if slots:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            with OnlineStore(url) as online, pytest.raises(OnlineStoreRefused, match="node of a Redis Cluster"):
                online.publish(lambda now: pytest.fail("was read"))
            with FeatureClient(url) as reader, pytest.raises(OnlineStoreRefused, match="node of a Redis Cluster"):
                reader.get(features=["customer__payments:n"], customer=1)
            with Ingestor(url, lambda: 0) as ingestor, pytest.raises(OnlineStoreRefused, match="Redis Cluster"):
                ingestor.push(SOURCE.name, [EVENT])


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def answering(tmp_path: Path, reply: bytes) -> Iterator[str]:
    """A server that gives one answer to whatever it is asked."""
    path = str(tmp_path / "answers.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        def answer(connection: socket.socket) -> None:
            with connection:
                while asked := connection.recv(1 << 16):
                    connection.sendall(reply * max(asked.count(b"\r\n$3\r\nGET") + asked.count(b"*1\r\n"), 1))

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"unix://{path}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("reply", "what", "waits"),
    [
        ("LOADING Redis is loading the dataset in memory", "Redis is still loading its data", True),
        ("BUSY Redis is busy running a script. You can only call SCRIPT KILL.", "Redis is busy with a script", True),
        ("MASTERDOWN Link with MASTER is down", "this replica has lost its primary", True),
        ("ERR max number of clients reached", "Redis takes no more connections", True),
        ("EXECABORT Transaction discarded because of: OOM command not allowed", "Redis' memory is full", True),
        ("EXECABORT Transaction discarded because of previous errors.", "Redis refuses a transaction", False),
        ("MOVED 11940 127.0.0.1:18502", "this Redis is a node of a Redis Cluster", False),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "this Redis is a node of a Redis Cluster", False),
        ("DENIED Redis is running in protected mode because protected mode is enabled", "this Redis is in prot", False),
        ("NOPERM this user has no permissions to run the 'get' command", "the Redis user lacks a right", False),
    ],
)
def test_an_answer_means_the_same_to_commands_reads_and_pushes(
    tmp_path: Path, reply: str, what: str, waits: bool
) -> None:
    kind = OnlineStoreUnavailable if waits else OnlineStoreRefused
    with answering(tmp_path, f"-{reply}\r\n".encode()) as url:
        ways: list[Any] = []
        with OnlineStore(url) as store, pytest.raises(OnlineStoreError) as caught:
            store.registry()
        ways.append(caught.value)
        with FeatureClient(url) as client, pytest.raises(OnlineStoreError) as caught:
            client.get(features=["customer__payments:n"], customer=1)
        ways.append(caught.value)
        with Ingestor(url, lambda: 0) as ingestor, pytest.raises(OnlineStoreError) as caught:
            ingestor.push(SOURCE.name, [EVENT])
        ways.append(caught.value)
    assert [(type(error), error.what.startswith(what)) for error in ways] == [(kind, True)] * 3


def test_what_is_answered_with_503_is_logged_once_for_each_cause(own: redis.Redis) -> None:
    with served(url_of(own)) as server:
        limits = httpx.Limits(max_connections=40)
        with httpx.Client(base_url=server.address, trust_env=False, limits=limits, timeout=60) as http:
            assert http.post("/push", json=PUSH).status_code == 200
            refuse(own, "OOM")
            with ThreadPoolExecutor(40) as threads:
                answers = list(threads.map(lambda _: http.post("/push", json=PUSH).status_code, range(200)))
            with FeatureClient(server.address) as client, pytest.raises(OnlineStoreUnavailable) as caught:
                client.push(SOURCE.name, [EVENT], retry_seconds=0)
            assert caught.value.retry_after_seconds == 10
            own.config_set("requirepass", "secret")
            own.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no")
            assert http.get("/entities").status_code == 503
            assert [http.get("/ready").status_code for _ in range(3)] == [503] * 3
        lines = [line for line in server.stop().splitlines() if " ERROR " in line or "Traceback" in line]
    assert answers == [503] * 200
    pushes = [line for line in lines if "/push answered 503: " in line and "Redis' memory is full; got: OOM" in line]
    assert 1 <= len(pushes) < 200
    others = [line for line in lines if line not in pushes]
    assert [re.findall("/[a-z]+ answered 503: ", line) for line in others] == [
        ["/entities answered 503: "], ["/ready answered 503: "],
    ]  # fmt: skip

"""One reading of a Redis URL: reads, pushes and syncs go to the same place, as the same user, or refuse it alike."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import hiredis
import pytest
import redis

from feature_server.errors import OnlineStoreRefused, OnlineStoreUnavailable, SettingsError
from feature_server.ingest.link import Link
from feature_server.online.address import RedisAddress, parse_redis_url
from feature_server.online.readers import AsyncRedisReader, RedisReader
from feature_server.online.store import OnlineStore
from tests.support.own_valkey import own_valkey, url_of

LOGIN, SECRET = "u:p", ":p%40s%2Fs"
CA = __file__  # a file that exists


class Place(NamedTuple):
    """Where a URL leads."""

    at: str | tuple[str, int]
    db: int = 0
    username: str | None = None
    password: str | None = None
    tls: dict[str, str] | None = None


def of_reads(address: RedisAddress) -> Place:
    at = address.path or (address.host, address.port)
    return Place(at, address.db, address.username, address.password, address.tls)


def of_syncs(url: str) -> Place:
    """As redis-py has it in hand when it connects."""
    with OnlineStore(url) as store:
        connection = store.client.connection_pool.make_connection()
    at = getattr(connection, "path", None) or (connection.host, connection.port)
    tls = None
    if isinstance(connection, redis.SSLConnection):
        tls = vars(connection)["_address"].tls
    return Place(at, connection.db, connection.username, connection.password, tls)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://h", Place(("h", 6379))),
        ("redis://", Place(("localhost", 6379))),
        ("redis://h:7000/2", Place(("h", 7000), 2)),
        ("redis://[::1]:7000", Place(("::1", 7000))),
        ("redis://h/1?db=4", Place(("h", 6379), 4)),
        ("redis://h/1?db=", Place(("h", 6379), 1)),
        (f"redis://{SECRET}@h/0", Place(("h", 6379), 0, None, "p@s/s")),
        (f"redis://{LOGIN}@h", Place(("h", 6379), 0, "u", "p")),
        ("redis://u@h", Place(("h", 6379), 0, "u")),
        ("redis://:@h", Place(("h", 6379))),
        ("redis://h?username=u&password=a%252Fb", Place(("h", 6379), 0, "u", "a%2Fb")),
        (f"redis://{LOGIN}@h?username=v&password=q", Place(("h", 6379), 0, "u", "p")),
        ("unix:///run/redis.sock", Place("/run/redis.sock")),
        (f"unix://{LOGIN}@/run/my%20redis.sock?db=1", Place("/run/my redis.sock", 1, "u", "p")),
        ("rediss://h/3", Place(("h", 6379), 3, tls={})),
        ("rediss://h?ssl_cert_reqs=none", Place(("h", 6379), tls={"ssl_cert_reqs": "none"})),
        (f"rediss://h?ssl_ca_certs={CA}", Place(("h", 6379), tls={"ssl_ca_certs": CA})),
    ],
)
def test_reads_pushes_and_syncs_take_a_url_for_the_same_place(url: str, place: Place) -> None:
    for address in (RedisReader(url).address, AsyncRedisReader(url).address, Link(url).address):
        assert of_reads(address) == place
    assert of_syncs(url) == place


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://h/abc", "database 'abc'"),
        ("redis://h/1/2", "database '1/2'"),
        ("redis://h?db=-1", "database '-1'"),
        ("redis://h?socket_timeout=3", "option 'socket_timeout' that is none of db, namespace, password"),
        ("redis://h?socket_timeout=", "option 'socket_timeout' that is none of db, namespace, password"),
        ("redis://h?ssl_cert_reqs=none", "option 'ssl_cert_reqs' without rediss://"),
        ("redis://h?namespace=", "a namespace that is not 1 to 64 letters, digits, - and _"),
        ("redis://h?namespace=a%3Ab", "a namespace that is not 1 to 64 letters"),
        ("unix:///s?ssl_ca_certs=/", "option 'ssl_ca_certs' without rediss://"),
        ("rediss://h?ssl_cert_reqs=optional", "ssl_cert_reqs 'optional', which is neither none nor required"),
        ("rediss://h?ssl_check_hostname=no", "option 'ssl_check_hostname' that is none of"),
        ("rediss://h?ssl_ca_certs=/no/such/file", "ssl_ca_certs: no file /no/such/file"),
        (f"rediss://h?ssl_keyfile={CA}", "ssl_keyfile without ssl_certfile"),
        ("redis://h:70000", "a port that is not a number up to 65535"),
        ("REDIS://h", "another beginning than redis://"),
        (" redis://h", "another beginning than redis://"),
        ("redis:/1", "another beginning than redis://"),
        ("redis://h#x", "a # or an @"),
        ("unix://", "no path"),
        ("valkey://h", "scheme 'valkey'"),
    ],
)
def test_reads_pushes_and_syncs_refuse_a_url_alike(url: str, said: str) -> None:
    uses: list[Any] = [RedisReader, AsyncRedisReader, OnlineStore, lambda url: Link(url)]
    told = set()
    for use in uses:
        with pytest.raises(SettingsError) as caught:
            use(url)
        told.add(str(caught.value))
    assert len(told) == 1
    assert f"got: {said}" in told.pop()


def test_a_user_without_a_password_is_that_user_to_reads_and_syncs(tmp_path: Path) -> None:
    """`nobody` may not read: a connection that does not introduce itself as it would."""
    with own_valkey(tmp_path) as client:
        client.execute_command("ACL", "SETUSER", "nobody", "on", "nopass", "-@all", "+client")
        url = url_of(client).replace("unix://", "unix://nobody@")
        with OnlineStore(url) as store, pytest.raises(OnlineStoreRefused, match="the Redis user lacks a right"):
            store.registry()
        with pytest.raises(OnlineStoreRefused, match="the Redis user lacks a right"):
            RedisReader(url).mget([b"a"])


@contextmanager
def tls_server(folder: Path, name: str) -> Iterator[tuple[int, Path]]:
    """Answers every connection as an empty Redis would; gives its port and its certificate."""
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    replies = {b"CLIENT": b"+OK\r\n", b"GET": b"$-1\r\n", b"MGET": b"*1\r\n$-1\r\n"}
    stopped = threading.Event()

    def serve(listener: socket.socket) -> None:
        while not stopped.is_set():
            try:
                link, _ = listener.accept()
                with context.wrap_socket(link, server_side=True) as secured:
                    commands = hiredis.Reader()
                    while asked := secured.recv(4096):
                        commands.feed(asked)
                        while command := commands.gets():
                            secured.sendall(replies[command[0]])
            except OSError:
                continue

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1], certificate
        finally:
            stopped.set()
            thread.join()


def test_with_authorities_of_its_own_a_url_trusts_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither reads nor syncs take the machine's authorities beside those of `ssl_ca_certs`."""

    def ask(url: str) -> None:
        with OnlineStore(url) as store:
            assert store.registry() is None
        assert RedisReader(url).mget([b"a"]) == [None]

    with tls_server(tmp_path, "server") as (port, certificate), tls_server(tmp_path, "other") as (_, other):
        ask(f"rediss://localhost:{port}?ssl_ca_certs={certificate}")
        ask(f"rediss://localhost:{port}?ssl_cert_reqs=none")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        ask(f"rediss://localhost:{port}")
        url = f"rediss://localhost:{port}?ssl_ca_certs={other}"
        with OnlineStore(url) as store, pytest.raises(OnlineStoreUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            store.registry()
        with pytest.raises(OnlineStoreUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            RedisReader(url).mget([b"a"])


@pytest.mark.parametrize(
    "url",
    [
        "redis://example",
        "redis://example:7000/2",
        "redis://:p%40ss@example/0",
        "redis://user:secret@example:1?db=4",
        "unix:///run/redis.sock?db=1",
        "unix://user:secret@/run/redis.sock",
        "rediss://example:6380/1?ssl_cert_reqs=none",
    ],
)
def test_a_url_means_what_it_means_to_redis_py(url: str) -> None:
    theirs = redis.connection.parse_url(url)
    ours = parse_redis_url(url)
    assert (ours.host, ours.port) == (theirs.get("host", "localhost"), theirs.get("port", 6379))
    assert (ours.path, ours.db) == (theirs.get("path"), theirs.get("db", 0))
    assert (ours.username, ours.password) == (theirs.get("username"), theirs.get("password"))
    assert (ours.tls is not None) == (theirs.get("connection_class") is redis.connection.SSLConnection)
    assert "secret" not in ours.shown
    assert "p@ss" not in ours.shown


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://example", "scheme 'http'"),
        ("example:6379", "scheme 'example'"),
        ("redis://example:99999", "a port"),
        ("redis://example/one", "database 'one'"),
        ("redis://example?databse=1", "option 'databse'"),
        ("unix://", "no path"),
        ("rediss://example?ssl_ca_certs=/no/such/file", "no file"),
        ("rediss://example?ssl_cert_reqs=perhaps", "neither none nor required"),
    ],
)
def test_a_url_that_cannot_be_used_says_why(url: str, said: str) -> None:
    with pytest.raises(SettingsError, match="expected: redis://") as caught:
        parse_redis_url(url)
    assert said in str(caught.value)

"""Reads over connections that drop, hang, are refused, shared by threads or forked."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop

from feature_server.errors import OnlineStoreError, OnlineStoreRefused, OnlineStoreUnavailable
from feature_server.online.address import parse_redis_url
from feature_server.online.embedded import EmbeddedValkey
from feature_server.online.readers import AsyncRedisReader, RedisReader


def sync_reads(url: str, *batches: list[bytes], between: Callable[[], None] = lambda: None) -> list[Any]:
    """What each batch of keys gives, over one sync reader; `between` runs after each."""
    reader = RedisReader(url, timeout=0.3)
    found = []
    for keys in batches:
        found.append(attempt(lambda keys=keys: reader.mget(keys)))  # type: ignore[misc]
        between()
    reader.close()
    return found


def async_reads(url: str, *batches: list[bytes], between: Callable[[], None] = lambda: None) -> list[Any]:
    """The same over one async reader."""

    async def read() -> list[Any]:
        reader = AsyncRedisReader(url, timeout=0.3)
        found = []
        for keys in batches:
            try:
                found.append(await reader.mget(keys))
            except OnlineStoreError as error:
                found.append(type(error))
            await asyncio.to_thread(between)
            await asyncio.sleep(0.05)
        reader.close()
        return found

    return asyncio.run(read())


def attempt(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except OnlineStoreError as error:
        return type(error)


both = pytest.mark.parametrize("reads", [sync_reads, async_reads])


@both
def test_values_come_in_the_order_of_the_keys(valkey: str, reads: Callable[..., list[Any]]) -> None:
    redis.Redis.from_url(valkey).mset({"a": b"\0\xff\r\n", "b": b""})
    assert reads(valkey, [b"b", b"none", b"a", b"b"]) == [[b"", None, b"\0\xff\r\n", b""]]


@both
def test_a_dropped_connection_is_made_again_unnoticed(valkey: str, reads: Callable[..., list[Any]]) -> None:
    server = redis.Redis.from_url(valkey)
    server.set("a", 1)

    def drop() -> None:
        server.client_kill_filter(_type="normal", skipme=True)

    assert reads(valkey, [b"a"], [b"a"], [b"a"], between=drop) == [[b"1"]] * 3


@both
def test_a_server_that_hangs_is_unavailable_and_is_read_again_afterwards(
    valkey: str, reads: Callable[..., list[Any]]
) -> None:
    server = redis.Redis.from_url(valkey)
    server.set("a", 1)
    pauses = iter([lambda: server.client_pause(600), lambda: server.client_unpause(), lambda: None])
    assert reads(valkey, [b"a"], [b"a"], [b"a"], between=lambda: next(pauses)()) == [
        [b"1"],
        OnlineStoreUnavailable,
        [b"1"],
    ]


@both
def test_a_server_that_is_gone_is_unavailable_until_it_is_back(tmp_path: Path, reads: Callable[..., list[Any]]) -> None:
    first = EmbeddedValkey(tmp_path)
    back: list[EmbeddedValkey] = []

    def kill() -> None:
        server = redis.Redis.from_url(first.url)
        server.set("a", 1)
        server.save()
        os.kill(server.info("server")["process_id"], signal.SIGKILL)

    steps = iter([kill, lambda: back.append(EmbeddedValkey(tmp_path)), lambda: None])
    try:
        assert reads(first.url, [b"a"], [b"a"], [b"a"], between=lambda: next(steps)()) == [
            [None],
            OnlineStoreUnavailable,
            [b"1"],
        ]
    finally:
        for server in (first, *back):
            server.close()


@both
def test_a_database_and_password_in_the_url_are_used(valkey: str, reads: Callable[..., list[Any]]) -> None:
    server = redis.Redis.from_url(valkey, db=3)
    server.set("a", 1)
    server.acl_setuser(
        "reader", enabled=True, passwords=["+p@ss/word"], categories=["+@read", "+@connection"], keys=["*"]
    )
    path = valkey.removeprefix("unix://")
    try:
        assert reads(f"unix://reader:p%40ss%2Fword@{path}?db=3", [b"a"]) == [[b"1"]]
        assert reads(f"unix://reader:wrong@{path}?db=3", [b"a"]) == [OnlineStoreRefused]
    finally:
        server.acl_deluser("reader")


def test_reads_of_the_same_moment_are_one_command(valkey: str) -> None:
    server = redis.Redis.from_url(valkey)
    server.mset({f"k{i}": i for i in range(50)})

    async def read() -> list[list[bytes | None]]:
        reader = AsyncRedisReader(valkey)
        await reader.mget([b"k0"])
        found = await asyncio.gather(*(reader.mget([b"k%d" % i] * i) for i in range(1, 50)))
        reader.close()
        return found

    assert asyncio.run(read()) == [[b"%d" % i] * i for i in range(1, 50)]
    assert server.info("commandstats")["cmdstat_mget"]["calls"] == 2


def test_a_read_given_up_by_its_caller_does_not_disturb_the_others(valkey: str) -> None:
    redis.Redis.from_url(valkey).set("a", 1)

    async def read() -> list[Any]:
        reader = AsyncRedisReader(valkey)
        await reader.mget([b"a"])
        tasks = [asyncio.create_task(reader.mget([b"a"])) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        reader.close()
        return [type(item) if isinstance(item, BaseException) else item for item in found]

    assert asyncio.run(read()) == [[b"1"], asyncio.CancelledError, [b"1"]]


def test_threads_share_a_reader(valkey: str) -> None:
    redis.Redis.from_url(valkey).mset({f"k{i}": i for i in range(8)})
    reader = RedisReader(valkey)
    start = threading.Barrier(8)

    def read(i: int) -> bool:
        start.wait()
        return all(reader.mget([b"k%d" % i]) == [b"%d" % i] for _ in range(200))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))
    reader.close()


def test_a_forked_process_does_not_take_its_parents_replies(valkey: str) -> None:
    redis.Redis.from_url(valkey).mset({"parent": 1, "child": 2})
    reader = RedisReader(valkey)
    reader.mget([b"parent"])
    child = os.fork()
    if child == 0:
        os._exit(0 if all(reader.mget([b"child"]) == [b"2"] for _ in range(100)) else 1)
    assert all(reader.mget([b"parent"]) == [b"1"] for _ in range(100))
    assert os.waitpid(child, 0)[1] == 0
    reader.close()


@pytest.mark.parametrize("connected", [False, True], ids=["while it connects", "while it reads"])
def test_a_loop_that_is_held_up_is_not_told_as_a_redis_that_does_not_answer(valkey: str, connected: bool) -> None:
    value = b"x" * 8_000_000  # of which the socket holds only the beginning meanwhile
    with redis.Redis.from_url(valkey) as client:
        client.set("long", value)

    async def read() -> list[Any]:
        reader = AsyncRedisReader(valkey, timeout=0.1)
        if connected:
            await reader.mget([b"absent"])
        asked = asyncio.ensure_future(reader.mget([b"long"]))
        for _ in range(2):
            await asyncio.sleep(0)
        time.sleep(0.3)  # holds up the loop, and so its timers
        found = await asked
        reader.close()
        return found

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # the server's
        assert runner.run(read()) == [value]


def test_a_long_reply_takes_as_long_as_its_bytes_keep_coming(valkey: str) -> None:
    value = b"x" * 100_000
    address = parse_redis_url(valkey)
    with redis.Redis.from_url(valkey) as client:
        client.set("long", value)
        client.set("short", b"1")

    async def forward(source: asyncio.StreamReader, to: asyncio.StreamWriter, seconds: float) -> None:
        while data := await source.read(10_000):
            to.write(data)
            await asyncio.sleep(seconds)
        to.close()

    async def slow(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        if address.path is not None:
            replies, commands = await asyncio.open_unix_connection(address.path)
        else:
            replies, commands = await asyncio.open_connection(address.host, address.port)
        await asyncio.gather(forward(source, commands, 0), forward(replies, to, 0.1))

    async def read() -> list[Any]:
        server = await asyncio.start_server(slow, "127.0.0.1", 0)
        reader = AsyncRedisReader(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout=0.5)
        await reader.mget([b"absent"])
        first = asyncio.ensure_future(reader.mget([b"long"]))
        await asyncio.sleep(0.01)
        found = [await reader.mget([b"short"]), await first]
        reader.close()
        server.close()
        return found

    assert asyncio.run(read()) == [[b"1"], [value]]

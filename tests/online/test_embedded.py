"""The embedded Valkey: shared by overlapping users, gone with the last one, its data kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

import psutil
import pytest
import redis

from feature_server import FeatureClient
from feature_server.errors import FeatureStoreError
from feature_server.online import embedded
from feature_server.online.embedded import EmbeddedValkey
from feature_server.online.readers import RedisReader
from feature_server.settings import load_settings
from tests.support.processes import valkey_servers

USER = """
import sys
from pathlib import Path
from urllib.parse import unquote
from feature_server.online.embedded import EmbeddedValkey
with EmbeddedValkey(Path(sys.argv[1])) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


def start_user(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", USER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def url_of(user: subprocess.Popen[str]) -> str:
    assert user.stdout is not None
    return user.stdout.readline().strip()


def server_id(url: str) -> int:
    with redis.Redis.from_url(url) as connection:
        return int(connection.info("server")["process_id"])


def servers(folder: Path) -> list[int]:
    """Process ids of living Valkey servers whose working folder is this one."""
    return [process.pid for process in valkey_servers(folder)]


def gone(folder: Path) -> bool:
    """Whether the server ends by itself; it needs a moment, for nobody waits for it."""
    deadline = time.monotonic() + 60
    while servers(folder) and time.monotonic() < deadline:
        time.sleep(0.01)
    return servers(folder) == []


def test_values_survive_the_end_of_the_last_user(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as server, redis.Redis.from_url(server.url) as connection:
        connection.set("key", b"\x00value")
    assert servers(tmp_path) == []
    assert not (tmp_path / "valkey.sock").exists()
    with EmbeddedValkey(tmp_path) as server, redis.Redis.from_url(server.url) as connection:
        assert connection.get("key") == b"\x00value"
    assert servers(tmp_path) == []


def test_users_that_overlap_share_one_server_and_the_last_one_ends_it(tmp_path: Path) -> None:
    users = [start_user(tmp_path) for _ in range(4)]
    urls = {url_of(user) for user in users}
    assert len(urls) == 1
    assert len(servers(tmp_path)) == 1
    for user in users[:3]:
        user.communicate()
    assert redis.Redis.from_url(urls.pop()).ping()
    users[3].communicate()
    assert servers(tmp_path) == []


def test_users_that_leave_at_the_same_moment_leave_no_server(tmp_path: Path) -> None:
    for _ in range(3):
        users = [start_user(tmp_path) for _ in range(3)]
        for user in users:
            url_of(user)
        for user in users:
            assert user.stdin is not None
            user.stdin.close()
        assert [user.wait() for user in users] == [0, 0, 0]
        assert gone(tmp_path)


CLIENT = """
import asyncio, multiprocessing, os, signal, sys, threading, time
from feature_server import AsyncFeatureClient, FeatureClient
from feature_server.errors import NotSynced

client = FeatureClient()


def read():
    try:
        client.get("nothing", key=1)
    except NotSynced:
        return True


async def read_awaited():
    awaited = AsyncFeatureClient()
    try:
        await awaited.get("nothing", key=1)
    except NotSynced:
        return awaited


assert read()
"""
ENDINGS = {
    "the end of the script": "",
    "an exit": "sys.exit(0)",
    "an exit without any finalizer": "os._exit(0)",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "a thread that goes on": "threading.Thread(target=lambda: (time.sleep(0.1), read())).start()",
    "a thread that is cut off": "threading.Thread(target=lambda: time.sleep(60), daemon=True).start()",
    "an event loop that is closed": "awaited = asyncio.run(read_awaited()); assert awaited",
    "an object that is read as it goes": "class Last:\n    __del__ = lambda self: client.close()\nlast = Last()",
    "children that read": "multiprocessing.get_context('fork').Pool(2).apply(read)",
    "a forked child that goes on": "if os.fork() == 0: time.sleep(0.3); assert read()",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_client_that_nobody_closed_leaves_no_server_and_says_nothing(tmp_path: Path, ending: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLIENT + ENDINGS[ending]],
        env=os.environ | {"FEATURES_HOME": str(tmp_path)}, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert (max(done.returncode, 0), done.stderr) == (0, "")
    assert gone(tmp_path / "valkey")


def test_an_error_of_the_script_is_all_that_is_said(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLIENT + "raise SystemExit('that was wrong')"],
        env=os.environ | {"FEATURES_HOME": str(tmp_path)}, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "that was wrong\n")
    assert gone(tmp_path / "valkey")


def test_a_client_that_is_dropped_lets_the_server_go(tmp_path: Path) -> None:
    client = FeatureClient(settings=load_settings({}, project_dir=tmp_path, home=tmp_path))
    assert len(servers(tmp_path / "valkey")) == 1
    del client
    assert gone(tmp_path / "valkey")


def test_a_killed_user_ends_the_server_only_if_it_was_the_last(tmp_path: Path) -> None:
    user = start_user(tmp_path)
    process_id = server_id(url_of(user))
    with EmbeddedValkey(tmp_path) as server:
        user.kill()
        user.communicate()
        assert server_id(server.url) == process_id
    assert servers(tmp_path) == []


def test_a_forked_child_that_lets_go_leaves_its_parent_the_server_and_the_other_way_round(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path)
    told, tell = os.pipe()
    if (first := os.fork()) == 0:
        server.close()
        os._exit(0)
    os.waitpid(first, 0)
    process_id = server_id(server.url)
    if (second := os.fork()) == 0:
        try:
            os.read(told, 1)
            os._exit(0 if server_id(server.url) == process_id else 1)
        finally:
            os._exit(2)
    server.close()
    assert servers(tmp_path) == [process_id]
    os.write(tell, b".")
    assert os.waitpid(second, 0)[1] == 0
    assert gone(tmp_path)


def test_a_killed_server_is_replaced_for_the_next_user_and_nothing_is_lost(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as first:
        with redis.Redis.from_url(first.url) as connection:
            connection.set("kept", 1)
        os.kill(server_id(first.url), signal.SIGKILL)
        with EmbeddedValkey(tmp_path) as second, redis.Redis.from_url(second.url) as connection:
            assert connection.get("kept") == b"1"
    assert servers(tmp_path) == []


def test_ctrl_c_does_not_reach_the_server(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as server:
        assert os.getsid(server_id(server.url)) != os.getsid(0)


def test_the_server_listens_on_no_port(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as server:
        assert psutil.Process(server_id(server.url)).net_connections("inet") == []
        assert (tmp_path / "valkey.sock").stat().st_mode & 0o777 == 0o700


def test_a_home_too_deep_for_a_socket_path_is_served_from_a_private_folder(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 30) / "valkey"
    with EmbeddedValkey(folder) as server:
        path = Path(unquote(server.url.removeprefix("unix://")))
        assert len(str(path)) <= embedded.MAX_SOCKET_PATH
        assert path.parent.stat().st_mode & 0o777 == 0o700
        user = start_user(folder)
        assert url_of(user) == server.url
        user.communicate()
    assert not path.parent.exists()
    assert servers(folder) == []


def test_a_home_with_any_name_is_reached_by_its_url(tmp_path: Path) -> None:
    folder = tmp_path / "100% mine? #1 {é}"
    with EmbeddedValkey(folder) as server:
        with redis.Redis.from_url(server.url) as connection:
            assert connection.ping()
        assert RedisReader(server.url).mget([b"nothing"]) == [None]
    assert servers(folder) == []


def test_data_that_cannot_be_read_says_where_the_log_is(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as server, redis.Redis.from_url(server.url) as connection:
        connection.set("key", 1)
    (tmp_path / "appendonlydir" / "appendonly.aof.manifest").write_bytes(b"not a manifest")
    with pytest.raises(FeatureStoreError, match=r"does not start(.|\n)*valkey\.log"):
        EmbeddedValkey(tmp_path)
    assert servers(tmp_path) == []


def test_a_given_redis_url_is_used_as_it_is(tmp_path: Path) -> None:
    settings = load_settings({}, project_dir=tmp_path, redis_url="redis://example:6379/1")
    with embedded.connect(settings) as url:
        assert url == "redis://example:6379/1"
    assert not settings.home.exists()

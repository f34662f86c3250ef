"""A Valkey server with options of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from feature_server.online.embedded import valkey_binary
from tests.support.served import eventually


@contextmanager
def own_valkey(folder: Path, *options: str, binary: str | None = None) -> Iterator[redis.Redis]:
    """A Valkey server with options of its own, or that of a `binary`."""
    folder.mkdir(exist_ok=True)
    path = folder / "own.sock"
    command = [
        binary or str(valkey_binary()),
        "--port",
        "0",
        "--unixsocket",
        str(path),
        "--dir",
        str(folder),
        "--save",
        "",
        *options,
    ]
    command += ["--enable-protected-configs", "yes"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    client = redis.Redis(unix_socket_path=str(path))
    try:
        eventually(lambda: path.exists() and _answers(client))
        yield client
    finally:
        client.close()
        process.kill()
        process.wait()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.AuthenticationError:
        return True
    except redis.ConnectionError:
        return False


def url_of(client: redis.Redis) -> str:
    return f"unix://{client.connection_pool.connection_kwargs['path']}"

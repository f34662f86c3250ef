"""Two Valkey servers under one address, as a name in DNS is: whoever connects anew reaches the one it leads to now."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis

from tests.support.own_valkey import own_valkey
from tests.support.served import eventually


class Switch:
    """A port whose connections go where it leads when they are made, and stay there."""

    def __init__(self, target: int) -> None:
        self.targets = [target]  # of the next connections; the last of all others too
        self.made = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.made += 1
            target = self.targets.pop(0) if len(self.targets) > 1 else self.targets[0]
            far = socket.create_connection(("127.0.0.1", target))
            self._pairs.append((near, far))
            threading.Thread(target=_carry, args=(near, far), daemon=True).start()

    def cut(self) -> None:
        """Close every connection, as a server does that ends."""
        for pair in self._pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()


def _carry(near: socket.socket, far: socket.socket) -> None:
    with near, far, selectors.DefaultSelector() as ready, suppress(OSError):
        ready.register(near, selectors.EVENT_READ, far)
        ready.register(far, selectors.EVENT_READ, near)
        while True:
            for key, _ in ready.select():
                data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                if not data:
                    return
                key.data.sendall(data)


class Pair:
    """A primary and its replica; `url` leads to the primary."""

    def __init__(self, first: redis.Redis, ports: tuple[int, int], second: redis.Redis, switch: Switch) -> None:
        self.first, self.second, self.ports, self.switch = first, second, ports, switch
        self.url = f"redis://127.0.0.1:{switch.port}"

    def replicate(self) -> None:
        """Wait until the second has all that the first has."""
        self.second.execute_command("REPLICAOF", "127.0.0.1", str(self.ports[0]))
        eventually(lambda: self.second.info("replication")["master_link_status"] == "up")
        offset = self.first.info("replication")["master_repl_offset"]
        eventually(lambda: self.second.info("replication")["slave_repl_offset"] >= offset)

    def fail_over(self) -> None:
        """Make the second the primary of the first; connections to the first stay open."""
        self.replicate()
        self.promote()

    def promote(self) -> None:
        self.second.execute_command("REPLICAOF", "NO", "ONE")
        self.first.execute_command("REPLICAOF", "127.0.0.1", str(self.ports[1]))
        self.switch.targets = [self.ports[1]]
        time.sleep(0.05)


@contextmanager
def valkey_pair(folder: Path) -> Iterator[Pair]:
    folder.mkdir()
    ports = _free_port(), _free_port()
    options = ("--repl-diskless-sync-delay", "0")
    with (
        own_valkey(folder / "first", "--port", str(ports[0]), *options) as first,
        own_valkey(folder / "second", "--port", str(ports[1]), *options) as second,
    ):
        switch = Switch(ports[0])
        try:
            yield Pair(first, ports, second, switch)
        finally:
            switch.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])

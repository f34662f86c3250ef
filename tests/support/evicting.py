"""Having a real Valkey evict chosen keys: by volatile-lru, which takes those with an expiry alone."""

from __future__ import annotations

from collections.abc import Iterable

import redis

FAR_MS = 10**14
_MEGABYTE = b"x" * (1 << 20)


def evict(client: redis.Redis, names: Iterable[bytes]) -> None:
    """Have the server evict these keys, whatever others there are."""
    chosen = list(names)
    for name in chosen:
        assert client.pexpireat(name, FAR_MS, nx=True) or client.pttl(name) > 0
    before = client.config_get("maxmemory-policy")
    client.config_set("maxmemory-policy", "volatile-lru")
    client.config_set("maxmemory", client.info("memory")["used_memory"])
    try:
        for _ in range(1000):
            client.set("ballast", b"x", keepttl=True)
            client.append("ballast", _MEGABYTE)
    except redis.exceptions.OutOfMemoryError:
        pass
    finally:
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", before["maxmemory-policy"])
        client.delete("ballast")
    assert not client.exists(*chosen)

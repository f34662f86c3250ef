"""A reader's steps, driven over a connection: one round trip after the other, in a thread or in an event loop."""

import asyncio

from ..errors import OnlineStoreRefused
from ..online.memory import evicted_at
from ..online.readers import AsyncRedisReader, RedisReader
from ..online.registry import LARGE, registry_of
from .reader import Apart, FeatureReader, OnlineFeatures, Steps


def read_features(reader: FeatureReader, redis: RedisReader, steps: Steps) -> OnlineFeatures:
    """Run `FeatureReader.read` to its answer, sync."""
    replies: list[bytes | None] | None = None
    try:
        while True:
            if (wanted := steps.send(replies)) is None:
                found = redis.mget(reader.names.reload)
                reader.load(found, evicted_at(redis.url) if None in found else None)
            elif type(wanted) is Apart:
                try:
                    replies = redis.mget(wanted)
                except OnlineStoreRefused as error:
                    epoch = steps.throw(wanted.denied(error, redis.address.username))
                    replies = redis.mget(epoch or [])
            elif wanted:
                replies = redis.mget(wanted)
    except StopIteration as stop:
        return stop.value


class AsyncFeatures:
    """Runs `FeatureReader.read` on an event loop; requests that need the same reload share it."""

    def __init__(self, reader: FeatureReader, redis: AsyncRedisReader) -> None:
        self.reader = reader
        self.redis = redis
        redis.on_connect = reader.forget
        self._reloading: asyncio.Task[None] | None = None

    async def read(self, steps: Steps) -> OnlineFeatures:
        replies: list[bytes | None] | None = None
        try:
            while True:
                if (wanted := steps.send(replies)) is None:
                    await self.reload()
                elif type(wanted) is Apart:
                    try:
                        replies = await self.redis.mget(wanted, apart=True)
                    except OnlineStoreRefused as error:
                        epoch = steps.throw(wanted.denied(error, self.redis.address.username))
                        replies = await self.redis.mget(epoch or [])
                elif wanted:
                    replies = await self.redis.mget(wanted)
                else:
                    await asyncio.sleep(0)
        except StopIteration as stop:
            return stop.value

    async def reload(self) -> None:
        """Load the online registry, if another request is not doing so already."""
        if self._reloading is None:
            self._reloading = asyncio.create_task(self._reload())
        await asyncio.shield(self._reloading)

    async def _reload(self) -> None:
        try:
            found = await self.redis.mget(self.reader.names.reload)
            if None in found:
                self.reader.load(found, await asyncio.to_thread(evicted_at, self.redis.url))
            elif len(found[1] or b"") <= LARGE:
                self.reader.load(found)
            else:
                connection = self.reader.connection
                online = await asyncio.to_thread(registry_of, found[0], found[1], None, self.reader.names)
                if connection == self.reader.connection:  # else it may be another store's
                    self.reader.take(found[0], online)
        finally:
            self._reloading = None

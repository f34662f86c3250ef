"""What a connection writes to: uvicorn's transport raises where a client has only left, this one does not."""

import asyncio
from collections.abc import Callable
from typing import Any


class Link:
    """A transport that drops what is written once it closes: the client has left. `held` keeps it from reading."""

    def __init__(self, transport: asyncio.Transport, end: Callable[[], None]) -> None:
        self.transport = transport
        self.end: Callable[[], None] | None = end
        self.held = False
        self._closing = False

    def is_closing(self) -> bool:
        return self._closing or self.transport.is_closing()

    def write(self, data: bytes) -> None:
        if not self._closing and not self.transport.is_closing():
            self.transport.write(data)

    def unsent(self) -> int:
        return self.transport.get_write_buffer_size()

    def close(self) -> None:
        if not self.is_closing() and self.end is not None:
            self._closing = True
            self.end()

    def pause_reading(self) -> None:
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self.held:
            self.transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.transport.get_extra_info(name, default)

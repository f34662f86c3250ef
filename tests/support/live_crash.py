"""Runs a sync of a stream view in a process that kills itself after a number of messages sent to Redis."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from redis.connection import AbstractConnection

from feature_server.definitions.facts import FeatureView
from tests.support.live_project import LiveProject
from tests.support.sync_crash import _context, _start_server, small_transactions


def sync_until_killed(project: LiveProject, view: FeatureView, *, messages: int, **options: Any) -> bool:
    """Sync in another process, killed before it sends the given number of messages; True when it ended by itself."""
    _start_server()
    process = _context.Process(target=_sync, args=(str(project.folder), project.url, view, messages, options))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode == 0


def _sync(folder: str, url: str, view: FeatureView, messages: int, options: dict[str, Any]) -> None:
    small_transactions()
    send, sent = AbstractConnection.send_packed_command, 0

    def counted(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal sent
        sent += 1
        if sent == messages:
            os.kill(os.getpid(), signal.SIGKILL)
        send(self, *args, **kwargs)

    AbstractConnection.send_packed_command = counted  # type: ignore[method-assign]
    LiveProject(Path(folder), url, view).sync(**options)

"""Runs a sync in a process that kills itself after a number of messages sent to Redis."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from datetime import datetime
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pandas  # noqa: F401 - Arrow looks for it when a Delta table is opened: once for all processes, not in each
from redis.connection import AbstractConnection

from feature_server.definitions.facts import FeatureView
from feature_server.errors import SyncConflict
from feature_server.sync import writer as online_commands
from tests.support.sync_project import Tables, run_sync

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.support.sync_crash"])  # imported once, not in every process


def _start_server() -> None:
    """Start the server that processes are forked from; Python 3.11 gives it no path to look for modules in."""
    kept = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), kept]))
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if kept is not None:
            os.environ["PYTHONPATH"] = kept


def sync_until_killed(
    url: str, tables: Tables, *views: FeatureView, now: datetime, messages: int, **options: Any
) -> bool:
    """Sync in another process, killed before it sends the given number of messages; True when it ended by itself."""
    arguments = (url, str(tables.store.root), views, now, messages, options)
    _start_server()
    process = _context.Process(target=_sync, args=arguments)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode == 0


def start_sync(url: str, tables: Tables, *views: FeatureView, now: datetime, pause: int = 0, **options: Any) -> Any:
    """Start a sync in another process that stops before it sends message `pause` and exits with 3 on a SyncConflict."""
    _start_server()
    arguments = (url, str(tables.store.root), views, now, pause, options, signal.SIGSTOP)
    process = _context.Process(target=_sync, args=arguments)
    process.start()
    return process


def small_transactions() -> None:
    """Cut rows into many transactions, so that there are many moments between them."""
    online_commands.ROWS_PER_COMMAND = 2
    online_commands.ROWS_PER_TRANSACTION = 4
    online_commands.EXPIRING_ROWS_PER_TRANSACTION = 3


def _sync(
    url: str,
    root: str,
    views: tuple[FeatureView, ...],
    now: datetime,
    messages: int,
    options: dict[str, Any],
    signal_number: signal.Signals = signal.SIGKILL,
) -> None:
    small_transactions()
    send, sent = AbstractConnection.send_packed_command, 0

    def counted(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal sent
        sent += 1
        if sent == messages:
            os.kill(os.getpid(), signal_number)
        send(self, *args, **kwargs)

    AbstractConnection.send_packed_command = counted  # type: ignore[method-assign]
    try:
        run_sync(url, Tables(Path(root)), *views, now=now, **options)
    except SyncConflict:
        sys.exit(3)

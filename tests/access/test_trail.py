"""The trail's queue: bounded, in order, and nothing that is in it is lost unseen."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from feature_server.access import trail
from feature_server.access.audit import Entry, Lines
from feature_server.access.trail import AuditFile, Trail


class Held:
    """A target that takes lines once it may."""

    def __init__(self) -> None:
        self.may, self.taken = threading.Event(), list[bytes]()

    def append(self, lines: bytes) -> None:
        self.may.wait(30)
        self.taken += lines.splitlines()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trail, "MOST_WAITING", 10)
    monkeypatch.setattr(trail, "GATHER_SECONDS", 0.0)


def numbers(target: Held) -> list[int]:
    return [json.loads(line)["entities"] for line in target.taken]


@pytest.mark.usefixtures("few")
def test_what_is_too_much_is_dropped_and_counted_and_all_else_is_in_order() -> None:
    target, dropped = Held(), list[int]()
    told = Trail(target, Lines(None), dropped.append, strict=False)
    assert [told.tell(Entry(event="read", entities=i)) for i in range(15)] == [True] * 10 + [False] * 5
    target.may.set()
    deadline = time.monotonic() + 10
    while len(target.taken) < 10 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert told.tell(Entry(event="read", entities=99))
    told.close()
    assert numbers(target) == [*range(10), 99]
    assert sum(dropped) == 5


@pytest.mark.usefixtures("few")
def test_entities_that_are_to_be_hashed_count_as_lines_do() -> None:
    target, dropped = Held(), list[int]()
    told = Trail(target, Lines(b"0123456789abcdef"), dropped.append, strict=False)
    assert told.tell(Entry(event="read", entities=30, texts=lambda: ["a=1"] * 30))
    assert not told.tell(Entry(event="read", entities=1, texts=lambda: ["a=1"]))
    target.may.set()
    told.close()
    assert numbers(target) == [30]


def test_an_entry_that_no_line_can_be_made_of_ends_nothing(tmp_path: Path) -> None:
    dropped = list[int]()
    path = tmp_path / "trail.jsonl"
    told = Trail(AuditFile(path, most_bytes=1 << 20, files=1), Lines(None), dropped.append, strict=False)
    told.tell(Entry(event="read", who="\udcff"))
    deadline = time.monotonic() + 10
    while not dropped and time.monotonic() < deadline:
        time.sleep(0.01)
    told.tell(Entry(event="read", who="me"))
    told.close()
    assert [json.loads(line)["event"] for line in path.read_bytes().splitlines()] == ["audit", "read"]
    assert dropped == [1]

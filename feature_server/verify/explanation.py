"""What `features explain` and `GET /explain` answer. Light on purpose: the HTTP server describes it to its clients."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

import msgspec

from ..dtypes import json_value

MASK = "(pii)"  # in the place of a value that may not be seen


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """One window function of a feature: what it is over, both bounds included, and how many events there count.

    `shown` has the last of those events, oldest first.
    """

    aggregate: str
    start: datetime | None
    end: datetime
    events: int
    shown: tuple[dict[str, Any], ...]


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """A feature's value at an instant: `value` as reads serve it, `warehouse` as SQL gives it over table, files, log.

    Redis keeps the windows of the present: for an earlier instant `value` is the warehouse's and `agree` null.
    `newest_event` is the time of the key's newest event that counts then; `latest` is that event, where the feature
    takes a plain column of it. What is pii is `(pii)` for a key without that scope.
    """

    feature: str
    key: dict[str, Any]
    at: datetime
    value: Any
    status: str
    warehouse: Any
    agree: bool | None
    windows: tuple[Window, ...]
    latest: dict[str, Any] | None
    newest_event: datetime | None
    sql: str
    file: str

    def masked(self, value: bool, arguments: Collection[str]) -> "Explanation":
        """The same without its value, where that is pii, and without those of the events' arguments that are."""

        def hidden(event: dict[str, Any]) -> dict[str, Any]:
            return {name: MASK if name in arguments else found for name, found in event.items()}

        replace = msgspec.structs.replace
        windows = tuple(replace(each, shown=tuple(map(hidden, each.shown))) for each in self.windows)
        found = replace(self, windows=windows, latest=None if self.latest is None else hidden(self.latest))
        return replace(found, value=MASK, warehouse=MASK) if value else found

    def as_json(self) -> dict[str, Any]:
        """Its fields, with values that JSON has no number for as strings, as `/get-online-features` has them."""
        fields = msgspec.structs.asdict(self)
        fields["windows"] = [msgspec.structs.asdict(window) for window in self.windows]
        found: dict[str, Any] = json_value(fields)
        return found

    def lines(self) -> list[str]:
        """The explanation as text."""
        key = " ".join(f"{name}={value}" for name, value in self.key.items())
        lines = [f"{self.feature} {key} at {self.at.isoformat()}: {self.value} ({self.status})"]
        if self.agree is None:
            lines.append("as SQL gives it over the known events: the windows in Redis are those of the present")
        elif not self.agree:
            lines.append(f"but SQL over the known events gives {self.warehouse}: run `features verify`")
        for window in self.windows:
            lines.append(f"{window.aggregate}: {bounds(window)}")
            if window.events > len(window.shown):
                lines.append(f"  … {window.events - len(window.shown)} earlier ones")
            lines += ["  " + " ".join(f"{name}={value}" for name, value in event.items()) for event in window.shown]
        if self.latest is not None:
            lines.append("latest event: " + " ".join(f"{name}={value}" for name, value in self.latest.items()))
        lines.append(f"newest event: {self.newest_event.isoformat() if self.newest_event else 'none'}")
        lines.append(f"SQL: {self.sql}" + (f" ({self.file})" if self.file else ""))
        return lines


def bounds(window: Window) -> str:
    """How many events a window has, and between which times."""
    start = window.start.isoformat() if window.start else "the first event"
    events = f"{window.events:,} event{'s' * (window.events != 1)}"
    return f"{events} from {start} to {window.end.isoformat()}, both included"

"""Events as arrays, and which version of each is in force: of those of one event id the latest created, if it counts.

Of equally late versions the latest in event time is in force, then the last. `history.events` says the same in SQL,
`layout.records` of a key's records.
"""

from collections.abc import Sequence

import msgspec
import numpy as np

from ..times import NEVER
from .reduce import Values


class Events(msgspec.Struct, kw_only=True):
    """Events of many keys, sorted by (group, event_us, created_us); group g is `starts[g]` up to `starts[g + 1]`.

    `event_id` are integers, equal for the versions of one event; `counts` is false for an event that the model's
    filters leave out. `arguments` are the plan's, in its order; one that nothing asks for may be None. `superseded`
    says when a later version was created, NEVER for the latest one: worked out from `event_id` where it is not given.
    With neither, every event has one version.
    """

    starts: np.ndarray
    event_us: np.ndarray
    created_us: np.ndarray
    event_id: np.ndarray | None = None
    counts: np.ndarray
    arguments: Sequence[Values | None]
    superseded: np.ndarray | None = None

    def argument(self, number: int) -> Values:
        found = self.arguments[number]
        assert found is not None, f"argument {number} is not loaded"
        return found

    def take(self, rows: np.ndarray, starts: np.ndarray) -> "Events":
        return Events(
            starts=starts,
            event_us=self.event_us[rows],
            created_us=self.created_us[rows],
            event_id=None if self.event_id is None else self.event_id[rows],
            counts=self.counts[rows],
            arguments=[None if argument is None else argument.take(rows) for argument in self.arguments],
            superseded=None if self.superseded is None else self.superseded[rows],
        )


def superseded_at(starts: np.ndarray, event_id: np.ndarray, created_us: np.ndarray) -> np.ndarray:
    """When a later version of the same event was created, NEVER for the latest: of events in the order of `Events`."""
    superseded = np.full(len(event_id), NEVER, dtype=np.int64)
    in_order = np.sort(event_id)
    repeated = in_order[1:][in_order[1:] == in_order[:-1]]
    if not len(repeated):
        return superseded
    rows = np.flatnonzero(np.isin(event_id, repeated))
    group = np.searchsorted(starts, rows, side="right")
    order = np.lexsort((rows, created_us[rows], event_id[rows], group))
    rows, group = rows[order], group[order]
    same = (event_id[rows[1:]] == event_id[rows[:-1]]) & (group[1:] == group[:-1])
    superseded[rows[:-1][same]] = created_us[rows[1:][same]]
    return superseded


def in_force(events: Events) -> Events:
    """The events that count as far as is known, each as if it had one version."""
    superseded = superseded_of(events)
    keep = events.counts if superseded is None else (superseded == NEVER) & events.counts
    if np.count_nonzero(keep) < len(keep):
        kept = np.zeros(len(keep) + 1, dtype=np.int64)
        np.cumsum(keep, out=kept[1:])
        events = events.take(np.flatnonzero(keep), kept[events.starts])
    return events if superseded is None else msgspec.structs.replace(events, event_id=None, superseded=None)


def in_force_at(events: Events, rows: np.ndarray, at_us: np.ndarray) -> np.ndarray:
    """Whether each row is in force as far as was known at its time, by `superseded`."""
    known = (events.created_us[rows] <= at_us) & events.counts[rows]
    return known if events.superseded is None else known & (events.superseded[rows] > at_us)


def superseded_of(events: Events) -> np.ndarray | None:
    """As `superseded_at`; None where every event has one version."""
    if events.superseded is not None or events.event_id is None:
        return events.superseded
    return superseded_at(events.starts, events.event_id, events.created_us)

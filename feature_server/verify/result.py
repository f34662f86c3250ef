"""What a comparison of online and offline found: differences, their causes, and the numbers of one view."""

import time
from collections.abc import Callable, Collection, Sequence

import msgspec

from ..offline.store import OfflineTable
from ..online.registry import LastVerified, OnlineView

Progress = Callable[[int, int], None]

NOT_YET_SYNCED, NEVER_SYNCED, EXPIRED, WRONG = "not yet synced", "never synced", "expired early", "wrong"


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A value that differs; `feature` is `*` where one side has no row, `key` also where that is so of a whole view."""

    key: str
    feature: str
    online: str
    offline: str
    cause: str

    def __str__(self) -> str:
        return f"{self.key} {self.feature}: online {self.online}, offline {self.offline}: {self.cause}"


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What a comparison of `keys` keys of one view at `instant_us` found.

    `different` counts keys with a difference, `unexplained` those of them that the next sync would not make equal,
    nor, for an event that came late for a lifetime window, the one after it has landed.
    `behind_versions` counts commits of the offline table not yet synced, `behind_seconds` how much later the newest
    event offline is than the newest online, both as of the instant.
    """

    view: str
    instant_us: int
    keys: int = 0
    different: int
    unexplained: int
    differences: tuple[Difference, ...]
    online_version: int | None = None
    offline_version: int
    behind_versions: int | None = None
    behind_seconds: float | None = None
    seconds: float = 0.0

    @property
    def summary(self) -> LastVerified:
        """What is kept of it in Redis."""
        return LastVerified(
            instant_us=self.instant_us, keys=self.keys, different=self.different, unexplained=self.unexplained
        )

    def __str__(self) -> str:
        return (
            f"verified {self.view} keys={self.keys} different={self.different} unexplained={self.unexplained} "
            f"online_version={_shown(self.online_version)} offline_version={self.offline_version} "
            f"behind_seconds={_shown(self.behind_seconds)} seconds={self.seconds:.2f}"
        )


def compared(
    table: OfflineTable,
    found: OnlineView,
    differences: Sequence[Difference],
    *,
    instant_us: int,
    key_count: int,
    newest_event_us: int | None,
    explained: Collection[str] = (NOT_YET_SYNCED,),
    started: float,
) -> Verified:
    """The outcome of a comparison begun at `started`, a time of `time.monotonic`."""
    known = newest_event_us is not None and found.newest_event_us is not None
    return Verified(
        view=table.view_id,
        instant_us=instant_us,
        keys=key_count,
        different=len({difference.key for difference in differences}),
        unexplained=len({difference.key for difference in differences if difference.cause not in explained}),
        differences=tuple(differences),
        online_version=found.table_version,
        offline_version=table.version,
        behind_versions=table.version - found.table_version,
        behind_seconds=max(0, newest_event_us - found.newest_event_us) / 1e6 if known else None,  # type: ignore[operator]
        seconds=time.monotonic() - started,
    )


def never_synced(table: OfflineTable, now_us: int) -> Verified:
    rows = table.rows
    difference = Difference(key="*", feature="*", online="nothing", offline=f"{rows} rows", cause=NEVER_SYNCED)
    different = int(rows > 0)
    return Verified(
        view=table.view_id, instant_us=now_us, different=different, unexplained=different,
        differences=(difference,) * different, offline_version=table.version,
    )  # fmt: skip


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"

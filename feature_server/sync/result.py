"""What syncs came to."""

import msgspec

from ..errors import FeatureStoreError
from ..times import from_us


class SyncResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one sync did to one view: `rows` written, keys `deleted`, `online` rows there are now.

    `mode` is `full` (every row was written), `changes`, or `removed` (the view is no longer online). `leftover` names
    codes whose rows could not be listed because their offline table is gone; `features sync --sweep` deletes them.
    `doubtful` says that Redis has evicted keys since the view's last full sync: some of its own may be gone.
    """

    view: str
    mode: str
    rows: int
    deleted: int
    online: int
    seconds: float
    newest_event_us: int | None = None
    table_version: int | None = None
    leftover: tuple[str, ...] = ()
    doubtful: bool = False

    def __str__(self) -> str:
        parts = [f"rows={self.rows} deleted={self.deleted} seconds={self.seconds:.1f}"]
        if self.newest_event_us is not None:
            parts.append(f"newest={from_us(self.newest_event_us):%Y-%m-%dT%H:%M:%SZ}")
        if self.table_version is not None:
            parts.append(f"version={self.table_version}")
        verb = "removed" if self.mode == "removed" else "synced"
        if self.doubtful:
            parts.append("doubtful: Redis has evicted keys")
        return f"{verb} {self.view} {' '.join(parts)}"


class SyncReport(msgspec.Struct, frozen=True, kw_only=True):
    """Results of views that were synced, errors of those that were not, and what to do besides."""

    results: tuple[SyncResult, ...]
    failures: dict[str, FeatureStoreError]
    notice: str | None = None

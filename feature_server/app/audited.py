"""What requests tell the audit trail: begun when a request comes, filled as it is understood, told with its answer."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from ..access.audit import REFUSALS, Entry, Lines
from ..access.keys import Key
from ..access.trail import AuditUnavailable, Trail, target_of
from ..definitions.facts import FeatureRef
from ..definitions.registry import Registry
from ..errors import FeatureStoreError
from ..layout.keys import entity_text
from ..protocol import PUSH_PATH, READ_PATH, TRAIN_PATH, GetHistoricalFeatures, GetOnlineFeatures
from ..serving.counts import Counts
from ..serving.plan import Plan
from ..serving.reader import Loaded
from .explain import EXPLAIN_ROUTE
from .signing import SIGN_IN
from .supervisor import Served
from .training import JOB_ROUTE, RESULT_ROUTE

PAGE = "page"
_EVENTS = {
    ("POST", READ_PATH): "read", ("POST", PUSH_PATH): "push", ("GET", EXPLAIN_ROUTE): "explain",
    ("POST", SIGN_IN): "sign_in", ("POST", TRAIN_PATH): "train", ("GET", RESULT_ROUTE): "train.result",
    ("DELETE", JOB_ROUTE): "train.cancel",
}  # fmt: skip


class Audit:
    """The trail of one worker; without one, or before `begin`, nothing is told. `holder` gives the key that a header
    shows."""

    def __init__(self, served: Served, counts: Counts, holder: Callable[[bytes], Key | None]) -> None:
        self._served, self._counts, self._holder = served, counts, holder
        self._trail: Trail | None = None
        self._counting = threading.Lock()

    def begin(self, folder: Path) -> None:
        """Start to write, beside the other workers of a folder."""
        settings, secret = self._served.settings.audit, self._served.audit_secret
        if settings.on:
            lines = Lines(None if secret is None else bytes.fromhex(secret))
            target = target_of(settings, shared=folder / "audit")
            self._trail = Trail(target, lines, self._dropped, strict=settings.strict)

    def close(self) -> None:
        if self._trail is not None:
            self._trail.close()

    @property
    def failing(self) -> AuditUnavailable | None:
        """Why nothing is answered, where it is because no line can be written."""
        return None if self._trail is None else self._trail.failing

    def entry(self, scope: Any, route: str | None = None) -> Entry | None:
        """What is to be told of a request; None where there is no trail. `route` is that of a page."""
        if self._trail is None:
            return None
        event, client = _EVENTS.get((scope["method"], route or scope["path"]), PAGE), scope["client"]
        return Entry(event=event, client=None if client is None else client[0], path=route)

    def reads(self, entry: Entry, plan: Plan, request: GetOnlineFeatures, epoch: bytes | None) -> None:
        """That the features of a plan are asked for."""
        entry.plan, entry.service, entry.views = plan, plan.service, plan.view_ids
        entry.registry, entry.epoch = plan.online.registry, epoch
        if request.features:
            entry.features = request.features
        entry.entities = len(request.entities[plan.join_keys[0].name])
        if self._served.audit_secret is not None:
            entry.texts = partial(plan.entity_texts, request.entities)

    def admitted(self, entry: Entry | None, shown: bytes) -> None:
        """That whoever shows this may ask."""
        if entry is not None:
            entry.admitted(self._holder(shown))

    def explains(self, entry: Entry | None, ref: FeatureRef, key: dict[str, str], loaded: Loaded | None) -> None:
        """That a feature's value is to be explained."""
        if entry is None:
            return
        entry.views, entry.features, entry.entities = (ref.view,), (ref.text,), 1
        if loaded is not None:
            entry.registry, entry.epoch = loaded.online.registry, loaded.epoch
            keys = loaded.online.registry.feature_view(ref.view).join_keys
            entry.texts = lambda: [entity_text(keys, key)]

    def trains(
        self,
        entry: Entry | None,
        asked: GetHistoricalFeatures,
        refs: Sequence[FeatureRef],
        registry: Registry,
        *,
        rows: int | None = None,
    ) -> None:
        """That a training set of these features is begun or fetched."""
        if entry is None:
            return
        entry.views, entry.registry, entry.rows = tuple(dict.fromkeys(ref.view for ref in refs)), registry, rows
        entry.service = asked.feature_service
        if asked.feature_service is None:
            entry.features = tuple(ref.text for ref in refs)

    async def begun(self, entry: Entry | None) -> None:
        """Tell of what changes something before it is done; AuditUnavailable where it must not be."""
        if entry is not None and self._trail is not None and self._served.settings.audit.strict:
            await self._trail.written(msgspec.structs.replace(entry, outcome="begun"))

    def tell(self, entry: Entry) -> None:
        if self._trail is not None:
            self._trail.tell(entry)

    async def answered(self, entry: Entry, status: int = 200) -> None:
        """Tell of an answer before it is sent; AuditUnavailable where it must not be."""
        entry.status = status
        if self._trail is not None:
            if self._served.settings.audit.strict and entry.accepted is None:  # else it is done, as `begun` told
                await self._trail.written(entry)
            else:
                self._trail.tell(entry)

    async def page_answered(self, entry: Entry | None, status: int) -> None:
        """The same of a page, where its answers are told at all, and unless it was told as refused."""
        if entry is not None and entry.event != PAGE and entry.outcome == "allowed":
            await self.answered(entry, status)

    def refused(self, entry: Entry | None, error: Exception, shown: bytes) -> None:
        """Tell that a request is not answered; of a page only where that is for who asks."""
        if entry is None or isinstance(error, AuditUnavailable):
            return
        status = error.status if isinstance(error, FeatureStoreError) else 500
        if entry.event == PAGE and status not in REFUSALS:
            return
        entry.shown = shown
        entry.refused(error, status, self._holder(shown))
        self.tell(entry)

    def _dropped(self, lines: int) -> None:
        with self._counting:
            self._counts.audit_dropped += lines

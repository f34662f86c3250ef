"""What is online, as Redis says it: the definitions in force, and how each view's rows are keyed and laid out.

Written by `sync` in one step with the watermark it stands for; read by every reader. Beside it Redis keeps what the
last `features verify` of each view found, for `/metrics` and status. Light on purpose: the client imports it.
"""

import time

import msgspec
from msgspec import UNSET, UnsetType

from ..definitions.facts import FeatureView, holds_pii
from ..definitions.registry import Registry
from ..errors import (
    UNREADABLE,
    KeysEvicted,
    NotSynced,
    OnlineStoreError,
    OnlineStoreUnavailable,
    UnknownNameError,
)
from ..formats import BASED_FORMAT, ONLINE_FORMAT, check_format
from ..layout.keys import NAMES, VERIFIED, Names
from ..layout.parts import PII, row_parts

LARGE = 128 << 10  # bytes from which the online registry is decoded view by view
PATIENCE_SECONDS = 3.0
LEAST_ATTEMPTS = 8
KNOWN = frozenset({PII})  # words of `needs` that this version knows


class Evicted(msgspec.Struct, frozen=True, kw_only=True):
    """How many keys Redis had evicted since it was started as `run_id`."""

    run_id: str
    keys: int


class OnlineView(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of one view that are online: those of the latest event of each key at `synced_at_us`, as version
    `table_version` of the view's offline table has them.

    `code` begins their row keys, `definition` is the view as they are laid out. `rows` counts them as written: one that
    expired since is still in the number. `newest_event_us` is the latest event timestamp among them, None when there is
    none. `table_id` is the Delta table's own id. `expires` says whether the keys of a view with a ttl have an expiry in
    Redis: they have none where the clock is stopped. `format` is that of a stream view's records under this code; rows
    have one format. `evictions` is the online registry's when the last full fill began. `good_us` is the instant that
    the last good run spoke of whose rows these are, where it is known: what a freshness promise is compared with.
    `needs`, from format 3 on, says in words what a reader must know to read these rows, `layout.parts.PII` for one.
    """

    format: int = 1
    code: str
    definition: FeatureView
    table_version: int
    synced_at_us: int
    rows: int
    newest_event_us: int | None = None
    table_id: str = ""
    expires: bool = True
    evictions: int = 0
    good_us: int | None = None
    needs: tuple[str, ...] | UnsetType = UNSET

    @property
    def parts(self) -> tuple["OnlineView", ...]:
        """What is online as if each part of a row were a view of its own: under its code, with its features."""
        parts = row_parts(self.definition, self.code)
        if parts[0][1] is self.definition:
            return (self,)
        return tuple(msgspec.structs.replace(self, code=code, definition=view) for code, view in parts)

    def check(self) -> "OnlineView":
        """This; OnlineStoreError where a newer version wrote the rows in a way that this one does not know."""
        if unknown := sorted({*(self.needs or ())} - KNOWN):
            raise OnlineStoreError(
                f"the rows of {self.definition.id!r} are written in a way that this version does not know",
                where=self.definition.id, expected=f"a view that needs {' or '.join(sorted(KNOWN))} at most",
                got=", ".join(unknown),
                remedy="a newer version of feature-warehouse wrote it: use that one here too (docs/upgrade.md)",
            )  # fmt: skip
        return self


def needs_of(view: FeatureView) -> tuple[str, ...] | UnsetType:
    """What readers of a view must know, that is written now."""
    return (PII,) if holds_pii(view) else UNSET


class OnlineRegistry(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON under `layout.keys.REGISTRY`: the registry in force, and what is online of each view, by view id.

    `registry` may name a view that `views` does not hold: it has not been synced yet. `filling` holds stream views
    whose events are being written under another code, by view id: pushes go there too, readers do not look.
    `evictions` says how often it was noticed that Redis had evicted keys, `evicted` how many when last.
    `lost` has the event sources whose log went before it had landed, and how many pushes it held when seen last.
    `keyed` says that there are keys of access: a server that finds none in Redis then answers nobody.
    """

    registry: Registry
    views: dict[str, OnlineView] = {}
    filling: dict[str, OnlineView] = {}
    evictions: int = 0
    evicted: Evicted | None = None
    lost: dict[str, int] = {}
    keyed: bool = False

    def is_doubtful(self, view_id: str) -> bool:
        """Whether keys were evicted since a view's last full fill: one that is absent may have been there."""
        return view_id in self.views and self.views[view_id].evictions < self.evictions

    def stream_targets(self, source: str) -> list[OnlineView]:
        """Where the events of a source go: one or two codes for each of its views."""
        entries = {entry.code: entry for entry in (*self.filling.values(), *self.views.values())}
        found = (entry for entry in entries.values() if entry.definition.stream is not None)
        chosen = [entry for entry in found if entry.definition.stream and entry.definition.stream.source == source]
        return [entry.check() for entry in chosen]

    @property
    def format(self) -> int:
        """The number of the whole: that of the latest format among its views."""
        return max((entry.format for entry in (*self.views.values(), *self.filling.values())), default=1)

    @property
    def earlier(self) -> list[str]:
        """The stream views whose records are still in an earlier format than the one written now."""
        return sorted(
            view_id
            for view_id, entry in self.views.items()
            if entry.definition.stream is not None and entry.format < BASED_FORMAT
        )

    @property
    def notice(self) -> str | None:
        """What to do about views in an earlier format, if there are any."""
        if not (views := self.earlier):
            return None
        return (
            f"format 1 holds {', '.join(views)}, which does not tell when Redis has lost a part of a key: run "
            f"`features sync --full {' '.join(views)}` once every server, worker and client is of this version "
            "(docs/upgrade.md)"
        )

    def format_of_new(self, view: FeatureView) -> int:
        """The format to write a view in that is written anew: an earlier one while all streams are in that, so that
        servers which read no other go on until the first `features sync --full`."""
        if holds_pii(view):
            return ONLINE_FORMAT
        if view.stream is None:
            return 1
        return min(self.format, BASED_FORMAT) if self.earlier else BASED_FORMAT

    def synced(self, view_id: str) -> OnlineView | None:
        """What a sync has put online of a view; None also for a stream view that only pushes have reached so far."""
        found = self.views.get(view_id)
        return found if found is None or found.definition.stream is None or found.table_id else None

    def view(self, view_id: str) -> OnlineView:
        """What is online of a view; NotSynced when nothing is, UnknownNameError when there is no such view."""
        found = self.synced(view_id)
        if found is None and view_id in self.views:
            raise NotSynced(
                f"the events of {view_id!r} from before its first push are not online yet, so its windows lack them",
                where=view_id,
                remedy=f"run `features publish {view_id}` and `features sync {view_id}`",
            )
        if found is not None:
            return found.check()
        known = {view.id: view for view in self.registry.feature_views}
        if view_id not in known:
            raise UnknownNameError("feature_view", view_id, known)
        if not known[view_id].online:
            raise NotSynced(
                f"feature view {view_id!r} is not served online",
                where=known[view_id].path or view_id,
                remedy="set `online: true` in its meta, run `features apply` and `features sync`",
            )
        raise NotSynced(
            f"feature view {view_id!r} has no values online yet", where=view_id, remedy=f"run `features sync {view_id}`"
        )


def with_views(
    now: OnlineRegistry | None, registry: Registry, views: dict[str, OnlineView], evicted: Evicted | None = None
) -> OnlineRegistry:
    """The online registry with other definitions and views; what is being filled stays, but for views that are gone.

    `evicted` is what a registry that is begun anew says of evictions.
    """
    now = OnlineRegistry(registry=registry, evicted=evicted) if now is None else now
    known = {view.id for view in registry.feature_views if view.online}
    filling = {view_id: entry for view_id, entry in now.filling.items() if view_id in known}
    return msgspec.structs.replace(now, registry=registry, views=views, filling=filling)


class _Wrapped(msgspec.Struct, frozen=True, kw_only=True):
    """What is written from format 2 on: code that reads format 1 alone misses `registry` in it, and says so."""

    format: int
    online: OnlineRegistry


def encode_online_registry(online: OnlineRegistry) -> bytes:
    """The value of `layout.keys.REGISTRY`: with views in format 1 alone as code from before the number reads it."""
    if online.format == 1:
        return msgspec.json.encode(online)
    return msgspec.json.encode(_Wrapped(format=online.format, online=online))


def is_epoch(epoch: bytes | None) -> bool:
    """Whether the value of `layout.keys.EPOCH` is one that a sync wrote; `str.isdigit` would take other digits too."""
    return epoch is not None and epoch.isdigit() and len(epoch) <= 19


def registry_of(
    epoch: bytes | None, stored: bytes | None, evicted: Evicted | None = None, names: Names = NAMES
) -> OnlineRegistry:
    """The online registry from the values of `layout.keys.EPOCH` and REGISTRY, fetched in one command.

    `evicted`, asked for where one of them is None, is what Redis then tells of its evictions: KeysEvicted if any.
    """
    if None in (epoch, stored) and evicted is not None and evicted.keys:
        raise registry_evicted(evicted, names, gone=stored is None)
    if epoch is None and stored is None:
        return decode_online_registry(None, names)
    if stored is None or not is_epoch(epoch):
        key, expected = (names.registry, "the online registry") if stored is None else (names.epoch, "a number")
        held = "nothing, or no string" if stored is None or epoch is None else repr(epoch[:100])
        raise OnlineStoreError(
            f"{key.decode()} is not what a sync wrote", where=key.decode(), expected=expected, got=held,
            remedy=f"if TYPE {key.decode()} tells another type than string, delete it; then run `features sync`",
        )  # fmt: skip
    return decode_online_registry(stored, names)


def registry_evicted(evicted: Evicted, names: Names = NAMES, *, gone: bool = True) -> KeysEvicted:
    """The error of a Redis that has evicted keys, and has no online registry, or none that is known to be in force."""
    more = "the online registry is gone with them" if gone else "which views lack some is not noted yet"
    return KeysEvicted(
        f"Redis has evicted keys, and {more}: no view can be read",
        where=(names.registry if gone else names.epoch).decode(),
        got=f"{evicted.keys:,} keys evicted since Redis was started",
        remedy="give Redis room, set maxmemory-policy noeviction, then run `features sync`",
    )


def decode_online_registry(stored: bytes | None, names: Names = NAMES) -> OnlineRegistry:
    """The value of `layout.keys.REGISTRY`; NotSynced where there is none."""
    if stored is None:
        raise NotSynced("the online store is empty", remedy="run `features sync`")
    what, where = "the online registry", names.registry.decode()
    try:
        found = check_format(
            stored, what, ONLINE_FORMAT, kind=OnlineStoreError, where=where,
            remedy="a newer version of feature-warehouse wrote it: use that one here too (docs/upgrade.md)",
        )  # fmt: skip
        if len(stored) > LARGE and (online := _decoded_in_parts(stored, found)) is not None:
            return online
        if found == 1:
            return msgspec.json.decode(stored, type=OnlineRegistry)
        return msgspec.json.decode(stored, type=_Wrapped).online
    except UNREADABLE as error:
        remedy = "run `features sync --full` with the version of feature-warehouse that readers use"
        raise OnlineStoreError(f"{what} cannot be read", where=where, got=str(error), remedy=remedy) from None


_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_view = msgspec.json.Decoder(OnlineView).decode
_decode_definition = msgspec.json.Decoder(FeatureView).decode
_NOTHING = msgspec.Raw(b"{}")


def _decoded_in_parts(stored: bytes, number: int) -> OnlineRegistry | None:
    """As the whole, view by view: a thread that decodes lets others go on between. None for what cannot be read."""
    try:
        fields = _decode_fields(stored)
        fields = _decode_fields(fields["online"]) if number > 1 else fields
        registry = _decode_fields(fields["registry"])
        views = {name: _decode_view(each) for name, each in _decode_fields(fields.pop("views", _NOTHING)).items()}
        listed = msgspec.json.decode(registry.pop("feature_views", msgspec.Raw(b"[]")), type=list[msgspec.Raw])
        facts = tuple([_decode_definition(each) for each in listed])
        fields["registry"] = msgspec.Raw(msgspec.json.encode(registry))
        online = msgspec.json.decode(msgspec.json.encode(fields), type=OnlineRegistry)
    except (*UNREADABLE, KeyError):
        return None
    return msgspec.structs.replace(
        online, views=views, registry=msgspec.structs.replace(online.registry, feature_views=facts)
    )


class LastVerified(msgspec.Struct, frozen=True, kw_only=True):
    """A comparison of `keys` keys of a view at an instant: `different` keys differed, `unexplained` of them wrongly."""

    instant_us: int
    keys: int
    different: int
    unexplained: int


def decode_verified(stored: bytes | None) -> LastVerified | None:
    """The value of `layout.keys.VERIFIED` of a view; None for a view that was never verified."""
    if stored is None:
        return None
    try:
        return msgspec.json.decode(stored, type=LastVerified)
    except UNREADABLE as error:
        raise OnlineStoreError(
            "the result of the last `features verify` cannot be read", where=f"{VERIFIED.decode()}<view>",
            got=str(error), remedy="run `features verify` with the version of feature-warehouse that serves",
        ) from None  # fmt: skip


class Patience:
    """Of something that the online registry may change under: how long it is tried again."""

    __slots__ = ("_attempts", "_until")

    def __init__(self) -> None:
        self._attempts, self._until = 0, 0.0

    def begin(self) -> None:
        """Begin an attempt; OnlineStoreUnavailable after PATIENCE_SECONDS, but not before LEAST_ATTEMPTS."""
        if self._attempts == 0:
            self._until = time.monotonic() + PATIENCE_SECONDS
        elif self._attempts >= LEAST_ATTEMPTS and time.monotonic() > self._until:
            raise OnlineStoreUnavailable(
                "the online registry keeps changing", got=f"another version at each of {self._attempts} attempts",
                remedy="try again",
            )  # fmt: skip
        self._attempts += 1

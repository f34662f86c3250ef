"""What the audit trail tells: who asked for what, from where, by which definitions, and whether he may. No values.

An `Entry` is filled while a request is answered, and costs it next to nothing; the `Line` is made of it by whoever
writes it.
"""

import getpass
import hmac
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import msgspec

from ..definitions.registry import Registry
from ..errors import AccessDenied, FeatureStoreError, NotSignedIn, SettingsError, cut
from ..limits import Auditing
from .keys import Key

Outcome = Literal["begun", "allowed", "denied", "failed"]
UNKNOWN, ANONYMOUS = "unknown", "anonymous"
ASKED = "features.asked"  # in the ASGI scope of a page: what is told of it
LEAST_SECRET = 16  # bytes: entities can be guessed one after another, the secret must not be
REFUSALS = (401, 403, 421)  # for who asks, and under which name
MAX_MADE = 2_000  # lines that are kept
_A_COUNT = 9_007_199_254_740_991
_encode = msgspec.json.Encoder().encode
_CLAIMED = re.compile(rb"(?i:bearer) +fw_([0-9a-f]{8})_")


class Entry(msgspec.Struct, kw_only=True, gc=False):
    """One request or command, as far as it was understood.

    `changed` are the definitions or ids of keys that a command changes, `texts` gives that of each entity. Of `shown`,
    the header that shows a key, no more than an id is told.
    """

    event: str
    at_ns: int = msgspec.field(default_factory=time.time_ns)
    outcome: Outcome = "allowed"
    status: int | None = None
    who: str = UNKNOWN
    key: Key | None = None
    shown: bytes = b""
    client: str | None = None
    path: str | None = None
    why: str | None = None
    error: str | None = None
    plan: object = None  # what is the same for all entries of which all but time, count and entities is
    service: str | None = None
    source: str | None = None
    views: Sequence[str] = ()
    features: Sequence[str] = ()
    entities: int | None = None
    texts: Callable[[], Iterable[str]] | None = None
    job: str | None = None
    rows: int | None = None
    accepted: int | None = None
    rejected: int | None = None
    changed: Sequence[str] = ()
    owner: str | None = None
    scopes: Sequence[str] = ()
    registry: Registry | None = None
    before: Registry | None = None
    epoch: bytes | None = None

    def admitted(self, key: Key | None) -> None:
        """Whose request it is, who may ask; None where there are no keys."""
        self.key = key
        self.who = ANONYMOUS if key is None else key.owner

    def refused(self, error: BaseException, status: int, key: Key | None = None) -> None:
        """That it is not answered, and why: in words of our own alone, for others may repeat values."""
        if key is not None:
            self.admitted(key)
        elif isinstance(error, NotSignedIn):
            self.who = UNKNOWN
        self.status = status
        self.outcome = "denied" if status in REFUSALS else "failed"
        self.error = type(error).__name__ if isinstance(error, FeatureStoreError) else "InternalError"
        if isinstance(error, NotSignedIn):
            self.why = error.what
        elif isinstance(error, AccessDenied):
            self.why = f"{error.where}: {error.what}; expected {error.expected}"


class Line(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One line of the trail, as JSON: docs/security.md says what the fields mean."""

    at: datetime
    event: str
    outcome: Outcome
    status: int | None = None
    who: str
    key: str | None = None
    group: str | None = None
    claimed: str | None = None
    client: str | None = msgspec.field(default=None, name="from")
    path: str | None = None
    why: str | None = None
    error: str | None = None
    service: str | None = None
    source: str | None = None
    views: Sequence[str] = ()
    features: Sequence[str] = ()
    entities: int | None = None
    entity_hmacs: Sequence[str] = ()
    job: str | None = None
    rows: int | None = None
    accepted: int | None = None
    rejected: int | None = None
    changed: Sequence[str] = ()
    owner: str | None = None
    scopes: Sequence[str] = ()
    registry: str | None = None
    before: str | None = None
    epoch: str | None = None
    lost: int | None = None


class Lines:
    """Makes lines of entries; entities are told by HMAC-SHA256 where there is a `secret`.

    Of what is read again and again, a line is made once: time, count and entities are put into it.
    """

    def __init__(self, secret: bytes | None) -> None:
        self.secret = secret
        self._hashed: tuple[Registry, str] | None = None  # the registry of the last line
        self._made: dict[Any, tuple[bytes, bytes, Any]] = {}  # the last are those whose ids its key has
        self._second, self._text = -1, b""  # that of the last line, as it is written

    def encode(self, entries: Iterable[Entry]) -> bytes:
        """Lines of JSON."""
        return b"".join(map(self._encoded, entries))

    def _encoded(self, entry: Entry) -> bytes:
        if entry.plan is None or entry.outcome != "allowed":
            return encode_line(self.line(entry))
        known = id(entry.plan), id(entry.key), entry.client, entry.epoch, entry.status
        if (made := self._made.get(known)) is None:
            if len(self._made) >= MAX_MADE:
                self._made.clear()
            made = self._made[known] = (*self._parts(entry), (entry.plan, entry.key))
        before, behind, _ = made
        second, ns = divmod(entry.at_ns, 1_000_000_000)
        if second != self._second:
            self._second, self._text = (
                second,
                datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode(),
            )
        line = b'{"at":"%b.%06dZ"%b"entities":%d' % (self._text, ns // 1000, before, entry.entities or 0)
        if hmacs := self._hmacs(entry):
            return b'%b,"entity_hmacs":["%b"]%b' % (line, '","'.join(hmacs).encode(), behind)
        return line + behind

    def _parts(self, entry: Entry) -> tuple[bytes, bytes]:
        """Of the entry's line, what stands between time and count, and behind that."""
        entry = msgspec.structs.replace(entry, entities=_A_COUNT, texts=None)
        _, _, line = _encode(self.line(entry)).partition(b'Z"')
        before, _, behind = line.partition(b'"entities":%d' % _A_COUNT)
        return before, behind + b"\n"

    def line(self, entry: Entry) -> Line:
        """What is told of an entry."""
        key, claimed = entry.key, None
        if key is None and entry.shown and (found := _CLAIMED.match(entry.shown)):
            claimed = found[1].decode()
        return Line(
            at=_at(entry.at_ns), event=entry.event, outcome=entry.outcome, status=entry.status, who=entry.who,
            key=(key and key.id) or None, group=None if key is None else key.group, claimed=claimed,
            client=entry.client, path=entry.path, why=entry.why, error=entry.error, service=entry.service,
            source=entry.source, views=entry.views, features=entry.features, entities=entry.entities,
            entity_hmacs=self._hmacs(entry), job=entry.job, rows=entry.rows,
            accepted=entry.accepted, rejected=entry.rejected,
            changed=entry.changed, owner=entry.owner, scopes=entry.scopes,
            registry=None if entry.registry is None else self._hash(entry.registry),
            before=None if entry.before is None else registry_hash(entry.before),
            epoch=None if entry.epoch is None else entry.epoch.decode(),
        )  # fmt: skip

    def _hmacs(self, entry: Entry) -> Sequence[str]:
        if self.secret is None or entry.texts is None:
            return ()
        try:
            return [entity_hmac(self.secret, text) for text in entry.texts()]
        except (FeatureStoreError, KeyError):  # of a refused request: what it asked for are no entities
            return ()

    def _hash(self, registry: Registry) -> str:
        if self._hashed is None or self._hashed[0] is not registry:
            self._hashed = registry, registry_hash(registry)
        return self._hashed[1]


def command_entry(event: str, **what: Any) -> Entry:
    """What a command tells: the user of this machine who typed it."""
    try:
        who = getpass.getuser()
    except (OSError, KeyError):  # of a container, which may have no name for its user
        who = f"uid {os.getuid()}"
    return Entry(event=event, who=who, client=socket.gethostname(), **what)


def lost_line(lost: int) -> Line:
    """That lines could not be written, and how many."""
    return Line(at=_at(time.time_ns()), event="audit", outcome="failed", who="feature server", lost=lost)


def encode_line(line: Line) -> bytes:
    return _encode(line) + b"\n"


def entity_hmac(secret: bytes, text: str) -> str:
    """What stands for an entity: `printf %s TEXT | openssl dgst -sha256 -hmac SECRET` gives the same."""
    return hmac.digest(secret, text.encode(), "sha256").hex()


def registry_hash(registry: Registry) -> str:
    """The same for the registry that was applied and for the copy that readers go by."""
    return blake2b(msgspec.json.encode(registry.without_sql()), digest_size=8).hexdigest()


def read_secret(settings: Auditing, environ: dict[str, str]) -> bytes | None:
    """What entities are hashed with, from a file or `env:NAME`; SettingsError where that is none, or is short."""
    if settings.keys is None:
        return None
    scheme, _, name = settings.keys.partition(":")
    try:
        found = environ.get(name, "").encode() if scheme == "env" else Path(settings.keys).read_bytes()
    except OSError as error:
        raise _no_secret(str(error), settings.keys) from None
    if len(secret := found.strip()) < LEAST_SECRET:
        raise _no_secret(f"{len(secret)} bytes", settings.keys)
    return secret


def _no_secret(got: str, where: str) -> SettingsError:
    return SettingsError(
        "no secret to hash entities with", where=f"FEATURES_AUDIT_KEYS={cut(where)}", got=got,
        expected=f"a file, or env:NAME of a variable, with at least {LEAST_SECRET} bytes",
        remedy="make one: `openssl rand -hex 32`",
    )  # fmt: skip


def _at(ns: int) -> datetime:
    return datetime.fromtimestamp(ns // 1000 / 1e6, UTC)

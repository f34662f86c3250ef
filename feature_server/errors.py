"""Every error this product raises, as one tree.

    FeatureStoreError
    ├── DefinitionError          the project's YAML or SQL is wrong; carries every problem found
    ├── UnknownNameError         a view, feature, service or entity that the registry does not hold
    ├── RequestError             a read or a spine that cannot be answered as asked (HTTP 422)
    │   └── TooLarge             one that is beyond a limit (HTTP 413)
    ├── TooManyJobs              more training sets at a time than are taken in (HTTP 429)
    ├── CannotTrain              a feature server without an offline store, or what reads it (HTTP 501)
    ├── NotSignedIn              a request without a key, or with one that opens nothing (HTTP 401)
    ├── IssuerUnavailable        tokens cannot be checked: who makes them does not answer (HTTP 503, worth a retry)
    ├── AccessDenied             a key that may not do this (HTTP 403)
    ├── SettingsError            an environment variable or option that cannot be used
    ├── WarehouseError           DuckDB's file is missing, locked by a build, or lacks a relation
    ├── OfflineStoreError        a Delta table is missing, damaged, or lacks a version
    ├── CannotLand               files of live events cannot be written
    ├── NotInstalled             a library that only an extra installs is missing; also an ImportError
    └── OnlineStoreError         what Redis holds cannot be used
        ├── OnlineStoreUnavailable   Redis does not answer, or not yet (HTTP 503, worth a retry)
        ├── OnlineStoreRefused       Redis lets this user, or this product, in only once something is changed (HTTP 503)
        │   └── EvictingRedis        Redis may evict keys, which stream views do not bear
        ├── KeysEvicted              Redis has evicted keys, maybe those asked for, until a full sync (HTTP 503)
        ├── DamagedValue             a key's row, events or base is not laid out as the online registry says
        ├── NotSynced                the view has no values online yet (HTTP 503)
        └── SyncConflict             another sync of the same view is running or took over

An error says what happened, where, what was expected, what was got, and what to do.
"""

import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

import msgspec
from msgspec import UNSET, UnsetType

NO_UTF8 = re.compile(r"[\ud800-\udfff]")  # halves of surrogate pairs, which a Python string may hold alone
NOT_FIT = 3  # exit code of a command: views keep what they had, and trying again changes nothing
MAX_SHOWN = 100  # characters of a name or a value that an error repeats
# What is raised for bytes that are not the JSON that was wanted.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Error(msgspec.Struct, omit_defaults=True):
    """What went wrong, where, and what to do."""

    error: str
    what: str
    where: str | UnsetType = UNSET
    expected: str | UnsetType = UNSET
    got: str | UnsetType = UNSET
    remedy: str | UnsetType = UNSET


def as_text(told: Mapping[str, str]) -> str:
    """The fields of an `Error` that are set, as people read them."""
    what = told["what"]
    parts = [f"{told['where']}: {what}" if "where" in told else what]
    parts += [f"{label}: {told[label]}" for label in Error.__struct_fields__[3:] if label in told]
    return "\n  ".join(parts)


class FeatureStoreError(Exception):
    """Base of all errors that are meant for a user.

    `what` is one sentence; `where` a file, key path or name; `remedy` what to type or change next.
    """

    status = 500
    logged = False  # by the feature server, which answers several requests with one error

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        got: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.what = utf8(what)
        self.where, self.expected, self.got, self.remedy = map(utf8, (where, expected, got, remedy))
        super().__init__(str(self))

    def __str__(self) -> str:
        return as_text(self.as_dict())

    def as_dict(self) -> dict[str, str]:
        """The fields of `Error` that are set, for JSON answers."""
        fields = {name: getattr(self, name) for name in Error.__struct_fields__[1:]}
        return {"error": type(self).__name__} | {name: value for name, value in fields.items() if value is not None}


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One mistake in a project's definitions, as `features check` reports it."""

    file: str
    line: int | None = None
    key_path: str
    what: str
    expected: str | None = None
    got: str | None = None
    nearest: str | None = None
    remedy: str | None = None

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        lines = [f"{place}: {self.key_path}: {self.what}"]
        told = msgspec.structs.asdict(self)
        lines += [f"{label}: {told[label]}" for label in ("expected", "got", "remedy") if told[label] is not None]
        if self.nearest is not None:
            lines.append(f"did you mean: {self.nearest}")
        return "\n  ".join(lines)


class DefinitionError(FeatureStoreError):
    """The project's definitions are wrong; `problems` holds every one of them."""

    status = 422

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        noun = "problem" if len(self.problems) == 1 else "problems"
        super().__init__(
            f"{len(self.problems)} {noun} in the definitions",
            remedy="correct the files named and run `features check` again",
        )

    def __str__(self) -> str:
        return "\n".join([f"{len(self.problems)} problem(s) in the definitions", *map(str, self.problems)])


_DEFINED = ("feature_view", "feature_service", "feature")


class UnknownNameError(FeatureStoreError):
    """A name that the registry does not hold; says the nearest one that it does."""

    status = 404

    def __init__(self, kind: str, name: str, known: Iterable[str], *, where: str | None = None) -> None:
        known = sorted(known)
        nearest = nearest_name(name, known)
        self.kind, self.name, self.nearest = kind, name, nearest
        if not known:
            expected = f"a known {kind}; the registry holds none"
        else:
            more = f", … ({len(known)} in all)" if len(known) > 10 else ""
            expected = f"one of {', '.join(known[:10])}{more}"
        remedy = f"did you mean {nearest!r}?" if nearest else None
        if kind in _DEFINED:
            new = "what is new needs `features apply`, and `features sync` before it can be read online"
            remedy = f"{remedy} Else: {new}" if remedy else new
        super().__init__(f"unknown {kind} {shown(name)}", where=where, expected=expected, got=cut(name), remedy=remedy)


class NotInstalled(FeatureStoreError, ImportError):
    """A library that only an extra installs is missing: `extras` says which extra."""


class CannotPush(FeatureStoreError):
    """A feature server's install lacks what events are validated and kept with."""

    status = 501


class RequestError(FeatureStoreError):
    """A read or a spine that cannot be answered as asked."""

    status = 422


class TooLarge(RequestError):
    """A spine, or what is made of it, beyond a limit."""

    status = 413


class TooManyJobs(FeatureStoreError):
    """More training sets at a time than a feature server takes in."""

    status = 429


class CannotTrain(FeatureStoreError):
    """A feature server without an offline store, or without what reads it."""

    status = 501


class NotSignedIn(FeatureStoreError):
    """A request without a key of access, or with one that opens nothing, or nothing any more."""

    status = 401


class IssuerUnavailable(FeatureStoreError):
    """Tokens cannot be checked, as the issuer does not show its keys; the same call may succeed after a while."""

    status = 503
    retry_after_seconds = 5


class AccessDenied(FeatureStoreError):
    """A key of access that may not do what is asked."""

    status = 403


class SettingsError(FeatureStoreError):
    """An environment variable or option that cannot be used."""


class WarehouseError(FeatureStoreError):
    """DuckDB's file is missing, locked by a build, or lacks a relation."""


class NotFit(WarehouseError):
    """Rows of a view that are not to be published, however often it is tried: readers keep what was published."""


class NotApplied(NotFit):
    """Rows of a view whose definition is not the one in force."""


class OfflineStoreError(FeatureStoreError):
    """A Delta table is missing, damaged, or lacks a version."""


class NotPublished(OfflineStoreError):
    """A view that was never published, or not by the definition in force: only that helps."""


class OnlineStoreError(FeatureStoreError):
    """What Redis holds cannot be used; `elsewhere`: its address may lead to another server by now."""

    elsewhere = False


class OnlineStoreUnavailable(OnlineStoreError):
    """Redis does not answer; the same call may succeed after `retry_after_seconds`."""

    status = 503
    retry_after_seconds = 1


class OnlineStoreRefused(OnlineStoreError):
    """Redis refuses until somebody has changed something: a password, a right, the server."""

    status = 503


class EvictingRedis(OnlineStoreRefused):
    """Redis may evict keys: its maxmemory-policy must be noeviction for stream views."""


class KeysEvicted(OnlineStoreError):
    """Redis has evicted keys, maybe those asked for: what they held is known again after a full sync."""

    status = 503


class DamagedValue(OnlineStoreError):
    """What Redis holds of a key is not laid out as the online registry says; `place` is its place among those read."""

    place = 0

    def at(self, place: int) -> "DamagedValue":
        self.place = place
        return self

    def of(self, key: str) -> "DamagedValue":
        """The same error with the key in it."""
        told = {name: getattr(self, name) for name in ("expected", "got", "remedy")}
        return DamagedValue(self.what, where=f"{self.where} of {key}", **told).at(self.place)


class CannotLand(FeatureStoreError):
    """Files of live events cannot be written; the events stay in Redis."""


class NotSynced(OnlineStoreError):
    """A view that has no values online yet."""

    status = 503
    retry_after_seconds = 10


class SyncConflict(OnlineStoreError):
    """Another sync of the same view is running, or has taken over from this one."""


@overload
def utf8(text: str) -> str: ...
@overload
def utf8(text: str | None) -> str | None: ...
def utf8(text: str | None) -> str | None:
    """A text as it can be written anywhere: half of a surrogate pair, which has no UTF-8, by its number."""
    return text if text is None or text.isascii() else text.encode(errors="backslashreplace").decode()


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None when none is alike."""
    if len(name) > MAX_SHOWN:
        return None  # the search takes the product of both lengths
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


class _Shortened(reprlib.Repr):
    """`repr` that looks at no more of a value than it shows."""

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() < 256 else f"an integer of {x.bit_length():,} bits"


_shortened = _Shortened()
_shortened.maxstring = _shortened.maxother = MAX_SHOWN


def shown(value: Any) -> str:
    """`repr` of what somebody sent, as an error repeats it: MAX_SHOWN characters, the middle of more left out."""
    return cut(_shortened.repr(value))


def cut(text: str, most: int = MAX_SHOWN) -> str:
    """A text of at most `most` characters: the middle of a longer one is left out."""
    half = (most - 3) // 2
    return text if len(text) <= most else f"{text[:half]}...{text[-half:]}"

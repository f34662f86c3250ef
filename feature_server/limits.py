"""How much feature servers take on, and where their audit trail goes, as FEATURES_ variables say."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from .errors import SettingsError

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Count = Annotated[int, Meta(gt=0)]
Limits = TypeVar("Limits", bound=msgspec.Struct)


class HttpLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What the feature server lets one client take: each field is set by FEATURES_ and its name in capitals.

    `head_bytes` of a request line and headers, `head_seconds` until they are there, from the connection or their first
    byte; `body_seconds` from then until the body is; `answer_seconds` in which some of an answer has to be taken;
    `idle_seconds` from an answer to the next request.
    """

    head_bytes: Annotated[int, Meta(ge=4096, le=1 << 30)] = 65_536
    head_seconds: Seconds = 10
    body_seconds: Seconds = 60
    answer_seconds: Seconds = 60
    idle_seconds: Seconds = 75


class TrainLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What the feature server takes on of training sets: a field is set by FEATURES_, TRAIN_ and its name in capitals.

    `rows` of a spine, where a key has no limit of its own; `spine_bytes` as it comes and as it is read, `result_bytes`
    of the file made of it; `memory_bytes` of a job's process; `jobs` at once, others wait; `keep_seconds` for which a
    result waits to be fetched.
    """

    rows: Count = 10_000_000
    spine_bytes: Count = 1 << 30
    result_bytes: Count = 8 << 30
    memory_bytes: Count = 4 << 30
    jobs: Count = 1
    keep_seconds: Count = 86_400


class AuditLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How large the audit trail gets: a field is set by FEATURES_AUDIT_ and its name in capitals.

    A file of `bytes` is put aside, and `files` of those are kept.
    """

    bytes: Annotated[int, Meta(ge=4096)] = 100 << 20
    files: Annotated[int, Meta(ge=1, le=10_000)] = 10


class Auditing(msgspec.Struct, frozen=True, kw_only=True):
    """Where lines of the audit trail go, as FEATURES_AUDIT says: a path, `stdout` or `off`.

    `keys` (FEATURES_AUDIT_KEYS) names what entities are hashed with: a file, or `env:NAME`. `strict`
    (FEATURES_AUDIT_STRICT, 1 or 0): nothing is answered of which no line can be written.
    """

    path: Path | None = None
    to_stdout: bool = False
    keys: str | None = None
    strict: bool = False
    files: AuditLimits = AuditLimits()

    @property
    def on(self) -> bool:
        return self.to_stdout or self.path is not None


def read_limits(env: Mapping[str, str], kind: type[Limits], prefix: str = "") -> Limits:
    given = {name: text for name in kind.__struct_fields__ if (text := env.get(f"FEATURES_{prefix}{name.upper()}"))}
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        what, _, name = str(error).partition(" - at `$.")
        name = name.strip("`")
        raise SettingsError(
            "not a limit", where=f"FEATURES_{prefix}{name.upper()}", got=repr(given[name]), expected=what,
            remedy="give a number, or leave it unset",
        ) from None  # fmt: skip

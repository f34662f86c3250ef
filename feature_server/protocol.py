"""The wire: what is asked and pushed where, what answers it, and how an error travels. Server, client and OpenAPI use
these structs; only the answer to a read is written by hand (`app.json`), for speed."""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from . import errors
from .errors import Error, FeatureStoreError, cut

READ_PATH = "/get-online-features"
PUSH_PATH = "/push"
TRAIN_PATH = "/train"
TRAIN_TYPE = "application/vnd.features.train"
Status = Literal["PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE"]


class GetOnlineFeatures(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A request: features by `view:feature` or by the name of a service, entities as columns of join key values.

    `include_feature_view_version_metadata` is Feast's; its JSON answers do not carry that metadata, nor do ours.
    """

    entities: dict[str, list[Any]]
    features: list[str] | None = None
    feature_service: str | None = None
    full_feature_names: bool = False
    include_feature_view_version_metadata: bool = False


class Metadata(msgspec.Struct):
    """Join keys, then features in the order asked for; `feature_types` names the type of each."""

    feature_names: list[str]
    feature_types: list[str]


class Result(msgspec.Struct):
    """One join key or feature: a value, a status and an event timestamp for each entity."""

    values: list[Any]
    statuses: list[Status]
    event_timestamps: list[Annotated[str, Meta(extra_json_schema={"format": "date-time"})]]


class OnlineFeaturesResponse(msgspec.Struct):
    """`results` has one item for each of `metadata.feature_names`."""

    metadata: Metadata
    results: list[Result]


class PushEvents(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Live events of a dbt source: a list of values for each of its columns. `to` and the rest are Feast's."""

    push_source_name: str
    df: Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "object", "additionalProperties": {"type": "array"}})]
    to: Annotated[str, Meta(extra_json_schema={"enum": ["online", "online_and_offline"]})] = "online"
    allow_registry_cache: bool = True
    transform_on_write: bool = True


class RejectedEvent(msgspec.Struct, frozen=True):
    """The place of an event in the lists that were sent, and why it was refused."""

    index: int
    reason: str


class PushResponse(msgspec.Struct, frozen=True, kw_only=True):
    """How many events were taken in, and those that were not."""

    accepted: int
    rejected: tuple[RejectedEvent, ...]


def push_response(accepted: int, rejected: Iterable[tuple[int, str]]) -> PushResponse:
    """What became of a push, as `ingest` tells it."""
    return PushResponse(accepted=accepted, rejected=tuple(RejectedEvent(*found) for found in rejected))


class GetHistoricalFeatures(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A training set: the first line of a body whose rest is the spine, an Arrow IPC stream or a Parquet file.

    `id` is the client's own for the job, so that a request without an answer may be sent again.
    """

    features: list[str] | None = None
    feature_service: str | None = None
    full_feature_names: bool = False
    as_known: bool = False
    event_timestamp: str = "event_timestamp"
    versions: dict[str, int] = {}
    id: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")] | None = None

    @property
    def what(self) -> str | list[str]:
        """The service or the features; RequestError unless it is one of them."""
        if self.feature_service is not None and self.features is None:
            return self.feature_service
        if self.features is None or self.feature_service is not None:
            raise errors.RequestError(
                "not one of the two", where="$", expected='"features": ["view:feature"] or "feature_service": "name"'
            )
        return self.features


class TrainingResult(msgspec.Struct, frozen=True, kw_only=True):
    """The Parquet file that a job has made, and what is told of it."""

    bytes: int
    sha256: str
    rows: int
    feature_columns: tuple[str, ...]
    versions: dict[str, int]
    null_share: dict[str, float]
    deprecated: dict[str, str] = {}


class TrainingJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a job stands: `ahead` of it in line; `rows` done of `all_rows`, `views` of `all_views` in those being made.

    `doing` is what takes its time before the first row.
    """

    id: str
    state: Literal["waiting", "running", "done", "failed"]
    ahead: int = 0
    doing: str = ""
    rows: int = 0
    all_rows: int = 0
    views: int = 0
    all_views: int = 0
    result: TrainingResult | None = None
    error: Error | None = None


_RETRY_AFTER = "retry-after"
MAX_FIELD = 500  # characters of a field of an error
_PATH = re.compile(r"(?<![^\s'\"(])/[^\s'\"/]+/[^\s'\"]*")  # of a file, as a remedy names it
_KINDS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, FeatureStoreError) and kind is not errors.DefinitionError
}


def told_outside(error: FeatureStoreError) -> dict[str, str]:
    """The fields of `Error` that are set, for who asks over HTTP: the server's sockets, files and addresses are not."""
    told = {name: cut(text, MAX_FIELD) for name, text in error.as_dict().items()}
    if error.status < 500 or isinstance(
        error, errors.NotSynced | errors.KeysEvicted | errors.DamagedValue
    ):  # they are at a view
        return told
    return {name: _PATH.sub("…", text) for name, text in told.items() if name not in ("where", "got")}


def encode_error(error: FeatureStoreError) -> bytes:
    """The body of an answer that is an error."""
    return msgspec.json.encode(Error(**told_outside(error)))


def error_headers(error: FeatureStoreError) -> dict[str, str]:
    """What such an answer's headers say of the error."""
    if isinstance(error, errors.NotSignedIn):
        return {"www-authenticate": "Bearer"}
    seconds = getattr(error, "retry_after_seconds", None)
    return {} if seconds is None else {_RETRY_AFTER: str(seconds)}


def decode_error(body: bytes, headers: Mapping[str, str]) -> FeatureStoreError:
    """The error of an answer, as the class it was raised as; `errors.UNREADABLE` or KeyError for any other body."""
    fields = msgspec.to_builtins(msgspec.json.decode(body, type=Error))
    kind = _KINDS[fields.pop("error")]
    error = kind.__new__(kind)
    FeatureStoreError.__init__(error, **fields)
    seconds = headers.get(_RETRY_AFTER, "")
    if isinstance(error, errors.OnlineStoreUnavailable) and seconds.isdecimal():
        error.retry_after_seconds = int(seconds)
    return error

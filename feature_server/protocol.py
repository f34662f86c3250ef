"""The wire: what a request holds, what answers it, and what an error is. The client decodes what the server encodes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

Status = Literal["PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE"]


class Metadata(msgspec.Struct):
    """Join keys, then features in the order asked for; `feature_types` names the type of each."""

    feature_names: list[str]
    feature_types: list[str]


class Result(msgspec.Struct):
    """One join key or feature: a value, a status and an event timestamp for each entity."""

    values: list[Any]
    statuses: list[Status]
    event_timestamps: list[Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]]


class OnlineFeaturesResponse(msgspec.Struct):
    """`results` has one item for each of `metadata.feature_names`."""

    metadata: Metadata
    results: list[Result]


class Error(msgspec.Struct, omit_defaults=True):
    """What went wrong, where, and what to do."""

    error: str
    what: str
    where: str = ""
    expected: str = ""
    got: str = ""
    remedy: str = ""


class PushEvents(msgspec.Struct, kw_only=True):
    """Live events of a dbt source: a list of values for each of its columns. `to` and the rest are Feast's."""

    push_source_name: str
    df: dict[str, list[Any]]
    to: Literal["online", "online_and_offline"] = "online"
    allow_registry_cache: bool = True
    transform_on_write: bool = True


class RejectedEvent(msgspec.Struct):
    """The place of an event in the lists that were sent, and why it was refused."""

    index: int
    reason: str


class PushResponse(msgspec.Struct):
    """How many events were taken in, and those that were not."""

    accepted: int
    rejected: list[RejectedEvent]


class GetOnlineFeatures(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A request: features by `view:feature` or by the name of a service, entities as columns of join key values.

    `include_feature_view_version_metadata` is Feast's; its JSON answers do not carry that metadata, nor do ours.
    """

    entities: dict[str, list[Any]]
    features: list[str] | None = None
    feature_service: str | None = None
    full_feature_names: bool = False
    include_feature_view_version_metadata: bool = False

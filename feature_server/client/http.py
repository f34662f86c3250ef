"""The client over HTTP: what is sent, and how the JSON that comes back becomes the same Python values as from Redis."""

from __future__ import annotations

import operator
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from .. import errors
from ..dtypes import FLOAT_WIDTHS, DType, parse_dtype
from ..errors import UNREADABLE, FeatureStoreError, OnlineStoreError, OnlineStoreUnavailable
from ..protocol import GetOnlineFeatures
from ..serving.rows import NOT_FOUND
from .result import FeatureVectors

PATH = "/get-online-features"


class _Metadata(msgspec.Struct):
    feature_names: list[str]
    feature_types: list[str]


class _Result(msgspec.Struct):
    values: list[Any]
    statuses: list[str]
    event_timestamps: list[str]


class _Response(msgspec.Struct):
    metadata: _Metadata
    results: list[_Result]


_decode = msgspec.json.Decoder(_Response).decode
_KINDS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, FeatureStoreError) and kind is not errors.DefinitionError
}


def encode_request(request: GetOnlineFeatures) -> bytes:
    fields = {name: getattr(request, name) for name in ("features", "feature_service") if getattr(request, name)}
    fields |= {"entities": request.entities, "full_feature_names": request.full_feature_names}
    try:
        return msgspec.json.encode(fields, enc_hook=operator.index)  # NumPy's integers
    except (TypeError, OverflowError, ValueError) as error:
        raise errors.RequestError(
            "a join key value cannot be sent", where="entities", got=str(error), remedy="send plain Python values"
        ) from None


def decode_response(body: bytes, entities: dict[str, list[Any]], url: str) -> FeatureVectors:
    """The features of a 200 answer."""
    try:
        response = _decode(body)
    except UNREADABLE as error:
        raise OnlineStoreError(
            "the server's answer cannot be read", where=url, got=str(error), remedy="check that it is a feature server"
        ) from None
    keys, values, statuses, event_timestamps, types = {}, {}, {}, {}, {}
    columns = zip(response.metadata.feature_names, response.metadata.feature_types, response.results, strict=True)
    for name, type_name, result in columns:
        dtype = types[name] = parse_dtype(type_name)
        if name in entities:
            keys[name] = entities[name]
            continue
        restore = _restore(dtype)
        values[name] = result.values if restore is None else [None if v is None else restore(v) for v in result.values]
        statuses[name] = result.statuses
        event_timestamps[name] = [
            None if status == NOT_FOUND else datetime.fromisoformat(text)
            for text, status in zip(result.event_timestamps, result.statuses, strict=True)
        ]
    return FeatureVectors(
        entities=keys, values=values, statuses=statuses, event_timestamps=event_timestamps, types=types
    )


def error_of(status: int, body: bytes, url: str, retry_after: str = "") -> FeatureStoreError:
    """The error that the server reports, as the class it was raised as there."""
    error = _error_of(status, body, url)
    if isinstance(error, OnlineStoreUnavailable) and retry_after.isdigit():
        error.retry_after_seconds = int(retry_after)
    return error


def _error_of(status: int, body: bytes, url: str) -> FeatureStoreError:
    try:
        fields = msgspec.json.decode(body, type=dict[str, Any])
        kind, what = _KINDS[fields["error"]], fields["what"]
    except (*UNREADABLE, KeyError, TypeError):
        kind = OnlineStoreUnavailable if status in (502, 503, 504) else OnlineStoreError
        return kind(
            f"the server answered {status}", where=url, got=body[:200].decode(errors="replace") or "nothing",
            remedy="check that the URL is that of a feature server",
        )  # fmt: skip
    error: FeatureStoreError = kind.__new__(kind)
    details = {name: fields.get(name) for name in ("where", "expected", "got", "remedy")}
    FeatureStoreError.__init__(error, what, **details)
    return error


def unreachable(url: str, error: Exception) -> OnlineStoreUnavailable:
    return OnlineStoreUnavailable(
        "the feature server does not answer",
        where=url,
        got=str(error) or type(error).__name__,
        remedy="start it with `features serve`, or correct the URL; the same call then succeeds",
    )


def _restore(dtype: DType) -> Callable[[Any], Any] | None:
    """What makes the Python value of a JSON value; None if it is one."""
    if dtype.kind in FLOAT_WIDTHS:
        return float
    if dtype.kind == "list" and dtype.item in FLOAT_WIDTHS:
        return lambda values: [None if value is None else float(value) for value in values]
    restorers: dict[str, Callable[[Any], Any]] = {
        "decimal": Decimal,
        "date": date.fromisoformat,
        "timestamp": lambda text: datetime.fromisoformat(text).replace(tzinfo=None),
        "timestamptz": datetime.fromisoformat,
        "uuid": UUID,
    }
    return restorers.get(dtype.kind)

"""The client over HTTP: what is sent, and how the JSON that comes back becomes the same Python values as from Redis."""

import math
import operator
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from ..definitions.facts import JoinKey
from ..dtypes import FLOAT_WIDTHS, DType, parse_dtype
from ..errors import (
    UNREADABLE,
    FeatureStoreError,
    OnlineStoreError,
    OnlineStoreUnavailable,
    RequestError,
    SettingsError,
    cut,
    shown,
)
from ..layout.keys import wrong_type
from ..online.address import http_login
from ..protocol import GetOnlineFeatures, OnlineFeaturesResponse, decode_error
from ..serving.statuses import NOT_FOUND
from ..settings import Settings
from .result import FeatureVectors

_KEYS = {int, str, bool, type(None), date, UUID}
NO_HEADERS: Mapping[str, str] = {}
_decode = msgspec.json.Decoder(OnlineFeaturesResponse).decode


def encode_request(request: GetOnlineFeatures) -> bytes:
    """RequestError for a key that JSON would write as another value, or that is none of any type of key."""
    for name, values in request.entities.items():
        if not _KEYS.issuperset(map(type, values)) and not all(map(_can_be_key, values)):
            wrong = next(value for value in values if not _can_be_key(value))
            raise RequestError(
                f"a value of join key {shown(name)} has the wrong type",
                where=f"entities.{cut(name)}",
                expected="an integer, text, a date, a UUID, a boolean, or None where it is missing",
                got=f"{shown(wrong)} ({type(wrong).__name__})",
            )
    try:
        return msgspec.json.encode(request, enc_hook=_numpy_key)
    except (TypeError, OverflowError, ValueError) as error:
        raise RequestError(
            "a join key cannot be sent", where="entities", got=cut(str(error)), remedy="send plain Python values"
        ) from None


def _can_be_key(value: Any) -> bool:
    """Whether it is of some join key's type; a number with a fraction is for the server to refuse by the key's own."""
    if isinstance(value, float):
        return math.isfinite(value)
    return type(value) in _KEYS or isinstance(value, str) or hasattr(value, "__index__")


def _numpy_key(value: Any) -> Any:
    """An integer or a text of NumPy's as Python's."""
    return str(value) if isinstance(value, str) else operator.index(value)


def decode_response(body: bytes, entities: dict[str, list[Any]], url: str) -> FeatureVectors:
    """The features of a 200 answer."""
    try:
        response = _decode(body)
    except UNREADABLE as error:
        raise OnlineStoreError(
            "the server's answer cannot be read", where=url, got=str(error), remedy="check that it is a feature server"
        ) from None
    keys, values, event_timestamps, types = {}, {}, {}, {}
    statuses: dict[str, list[Any]] = {}
    columns = zip(response.metadata.feature_names, response.metadata.feature_types, response.results, strict=True)
    for name, type_name, result in columns:
        dtype = types[name] = parse_dtype(type_name)
        if name in entities:
            keys[name] = entities[name]
            if dtype.kind == "string":
                _check_texts(name, dtype, keys[name])
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


def _check_texts(name: str, dtype: DType, values: list[Any]) -> None:
    """RequestError for a date or UUID, which JSON writes as the text that they are not."""
    if {date, UUID}.isdisjoint(map(type, values)):
        return
    raise wrong_type(JoinKey(name, dtype), next(value for value in values if type(value) in (date, UUID)))


def key_to_send(given: str | None, settings: Settings, *, over_http: bool) -> str | None:
    """The key to send; SettingsError for one that no header can hold, or that would not be sent."""
    if given is not None and not over_http:
        raise SettingsError(
            "a key of access is for feature servers", where="key", expected="a URL that begins with http", got="Redis",
            remedy="leave it out: Redis asks for user and password, which stand in its URL",
        )  # fmt: skip
    key = given or (settings.key if over_http else None)
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise SettingsError(
            "no key of access", where="key" if given else "FEATURES_KEY", got=f"{len(key)} characters",
            expected="printable ASCII, as `features keys create` has shown it",
        )  # fmt: skip
    return key


def http_options(url: str, where: str, key: str | None, timeout: float) -> dict[str, Any]:
    """What an httpx client of a feature server is made with; SettingsError for both a key and a login."""
    login, headers = http_login(url), {"content-type": "application/json"}
    if key is not None:
        if login is not None:
            raise SettingsError(
                "both a key and a login are to be sent", where=where, expected="one of the two",
                got="a key of access, and user and password in the URL", remedy="take one away",
            )  # fmt: skip
        headers["authorization"] = f"Bearer {key}"
    return {"timeout": timeout, "headers": headers, "trust_env": False, "auth": login}


def error_of(status: int, body: bytes, url: str, headers: Mapping[str, str] = NO_HEADERS) -> FeatureStoreError:
    """The error that the server reports, as the class it was raised as there."""
    try:
        return decode_error(body, headers)
    except (*UNREADABLE, KeyError):
        kind = OnlineStoreUnavailable if status in (502, 503, 504) else OnlineStoreError
        return kind(
            f"the server answered {status}", where=url, got=body[:200].decode(errors="replace") or "nothing",
            remedy="check that the URL is that of a feature server",
        )  # fmt: skip


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

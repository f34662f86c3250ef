"""The wire: what the client sends is what the server takes, and an error arrives as the one that was raised."""

from __future__ import annotations

import inspect

import msgspec
import numpy as np
import pytest

from feature_server import errors
from feature_server.app.push import parse_push
from feature_server.client.http import encode_request
from feature_server.client.push import encode_push
from feature_server.errors import (
    DamagedValue,
    Error,
    FeatureStoreError,
    KeysEvicted,
    NotSynced,
    OnlineStoreUnavailable,
    RequestError,
)
from feature_server.protocol import GetOnlineFeatures, decode_error, encode_error, error_headers, told_outside


def every_kind() -> list[type[FeatureStoreError]]:
    found = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FeatureStoreError)]
    return [kind for kind in found if kind not in (errors.DefinitionError, errors.UnknownNameError)]


@pytest.mark.parametrize("kind", every_kind())
def test_an_error_arrives_as_the_one_that_was_raised(kind: type[FeatureStoreError]) -> None:
    sent = kind('it "broke"', where="here", expected="ü", got="", remedy="mend\nit")
    if isinstance(sent, OnlineStoreUnavailable):
        sent.retry_after_seconds = 7
    got = decode_error(encode_error(sent), error_headers(sent))
    assert type(got) is kind
    if kind.status >= 500 and kind not in (
        DamagedValue,
        NotSynced,
        KeysEvicted,
    ):  # where the server has failed is for its log
        sent.where = sent.got = None
        sent.args = (str(sent),)
    assert vars(got) == vars(sent)


def test_what_the_server_failed_with_is_not_told_outside() -> None:
    failed = OnlineStoreUnavailable("no answer", where="unix:///srv/x", got="[Errno 2]", remedy="start it")
    assert told_outside(failed) == {"error": "OnlineStoreUnavailable", "what": "no answer", "remedy": "start it"}
    assert errors.as_text(told_outside(failed)) == "no answer\n  remedy: start it"
    assert errors.as_text(failed.as_dict()) == str(failed)
    for told in (RequestError("x", where="w", got="g"), NotSynced("x", where="w", got="g")):
        assert told_outside(told) == told.as_dict()


def test_an_error_has_the_fields_that_its_json_has() -> None:
    fields = [name for name in inspect.signature(FeatureStoreError).parameters if name != "self"]
    assert ["error", *fields] == list(Error.__struct_fields__)
    assert encode_error(RequestError("x", got="")) == b'{"error":"RequestError","what":"x","got":""}'
    assert str(RequestError("x", where="w", remedy="r")) == "w: x\n  remedy: r"


def test_what_waiting_helps_with_says_how_long() -> None:
    assert error_headers(NotSynced("x")) == {"retry-after": "10"}
    assert error_headers(RequestError("x")) == {}
    unread = decode_error(b'{"error":"OnlineStoreUnavailable","what":"x"}', {"retry-after": "\u00b2"})
    assert isinstance(unread, OnlineStoreUnavailable)
    assert unread.retry_after_seconds == 1


def test_an_unknown_name_arrives_with_what_was_meant() -> None:
    sent = errors.UnknownNameError("feature view", "a", ["ab"])
    assert str(decode_error(encode_error(sent), {})) == str(sent)


def test_the_server_takes_the_requests_of_the_client() -> None:
    request = GetOnlineFeatures(entities={"c": [1, np.int64(2)]}, features=["a:b"], full_feature_names=True)
    body = encode_request(request)
    assert msgspec.json.decode(body) == {"entities": {"c": [1, 2]}, "features": ["a:b"], "full_feature_names": True}
    assert msgspec.json.decode(body, type=GetOnlineFeatures).features == ["a:b"]
    pushed = parse_push(encode_push('a."b', b'{"c":[1]}'))
    assert (pushed.push_source_name, bytes(pushed.df), pushed.to) == ('a."b', b'{"c":[1]}', "online")

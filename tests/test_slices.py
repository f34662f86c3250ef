"""A large JSON body in slices gives what it gives when it is decoded whole, and is refused where that is refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_server import slices
from feature_server.errors import RequestError
from feature_server.slices import NotJSON, Scan, Slices

TEXTS = st.text(alphabet=',"\\[]{}aé \n', max_size=6)
VALUES = st.recursive(
    TEXTS | st.integers(-5, 10**6) | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
BODIES = st.fixed_dictionaries(
    {
        "features": st.lists(VALUES, max_size=5),
        "entities": st.dictionaries(TEXTS, st.lists(VALUES, max_size=6)),
        "n": TEXTS,
    }
)
DAMAGE = st.sampled_from([b",", b'"', b"[", b"]", b"\\", b"{", b"}", b" "])


def scanned(body: bytes) -> Scan:
    scan = Scan(body)
    for _ in scan.steps():
        pass
    return scan


def decoded(body: bytes, size: int) -> Any:
    """The body, put together from its slices."""
    scan = scanned(body)

    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [item for part in scan.lists[int(value[0])].parts(size) for item in part]
        return {name: filled(each) for name, each in value.items()} if isinstance(value, dict) else value

    rest = msgspec.json.decode(scan.rest)
    return {name: filled(value) for name, value in rest.items()} if isinstance(rest, dict) else filled(rest)


@pytest.fixture(params=[1, 7, 64])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so short that every body has many."""
    monkeypatch.setattr(slices, "BLOCK", request.param)


FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.usefixtures("block")
@FEW
@given(BODIES, st.booleans(), st.sampled_from([None, 1]), st.integers(1, 5))
def test_a_body_in_slices_is_the_body(body: Any, ascii_only: bool, indent: int | None, size: int) -> None:
    assert decoded(json.dumps(body, ensure_ascii=ascii_only, indent=indent).encode(), size) == body


@pytest.mark.usefixtures("block")
@FEW
@given(BODIES, DAMAGE, st.integers(0, 10**6), st.booleans())
def test_a_damaged_body_is_refused_or_read_as_it_would_be_whole(
    body: Any, damage: bytes, place: int, left_out: bool
) -> None:
    text = json.dumps(body).encode()
    at = place % len(text)
    damaged = text[:at] + (b"" if left_out else damage) + text[at + left_out :]
    try:
        expected = msgspec.json.decode(damaged)
    except msgspec.DecodeError:
        with pytest.raises(msgspec.DecodeError):
            decoded(damaged, 3)
    else:
        assert decoded(damaged, 3) == expected


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        (b"1,2,3,", "malformed"),
        (b"1,2,,3", "malformed"),
        (b"1,2 3", "malformed"),
        (b"1,2,x", r"invalid character \(byte 11\)"),
    ],
)
def test_a_list_that_is_no_json_is_refused_at_its_byte(items: bytes, reason: str) -> None:
    (column,) = scanned(b'{"a": [%b]}' % items).lists
    with pytest.raises(NotJSON, match=reason):
        list(column.parts(2))


def test_parts_are_as_long_as_wanted_and_let_go_of_what_was_given() -> None:
    (column,) = scanned(json.dumps({"a": list(range(1_000))}).encode()).lists
    parts = list(column.parts(300))
    assert [len(part) for part in parts] == [300, 300, 300, 100]
    assert [value for part in parts for value in part] == list(range(1_000))


def test_long_items_make_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "PART", 1_000)
    column = Slices(b"")
    column.add(0, 10_000, 100)
    assert (column.within(50), column.within(3)) == (10, 3)


@pytest.mark.parametrize(
    "body",
    [b'{"a":{%b}}' % b",".join(b'"%d":[]' % i for i in range(20_000)), b"[" + b"{}," * 40_000],
    ids=["lists", "values"],
)
def test_a_body_that_is_large_otherwise_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError, match="not by its lists"):
        scanned(body)

"""Row keys: one for each entity, and none for a value of the wrong type."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_server.definitions.facts import JoinKey
from feature_server.dtypes import DType
from feature_server.errors import RequestError
from feature_server.layout.keys import code_text, key_encoder, key_value, row_key

NUMBER = UUID("c0ffee00-0000-4000-8000-00000000000f")


def encoded(kind: str, value: Any) -> str | None:
    return key_encoder(JoinKey("key", DType(kind)))(value)


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("int64", -42, "-42"),
        ("uint64", 2**64 - 1, "18446744073709551615"),
        ("string", "JFK", "JFK"),
        ("string", "", "%"),
        ("string", "%|{}", "%25%7C%7B%7D"),
        ("date", date(2013, 12, 31), "2013-12-31"),
        ("date", "2013-12-31", "2013-12-31"),
        ("uuid", NUMBER, str(NUMBER)),
        ("uuid", str(NUMBER).upper(), str(NUMBER)),
        ("bool", True, "true"),
        ("string", None, None),
        ("int64", None, None),
    ],
)
def test_a_value_of_the_right_type_has_its_text(kind: str, value: Any, text: str | None) -> None:
    assert encoded(kind, value) == text


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int64", True), ("int64", 1.0), ("int64", "1"), ("int8", 128), ("uint8", -1), ("int64", 2**63),
        ("string", 1), ("string", b"JFK"), ("date", "31.12.2013"), ("date", datetime(2013, 12, 31)), ("uuid", "42"),
        ("uuid", 42), ("bool", 1), ("bool", "true"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused_by_name(kind: str, value: Any) -> None:
    with pytest.raises(RequestError, match=r"entities\.key: a value of join key 'key' has the wrong type"):
        encoded(kind, value)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("int64", "-42", -42),
        ("uint8", "7", 7),
        ("int64", "4_2", "4_2"),
        ("int64", " 42", " 42"),
        ("int64", "٤٢", "٤٢"),
        ("int64", "4.0", "4.0"),
        ("bool", "true", True),
        ("bool", "false", False),
        ("bool", "True", "True"),
        ("string", "42", "42"),
        ("date", "2013-12-31", "2013-12-31"),
    ],
)
def test_a_text_stands_for_a_number_or_a_boolean_only_as_row_keys_spell_them(kind: str, text: str, value: Any) -> None:
    found = key_value(JoinKey("key", DType(kind)), text)
    assert (found, type(found)) == (value, type(value))


@given(st.lists(st.lists(st.text(alphabet="ab%|{}25 7C"), min_size=2, max_size=2), min_size=2, max_size=2))
def test_two_entities_never_share_a_key(pair: list[list[str]]) -> None:
    first, second = (row_key(b"c", [str(encoded("string", part)) for part in parts]) for parts in pair)
    assert (first == second) == (pair[0] == pair[1])
    assert first.count(b"{") == first.count(b"}") == 1


def test_codes_are_short_and_all_different() -> None:
    codes = [code_text(number) for number in range(5000)]
    assert len(set(codes)) == 5000
    assert (codes[0], codes[61], codes[62], codes[3844]) == ("0", "Z", "10", "100")

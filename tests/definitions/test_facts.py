"""Durations, and how a feature view is named."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from feature_server.definitions.facts import (
    Feature,
    FeatureView,
    JoinKey,
    fingerprint,
    format_duration,
    parse_duration,
)
from feature_server.dtypes import DType
from feature_server.manifest.blocks import BLOCKS, REFRESH


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("15m", 900), ("6h", 21_600), ("30d", 2_592_000), ("2w", 1_209_600)]
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds * 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "30",
        "d",
        "0d",
        "-1d",
        "1.5h",
        "30 d",
        "30D",
        "1h30m",
        "30d\n",
        "1y",
        "٣d",
        "1٣d",
        "1000001d",
        "9" * 20 + "d",
    ],
)
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@given(st.integers(1, 10**5), st.sampled_from("smhdw"))
def test_a_formatted_duration_reads_back_the_same(number: int, unit: str) -> None:
    microseconds = parse_duration(f"{number}{unit}")
    assert parse_duration(format_duration(microseconds)) == microseconds


@pytest.mark.parametrize("text", ["30s", "15m", "6h", "7d", "30d", "4w"])
def test_a_usual_duration_is_formatted_as_it_was_written(text: str) -> None:
    assert format_duration(parse_duration(text)) == text


def test_a_view_goes_by_its_name_and_version() -> None:
    keys = (JoinKey("customer_id", DType("int64")), JoinKey("country", DType("string")))
    view = FeatureView(
        name="customer__activity", entities=("customer",), join_keys=keys, ttl_us=86_400_000_000,
        features=(Feature(name="transactions_1h", dtype=DType("int64")),),
    )  # fmt: skip
    versioned = FeatureView(name="customer__activity", version="2", entities=(), join_keys=(), features=())
    assert (view.id, versioned.id) == ("customer__activity", "customer__activity@v2")
    assert (view.ttl, versioned.ttl) == ("1d", None)
    assert view.key_names == ("customer_id", "country")
    assert view.feature_names == ("transactions_1h",)


def test_what_is_no_pii_says_nothing_of_it() -> None:
    plain, told = Feature(name="amount", dtype=DType("int64")), Feature(name="email", dtype=DType("string"), pii=True)
    view = FeatureView(name="customer__contact", entities=(), join_keys=(), features=(plain, told))
    assert view.pii_names == ("email",)
    assert b"pii" not in msgspec.json.encode(plain)
    assert fingerprint(view) == fingerprint(
        msgspec.structs.replace(view, features=(plain, msgspec.structs.replace(told, pii=UNSET)))
    )


def test_the_documentation_lists_exactly_the_keys_that_are_read() -> None:
    text = (Path(__file__).parents[2] / "docs" / "definitions.md").read_text()
    listed: dict[str, dict[str, bool]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[2].startswith("`"):
            block = cells[0].strip("`") or list(listed)[-1]
            listed.setdefault(block, {})[cells[2].strip("`")] = cells[4] == "required"
    assert listed == {block: {key.name: key.required for key in keys} for block, keys in BLOCKS.items()}
    assert ", ".join(f"`{name}`" for name in REFRESH[:-1]) + f" or `{REFRESH[-1]}`" in text

"""The `freshness` of a feature view: how old it may get, in our words or in dbt's."""

from collections.abc import Iterator
from typing import Any

from msgspec import UNSET, UnsetType

from ..dbt.artifacts import Node
from ..definitions.facts import Freshness, duration_us
from ..errors import nearest_name
from .blocks import show
from .report import META, Report

_PATH = (*META, "feature_view", "freshness")
_KEYS = {"warn": "warn_us", "error": "error_us", "warn_after": "warn_us", "error_after": "error_us"}
_PERIODS = ("minute", "hour", "day")
_DURATION = "a duration such as 15m, 2h or 1d"
_AFTER = "a mapping such as {count: 2, period: hour}, with a whole number and minute, hour or day"


def read_promise(written: dict[Any, Any], node: Node, report: Report) -> Freshness | UnsetType:
    """`{warn: 2h, error: 6h}`, or dbt's `warn_after` and `error_after`; what is wrong with it becomes problems."""
    wrong = list(_misspelt(written))
    for key in wrong:
        report.add(
            node, (*_PATH, key), f"unknown key {key!r}",
            expected=f"one of {', '.join(_KEYS)}", got=key, nearest=nearest_name(key, _KEYS),
        )  # fmt: skip
    limits = dict[str, int]()
    for key, value in written.items():
        if key not in _KEYS:
            continue
        limit = _after_us(value) if key.endswith("_after") else duration_us(value)
        if limit is None:
            expected = _AFTER if key.endswith("_after") else _DURATION
            what = f"{key} has a value that it cannot have"
            report.add(node, (*_PATH, key), what, expected=expected, got=show(value))
            wrong.append(key)
        elif _KEYS[key] in limits:
            short = key.removesuffix("_after")
            report.add(node, _PATH, f"{short} is said twice", expected=f"{short} or {short}_after", got="both")
            wrong.append(key)
        else:
            limits[_KEYS[key]] = limit
    if wrong:
        return UNSET
    if not limits:
        report.add(node, _PATH, "the promise has no limit", expected="warn, error or both", got="neither")
        return UNSET
    promise = Freshness(**limits)
    if promise.warn_us and promise.error_us and promise.warn_us > promise.error_us:
        expected = "warn at or before error"
        report.add(node, _PATH, "the warning would come after the error", expected=expected, got=str(promise))
        return UNSET
    return promise


def _misspelt(written: dict[Any, Any]) -> Iterator[str]:
    return (str(key) for key in written if key not in _KEYS)


def _after_us(value: Any) -> int | None:
    if not isinstance(value, dict) or set(value) != {"count", "period"}:
        return None
    count, period = value["count"], value["period"]
    if type(count) is not int or not isinstance(period, str) or period not in _PERIODS:
        return None
    return duration_us(f"{count}{period[0]}")

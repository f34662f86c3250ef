"""`GET /explain`: why a feature has its value. What it needs of the warehouse is loaded by the first question."""

from collections.abc import Iterable

from ..errors import FeatureStoreError, OfflineStoreError, RequestError, SettingsError, cut, shown
from ..settings import parse_time
from ..times import to_us
from ..verify.explanation import Explanation
from .supervisor import Served

EXPLAIN_ROUTE = "/explain"
_EXAMPLE = "/explain?feature=customer__transactions:transactions_1h&customer_id=42"


class CannotExplain(FeatureStoreError):
    """This server lacks what an explanation is made from."""

    status = 501


def parse_question(parameters: Iterable[tuple[str, str]], now_us: int) -> tuple[str, dict[str, str], int]:
    """What a URL's query asks: the feature, the join keys' values as text, and the instant: now without `at`."""
    given: dict[str, str] = {}
    for name, value in parameters:
        if name in given:
            got = f"{cut(given[name])}, {cut(value)}"
            raise RequestError(f"{shown(name)} is given twice", where=cut(name), got=got, expected=_EXAMPLE)
        given[name] = value
    feature, at = given.pop("feature", ""), given.pop("at", "")
    if not feature:
        raise RequestError("the feature is missing", where="feature", expected=_EXAMPLE)
    try:
        return feature, given, to_us(parse_time(at, where="at")) if at else now_us
    except (SettingsError, OverflowError):
        raise RequestError(
            "not a time", where="at", got=shown(at), expected="ISO 8601, e.g. 2013-12-31T23:00:00Z",
            remedy="in a URL, write %2B for the + of a zone, or give the time in UTC",
        ) from None  # fmt: skip


def explain_feature(
    served: Served,
    feature: str,
    key: dict[str, str],
    *,
    at_us: int,
    now_us: int,
    pii_seen: frozenset[str] | None = None,
) -> Explanation:
    """CannotExplain where the offline store, or what reads it, is not on this machine."""
    try:
        from ..offline.store import OfflineStore
        from ..online.store import OnlineStore
        from ..verify.explain import explain
    except ImportError as error:
        raise CannotExplain(
            "this server is installed without what reads the offline store", where=EXPLAIN_ROUTE,
            expected="feature-warehouse[warehouse]", got=str(error),
            remedy="install that here, or run `features explain` where views are published",
        ) from None  # fmt: skip
    settings = served.settings
    try:
        with OnlineStore(served.redis_url) as online:
            return explain(
                feature, key, online, OfflineStore(settings.offline), at_us=at_us, now_us=now_us,
                project_dir=settings.project_dir, pii_seen=pii_seen,
            )  # fmt: skip
    except OfflineStoreError as error:
        raise CannotExplain(
            error.what, where=error.where, expected=error.expected, got=error.got, remedy=error.remedy
        ) from None

"""`GET /explain`: why a feature has its value. What it needs of the warehouse is loaded by the first question."""

import asyncio
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from ..errors import FeatureStoreError, OfflineStoreError, RequestError, SettingsError
from ..settings import Settings, parse_time
from ..times import to_us
from ..verify.explanation import Explanation

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
            raise RequestError(f"{name!r} is given twice", where=name, got=f"{given[name]}, {value}", expected=_EXAMPLE)
        given[name] = value
    feature, at = given.pop("feature", ""), given.pop("at", "")
    if not feature:
        raise RequestError("the feature is missing", where="feature", expected=_EXAMPLE)
    try:
        return feature, given, to_us(parse_time(at, where="at")) if at else now_us
    except (SettingsError, OverflowError):
        raise RequestError(
            "not a time", where="at", got=repr(at), expected="ISO 8601, e.g. 2013-12-31T23:00:00Z",
            remedy="in a URL, write %2B for the + of a zone, or give the time in UTC",
        ) from None  # fmt: skip


class Explainer:
    """Answers questions in a thread of its own, one at a time: each reads the view's history."""

    def __init__(self, redis_url: str, settings: Settings) -> None:
        self._redis_url, self._settings = redis_url, settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explain")

    async def explain(self, feature: str, key: dict[str, str], *, at_us: int, now_us: int) -> Explanation:
        """CannotExplain where the offline store, or what reads it, is not on this machine."""
        ask = partial(self._explain, feature, key, at_us=at_us, now_us=now_us)
        return await asyncio.get_running_loop().run_in_executor(self._thread, ask)

    def _explain(self, feature: str, key: dict[str, str], *, at_us: int, now_us: int) -> Explanation:
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
        try:
            with OnlineStore(self._redis_url) as online:
                return explain(
                    feature, key, online, OfflineStore(self._settings.offline), at_us=at_us, now_us=now_us,
                    project_dir=self._settings.project_dir,
                )  # fmt: skip
        except OfflineStoreError as error:
            raise CannotExplain(
                error.what, where=error.where, expected=error.expected, got=error.got, remedy=error.remedy
            ) from None

"""What a DAG file says beside its cadences: names, owners, pool, queue, callbacks, times. Checked when it is said."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from ..definitions.schedule import CADENCES
from ..errors import FeatureStoreError, SettingsError, nearest_name, shown

DUCKDB_POOL = "duckdb"  # one slot: DuckDB has one writer, and backfills ignore max_active_runs
PLATFORM_OWNER = "feature_platform"
START = datetime(2013, 1, 1)  # how far back a backfill may go
RETRIES = "FEATURES_TASK_RETRIES"
Callback = Callable[[Any], Any]  # one of Airflow's notifiers, or a function of the task's context

_NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)
_CRON = re.compile(r"@(hourly|daily|weekly|monthly|quarterly|yearly)|[\w*/,#?LW-]+( [\w*/,#?LW-]+){4,5}", re.ASCII)


def check_call(signature: inspect.Signature, name: str, args: Sequence[Any], given: Mapping[str, Any]) -> None:
    """SettingsError where something is not called as it is written, which Python would say without a remedy."""
    known = [one for one in signature.parameters if one != "self"]
    if unknown := [one for one in given if one not in known]:
        near = nearest_name(unknown[0], known)
        raise SettingsError(
            "no such argument", where=f"{name}({unknown[0]}=…)", expected=", ".join(known),
            remedy="leave it out" if near is None else f"did you mean {near}?",
        )  # fmt: skip
    try:
        signature.bind(*args, **given)
    except TypeError as error:
        raise SettingsError(
            "not the arguments that it has", where=f"{name}(…)", expected=", ".join(known), got=str(error)
        ) from None


class _Checked(type):
    """Classes that DAG files call: a call that does not fit is our error."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        try:
            check_call(inspect.signature(vars(cls)["__init__"]), cls.__name__, (None, *args), kwargs)
            return super().__call__(*args, **kwargs)
        except FeatureStoreError as error:
            raise error.with_traceback(None) from None  # Airflow shows the last lines: the DAG file's is to be there


@dataclass(frozen=True)
class Cadence(metaclass=_Checked):
    """When the views of one `refresh` run (cron; None: only by hand), and the `tags` of what dbt builds besides.

    A run that takes longer than `finishes_within` is ended, and red.
    """

    name: str
    schedule: str | None
    finishes_within: timedelta
    tags: Sequence[str] = ()

    def __post_init__(self) -> None:
        where = "Cadence(name=…)"
        fit(self.name in CADENCES, where, f"what views name as refresh: {', '.join(CADENCES)}", self.name)
        where = f"Cadence({self.name!r}, …)"
        check_cron(self.schedule, f"{where}: schedule")
        positive = isinstance(self.finishes_within, timedelta) and self.finishes_within > timedelta()
        fit(positive, f"{where}: finishes_within", "a timedelta above zero", self.finishes_within)
        texts = not isinstance(self.tags, str) and all(isinstance(tag, str) for tag in self.tags)
        fit(texts, f"{where}: tags", 'names of dbt tags, as in ("labels",)', self.tags)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The arguments of `refresh_dags` that tasks and DAGs of all kinds share."""

    name: str = ""
    owner: str = PLATFORM_OWNER
    owners: Mapping[str, str] = field(default_factory=dict)
    pool: str | None = None
    queue: str | None = None
    retries: int | None = None
    on_failure: Callback | Sequence[Callback] = ()
    on_success: Callback | Sequence[Callback] = ()
    start_date: datetime = START
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        for name in ("owner", "pool", "queue"):
            value = getattr(self, name)
            fit(value is None or (isinstance(value, str) and value), f"refresh_dags({name}=…)", "a name", value)
        named = isinstance(self.name, str) and (not self.name or _NAME.fullmatch(self.name))
        fit(named, "refresh_dags(name=…)", "letters, digits and _, a letter first", self.name)
        texts = isinstance(self.owners, Mapping) and all(isinstance(one, str) for one in self.owners.values())
        fit(texts, "refresh_dags(owners=…)", "Airflow's owners by dbt's groups", self.owners)
        count = self.retries is None or (type(self.retries) is int and self.retries >= 0)
        fit(count, "refresh_dags(retries=…)", "a number from 0 on, or None", self.retries)
        fit(isinstance(self.start_date, datetime), "refresh_dags(start_date=…)", "a datetime", self.start_date)
        fit(_zone(self.timezone), "refresh_dags(timezone=…)", "a time zone, as Europe/Amsterdam", self.timezone)
        for name in ("on_failure", "on_success"):
            callbacks(getattr(self, name), name)

    def id(self, what: str) -> str:
        """The name of something in Airflow, or in the project's folders, that another project may have too."""
        return f"{self.name}_{what}" if self.name else what

    def tags(self, *tags: str) -> list[str]:
        """Those of a DAG."""
        return ["features", *([self.name] if self.name else []), *tags]

    def owner_of(self, group: str | None) -> str:
        """Whose a task is that belongs to one of dbt's groups."""
        return self.owners.get(group, group) if group else self.owner

    @property
    def slot(self) -> str:
        """The pool of whatever opens the DuckDB file."""
        return self.pool or self.id(DUCKDB_POOL)

    @property
    def tries(self) -> int:
        """How often a task is tried again."""
        said = os.environ.get(RETRIES) or "3"
        fit(said.isdecimal(), RETRIES, "a number from 0 on", said)
        return int(said) if self.retries is None else self.retries

    @property
    def zone(self) -> tzinfo:
        return ZoneInfo(self.timezone) if self.timezone != "UTC" else UTC

    @property
    def start(self) -> datetime:
        return self.start_date if self.start_date.tzinfo is not None else self.start_date.replace(tzinfo=self.zone)


def fit(good: object, where: str, expected: str, got: object) -> None:
    """SettingsError where an argument is not good."""
    if not good:
        raise SettingsError("not an argument that can be used", where=where, expected=expected, got=shown(repr(got)))


def check_cron(cron: object, where: str) -> None:
    """SettingsError where it is neither None nor looks like cron; what its numbers may be Airflow says."""
    good = cron is None or (isinstance(cron, str) and _CRON.fullmatch(cron))
    fit(good, where, 'five fields of cron, as "0 * * * *", @daily and the like, or None', cron)


def callbacks(given: Callback | Sequence[Callback], name: str) -> list[Callback]:
    """One of Airflow's callbacks, or several, as a list."""
    found: list[Any] = [given] if callable(given) or not isinstance(given, Sequence) else [*given]
    fit(all(map(callable, found)), f"refresh_dags({name}=…)", "notifiers, or functions of the task's context", given)
    return found


def _zone(name: object) -> bool:
    try:
        return isinstance(name, str) and bool(ZoneInfo(name))
    except (ValueError, OSError, KeyError):  # the last is that of a zone that is not there
        return False

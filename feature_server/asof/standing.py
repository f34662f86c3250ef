"""A clock that stands at an instant: DuckDB's functions of the present as macros of a file, and Jinja's."""

import datetime as modules
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dbt.context.base
from dbt.tracking import User

from ..times import from_us

_TYPES = {
    "timestamptz": ("now", "get_current_timestamp", "current_timestamp", "transaction_timestamp"),
    "date": ("today", "current_date"),
    "timetz": ("get_current_time", "current_time"),
    "timestamp": ("localtimestamp", "current_localtimestamp"),
    "time": ("localtime", "current_localtime"),
}


def clock_sql(us: int) -> Iterator[str]:
    """Macros that stand before DuckDB's own functions wherever SQL names these without a schema."""
    now = f"system.main.make_timestamptz({us})"
    for kind, names in _TYPES.items():
        for name in names:
            yield f'create macro "{name}"() as {now}::{kind}'
    own = "system.main.age"  # of one argument: until midnight of the present day
    yield f"create macro age(since) as {own}({now}::date, since), (until, since) as {own}(until, since)"


@contextmanager
def jinja_clock(us: int) -> Iterator[None]:
    """`run_started_at` and `modules.datetime` at the instant."""
    moment = from_us(us)

    class Standing(modules.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return moment.astimezone(tz) if tz else moment.replace(tzinfo=None)

        utcnow = today = now

    class Day(modules.date):
        @classmethod
        def today(cls) -> Any:
            return moment.date()

    own = dbt.context.base.get_datetime_module_context
    user: Any = User
    user.run_started_at = property(lambda self: moment, lambda self, value: None)
    dbt.context.base.get_datetime_module_context = lambda: own() | {"datetime": Standing, "date": Day}
    try:
        yield
    finally:
        dbt.context.base.get_datetime_module_context = own
        del user.run_started_at

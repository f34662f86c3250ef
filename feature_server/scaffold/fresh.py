"""A new project with a month of generated orders: a batch view, a stream view, a service."""

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import duckdb
import msgspec

from ..errors import SettingsError
from .edits import Edit, new_file, read_text
from .project import TEMPLATES, filled
from .vendored import package_edits

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_PLACES = ("PROJECT_DIR", "PROFILES_DIR", "PROFILE", "TARGET")
_CUSTOMERS, _ORDERS = 200, 5000
LANDING = "landing/orders/orders.parquet"
# By hashes, not by chance: the same orders whenever it is run, but for the day that they end at.
_ORDERS_SQL = """
copy (
    with numbered as (
        select
            i::bigint as order_id,
            1 + (hash(i, 'customer') % {customers})::bigint as customer_id,
            (5 + hash(i, 'amount') % 19500 / 100)::decimal(12, 2) as amount_eur,
            timestamptz '{now}' - to_seconds((hash(i, 'time') % (30 * 86400))::bigint) as ordered_at
        from range(1, {orders} + 1) as numbers (i)
    )
    select *, ordered_at + to_seconds((1 + hash(order_id, 'landed') % 30)::bigint) as landed_at
    from numbered
    where landed_at <= timestamptz '{now}'
    order by landed_at, order_id
) to '{file}' (format parquet)
"""


def plan_project(folder: Path) -> tuple[Edit, ...]:
    """The files of a new project in a folder that is empty or not there, which names it."""
    name = folder.name
    if not _NAME.fullmatch(name):
        raise SettingsError(
            "a project cannot have this name", where="NAME", got=name,
            expected="a small letter, then small letters, digits and underscores, as dbt wants it",
        )  # fmt: skip
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError(
            "there is something in the new project's place", where=str(folder), expected="a new or an empty folder",
            got="a file" if not folder.is_dir() else "a folder with files in it",
            remedy="choose another name; in a dbt project that there is, `features init` without a name",
        )  # fmt: skip
    sources = (path for path in sorted(TEMPLATES.rglob("*")) if path.is_file() and path.suffix != ".pyc")
    made = [
        edit for path in sources for edit in
        new_file(folder, path.relative_to(TEMPLATES).as_posix(), filled(read_text(path), name), "of the new project")
    ]  # fmt: skip
    return (*made, *package_edits(folder, "the dbt package"))


def others_meant(environ: Mapping[str, str]) -> tuple[str, ...]:
    """What is to be unset for dbt to take the new project, with the profile in it: variables that name others."""
    names = (name for place in _PLACES for name in (f"DBT_ENGINE_{place}", f"DBT_{place}"))
    set_ = [name for name in names if environ.get(name)]
    return tuple(f"unset {name}: it is {environ[name]!r}, which is not the new project's" for name in set_)


def write_orders(folder: Path, now: datetime) -> None:
    """A month of orders until `now`, as a Parquet file, and one more, to be pushed."""
    path = folder / LANDING
    path.parent.mkdir(parents=True)
    at = now.replace(microsecond=0).isoformat()
    order = {"order_id": _ORDERS + 1, "customer_id": 7, "amount_eur": "12.50", "ordered_at": at, "landed_at": at}
    (folder / "order.jsonl").write_bytes(msgspec.json.encode(order) + b"\n")
    file = str(path).replace("'", "''")
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.execute(_ORDERS_SQL.format(customers=_CUSTOMERS, orders=_ORDERS, now=now.isoformat(), file=file))

"""What somebody types first: README.md and docs/init.md show it, tests/test_first_commands.py types it."""

from __future__ import annotations

from typing import NamedTuple

READ, COUNTED, GREEN = 6, 8, 9  # the commands that it may take
INSTALL = "pip install 'feature-warehouse[airflow]'"


class Step(NamedTuple):
    command: str
    said: str = ""  # a pattern that its output has
    at_most: int = 99  # as which command it may come


AIRFLOW = (
    Step("airflow db migrate"),
    Step("AIRFLOW__CORE__DAGS_FOLDER=$PWD/dags airflow dags test refresh_daily", "state=success", GREEN),
)
A_TABLE = (
    Step("pip install 'feature-warehouse[warehouse]'"),
    Step("features init", "(?m)^next: `features new view "),
    Step(
        "features new view customer__orders --from 'source(raw, orders)' --entity customer --key customer "
        "--time ordered_at"
    ),
    Step("features run", "verified customer__orders keys=5 different=0 unexplained=0 "),
    Step("features get customer__orders:amount customer=3", r"(?m)^amount +19700 +PRESENT ", READ),
)
READ_AGAIN = "features get customer__order_activity:orders_7d customer=3"
LIVE_EVENTS = (
    Step(INSTALL),
    Step("features init", "(?m)^next: `features new view "),
    Step(
        "features new view customer__order_activity --stream --from 'source(raw, orders)' --entity customer "
        "--key customer --time ordered_at"
    ),
    Step("features run", "verified customer__order_activity keys=5 different=0 unexplained=0 "),
    Step(READ_AGAIN, r"(?m)^orders_7d +33 +PRESENT ", READ),
    Step("features push raw.orders events.jsonl", "accepted=1 rejected=0"),
    Step(READ_AGAIN, r"(?m)^orders_7d +34 +PRESENT ", COUNTED),
    *AIRFLOW,
)
A_NEW_PROJECT = (
    Step(INSTALL),
    Step("features init shop", "next: cd shop; cat README.md"),
    Step("cd shop"),
    Step("features run", "verified customer__orders keys=200 different=0 unexplained=0 "),
    Step("features get reorder_v1 customer_id=7", r"(?m)^orders_1h +0 +PRESENT ", READ),
    Step("features push shop.orders order.jsonl", "accepted=1 rejected=0"),
    Step("features get customer__orders:orders_1h customer_id=7", r"(?m)^orders_1h +1 +PRESENT ", COUNTED),
    *AIRFLOW,
)

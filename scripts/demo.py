"""`make demo`: the whole product on this machine, once, on the example data; then a page about what happened.

Every step runs the commands a user would type. Whatever is started is ended; the full output of each command is kept in
`.features/run/demo.log`.
"""

from __future__ import annotations

import json
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from feature_server import FeatureClient
from feature_server.definitions.registry import read_registry
from feature_server.durable import make_private
from feature_server.settings import Settings, load_settings

from .airflow_env import airflow_environment
from .demo_access import access, forget
from .demo_live import live
from .demo_page import Page, run
from .demo_run import CommandFailed, Commands, running_server
from .example import CLOCK, LANDED, shown
from .example import load as load_example

TRAINING = (("flight_delay_v1", "flight_delay_labels", "is_late"), ("fraud_v1", "fraud_labels", "is_fraud"))


def main() -> None:
    settings = load_settings(clock=CLOCK)
    commands = Commands(settings.project_dir, airflow_environment(settings), settings.home / "run" / "demo.log")
    page = Page()
    page.title(
        "Feature warehouse: from SQL to a model",
        f"example data, real flights among them; the clock of this world is stopped at {CLOCK}",
    )
    try:
        load(page, commands, settings)
        refresh(page, commands)
        forget(commands)
        with running_server(commands) as url:
            with page.step("Serve and read online features"):
                customers, merchants = read(page, commands, settings, url)
            with page.step("Push live card payments: the same SQL, as of this second"):
                live(page, commands, settings, url, customers[0], merchants[0])
            with page.step("Give keys of access: who may read what"):
                access(page, commands, url, customers[0], merchants[0])
        with page.step("Replay the next day's real departures and arrivals as live events, and verify"):
            replay(page, commands)
        train(page, commands, settings)
        document(page, commands, settings)
    except CommandFailed as failure:
        page.failed(failure)
        sys.exit(1)
    page.next_steps(
        [
            ("make up", "leave it all running: Airflow, the feature server, the docs site"),
            ("make test", "run every check"),
            ("open models/features", "the SQL and YAML behind every number above"),
            (f"FEATURES_CLOCK={CLOCK} .venv/bin/features status", "what is fresh and what is late"),
            (".venv/bin/features --help", "everything else"),
        ]
    )


def load(page: Page, commands: Commands, settings: Settings) -> None:
    """Generate the payments and put the definitions in force."""
    with page.step("Load the example data, check the definitions"):
        landing = settings.home / "landing"
        applied = load_example(lambda command: run(page, commands, command), settings)
        page.rows(
            ["source", "rows", "what"],
            [[name, f"{count(landing / name / '*.parquet'):,}", what] for name, what in LANDED],
        )
        page.say(f"[dim]{applied_text(applied)}")


def query(sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and rows of a query on files, times in UTC."""
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        result = connection.execute(sql)
        return [column[0] for column in result.description or []], result.fetchall()


def count(files: Path) -> int:
    return int(query(f"select count(*) from '{files}'")[1][0][0])


def applied_text(applied: dict[str, Any]) -> str:
    kinds = ("entities", "feature_views", "features", "feature_services")
    changes = f"{len(applied['changes'])} changes" if applied["changes"] else "nothing changed since the last run"
    counts = ", ".join(f"{applied[kind]} {kind.replace('_', ' ')}" for kind in kinds)
    return f"in force: {counts}; {changes}"


def refresh(page: Page, commands: Commands) -> None:
    """Run the refresh DAGs with Airflow itself."""
    with page.step("Refresh with Airflow: land live events, build and test in dbt, publish, sync, verify"):
        runs = json.loads(run(page, commands, f"python -m scripts.refresh hourly daily --at {CLOCK} --json"))
        for dag in runs["runs"]:
            page.say(f"[dim]{dag['dag']}: {dag['state']} in {dag['seconds']:.0f} s, {len(dag['tasks'])} tasks")
        status = json.loads(commands.run(["features", "status", "--json"]))
        page.rows(
            ["feature view", "refresh", "history rows", "rows online", "newest event (UTC)", "freshness"],
            [
                [
                    v["view"],
                    v["refresh"],
                    f"{v['rows']:,}",
                    f"{v['online_rows']:,}",
                    clock_text(v["newest_event"]),
                    v["freshness"]["state"] if v["freshness"] else "",
                ]
                for v in status["views"]
            ],
        )


def read(page: Page, commands: Commands, settings: Settings, url: str) -> tuple[list[int], list[str]]:
    """The same features through the Python client and through curl; the customers and merchants read."""
    customers, merchants = busy_customers(settings)
    page.say("[dim]in Python, for the fraud team's model:")
    page.code(
        f'client = FeatureClient("{url}")\n'
        f'client.get_many("fraud_v1", customer_id={customers}, merchant_id={merchants})'
    )
    with FeatureClient(url) as client:
        vectors = client.get_many("fraud_v1", customer_id=customers, merchant_id=merchants)
        marketing = client.get_many("marketing_v1", customer_id=customers)
    page.rows([*vectors.entities, *vectors.values], [list(row.to_dict().values()) for row in vectors])
    shared = shared_features(settings, "fraud_v1", "marketing_v1")
    differing = [name for name in shared if vectors[name] != marketing[name]]
    if differing or not shared:
        raise CommandFailed("get_many", None, f"the two services differ in {differing} of {shared}", commands.log)
    page.say(f"[dim]marketing_v1 reads the same numbers for {', '.join(shared)}")
    page.say("[dim]with curl, for the model that predicts late departures:")
    body = {"feature_service": "flight_delay_v1", "entities": flight_entities(settings)}
    answer = json.loads(run(page, commands, f"curl -s {url}/get-online-features -d {shlex.quote(json.dumps(body))}"))
    names = answer["metadata"]["feature_names"]
    page.rows(
        ["feature", "value", "status", "event timestamp"],
        [
            [name, result["values"][0], result["statuses"][0], result["event_timestamps"][0]]
            for name, result in zip(names, answer["results"], strict=True)
        ][3:11],
    )
    return customers, merchants


def shared_features(settings: Settings, one: str, other: str) -> list[str]:
    """The features that both services read, of the same version of the same view."""
    registry = read_registry(settings.registry_path)
    of_other = {(ref.view, ref.feature) for ref in registry.feature_service(other).features}
    return [ref.feature for ref in registry.feature_service(one).features if (ref.view, ref.feature) in of_other]


def busy_customers(settings: Settings) -> tuple[list[int], list[str]]:
    """The three busiest customers of the last hour, and a merchant for each."""
    landed = settings.home / "landing" / "transactions" / "*.parquet"
    _, customers = query(f"""
        select customer_id from '{landed}'
        where kind = 'purchase' and occurred_at > timestamptz '{CLOCK}' - interval '1 hour'
        group by customer_id order by count(distinct transaction_id) desc, customer_id limit 3
    """)
    _, merchants = query(f"select distinct merchant_id from '{landed}' order by 1 limit {len(customers)}")
    return [row[0] for row in customers], [row[0] for row in merchants]


def flight_entities(settings: Settings) -> dict[str, list[str]]:
    """The airport, carrier and plane of the next flight that is labelled."""
    labels = settings.home / "labels" / "flight_delay_labels.parquet"
    _, ((airport, carrier, tail_number),) = query(f"""
        select airport, carrier, tail_number from '{labels}' where tail_number is not null
        order by event_timestamp desc, carrier, flight_number limit 1
    """)
    return {"airport": [airport], "carrier": [carrier], "tail_number": [tail_number]}


def train(page: Page, commands: Commands, settings: Settings) -> None:
    """Point-in-time correct training sets of both use cases."""
    with page.step("Build training sets: each label with the features as they were at its time"):
        for service, labels, label in TRAINING:
            spine = shown(settings.home / "labels" / f"{labels}.parquet", settings)
            out = shown(settings.home / "training" / f"{service}.parquet", settings)
            make_private((settings.project_dir / out).parent)
            made = json.loads(run(page, commands, f"features train {service} --spine {spine} --out {out} --json"))
            page.say(f"[dim]{made['rows']:,} rows x {made['features']} features in {made['seconds']:.1f} s")
            columns, rows = query(
                f"select event_timestamp, {label}, * exclude (event_timestamp, {label}) "
                f"from '{settings.project_dir / out}' where {label} order by hash(event_timestamp) limit 3"
            )
            page.rows(columns, rows)


def document(page: Page, commands: Commands, settings: Settings) -> None:
    with page.step("Write the docs site: every view with owner, freshness, services and lineage"):
        out = settings.home / "docs" / "index.html"
        run(page, commands, f"features docs --out {shown(out, settings)}")
        page.say(f"[dim]{shown(out, settings)}, one file of {out.stat().st_size / 1e6:.1f} MB: open it in a browser")


def replay(page: Page, commands: Commands) -> None:
    """A day of flights in one go; the last lines say what verify found."""
    lines = run(page, commands, "python -m examples.replay --hours 24 --speed 0").splitlines()
    for line in [*lines[7:24:4], *lines[-2:]]:
        page.say(f"[dim]{line}")


def clock_text(moment: str | None) -> str:
    return "" if moment is None else f"{datetime.fromisoformat(moment):%Y-%m-%d %H:%M}"


if __name__ == "__main__":
    main()

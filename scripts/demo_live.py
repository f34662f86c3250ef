"""The demo's live part: a burst of card payments, read at once, an hour later, and in a training set."""

from __future__ import annotations

import json
import shlex
import time
from datetime import datetime, timedelta
from typing import Any

from feature_server import FeatureClient, FeatureStore
from feature_server.settings import Settings, load_settings

from .demo_page import Page, run
from .demo_run import CommandFailed, Commands

SOURCE, VIEW, FEATURE = "payments.transactions", "customer__transactions", "transactions_1h"
MINUTES_BEFORE = (5, 4, 2, 1, 0)
LATER = {
    "when the answer comes": timedelta(0),
    "57 minutes later, by an injected clock": timedelta(minutes=57),
    "an hour and a second later": timedelta(hours=1, seconds=1),
}


def live(page: Page, commands: Commands, settings: Settings, url: str, customer: int, merchant: str) -> None:
    """Push payments of a customer and follow the count of the last hour: online, as it falls, and in training."""
    assert settings.clock is not None
    before = read(url, settings, customer, merchant)
    push(page, commands, url, burst(customer, merchant, settings.clock))
    clocks = [clock_at(settings, later) for later in LATER.values()]
    served = [read(url if clock == settings else None, clock, customer, merchant) for clock in clocks]
    page.rows(
        ["", f"{FEATURE} in fraud_v1", "in marketing_v1"],
        [["before the push", *before], *([moment, *counts] for moment, counts in zip(LATER, served, strict=True))],
    )
    counts = [fraud for fraud, _ in served]
    if counts[0] != before[0] + len(MINUTES_BEFORE) or counts[-1] != 0 or any(f != m for f, m in [before, *served]):
        raise CommandFailed("push", None, f"{before}, then {served}", commands.log)
    train(page, commands, settings, customer, counts)


def burst(customer: int, merchant: str, clock: datetime) -> dict[str, list[Any]]:
    """Card payments of the last minutes, as Feast's protocol writes them: a list of values for each column."""
    moments = [(clock - timedelta(minutes=minutes)).isoformat() for minutes in MINUTES_BEFORE]
    count = len(moments)
    first = int(time.time()) * 10  # other ids than those of an earlier run, and than the generated payments'
    return {
        "transaction_id": list(range(first, first + count)),
        "customer_id": [customer] * count,
        "merchant_id": [merchant] * count,
        "kind": ["purchase"] * count,
        "amount_eur": ["19.99"] * count,
        "refunded_transaction_id": [None] * count,
        "occurred_at": moments,
        "ingested_at": moments,
    }


def push(page: Page, commands: Commands, url: str, events: dict[str, list[Any]]) -> None:
    """Push over HTTP, twice, as a producer does that never saw the first answer."""
    body = json.dumps({"push_source_name": SOURCE, "df": events})
    command = ["curl", "-s", f"{url}/push", "-H", "content-type: application/json", "-d"]
    page.command(f"{shlex.join(command)} '{body[:70]} …'")
    for attempt in ("first", "again"):
        answer = json.loads(commands.run([*command, body]))
        page.say(f"[dim]{attempt}: {json.dumps(answer)}")


def read(url: str | None, settings: Settings, customer: int, merchant: str) -> tuple[int, int]:
    """The feature as each team's model reads it: through the server, or from Redis at the clock of the settings."""
    with FeatureClient(url, settings=settings) as client:
        fraud = client.get("fraud_v1", customer_id=customer, merchant_id=merchant)
        marketing = client.get("marketing_v1", customer_id=customer)
    return fraud.values[FEATURE], marketing.values[FEATURE]


def train(page: Page, commands: Commands, settings: Settings, customer: int, served: list[int]) -> None:
    """Land and publish what was pushed; the training set of the same instants must have the values that were served."""
    for command in (f"features stream {SOURCE} --once", f"features publish {VIEW}", f"features sync {VIEW}"):
        page.say(f"[dim]{run(page, commands, command).splitlines()[-1]}")
    times = [clock_at(settings, later).now() for later in LATER.values()]
    spine = " union all ".join(
        f"select {customer} as customer_id, timestamptz '{time}' as event_timestamp" for time in times
    )
    training = FeatureStore(settings.project_dir).get_historical_features(spine, [f"{VIEW}:{FEATURE}"])
    trained = training.to_arrow()[FEATURE].to_pylist()
    page.rows(
        ["event_timestamp", f"{FEATURE} in a training set", "as served"], list(zip(times, trained, served, strict=True))
    )
    if trained != served:
        raise CommandFailed("get_historical_features", None, f"trained {trained}, served {served}", commands.log)


def clock_at(settings: Settings, later: timedelta) -> Settings:
    assert settings.clock is not None
    return load_settings(project_dir=settings.project_dir, clock=settings.clock + later)

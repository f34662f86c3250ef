"""The demo's keys of access: who may read what, for as long as the step runs."""

from __future__ import annotations

import json
from typing import Any

from feature_server import FeatureClient
from feature_server.errors import FeatureStoreError

from .demo_page import Page, run
from .demo_run import CommandFailed, Commands

OWNER = "make demo"


def access(page: Page, commands: Commands, url: str, customer: int, merchant: str) -> None:
    """One service read with a key that may, without one, with a key of another service, and once it is revoked."""
    try:
        marketing = create(page, commands, "read:marketing_v1")
        fraud = create(page, commands, "read:fraud_v1")
        keys = {"with its key": fraud["key"], "without a key": None, "with the key of marketing_v1": marketing["key"]}
        found = {how: read(url, key, customer, merchant) for how, key in keys.items()}
        run(page, commands, f"features keys revoke {fraud['id']}")
        found["once its key is revoked"] = read(url, fraud["key"], customer, merchant)
    finally:
        forget(commands)
    page.rows(["fraud_v1 is read", "answer"], [[how, answer] for how, answer in found.items()])
    found["without any keys left"] = read(url, None, customer, merchant)
    with_key, *rest = [answer.partition(":")[0] for answer in found.values()]
    if rest != ["401 NotSignedIn", "403 AccessDenied", "401 NotSignedIn", with_key]:
        raise CommandFailed("features keys", None, str(found), commands.log)


def create(page: Page, commands: Commands, scope: str) -> dict[str, Any]:
    made = json.loads(
        run(page, commands, f"features keys create --owner '{OWNER}' --scope {scope} --expires 1h --json")
    )
    return dict(made)


def read(url: str, key: str | None, customer: int, merchant: str) -> str:
    try:
        with FeatureClient(url, key=key) as client:
            values = client.get("fraud_v1", customer_id=customer, merchant_id=merchant).values
        return f"transactions_1h: {values['transactions_1h']}"
    except FeatureStoreError as error:
        return f"{error.status} {type(error).__name__}: {error.where}"


def forget(commands: Commands) -> None:
    """Forget the keys of the demo, those of one that was ended in the middle too; others are somebody's own."""
    found = json.loads(commands.run(["features", "keys", "list", "--json"]))["keys"]
    if {key["owner"] for key in found} == {OWNER}:
        commands.run(["features", "keys", "reset", "--yes"])

"""What the audit trail tells of training sets: who began and who fetched one, and how many rows it had."""

from __future__ import annotations

from pathlib import Path

from tests.support.audit_lines import told
from tests.support.keys import Keys
from tests.support.offline_home import OfflineHome, spine
from tests.support.served import served
from tests.support.trained import Trainer, stream_of

SPINE = stream_of(spine())


def test_a_training_set_is_told_when_it_is_begun_fetched_and_denied(
    home: OfflineHome, keys: Keys, valkey_server: str, tmp_path: Path
) -> None:
    path = tmp_path / "trail.jsonl"
    mine, other = keys.make("train:service/orders_v1"), keys.make("read:*")
    given = home.environment | {"FEATURES_AUDIT": str(path), "FEATURES_AUDIT_STRICT": "1"}
    with served(valkey_server, **given) as server:
        trainer = Trainer(server.address, mine)
        job = trainer.made(SPINE)
        assert trainer.http.get(f"/train/{job}/result").is_success
        assert Trainer(server.address, other).post(SPINE).status_code == 403
        begun, taken, fetched, denied = told(path, 4)
    facts = {"who": "checkout", "key": mine[3:11], "service": "orders_v1", "from": "127.0.0.1"}
    for line, event, outcome, more in (
        (begun, "train", "begun", {}), (taken, "train", "allowed", {"job": job, "status": 202}),
        (fetched, "train.result", "allowed", {"job": job, "rows": 12, "status": 200}),
    ):  # fmt: skip
        expected = facts | more | {"event": event, "outcome": outcome}
        assert {name: line.get(name) for name in expected} == expected
        assert line["views"]
    assert (denied["event"], denied["outcome"], denied["key"]) == ("train", "denied", other[3:11])
    assert denied["why"].startswith("orders:count: ")

"""The trials: what they hold to be right, and that each runs."""

from __future__ import annotations

import importlib
import time
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest

from trials.ledger import Ledger, Moment, Version
from trials.soak import judge
from trials.trial import Trial, run

NOW_US = 1_800_000_000_000_000
MINUTE = 60_000_000
ROUNDS = {"soak": 1, "kill": 2, "full_disk": 2, "damage": 3, "evict": 2}


def payment(
    number: int, minutes_ago: int, amount: str, *, sent: float, acked: float | None, created: int = 0
) -> Version:
    at_us = NOW_US - minutes_ago * MINUTE
    return Version(number, 1, f"shop {number}", Decimal(amount), at_us, at_us + created, sent, acked)


def ledger(*versions: Version) -> Ledger:
    found = Ledger()
    for version in versions:
        found.payments[1].setdefault(version.number, []).append(version)
    return found


def trial(folder: Path) -> Trial:
    return Trial("kill", 7, folder, minutes=None, rounds=2, first=3)


def test_a_read_may_hold_what_was_sent_until_its_end_and_must_hold_what_was_acknowledged_before_it() -> None:
    known = ledger(
        payment(1, 5, "10", sent=1, acked=2), payment(2, 4, "20", sent=3, acked=6),
        payment(3, 3, "40", sent=9, acked=None),
    )  # fmt: skip
    assert known.possible(1, Moment(begun=4, ended=5, begun_us=NOW_US, ended_us=NOW_US)) == {
        "payments_10m": (1, 2), "payments_lifetime": (1, 2), "spent_1h": (10, 30), "spent_lifetime": (10, 30),
        "last_merchant": {"shop 1", "shop 2"}, "last_amount": {Decimal(10), Decimal(20)},
    }  # fmt: skip


def test_a_window_holds_both_its_ends_and_nothing_older() -> None:
    known = ledger(payment(1, 10, "1", sent=1, acked=1), payment(2, 11, "2", sent=1, acked=1))
    moment = Moment(2, 3, NOW_US, NOW_US)
    assert known.wrong(1, {"payments_10m": 1, "payments_lifetime": 2, "spent_1h": Decimal(3)}, moment) == []
    assert known.wrong(1, {"payments_10m": 2}, moment) == ["customer 1 payments_10m is 2, expected 1"]
    assert known.possible(1, Moment(2, 3, NOW_US, NOW_US + 1))["payments_10m"] == (0, 1)


def test_of_a_corrected_payment_only_versions_that_may_count_are_possible() -> None:
    known = ledger(
        payment(1, 5, "10", sent=1, acked=2), payment(1, 5, "20", sent=3, acked=4, created=1),
        payment(1, 5, "40", sent=5, acked=9, created=2),
    )  # fmt: skip
    assert known.possible(1, Moment(6, 7, NOW_US, NOW_US))["spent_1h"] == (20, 40)
    assert known.possible(1, Moment(9, 9, NOW_US, NOW_US))["spent_1h"] == (40, 40)


def test_random_payments_are_of_known_customers_and_never_in_the_future() -> None:
    made = Ledger().batch(Random(1), 500)
    assert len({version.number for version in made}) < 500
    assert all(version.at_us <= version.created_us <= time.time_ns() // 1000 + 1000 for version in made)


def test_the_table_tells_what_was_done_and_what_was_wrong(tmp_path: Path) -> None:
    one = trial(tmp_path)
    for _ in one.rounds():
        one.did("values read", 1000)
    one.fault("a value")
    lines = one.table().splitlines()
    assert lines[0] == "kill"
    assert ["rounds", "2"] in [line.split() for line in lines]
    assert ["values", "read", "2,000"] in [line.split() for line in lines]
    assert lines[-1] == "wrong: round 4: a value"


def test_memory_that_grows_is_a_fault_and_memory_that_stays_is_none(tmp_path: Path) -> None:
    def samples(more: int) -> list[tuple[float, dict[str, float]]]:
        return [(at, {"events": at * 10, "memory of server": 200e6 + at * more}) for at in range(300)]

    staying, growing, short = trial(tmp_path), trial(tmp_path), trial(tmp_path)
    judge(staying, samples(1000))
    judge(growing, samples(1_000_000))
    judge(short, samples(1_000_000)[:140])
    assert staying.faults == short.faults == []
    assert short.measured == {"growth": "not told: the run has less than 150 s"}
    assert [fault.partition(":")[0] for fault in growing.faults] == ["round 2"]
    assert growing.measured["server: memory"] == "449.5 MB, 3,600.0 MB an hour more"


def test_a_trial_that_cannot_go_on_is_wrong_and_keeps_its_folder(capsys: pytest.CaptureFixture[str]) -> None:
    def play(trial: Trial) -> None:
        trial.fault("what was seen")

    assert run("kill", "", play, rounds=1, arguments=["--seed", "3"]) == 1
    said = capsys.readouterr().out
    folder = Path(said.partition("kept: ")[2].splitlines()[0])
    assert folder.is_dir()
    folder.rmdir()
    assert "again: python -m trials.kill --seed 3 --rounds 1" in said


@pytest.mark.heavy
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ROUNDS)
def test_each_trial_finds_nothing_wrong_in_a_few_rounds(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module: Any = importlib.import_module(f"trials.{name}")
    code = module.main(["--rounds", str(ROUNDS[name]), "--seed", "1"])
    if code == 2:
        pytest.skip("this machine makes no mount namespaces")
    assert code == 0, capsys.readouterr().out

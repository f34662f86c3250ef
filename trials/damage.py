"""Damages a file of the product, runs its commands: right values or a named error, and its remedy helps."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from . import trial
from .ledger import as_json
from .shop import ALL_FEATURES, SOURCE, TRAIN, Done, Shop, last_words
from .trial import Trial

AGAIN = TRAIN.replace("train.parquet", "again.parquet")
REPRODUCE = "reproduce train.parquet --out again.parquet"
FILES = {  # where the files of a kind are, and what reads them
    "data file": (".features/offline/*/**/*.parquet", (AGAIN, "sync --full", "publish", "verify --files", REPRODUCE)),
    "table log": (".features/offline/*/_delta_log/*", (AGAIN, "sync --full", "publish", "status")),
    "index": (".features/index/**/*", (AGAIN, REPRODUCE)),
    "registry": (".features/registry.json", (AGAIN, "sync", "publish", "status", "verify", "plan --no-parse")),
    "landed file": ("landing/transactions/*.parquet", ("sync --full", "verify", "publish", f"stream {SOURCE} --once")),
    "manifest": ("target/*.json", ("apply --no-parse", "check --no-parse", "publish", "status")),
    "training set": ("train.parquet", (REPRODUCE,)),
}  # fmt: skip
NAMED = re.compile(r"^(error: |failed )|problem", re.M)
REMEDY = re.compile(r"`((?:features|dbt) [^`\n]+)`")
AWAY = re.compile(r"move (\S+) away")
REMEDIES = 3  # that are followed, one after another
PLACES = ("VIEW", "SOURCE", "FILE", "<")  # in a remedy for the reader to fill in


def flip(data: bytes, random: Random) -> bytes:
    place = random.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << random.randrange(8)]) + data[place + 1 :]


DAMAGES: dict[str, Callable[[bytes, Random], bytes | None]] = {
    "flipped": flip,
    "cut": lambda data, random: data[: random.randrange(len(data))],
    "longer": lambda data, random: data + random.randbytes(random.randrange(1, 100)),
    "empty": lambda data, random: b"",
    "overwritten": lambda data, random: random.randbytes(len(data)),
    "removed": lambda data, random: None,
}


def play(trial: Trial) -> None:
    with Shop(trial) as shop:
        shop.create(Random(trial.seed))
        grow(shop, Random(trial.seed))
        whole = trial.folder / "whole"
        shutil.copytree(shop.folder, whole, symlinks=True)
        for random in trial.rounds():
            shutil.rmtree(shop.folder)
            shutil.copytree(whole, shop.folder, symlinks=True)
            damage_one(shop, whole, random)


def grow(shop: Shop, random: Random) -> None:
    """A second version of each table, landed events, a training set and its index."""
    versions = shop.ledger.batch(random, 100)
    events = shop.folder / "events.jsonl"
    events.write_bytes(b"\n".join(map(as_json, versions)))
    shop.must(f"push {SOURCE} {events}")
    for version in versions:
        version.sent = version.acked = time.monotonic()
    shop.cycle()
    shop.write_spine(random)
    shop.must(TRAIN)


def damage_one(shop: Shop, whole: Path, random: Random) -> None:
    kind = random.choice(list(FILES))
    pattern, commands = FILES[kind]
    path = random.choice(sorted(path for path in shop.folder.glob(pattern) if path.is_file() and path.stat().st_size))
    how = random.choice(list(DAMAGES))
    damaged = DAMAGES[how](path.read_bytes(), random)
    what = f"{kind} {how}: {path.relative_to(shop.folder)}"
    path.unlink()
    if damaged is not None:
        path.write_bytes(damaged)
    shop.trial.did(f"{kind}: {how}")
    shop.trial.say(what)
    for name in random.sample(commands, min(2, len(commands))):
        done = shop.run(name)
        if done.code == 0:
            wrong = wrong_values(shop, done)
            # What the trial has put among the landed files itself is what it says: nobody knows that it said otherwise.
            foreign = kind == "landed file" and not path.name.startswith("live-")
            told = wrong and not foreign and is_found(shop, path)
            shop.trial.did("commands with right values" if not wrong else "other values of a file of others" if foreign
                           else "other values, found by `verify --files`")  # fmt: skip
            if wrong and not told and not foreign:
                shop.trial.fault(f"{what}: `{name}` says all is well, but {wrong[0]}")
        elif done.code == 1 and NAMED.search(done.output):
            shop.trial.did("named errors")
            if name not in ("status",):  # which tells what is wrong, and is right to
                heal(shop, whole, done, what)
        else:
            shop.trial.fault(f"{what}: no named error: {done}")


def wrong_values(shop: Shop, done: Done) -> list[str]:
    """What is wrong of what a command that ended well has made."""
    if done.name == AGAIN:
        return shop.wrong_training("again.parquet")
    if done.name == REPRODUCE:
        made, given = (shop.folder / "again.parquet").read_bytes(), (shop.folder / "train.parquet").read_bytes()
        return [] if made == given else ["what was made again are other bytes"]
    if done.name.startswith("sync"):
        return shop.read(ALL_FEATURES)
    return []


def is_found(shop: Shop, path: Path) -> bool:
    """Whether verify names a file that holds other values than were written."""
    done = shop.run("verify --files")
    return done.code == 1 and path.name in done.output


def heal(shop: Shop, whole: Path, done: Done, what: str) -> None:
    """Do what the error says, and what the next one says; where that is no command, put all back. Then it works."""
    did: list[str] = []
    again = done
    while again.code != 0 and len(did) < REMEDIES:
        told = " ".join(again.output.split("remedy: ")[1:])
        remedies = [each for each in dict.fromkeys(REMEDY.findall(told)) if not any(place in each for place in PLACES)]
        for away in dict.fromkeys(AWAY.findall(told)):
            shutil.rmtree(away, ignore_errors=True)
        for each in remedies:
            shop.run("build" if each.startswith("dbt") else each.removeprefix("features "))
        if not remedies:
            shop.trial.did("errors without a command as remedy")
            shutil.rmtree(shop.folder)
            shutil.copytree(whole, shop.folder, symlinks=True)
        did += remedies or ["the file was put back"]
        again = shop.run(done.name)
    wrong = [str(again)] if again.code != 0 else wrong_values(shop, again)
    if wrong:
        shop.trial.fault(f"{what}: {last_words(done.output)}; after {' and '.join(did)}: {wrong[0]}")


def main(arguments: list[str] | None = None) -> int:
    return trial.run("damage", __doc__ or "", play, rounds=12, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())

"""kill -9 at random moments of each process, then go on: nothing acknowledged is lost, and each command works again."""

from __future__ import annotations

import sys
import time
from random import Random

from . import trial
from .shop import SOURCE, TRAIN, Shop, kill, wait_for
from .traffic import disturb
from .trial import Trial

COMMANDS = {  # and about how many seconds they take, beside one for the start
    "build": 8, "apply": 10, "publish": 2, "publish --full": 2, "sync": 2, "sync --full": 2, "verify": 3, "docs": 12,
    f"stream {SOURCE} --once": 2, TRAIN: 3,
}  # fmt: skip
STAYING = ("valkey", "worker", "server", "server worker")


def play(trial: Trial) -> None:
    with Shop(trial) as shop:
        shop.create(Random(trial.seed))
        disturb(shop, lambda random: kill_something(shop, random))


def kill_something(shop: Shop, random: Random) -> None:
    if random.random() < 0.5:
        kill_what_stays(shop, random.choice(STAYING), random)
        return
    name = random.choice(list(COMMANDS))
    after = random.uniform(0.3, 1 + COMMANDS[name])
    shop.trial.say(f"kills `{name}` after {after:.2f} s")
    shop.run(name, kill_after=after, whole=random.random() < 0.5)
    if random.random() < 0.3:  # two at once, as a restart may do
        kill_what_stays(shop, random.choice(STAYING), random)
    for each in [name] if not name.startswith("publish") else ["build", name]:
        done = shop.run(each)
        if done.code != 0:
            shop.trial.fault(f"after a kill {done}")


def kill_what_stays(shop: Shop, what: str, random: Random) -> None:
    time.sleep(random.uniform(0, 1))
    shop.trial.say(f"kills {what}")
    shop.trial.did(f"killed {what}")
    if what == "valkey":
        process = shop.valkey()
        kill(process)
        process.wait(60)
        done = shop.run("status")  # the next command starts it again
        if "online store" in done.output:
            shop.trial.fault(f"after Valkey was killed: {done}")
    elif what == "server worker":
        workers = shop.running["server"].family()[1:]
        kill(random.choice([each for each in workers if "feature_server.app.worker" in each.cmdline()]))
    else:
        running = shop.running.pop(what)
        family = running.family()
        kill(family[0])
        running.process.wait()
        if wait_for(lambda: not any(each.is_running() for each in family[1:])) is None:
            shop.trial.fault(f"processes of a killed {what} live on: {[each.pid for each in family[1:]]}")
            kill(*family)
        (shop.serve if what == "server" else shop.work)()


def main(arguments: list[str] | None = None) -> int:
    return trial.run("kill", __doc__ or "", play, rounds=10, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())

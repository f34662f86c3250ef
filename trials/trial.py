"""One run of a trial: its arguments, its rounds, what was done, what was wrong, and the table at the end."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

SAY_SECONDS = 10.0  # between lines of progress where these are not overwritten
SHOWN_FAULTS = 20


class TrialStopped(Exception):
    """The trial cannot go on; the message is a fault."""


class Trial:
    """Counts what is done, keeps what is wrong, and tells on standard error how far it is."""

    def __init__(self, name: str, seed: int, folder: Path, *, minutes: float | None, rounds: int, first: int) -> None:
        self.name, self.seed, self.folder, self.minutes = name, seed, folder, minutes
        self.done: Counter[str] = Counter()
        self.measured: dict[str, str] = {}
        self.faults: list[str] = []
        self.round = first - 1
        self._last = first - 1 + rounds
        self._began, self._said = time.monotonic(), 0.0
        self._playing: float | None = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    @property
    def time_is_up(self) -> bool:
        playing = 0.0 if self._playing is None else time.monotonic() - self._playing
        return self.minutes is not None and playing >= self.minutes * 60

    def rounds(self) -> Iterator[Random]:
        """A round's own randomness, so that a later round can be had without those before it."""
        self._playing = time.monotonic()
        while not self.time_is_up and (self.minutes is not None or self.round < self._last):
            self.round += 1
            self.did("rounds")
            yield Random(f"{self.seed}/{self.round}")

    def did(self, what: str, count: int = 1) -> None:
        self.done[what] += count

    def fault(self, what: str) -> None:
        """Something that is wrong; the trial goes on."""
        what = " ".join(what.split())
        self.faults.append(f"round {self.round}: {what}")
        self.say(f"WRONG {what}", now=True)

    def say(self, text: str, *, now: bool = False) -> None:
        line = f"{self.name} {self.seconds:5.0f} s  round {self.round}  wrong {len(self.faults)}  {text}"
        if sys.stderr.isatty():
            print(f"\r\x1b[K{line.splitlines()[0][:150]}", end="\n" if now else "", file=sys.stderr, flush=True)
        elif now or time.monotonic() - self._said > SAY_SECONDS:
            self._said = time.monotonic()
            print(line, file=sys.stderr, flush=True)

    def table(self) -> str:
        """What was done and what was wrong."""
        rows = {"seed": str(self.seed), "seconds": f"{self.seconds:.0f}"}
        rows |= {what: f"{count:,}" for what, count in sorted(self.done.items())}
        rows |= self.measured | {"wrong": str(len(self.faults))}
        width = max(map(len, rows))
        lines = [self.name, *(f"  {what:<{width}}  {value}" for what, value in rows.items())]
        return "\n".join([*lines, *(f"wrong: {fault}" for fault in self.faults[:SHOWN_FAULTS])])


def run(name: str, about: str, play: Callable[[Trial], None], *, rounds: int, arguments: list[str] | None) -> int:
    """Play a trial as the command line says; the exit code: 1 where something was wrong."""
    parser = argparse.ArgumentParser(prog=f"python -m trials.{name}", description=about)
    parser.add_argument("--minutes", type=float, help="how long to go on; without it, --rounds")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"how many rounds, {rounds} by default")
    parser.add_argument("--seed", type=int, default=1, help="another seed does other things; 1 by default")
    parser.add_argument("--first-round", type=int, default=1, help="begin with this round of the seed")
    parser.add_argument("--keep", action="store_true", help="keep the folder also where nothing was wrong")
    given = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix=f"features-{name}-"))
    trial = Trial(
        name, given.seed, folder, minutes=given.minutes, rounds=given.rounds, first=given.first_round
    )  # fmt: skip
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        play(trial)
    except TrialStopped as error:
        trial.fault(str(error))
    except KeyboardInterrupt:
        trial.fault("stopped by Ctrl-C before its end")
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(trial.table())
    if trial.faults or given.keep:
        print(f"kept: {folder}\nagain: python -m trials.{name} --seed {given.seed} --rounds {max(trial.round, 1)}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if trial.faults else 0

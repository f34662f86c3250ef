"""The project of a trial with the product's own processes on it: commands, feature server, worker, embedded Valkey."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import redis

from feature_server import FeatureClient, FeatureStoreError
from feature_server.settings import load_settings

from .ledger import CUSTOMERS, EPOCH, Ledger, Moment, as_columns, now_us
from .trial import Trial, TrialStopped

SOURCE, SERVICE = "payments.transactions", "scores_v1"
STREAM_FEATURES = ("payments_10m", "spent_1h", "spent_lifetime", "payments_lifetime", "last_merchant")
ALL_FEATURES = (*STREAM_FEATURES, "last_amount")  # of which that of plain rows is right after a refresh
TRAIN = f"train {SERVICE} --spine spine.parquet --out train.parquet"
SCHEMA: Any = pa.schema(
    {
        "transaction_id": pa.int64(), "customer_id": pa.int64(), "merchant": pa.string(),
        "amount_eur": pa.decimal128(12, 2), "occurred_at": pa.timestamp("us", "UTC"),
        "ingested_at": pa.timestamp("us", "UTC"),
    }
)  # fmt: skip
PATIENCE_SECONDS = 300  # of all waits: what is slow is no fault, as the processor may have much else to do
BROKEN = re.compile(r"Traceback \(most recent call last\)|panicked at|^Fatal Python error|Segmentation fault", re.M)


@dataclass(frozen=True)
class Done:
    """A command that has ended; `code` is negative for the signal that killed it."""

    name: str
    code: int
    output: str
    log: Path

    def __str__(self) -> str:
        return f"`{self.name}` ended with {self.code}, {self.log.name}: {last_words(self.output)}"


class Running:
    """A process of the product that stays; its output goes to `log`."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name, self.process, self.log = name, process, log

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def family(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.process.pid)
            return [own, *own.children(recursive=True)]
        return []

    def end(self) -> None:
        """SIGTERM; what is left after a minute is killed."""
        family = self.family()
        if self.process.poll() is None:
            self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        kill(*family)
        self.process.wait()


def kill(*processes: psutil.Process) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def last_words(text: str) -> str:
    return " | ".join(line.strip() for line in text.strip().splitlines()[-6:])[-600:]


class Shop:
    """The project in `folder`; all that it starts ends with `close`, each process by its id."""

    def __init__(self, trial: Trial) -> None:
        self.trial, self.folder, self.ledger = trial, trial.folder / "project", Ledger()
        self.logs, temporary = trial.folder / "log", trial.folder / "tmp"
        self.logs.mkdir()
        temporary.mkdir()
        self.home = self.folder / ".features"
        self.env = {name: text for name, text in os.environ.items() if not name.startswith(("FEATURES_", "DBT_"))} | {
            "FEATURES_PROJECT_DIR": str(self.folder), "DBT_PROFILES_DIR": str(self.folder / "profiles"),
            "FEATURES_WAREHOUSE": str(self.folder / "warehouse.duckdb"), "FEATURES_HOME": str(self.home),
            "TMPDIR": str(temporary),
        }  # fmt: skip
        self.running: dict[str, Running] = {}
        self.address: str | None = None
        self._number = 0

    def __enter__(self) -> Shop:
        return self

    def __exit__(self, *_: object) -> None:
        for running in list(self.running.values())[::-1]:
            self.end(running.name)

    def create(self, random: Random) -> None:
        """Write the project, with some payments in a file; build it, and bring it online."""
        shutil.copytree(Path(__file__).parent / "project", self.folder, dirs_exist_ok=True)
        self.landing.mkdir(parents=True)
        first = self.ledger.batch(random, 200)
        pq.write_table(pa.table(as_columns(first)).cast(SCHEMA), self.landing / "first.parquet")
        for version in first:
            version.sent = version.acked = time.monotonic()
        for name in ("build", "apply", "publish", "sync"):
            self.must(name)

    @property
    def landing(self) -> Path:
        return self.folder / "landing" / "transactions"

    # Commands

    def command(self, name: str) -> list[str]:
        """Of `build`, or of what `features` is to do."""
        if name == "build":
            return [str(Path(sys.executable).with_name("dbt")), "--quiet", "build"]
        return [sys.executable, "-m", "feature_server", *name.split()]

    def run(self, name: str, *, kill_after: float | None = None, whole: bool = False) -> Done:
        """Run a command to its end; killed after some seconds, alone or with all its children, where that is said."""
        running = self._start(name, name)
        try:
            running.process.wait(PATIENCE_SECONDS if kill_after is None else kill_after)
        except subprocess.TimeoutExpired:
            if kill_after is None:
                self.trial.fault(f"`{name}` does not end in {PATIENCE_SECONDS} s")
            family = running.family()
            kill(*(family if whole or kill_after is None else family[:1]))
            running.process.wait()
            psutil.wait_procs(family, timeout=PATIENCE_SECONDS)
        done = Done(name, running.process.returncode, running.output, running.log)
        self.trial.did(f"`{name.partition(' ')[0]}`" if kill_after is None else f"killed `{name}`")
        self._look(done.name, done.output, done.log)
        return done

    def must(self, name: str) -> Done:
        """Run a command that nothing stands in the way of."""
        done = self.run(name)
        if done.code != 0:
            raise TrialStopped(f"cannot go on: {done}")
        return done

    def _look(self, name: str, output: str, log: Path) -> None:
        if found := BROKEN.search(output):
            self.trial.fault(f"`{name}` printed `{found[0]}`, {log.name}: {last_words(output)}")

    def _start(self, name: str, command: str) -> Running:
        self._number += 1
        log = self.logs / f"{self._number:04}-{re.sub(r'[^a-z]+', '-', name)[:20].strip('-')}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.command(command), stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.folder,
                env=self.env, start_new_session=True,
            )  # fmt: skip
        return Running(name, process, log)

    # What stays

    def serve(self, workers: int = 2) -> None:
        """Start the feature server, on a free port, and wait until it says where it is."""
        running = self.running["server"] = self._start("server", f"serve --port 0 --workers {workers}")
        found = wait_for(lambda: re.search(r"serving features on (\S+)", running.output), running)
        if found is None:
            raise TrialStopped(f"the server does not start: {last_words(running.output)}")
        self.address = found[1]

    def work(self, land_every: int = 2) -> None:
        """Start the worker of the event source."""
        running = self.running["worker"] = self._start("worker", f"stream {SOURCE} --land-every {land_every}")
        if wait_for(lambda: "taking in events" in running.output, running) is None:
            raise TrialStopped(f"the worker does not start: {last_words(running.output)}")

    def end(self, name: str) -> None:
        """End what stays, and look at what it wrote."""
        running = self.running.pop(name)
        running.end()
        self._look(running.name, running.output, running.log)

    def redis(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.home / "valkey" / "valkey.sock"), socket_timeout=60)

    def valkey(self) -> psutil.Process:
        with self.redis() as client:
            return psutil.Process(client.info("server")["process_id"])

    # What is compared

    def read(self, names: tuple[str, ...] = STREAM_FEATURES, *, only_present: bool = False) -> list[str]:
        """Read through the server, or straight where none runs; what is wrong. Raises where there is no answer."""
        with FeatureClient(self.address, settings=load_settings(self.env)) as client:
            begun = time.monotonic(), now_us()
            found = client.get_many(SERVICE, customer_id=list(CUSTOMERS))
            moment = Moment(begun[0], time.monotonic(), begun[1], now_us())
        wrong = []
        for place, customer in enumerate(CUSTOMERS):
            chosen = [name for name in names if not only_present or found.statuses[name][place] == "PRESENT"]
            wrong += self.ledger.wrong(customer, {name: found.values[name][place] for name in chosen}, moment)
        self.trial.did("values read", len(CUSTOMERS) * len(names))
        return wrong

    def compare(self, names: tuple[str, ...] = STREAM_FEATURES, *, seconds: float = PATIENCE_SECONDS) -> None:
        """Reads of every customer are what Python says; a server may take `seconds` to answer again."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                wrong = self.read(names=names)
            except FeatureStoreError as error:
                if time.monotonic() < deadline:
                    time.sleep(0.2)
                    continue
                wrong = [f"no answer for {seconds:.0f} s: {error}"]
            break
        for each in wrong[:3]:
            self.trial.fault(f"read: {each}" + (f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""))

    def settle(self) -> None:
        """Wait until the worker has taken in all that producers have put in the stream; that counts from now on."""

        def is_empty() -> bool:
            with suppress(redis.RedisError), self.redis() as client:
                groups = client.xinfo_groups(f"features:events:{SOURCE}")
                return bool(groups) and all(not group["lag"] and not group["pending"] for group in groups)
            return False

        if wait_for(is_empty, self.running.get("worker")) is None:
            raise TrialStopped(f"the worker does not take in what producers sent, for {PATIENCE_SECONDS} s")
        for version in self.ledger.versions():
            if version.sent is not None and version.acked is None:
                version.acked = time.monotonic()

    def cycle(self) -> None:
        """What a refresh does: land, build, publish, sync, verify."""
        for name in (f"stream {SOURCE} --once", "build", "publish", "sync", "verify --sample 0"):
            done = self.run(name)
            if done.code != 0:
                self.trial.fault(str(done))

    def count_landed(self) -> None:
        """Every acknowledged version of a payment has landed: what was sent twice may lie in two files."""
        found: dict[tuple[int, int], int] = {}
        for path in self.landing.glob("*.parquet"):
            table = pq.read_table(path, columns=["transaction_id", "ingested_at"], partitioning=None)
            for number, created in zip(*(column.to_pylist() for column in table.columns), strict=True):
                key = number, (created - EPOCH) // timedelta(microseconds=1)
                found[key] = found.get(key, 0) + 1
        acked = {(v.number, v.created_us) for v in self.ledger.versions() if v.acked is not None}
        missing, strange = acked - set(found), set(found) - acked
        if missing or strange:
            self.trial.fault(f"landed files: {len(missing)} acknowledged events are missing, {len(strange)} were never "
                             f"sent, e.g. {sorted(missing | strange)[:3]}")  # fmt: skip
        self.trial.measured["acknowledged events"] = f"{len(acked):,}"
        self.trial.measured["landed more than once"] = f"{sum(count > 1 for count in found.values()):,}"

    def train(self, random: Random) -> None:
        """A training set at random times of the last day is what Python says of them."""
        self.write_spine(random)
        done = self.run(TRAIN)
        wrong = [str(done)] if done.code != 0 else self.wrong_training("train.parquet")
        for each in wrong[:3]:
            self.trial.fault(f"training: {each}")

    def check_all(self, random: Random) -> None:
        """A refresh, then everything against Python: reads, landed files, training sets."""
        self.settle()
        self.cycle()
        self.compare(ALL_FEATURES)
        self.count_landed()
        self.train(random)

    def write_spine(self, random: Random, rows: int = 200) -> None:
        times = [now_us() - random.choice((0, 1, 60, 3600, 86_400)) * random.randrange(1_000_000) for _ in range(rows)]
        spine = {
            "customer_id": pa.array([random.choice(CUSTOMERS) for _ in times], pa.int64()),
            "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
        }
        pq.write_table(pa.table(spine), self.folder / "spine.parquet")

    def wrong_training(self, name: str) -> list[str]:
        wrong: list[str] = []
        for row in pq.read_table(self.folder / name).to_pylist():
            time_us = (row.pop("event_timestamp") - EPOCH) // timedelta(microseconds=1)
            self.trial.did("values of training sets", len(row) - 1)
            wrong += self.ledger.wrong(row.pop("customer_id"), row, Moment.at(time_us))
        return wrong


def wait_for(holds: Callable[[], Any], running: Running | None = None, *, seconds: float = PATIENCE_SECONDS) -> Any:
    """What `holds()` gives once it is true; None when that takes longer, or the process has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := holds():
            return found
        if running is not None and running.process.poll() is not None:
            return None
        time.sleep(0.05)
    return None

"""Measuring a function in a process of its own, with the standard library alone: Feast's interpreter runs this too.

def work(rows: int) -> dict: ...           # in benchmarks/some_module.py
    prepare()
    with stopwatch() as seen:
        run()
    return {**seen, "rows_per_s": rows / seen["wall_s"]}

in_child("benchmarks.some_module:work", {"rows": 1000}, runs=3)  # medians over three fresh processes
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_MARK = "RESULT "
_NO_PROJECT = {"FEATURES_PROJECT_DIR": str(ROOT / "benchmarks")}  # what is measured is of no project
_TICKS = os.sysconf("SC_CLK_TCK")

Numbers = dict[str, Any]


class BenchmarkFailed(RuntimeError):
    """A measured process ended badly; the message holds the end of what it said."""


@contextmanager
def stopwatch() -> Iterator[Numbers]:
    """Filled at the end of the block: `wall_s`, `cpu_s` (user and system, of this process and the children that ended
    within the block) and `peak_mb` (the most memory this process held within the block, its libraries included).
    """
    seen: Numbers = {}
    _reset_peak()
    cpu, wall = _own_cpu_s(), time.perf_counter()
    yield seen
    seen["wall_s"] = time.perf_counter() - wall
    seen["cpu_s"] = _own_cpu_s() - cpu
    seen["peak_mb"] = _status_mb(os.getpid(), "VmHWM")


def in_child(
    target: str,
    arguments: Numbers,
    *,
    runs: int = 3,
    python: str | Path = sys.executable,
    timeout_s: float = 600,
    env: dict[str, str] | None = None,
) -> Numbers:
    """Medians of the numbers that `module:function` returns in each of `runs` fresh processes; `runs` among them."""
    results = [_run_once(target, arguments, python, timeout_s, env) for _ in range(runs)]
    return {**medians(results), "runs": runs}


def medians(results: list[Numbers]) -> Numbers:
    """The median of each number, three digits after the point; what is not a number is taken from the first result."""
    merged = {}
    for name, first in results[0].items():
        if isinstance(first, int | float) and not isinstance(first, bool):
            median = statistics.median(result[name] for result in results)
            merged[name] = int(median) if isinstance(first, int) else round(median, 3)
        else:
            merged[name] = first
    return merged


def process_cpu_s(pid: int) -> float:
    """CPU seconds so far of a process and its living descendants."""
    total, pids = 0.0, [pid]
    while pids:
        current = pids.pop()
        with suppress(OSError):
            fields = Path(f"/proc/{current}/stat").read_text().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / _TICKS
            for task in Path(f"/proc/{current}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
    return total


def process_peak_mb(pid: int) -> float:
    """The most memory a process has held so far."""
    return _status_mb(pid, "VmHWM")


def _run_once(
    target: str, arguments: Numbers, python: str | Path, timeout_s: float, env: dict[str, str] | None
) -> Numbers:
    command = [str(python), "-m", "benchmarks.measure", target, json.dumps(arguments)]
    try:
        run = subprocess.run(
            command, cwd=ROOT, env=os.environ | _NO_PROJECT | (env or {}), capture_output=True, text=True,
            timeout=timeout_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise BenchmarkFailed(f"{target} took more than {timeout_s:.0f} s") from None
    lines = [line for line in run.stdout.splitlines() if line.startswith(_MARK)]
    if run.returncode != 0 or not lines:
        said = "\n".join((run.stdout + run.stderr).splitlines()[-15:])
        raise BenchmarkFailed(f"{target} ended with code {run.returncode}:\n{said}")
    return json.loads(lines[-1].removeprefix(_MARK))


def _own_cpu_s() -> float:
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


def _reset_peak() -> None:
    with suppress(OSError):  # the peak since the process began serves too
        Path("/proc/self/clear_refs").write_text("5")


def _status_mb(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise BenchmarkFailed(f"process {pid} tells no {field}")


if __name__ == "__main__":
    module, _, function = sys.argv[1].partition(":")
    print(_MARK + json.dumps(getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2]))))

"""All benchmarks one after the other, their results as JSON, Markdown and a plot.

python -m benchmarks.run                      a small size, within ten minutes on two cores
python -m benchmarks.run --full               the sizes that the targets speak of
python -m benchmarks.run --only sync --no-feast
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .common import SIZES, work_folder
from .feast_env import feast_python
from .measure import ROOT, BenchmarkFailed
from .report import markdown, plot

BENCHMARKS = (
    "point_in_time", "sync", "read", "windows", "stream", "checks", "loop_hold", "dag_import", "cli", "access",
)  # fmt: skip
RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 when a benchmark could not be run; a target that is missed is told, not failed."""
    options = _parser().parse_args(arguments)
    python = None if options.no_feast else _feast(options.work)
    names = options.only or BENCHMARKS
    results: dict[str, Any] = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "size": options.size,
        "machine": _machine(),
        "benchmarks": [],
        "failed": {},
    }
    for name in names:
        begun = time.monotonic()
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            results["benchmarks"].append(_run(name, options, python))
        except BenchmarkFailed as error:
            results["failed"][name] = str(error)
            print(error, file=sys.stderr)
        print(f"{name} took {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    for path in write(results, options.results):
        print(f"wrote {path}", file=sys.stderr)
    print(markdown(results))
    return 1 if results["failed"] else 0


def write(results: dict[str, Any], folder: Path) -> tuple[Path, Path, Path]:
    """The JSON, Markdown and PNG files of the results, named by their time."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / results["made_at"][:16].replace(":", "")
    paths = stem.with_suffix(".json"), stem.with_suffix(".md"), stem.with_suffix(".png")
    paths[0].write_text(json.dumps(results, indent=1) + "\n")
    paths[1].write_text(f"{markdown(results)}\n![plot]({paths[2].name})\n")
    plot(results, paths[2])
    return paths


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="default")
    parser.add_argument("--full", action="store_const", dest="size", const="full", help="the same as --size full")
    parser.add_argument("--only", choices=BENCHMARKS, action="append", help="this one; may be given again")
    parser.add_argument("--runs", type=int, default=None, help="processes per measurement; their median counts")
    parser.add_argument("--no-feast", action="store_true", help="do not install or measure Feast")
    parser.add_argument("--work", type=Path, default=work_folder(), help="where data is made and kept")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are written")
    return parser


def _run(name: str, options: argparse.Namespace, python: Path | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / f"{name}.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", "--out", str(out), "--size", options.size]
        command += ["--work", str(options.work.resolve())]
        command += ["--runs", str(options.runs)] if options.runs else []
        command += ["--feast-python", str(python)] if python else []
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        if code != 0 or not out.exists():
            raise BenchmarkFailed(f"benchmarks.{name} ended with code {code}")
        return {"name": name, **json.loads(out.read_text())}


def _feast(work: Path) -> Path | None:
    """Feast's interpreter; None, and a word about it, where it cannot be installed."""
    try:
        return feast_python(work.resolve())
    except BenchmarkFailed as error:
        print(f"going on without Feast: {error}", file=sys.stderr)
        return None


def _machine() -> dict[str, str]:
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = [int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal:")]
    return {
        "processor": f"{names[0] if names else platform.machine()} × {os.cpu_count()}",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "memory": f"{memory[0] / 2**20:.0f} GiB" if memory else "unknown",
        "Python": platform.python_version(),
        "DuckDB": version("duckdb"),
        "redis-py": version("redis"),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


if __name__ == "__main__":
    sys.exit(main())

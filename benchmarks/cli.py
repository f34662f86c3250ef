"""What the commands of an analyst cost on the example, warm, after an edit of one model: CPU of all their processes.

The limit is dbt itself: its own partial parse of the same edit, in one process that does nothing else. Last, a new
project from `features init NAME` to its first online read, and to a training set.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .common import make_case, parser, write_results
from .measure import ROOT, BenchmarkFailed
from .sync import server

COPIED = ("models", "macros", "profiles", "dbt_project.yml", "data")
PACKAGE = "feature_server/dbt_package"
EDITED, WINDOW = "models/features/merchant/merchant__risk.sql", "'30 days'"
ROUNDS = {"tiny": 1, "default": 5, "full": 11}
BARE = (
    "from dbt.cli.main import dbtRunner; import sys; "
    "sys.exit(not dbtRunner().invoke(['--quiet', 'parse', '--target-path', 'target/bare']).success)"
)
# Over dbt's own partial parse, or in all: CPU seconds.
OVER = {"check": 1.0, "plan": 2.0}
IN_ALL = {"lint": 1.0, "status": 1.0, "get": 0.6, "--help": 0.2}
BEGUN_S = 60.0  # CPU seconds of a new project's commands
SPINE = "select customer_id, ordered_at as event_timestamp from 'landing/orders/orders.parquet'"
TO_GET = (("run",), ("get", "reorder_v1", "customer_id=7"))
TRAIN = ("train", "reorder_v1", "--spine", SPINE, "--out", "train.parquet")
GET = ("get", "customer__profile:country", "customer_id=1")


class Commands:
    """The commands that are run in a folder."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.folder, self.environ = folder, environ

    def cpu_s(self, command: Sequence[str], good: Sequence[int] = (0,)) -> float:
        """CPU seconds of a command and of all processes that it starts and waits for."""
        before = _children_s()
        run = subprocess.run(
            command, cwd=self.folder, env=self.environ, capture_output=True, text=True, check=False, timeout=600
        )
        if run.returncode not in good:
            raise BenchmarkFailed(f"{' '.join(command)}\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
        return _children_s() - before

    def features(self, *arguments: str) -> float:
        good = (0, 1) if arguments == ("status",) else (0,)  # 1: the views that are not published
        return self.cpu_s([sys.executable, "-m", "feature_server", *arguments], good)


class Project(Commands):
    """A copy of the example, with the commands that are run in it."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self._edits = 30
        for name in COPIED:
            source, target = ROOT / name, folder / name
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copy(source, target)
        shutil.copytree(ROOT / PACKAGE, folder / "dbt_packages" / "feature_warehouse", dirs_exist_ok=True)
        ours = ("FEATURES_", "DBT_", "PYTHONDONTWRITEBYTECODE")  # an installed program is compiled
        own = {name: text for name, text in os.environ.items() if not name.startswith(ours)}
        super().__init__(folder, own | {
            "FEATURES_HOME": str(folder / ".features"), "FEATURES_REDIS_URL": redis_url, "PYTHONPATH": str(ROOT),
            "DBT_PROFILES_DIR": str(folder / "profiles"), "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        })  # fmt: skip

    def edit(self) -> None:
        """Give one model another window."""
        path = self.folder / EDITED
        before, after = f"'{self._edits} days'", f"'{self._edits + 1} days'"
        text = path.read_text(encoding="utf-8")
        assert before in text
        path.write_text(text.replace(before, after), encoding="utf-8")
        self._edits += 1


def measured(project: Project, rounds: int) -> Iterator[tuple[str, float, float | None]]:
    """Name, median CPU of ours and of dbt's partial parse, taken in turns."""
    seen: dict[str, list[float]] = {}
    for number in range(rounds + 1):  # the first round warms
        project.edit()
        found = {"dbt": project.cpu_s([sys.executable, "-c", BARE]), "check": project.features("check")}
        found["dbt, nothing changed"] = project.cpu_s([sys.executable, "-c", BARE])
        found["check, nothing changed"] = project.features("check")
        project.edit()
        found["plan"] = project.features("plan")
        for name in ("lint", "status", "--help"):
            found[name] = project.features(name)
        found["get"] = project.features(*GET)
        if number:
            for name, seconds in found.items():
                seen.setdefault(name, []).append(seconds)
    median = {name: statistics.median(all_) for name, all_ in seen.items()}
    for name, seconds in median.items():
        command, comma, state = name.partition(",")
        if command != "dbt":
            yield name, seconds, median[f"dbt{comma}{state}"] if command in OVER else None


def prepare(project: Project) -> None:
    """Have a view of the project published and served."""
    landing = project.folder / ".features" / "landing"
    sizes = ["--customers", "50", "--merchants", "12", "--transactions", "1000", "--days", "20"]
    project.cpu_s([sys.executable, "-m", "examples.payments", "--out", str(landing), *sizes])
    dbt = [str(Path(sys.executable).parent / "dbt"), "build", "--quiet", "--select", "+customer__profile"]
    project.cpu_s([*dbt, "--project-dir", str(project.folder)])
    for command in (("apply",), ("publish", "customer__profile"), ("sync", "customer__profile")):
        project.features(*command)


def begun(folder: Path, environ: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    """CPU seconds of a new project from `features init` to the first read, and to a training set too."""
    new = Commands(folder, environ)
    seconds = new.features("init", "shop")
    new.folder = folder / "shop"
    seconds += sum(new.features(*command) for command in TO_GET)
    yield "features init shop … get", seconds
    yield "features init shop … train", seconds + new.features(*TRAIN)


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = parser(__doc__ or "").parse_args(arguments)
    folder = chosen.work.resolve() / "cli"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    cases = []
    with server(str(folder / "valkey")) as (url, _):
        project = Project(folder / "project", url)
        prepare(project)
        for name, ours, bare in measured(project, chosen.runs or ROUNDS[chosen.size]):
            if bare is None:
                cases.append(make_case(f"features {name}", ours={"cpu_s": round(ours, 3)}, targets=_at_most(name)))
                continue
            over = OVER[name.partition(",")[0]]
            numbers = {"cpu_s": round(ours, 3), "over_dbt_s": round(ours - bare, 3)}
            targets = {"over_dbt_s": f"<= {over}", "cpu_s/limit": f"<= {1 + over / bare:.2f}"}
            cases.append(make_case(f"features {name}", ours=numbers, limit={"cpu_s": round(bare, 3)}, targets=targets))
    with server(str(folder / "other")) as (url, _):
        own = {name: text for name, text in project.environ.items() if not name.startswith(("FEATURES_", "DBT_PROF"))}
        for name, ours in begun(folder, own | {"FEATURES_REDIS_URL": url}):
            cases.append(make_case(name, ours={"cpu_s": round(ours, 3)}, targets={"cpu_s": f"<= {BEGUN_S}"}))
    shutil.rmtree(folder, ignore_errors=True)
    write_results(Path(chosen.out), "Commands of an analyst on the example", cases)
    return 0


def _at_most(name: str) -> dict[str, str]:
    return {"cpu_s": f"<= {IN_ALL[name]}"}


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(main())

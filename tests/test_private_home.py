"""The folder of what this product writes is its owner's alone, whoever makes it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from feature_server.durable import make_private

ROOT = Path(__file__).parents[1]
FIRST = {
    "the example's data": "from examples.payments import main;"
    "main('--out .features/landing --customers 20 --merchants 5 --days 3 --transactions 50'.split())",
    "features apply": "from pathlib import Path;"
    "from feature_server.definitions.registry import Registry, write_registry;"
    "write_registry(Path('.features/registry.json'), Registry(project='p'))",
    "a client on the embedded Valkey": "import feature_server; open('dbt_project.yml', 'w').close();"
    "feature_server.FeatureClient().close()",
    "make up": "from pathlib import Path; from scripts.services import only_one;"
    "only_one(Path('.features/run')).__enter__()",
    "make demo": "from pathlib import Path; from scripts.demo_run import Commands;"
    "Commands(Path('.'), {}, Path('.features/run/demo.log'))",
}
# These make folders where the user or a folder that is there already says: in the offline store, which others may read,
# in a dbt source's location, in dbt's target folder, beside a page, in a dbt project, in a private scratch folder;
# `features docs` and `features stream` make the home first.
ELSEWHERE = {
    "offline/files.py", "history/log.py", "offline/session.py", "catalog/site.py", "dbt/compiled.py",
    "asof/scratching.py", "scaffold/edits.py", "scaffold/fresh.py",
}  # fmt: skip


def mode(folder: Path) -> int:
    return stat.S_IMODE(folder.stat().st_mode)


@pytest.mark.parametrize("code", FIRST.values(), ids=FIRST)
def test_whoever_makes_the_home_makes_it_private(tmp_path: Path, code: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FEATURES_")}
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, umask=0o022, env=environment | {"PYTHONPATH": str(ROOT)}
    )
    assert mode(tmp_path / ".features") == 0o700


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o750)
    make_private(tmp_path / "home" / "a" / "b")
    make_private(tmp_path / "home" / "a" / "b")
    assert [mode(tmp_path / name) for name in ("home", "home/a", "home/a/b")] == [0o750, 0o700, 0o700]


def test_nothing_else_makes_the_folders_above_its_own() -> None:
    sources = [path for folder in ("feature_server", "scripts", "examples") for path in (ROOT / folder).rglob("*.py")]
    found = {"/".join(path.parts[-2:]) for path in sources if "mkdir(parents=True" in path.read_text()}
    assert found == ELSEWHERE

"""Training sets from a feature server with the base install and pyarrow alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from feature_server.extras import LIBRARIES
from tests.support.offline_home import OfflineHome, spine
from tests.support.served import Served

ROOT = Path(__file__).parents[2]
HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""
CODE = """
import pyarrow as pa, pyarrow.parquet as pq
from feature_server import FeatureClient, FeatureStore

address, spine, out = sys.argv[1:]
FeatureClient(address).close()
store = FeatureStore(address)
made = store.get_historical_features(spine, "orders_v1")
made.write_parquet(out)
assert made.to_arrow().num_rows == 12
again = store.get_historical_features(pq.read_table(spine), "orders_v1").to_arrow()
assert again.equals(made.to_arrow(), check_metadata=True)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_the_base_install_and_pyarrow_are_enough(home: OfflineHome, server: Served, tmp_path: Path) -> None:
    pq.write_table(spine(), tmp_path / "spine.parquet")
    hidden = {library for libraries in LIBRARIES.values() for library in libraries} - {"pyarrow"}
    assert {"duckdb", "dbt", "deltalake", "numpy", "pandas", "polars"} <= hidden
    arguments = (server.address, str(tmp_path / "spine.parquet"), str(tmp_path / "remote"))
    run = subprocess.run(
        [sys.executable, "-c", HIDE.format(hidden=hidden) + CODE, *arguments], cwd=tmp_path, capture_output=True,
        text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert set(run.stdout.split()) & hidden == set()
    home.store.get_historical_features(tmp_path / "spine.parquet", "orders_v1").write_parquet(tmp_path / "local")
    assert (tmp_path / "remote").read_bytes() == (tmp_path / "local").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["local", "remote", "spine.parquet"]

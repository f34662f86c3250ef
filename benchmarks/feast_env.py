"""Feast in a virtual environment of its own, and a Feast repository over the same Parquet files.

This runs in the product's interpreter; what Feast itself does is in `feast_calls`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import textwrap
import venv
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .data import TTL_DAYS, ViewSize, feature_names, feature_types, view_file
from .measure import BenchmarkFailed

LOCK = Path(__file__).parent / "feast" / "requirements.lock"
FEAST_ENV = {"FEAST_USAGE": "False", "PYTHONWARNINGS": "ignore"}


def feast_python(work: Path) -> Path:
    """The interpreter of Feast's environment below `work`, installed from the hashed lock unless it is there."""
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]
    folder = work / "feast-venv"
    stamp, python = folder / f"installed-{digest}", folder / "bin" / "python"
    if not stamp.exists():
        print("installing Feast into an environment of its own (once; from the hashed lock)", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        uv = Path(sys.executable).parent / "uv"
        by_uv = [str(uv), "pip", "sync", "--quiet", "--require-hashes", "--python", str(python), str(LOCK)]
        by_pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
        if not uv.exists() or subprocess.run(by_uv, capture_output=True, check=False).returncode != 0:
            _run([*by_pip, "-r", str(LOCK)])
        stamp.touch()
    return python


_HEAD = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64, String

entity = Entity(name="entity", join_keys=["entity_id"], value_type=ValueType.INT64)
"""
_VIEW = """
{name} = FeatureView(
    name="{name}", entities=[entity], ttl=timedelta(days={ttl_days}), online=True,
    schema=[{fields}],
    source=FileSource(
        name="{name}_source", path="{path}",
        timestamp_field="event_timestamp", created_timestamp_column="created_timestamp",
    ),
)
{name}_service = FeatureService(name="{name}_service", features=[{name}])
"""
_SETTINGS = """
project: bench
provider: local
registry: {{path: registry.db, cache_ttl_seconds: 3600}}
offline_store: {{type: duckdb}}
online_store: {{type: redis, connection_string: "127.0.0.1:{port}"}}
materialization: {{pull_latest_features: true, online_write_batch_size: 10000}}
entity_key_serialization_version: 3
"""


def feast_repository(
    python: Path, work: Path, names: Sequence[str], size: ViewSize, *, redis_port: int = 6379, ttl_days: int = TTL_DAYS
) -> Path:
    """A Feast repository, applied, whose views read the files of `data.view_file`.

    `materialization` is set to serve Feast best: by default it reads the whole history and writes it in one batch.
    """
    kinds = {pa.float64(): "Float64", pa.int64(): "Int64", pa.string(): "String"}
    repository = work / size.folder / "feast"
    shutil.rmtree(repository, ignore_errors=True)
    repository.mkdir(parents=True)
    text = _HEAD
    for name in names:
        fields = zip(feature_names(name, size), feature_types(size), strict=True)
        text += _VIEW.format(
            name=name, ttl_days=ttl_days, path=view_file(work, name, size).resolve(),
            fields=", ".join(f'Field(name="{field}", dtype={kinds[kind]})' for field, kind in fields),
        )  # fmt: skip
    (repository / "features.py").write_text(text)
    (repository / "feature_store.yaml").write_text(textwrap.dedent(_SETTINGS.format(port=redis_port)).lstrip())
    _run([str(python.parent / "feast"), "-c", str(repository), "apply"])
    return repository


_PUSHED = """
from datetime import timedelta
from feast import Entity, FeatureView, Field, FileSource, PushSource, ValueType
from feast.types import Float64, Int64

customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
batch = FileSource(
    name="batch", path="{path}", timestamp_field="occurred_at", created_timestamp_column="ingested_at"
)
payments = FeatureView(
    name="latest_payment", entities=[customer], ttl=timedelta(days=365), online=True,
    schema=[
        Field(name="transaction_id", dtype=Int64), Field(name="merchant_id", dtype=Int64),
        Field(name="amount_eur", dtype=Float64),
    ],
    source=PushSource(name="payments", batch_source=batch),
)
"""


def push_repository(python: Path, work: Path, *, redis_port: int) -> Path:
    """A Feast repository, applied, with a push source of the events of `stream_events`: a key's latest row is kept."""
    repository = work / "stream-feast-repository"
    shutil.rmtree(repository, ignore_errors=True)
    repository.mkdir(parents=True)
    columns = {name: pa.array([1]) for name in ("transaction_id", "customer_id", "merchant_id")}
    times = {name: pa.array([0], pa.timestamp("us", "UTC")) for name in ("occurred_at", "ingested_at")}
    path = repository / "batch.parquet"
    pq.write_table(pa.table({**columns, "amount_eur": pa.array([1.0]), **times}), path)
    (repository / "features.py").write_text(_PUSHED.format(path=path))
    (repository / "feature_store.yaml").write_text(textwrap.dedent(_SETTINGS.format(port=redis_port)).lstrip())
    _run([str(python.parent / "feast"), "-c", str(repository), "apply"])
    return repository


def _run(command: list[str]) -> None:
    run = subprocess.run(command, env=os.environ | FEAST_ENV, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        said = "\n".join((run.stdout + run.stderr).splitlines()[-15:])
        raise BenchmarkFailed(f"{' '.join(command[:4])} … ended with code {run.returncode}:\n{said}")

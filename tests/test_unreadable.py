"""Bytes that are not the JSON wanted: cut off, not UTF-8, of another shape or nested too deeply, each has an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_server.catalog.site import _read_json
from feature_server.dbt.artifacts import read_manifest
from feature_server.dbt.build import read_last_run
from feature_server.definitions.registry import read_registry
from feature_server.errors import FeatureStoreError
from feature_server.online.registry import decode_online_registry, decode_verified
from feature_server.training.record import METADATA_KEY, read_record


def _in_file(read: Callable[[Path], object], name: str = "") -> Callable[[bytes, Path], object]:
    def read_bytes(body: bytes, folder: Path) -> object:
        file = folder / name if name else folder / "file.json"
        file.write_bytes(body)
        return read(folder if name else file)

    return read_bytes


def _record(body: bytes, folder: Path) -> object:
    table = pa.table({"n": [1]}).replace_schema_metadata({METADATA_KEY: body})
    pq.write_table(table, folder / "set.parquet")
    return read_record(folder / "set.parquet")


READERS: dict[str, Callable[[bytes, Path], object]] = {
    "registry": _in_file(read_registry),
    "dbt's manifest": _in_file(read_manifest, "manifest.json"),
    "dbt's results": _in_file(read_last_run, "run_results.json"),
    "dbt's catalog": _in_file(_read_json),
    "online registry": lambda body, _: decode_online_registry(body),
    "last verified": lambda body, _: decode_verified(body),
    "training record": _record,
}
BODIES = [
    b'{"a": ',
    b'{"project": "\xff", "metadata": "\xff", "args": {"which": "\xff"}}',
    b"7",
    b'{"results": ' + b"[" * 100_000,
    b"",
]


@pytest.mark.parametrize("body", BODIES, ids=["cut", "utf-8", "shape", "nested", "empty"])
@pytest.mark.parametrize("reader", READERS)
def test_bytes_that_cannot_be_read_are_an_error_that_says_what_to_do(reader: str, body: bytes, tmp_path: Path) -> None:
    with pytest.raises(FeatureStoreError) as raised:
        READERS[reader](body, tmp_path)
    assert raised.value.remedy or raised.value.expected

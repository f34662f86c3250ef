"""`FeatureStore` of a feature server: training sets without the project's files, dbt or DuckDB."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import tempfile
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from .. import frames
from ..definitions.deprecation import warn_deprecated
from ..definitions.registry import feature_list
from ..errors import RequestError, SettingsError
from ..online.address import shown_url
from ..protocol import GetHistoricalFeatures, TrainingResult
from ..settings import load_settings, local_path
from ..training.made import Summary, as_pandas
from ..training.spine import Spine, open_spine
from .http import http_options, key_to_send
from .jobs import Notice, TrainingServer

if TYPE_CHECKING:
    import pandas
    import polars

PIECE_ROWS = 1 << 16  # of a spine, sent at a time
TIMEOUT_SECONDS = 60.0


class RemoteStore:
    """What `FeatureStore` is where it is given a feature server's URL: the server has the offline store.

    `key` is a key of access with a scope `train:…`, by default FEATURES_KEY.
    """

    def __init__(self, url: str, *, key: str | None = None, **local: Any) -> None:
        if given := sorted(name for name, value in local.items() if value is not None):
            raise SettingsError(
                "that is for the machine that has the offline store", where=", ".join(given),
                expected="a URL and a key",
                remedy="leave it out: the feature server has its own settings",
            )  # fmt: skip
        self.url = shown_url(url)
        options = http_options(url, self.url, key_to_send(key, load_settings(), over_http=True), TIMEOUT_SECONDS)
        self._server = TrainingServer(url, self.url, options)
        self._told_deprecated = set[str]()

    def __repr__(self) -> str:
        return f"FeatureStore({self.url!r})"

    def get_historical_features(
        self,
        spine: Any,
        features: str | Sequence[str],
        *,
        as_known: bool = False,
        full_feature_names: bool = False,
        event_timestamp: str = "event_timestamp",
        versions: Mapping[str, int] | None = None,
        notice: Notice = lambda text: None,
    ) -> RemoteTrainingSet:
        """The same as of a project's FeatureStore, made by the server and here when this returns.

        `spine` is no query: that would read the server's files. `notice` is told how the server gets on.

        Raises AccessDenied for features that the key may not train on, TooLarge beyond a limit of the server.
        """
        opened = open_spine(spine, _no_query)
        names = None if isinstance(features, str) else feature_list(features)
        asked = GetHistoricalFeatures(
            features=names, feature_service=features if isinstance(features, str) else None,
            full_feature_names=full_feature_names, as_known=as_known, event_timestamp=event_timestamp,
            versions=dict(versions or {}), id=secrets.token_hex(16),
        )  # fmt: skip
        handle, name = tempfile.mkstemp(prefix="features-", suffix=".parquet")
        os.close(handle)
        path = Path(name)
        try:
            result = self._server.make(asked, lambda: _pieces(opened), path, notice)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        warn_deprecated(result.deprecated, self._told_deprecated)
        return RemoteTrainingSet(opened, path, result)

    def reproduce(self, *_: Any, **__: Any) -> NoReturn:
        self._local("reproduce")

    def table(self, *_: Any, **__: Any) -> NoReturn:
        self._local("table")

    @property
    def registry(self) -> NoReturn:
        self._local("registry")

    def _local(self, name: str) -> NoReturn:
        raise RequestError(
            f"{name} is for a machine that has the offline store", where=self.url,
            expected="FeatureStore(\"path/to/project\")",
            remedy="there; the server's pages /feature-services and /feature-views say what there is",
        )  # fmt: skip


class RemoteTrainingSet:
    """A training set that a server made: its file is here, and goes with this object.

    The same bytes, rows and types as of `training.sets.TrainingSet`.
    """

    def __init__(self, spine: Spine, path: Path, result: TrainingResult) -> None:
        self._given, self._path, self._result = spine.given, path, result
        self._remove = weakref.finalize(self, _unlink, path)
        self.feature_columns, self.versions = result.feature_columns, result.versions
        with pq.ParquetFile(path) as file:
            features = [file.schema_arrow.field(name) for name in result.feature_columns]
        self.schema = pa.schema([*spine.schema, *(pa.field(each.name, _plain(each.type)) for each in features)])

    def to_arrow(self) -> pa.Table:
        """One table; its schema's metadata says what it was made from."""
        with pq.ParquetFile(self._path) as file:
            table = file.read()
        return table.cast(self.schema).replace_schema_metadata(table.schema.metadata)

    def to_polars(self) -> polars.DataFrame:
        return frames.to_polars(self.to_arrow())

    def to_pandas(self) -> pandas.DataFrame:
        """A spine's own pandas columns and index as they are, and features in the types of docs/types.md."""
        return as_pandas(self._given, self.to_arrow(), self.feature_columns)

    def write_parquet(
        self, path: str | Path, *, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Summary:
        """The file as the server wrote it, which is what a local call writes; it appears when it is complete."""
        started = time.monotonic()
        path = local_path(path, where="training set")
        scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
        try:
            shutil.copyfile(self._path, scratch)
            os.replace(scratch, path)
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise RequestError("the file cannot be written", where=str(path), got=str(error.strerror)) from None
        finally:
            with suppress(OSError):
                scratch.unlink(missing_ok=True)
        progress(self._result.rows, self._result.rows)
        return Summary(
            path=str(path), rows=self._result.rows, features=len(self.feature_columns), versions=self.versions,
            null_share=self._result.null_share, seconds=time.monotonic() - started,
        )  # fmt: skip


class _Pieces(io.RawIOBase):
    """What a writer of Arrow's has written, taken in pieces."""

    def __init__(self) -> None:
        self._parts = list[bytes]()

    def writable(self) -> bool:
        return True

    def write(self, part: Any) -> int:
        self._parts.append(bytes(part))
        return len(self._parts[-1])

    def take(self) -> bytes:
        taken, self._parts = b"".join(self._parts), []
        return taken


def _pieces(spine: Spine) -> Iterator[bytes]:
    """A spine as a stream of Arrow's, compressed."""
    sink = _Pieces()
    with pa.ipc.new_stream(sink, spine.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        for chunk in spine.chunks(PIECE_ROWS):
            writer.write_table(chunk)
            yield sink.take()
    yield sink.take()


def _no_query(sql: str) -> Spine:
    raise RequestError(
        "a query is for a machine that has the offline store", where="spine", got=sql,
        expected="a pandas or polars DataFrame, a LazyFrame, an Arrow table, or the path of a Parquet file",
        remedy="run the query where its data is, and give its rows",
    )  # fmt: skip


def _plain(type_: pa.DataType) -> pa.DataType:
    """A list as features have it: Parquet has another name for what is in it."""
    return pa.list_(type_.value_type) if pa.types.is_list(type_) else type_


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)

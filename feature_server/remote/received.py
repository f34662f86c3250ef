"""A spine as it was received: nothing in it is believed, and it is read no further than the limits."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import RequestError, TooLarge
from ..training.spine import READ_ROWS, Spine

Batches: TypeAlias = Callable[[Path], tuple[pa.Schema, Iterator[pa.RecordBatch]]]
_PARQUET, _END = b"PAR1", b"\xff\xff\xff\xff\0\0\0\0"
_UNREADABLE = (pa.ArrowException, OSError, ValueError, NotImplementedError)


def open_received(path: Path, *, max_rows: int, max_bytes: int) -> Spine:
    """The spine of an Arrow IPC stream, or of a Parquet file; RequestError for other bytes, TooLarge beyond a limit."""
    with path.open("rb") as file:
        head = file.read(len(_PARQUET))
        file.seek(max(0, path.stat().st_size - len(_END)))
        tail = file.read()
    if head != _PARQUET and tail != _END:
        raise _unreadable("bytes that do not end as a stream does")
    batches: Batches = _parquet if head == _PARQUET else _stream
    try:
        schema, _ = batches(path)
        rows = size = 0
        for batch in _read(path, batches):
            rows, size = rows + batch.num_rows, size + batch.nbytes
            if rows > max_rows:
                raise TooLarge(
                    "the spine has too many rows", where="spine", expected=f"at most {max_rows:,} rows",
                    got=f"{rows:,} rows or more",
                    remedy="ask for parts of it; who made the key can allow more, `features keys create --max-rows`",
                )  # fmt: skip
            if size > max_bytes:
                raise TooLarge(
                    "the spine is too large", where="spine", expected=f"at most {max_bytes:,} bytes as it is read",
                    got=f"{size:,} bytes or more",
                    remedy="ask for parts of it; FEATURES_TRAIN_SPINE_BYTES, where the server runs, allows more",
                )  # fmt: skip
        return Spine(None, schema, rows, lambda: _read(path, batches))
    except MemoryError:
        raise
    except _UNREADABLE as error:
        raise _unreadable(str(error).splitlines()[0]) from None


def _read(path: Path, batches: Batches) -> Iterator[pa.RecordBatch]:
    _, found = batches(path)
    for batch in found:
        batch.validate(full=True)
        yield batch


def _stream(path: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    reader = pa.ipc.open_stream(pa.memory_map(str(path)))
    return reader.schema, iter(reader)


def _parquet(path: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    file = pq.ParquetFile(path)
    return file.schema_arrow, file.iter_batches(batch_size=READ_ROWS)


def _unreadable(got: str) -> RequestError:
    return RequestError(
        "the spine cannot be read", where="spine", expected="an Arrow IPC stream or a Parquet file", got=got,
        remedy="send it as FeatureStore does, or as `pyarrow.ipc.new_stream` writes it",
    )  # fmt: skip

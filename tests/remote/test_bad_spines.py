"""Whatever comes as a spine: it is refused in words, and nothing of it stays."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.offline_home import OfflineHome, spine
from tests.support.raw_http import Client
from tests.support.served import Served, eventually, served
from tests.support.trained import Trainer, stream_of

SPINE = stream_of(spine())


def parquet_of(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


@pytest.fixture
def nothing_stays(home: OfflineHome) -> Iterator[None]:
    yield
    jobs = home.folder / "training"
    eventually(lambda: [path for path in jobs.iterdir() if path.is_dir()] == [])


def corrupt(whole: bytes, at: int) -> bytes:
    return whole[:at] + bytes(byte ^ 0xFF for byte in whole[at : at + 8]) + whole[at + 8 :]


NO_SPINES = {
    "nothing": b"",
    "text": b"customer,event_timestamp\n1,2024-01-01\n",
    "JSON": b'{"customer": [1]}',
    "zeros": bytes(1000),
    "half a stream": SPINE[: len(SPINE) // 2],
    "a stream without its end": SPINE[:-8],
    "no stream but an end": b"x" * 100 + SPINE[-8:],
    "a magic word alone": b"PAR1",
    "half a Parquet file": parquet_of(spine())[:200],
    "a Parquet file without its footer": parquet_of(spine())[:-20],
    **{f"a stream damaged at {at}": corrupt(SPINE, at) for at in range(8, len(SPINE) - 8, len(SPINE) // 9)},
    **{
        f"a Parquet file damaged at {at}": corrupt(parquet_of(spine()), at)
        for at in range(8, len(parquet_of(spine())) - 8, len(parquet_of(spine())) // 9)
    },
}


@pytest.mark.parametrize("case", NO_SPINES)
def test_bytes_that_are_no_spine(case: str, server: Served, nothing_stays: None) -> None:
    trainer = Trainer(server.address)
    job = trainer.begin(NO_SPINES[case])
    told = trainer.ended(job)
    trainer.drop(job)
    if "damaged" in case and told["state"] == "done":
        return  # what was hit is a value, or padding
    assert told["error"]["error"] == "RequestError", told
    assert "where" in told["error"], told
    assert "Traceback" not in str(told)


def test_a_parquet_file_is_a_spine_too(server: Served, home: OfflineHome, tmp_path: Path, nothing_stays: None) -> None:
    trainer = Trainer(server.address)
    job = trainer.made(parquet_of(spine()))
    home.store.get_historical_features(spine(), "orders_v1").write_parquet(tmp_path / "local")
    assert trainer.http.get(f"/train/{job}/result").content == (tmp_path / "local").read_bytes()
    trainer.drop(job)


ASKED = {
    "nothing": b"",
    "no line": b'{"feature_service": "orders_v1"}',
    "no JSON": b"x\n",
    "another field": b'{"feature_service": "orders_v1", "sql": "select 1"}\n',
    "both": b'{"feature_service": "orders_v1", "features": ["orders:count"]}\n',
    "neither": b"{}\n",
    "a wrong id": b'{"feature_service": "orders_v1", "id": "../../x"}\n',
    "a version that is none": b'{"feature_service": "orders_v1", "versions": {"orders": "x"}}\n',
}


@pytest.mark.parametrize("case", ASKED)
def test_a_wrong_question(case: str, server: Served, nothing_stays: None) -> None:
    trainer = Trainer(server.address)
    answer = trainer.http.post(
        "/train", content=ASKED[case], headers={"content-type": "application/vnd.features.train"}
    )
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["what"]


def test_a_question_without_end(server: Served, nothing_stays: None) -> None:
    body = (b"x" * (1 << 16) for _ in range(40))
    answer = Trainer(server.address).http.post(
        "/train", content=body, headers={"content-type": "application/vnd.features.train"}
    )
    assert (answer.status_code, answer.json()["error"]) == (413, "TooLarge")


@pytest.mark.parametrize("path", ["x", "..%2F..%2Fetc", "0" * 31, "0" * 32, "ü", "line", ".line.lock", "."])
def test_no_other_path_is_a_job(path: str, server: Served) -> None:
    trainer = Trainer(server.address)
    for method in ("GET", "DELETE"):
        assert trainer.http.request(method, f"/train/{path}").status_code in (404, 405), method
    assert trainer.http.get(f"/train/{path}/result").status_code == 404
    assert trainer.http.get("/train").status_code == 405


def test_a_client_that_leaves_leaves_nothing(server: Served, home: OfflineHome, nothing_stays: None) -> None:
    head = b"POST /train HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/vnd.features.train\r\n"
    asked = b'{"feature_service": "orders_v1"}\n'
    for sent in (b"", asked[:9], asked, asked + b"abc"):
        with Client(server) as client:
            client.send(head + b"content-length: 10000\r\n\r\n" + sent)
    assert Trainer(server.address).http.get("/health").status_code == 200


def zeros(rows: int) -> pa.Table:
    column = pa.array([0], pa.int64()).take(pa.array([0] * rows))
    times = column.cast(pa.timestamp("us", "UTC"))
    names = pa.nulls(rows, pa.string())
    return pa.table({"customer": names, "shop": names, "event_timestamp": times, "zeros": column})


BOMBS = {
    "a stream of zeros": stream_of(zeros(2_000_000), compression="zstd"),
    "a Parquet file of zeros": parquet_of(zeros(2_000_000), compression="zstd"),
    "a dictionary": stream_of(
        pa.table(
            {
                "customer": pa.nulls(5_000, pa.string()),
                "shop": pa.DictionaryArray.from_arrays(pa.array([0] * 5_000, pa.int8()), pa.array(["x" * 400_000])),
                "event_timestamp": pa.array([0] * 5_000, pa.timestamp("us", "UTC")),
            }
        )
    ),
    "views of one text": stream_of(
        pa.table(
            {
                "customer": pa.nulls(5_000, pa.string()),
                "shop": pa.Array.from_buffers(
                    pa.string_view(), 5_000,
                    [
                        None, pa.py_buffer(struct.pack("<i4sii", 400_000, b"xxxx", 0, 0) * 5_000),
                        pa.py_buffer(b"x" * 400_000),
                    ],
                ),
                "event_timestamp": pa.array([0] * 5_000, pa.timestamp("us", "UTC")),
            }
        )
    ),
}  # fmt: skip
SMALL = {
    "FEATURES_TRAIN_SPINE_BYTES": str(16 << 20), "FEATURES_TRAIN_MEMORY_BYTES": str(1 << 30),
    "FEATURES_TRAIN_RESULT_BYTES": str(1 << 19),
}  # fmt: skip


@pytest.fixture(scope="module")
def small(home: OfflineHome, valkey_server: str) -> Iterator[Served]:
    with served(valkey_server, **home.environment, **SMALL) as running:
        yield running
        assert "Traceback" not in running.stop()


@pytest.mark.parametrize("case", BOMBS)
def test_a_spine_that_grows_is_refused(case: str, small: Served, nothing_stays: None) -> None:
    assert len(BOMBS[case]) < 8 << 20
    error = Trainer(small.address).failed(BOMBS[case])
    assert error["error"] == "TooLarge", error
    assert "FEATURES_TRAIN_" in error["remedy"]


def test_a_spine_beyond_the_bytes_is_refused_while_it_comes(small: Served, nothing_stays: None) -> None:
    answer = Trainer(small.address).post(bytes(17 << 20))
    assert (answer.status_code, answer.json()["error"]) == (413, "TooLarge")
    assert answer.json()["expected"] == "at most 16,777,216 bytes"


def test_a_result_beyond_the_bytes_is_refused(small: Served, nothing_stays: None) -> None:
    noise = pa.array([f"{i * 7919 % 1000003:x}" * 3 for i in range(200_000)])
    error = Trainer(small.address).failed(stream_of(spine(200_000).append_column("noise", noise), compression="zstd"))
    assert (error["error"], error["where"]) == ("TooLarge", "result"), error


def test_a_server_without_an_offline_store_says_so(valkey_server: str, tmp_path: Path) -> None:
    with served(valkey_server, FEATURES_PROJECT_DIR=str(tmp_path)) as bare:
        answer = Trainer(bare.address).post(SPINE)
        assert (answer.status_code, answer.json()["error"]) == (501, "CannotTrain")
        assert "FeatureStore()" in answer.json()["remedy"]
        assert not (tmp_path / ".features" / "training").exists()
        assert "Traceback" not in bare.stop()

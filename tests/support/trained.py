"""Training sets asked for over HTTP, as a client of another language would."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import pyarrow as pa

from feature_server.protocol import TRAIN_TYPE
from tests.support.served import eventually

ASKED = {"feature_service": "orders_v1"}


def stream_of(table: pa.Table, *, compression: str | None = None) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    return sink.getvalue()


def bearing(key: str | None) -> dict[str, str]:
    return {} if key is None else {"authorization": f"Bearer {key}"}


class Trainer:
    """Asks one feature server with one key."""

    def __init__(self, address: str, key: str | None = None) -> None:
        self.http = httpx.Client(base_url=address, headers=bearing(key), trust_env=False, timeout=60)

    def post(self, spine: bytes, asked: dict[str, Any] = ASKED, **headers: str) -> httpx.Response:
        body = json.dumps(asked).encode() + b"\n" + spine
        return self.http.post("/train", content=body, headers={"content-type": TRAIN_TYPE} | headers)

    def begin(self, spine: bytes, asked: dict[str, Any] = ASKED) -> str:
        answer = self.post(spine, asked)
        assert answer.status_code == 202, answer.text
        found: str = answer.json()["id"]
        assert answer.headers["location"] == f"/train/{found}"
        return found

    def state(self, job: str, wait: float = 0) -> dict[str, Any]:
        found = self.http.get(f"/train/{job}", params={"wait": wait})
        assert found.status_code == 200, found.text
        told: dict[str, Any] = found.json()
        return told

    def ended(self, job: str) -> dict[str, Any]:
        """How a job stands once it is done or has failed."""
        return eventually(lambda: (told := self.state(job, 5))["state"] in ("done", "failed") and told, seconds=60)

    def made(self, spine: bytes, asked: dict[str, Any] = ASKED) -> str:
        job = self.begin(spine, asked)
        told = self.ended(job)
        assert told["state"] == "done", told
        return job

    def failed(self, spine: bytes, asked: dict[str, Any] = ASKED) -> dict[str, str]:
        """The error that a job ends with."""
        job = self.begin(spine, asked)
        told = self.ended(job)
        assert told["state"] == "failed", told
        self.drop(job)
        error: dict[str, str] = told["error"]
        return error

    def drop(self, job: str) -> None:
        assert self.http.delete(f"/train/{job}").status_code == 204

"""The process of one job: `python -m feature_server.remote.process <folder>`, started by a feature server's worker.

It waits for its turn, makes the training set as a local call does, and says how it stands in its folder. It is nicer
than the workers, and ends where the job is cancelled.
"""

from __future__ import annotations

import hashlib
import logging
import os
import resource
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ..access.scopes import TRAIN, Grant
from ..definitions.facts import FeatureRef, FeatureView
from ..errors import AccessDenied, Error, FeatureStoreError, OfflineStoreError, TooLarge
from ..protocol import TrainingResult, told_outside
from ..settings import Settings, load_settings
from .jobs import RESULT, Job, TakenIn, ahead_of

if TYPE_CHECKING:
    from ..training.store import FeatureStore

LOOK_SECONDS = 0.2
NICE = 10
log = logging.getLogger("feature_server")
_FAILED = Error("FeatureStoreError", "the feature server failed; its log says why", remedy="report it with the log")


class Told:
    """How a job stands, written to its folder as it goes on, five times a second at most."""

    def __init__(self, job: Job) -> None:
        self._job, self.state, self._written = job, job.stored, 0.0

    def __call__(self, *, now: bool = False, **changed: object) -> None:
        self.state = msgspec.structs.replace(self.state, **changed)
        if now or time.monotonic() > self._written + LOOK_SECONDS:
            self._job.keep(self.state)
            self._written = time.monotonic()


def main() -> None:
    os.nice(NICE)
    warnings.simplefilter("ignore")  # of deprecated views the client warns
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    job = Job(Path(sys.argv[1]))
    threading.Thread(target=_end_when_cancelled, args=(job,), daemon=True).start()
    told, settings, taken_in = Told(job), load_settings(), job.taken_in
    while (ahead := ahead_of(job, taken_in.number)) >= settings.train.jobs:
        told(ahead=ahead, now=ahead != told.state.ahead)
        time.sleep(LOOK_SECONDS)
    told(state="running", ahead=0, now=True)
    started = time.monotonic()
    try:
        result = _make(job, taken_in, settings, told)
    except FeatureStoreError as error:
        log.info("training job %s of %s failed: %s", job.id, taken_in.key or "anybody", error.what)
        told(state="failed", error=Error(**told_outside(error)), now=True)
    except MemoryError:
        too_much = _too_much_memory(settings.train.memory_bytes)
        told(state="failed", error=Error(**told_outside(too_much)), now=True)
    except Exception:  # the edge of the process
        log.exception("training job %s of %s failed", job.id, taken_in.key or "anybody")
        told(state="failed", error=_FAILED, now=True)
    else:
        log.info("training job %s of %s rows=%d bytes=%d seconds=%.2f", job.id, taken_in.key or "anybody", result.rows,
                 result.bytes, time.monotonic() - started)  # fmt: skip
        told(state="done", doing="", result=result, rows=result.rows, all_rows=result.rows, now=True)
    job.clear()


def _make(job: Job, taken_in: TakenIn, settings: Settings, told: Told) -> TrainingResult:
    limits, asked = settings.train, taken_in.asked
    resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes, limits.memory_bytes))
    from ..definitions.deprecation import deprecated_views
    from ..training.store import FeatureStore
    from .received import open_received

    store = FeatureStore(settings.project_dir, memory_limit=f"{limits.memory_bytes // 2000}KB")
    refs = store.registry.resolve(asked.what)
    if taken_in.scopes is not None:
        stored = _published(store, refs, asked.versions)
        Grant(taken_in.scopes, taken_in.groups, store.registry, taken_in.who, stored).check_features(TRAIN, refs)
    if tuple(refs) != taken_in.features:
        raise AccessDenied("the definitions have changed since this was asked for", remedy="ask for it again")
    spine = open_received(job.spine, max_rows=taken_in.max_rows, max_bytes=limits.spine_bytes)
    told(all_rows=spine.rows, now=True)
    made = store.get_historical_features(
        spine, asked.what, as_known=asked.as_known, full_feature_names=asked.full_feature_names,
        event_timestamp=asked.event_timestamp, versions=asked.versions,
        notice=lambda text: told(doing=text, now=True),
    )  # fmt: skip

    def rows(done: int, total: int) -> None:
        size = sum(path.stat().st_size for path in job.folder.glob(f".{RESULT}.*"))
        if size > limits.result_bytes:
            raise TooLarge(
                "the training set is too large", where="result", expected=f"at most {limits.result_bytes:,} bytes",
                got=f"{size:,} bytes or more",
                remedy="ask for parts of it; FEATURES_TRAIN_RESULT_BYTES, where the server runs, allows more",
            )  # fmt: skip
        told(rows=done, doing="", views=0)

    summary = made.write_parquet(job.result, progress=rows, views=lambda done, total: told(views=done, all_views=total))
    job.result.chmod(0o600)
    with job.result.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    views = {ref.view: store.registry.feature_view(ref.view) for ref in refs}
    return TrainingResult(
        bytes=job.result.stat().st_size, sha256=digest, rows=summary.rows, feature_columns=made.feature_columns,
        versions=summary.versions, null_share=summary.null_share, deprecated=deprecated_views(views.values()),
    )  # fmt: skip


def _published(store: FeatureStore, refs: Sequence[FeatureRef], versions: Mapping[str, int]) -> Iterator[FeatureView]:
    """The definitions that the versions which are to be read were published by; what is not published is told later."""
    for view in dict.fromkeys(ref.view for ref in refs):
        with suppress(OfflineStoreError):
            table = store.table(view)
            yield (table.at(versions[view]) if view in versions else table).definition()


def _too_much_memory(limit: int) -> TooLarge:
    return TooLarge(
        "the training set takes too much memory", where="spine", expected=f"at most {limit:,} bytes in all",
        remedy="ask for parts of it; FEATURES_TRAIN_MEMORY_BYTES, where the server runs, allows more",
    )  # fmt: skip


def _end_when_cancelled(job: Job) -> None:
    while not job.is_cancelled:
        time.sleep(LOOK_SECONDS)
    os._exit(0)  # whoever has cancelled it removes the folder, in which nobody writes any more


if __name__ == "__main__":
    main()

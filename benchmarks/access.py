"""Access: what keys and the audit trail add to a read's CPU on the server, for one entity and for a hundred.

The limit is the same server, on the same rows, without any key. All servers run at once and are measured in turn, round
by round, so that what else the machine does is the same for each; the audit trail's thread is the server's CPU too.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from .measure import Numbers, in_child, medians
from .read import ENTITIES, SECONDS, TARGETS_US

ROUNDS = {"tiny": 1, "default": 7, "full": 11}
CONNECTIONS = (16, 1)
SECRET = "0123456789abcdef0123456789abcdef"
MOST = "<= 1.15"  # of the CPU of a read without


def make_key(url: str) -> Numbers:
    """A key that reads everything, among a thousand others; its text."""
    from feature_server.access.keys import KeyRing, create_key
    from feature_server.online.store import OnlineStore

    made = [create_key(owner=f"Team {i}", scopes=("read:view/s",), now_us=time.time_ns() // 1000) for i in range(1000)]
    ring = KeyRing(ring="bench", number=1, keys=tuple(key for key, _ in made))
    with OnlineStore(url) as store:
        store.put_keys(ring.to_json(), keyed=True)
    return {"key": made[500][1]}


def main(arguments: Sequence[str] | None = None) -> int:
    from feature_server.online.embedded import EmbeddedValkey

    from .common import make_case, parser, write_results
    from .data import ViewSize, feature_names, published
    from .servers import Server, our_server

    options = parser(__doc__ or "")
    options.add_argument("--entities", type=int, default=None, help="entities in the store")
    options.add_argument("--seconds", type=float, default=None, help="length of a load on a server")
    chosen = options.parse_args(arguments)
    work, rounds = chosen.work.resolve(), chosen.runs or ROUNDS[chosen.size]
    known, seconds = chosen.entities or ENTITIES[chosen.size], chosen.seconds or SECONDS[chosen.size]
    size = ViewSize(entities=known, history=1, doubles=True)
    common: Numbers = {"features": [f"s:{name}" for name in feature_names("s", size)], "known": known}
    home, folder = str(published(work, ["s"], size, ttl_days=None).home), work / "access"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    trail = {"FEATURES_AUDIT": str(folder / "trail.jsonl")}
    kinds = {
        "keys": {}, "keys, audit": trail,
        "keys, audit with entities": trail | {"FEATURES_AUDIT_KEYS": "env:BENCH_SECRET", "BENCH_SECRET": SECRET},
        "keys, audit, strict": trail | {"FEATURES_AUDIT_STRICT": "1"},
    }  # fmt: skip
    cases = []
    with ExitStack() as stack:
        stores = [stack.enter_context(EmbeddedValkey(folder / name)) for name in ("open", "keyed")]
        for store in stores:
            in_child("benchmarks.read:fill", {"url": store.url, "home": home}, runs=1)
        key = in_child("benchmarks.access:make_key", {"url": stores[1].url}, runs=1)["key"]

        def serve(store: EmbeddedValkey, name: str, env: dict[str, str]) -> Server:
            return stack.enter_context(our_server(store.url, folder / f"{name}.log", env))

        servers = {"": serve(stores[0], "open", {})}
        servers |= {name: serve(stores[1], name, env) for name, env in kinds.items()}
        for entities in TARGETS_US:
            for connections in CONNECTIONS:
                found: dict[str, list[Numbers]] = {name: [] for name in servers}
                for _ in range(rounds):
                    for name, server in servers.items():
                        asked = common | {"entities": entities, "connections": connections, "seconds": seconds}
                        asked |= {"pid": server.pid, "port": server.port, "key": key if name else None}
                        found[name].append(in_child("benchmarks.read:load", asked, runs=1))
                without = medians(found.pop(""))
                for name, numbers in found.items():
                    targets = {"cpu_us/limit": MOST} if name == "keys, audit" else {"cpu_us/limit": "<= 9"}
                    title = f"{name}: {entities} × {len(common['features'])}, {connections} connection"
                    title += "s" if connections > 1 else ""
                    cases.append(make_case(title, ours=medians(numbers), limit=without, targets=targets))
    shutil.rmtree(folder, ignore_errors=True)
    write_results(Path(chosen.out), "Access", cases)
    return 0


if __name__ == "__main__":
    sys.exit(main())

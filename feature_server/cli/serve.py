"""features serve: the feature server."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import FeatureStoreError, OnlineStoreUnavailable, SettingsError
from ..settings import Settings, load_settings
from .main import ProjectDir, app

if TYPE_CHECKING:
    from ..app.supervisor import Served
    from ..offline.owned import Filled

LOOPBACK = "127.0.0.1"


@app.command("serve", epilog="Example: features serve --port 6566 --workers 2")
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = LOOPBACK,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 6566,
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer; about one a core.")] = 1,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Another port, where /metrics, /health and /ready are without a key."),
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="Address to listen on for it.")] = LOOPBACK,
    redis_url: Annotated[
        str | None,
        typer.Option(help="Where features are. [env: FEATURES_REDIS_URL; default: the embedded Valkey]"),
    ] = None,
    project_dir: ProjectDir = None,
) -> None:
    """Serve online features over HTTP, in Feast's protocol, until Ctrl-C or SIGTERM.

    Also /health, /ready, /metrics (Prometheus), /openapi.json, and the registry as pages on /.
    """
    import logging

    from ..access.audit import read_secret
    from ..access.trail import check_target
    from ..app.sites import create_sites
    from ..app.supervisor import Served, Supervisor, listen
    from ..offline.owned import filled_by
    from ..online.address import parse_redis_url
    from ..online.embedded import connect

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    settings = load_settings(redis_url=redis_url, project_dir=project_dir)
    check_target(settings.audit)
    secret = read_secret(settings.audit, settings.environ)
    filled = filled_by(settings)
    if settings.redis_url is not None:
        parse_redis_url(settings.redis_url)
    places = [(host, port)] if metrics_port is None else [(host, port), (metrics_host, metrics_port)]
    if metrics_port == port != 0:
        raise SettingsError(
            "metrics are not on a port of their own", where="--metrics-port", got=str(port),
            expected="another than --port", remedy="leave it out: --port has /metrics too, with a key",
        )  # fmt: skip
    listeners = [listen(*place) for place in places]
    bound = [listener.getsockname()[:2] for listener in listeners]
    sites = [create_sites(at, name, settings.allowed_hosts) for (name, _), (at, _) in zip(places, bound, strict=True)]
    addresses = [
        f"http://{name if ':' not in name else f'[{name}]'}:{number}"
        for (name, _), (_, number) in zip(places, bound, strict=True)
    ]
    with connect(settings) as url:
        keyed = _keyed(settings, url, filled)
        sites[0].check_keyed(keyed, host)
        served = Served(
            redis_url=url, settings=settings, sites=sites[0], watched=sites[1] if sites[1:] else None,
            keyed=bool(keyed), audit_secret=None if secret is None else secret.hex(),
        )  # fmt: skip
        announce = partial(_announce, served, addresses, workers, keyed=keyed)
        Supervisor(listeners, served, workers=workers).run(announce)


def _keyed(settings: Settings, url: str, filled: Filled | None) -> bool | None:
    """Whether there are keys of access, None while Redis does not answer; refuses a Redis that is not to be served."""
    from ..access.file import keys_in_force
    from ..online.memory import check_memory
    from ..online.store import OnlineStore, check_filled, once_more

    with suppress(OnlineStoreUnavailable), OnlineStore(url, timeout_seconds=1) as store:
        check_memory(store, allowed=settings.allow_eviction)
        if filled is not None:
            check_filled(once_more(store.registry), filled.owner, filled.adopted)
        return bool(keys_in_force(settings.keys_path, store).keys)
    return None


def _announce(served: Served, addresses: Sequence[str], workers: int, *, keyed: bool | None) -> None:
    """What is told once all workers answer: warnings, the address, and a request to begin with."""
    import json

    from ..app.describe import example_request
    from ..app.sites import OPEN
    from ..online.address import parse_redis_url
    from ..online.store import OnlineStore

    settings = served.settings
    if settings.clock is not None:
        _warn(f"the clock is stopped at {settings.clock.isoformat()} by FEATURES_CLOCK")
    if keyed is False and settings.oidc is None:
        _warn(OPEN)
    if served.watched is not None and served.watched.beyond_loopback:
        _warn(f"other machines read {addresses[1]}/metrics without a key")
    online = None
    with suppress(FeatureStoreError), OnlineStore(served.redis_url, timeout_seconds=1) as store:
        online = store.registry()
    example = json.dumps(example_request(online), ensure_ascii=False)
    told = settings.audit.to_stdout  # which has lines of the audit trail alone
    shown = parse_redis_url(served.redis_url).shown
    typer.echo(f"serving features on {addresses[0]} workers={workers} redis={shown}", err=told)
    if served.watched is not None:
        typer.echo(f"metrics, without a key, on {addresses[1]}/metrics", err=told)
    typer.echo(f"try: curl {addresses[0]}/get-online-features -d '{example}'", err=told)


def _warn(what: str) -> None:
    typer.secho(f"WARNING: {what}", fg="yellow", err=True)

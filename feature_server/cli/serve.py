"""`features serve`."""

from contextlib import suppress
from typing import Annotated

import typer

from ..settings import load_settings
from .common import app


@app.command("serve", epilog="Example: features serve --port 6566 --workers 2")
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 6566,
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer; about one a core.")] = 1,
    redis_url: Annotated[
        str | None,
        typer.Option(help="Where features are. [env: FEATURES_REDIS_URL; default: the embedded Valkey]"),
    ] = None,
) -> None:
    """Serve online features over HTTP, in Feast's protocol, until Ctrl-C or SIGTERM.

    Also /health, /ready, /metrics (Prometheus), /openapi.json, and the registry as pages on /.
    """
    import json
    import logging

    from ..app.access import create_access
    from ..app.supervisor import Served, Supervisor, listen
    from ..online.address import parse_redis_url
    from ..online.embedded import connect

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    settings = load_settings(redis_url=redis_url)
    if settings.redis_url is not None:
        parse_redis_url(settings.redis_url)
    listener = listen(host, port)
    access = create_access(listener.getsockname()[0], host, settings.allowed_hosts)
    address = f"http://{host if ':' not in host else f'[{host}]'}:{listener.getsockname()[1]}"
    with connect(settings) as url:

        def announce() -> None:
            if settings.clock is not None:
                stopped = f"WARNING: the clock is stopped at {settings.clock.isoformat()} by FEATURES_CLOCK"
                typer.secho(stopped, fg="yellow", err=True)
            if warning := access.warning(host):
                typer.secho(warning, fg="yellow", err=True)
            example = json.dumps(_example(url))
            typer.echo(f"serving features on {address} workers={workers} redis={parse_redis_url(url).shown}")
            typer.echo(f"try: curl {address}/get-online-features -d '{example}'")

        served = Served(redis_url=url, settings=settings, access=access)
        Supervisor(listener, served, workers=workers).run(announce)


def _example(url: str) -> dict[str, object]:
    """A request that the definitions now online can answer."""
    from ..app.describe import example_request
    from ..definitions.registry import Registry
    from ..errors import FeatureStoreError
    from ..online.registry import OnlineRegistry
    from ..online.store import OnlineStore

    online = None
    with suppress(FeatureStoreError), OnlineStore(url, timeout_seconds=1) as store:
        online = store.registry()
    return example_request(online or OnlineRegistry(registry=Registry(project="")))

"""features redis-acl: what users of Redis may do."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import SettingsError
from ..settings import load_settings
from .main import ProjectDir, app


@app.command("redis-acl", epilog="Example: features redis-acl reader pusher --user features-server")
def redis_acl(
    roles: Annotated[
        list[str],
        typer.Argument(
            metavar="ROLE...",
            help="reader, or reader-pii, for servers and clients that read; pusher for those that push; syncer for "
            "sync, stream, verify, status and keys. Several for one user.",
        ),
    ],
    user: Annotated[str | None, typer.Option(help="The user's name; by default that of the roles.")] = None,
    project_dir: ProjectDir = None,
) -> None:
    """Print the command that gives a Redis user the rights of roles, for the store of FEATURES_REDIS_URL.

    It asks Redis nothing. The user cannot sign in until you add a password: `>PASSWORD` behind the rules.
    """
    from ..layout.rights import acl_rules
    from ..online.address import parse_redis_url

    url = load_settings(project_dir=project_dir).redis_url
    if url is None:
        raise SettingsError(
            "there is no Redis whose users could have rights: each command uses the project's own Valkey",
            where="FEATURES_REDIS_URL", expected="the URL of a server",
        )  # fmt: skip
    address = parse_redis_url(url)
    rules = acl_rules(roles, address.names, select=address.db != 0)
    name = user or "-".join(["features", *roles])
    typer.echo(f"ACL SETUSER {name} {rules}")

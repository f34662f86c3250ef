"""features keys: who may read and push what through feature servers."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from ..errors import FeatureStoreError, OnlineStoreError, OnlineStoreUnavailable, RequestError
from ..settings import Settings
from .main import Json, ProjectDir, app, in_force, online_store, show

if TYPE_CHECKING:
    from ..access.keys import Key, KeyRing
    from ..definitions.registry import Registry

keys = typer.Typer(name="keys", help="Keys of access: who may read and push what.", no_args_is_help=True)
app.add_typer(keys)
KeyId = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `features keys list` shows it.")]


@keys.command(epilog='Example: features keys create --owner "Fraud model" --scope read:fraud_v1 --expires 90d')
def create(
    owner: Annotated[str, typer.Option(help="Who has it, as lists and errors name them.")],
    scope: Annotated[
        list[str],
        typer.Option(
            help="What it may do: read:NAME, explain:NAME, train:NAME, pii:NAME of a service, view or group, "
            "push:SOURCE, metrics, admin; * for all names. Repeatable."
        ),
    ],
    group: Annotated[
        str | None, typer.Option(help="The dbt group it belongs to: reads that group's private views.")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="How long it opens anything, e.g. 90d; for ever without.")] = None,
    max_rows: Annotated[
        int | None, typer.Option(min=1, help="Most rows of a training set; by default FEATURES_TRAIN_ROWS.")
    ] = None,
    oidc_group: Annotated[
        str | None,
        typer.Option(help="Make no text: who shows a token of this group of the identity provider has the key."),
    ] = None,
    project_dir: ProjectDir = None,
    json: Json = False,
) -> None:
    """Make a key. Its text is shown this once, and kept nowhere; or one that tokens of a group have."""
    from ..access.audit import command_entry
    from ..access.file import change_keys
    from ..access.keys import create_key, for_tokens
    from ..access.scopes import parse_scope
    from ..access.trail import audited

    settings, registry = in_force(project_dir)
    if not (owner := owner.strip()):
        raise RequestError("the key has no owner", where="--owner", expected="who has it", got="nothing")
    scopes = tuple(dict.fromkeys(parse_scope(text, registry) for text in scope))
    now_us = _now_us()
    expires_us = None if expires is None else now_us + _duration_us(expires, "--expires")
    key, text = create_key(
        owner=owner, group=_group(group, registry), scopes=scopes, now_us=now_us, expires_us=expires_us,
        max_rows=max_rows,
    )  # fmt: skip
    if oidc_group is not None:
        if not (oidc_group := oidc_group.strip()):
            raise RequestError("the group has no name", where="--oidc-group", expected="what the claim of tokens holds")
        key = for_tokens(key, oidc_group)
    _take_later(settings)
    with audited(settings, command_entry("key.create", changed=(key.id,), owner=owner, scopes=scopes)):
        change_keys(settings.keys_path, lambda ring: ring.added(key))
    _tell_made(key, text, json=json)
    _copy(settings)


@keys.command("list", epilog="Example: features keys list")
def list_keys(project_dir: ProjectDir = None, json: Json = False) -> None:
    """All keys that were ever made, with whose they are and what they may do."""
    settings, _ = in_force(project_dir)
    found = _ring(settings)
    width = max((len(key.owner) for key in found), default=0)
    lines = [_line(key, width) for key in found]
    show({"keys": list(map(_shown, found))}, lines or ["no key was made yet: `features keys create`"], json=json)


@keys.command(epilog="Example: features keys revoke 1f2e3d4c")
def revoke(key_id: KeyId, project_dir: ProjectDir = None, json: Json = False) -> None:
    """Have a key open nothing any more: all servers refuse it within a second."""
    from ..access.audit import command_entry
    from ..access.file import change_keys
    from ..access.trail import audited

    settings, _ = in_force(project_dir)
    _take_later(settings)
    owner = _ring(settings).key(key_id).owner  # else a file would be made
    with audited(settings, command_entry("key.revoke", changed=(key_id,), owner=owner)):
        ring = change_keys(settings.keys_path, lambda ring: ring.revoked(key_id, _now_us()))
    _copy(settings)
    show(_shown(ring.key(key_id)), [f"revoked {key_id}"], json=json)


@keys.command(epilog="Example: features keys rotate 1f2e3d4c --grace 1d")
def rotate(
    key_id: KeyId,
    grace: Annotated[str, typer.Option(help="How long the old one still opens what it did; 0 for not at all.")] = "1h",
    project_dir: ProjectDir = None,
    json: Json = False,
) -> None:
    """Make a key in the place of another: same owner, group, scopes, limits and length of life."""
    from ..access.audit import command_entry
    from ..access.file import change_keys
    from ..access.keys import rotate_key
    from ..access.trail import audited

    settings, _ = in_force(project_dir)
    now_us = _now_us()
    until_us = now_us if grace == "0" else now_us + _duration_us(grace, "--grace")
    _take_later(settings)
    _ring(settings).key(key_id)
    made: list[tuple[Key, str]] = []

    def change(ring: KeyRing) -> KeyRing:
        made[:] = [rotate_key(ring.key(key_id), now_us=now_us)]
        new = made[0][0]
        rotated = ring.rotated(key_id, new, until_us)
        entry = command_entry("key.rotate", changed=(key_id, new.id), owner=new.owner, scopes=new.scopes)
        telling.enter_context(audited(settings, entry))
        return rotated

    with ExitStack() as telling:
        change_keys(settings.keys_path, change)
    _tell_made(*made[0], json=json)
    _copy(settings)


@keys.command(epilog="Example: features keys reset --yes")
def reset(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    project_dir: ProjectDir = None,
) -> None:
    """Forget all keys: who is on a server's machine may read and push again, and nobody from elsewhere."""
    from ..access.audit import command_entry
    from ..access.file import change_keys
    from ..access.keys import KeyRing
    from ..access.trail import audited

    settings, _ = in_force(project_dir)
    if not yes:
        typer.confirm("Forget all keys? Servers on loopback then answer everybody on their machine", abort=True)
    _take_later(settings)
    with audited(settings, command_entry("key.reset", changed=tuple(key.id for key in _ring(settings)))):
        change_keys(settings.keys_path, lambda ring: KeyRing())
    _copy(settings)
    typer.echo("no keys are left")


def _ring(settings: Settings) -> KeyRing:
    from ..access.file import read_keys
    from ..access.keys import KeyRing

    return read_keys(settings.keys_path) or KeyRing()


def _take_later(settings: Settings) -> None:
    """Begin with what another home of the project has changed, where Redis answers."""
    from ..access.file import copy_keys

    with suppress(OnlineStoreUnavailable), online_store(settings) as online:
        copy_keys(settings.keys_path, online)


def _copy(settings: Settings) -> None:
    """Bring the keys to the servers, which go by Redis' copy of the file."""
    from ..access.file import copy_keys

    try:
        with online_store(settings) as online:
            copy_keys(settings.keys_path, online)
    except OnlineStoreError as error:
        raise FeatureStoreError(
            "the list of keys is changed, but servers do not know it yet", where=str(settings.keys_path),
            got=str(error), remedy="run `features sync` once Redis answers: it brings them the keys",
        ) from None  # fmt: skip


def _tell_made(key: Key, text: str, *, json: bool) -> None:
    if key.oidc_group is not None:
        show(_shown(key), [_line(key, len(key.owner))], json=json)
        return
    about = f"key {key.id} of {key.owner}: {' '.join(key.scopes)}{_until(key)}; its text is shown this once"
    show({"key": text} | _shown(key), [text], json=json)
    if not json:
        typer.echo(about, err=True)


def _line(key: Key, width: int) -> str:
    whose = "" if key.oidc_group is None else f"  for tokens of {key.oidc_group}"
    return f"{key.id}  {_state(key):<8}  {key.owner:<{width}}  {' '.join(key.scopes)}{_until(key)}{whose}"


def _shown(key: Key) -> dict[str, Any]:
    """A key without its hash, its times as ISO."""
    fields = msgspec.to_builtins(key)
    fields.pop("sha256", None)
    times = {name.removesuffix("_us"): _iso(fields.pop(name)) for name in list(fields) if name.endswith("_us")}
    return fields | times | {"state": _state(key)}


def _state(key: Key) -> str:
    return key.state(_now_us())


def _until(key: Key) -> str:
    return "" if key.expires_us is None else f"  until {_iso(key.expires_us)}"


def _iso(us: int) -> str:
    from ..times import from_us

    return from_us(us).strftime("%Y-%m-%dT%H:%M:%SZ")


def _group(name: str | None, registry: Registry) -> str | None:
    from ..errors import UnknownNameError

    known = {view.owner.group for view in registry.feature_views if view.owner and view.owner.group}
    if name is not None and name not in known:
        raise UnknownNameError("group", name, known, where="--group")
    return name


def _duration_us(text: str, option: str) -> int:
    from ..definitions.facts import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise RequestError(str(error), where=option) from None


def _now_us() -> int:
    """The real time: a clock that is stopped for an example opens nothing."""
    return time.time_ns() // 1000

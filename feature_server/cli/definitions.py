"""features check, plan, apply: dbt's manifest, the registry it makes, and putting that in force."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, NoReturn

import msgspec
import typer

from ..errors import DefinitionError
from ..settings import Settings, load_settings
from .main import Json, ProjectDir, TargetPath, app, show

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ..access.scopes import Loss
    from ..dbt.artifacts import Manifest
    from ..definitions.changes import Change
    from ..definitions.registry import Registry
    from ..errors import Problem
    from ..meaning.explained import MeaningChange

APPLY = "`features plan` shows what differs, `features apply` puts it in force"
WAITING = "what is published of it is by the definition before; `features rebuild` makes it anew"
TAKE_OUT = "it keeps what was published of it until `features apply` takes it out"
LOST = "there is no registry to read in {}; batch views are compared with what was published of them"
BEGIN = "no feature views yet: `features new view` writes one from a relation that dbt has built"
STANDS = "those in force stand: views whose SQL is not what is in force are held back"
NoParse = Annotated[
    bool, typer.Option("--no-parse", help="Read manifest.json as it is instead of having dbt write it first.")
]


@app.command(epilog="Example: features check --project-dir my_dbt_project")
def check(
    project_dir: ProjectDir = None, target_path: TargetPath = None, no_parse: NoParse = False, json: Json = False
) -> None:
    """Check every definition of the dbt project and print every mistake; exit code 1 when there is one.

    Warnings, of what is right but may surprise, go to standard error.
    """
    from ..definitions.bound import bound_views
    from ..manifest.schedule import note_schedule
    from ..meaning.tokens import write_definitions

    warnings: list[Problem] = []
    settings, in_force, registry = described(project_dir, target_path, no_parse, json, warnings)
    if in_force is not None and registry.models:
        write_definitions(settings.definitions_path, registry)
    note_schedule(settings, registry)
    value = {"problems": [], "warnings": warnings, "project": registry.project} | _counts(registry)
    together = bound_views(registry.feature_views, registry.feature_services)
    begin = [] if registry.feature_views else [BEGIN]
    lines = [f"{registry.project}: {_summary(registry)}; no problems", *_together(together), *begin]
    show(value | ({"together": together} if together else {}), lines, json=json)


@app.command(name="plan", epilog="Example: features plan")
def plan_command(
    project_dir: ProjectDir = None, target_path: TargetPath = None, no_parse: NoParse = False, json: Json = False
) -> None:
    """Show what `features apply` would change in the registry in force.

    Of a view whose SQL means something else: which model, seed, macro, variable or package it is, the lines of the SQL
    that differ, the services that read the view, and what will be built anew.
    """
    from ..definitions.bound import bound_views
    from ..definitions.changes import plan
    from ..offline.owned import read_in_force

    settings, in_force, registry = described(project_dir, target_path, no_parse, json)
    if settings.registry_path.exists():
        in_force = read_in_force(settings)
    changes = plan(in_force, registry)
    meanings, told = _meanings(settings, in_force, registry)
    value = [msgspec.to_builtins(found) | {"effect": told[found.view]} for found in meanings]
    together = bound_views(registry.feature_views, registry.feature_services)
    losing = _losses(settings, in_force, registry)
    lines = [*_lines(changes, meanings, told), *_together(together), *map(str, losing)]
    found = {"changes": changes, "meanings": value, "together": together}
    show(found | ({"losses": losing} if losing else {}), lines, json=json)


@app.command(epilog="Example: features compare --refresh hourly")
def compare(
    project_dir: ProjectDir = None,
    target_path: TargetPath = None,
    no_parse: NoParse = False,
    refresh: Annotated[str | None, typer.Option(help="Only views of this cadence.", metavar="CADENCE")] = None,
    json: Json = False,
) -> None:
    """Say which views the project defines otherwise than is in force, for a schedule to leave as they are.

    Changes nothing. It also says which wait for `features rebuild`. With --json, on one line, also the models under
    both that are not to be built. Mistakes in the definitions are warnings: what is in force goes on without them.
    """
    from ..definitions.held import held_back
    from ..offline.owned import read_in_force
    from ..publish.rebuild import waiting_views

    settings, _, registry = described(project_dir, target_path, no_parse, json, go_on=True)
    in_force = read_in_force(settings)
    held, waiting = held_back(in_force, registry), waiting_views(in_force, settings)
    chosen = {view.id for view in (*registry.feature_views, *in_force.feature_views) if refresh in (None, view.refresh)}
    held = msgspec.structs.replace(
        held,
        views={name: why for name, why in held.views.items() if name in chosen},
        gone=tuple(name for name in held.gone if name in chosen),
    )
    apart = {*held.views, *held.gone}
    waiting = {name: models for name, models in waiting.items() if name in chosen and name not in apart}
    for name, why in held.views.items():
        typer.echo(f"held back {name}: {why}; {APPLY}", err=json)
    for name in held.gone:
        typer.echo(f"gone {name}: it is in force, but the project has it no more; {TAKE_OUT}", err=json)
    for name in waiting:
        typer.echo(f"waiting {name}: {WAITING}", err=json)
    if json:
        typer.echo(msgspec.json.encode(msgspec.structs.asdict(held) | {"waiting": waiting}).decode())
    elif not apart:
        typer.echo("the project is what is in force")


@app.command(
    epilog="Example: features apply --same-meaning airport__weather --reason 'the same rows, read by another join'"
)
def apply(
    project_dir: ProjectDir = None,
    target_path: TargetPath = None,
    no_parse: NoParse = False,
    same_meaning: Annotated[
        list[str] | None,
        typer.Option(metavar="VIEW", help="A view whose new SQL means the same: nothing is built anew. Repeatable."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why it means the same; kept in the registry.")] = "",
    adopt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PROJECT.TARGET", help="An earlier name of this target, whose stores it takes over. Repeatable."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Check the definitions and put them in force: write the registry that every other command reads."""
    from ..access.audit import command_entry
    from ..access.trail import audited
    from ..dbt.build import check_target
    from ..definitions.changes import plan
    from ..definitions.owner import check_folder
    from ..definitions.registry import write_registry
    from ..durable import changing, make_private
    from ..manifest.schedule import note_schedule
    from ..meaning.settled import accept, settle
    from ..meaning.tokens import write_definitions
    from ..offline.owned import OFFLINE

    if bool(same_meaning) != bool(reason.strip()):
        raise typer.BadParameter("--same-meaning VIEW and --reason TEXT are given together")
    settings, in_force, registry = described(project_dir, target_path, no_parse, json, adopt=adopt or ())
    check_folder(settings.offline, registry.owner, registry.adopted, OFFLINE)
    check_target(registry.feature_views, settings)
    accepted = accept(in_force, registry, same_meaning or (), reason.strip(), settings.now_us())
    registry = settle(in_force, registry, accepted)
    changes, (meanings, told) = plan(in_force, registry), _meanings(settings, in_force, registry)
    losing = _losses(settings, in_force, registry)
    make_private(settings.home)
    note_schedule(settings, registry)  # before the registry: of a view that it alone has, no run knows the tests
    changed = tuple(f"{one.action} {one.kind} {one.name}" for one in changes)
    entry = command_entry("apply", changed=changed, registry=registry, before=in_force)
    with audited(settings, entry), changing(settings.registry_path):
        if registry.models:
            write_definitions(settings.definitions_path, registry)
        write_registry(settings.registry_path, registry)
    value = {"changes": changes, "same_meanings": accepted, "registry": str(settings.registry_path)}
    value |= {"losses": losing} if losing else {}
    lines = [
        *_lines(changes, meanings, told),
        *map(str, losing),
        *(f"{one.view} means the same: {one.reason}" for one in accepted),
    ]
    in_force_now = f"in force: {_summary(registry)} ({settings.registry_path})"
    show(value | _counts(registry), [*lines, in_force_now], json=json)


def described(
    project_dir: ProjectDir,
    target_path: TargetPath,
    no_parse: bool,
    json: bool,
    warnings: list[Problem] | None = None,
    adopt: Sequence[str] = (),
    go_on: bool = False,
) -> tuple[Settings, Registry | None, Registry]:
    """The registry in force, and the one that the project describes; prints every problem and exits when there are any.

    Where the one in force is lost, what is published stands for it. Warnings are printed, and added to `warnings`. With
    `go_on` the definitions in force stand, over the project's SQL, for those that are not fit.
    """
    from ..dbt.compiled import checked_folder, keep_parsed, parsing, read_compiled
    from ..dbt.rendered import rendered_by_dbt
    from ..dbt.session import check_session
    from ..definitions.registry import replaced_registry
    from ..kept import Kept
    from ..lint.run import problems
    from ..manifest.load import load_registry, over_sql
    from ..meaning.settled import settle
    from ..offline.owned import of_target

    settings = load_settings(project_dir=project_dir, target_path=target_path)
    in_force = replaced_registry(settings.registry_path)
    warnings = [] if warnings is None else warnings
    kept = Kept(None if no_parse else checked_folder(settings.target_path) / "kept.json")
    with ExitStack() as stack:
        if no_parse:
            needed = bool(in_force and in_force.models)
            parsed = read_compiled(settings, needed=needed)
        else:
            parsed = stack.enter_context(parsing(settings))
            check_session(settings, manifest=parsed.manifest, kept=kept)
        found = problems(settings.project_dir, warnings.append, _views_of(parsed.manifest), rendered_by_dbt(parsed))
        try:
            registry = load_registry(
                settings.project_dir, settings.target_path, warnings.append, parsed, settings.attached, kept
            )
        except DefinitionError as error:
            found = [*error.problems, *found]
        if not found:
            if not no_parse:
                keep_parsed(settings, parsed)
        elif go_on and in_force is not None and parsed.compiled is not None:
            _warn_unfit(found)
            registry = over_sql(in_force, settings.project_dir, parsed.whole, parsed.compiled)
        else:
            _refuse(found, json)
        for warning in warnings:
            typer.echo(f"warning: {warning}", err=True)
        registry = of_target(settings, in_force, registry, adopt)
        if in_force is None and (in_force := _restored(settings, registry)) is not None:
            typer.echo(f"note: {LOST.format(settings.registry_path)}", err=True)
        registry = settle(in_force, registry, kept=kept)
        kept.write()
        return settings, in_force, registry


def _views_of(manifest: Manifest) -> dict[str, str]:
    """The views that dbt has, by the names of their files without an ending, with the files."""
    files = [node.original_file_path for node in manifest.models() if "feature_view" in node.meta]
    return {PurePath(file).stem: file for file in files}


def _refuse(problems: Sequence[Problem], json: bool) -> NoReturn:
    count = f"{len(problems)} problem{'s' * (len(problems) != 1)}"
    show({"problems": problems}, [*(f"{problem}\n" for problem in problems), count], json=json)
    raise typer.Exit(1)


def _warn_unfit(problems: Sequence[Problem]) -> None:
    for problem in problems:
        typer.echo(f"warning: {problem}", err=True)
    typer.echo(f"warning: the project's definitions are not fit, so {STANDS}", err=True)


def _restored(settings: Settings, registry: Registry) -> Registry | None:
    """What was published, where the registry in force is lost."""
    if not settings.offline.is_dir():
        return None
    from ..offline.store import OfflineStore
    from ..publish.restored import restored

    return restored(registry.project, OfflineStore(settings.offline))


def _meanings(
    settings: Settings, in_force: Registry | None, registry: Registry
) -> tuple[Sequence[MeaningChange], dict[str, str]]:
    """What of a registry means something else than what is in force, and by view what follows when it is applied."""
    from ..meaning.explained import changes_of_meaning

    found = () if in_force is None else changes_of_meaning(in_force, registry)
    return found, {change.view: _effect(settings, registry, change) for change in found}


def _losses(settings: Settings, in_force: Registry | None, registry: Registry) -> Sequence[Loss]:
    """Which keys may not read or train with what becomes pii."""
    from ..access.file import read_keys
    from ..access.scopes import losses
    from ..definitions.changes import becoming_pii

    becoming = becoming_pii(in_force, registry)
    if in_force is None or not becoming:
        return ()
    return losses(read_keys(settings.keys_path) or (), becoming, in_force, registry, now_us=time.time_ns() // 1000)


def _effect(settings: Settings, registry: Registry, found: MeaningChange) -> str:
    """What follows when a view that means something else is applied."""
    from ..dbt.build import builds_by_definition
    from ..offline.store import OfflineStore
    from ..publish.built import models_of

    view, store = registry.feature_view(found.view), OfflineStore(settings.offline)
    if view.stream is not None:
        return "reads reckon by the new SQL once it is synced; the next `dbt build` makes its table anew"
    rows = f"{store.table(found.view).rows:,} rows are" if store.exists(found.view) else "nothing is published: it is"
    model = view.name if view.version is None else f"{view.name}.v{view.version}"
    under = models_of(view, {model.unique_id: model for model in registry.models})
    appended = any(model.settings.get("materialized") == "incremental" for model in under)
    plain = not appended or builds_by_definition(registry.project, settings.target_path)
    whole = "" if plain else "--full-refresh "
    return f"{rows} to be built anew (dbt build {whole}--select +{model}), published and synced whole"


def _lines(changes: Sequence[Change], meanings: Sequence[MeaningChange], told: Mapping[str, str]) -> Iterator[str]:
    signs = {"added": "+", "removed": "-", "changed": "~"}
    changed = {found.view: found for found in meanings}
    for change in changes:
        note = "  [new rows online at the next sync]" if change.new_rows else ""
        yield f"{signs[change.action]} {change.kind} {change.name}{note}"
        yield from (f"    {detail}" for detail in change.details)
        if change.kind == "feature_view" and (found := changed.get(change.name)) is not None:
            for model in found.models:
                yield f"    {model.model}: {', '.join(model.why)}"
                yield from (f"        {line}" for line in model.diff)
            yield f"    read by {', '.join(found.services) or 'no service'}"
            yield f"    {told[found.view]}"
    if not changes:
        yield "no changes"


def _together(groups: Sequence[Sequence[str]]) -> Iterator[str]:
    for group in groups:
        yield f"published all of one run, or none: {', '.join(group)}"


def _counts(registry: Registry) -> dict[str, int]:
    return {
        "entities": len(registry.entities),
        **({"event_sources": len(registry.sources)} if registry.sources else {}),
        "feature_views": len(registry.feature_views),
        "features": sum(len(view.features) for view in registry.feature_views),
        "feature_services": len(registry.feature_services),
    }


def _summary(registry: Registry) -> str:
    one = {"entities": "entity"}  # the others lose their s
    named = ((name if count != 1 else one.get(name, name[:-1]), count) for name, count in _counts(registry).items())
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in named)

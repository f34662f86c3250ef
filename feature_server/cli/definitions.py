"""features check, plan, apply: dbt's manifest, the registry it makes, and putting that in force."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import DefinitionError
from ..settings import Settings, load_settings
from .main import Json, ProjectDir, TargetPath, app, show

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..definitions.changes import Change
    from ..definitions.registry import Registry
    from ..errors import Problem

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
    warnings: list[Problem] = []
    _, registry = _project(project_dir, target_path, no_parse, json, warnings)
    value = {"problems": [], "warnings": warnings, "project": registry.project} | _counts(registry)
    show(value, [f"{registry.project}: {_summary(registry)}; no problems"], json=json)


@app.command(name="plan", epilog="Example: features plan")
def plan_command(
    project_dir: ProjectDir = None, target_path: TargetPath = None, no_parse: NoParse = False, json: Json = False
) -> None:
    """Show what `features apply` would change in the registry in force."""
    from ..definitions.changes import plan
    from ..definitions.registry import read_registry

    settings, registry = _project(project_dir, target_path, no_parse, json)
    in_force = read_registry(settings.registry_path) if settings.registry_path.exists() else None
    changes = plan(in_force, registry)
    show({"changes": changes}, _lines(changes), json=json)


@app.command(epilog="Example: features apply --no-parse --json")
def apply(
    project_dir: ProjectDir = None, target_path: TargetPath = None, no_parse: NoParse = False, json: Json = False
) -> None:
    """Check the definitions and put them in force: write the registry that every other command reads."""
    from ..dbt.build import check_target
    from ..definitions.changes import plan
    from ..definitions.registry import replaced_registry, write_registry

    settings, registry = _project(project_dir, target_path, no_parse, json)
    check_target(registry.feature_views, settings)
    changes = plan(replaced_registry(settings.registry_path), registry)
    write_registry(settings.registry_path, registry)
    value = {"changes": changes, "registry": str(settings.registry_path)} | _counts(registry)
    in_force = f"in force: {_summary(registry)} ({settings.registry_path})"
    show(value, [*_lines(changes), in_force], json=json)


def _project(
    project_dir: ProjectDir,
    target_path: TargetPath,
    no_parse: bool,
    json: bool,
    warnings: list[Problem] | None = None,
) -> tuple[Settings, Registry]:
    """The registry that the project describes; prints every problem and exits when there are any.

    Warnings are printed, and added to `warnings`.
    """
    from ..dbt.parse import dbt_manifest
    from ..dbt.session import check_session
    from ..manifest.load import load_registry

    settings = load_settings(project_dir=project_dir, target_path=target_path)
    if not no_parse:
        dbt_manifest(settings.project_dir, settings.target_path)
        check_session(settings)
    warnings = [] if warnings is None else warnings
    try:
        registry = load_registry(settings.project_dir, settings.target_path, warnings.append)
        for warning in warnings:
            typer.echo(f"warning: {warning}", err=True)
        return settings, registry
    except DefinitionError as error:
        count = f"{len(error.problems)} problem{'s' * (len(error.problems) != 1)}"
        show({"problems": error.problems}, [*(f"{problem}\n" for problem in error.problems), count], json=json)
        raise typer.Exit(1) from None


def _lines(changes: Sequence[Change]) -> Iterator[str]:
    signs = {"added": "+", "removed": "-", "changed": "~"}
    for change in changes:
        note = "  [new rows online at the next sync]" if change.new_rows else ""
        yield f"{signs[change.action]} {change.kind} {change.name}{note}"
        yield from (f"    {detail}" for detail in change.details)
    if not changes:
        yield "no changes"


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

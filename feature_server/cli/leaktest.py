"""features leaktest: what a build knew that it could not have known."""

from __future__ import annotations

from typing import Annotated

import typer

from .main import Json, ProjectDir, app, progress_bar, show

UNTESTABLE = 4  # exit code: nothing differs, but not every view could be compared


@app.command(epilog="Example: features leaktest customer__profile --pairs 3")
def leaktest(
    views: Annotated[list[str] | None, typer.Argument(help="Views, or other models. [default: every view]")] = None,
    as_of: Annotated[
        list[str] | None, typer.Option(help="The first instant; several for several pairs. [default: by landed rows]")
    ] = None,
    then: Annotated[
        str | None, typer.Option(help="The later instant. [default: the project's as_of, else the newest landing]")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, max=100, help="How many first instants to choose.")] = 1,
    landed: Annotated[
        list[str] | None,
        typer.Option(help="When a source's rows landed: COLUMN of all that have it, or source.table=COLUMN."),
    ] = None,
    known_at: Annotated[
        str | None, typer.Option(help="Column that says when a row was known. [default: by the view's YAML]")
    ] = None,
    keys: Annotated[
        str | None, typer.Option(help="Columns that tell rows apart, with commas. [default: by YAML, else by tests]")
    ] = None,
    variables: Annotated[
        str | None, typer.Option("--vars", help="dbt's variables, as YAML or JSON; as_of is each build's own.")
    ] = None,
    project_dir: ProjectDir = None,
    json: Json = False,
) -> None:
    """Build views as of two instants in scratch files, and tell what of the rows known by the first is not the same.

    Each build has the source rows that had landed by its instant. What differs is hindsight, or by chance. Exit code 1
    when something differs, 4 when nothing does but some view could not be tested, or had no rows to compare.
    """
    from ..leaktest.run import leaktest as run
    from ..leaktest.told import lines
    from ..settings import load_settings

    settings, told = load_settings(project_dir=project_dir), [name.strip() for name in (keys or "").split(",")]
    with progress_bar("building as of each instant"):
        found = run(
            settings, views or (), first=as_of or (), later=then, pairs=pairs, known_at=known_at,
            keys=[name for name in told if name], landed=landed or (), variables=variables,
        )  # fmt: skip
    show(found, lines(found), json=json, good=not found.leaks)
    if not found.clean:
        raise typer.Exit(UNTESTABLE)

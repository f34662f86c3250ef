"""features init: what a project needs to begin."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from .main import Json, ProjectDir, app, show

NEXT = (
    "next: `features new view NAME --from 'ref(MODEL)' --entity NAME --key COLUMN --time COLUMN`, then `features run`"
)


@app.command(epilog="Example: features init --dry-run")
def init(
    name: Annotated[
        str | None, typer.Argument(help="A new project in a folder of this name, with data. Without: the one here.")
    ] = None,
    project_dir: ProjectDir = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be written, as a diff.")] = False,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Replace the project's copy of the dbt package by this version's.")
    ] = False,
    json: Json = False,
) -> None:
    """Give a dbt project what feature views need: the dbt package, its hooks, the variable as_of, a group, UTC.

    Writes what is missing and nothing over what is there; run again, it changes nothing. With NAME it makes a new
    project with a month of orders, a batch view, a stream view and a service.
    """
    from ..project.process import install_packages, saying
    from ..scaffold.edits import told
    from ..scaffold.fresh import others_meant, plan_project, write_orders
    from ..scaffold.project import Planned, plan_edits
    from ..settings import load_settings

    own = saying(os.environ, target=None, profile=None)  # where things are is then known without dbt
    settings = load_settings(own, project_dir=project_dir)
    if name is None:
        root = settings.project_dir
        planned, said = plan_edits(root, upgrade=upgrade), NEXT
    else:
        if project_dir is not None or upgrade:
            given = "--upgrade" if upgrade else "--project-dir"
            raise typer.BadParameter(f"NAME makes a new project here, {given} is for one that there is")
        root = Path(name).absolute()
        planned = Planned(plan_project(root), others_meant(os.environ), packages_changed=True)
        said = f"next: cd {name}; cat README.md"
    if dry_run:
        shown = [edit.diff() for edit in planned.edits] or ["nothing to write"]
        show(planned, [*shown, *(f"left to you: {each}" for each in planned.left)], json=json)
        return
    for edit in planned.edits:
        edit.write()
    if name is not None:
        write_orders(root, settings.now())
    if planned.packages_changed:
        install_packages(root)
    lines = told(planned.edits) if name is None else [f"wrote {root}"]
    nothing = "nothing was missing" if not planned.left else "nothing was written"
    show(planned, [*(lines or [nothing]), *(f"left to you: {e}" for e in planned.left), said], json=json)

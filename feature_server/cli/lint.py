"""features lint: SQL of feature views that leaks or is unstable."""

from __future__ import annotations

import typer

from .main import Json, ProjectDir, app, show


@app.command(epilog="Example: features lint")
def lint(project_dir: ProjectDir = None, json: Json = False) -> None:
    """Find SQL of feature views, and of all models under them, that leaks or is unstable; exit code 1 when there is.

    It reads the project's files alone, without dbt, in a second: for an editor, or for pre-commit.
    """
    from ..lint.run import lint as run
    from ..settings import load_settings

    found = run(load_settings(project_dir=project_dir).project_dir)
    for each in found.not_looked_at:
        typer.echo(f"warning: {each}", err=True)
    counts = ((found.views, "feature view"), (found.models, "model"), (len(found.findings), "finding"))
    views, models, findings = (f"{count} {name}{'s' * (count != 1)}" for count, name in counts)
    summary = f"{views}, {models}: {findings}"
    show(found, [*found.findings, summary], json=json, good=not found.findings)

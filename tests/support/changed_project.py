"""The example project, copied, a seed, a package and a variable added, and texts changed; what is compiled of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from feature_server.dbt.compiled import dbt_manifest
from feature_server.definitions.registry import Registry
from feature_server.manifest.load import load_registry
from feature_server.meaning.settled import settle
from feature_server.settings import load_settings
from tests.support.example import ROOT, copy_example

Change = tuple[str, str, str]  # a file, a text in it, and the text in its place

PROFILE = "models/features/customer/customer__profile.sql"
LATEST = "models/staging/payments/stg_payments__latest_transactions.sql"
ADDED = {
    "seeds/known_countries.csv": "country,since\nNL,2010\nBE,2012\n",
    "seeds/known_countries.yml": (
        "seeds:\n  - name: known_countries\n    config: {column_types: {country: varchar, since: integer}}\n"
    ),
    "dbt_packages/shared/dbt_project.yml": "name: shared\nversion: '1.0'\nconfig-version: 2\n",
    "dbt_packages/shared/macros/day.sql": "{% macro day(column) %}{{ column }}::date{% endmacro %}\n",
    "dbt_packages/shared/models/closed_days.sql": "select date '2013-12-25' as day\n",
}
EXTENDED: tuple[Change, ...] = (
    ("dbt_project.yml", "vars:\n", "vars:\n  refund: refund\n"),
    (LATEST, "'refund'", "'{{ var(\"refund\") }}'"),
    (PROFILE, "signed_up_at::date", "{{ shared.day('signed_up_at') }}"),
    (
        PROFILE, "    where", "    where country in (select country from {{ ref('known_countries') }})\n"
        "        and signed_up_at::date not in (select day from {{ ref('closed_days') }}) and",
    ),
)  # fmt: skip


def copied_project(folder: Path) -> Path:
    """The example's files and those added."""
    copy_example(folder)
    (folder / "data").symlink_to(ROOT / "data")
    for name, text in ADDED.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    change(folder, EXTENDED)
    return folder


def change(folder: Path, changes: Iterable[Change]) -> None:
    """Change texts of files; each must be there."""
    for name, old, new in changes:
        text = (folder / name).read_text()
        assert old in text, f"{name} has no {old!r}"
        (folder / name).write_text(text.replace(old, new))


def compiled(folder: Path, in_force: Registry | None = None) -> Registry:
    """The registry that a project describes, as `features plan` has it."""
    parsed = dbt_manifest(load_settings(project_dir=folder))
    return settle(in_force, load_registry(folder, folder / "target", parsed=parsed))

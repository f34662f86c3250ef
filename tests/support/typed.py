"""A dbt project with the commands as they are typed in its folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from feature_server.cli.main import main
from feature_server.offline.store import OfflineStore
from feature_server.project.process import dbt_command
from tests.support.tiny_project import write_project

SHOP = {
    "dbt_project.yml": """
        name: shop
        version: "1.0"
        profile: shop
        flags: {send_anonymous_usage_stats: false}
        """,
    "profiles/profiles.yml": """
        shop:
          target: dev
          outputs:
            dev: {type: duckdb, path: own.duckdb, settings: {TimeZone: UTC}}
        """,
    "models/customers.sql": "select 1::bigint as customer_id",
    "models/customers.yml": """
        groups: [{name: risk, owner: {name: Risk, email: risk@example.com}}]
        models:
          - name: customers
            description: Customers.
            config: {meta: {entity: {name: customer, join_keys: [customer_id]}}}
            columns: [{name: customer_id, data_type: bigint, description: The customer.}]
        """,
}  # a project without views yet


def view_yaml(name: str, feature: str, data_type: str, tests: str = "") -> str:
    """The YAML of a view of customers with one feature."""
    return f"""
        models:
          - name: {name}
            description: Spending.
            config: {{group: risk, meta: {{feature_view: {{entities: [customer], refresh: manual}}}}}}
            columns:
              - {{name: customer_id, data_type: bigint, description: The customer.}}
              - {{name: event_timestamp, data_type: timestamptz, description: When.}}
              - {{name: {feature}, data_type: {data_type}, description: Euros spent.{tests}}}
        """


class Typed:
    """A project in a folder, with dbt and `features` as they are typed there."""

    def __init__(
        self, folder: Path, files: dict[str, str], patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]
    ) -> None:
        self.folder, self.patch, self.capture = folder, patch, capture
        write_project(folder, {name: re.sub("(?m)^ {8}", "", text) for name, text in files.items()})
        patch.chdir(folder)
        for name in [name for name in os.environ if name.startswith(("FEATURES_", "DBT_"))]:
            patch.delenv(name)

    def dbt(self, *arguments: str) -> None:
        command = [*dbt_command(), *arguments, "--quiet", "--profiles-dir", "profiles"]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True)

    def features(self, *arguments: str) -> tuple[int, str]:
        """Exit code and what is printed."""
        self.patch.setattr(sys, "argv", ["features", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        return int(exit_.value.code or 0), "".join(self.capture.readouterr())

    def published(self, view: str, feature: str, home: str = ".features") -> list[tuple[Any, ...]]:
        """The values of a feature in the offline store."""
        table = OfflineStore(self.folder / home / "offline").table(view)
        with duckdb.connect() as connection:
            return sorted(connection.sql(table.scan_sql([feature])).fetchall())

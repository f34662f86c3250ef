"""dbt seeds that stream views look up: their CSV files → tables of constant rows, as dbt-duckdb loads them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from ..dbt.artifacts import Node
from ..errors import WarehouseError

if TYPE_CHECKING:
    from ..compiler.layers import Constant
    from ..offline.session import EventTypes


def load_seed(node: Node, project_dir: Path, session: EventTypes) -> Constant:
    """The seed as a table of the session; Refused when its file cannot be loaded or leaves types to be guessed."""
    from ..compiler.layers import Constant
    from ..compiler.refusals import Refusal, Refused
    from ..offline.sql import literal, quote

    path = project_dir / node.original_file_path
    if not path.exists() and node.root_path is not None:  # of another package
        path = Path(node.root_path) / node.original_file_path
    delimiter = str(node.config.get("delimiter") or ",")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = [name.strip() for name in next(csv.reader(file, delimiter=delimiter), [])]
    except (OSError, UnicodeDecodeError) as error:
        what = f"a seed that cannot be read ({error})"
        raise Refused([Refusal(str(path), what, "a CSV file in UTF-8 with a header")]) from None
    types = node.config.get("column_types") or {}
    if missing := [name for name in names if name not in types]:
        wanted = ", ".join(f"{name}: {types.get(name, 'varchar')}" for name in names)
        instead = f"config: {{column_types: {{{wanted}}}}} for seed {node.name}, with the types that fit"
        what = "a column of a seed whose type dbt would guess"
        raise Refused([Refusal(f"{node.name}.{missing[0]}", what, instead)])
    name = f"_seed_{node.name}"
    listed = ", ".join(f"{quote(column)} {types[column]}" for column in names)
    try:
        session.rows(f"create or replace temp table {quote(name)} ({listed})")
        session.rows(
            f"copy {quote(name)} from {literal(str(path))} (format csv, header true, delimiter {literal(delimiter)})"
        )
        return Constant(name, session(f"select * from {quote(name)}"))
    except WarehouseError as error:
        remedy = f"rows that fit the seed's column_types, in {node.original_file_path}"
        raise Refused([Refusal(node.name, f"a seed that DuckDB cannot load ({error.got})", remedy)]) from None

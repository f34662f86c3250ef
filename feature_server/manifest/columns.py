"""The columns of a model and their types."""

from ..dbt.artifacts import Node
from ..dtypes import DType, UnknownType, known_sql_type, parse_sql_type
from ..errors import nearest_name
from .report import Report, Step

COLUMN_TYPES = ("config", "column_types")
CAST = "cast the column in the model's SQL"
_OWNERS = {"model": "model", "source": "source's table", "seed": "seed"}


class Columns:
    """A model's columns as its YAML lists them.

    With an enforced contract the YAML is the truth, for dbt fails a build that differs from it. Without one the catalog
    gives types that the YAML leaves out, and what it says otherwise than the YAML is a problem.
    """

    def __init__(self, node: Node, report: Report) -> None:
        self.node, self.report = node, report
        contract = node.config.get("contract")
        self.enforced = isinstance(contract, dict) and bool(contract.get("enforced"))
        table = report.catalog.nodes.get(node.unique_id)
        self.in_catalog = {} if table is None or self.enforced else table.columns

    def written(self, name: str) -> str | None:
        """The type of a listed column as the YAML, or else the catalog, spells it."""
        if (written := self.node.columns[name].data_type) is not None:
            return written
        found = self.in_catalog.get(name)
        return None if found is None else found.type

    def dtype(self, name: str) -> DType | None:
        """The type of a listed column; None, and a problem, when it is not known, not of the list, or contradictory."""
        text = self.written(name)
        found = self.in_catalog.get(name)
        if text is None:
            remedy = "add `data_type`, or build the model and run `dbt docs generate`"
            self.wrong_type(name, f"the type of column {name!r} is not known", "a SQL type such as bigint", remedy)
            return None
        try:
            dtype = parse_sql_type(text)
        except UnknownType as error:
            expected = str(error).partition("; use ")[2] or str(error)
            cut_off = text.count("(") > text.count(")")  # `{data_type: decimal(12,2)}` is two keys in YAML
            remedy = "put the type in quotes: between braces, YAML ends it at its comma" if cut_off else CAST
            self.wrong_type(name, f"column {name!r} has a type that features cannot have", expected, remedy)
            return None
        if found is not None and known_sql_type(found.type) != dtype:
            remedy = "correct `data_type`, or build the model and run `dbt docs generate` again"
            self.wrong_type(name, f"column {name!r} has another type in the warehouse", found.type, remedy)
            return None
        return dtype

    def wrong_type(self, name: str, what: str, expected: str | None, remedy: str | None = None) -> None:
        """A problem with the type of a listed column; of a seed, which has them where dbt loads it by."""
        is_seed = self.node.resource_type == "seed"
        path = (*COLUMN_TYPES, name) if is_seed else ("columns", name, "data_type")
        self.report.add(self.node, path, what, expected=expected, got=self.written(name), remedy=remedy)

    def expect(self, name: str, path: tuple[Step, ...], role: str, remedy: str | None = None) -> bool:
        """Whether column `name` is listed; a problem at `path` when it is not."""
        listed = self.node.columns
        if name in listed:
            return True
        self.report.add(
            self.node, path, f"{role} {name!r} is not a column of the {_OWNERS[self.node.resource_type]}",
            expected=f"one of {', '.join(listed)}" if listed else "a column listed under `columns`",
            got=name, nearest=nearest_name(name, listed),
            remedy=remedy or "list the column under `columns`",
        )  # fmt: skip
        return False

    def report_unlisted(self) -> None:
        """A problem for each column that the warehouse has and the YAML does not list."""
        for name, column in self.in_catalog.items():
            if name not in self.node.columns:
                self.report.add(
                    self.node, ("columns",), f"column {name!r} is in the warehouse but not described",
                    expected=f"{name} ({column.type}) listed under `columns`, with a description",
                    nearest=nearest_name(name, self.node.columns),
                    remedy="describe the column; if it is gone, build the model and run `dbt docs generate` again",
                )  # fmt: skip

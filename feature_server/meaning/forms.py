"""A model as a hash of what it means: its canonical SQL, or a seed's rows, over the meanings of all that it reads."""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from ..definitions.models import Model
from ..kept import Kept, short_digest


class Form(msgspec.Struct, frozen=True):
    """A hash of a query's canonical tree, and the names of its columns, None where a `*` hides them."""

    tree: str
    columns: tuple[str, ...] | None


class Forms:
    """The forms of the models of one registry.

    What is upstream of a model stands in its form by its `meaning`; where only what a model says itself is asked for,
    by its unique id.
    """

    def __init__(
        self, models: Mapping[str, Model], *, by: Literal["meaning", "unique_id"] = "meaning", kept: Kept | None = None
    ) -> None:
        self.models, self.by, self.kept = models, by, kept or Kept()
        self._columns: dict[str, Sequence[str] | None] = {}

    def of(self, model: Model) -> str:
        """What changes with the meaning of a model."""
        full = self.of_sql(model, model.sql) if model.sql else None
        incremental = self.of_sql(model, model.incremental_sql) if model.incremental_sql else None
        return short_digest([full, None if incremental == full else incremental, model.rows, model.settings])

    def of_sql(self, model: Model, sql: str) -> str:
        """The same of SQL that the model has or had, with the relations that the model reads now."""
        return self._form(model, sql).tree

    def _form(self, model: Model, sql: str) -> Form:
        names = {text: self._name(unique_id) for text, unique_id in model.reads.items()} | {model.relation: "itself"}
        columns = {self._name(unique_id): self._columns_of(unique_id) for unique_id in model.reads.values()}
        return self.kept.get(["form", sql, names, columns], Form, lambda: _form(sql, names, columns))

    def _name(self, unique_id: str) -> str:
        """What stands for a relation: where it is no model of the project, it is a source, the boundary."""
        model = self.models.get(unique_id)
        if model is None or self.by == "unique_id":
            return unique_id.replace(".", "_")
        return f"m_{model.meaning}"

    def _columns_of(self, unique_id: str) -> Sequence[str] | None:
        model = self.models.get(unique_id)
        if model is None or not model.sql:
            return None
        if unique_id not in self._columns:
            self._columns[unique_id] = None  # while it is looked for: nothing reads itself but a recursion
            self._columns[unique_id] = self._form(model, model.sql).columns
        return self._columns[unique_id]


def _form(sql: str, names: Mapping[str, str], columns: Mapping[str, Sequence[str] | None]) -> Form:
    from .canonical import Canonical  # with sqlglot, which nothing needs where all is kept

    found = Canonical(sql, names, columns)
    return Form(short_digest(found.tree), found.columns)

"""The models of a project, rendered and read once: what each reads, what its rows are told apart by, what it breaks."""

from collections.abc import Iterator
from contextlib import suppress

import msgspec
import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, SqlglotError

from ..queries.parts import sql_of
from ..queries.rows import Inputs, Key, Rows
from ..written.described import Described
from ..written.marks import Written
from ..written.project import ProjectFiles
from ..written.rendering import Rendered, Unrendered
from .ahead import joined_ahead, joined_at_any_time
from .grains import Tested, given_keys
from .hindsight import found_late
from .keys import Reading
from .now import joined_as_now
from .order import unstable
from .rules import AHEAD, CURRENT, TIMES, UNSTABLE, Rule, broken

Broken = tuple[Rule, exp.Expr, str]  # a rule, the expression that breaks it, what more there is to say


class Looked(msgspec.Struct, frozen=True):
    """A model that was looked at; `why` it could not be."""

    rows: Rows
    broken: tuple[Broken, ...] = ()
    written: Written | None = None
    why: str | None = None


class Models:
    """The models of a project by the names of their files."""

    def __init__(self, project: ProjectFiles) -> None:
        self.project = project
        self._rendered: dict[str, Rendered | str] = {}
        self._looked: dict[str, Looked] = {}
        self._trees: dict[str, list[exp.Expr]] = {}
        self._handed: dict[str, frozenset[frozenset[str]]] = {}  # keys by the tests of what is made of a model's rows

    def is_view(self, name: str) -> bool:
        """Whether a model is a feature view, by its YAML or by its own `config`, and not disabled by either."""
        said, path = self.project.described.get(name), self.project.models[name]
        if self.project.config_of(name).get("enabled") is False:
            return False
        in_yaml = said is not None and said.is_view
        text = path.read_text(encoding="utf-8", errors="replace")
        if not in_yaml and "feature_view" not in text:
            return False
        rendered = self._render(name) if "config" in text else None
        if not isinstance(rendered, Rendered):
            return in_yaml
        return rendered.enabled and (in_yaml or rendered.is_view)

    def said(self, name: str) -> Described | None:
        """What YAML says of a model: its constraints count where dbt has DuckDB hold them."""
        said = self.project.described.get(name)
        if said is None or not said.constrained:
            return said
        rendered = self._render(name)
        held = said.constrained if isinstance(rendered, Rendered) and rendered.is_constrained else frozenset()
        return msgspec.structs.replace(said, keys=said.keys | held, tested=said.tested | held)

    def under(self, view: str) -> Iterator[str]:
        """A view and the models that it is made from."""
        waiting, seen = [view], {view}
        for name in waiting:  # the list grows
            yield name
            rendered = self._render(name)
            for read in rendered.refs if isinstance(rendered, Rendered) else ():
                if (found := self.project.file_of(*read)) is not None and found not in seen:
                    seen.add(found)
                    waiting.append(found)

    def hand_down(self, name: str) -> None:
        """Tell the models that a model is made of, row by row, of the keys that tests of the model's own show."""
        with suppress(SqlglotError, RecursionError):
            for statement in self._parsed(name):
                keys = self._given(name, statement)
                for table in statement.find_all(exp.Table) if keys else ():
                    found = self._model_of(table) if id(table) in keys else None
                    if found is not None and not keys[id(table)] <= self._handed.get(found, frozenset()):
                        self._handed[found] = self._handed.get(found, frozenset()) | keys[id(table)]
                        self.hand_down(found)

    def _given(self, name: str, statement: exp.Expr) -> Tested:
        """What a model's own tests, and those of what is made of it, show of its SQL; of an incremental model's, which
        leaves rows out in other runs, only what it gives."""
        said, rendered = self.said(name), self._render(name)
        keys = self._handed.get(name, frozenset()) | (said.keys if said is not None else frozenset())
        once = isinstance(rendered, Rendered) and rendered.materialized != "incremental"
        return given_keys(statement, keys, deep=once)

    def _parsed(self, name: str) -> list[exp.Expr]:
        if name not in self._trees:
            rendered = self._render(name)
            sql = rendered.written.sql if isinstance(rendered, Rendered) else ""
            self._trees[name] = [one for one in sqlglot.parse(sql, dialect="duckdb") if one is not None]
        return self._trees[name]

    def _model_of(self, table: exp.Table) -> str | None:
        """The model that a table of rendered SQL is, by the name of its file."""
        if table.catalog != "model" or table.db != "ref":
            return None
        name, _, version = table.name.partition(" v")
        return self.project.file_of(name, version or None)

    def not_looked_at(self, name: str) -> Iterator[str]:
        """Why a model, or what it reads, could not be looked at."""
        if (why := self.looked(name).why) is not None:
            yield why
        rendered, project = self._render(name), self.project
        for read, version in rendered.refs if isinstance(rendered, Rendered) else ():
            if project.file_of(read, version) is None and read not in project.seeds:
                named = (each for each in project.others if each == read or each.rpartition("_v")[0] == read)
                kind = project.others.get(next(named, read))
                yield (
                    f"{read!r}, {kind} that it reads, and what is under that"
                    if kind is not None
                    else f"{read!r}, which it reads: the project has no model, seed or snapshot of that name"
                )

    def looked(self, name: str) -> Looked:
        """A model, looked at when it is first asked for."""
        if name not in self._looked:
            self._looked[name] = Looked(Rows())  # while it is looked at: a model that reads itself
            self._looked[name] = self._look(name)
        return self._looked[name]

    def _render(self, name: str) -> Rendered | str:
        if name not in self._rendered:
            try:
                self._rendered[name] = self.project.rendering.render(
                    self.project.models[name], self.project.config_of(name)
                )
            except Unrendered as error:
                self._rendered[name] = str(error)
        return self._rendered[name]

    def _look(self, name: str) -> Looked:
        rendered, said = self._render(name), self.said(name)
        if isinstance(rendered, str):
            return Looked(_rows(said, Rows()), why=rendered)
        found = list[Broken]()

        def seen(query: exp.Query, inputs: Inputs, keys: set[Key]) -> None:
            if not (said and said.is_stream):  # whose events are in one order, by their ids
                found.extend((UNSTABLE, node, _not_told(by)) for node, by in unstable(query, inputs, keys))
            if not (said and said.is_entity) and isinstance(query, exp.Select):  # an entity says how things are now
                joined = joined_as_now(query, inputs)
                found.extend((CURRENT, node, f", of which {used} is used") for node, used in joined)
                late = joined_at_any_time(query, inputs)
                found.extend(
                    (AHEAD, node, f", joined whatever its time, and no time of {alias} comes out")
                    for node, alias in late
                )
                ahead = joined_ahead(query, inputs)
                found.extend((AHEAD, node, f", and no time of {alias} comes out") for node, alias in ahead)

        rows = Rows()
        try:
            for statement in self._parsed(name):
                _place_times(statement, rendered.written.sql)
                found.extend((rule, node, "") for rule, node in broken(statement))
                rows = Reading(self._known, seen, self._given(name, statement)).rows(statement, {})
                if said is not None and said.is_view:
                    found.extend((AHEAD, *late) for late in found_late(statement, rows, said.event))
        except RecursionError:
            return Looked(_rows(said, Rows()), why="its SQL is nested too deep to be read")
        except SqlglotError as error:
            return Looked(_rows(said, Rows()), why=_unread(error, rendered.written))
        if rendered.materialized == "incremental":  # whose rows are of several runs
            rows = msgspec.structs.replace(rows, keys=frozenset())
        return Looked(_rows(said, rows), tuple(found), rendered.written)

    def _known(self, table: exp.Table) -> Rows:
        """What is known of a table: a model by what is said of it and by its SQL, a source by what is said of it."""
        if table.catalog == "model" and table.db == "ref":
            if (found := self._model_of(table)) is not None:
                return self.looked(found).rows
            if table.name not in self.project.sources:  # a seed in which events arrive is one
                return Rows(written=table.name in self.project.seeds)
        is_seed = table.catalog == "model" and table.db == "ref"
        name = table.name if is_seed else f"{table.db}.{table.name}"
        said = self.project.sources.get(name)
        rows = _rows(said, Rows())
        if said is None or not (said.known or said.after_us):
            return rows
        return msgspec.structs.replace(rows, late=frozenset([name]), after_us=said.after_us)


def _unread(error: SqlglotError, written: Written) -> str:
    """Where SQL cannot be read, and what stands there."""
    first = error.errors[0] if isinstance(error, ParseError) and error.errors else {}
    if not first:
        return "its SQL cannot be read: a quoted text, a name or a comment does not end"
    lines = written.sql.split("\n")
    offset = sum(len(line) + 1 for line in lines[: first["line"] - 1]) + first["col"] - len(first["highlight"])
    place, said = written.place(offset), first["description"].split(" but got <")[0]
    what = "something is missing" if "<class" in said else said[:1].lower() + said[1:]
    return f"its SQL cannot be read: {what} at {first['highlight']!r} ({place.file}:{place.line})"


def _rows(said: Described | None, rows: Rows) -> Rows:
    """What SQL shows of rows, and what is said of them."""
    if said is None:
        return rows
    columns, times = rows.columns or said.columns or None, rows.times | said.times
    timeless = rows.current if rows.columns else columns is not None and not times
    current = said.is_entity or (timeless and not said.has_times)
    return msgspec.structs.replace(
        rows,
        by=None,
        keys=rows.keys | said.keys,
        columns=columns,
        times=times,
        current=current,
        known=rows.known | said.known,
    )


def _place_times(statement: exp.Expr, sql: str) -> None:
    """Say of `current_timestamp` and the like, written without parentheses, where it stands: the parser does not."""
    nodes = [node for node in statement.find_all(*TIMES) if "start" not in node.meta]
    if nodes:
        tokens = sqlglot.tokenize(sql, read="duckdb")
        after = [*(token.text for token in tokens[1:]), ""]
        names = {node.key.replace("current", "current_") for node in nodes} | {"localtime", "localtimestamp"}
        found = [one for one, then in zip(tokens, after, strict=True) if one.text.lower() in names and then != "("]
        if len(found) == len(nodes):  # which of equal ones is which does not matter
            for node, token in zip(nodes, found, strict=True):
                node.meta["start"] = token.start


def _not_told(by: object) -> str:
    assert isinstance(by, list | tuple)
    columns = ", ".join(dict.fromkeys(sql_of(each) for each in by))
    return f", and nothing shows that rows differ in ({columns})" if columns else ", without an order"

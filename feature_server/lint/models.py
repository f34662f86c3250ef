"""The models of a project, rendered and read once: what each reads, what its rows are told apart by, what it breaks."""

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress

import msgspec
import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, SqlglotError

from ..queries.ends import ends_history
from ..queries.parts import sql_of
from ..queries.rows import Inputs, Key, Rows
from ..written.described import OF_META, Described, with_meta
from ..written.marks import Written
from ..written.project import SNAPSHOT, ProjectFiles
from ..written.rendering import Rendered, Unrendered
from .ahead import joined_ahead, joined_at_any_time
from .grains import Tested, given_keys
from .hindsight import found_late
from .keys import Reading
from .now import joined_as_now
from .order import unstable
from .rules import AHEAD, CURRENT, TIMES, UNSTABLE, Rule, broken

_TOO_DEEP = "its SQL is nested too deep to be read"
Compiled = Callable[[str], Rendered | None]
Broken = tuple[Rule, exp.Expr, str]  # a rule, the expression that breaks it, what more there is to say


class Unread(msgspec.Struct, frozen=True):
    """Why a model could not be looked at, or what it `read`, and on which line of which file."""

    why: str
    file: str
    line: int = 1
    read: str | None = None


class Looked(msgspec.Struct, frozen=True):
    """A model that was looked at; `unread` where it could not be."""

    rows: Rows
    broken: tuple[Broken, ...] = ()
    written: Written | None = None
    unread: Unread | None = None
    other: "Looked | None" = None  # by its file, where that is but a guess and dbt has compiled it


class Models:
    """The models of a project by the names of their files. `compiled` gives one as dbt has compiled it, and `views` are
    those that dbt has for feature views, where it was asked."""

    def __init__(self, project: ProjectFiles, compiled: Compiled, views: Collection[str]) -> None:
        self.project, self._compiled, self._views = project, compiled, views
        self._rendered: dict[str, Rendered | Unread] = {}
        self._looked: dict[str, Looked] = {}
        self._trees: dict[str, list[exp.Expr]] = {}
        self._guessed: dict[str, tuple[Rendered, list[exp.Expr]]] = {}  # by files, where dbt has compiled them
        self._handed: dict[str, frozenset[frozenset[str]]] = {}  # keys by the tests of what is made of a model's rows

    def is_view(self, name: str) -> bool:
        """Whether a model is a feature view, by its YAML or by its own `config`, and not disabled by either; or dbt has
        it for one."""
        if name in self._views:
            return True
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
        return rendered.enabled and (in_yaml or "feature_view" in rendered.meta)

    def said(self, name: str) -> Described | None:
        """What YAML and its own `config` say of a model: its constraints count where dbt has DuckDB hold them."""
        said, rendered = self.project.described.get(name), self._render(name)
        if not isinstance(rendered, Rendered):
            return said
        if rendered.meta.keys() & OF_META:
            one = said or Described(name=name, file=self.project.file(name), line=1)
            said = with_meta(one, rendered.meta)
        if said is None or not said.constrained:
            return said
        held = said.constrained if rendered.is_constrained else frozenset()
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
        self._render(name)
        return self._trees.get(name, [])

    def _model_of(self, table: exp.Table) -> str | None:
        """The model that a table of rendered SQL is, by the name of its file."""
        if table.catalog != "model" or table.db != "ref":
            return None
        name, _, version = table.name.partition(" v")
        return self.project.file_of(name, version or None)

    def unread(self, name: str) -> Iterator[Unread]:
        """Why a model, or what it reads, could not be looked at."""
        if (unread := self.looked(name).unread) is not None:
            yield unread
        project = self.project
        for read, kind in self._others(name):
            if kind is None:
                yield Unread(
                    f"it reads {read!r}: the project has no model, seed or snapshot of that name", project.file(name)
                )
            elif kind != SNAPSHOT:
                yield Unread(
                    f"it reads {read!r}, {kind}, of which no SQL says what is in it", project.file(name), read=read
                )

    def guessed(self, name: str) -> tuple[str, ...]:
        """What only dbt knows and a model's text depends on, where dbt has not compiled it."""
        rendered = self._render(name)
        return rendered.guessed if isinstance(rendered, Rendered) else ()

    def snapshots(self, name: str) -> list[str]:
        """The snapshots that a model reads."""
        return [read for read, kind in self._others(name) if kind == SNAPSHOT]

    def _others(self, name: str) -> Iterator[tuple[str, str | None]]:
        """What a model reads that is neither a model in SQL nor a seed, and what it is, where the project has it."""
        rendered, project = self._render(name), self.project
        for read, version in rendered.refs if isinstance(rendered, Rendered) else ():
            if project.file_of(read, version) is None and read not in project.seeds:
                named = (each for each in project.others if each == read or each.rpartition("_v")[0] == read)
                yield read, project.others.get(next(named, read))

    def looked(self, name: str) -> Looked:
        """A model, looked at when it is first asked for."""
        if name not in self._looked:
            self._looked[name] = Looked(Rows())  # while it is looked at: a model that reads itself
            self._looked[name] = self._look(name)
        return self._looked[name]

    def _render(self, name: str) -> Rendered | Unread:
        """A model by its file; as dbt compiled it where its Jinja or its SQL is not understood otherwise."""
        if name not in self._rendered:
            path, file = self.project.models[name], self.project.file(name)
            try:
                found: Rendered | Unread = self.project.rendering.render(path, self.project.config_of(name))
            except Unrendered as error:
                found = Unread(str(error), file)
            found = self._parse(name, found)
            hidden = isinstance(found, Rendered) and name in self._views and "feature_view" not in found.meta
            if (hidden or isinstance(found, Unread)) and (compiled := self._compiled(name)) is not None:
                found = self._parse(name, compiled)
            if isinstance(found, Rendered) and found.guessed and (compiled := self._compiled(name)) is not None:
                self._guessed[name] = (found, self._trees[name])
                refs = dict.fromkeys((*found.refs, *compiled.refs))
                found = self._parse(name, msgspec.structs.replace(compiled, refs=tuple(refs)))
            self._rendered[name] = found
        return self._rendered[name]

    def _parse(self, name: str, rendered: Rendered | Unread) -> Rendered | Unread:
        """A model whose SQL is read; or why it cannot be."""
        if isinstance(rendered, Unread):
            return rendered
        written = rendered.written
        try:
            self._trees[name] = [one for one in sqlglot.parse(written.sql, dialect="duckdb") if one is not None]
        except RecursionError:
            return Unread(_TOO_DEEP, self.project.file(name))
        except SqlglotError as error:
            return _unread(error, written, self.project.file(name))
        return rendered

    def _look(self, name: str) -> Looked:
        rendered, other = self._render(name), None
        if name in self._guessed:
            other = self._look_at(name, *self._guessed[name])
        looked = self._look_at(name, rendered, self._parsed(name))
        return msgspec.structs.replace(looked, other=other)

    def _look_at(self, name: str, rendered: Rendered | Unread, statements: list[exp.Expr]) -> Looked:
        said = self.said(name)
        if isinstance(rendered, Unread):
            return Looked(_rows(said, Rows()), unread=rendered)
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
            for statement in statements:
                _place_times(statement, rendered.written.sql)
                rows = Reading(self.known, seen, self._given(name, statement)).rows(statement, {})
                found.extend(
                    (rule, node, "")
                    for rule, node in broken(statement)
                    if rule is not AHEAD or not ends_history(node, statement, rows.columns)
                )
                if said is not None and said.is_view:
                    found.extend((AHEAD, *late) for late in found_late(statement, rows, said.event))
        except (RecursionError, SqlglotError) as error:
            why = _TOO_DEEP if isinstance(error, RecursionError) else f"its SQL cannot be read: {error}"
            return Looked(_rows(said, Rows()), unread=Unread(why, self.project.file(name)))
        if rendered.materialized == "incremental":  # whose rows are of several runs
            rows = msgspec.structs.replace(rows, keys=frozenset())
        return Looked(_rows(said, rows), tuple(found), rendered.written)

    def known(self, table: exp.Table) -> Rows:
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


def _unread(error: SqlglotError, written: Written, file: str) -> Unread:
    """Where SQL cannot be read, and what stands there."""
    first = error.errors[0] if isinstance(error, ParseError) and error.errors else {}
    if not first:
        return Unread("its SQL cannot be read: a quoted text, a name or a comment does not end", file)
    lines = written.sql.split("\n")
    offset = sum(len(line) + 1 for line in lines[: first["line"] - 1]) + first["col"] - len(first["highlight"])
    place, said = written.place(offset), first["description"].split(" but got <")[0]
    what = "something is missing" if "<class" in said else said[:1].lower() + said[1:]
    return Unread(f"its SQL cannot be read: {what} at {first['highlight']!r}", place.file, place.line)


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

"""A query as a tree of plain lists that is equal where only its writing differs.

Comments, parentheses, quotes, case, names of CTEs and of tables' aliases, unused CTEs, the order of conditions and,
where nothing reads them by place, the order of columns are no part of it. SQL that sqlglot cannot read is its own text.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.qualify import qualify
from sqlglot.transforms import eliminate_window_clause

from ..kept import short_digest
from .trees import text_of

Names = Mapping[str, Any]  # a CTE's name → its tree, or an alias → how deep it stands, and which it is there
_MIRRORED: dict[type[exp.Expr], type[exp.Binary]] = {exp.LT: exp.GT, exp.LTE: exp.GTE}
_SYMMETRIC = (exp.EQ, exp.NEQ)
_BY_NAME = ("query", "query_table")  # DuckDB's functions that read a relation by a text


class Canonical:
    """A query's tree, and the names of the columns that it gives, None where a `*` hides them."""

    def __init__(self, sql: str, relations: Mapping[str, str], columns: Mapping[str, Sequence[str] | None]) -> None:
        """`relations` maps each relation, as text in the SQL, to what stands for it; `columns` has that one's."""
        self.columns: tuple[str, ...] | None = None
        try:
            query = sqlglot.parse_one(sql, dialect="duckdb")
        except SqlglotError:
            self.tree: Any = ["text", sql.strip()]
            return
        _name_relations(query, relations)
        qualified = _qualified(query, columns)
        dump = _Dump(query if qualified is None else qualified, as_written=qualified is None)
        self.tree = dump.tree
        if isinstance(qualified, exp.Query) and not any(_has_star(select) for select in _outputs(qualified)):
            self.columns = tuple(qualified.named_selects)


def pretty(sql: str) -> list[str]:
    """The lines of SQL in one format, for a diff; without comments."""
    try:
        return sqlglot.parse_one(sql, dialect="duckdb").sql(dialect="duckdb", pretty=True, comments=False).splitlines()
    except SqlglotError:
        return [line.rstrip() for line in sql.strip().splitlines()]


def _relation_text(table: exp.Table) -> str:
    """A table of a query without its alias."""
    bare = table.copy()
    for name in ("alias", "joins", "laterals", "pivots", "sample"):
        bare.set(name, None)
    return bare.sql(dialect="duckdb", comments=False)


def _name_relations(query: exp.Expr, relations: Mapping[str, str]) -> None:
    named, ctes = set(), {cte.alias.lower() for cte in query.find_all(exp.CTE)}
    texts = {_relation_text(exp.to_table(text, dialect="duckdb")): name for text, name in relations.items() if text}
    for table in list(query.find_all(exp.Table)):
        other = relations.get("") if table.db or table.name.lower() not in ctes else None
        if (name := texts.get(_relation_text(table), other)) is not None:
            if not table.alias:
                table.set("alias", exp.TableAlias(this=exp.to_identifier(table.name)))
            named.add((table.db, table.name))
            table.set("this", exp.to_identifier(name))
            table.set("db", None)
            table.set("catalog", None)
    for column in query.find_all(exp.Column):
        if column.args.get("db") is not None and (column.db, column.table) in named:
            column.set("db", None)
            column.set("catalog", None)


def _qualified(query: exp.Expr, columns: Mapping[str, Sequence[str] | None]) -> exp.Expr | None:
    """The query with every column's table named and every `*` written out where that is known; None if it cannot be."""
    if not isinstance(query, exp.Query) or _reads_by_name(query):
        return None
    schema: dict[str, object] = {name: dict.fromkeys(found, "unknown") for name, found in columns.items() if found}
    try:
        plain = query.copy()
        for select in list(plain.find_all(exp.Select)):
            eliminate_window_clause(select)
        found: exp.Expr = qualify(
            plain.copy(), dialect="duckdb", schema=schema or None, expand_alias_refs=False,
            validate_qualify_columns=False, allow_partial_qualification=True,
        )  # fmt: skip
        return found
    except (SqlglotError, KeyError, AttributeError, ValueError):
        return None


def _reads_by_name(query: exp.Expr) -> bool:
    """Whether names of CTEs or tables may be meant by what is no table: a text, a whole row, a pivot, itself."""
    if any(not _is_listed(star) for star in query.find_all(exp.Star)):
        return True
    aliases = {source.alias_or_name.lower() for source in query.find_all(exp.Table, exp.Subquery, exp.CTE)}
    return (
        any(column.name.lower() in aliases and not column.table for column in query.find_all(exp.Column))
        or any(call.name.lower() in _BY_NAME for call in query.find_all(exp.Anonymous))
        or any(part.recursive for part in query.find_all(exp.With))
        or query.find(exp.Pivot, exp.Lateral) is not None
    )


def _is_listed(star: exp.Star) -> bool:
    """Whether a `*` stands for columns of a SELECT, or for rows that are counted, and not for a row of them."""
    holder = star.parent if isinstance(star.parent, exp.Column) else star
    return isinstance(holder.parent, exp.Select | exp.Count)


class _Dump:
    def __init__(self, query: exp.Expr, *, as_written: bool) -> None:
        self.as_written = as_written
        self.in_order: set[int] = set() if as_written else _read_by_place(query)
        self.tree = self._query(query, {}, {}, by_name=True)

    def _query(self, query: exp.Expr, ctes: Names, aliases: Names, *, by_name: bool = False) -> Any:
        """A query whose columns are read `by_name`: they may come in any order."""
        if not self.as_written and (clause := query.args.get("with_")) is not None:
            for cte in clause.expressions:
                tree = ["cte", self._query(cte.this, ctes, aliases, by_name=not cte.args["alias"].columns)]
                rest = {name: value for name, value in cte.args.items() if name not in ("this", "alias")}
                names = [column.name for column in cte.args["alias"].columns]
                tree += [names, self._args(rest, ctes, aliases)]
                ctes = {**ctes, cte.alias.lower(): ["cte", short_digest(tree)]}
        if isinstance(query, exp.Select) and not self.as_written:
            depth = 1 + max((place[0] for place in aliases.values()), default=-1)
            own = [source.alias_or_name for source in _sources(query)]
            aliases = {**aliases, **{name: (depth, number) for number, name in enumerate(own)}}
        if isinstance(query, exp.Subquery) and not query.args.get("alias"):
            return self._node(query, ctes, aliases)
        args = {name: value for name, value in query.args.items() if self.as_written or name != "with_"}
        if isinstance(query, exp.Select) and by_name and not self.as_written and self._can_sort(query):
            columns = [self._node(column, ctes, aliases) for column in query.expressions]
            rest = {name: value for name, value in args.items() if name != "expressions"}
            return [query.key, sorted(columns, key=text_of), self._args(rest, ctes, aliases)]
        return [query.key, self._args(args, ctes, aliases)]

    def _can_sort(self, select: exp.Select) -> bool:
        return id(select) not in self.in_order and not _has_star(select) and not _has_ordinals(select)

    def _node(self, node: Any, ctes: Names, aliases: Names) -> Any:
        if isinstance(node, list):
            return [self._node(item, ctes, aliases) for item in node]
        if not isinstance(node, exp.Expr):
            return node if isinstance(node, str | int | float | bool | None) else str(node)
        if isinstance(node, exp.Paren):
            return self._node(node.this, ctes, aliases)
        if isinstance(node, exp.Identifier):
            return ["identifier", node.name]
        if isinstance(node, exp.And | exp.Or):
            parts = [self._node(part, ctes, aliases) for part in _flat(node, type(node))]
            return [node.key, sorted(parts, key=text_of)]
        if isinstance(node, exp.Select | exp.SetOperation):
            return self._query(node, ctes, aliases)
        if self.as_written:
            return self._other(node, ctes, aliases)
        if isinstance(node, exp.Column) and node.table in aliases:
            return ["column", aliases[node.table], node.name if not isinstance(node.this, exp.Star) else "*"]
        if isinstance(node, exp.Table):
            return self._table(node, ctes, aliases)
        if isinstance(node, exp.Subquery) and node.args.get("alias"):
            alias = node.args["alias"]
            rest = {name: value for name, value in node.args.items() if name not in ("this", "alias")}
            named = [column.name for column in alias.columns]
            tree = self._query(node.this, ctes, aliases, by_name=not named)
            return ["subquery", aliases.get(node.alias, node.alias), named, tree, self._args(rest, ctes, aliases)]
        return self._other(node, ctes, aliases)

    def _other(self, node: exp.Expr, ctes: Names, aliases: Names) -> Any:
        if (mirrored := _MIRRORED.get(type(node))) is not None:
            node = mirrored(this=node.args["expression"], expression=node.this)
        args = dict(node.args)
        if isinstance(node, exp.Join):
            kind, side = str(args.get("kind") or "").upper(), args.get("side")
            if kind == "INNER" or (kind == "OUTER" and side):
                args["kind"] = None
        if isinstance(node, _SYMMETRIC):
            sides = [self._node(node.this, ctes, aliases), self._node(node.args["expression"], ctes, aliases)]
            return [node.key, sorted(sides, key=text_of)]
        dumped = self._args(args, ctes, aliases)
        if isinstance(node, exp.In) and "expressions" in dumped:
            dumped["expressions"] = sorted(dumped["expressions"], key=text_of)
        return [node.key, dumped]

    def _table(self, table: exp.Table, ctes: Names, aliases: Names) -> Any:
        args = {name: value for name, value in table.args.items() if name != "alias"}
        named = [column.name for column in table.args["alias"].columns] if table.args.get("alias") else []
        alias = aliases.get(table.alias_or_name, table.alias_or_name)
        if not table.db and (tree := ctes.get(table.name.lower())) is not None:
            args = {name: value for name, value in args.items() if name != "this"}
            return ["table", alias, named, tree, self._args(args, ctes, aliases)]
        return ["table", alias, named, self._args(args, ctes, aliases)]

    def _args(self, args: Mapping[str, Any], ctes: Names, aliases: Names) -> dict[str, Any]:
        """What is not left out; 0 and an empty text are something."""
        kept = ((name, value) for name, value in args.items() if not (value is None or value is False or value == []))
        return {name: self._node(value, ctes, aliases) for name, value in kept}


def _flat(node: exp.Expr, kind: type[exp.Expr]) -> Iterator[exp.Expr]:
    while isinstance(node, exp.Paren):
        node = node.this
    if type(node) is kind:
        yield from _flat(node.args["this"], kind)
        yield from _flat(node.args["expression"], kind)
    else:
        yield node


def _sources(select: exp.Select) -> list[exp.Expr]:
    """What a SELECT reads, in the order in which it names that."""
    clause = select.args.get("from_")
    found = [clause.this] if clause is not None else []
    found += [join.this for join in select.args.get("joins") or []]
    for source in found:  # the list grows
        found += [join.this for join in source.args.get("joins") or []]
    return found


def _has_star(select: exp.Select) -> bool:
    return any(_is_star(column) for column in select.expressions)


def _is_star(column: exp.Expr) -> bool:
    """Whether a column may stand for several."""
    bare = column.this if isinstance(column, exp.Alias) else column
    return bare.is_star or bare.find(exp.Columns) is not None


def _has_ordinals(select: exp.Select) -> bool:
    lists = [select.args.get("order"), select.args.get("group"), select.args.get("distinct")]
    for part in (part for part in lists if part is not None):
        keys = [*part.expressions]
        if isinstance(part, exp.Distinct) and part.args.get("on") is not None:
            keys += part.args["on"].expressions
        for key in keys:
            bare = key.this if isinstance(key, exp.Ordered) else key
            if isinstance(bare, exp.Literal) or (isinstance(part, exp.Order) and bare.name.lower() in ("all", "*")):
                return True
    return False


def _read_by_place(query: exp.Expr) -> set[int]:
    """The SELECTs whose columns something reads by place: set operations, and a `*` that is not written out."""
    found: set[int] = set()
    for operation in query.find_all(exp.SetOperation):
        for side in (operation.this, operation.args["expression"]):
            found |= {id(one) for one in _outputs(side)}
    ctes = {cte.alias.lower(): cte.this for cte in query.find_all(exp.CTE)}
    for select in query.find_all(exp.Select):
        if _has_star(select):
            for source in _sources(select):
                below = ctes.get(source.name.lower()) if isinstance(source, exp.Table) else source.this
                found |= {id(one) for one in _outputs(below)} if isinstance(below, exp.Expr) else set()
    return found


def _outputs(query: exp.Expr) -> list[exp.Select]:
    """The SELECTs that give a query's rows."""
    while isinstance(query, exp.Subquery | exp.Paren):
        query = query.this
    if isinstance(query, exp.SetOperation):
        return [*_outputs(query.this), *_outputs(query.args["expression"])]
    return [query] if isinstance(query, exp.Select) else []

"""What feature views are built from: their models and all under them, as they were compiled.

SQL that is not the same text for each run is reported: what it means could not be said.
"""

from collections.abc import Iterator
from pathlib import Path

import yaml

from ..dbt.artifacts import Node
from ..dbt.compiled import AS_OF, OTHER_AS_OF, Compiled
from ..definitions.models import Model
from ..kept import short_digest
from ..project.package import LOADER
from .reading import parents, relations, walk
from .report import Report
from .seeds import seed_rows

# What makes other rows of the same SQL; of these the ones that are set.
_SETTINGS = (
    "incremental_strategy", "incremental_predicates", "unique_key", "on_schema_change", "sql_header", "column_types",
    "delimiter", "quote_columns", "strategy", "check_cols", "updated_at", "hard_deletes",
)  # fmt: skip


def identify(views: list[Node], compiled: Compiled, report: Report) -> tuple[Model, ...]:
    """The models that views are and read, by unique id; problems where Jinja asks the warehouse, or the clock."""

    def below(node: Node) -> Iterator[Node]:
        return (one for one in parents(node, report.manifest) if one.resource_type != "source")

    nodes = {node.unique_id: node for view in views for node in walk(view, below)}
    for node in nodes.values():
        _check(node, compiled, report)
    return tuple(_model(nodes[name], compiled, report) for name in sorted(nodes))


def _check(node: Node, compiled: Compiled, report: Report) -> None:
    texts, file = compiled.texts, node.original_file_path
    if asked := texts.queries.get(node.unique_id):
        report.add(
            node, (), "the model's SQL depends on a query that its Jinja asks while it is compiled", file=file,
            expected="SQL that the project's files alone give", got=" ".join(asked[0].split())[:200],
            remedy="take run_query, statement blocks and macros that ask (such as get_column_values) out, and have the "
            "SQL itself select it, or write the values into a seed or a variable",
        )  # fmt: skip
        return
    full, other = texts.full.get(node.unique_id, ""), texts.other.get(node.unique_id, "")
    full, other = (text.replace(OTHER_AS_OF, AS_OF) for text in (full, other))  # a literal may be either by chance
    if other != full:
        lines = zip(full.splitlines(), other.splitlines(), strict=False)
        one, two = next(((one, two) for one, two in lines if one != two), ("", "more or fewer lines"))
        report.add(
            node, (), "the model's SQL depends on var as_of beyond a literal, or on the run itself", file=file,
            expected=f"the same text for each run, but for the literal; with as_of {AS_OF}: {one.strip()[:120]}",
            got=f"with as_of {OTHER_AS_OF}: {two.strip()[:120]}",
            remedy="write {{ as_of() }} or '{{ var(\"as_of\") }}' into the SQL and reckon with it there; leave "
            "run_started_at, invocation_id and modules.datetime out",
        )  # fmt: skip


def _model(node: Node, compiled: Compiled, report: Report) -> Model:
    texts, macros = compiled.texts, report.manifest.macros_under(node.depends_on.macros)
    sql = texts.full.get(node.unique_id, "")
    incremental = texts.incremental.get(node.unique_id, sql)
    settings = {name: short_digest(node.config[name]) for name in _SETTINGS if node.config.get(name)}
    if node.resource_type == "model" and node.config.get("materialized") == "incremental":
        settings["materialized"] = "incremental"
    rows, loaded = seed_rows(node, report) if node.resource_type == "seed" else ("", "")
    return Model(
        unique_id=node.unique_id,
        package=node.package_name,
        path=node.original_file_path,
        relation=node.relation_name or "",
        sql=sql,
        incremental_sql=None if incremental == sql else incremental,
        reads=_reads(node, sql + incremental, report),
        settings=settings,
        rows=rows,
        loaded=loaded,
        code=short_digest(node.raw_code),
        macros={name: short_digest(macro.macro_sql) for name, macro in sorted(macros.items())},
    )


def _reads(node: Node, sql: str, report: Report) -> dict[str, str]:
    """Whose the relations in a model's SQL are; a `ref` in a comment of Jinja is only for dbt's order of building."""
    read = list(relations(node, report.manifest))
    named = {parent.relation_name: parent.unique_id for parent in read if parent.relation_name}
    found = {text: unique_id for text, unique_id in named.items() if text in sql}
    live = [parent for parent in read if parent.is_events and parent.unique_id not in found.values()]
    sources = [parent for parent in read if parent.resource_type == "source" or parent in live]
    return found | ({"": sources[0].unique_id} if len(sources) == 1 else {})


def read_variables(project_dir: Path) -> dict[str, str]:
    """A hash of each variable that dbt_project.yml sets, but `as_of`; before those of a package stands its name."""
    project = yaml.load((project_dir / "dbt_project.yml").read_text(encoding="utf-8"), Loader=LOADER)
    found: dict[str, str] = {}
    for name, value in (project.get("vars") or {}).items():
        own = {f"{name}.{inner}": text for inner, text in value.items()} if isinstance(value, dict) else {name: value}
        found |= {name: short_digest(str(text)) for name, text in own.items() if name.rpartition(".")[2] != "as_of"}
    return found

"""Live events of a table that there is: what the YAML says of it, and a staging model that reads both."""

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

import msgspec
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from ..dbt.artifacts import Manifest, Node
from ..definitions.stream import PATTERN, is_pattern
from ..dtypes import known_sql_type
from ..errors import SettingsError
from ..manifest.reading import relations, walk
from ..project.package import PACKAGE, installed_package
from ..settings import Settings
from ..warehouse.columns import as_written, count_rows
from .definitions import Folders
from .edits import Edit, added_lines, changed_yaml, quoted, read_text
from .relation import Relation, node_of, read_relation
from .texts import column_yaml, to_say

_ROLES = {"event_id": "--event-id", "event_timestamp": "--time", "created_timestamp": "--created"}
_HOLD = ("source", "seed")
_STAGING = re.compile(r"(stg|staging|base)_")


class LiveEvents(msgspec.Struct, frozen=True, kw_only=True):
    """The events of a table, as they are to be: `stream` names them, `staging` is the model that has them all."""

    stream: str
    staging: Relation
    event_id: str
    time: str
    created: str | None
    edits: tuple[Edit, ...]
    left: tuple[str, ...]


def live_events(
    text: str, roles: Mapping[str, str | None], keys: Iterable[str], manifest: Manifest, folders: Folders,
    settings: Settings,
) -> LiveEvents:  # fmt: skip
    """What makes a source's table an event source, whose `roles` are named by columns; SettingsError where it cannot.

    What its YAML says of its events already stays as it is.
    """
    node, _ = node_of(text, manifest)
    _check_table(node, manifest)
    if installed_package(folders.root) is None:
        raise SettingsError(
            "live events need the dbt package, which the project does not have", where="--stream",
            expected=f"the package {PACKAGE}", remedy="run `features init`",
        )  # fmt: skip
    said = _said(node, roles)
    relation = read_relation(text, manifest, settings)
    fit = {name: type_ for name, type_ in relation.columns.items() if known_sql_type(type_) is not None}
    times = {role: said.get(role) or roles.get(role) for role in ("event_timestamp", "created_timestamp")}
    for role, name in times.items():
        relation.need([name] if name else [], _ROLES[role], "timestamp or timestamptz", lambda one: one.is_timestamp)
    id_ = said.get("event_id") or roles.get("event_id") or _event_id(relation, {*keys, *filter(None, times.values())})
    relation.need([id_], "--event-id", "an integer, varchar or uuid", _identifies)
    _check_id(relation, id_, times["created_timestamp"], settings)
    landing = said.get("landing") or _landing(node)
    block = {"event_id": id_, **{role: name for role, name in times.items() if name}}
    if landing is not None:
        block["landing"] = landing
    edits = [*_described(node, block, fit, folders)]
    if landing is not None:
        ignored = f"{PurePosixPath(landing).parent}/"
        edits += added_lines(folders.root, ".gitignore", [ignored], "what is made here is no part of the project")
    name, written = _staging(node, block, fit, manifest, folders)
    return LiveEvents(
        stream=node.label, staging=Relation(name, f"ref('{name}')", fit), event_id=id_,
        time=str(times["event_timestamp"]), created=times["created_timestamp"],
        edits=(*edits, *written), left=tuple(name for name in relation.columns if name not in fit),
    )  # fmt: skip


def _check_table(node: Node, manifest: Manifest) -> None:
    """SettingsError for what events do not arrive in, or is another project's."""
    if node.resource_type not in _HOLD:
        read = (one for one in walk(node, lambda reader: relations(reader, manifest)) if one.resource_type in _HOLD)
        typed = 'features new view NAME --stream --from "{}" --entity ENTITY --time COLUMN'
        names = sorted(f"`{typed.format(one.call)}`" for one in read)
        remedy = (
            f"name what it reads, and columns of that: {' or '.join(names)}"
            if names
            else "declare the table as a source, and name it"
        )
        raise SettingsError(
            "live events arrive in what models are made of, not in a model", where=f"--from {node.label}",
            expected="a source's table, or a seed", got=f"a {node.resource_type}",
            remedy=remedy,
        )  # fmt: skip
    if node.package_name != manifest.metadata.project_name:
        raise SettingsError(
            "the table is declared in another package, whose files are not written", where=f"--from {node.label}",
            expected=f"a {node.resource_type} of this project", got=f"{node.package_name}://{node.file}",
            remedy="declare it in a YAML file of your own, by another name",
        )  # fmt: skip


def _said(node: Node, roles: Mapping[str, str | None]) -> dict[str, str]:
    """What the YAML says of the events already; SettingsError where something else is asked for."""
    block = node.meta.get("event_stream")
    said = {str(key): str(value) for key, value in block.items()} if isinstance(block, dict) else {}
    for role, asked in roles.items():
        if said and asked is not None and said.get(role) != asked:
            raise SettingsError(
                f"the YAML says otherwise of the events of {node.label}", where=_ROLES[role], got=asked,
                expected=f"{role}: {said.get(role, 'none')}, as event_stream in {node.file} has it",
                remedy=f"leave {_ROLES[role]} out, or change event_stream",
            )  # fmt: skip
    return said


def _event_id(relation: Relation, others: set[str]) -> str:
    """The column that is named as the table's own id."""
    table = things_of(relation.name)
    one = re.sub(r"ies$", "y", table) if table.endswith("ies") else table.removesuffix("s")
    names = {"id", "event_id", *(f"{name}{mark}id" for name in (one, table) for mark in ("_", ""))}
    fit = [name for name, type_ in relation.columns.items() if name not in others and _fits_id(type_)]
    found = [name for name in fit if name.lower() in names]
    if len(found) == 1:
        return found[0]
    raise SettingsError(
        "which column identifies an event cannot be told", where=f"--from {relation.name}",
        expected="--event-id COLUMN: an event that is sent twice counts once by it",
        got=f"no column with such a name as {one}_id" if not found else " and ".join(found),
        remedy=f"add --event-id with one of {', '.join(found or fit)}" if fit else "give each row of the table an id",
    )  # fmt: skip


def _fits_id(type_: str) -> bool:
    dtype = known_sql_type(type_)
    return dtype is not None and _identifies(dtype)


def _identifies(dtype: Any) -> bool:
    return dtype.kind in ("string", "uuid") or "int" in dtype.kind


def _check_id(relation: Relation, id_: str, created: str | None, settings: Settings) -> None:
    """SettingsError where rows have no id, or several have one and nothing tells which counts."""
    node = relation.node
    assert node is not None
    rows, known, distinct = count_rows(
        str(node.relation_name), id_, settings.warehouse, settings.project_dir, settings.attached
    )
    if known < rows or (created is None and distinct < rows):
        wrong = f"{rows - known} rows without one" if known < rows else f"{distinct} ids in {rows} rows"
        raise SettingsError(
            f"column {id_!r} does not identify the events of {relation.name}", where="--event-id", got=wrong,
            expected="an id in each row, each once; or --created, by which the latest of an id's rows counts",
            remedy="add --event-id or --created with another column",
        )  # fmt: skip


def _landing(node: Node) -> str | None:
    """Where live events of a table land; None where they land beside the files that it is."""
    location = node.meta.get("external_location") or node.config.get("external_location")
    if location is None:
        return f"landing/{plain_name(node.name)}/*.parquet"
    if is_pattern(str(location)):
        return None
    raise SettingsError(
        "live events cannot be kept where the dbt source would read them", where=f"{node.label} in {node.file}",
        expected=PATTERN, got=str(location), remedy="have it read a pattern of Parquet files",
    )  # fmt: skip


def plain_name(name: str) -> str:
    """A name as part of others' names."""
    return re.sub(r"\W+", "_", name.lower()).strip("_") or "events"


def things_of(label: str) -> str:
    """What the rows of a table are, by its name: orders, of raw.orders or raw_orders."""
    return re.sub(r"^(raw|src|stg)_+(?=.)", "", plain_name(label.rpartition(".")[2]))


def _described(node: Node, block: Mapping[str, str], columns: Mapping[str, str], folders: Folders) -> list[Edit]:
    """The YAML of a source's table with what it says of its events, and each column with its type."""

    what = f"events of {node.label} arrive live, and where they land"
    if node.resource_type == "seed":
        return _seed_described(node, block, columns, folders, what)

    def change(content: Any) -> bool:
        sources = (one for one in content.get("sources") or () if one.get("name") == node.source_name)
        tables = [table for one in sources for table in one.get("tables") or () if table.get("name") == node.name]
        if not tables:
            raise _not_found(node, f"sources[{node.source_name}].tables[{node.name}]")
        return _change_table(tables[0], block, columns)

    return changed_yaml(folders.root, node.file, change, what)


def _seed_described(
    node: Node, block: Mapping[str, str], columns: Mapping[str, str], folders: Folders, what: str
) -> list[Edit]:
    """The same of a seed, which has its columns' types where dbt loads it by them."""
    known = node.config.get("column_types") or {}
    missing = {name: type_ for name, type_ in columns.items() if name not in known}

    def change(content: Any) -> bool:
        seeds = [one for one in content.get("seeds") or () if one.get("name") == node.name]
        if not seeds:
            raise _not_found(node, f"seeds[{node.name}]")
        changed = _change_meta(seeds[0], block)
        types = _below(seeds[0]["config"], "column_types") if missing else {}
        types.update({_text(name): _text(type_) for name, type_ in missing.items()})
        return changed or bool(missing)

    if node.patch_path is not None:
        return changed_yaml(folders.root, node.file, change, what)
    listed = (f"{_in_yaml(name)}: {_in_yaml(value)}" for name, value in block.items())
    typed = (f"{_in_yaml(name)}: {_in_yaml(type_)}" for name, type_ in missing.items())
    lines = [
        "seeds:",
        f"  - name: {quoted(node.name)}",
        "    config:",
        *([f"      column_types: {{{', '.join(typed)}}}"] if missing else []),
        "      meta:",
        f"        event_stream: {{{', '.join(listed)}}}",
    ]
    path = PurePosixPath(node.original_file_path).with_suffix(".yml")
    return folders.file(str(path), "\n".join(lines) + "\n", what)


def _not_found(node: Node, expected: str) -> SettingsError:
    return SettingsError(
        "the YAML of the table is not found where dbt read it", where=node.file, expected=expected,
        remedy="write the names without Jinja, then run the same command again",
    )  # fmt: skip


def _change_table(table: Any, block: Mapping[str, str], columns: Mapping[str, str]) -> bool:
    changed = _change_meta(table, block)
    listed = table.get("columns")
    if not listed:
        table["columns"] = listed = CommentedSeq()
    described = {str(one.get("name")).lower(): one for one in listed}
    for name, type_ in columns.items():
        found = described.get(name.lower())
        if found is None:
            listed.append(_on_one_line({"name": name, "data_type": type_}))
            changed = True
        elif not found.get("data_type"):
            found["data_type"] = _text(type_)
            changed = True
    return changed


def _change_meta(table: Any, block: Mapping[str, str]) -> bool:
    changed = False
    meta = _below(_below(table, "config"), "meta")
    if "event_stream" not in meta:
        meta["event_stream"] = _on_one_line(block)
        changed = True
    elif missing := {name: value for name, value in block.items() if name not in meta["event_stream"]}:
        meta["event_stream"].update({name: _text(value) for name, value in missing.items()})
        changed = True
    return changed


def _below(content: Any, name: str) -> Any:
    if not content.get(name):
        content[name] = CommentedMap()
    return content[name]


def _on_one_line(pairs: Mapping[str, str]) -> CommentedMap:
    made = CommentedMap({name: _text(value) for name, value in pairs.items()})
    made.fa.set_flow_style()
    return made


def _text(value: str) -> str:
    return value if _in_yaml(value) == value else DoubleQuotedScalarString(value)


def _in_yaml(value: str) -> str:
    """A text as YAML has it: a pattern of files needs no quotes."""
    return value if re.fullmatch(r"[A-Za-z][\w/-]*/\*\.parquet", value) else quoted(value)


def _staging(
    node: Node, block: Mapping[str, str], columns: Mapping[str, str], manifest: Manifest, folders: Folders
) -> tuple[str, list[Edit]]:
    """The model with each event of the table, those that arrived live too, and the files that are to be written."""
    own = [one for one in manifest.models() if one.package_name == manifest.metadata.project_name]
    readers = [one for one in own if node.unique_id in one.depends_on.nodes and _STAGING.match(one.name)]
    listed = [one for one in own if _STAGING.match(one.name)]
    beside = next(iter(readers or listed), None)
    folder = f"{folders.models}/staging" if beside is None else str(PurePosixPath(beside.original_file_path).parent)
    if readers:
        name = f"{readers[0].name.removesuffix('_live')}_live"
    else:
        prefix = "stg" if beside is None else beside.name.partition("_")[0]
        long = node.resource_type == "source" and any("__" in one.name for one in listed)
        name = f"{prefix}_{plain_name(node.source_name)}__" if long else f"{prefix}_"
        name += things_of(node.label)
    sql = _staging_sql(node, block, columns)
    for one in readers:
        if read_text(folders.root / one.original_file_path) == sql:
            return one.name, []  # of another view
    folders.check_free(name)
    what = f"{node.label} with its live events"
    edits = [
        *folders.file(f"{folder}/{name}.sql", sql, what),
        *folders.file(f"{folder}/{name}.yml", _staging_yaml(name, node, block, columns), what),
    ]
    return name, edits


def _staging_sql(node: Node, block: Mapping[str, str], columns: Mapping[str, str]) -> str:
    created = block.get("created_timestamp")
    read = f"{PACKAGE}.with_live({node.call})" if "landing" in block else node.call
    order = as_written(created or block["event_timestamp"])
    lines = [
        "{{ config(materialized='view') }}",
        f"-- Each row of {node.label}, and each event that arrived live, as it is known now.",
        f"select {', '.join(map(as_written, columns))}",
        f"from {{{{ {read} }}}}",
        *([f"where {as_written(created)} <= {{{{ {PACKAGE}.as_of() }}}}"] if created else []),
        f"qualify row_number() over (partition by {as_written(block['event_id'])} order by {order} desc) = 1",
    ]
    return "\n".join(lines) + "\n"


def _staging_yaml(name: str, node: Node, block: Mapping[str, str], columns: Mapping[str, str]) -> str:
    relation, id_ = Relation(name, "", dict(columns)), block["event_id"]
    lines = [
        "models:",
        f"  - name: {name}",
        f"    description: {to_say(f'what one row of {node.label} is')}",
        "    columns:",
        f"{column_yaml(relation, id_, id_)}, data_tests: [unique, not_null]}}",
    ]
    return "\n".join(lines) + "\n"

"""What YAML says of models and sources: views, entities, tests of what tells rows apart, rules broken on purpose."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from ..definitions.facts import duration_us
from ..errors import FeatureStoreError
from ..project.package import LOADER
from .files import ENCODING
from .rendering import merged

OF_META = frozenset(["feature_view", "entity", "lint"])  # the keys under `meta` that say what a model is
_TELLS_APART = re.compile(r"unique|grain|primary_key", re.I)  # in the name of a test
_TELLING = ("primary_key", "unique")  # constraints
_ANY_ROW = ("", "!=0", ">0", ">=1")  # in `error_if`
_IDENTIFIER = re.compile(r"\w+")
_TYPE = re.compile(r"timestamp|date|time", re.I)
_NAME = re.compile(
    r"(^|_)(at|on|ts|time|date|day|hour|week|month|timestamp|datetime|since|from|until|start|end|tick|as_of|"
    r"(valid|effective|active)_to)$",
    re.I,
)


class Allowed(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that a model breaks on purpose."""

    allow: str
    reason: str


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """What a YAML file says of a model, or of a source's table: in `file`, at `line`.

    `keys` are the columns that tests, or an `event_stream`, tell rows apart by, `tested` those and the lists of
    columns of tests of other names, `constrained` those of constraints; `has_times` by columns' types or names.
    `entities` are those of a view, or the one that a model is of, by the columns of `join_keys`; `config` is as it is
    written.
    """

    name: str
    file: str
    line: int
    is_view: bool = False
    is_entity: bool = False
    entities: tuple[str, ...] = ()
    join_keys: tuple[str, ...] = ()
    event: str = "event_timestamp"
    tested: frozenset[frozenset[str]] = frozenset()
    constrained: frozenset[frozenset[str]] = frozenset()
    keys: frozenset[frozenset[str]] = frozenset()
    columns: tuple[str, ...] = ()
    times: frozenset[str] = frozenset()
    has_times: bool = False
    known: frozenset[str] = frozenset()
    after_us: int = 0
    created: str | None = None
    is_stream: bool = False
    config: dict[str, Any] = {}
    allowed: tuple[Allowed, ...] = ()
    is_latest: bool = False


def is_time(name: str, data_type: str = "") -> bool:
    """Whether a column says when something was, by its type, or by its name where that is not known."""
    return is_type_of_time(data_type) if data_type else bool(_NAME.search(name))


def is_type_of_time(data_type: str) -> bool:
    return bool(_TYPE.search(data_type))


def models_of(path: Path, file: str, said: Mapping[str, Any], every: Mapping[str, Any]) -> Iterator[Described]:
    """The models of a YAML file, each version by the name of its file; `every` is what dbt_project.yml configures all
    tests by."""
    models = _dicts(said.get("models"))
    lines = _lines(path, "models") if models else {}
    for model in models:
        if not isinstance(name := model.get("name"), str):
            continue
        latest, versions = str(model.get("latest_version")), _dicts(model.get("versions"))
        for version in versions:
            one = _model(name, file, lines.get(name, 1), _versioned(model, version), every)
            stem, number = version.get("defined_in"), str(version.get("v"))
            yield msgspec.structs.replace(one, name=str(stem or f"{name}_v{number}"), is_latest=number == latest)
        if not versions:
            yield _model(name, file, lines.get(name, 1), model, every)


def _model(name: str, file: str, line: int, model: Mapping[str, Any], every: Mapping[str, Any]) -> Described:
    config, meta = _config(model), _meta(model)
    one = _described(name, file, line, model, meta, every)
    return msgspec.structs.replace(
        with_meta(one, meta),
        tested=one.keys.union(*(_lists(arguments) for _, arguments in _tests(model, every))),
        config=config | {"meta": meta} if meta else config,
    )


def with_meta(one: Described, meta: Mapping[str, Any]) -> Described:
    """A model with what its meta says of it, which may stand in its YAML or in its own `config`."""
    view, entity = _dict(meta.get("feature_view")), _dict(meta.get("entity"))
    return msgspec.structs.replace(
        one,
        is_view="feature_view" in meta,
        is_entity="entity" in meta,
        entities=_strings([entity.get("name")] if entity else view.get("entities")),
        join_keys=_strings(entity.get("join_keys")),
        event=str(view.get("event_timestamp") or "event_timestamp").lower(),
        created=view.get("created_timestamp"),
        is_stream="stream" in view,
        allowed=_allowed(meta.get("lint"), f"{one.file}:{one.line}: models[{one.name}].meta.lint"),
    )


def _versioned(model: Mapping[str, Any], version: Mapping[str, Any]) -> dict[str, Any]:
    """A model as one of its versions has it: with tests of its own, or the model's, and such columns as it includes."""
    own = {name: version[name] for name in ("data_tests", "tests", "constraints") if version.get(name) is not None}
    without = ("data_tests", "tests") if own.keys() & {"data_tests", "tests"} else ()
    listed = [each for each in _dicts(version.get("columns")) if "name" in each]
    said = next((each for each in _dicts(version.get("columns")) if "include" in each or "exclude" in each), {})
    some, left_out = said.get("include", "all"), said.get("exclude") or ()
    shared = [
        each
        for each in _dicts(model.get("columns"))
        if (some in ("all", "*") or each.get("name") in some) and each.get("name") not in left_out
    ]
    kept = {name: value for name, value in model.items() if name not in without}
    return {**kept, **own, "columns": [*shared, *listed], "config": merged(_config(model), _config(version))}


def sources_of(path: Path, file: str, said: Mapping[str, Any], every: Mapping[str, Any]) -> Iterator[Described]:
    """The tables of the sources of a YAML file, as `source.table`, and seeds in which events arrive, by their names."""
    seeds = _dicts(said.get("seeds"))
    lines = _lines(path, "seeds") if seeds else {}
    for seed in seeds:
        if "event_stream" in (meta := _meta(seed)):
            name, types = str(seed.get("name")), _dict(_config(seed).get("column_types"))
            said_of = {str(each.get("name")): each for each in _dicts(seed.get("columns"))}
            columns = [{**said_of.get(each, {"name": each}), "data_type": type_} for each, type_ in types.items()]
            seed = {**seed, "columns": columns or seed.get("columns")}
            yield _of_events(_described(name, file, lines.get(name, 1), seed, meta, every), meta, None)
    sources = _dicts(said.get("sources"))
    lines = _lines(path, "sources") if sources else {}
    for source in sources:
        for table in _dicts(source.get("tables")):
            meta = _meta(source) | _meta(table)
            name = f"{source.get('name')}.{table.get('name')}"
            one = _described(name, file, lines.get(str(table.get("name")), 1), table, _meta(table), every)
            yield _of_events(one, meta, _loaded_at(table) or _loaded_at(source))


def _of_events(one: Described, meta: Mapping[str, Any], loaded: str | None) -> Described:
    """What is said of rows with what meta says of them as events."""
    stream = _dict(meta.get("event_stream"))
    known = [str(each).lower() for each in (stream.get("created_timestamp"), loaded) if each]
    version = stream.get("created_timestamp") or stream.get("event_timestamp")  # of one event
    event = {str(name).lower() for name in (stream.get("event_id"), version)}
    return msgspec.structs.replace(
        one,
        keys=one.keys | ({frozenset(event)} if "event_id" in stream else set()),
        known=frozenset(known),
        after_us=duration_us(meta.get("available_after")) or 0,
        has_times=one.has_times or bool(loaded),
    )


def _loaded_at(node: Mapping[str, Any]) -> str | None:
    """The column that dbt takes for when a source's rows were loaded, which may stand in an expression."""
    said = _config(node).get("loaded_at_field") or node.get("loaded_at_field") or ""
    found = re.match(r"\W*(?:cast\W+)?(\w+)", str(said))
    return found[1] if found else None


def _described(
    name: str, file: str, line: int, node: Mapping[str, Any], meta: Mapping[str, Any], every: Mapping[str, Any]
) -> Described:
    columns = [each for each in _dicts(node.get("columns")) if isinstance(each.get("name"), str)]
    view, stream = _dict(meta.get("feature_view")), _dict(meta.get("event_stream"))
    named = [str(each["name"]) for each in columns]
    times = [str(each["name"]) for each in columns if is_time(str(each["name"]), str(each.get("data_type") or ""))]
    return Described(
        name=name,
        file=file,
        line=line,
        keys=frozenset(_keys(node, columns, every)),
        constrained=frozenset(_constrained(node, columns)),
        columns=tuple(each.lower() for each in named),
        times=frozenset(name.lower() for name in times),
        has_times=bool(times or view or stream),
    )


def _keys(
    node: Mapping[str, Any], columns: Iterable[Mapping[str, Any]], every: Mapping[str, Any]
) -> Iterator[frozenset[str]]:
    """The columns that tests which stop a build tell rows apart by."""
    for name, arguments in _tests(node, every):
        if not _tells_apart(name):
            continue
        yield from _lists(arguments)
        if _IDENTIFIER.fullmatch(str(arguments.get("column_name", "."))) and "unique" in name:
            yield frozenset([str(arguments["column_name"]).lower()])
    for column in columns:
        if any(_tells_apart(name) for name, _ in _tests(column, every)):
            yield frozenset([str(column["name"]).lower()])


def _constrained(node: Mapping[str, Any], columns: Iterable[Mapping[str, Any]]) -> Iterator[frozenset[str]]:
    """The columns that constraints tell rows apart by."""
    for constraint in _dicts(node.get("constraints")):
        if constraint.get("type") in _TELLING and (names := _strings(constraint.get("columns"))):
            yield frozenset(each.lower() for each in names)
    for column in columns:
        if any(each.get("type") in _TELLING for each in _dicts(column.get("constraints"))):
            yield frozenset([str(column["name"]).lower()])


def _tests(node: Mapping[str, Any], every: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tests by name, with their arguments: such as are of all rows, and stop a build where one row fails."""
    for test in [*(node.get("data_tests") or ()), *(node.get("tests") or ())]:
        pairs = {test: {}} if isinstance(test, str) else test if isinstance(test, dict) else {}
        for name, value in pairs.items():
            said = _dict(value)
            if isinstance(name, str) and _stops({**every, **said, **_dict(said.get("config"))}):
                yield name, said | _dict(said.get("arguments"))


def _stops(config: Mapping[str, Any]) -> bool:
    """Whether any row that fails a test ends a build with an error."""
    off = config.get("where") or config.get("enabled") in (False, "false") or config.get("limit") == 0
    counted = config.get("fail_calc") in (None, "count(*)") and _bare(config.get("error_if")) in _ANY_ROW
    return not off and counted and _bare(config.get("severity")) != "warn"


def _bare(value: Any) -> str:
    return "" if value is None else str(value).replace(" ", "").lower()


def _tells_apart(name: str) -> bool:
    return bool(_TELLS_APART.search(name.rpartition(".")[2]))


def _lists(arguments: Mapping[str, Any]) -> set[frozenset[str]]:
    """The lists of columns among a test's arguments."""
    found = [_strings(value) for value in arguments.values() if isinstance(value, list)]
    return {frozenset(each.lower() for each in names) for names in found if names}


def _strings(value: Any) -> tuple[str, ...]:
    """A list of strings; empty where it is none."""
    return tuple(value) if isinstance(value, list) and all(isinstance(each, str) for each in value) else ()


def _allowed(said: Any, where: str) -> tuple[Allowed, ...]:
    if said is None:
        return ()
    try:
        return tuple(msgspec.convert(said if isinstance(said, list) else [said], list[Allowed]))
    except msgspec.ValidationError as error:
        raise FeatureStoreError(
            "what a model allows cannot be read", where=where,
            expected="{allow: a rule's name, reason: why}, or a list of these", got=str(error),
        ) from None  # fmt: skip


def _lines(path: Path, kind: str) -> dict[str, int]:
    """The line of each name of a model, or of a source's table."""
    root = yaml.compose(path.read_text(encoding=ENCODING), Loader=LOADER)
    listed: list[yaml.Node] = next((value.value for key, value in root.value if key.value == kind), []) if root else []
    mappings = [item for item in listed if isinstance(item, yaml.MappingNode)]
    if kind == "sources":
        mappings = [
            table
            for item in mappings
            for key, value in item.value
            if key.value == "tables" and isinstance(value, yaml.SequenceNode)
            for table in value.value
            if isinstance(table, yaml.MappingNode)
        ]
    pairs = (pair for item in mappings for pair in item.value)
    return {str(value.value): value.start_mark.line + 1 for key, value in pairs if key.value == "name"}


def _config(node: Mapping[str, Any]) -> dict[str, Any]:
    return _dict(node.get("config"))


def _meta(node: Mapping[str, Any]) -> dict[str, Any]:
    return _dict(node.get("meta")) | _dict(_config(node).get("meta"))


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []

"""What YAML says of models and sources: views, entities, tests of what tells rows apart, rules broken on purpose."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import yaml

from ..definitions.facts import parse_duration
from ..errors import FeatureStoreError

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TELLS_APART = re.compile(r"unique|grain|primary_key", re.I)  # in the name of a test
_IDENTIFIER = re.compile(r"\w+")
_TYPE = re.compile(r"timestamp|date|time", re.I)
_NAME = re.compile(
    r"(^|_)(at|on|ts|time|date|day|hour|week|month|timestamp|datetime|since|from|until|start|end|tick|as_of)$", re.I
)


class Allowed(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that a model breaks on purpose."""

    allow: str
    reason: str


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """What a YAML file says of a model, or of a source's table: in `file`, at `line`.

    `has_grain` says whether a test holds that its rows are one a key and time, as those of a stream are by event ids;
    `keys` the columns that tests, or an `event_stream`, tell rows apart by. `has_times` by columns' types or names.
    """

    name: str
    file: str
    line: int
    is_view: bool = False
    is_entity: bool = False
    has_grain: bool = False
    keys: frozenset[frozenset[str]] = frozenset()
    columns: tuple[str, ...] = ()
    times: frozenset[str] = frozenset()
    has_times: bool = False
    known: frozenset[str] = frozenset()
    after_us: int = 0
    created: str | None = None
    is_stream: bool = False
    materialized: str | None = None
    allowed: tuple[Allowed, ...] = ()
    enabled: bool = True
    is_latest: bool = False


def is_time(name: str, data_type: str = "") -> bool:
    """Whether a column says when something was, by its type, or by its name where that is not known."""
    return is_type_of_time(data_type) if data_type else bool(_NAME.search(name))


def is_type_of_time(data_type: str) -> bool:
    return bool(_TYPE.search(data_type))


def models_of(path: Path, file: str, said: Mapping[str, Any]) -> Iterator[Described]:
    """The models of a YAML file, each version by the name of its file."""
    models = _dicts(said.get("models"))
    lines = _lines(path, "models") if models else {}
    for model in models:
        if not isinstance(name := model.get("name"), str):
            continue
        config, meta = _config(model), _meta(model)
        one = _described(name, file, lines.get(name, 1), model, meta)
        one = msgspec.structs.replace(
            one,
            is_view="feature_view" in meta,
            is_entity="entity" in meta,
            created=_dict(meta.get("feature_view")).get("created_timestamp"),
            is_stream="stream" in _dict(meta.get("feature_view")),
            has_grain=_has_grain(model, meta.get("feature_view")),
            materialized=config.get("materialized"),
            allowed=_allowed(meta.get("lint"), file, name),
            enabled=config.get("enabled") is not False,
        )
        latest = str(model.get("latest_version"))
        for version in _dicts(model.get("versions")):
            stem, number = version.get("defined_in"), str(version.get("v"))
            yield msgspec.structs.replace(one, name=str(stem or f"{name}_v{number}"), is_latest=number == latest)
        if not model.get("versions"):
            yield one


def sources_of(path: Path, file: str, said: Mapping[str, Any]) -> Iterator[Described]:
    """The tables of the sources of a YAML file, as `source.table`."""
    sources = _dicts(said.get("sources"))
    lines = _lines(path, "sources") if sources else {}
    for source in sources:
        for table in _dicts(source.get("tables")):
            meta = _meta(source) | _meta(table)
            stream, loaded = _dict(meta.get("event_stream")), _loaded_at(table) or _loaded_at(source)
            known = [str(each).lower() for each in (stream.get("created_timestamp"), loaded) if each]
            event = {str(stream.get(name, name)).lower() for name in ("event_id", "created_timestamp")}
            name = f"{source.get('name')}.{table.get('name')}"
            one = _described(name, file, lines.get(str(table.get("name")), 1), table, _meta(table))
            yield msgspec.structs.replace(
                one,
                keys=one.keys | ({frozenset(event)} if "event_id" in stream else set()),
                known=frozenset(known),
                after_us=_after_us(meta.get("available_after")),
                has_times=one.has_times or bool(loaded),
            )


def _after_us(said: Any) -> int:
    """How long after its event time a row can be known; 0 where that is not said, or not as a check wants it."""
    with suppress(ValueError):
        return parse_duration(said) if isinstance(said, str) else 0
    return 0


def _loaded_at(node: Mapping[str, Any]) -> str | None:
    """The column that dbt takes for when a source's rows were loaded, which may stand in an expression."""
    said = _config(node).get("loaded_at_field") or node.get("loaded_at_field") or ""
    found = re.match(r"\W*(?:cast\W+)?(\w+)", str(said))
    return found[1] if found else None


def _described(name: str, file: str, line: int, node: Mapping[str, Any], meta: Mapping[str, Any]) -> Described:
    columns = [each for each in _dicts(node.get("columns")) if isinstance(each.get("name"), str)]
    view, stream = _dict(meta.get("feature_view")), _dict(meta.get("event_stream"))
    named = [str(each["name"]) for each in columns]
    times = [str(each["name"]) for each in columns if is_time(str(each["name"]), str(each.get("data_type") or ""))]
    return Described(
        name=name,
        file=file,
        line=line,
        keys=frozenset(_keys(node, columns)),
        columns=tuple(each.lower() for each in named),
        times=frozenset(name.lower() for name in times),
        has_times=bool(times or view or stream),
    )


def _keys(node: Mapping[str, Any], columns: Iterable[Mapping[str, Any]]) -> Iterator[frozenset[str]]:
    """The columns that tests and constraints which stop a build tell rows apart by."""
    for name, arguments in _tests(node):
        for value in arguments.values():
            if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
                yield frozenset(each.lower() for each in value)
        if _IDENTIFIER.fullmatch(str(arguments.get("column_name", "."))) and "unique" in name:
            yield frozenset([str(arguments["column_name"]).lower()])
    for constraint in _dicts(node.get("constraints")):
        if constraint.get("type") in ("primary_key", "unique"):
            yield frozenset(str(each).lower() for each in constraint.get("columns") or ())
    for column in columns:
        constraints = {each.get("type") for each in _dicts(column.get("constraints"))}
        if constraints & {"primary_key", "unique"} or any(True for _ in _tests(column)):
            yield frozenset([str(column["name"]).lower()])


def _tests(node: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tests of rows' being told apart, by name, with their arguments: of all rows, and such that stop a build."""
    for test in [*(node.get("data_tests") or ()), *(node.get("tests") or ())]:
        pairs = {test: {}} if isinstance(test, str) else test if isinstance(test, dict) else {}
        for name, value in pairs.items():
            said = _dict(value)
            config = said | _dict(said.get("config"))
            partial = config.get("where") or config.get("enabled") is False or config.get("severity") == "warn"
            if isinstance(name, str) and _TELLS_APART.search(name.rpartition(".")[2]) and not partial:
                yield name, said | _dict(said.get("arguments"))


def _has_grain(model: Mapping[str, Any], view: Any) -> bool:
    """Whether a test of the model has a list of columns with the event timestamp in it."""
    facts = _dict(view)
    tests = [*(model.get("data_tests") or ()), *(model.get("tests") or ())]
    said = [value for test in tests if isinstance(test, dict) for value in test.values() if isinstance(value, dict)]
    lists = [value for one in said for value in (one | (one.get("arguments") or {})).values()]
    event = facts.get("event_timestamp") or "event_timestamp"
    return "stream" in facts or any(isinstance(each, list) and event in each for each in lists)


def _allowed(said: Any, file: str, model: str) -> tuple[Allowed, ...]:
    if said is None:
        return ()
    try:
        return tuple(msgspec.convert(said if isinstance(said, list) else [said], list[Allowed]))
    except msgspec.ValidationError as error:
        raise FeatureStoreError(
            "what a model allows cannot be read", where=f"{file}: models[{model}].meta.lint",
            expected="{allow: a rule's name, reason: why}, or a list of these", got=str(error),
        ) from None  # fmt: skip


def _lines(path: Path, kind: str) -> dict[str, int]:
    """The line of each name of a model, or of a source's table."""
    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=LOADER)
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

"""New entities, feature views and services: their SQL and YAML, which pass `features check` as they are."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from ..dbt.artifacts import Manifest
from ..definitions.registry import Registry
from ..dtypes import INTEGER_WIDTHS, known_sql_type
from ..errors import SettingsError
from ..manifest.blocks import NAME, NAME_IN_WORDS
from ..project.package import PROJECT_FILE, installed_package
from ..warehouse.columns import as_written
from .edits import Edit, new_file, quoted, read_yaml
from .project import filled
from .relation import Relation, unknown
from .texts import CREATED, EVENT, column_yaml, rows_unit_test, to_say

_CAST = "cast the column in a model, and name that with --from"
_CAST_EVENTS = (
    "give the table's column that type, of a seed by `column_types` in its config and `dbt seed --full-refresh`; or "
    "the entity's key the column's, by a cast in the entity's model"
)


class NewView(msgspec.Struct, frozen=True, kw_only=True):
    """What a view is to be: of entities with these join keys, over a relation's rows with their times.

    `casts` are the entities' types of the join keys whose column has another one.
    """

    name: str
    entities: dict[str, tuple[str, ...]]
    time: str
    created: str | None
    refresh: str
    group: str
    casts: dict[str, str] = {}


class Folders(msgspec.Struct, frozen=True):
    """A project, where its models are, and the names that it has given."""

    root: Path
    models: str
    given: frozenset[str]

    @classmethod
    def of(cls, root: Path, manifest: Manifest | None = None) -> "Folders":
        folders = read_yaml(root / PROJECT_FILE).get("model-paths") or ["models"]
        nodes = () if manifest is None else manifest.nodes.values()
        given = frozenset(node.name for node in nodes if node.resource_type in ("model", "seed", "snapshot"))
        return cls(root, str(folders if isinstance(folders, str) else folders[0]), given)

    def check_free(self, name: str) -> None:
        """SettingsError where dbt has something of that name."""
        if name in self.given:
            raise SettingsError(
                f"the project has a model, seed or snapshot {name!r} already", where="NAME", got=name,
                expected="a name that dbt does not have yet", remedy="choose another name",
            )  # fmt: skip

    def model_of(self, entity: str) -> str:
        """The name for an entity's model that dbt does not have yet; SettingsError where it has all that are tried."""
        names = f"{entity}s", f"{entity}_entity"
        if free := [name for name in names if name not in self.given]:
            return free[0]
        raise SettingsError(
            f"the project has models {' and '.join(names)}, and the entity needs one of its own", where="--entity",
            got=entity, expected="the name of an entity that the project has, or a new one",
            remedy="make one of them the entity: `config: {meta: {entity: {name: …, join_keys: […]}}}` in its YAML",
        )  # fmt: skip

    def new(self, kind: str, name: str, suffix: str, text: str, what: str) -> list[Edit]:
        """A file of a definition; SettingsError where there is one."""
        return self.file(f"{self.models}/{kind}/{name}.{suffix}", text, what)

    def file(self, path: str, text: str, what: str) -> list[Edit]:
        """A file; SettingsError where there is one."""
        if not (made := new_file(self.root, path, text, what)):
            raise SettingsError(
                "there is such a file, and nothing is written over it", where=path, got=f"a file {path}",
                expected="no file of that name", remedy="choose another name, or edit the file",
            )  # fmt: skip
        return made


def entities_of(manifest: Manifest) -> dict[str, tuple[str, ...]]:
    """The entities of a project, and their join keys."""
    blocks = (node.meta.get("entity") for node in manifest.models())
    found = (block for block in blocks if isinstance(block, dict) and block.get("name"))
    return {str(block["name"]): tuple(map(str, block.get("join_keys") or ())) for block in found}


def keys_of(names: Sequence[str], manifest: Manifest) -> list[str]:
    """The join keys of those of these entities that a project has."""
    known = entities_of(manifest)
    return [column for name in names for column in known.get(name, ())]


def entities_for(
    names: Sequence[str], keys: Sequence[str], manifest: Manifest, relation: Relation, folders: Folders
) -> tuple[dict[str, tuple[str, ...]], list[Edit]]:
    """The join keys of each entity, and what writes the one that the project lacks, whose these `keys` are.

    SettingsError where several are lacking, or one without keys.
    """
    known = entities_of(manifest)
    new = [name for name in names if name not in known]
    if new and not keys:
        remedy = "give its join keys with --key, and it is written too"
        raise unknown(f"the project has no entity {new[0]!r}", "--entity", new[0], known, remedy)
    if len(new) > 1:
        raise SettingsError(
            "several entities are new, and which of the join keys are whose cannot be told", where="--key",
            expected="one new entity a command", got=", ".join(new),
            remedy="write each with `features new entity NAME --key COLUMN`, then the view without --key",
        )  # fmt: skip
    edits = [edit for name in new for edit in new_entity(name, keys, relation, folders)]
    return {name: known.get(name, tuple(keys)) for name in names}, edits


def casts_of(
    manifest: Manifest, entities: Mapping[str, Sequence[str]], relation: Relation, *, can_cast: bool
) -> dict[str, str]:
    """The types that entities of the project declare for join keys whose column of a relation has another one.

    SettingsError where that cannot be cast, since only numbers of one kind are the same keys.
    """
    found = dict[str, str]()
    for model in manifest.models():
        block = model.meta.get("entity")
        if not isinstance(block, dict) or block.get("name") not in entities:
            continue
        relation.need(entities[str(block["name"])], "--entity")
        for key in entities[str(block["name"])]:
            said = str((key in model.columns and model.columns[key].data_type) or "")
            wanted, got = known_sql_type(said), known_sql_type(relation.columns[key])
            if wanted is None or wanted == got:
                continue
            if not can_cast or got is None or not {wanted.kind, got.kind} <= INTEGER_WIDTHS.keys():
                raise SettingsError(
                    f"column {key!r} has another type than the entity's key", where=f"--entity of {relation.name}",
                    expected=f"{said}, as {model.name} of entity {block['name']!r} has it",
                    got=relation.columns[key], remedy=_CAST if can_cast else _CAST_EVENTS,
                )  # fmt: skip
            found[key] = said
    return found


def group_of(manifest: Manifest, asked: str | None) -> str:
    """The group that is to own a view: the one asked for, or the project's first."""
    own = [group.name for group in manifest.groups.values() if group.package_name == manifest.metadata.project_name]
    known = sorted(own or (group.name for group in manifest.groups.values()))
    if asked is not None and asked not in known:
        raise unknown("the project has no such group", "--group", asked, known)
    if not known:
        raise SettingsError(
            "the project has no group to own a view", where="groups", expected="a group with an owner in the YAML",
            remedy="`features init` writes one",
        )  # fmt: skip
    return asked or known[0]


def new_entity(name: str, keys: Sequence[str], relation: Relation, folders: Folders) -> list[Edit]:
    """A model with a row for each combination of the keys of a relation, and its YAML."""
    check_name(name, "an entity")
    relation.need(keys, "--key", "an integer, varchar, uuid, date or boolean", lambda dtype: dtype.can_be_join_key)
    model = folders.model_of(name)
    sql = f"select distinct {', '.join(map(as_written, keys))} from {{{{ {relation.reading} }}}}\n"
    columns = [
        f"{column_yaml(relation, key, key)}, data_tests: [not_null{', unique' if len(keys) == 1 else ''}]}}"
        for key in keys
    ]
    yaml = [
        "models:",
        f"  - name: {model}",
        f"    description: {to_say(f'what one {name} is')}",
        "    config:",
        "      meta:",
        f"        entity: {{name: {name}, join_keys: [{', '.join(map(quoted, keys))}]}}",
        "    columns:",
        *columns,
        "",
        *rows_unit_test(model, relation, dict.fromkeys(keys), list(keys)),
    ]
    what = f"the entity {name}"
    return [
        *folders.new("entities", model, "sql", sql, what),
        *folders.new("entities", model, "yml", "\n".join(yaml) + "\n", what),
    ]


def new_view(view: NewView, relation: Relation, folders: Folders) -> tuple[list[Edit], list[str]]:
    """A view that gives each row of a relation as it is, and the columns left out: they have no type of a feature."""
    check_name(view.name, "a feature view")
    keys = [key for names in view.entities.values() for key in names]
    times = {EVENT: view.time} | ({} if view.created is None else {CREATED: view.created})
    folders.check_free(view.name)
    relation.need(keys, "--entity")
    for option, source in (("--time", view.time), ("--created", view.created)):
        relation.need([source] if source else [], option, "timestamp or timestamptz", lambda dtype: dtype.is_timestamp)
    features, left = relation.features([*keys, *times.values()], times)
    if not features:
        raise SettingsError(
            "the relation has no column that could be a feature", where=f"--from {relation.name}",
            expected="a column beside the join keys and times, of a feature's type", got=", ".join(left) or "none",
        )  # fmt: skip
    said = (name if name == source else f"{as_written(source)} as {name}" for name, source in times.items())
    cast = {key: f"cast({as_written(key)} as {kind}) as {as_written(key)}" for key, kind in view.casts.items()}
    listed = [*(cast.get(key, as_written(key)) for key in keys), *said, *map(as_written, features)]
    sql = "select\n    " + ",\n    ".join(listed) + f"\nfrom {{{{ {relation.reading} }}}}\n"
    given = {**dict.fromkeys(keys), **times, **dict.fromkeys(features)}
    typed = msgspec.structs.replace(relation, columns=relation.columns | view.casts)
    yaml = _view_yaml(view, typed, given, [*keys, *times], has_package=installed_package(folders.root) is not None)
    what = f"the feature view {view.name}"
    edits = [
        *folders.new("features", view.name, "sql", sql, what), *folders.new("features", view.name, "yml", yaml, what)
    ]  # fmt: skip
    return edits, left


def _view_yaml(
    view: NewView, relation: Relation, columns: dict[str, str | None], grain: Sequence[str], *, has_package: bool
) -> str:
    test = f"      - feature_warehouse.grain: {{arguments: {{columns: [{', '.join(map(quoted, grain))}]}}}}"
    lines = [
        *view_head(view, f"what one row of {view.name} is"),
        *(["    data_tests:", test] if has_package else []),
        "    columns:",
        *(column_yaml(relation, name, source or name) + "}" for name, source in columns.items()),
        "",
        *rows_unit_test(view.name, relation, columns, list(columns)),
    ]
    return "\n".join(lines) + "\n"


def view_head(view: NewView, what: str) -> list[str]:
    """The beginning of a view's YAML, which is to say `what` it is."""
    return [
        "models:",
        f"  - name: {view.name}",
        f"    description: {to_say(what)}",
        "    config:",
        f"      group: {view.group}",
        "      meta:",
        "        feature_view:",
        f"          entities: [{', '.join(view.entities)}]",
        *([] if view.created is None else [f"          created_timestamp: {CREATED}"]),
        f"          refresh: {view.refresh}",
    ]


def new_service(name: str, features: Sequence[str], registry: Registry, folders: Folders) -> list[Edit]:
    """An exposure with features, each `view:feature`, or `view` for all of its features."""
    check_name(name, "a feature service")
    views = {view.id: view for view in registry.feature_views}
    listed = list[str]()
    for each in features:
        view, mark, feature = each.partition(":")
        if view not in views:
            raise unknown(f"there is no feature view {view!r}", "FEATURE", view, views)
        known = [one.name for one in views[view].features]
        if mark and feature not in known:
            raise unknown(f"{view} has no feature {feature!r}", "FEATURE", feature, known)
        listed += [each] if mark else [f"{view}:{one}" for one in known]
    reads = dict.fromkeys(each.partition(":")[0] for each in listed)
    refs = (f"ref('{view.partition('@')[0]}'{_version(view)})" for view in reads)
    lines = [
        "exposures:",
        f"  - name: {name}",
        "    type: ml",
        f"    description: {to_say(f'what the model {name} says')}",
        "    owner: {name: __owner__, email: __email__}",
        f"    depends_on: [{', '.join(refs)}]",
        "    config:",
        "      meta:",
        "        feature_service:",
        "          features:",
        *(f"            - {each}" for each in dict.fromkeys(listed)),
    ]
    text = filled("\n".join(lines) + "\n", name)
    return folders.new("services", name, "yml", text, f"the feature service {name}")


def _version(view: str) -> str:
    version = view.partition("@v")[2]
    return f", v={version}" if version else ""


def check_name(name: str, what: str) -> None:
    if not NAME.fullmatch(name):
        raise SettingsError(f"{what} cannot have this name", where="NAME", expected=NAME_IN_WORDS, got=name)

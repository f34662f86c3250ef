"""dbt's manifest.json and catalog.json, as far as definitions need them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ..errors import UNREADABLE, FeatureStoreError

_OF_DBT = ("dbt", "dbt_duckdb")
SCHEMA = "manifest/v12"  # of dbt 1.8 to 1.11

Json = TypeVar("Json", bound=msgspec.Struct)


class ColumnNode(msgspec.Struct, frozen=True):
    """A column as its YAML lists it."""

    name: str
    description: str = ""
    data_type: str | None = None
    meta: dict[str, Any] = {}
    tags: tuple[str, ...] = ()


class DependsOn(msgspec.Struct, frozen=True):
    nodes: tuple[str, ...] = ()
    macros: tuple[str, ...] = ()


class Macro(msgspec.Struct, frozen=True):
    depends_on: DependsOn = DependsOn()
    package_name: str = ""
    macro_sql: str = ""


class Node(msgspec.Struct, frozen=True):
    """A model, seed, snapshot, source or exposure; fields that a kind lacks keep their default."""

    unique_id: str
    resource_type: str
    name: str
    package_name: str
    original_file_path: str
    root_path: str | None = None
    patch_path: str | None = None
    config: dict[str, Any] = {}
    columns: dict[str, ColumnNode] = {}
    description: str | None = ""
    tags: tuple[str, ...] = ()
    alias: str = ""
    relation_name: str | None = None
    database: str | None = None
    version: str | int | float | None = None
    latest_version: str | int | float | None = None
    depends_on: DependsOn = DependsOn()
    type: str | None = None
    owner: dict[str, Any] = {}
    source_name: str = ""
    raw_code: str = ""
    compiled_code: str | None = None
    language: str = "sql"
    checksum: dict[str, Any] = {}
    deprecation_date: str | None = None
    access: str | None = None

    @property
    def label(self) -> str:
        """The name; of a source's table, with the source's before it."""
        return f"{self.source_name}.{self.name}" if self.resource_type == "source" else self.name

    @property
    def is_events(self) -> bool:
        """Whether events arrive live in it: a source's table or a seed that says so."""
        return self.resource_type in ("source", "seed") and "event_stream" in self.meta

    @property
    def call(self) -> str:
        """How SQL of dbt names it."""
        names = (self.source_name, self.name) if self.resource_type == "source" else (self.name,)
        of_version = "" if self.version is None else f", v={self.version!r}"
        listed = ", ".join("'" + name.replace("\\", "\\\\").replace("'", "\\'") + "'" for name in names)
        return f"{'source' if self.resource_type == 'source' else 'ref'}({listed}{of_version})"

    @property
    def text(self) -> str:
        """The description, empty where there is none."""
        return (self.description or "").strip()

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that lead to the definition in its YAML file."""
        own = (self.source_name, "tables", self.name) if self.resource_type == "source" else (self.name,)
        return (self.section, *own)

    @property
    def meta(self) -> dict[str, Any]:
        found = self.config.get("meta")
        return found if isinstance(found, dict) else {}

    @property
    def file(self) -> str:
        """The file of the definition: the YAML that describes it or, where there is none, its SQL."""
        return self.original_file_path if self.patch_path is None else self.patch_path.partition("://")[2]

    @property
    def section(self) -> str:
        """The key that the node's YAML stands under: `models`, `exposures`…"""
        return f"{self.resource_type}s"


class Group(msgspec.Struct, frozen=True):
    name: str
    package_name: str
    owner: dict[str, Any] = {}


class Metadata(msgspec.Struct, frozen=True):
    dbt_schema_version: str
    project_name: str = ""


class Manifest(msgspec.Struct, frozen=True):
    metadata: Metadata
    nodes: dict[str, Node]
    sources: dict[str, Node] = {}
    exposures: dict[str, Node] = {}
    groups: dict[str, Group] = {}
    macros: dict[str, Macro] = {}
    disabled: dict[str, list[dict[str, Any]]] = {}

    def models(self) -> list[Node]:
        """Enabled models, by name and version."""
        found = (node for node in self.nodes.values() if node.resource_type == "model")
        return sorted(found, key=lambda node: (node.name, str(node.version), node.unique_id))

    def macros_under(self, unique_ids: Iterable[str]) -> dict[str, Macro]:
        """These macros and those that they call, themselves or through others, without dbt's own."""
        waiting, found = [*unique_ids], dict[str, Macro]()
        for unique_id in waiting:  # the list grows
            macro = self.macros.get(unique_id)
            if macro is not None and macro.package_name not in _OF_DBT and unique_id not in found:
                found[unique_id] = macro
                waiting += macro.depends_on.macros
        return found


class CatalogColumn(msgspec.Struct, frozen=True):
    type: str
    index: int
    name: str


class CatalogTable(msgspec.Struct, frozen=True):
    columns: dict[str, CatalogColumn] = {}


class Catalog(msgspec.Struct, frozen=True):
    """The warehouse's own account of each relation's columns, by unique id."""

    nodes: dict[str, CatalogTable] = {}


def read_manifest(target_path: Path) -> Manifest:
    path = target_path / "manifest.json"
    remedy = "run `dbt parse` in the project, or leave `--no-parse` out"
    manifest = read_artifact(path, Manifest, remedy)
    if manifest is None:
        raise FeatureStoreError("there is no dbt manifest", where=str(path), remedy=remedy)
    if SCHEMA not in manifest.metadata.dbt_schema_version:
        raise FeatureStoreError(
            "the dbt manifest is of another version",
            where=str(path), expected=SCHEMA, got=manifest.metadata.dbt_schema_version,
            remedy="parse the project with dbt-core 1.11",
        )  # fmt: skip
    return manifest


def read_catalog(target_path: Path) -> Catalog:
    """The catalog that `dbt docs generate` wrote; an empty one when there is none."""
    path = target_path / "catalog.json"
    return read_artifact(path, Catalog, "run `dbt docs generate` in the project, or delete the file") or Catalog()


def read_artifact(path: Path, kind: type[Json], remedy: str) -> Json | None:
    """What a file that dbt writes holds; None where there is none. FeatureStoreError for another content."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, *UNREADABLE) as error:
        wrong = "cannot be read" if isinstance(error, OSError) else "is not what dbt writes"
        raise FeatureStoreError(f"a file of dbt {wrong}", where=str(path), got=str(error), remedy=remedy) from None

"""The relation that a new definition is made of: which it is, and its columns."""

import re
from collections.abc import Callable, Iterable, Iterator

import msgspec

from ..dbt.artifacts import Manifest, Node
from ..dtypes import DType, known_sql_type
from ..errors import SettingsError, nearest_name
from ..manifest.blocks import NAME
from ..settings import Settings
from ..warehouse.columns import columns_of

_CALL = re.compile(r"(ref|source)\s*\((.*)\)", re.DOTALL)
_VERSION = re.compile(r"(?:v|version)\s*=\s*(.+)")
_KINDS = ("model", "seed", "snapshot")
_RENAME = "have a model rename its column to that, and name the model with --from"
_SNAPSHOT = ("dbt_valid_from", "dbt_valid_to", "dbt_scd_id", "dbt_updated_at", "dbt_is_deleted")  # dbt's own columns


def unknown(what: str, where: str, got: str, known: Iterable[str], remedy: str | None = None) -> SettingsError:
    """That a name is none of those that there are."""
    known = list(known)
    nearest = nearest_name(got, known)
    return SettingsError(
        what, where=where, got=got, expected=f"one of {', '.join(known)}" if known else "one that there is",
        remedy=f"did you mean {nearest!r}?" if nearest else remedy,
    )  # fmt: skip


class Relation(msgspec.Struct, frozen=True):
    """A model, seed, snapshot or source: how SQL and unit tests of dbt name it, its columns and their types."""

    name: str
    reading: str
    columns: dict[str, str]
    node: Node | None = None

    def need(
        self, names: Iterable[str], option: str, kinds: str = "", fits: Callable[[DType], bool] = lambda dtype: True
    ) -> None:
        """SettingsError where a column is none of its, or of a type that is not of the `kinds` that fit."""
        for name in names:
            if name not in self.columns:
                raise unknown(
                    f"the relation has no column {name!r}", f"{option} of {self.name}", name, self.columns,
                    _RENAME if option == "--entity" else f"name one of these with {option}, or {_RENAME}",
                )  # fmt: skip
            dtype = known_sql_type(self.columns[name])
            if dtype is None or not fits(dtype):
                raise SettingsError(
                    f"column {name!r} has a type that it cannot have", where=f"{option} of {self.name}",
                    expected=kinds or "a type that features may have", got=self.columns[name],
                    remedy="cast it in a model, and name that with --from",
                )  # fmt: skip

    def features(self, but: Iterable[str], taken: Iterable[str]) -> tuple[list[str], list[str]]:
        """The columns that can be features, without those named, and those that cannot: for their type or their name,
        which may be `taken`, and those by which dbt keeps a snapshot: it writes them anew when a row ends."""
        others, kept = [name for name in self.columns if name not in set(but)], {*taken, *self._of_snapshot()}
        named = (name for name in others if NAME.fullmatch(name) and name not in kept)
        fit = [name for name in named if known_sql_type(self.columns[name]) is not None]
        return fit, [name for name in others if name not in fit]

    def _of_snapshot(self) -> Iterator[str]:
        if self.node is None or self.node.resource_type != "snapshot":
            return
        renamed = self.node.config.get("snapshot_meta_column_names") or {}
        for name in _SNAPSHOT:
            yield str(renamed.get(name) or name).lower()


def read_relation(text: str, manifest: Manifest, settings: Settings) -> Relation:
    """The relation of `ref(stg_orders)`, `stg_orders`, `source(raw, orders)` or `raw.orders`.

    SettingsError where the project has none of that name, WarehouseError where it is not in the warehouse.
    """
    node, reading = node_of(text, manifest)
    columns = columns_of(
        str(node.relation_name), settings.warehouse, settings.project_dir, settings.attached, name=node.label
    )
    return Relation(node.label, reading, columns, node)


def node_of(text: str, manifest: Manifest) -> tuple[Node, str]:
    """The node that is meant, and how SQL of dbt names it; SettingsError where the project has none of that name."""
    kind, names, version = _read(text)
    if kind == "source":
        named = {node.label: [node] for node in manifest.sources.values()}
    else:
        named = {}
        for node in manifest.nodes.values():
            if node.resource_type in _KINDS and (len(names) == 1 or node.package_name == names[0]):
                named.setdefault(node.name, []).append(node)
    label = ".".join(names) if kind == "source" else names[-1]
    wanted = [node for node in named.get(label, []) if _is_version(node, version)]
    own = [node for node in wanted if node.package_name == manifest.metadata.project_name]
    found = next(iter(own or wanted), None)
    if found is not None and found.config.get("materialized") != "ephemeral":
        return found, msgspec.structs.replace(found, version=version).call if kind == "ref" else found.call
    remedy = "name it as ref(MODEL), of a model, seed or snapshot that is not ephemeral, or source(SOURCE, TABLE)"
    if label in named:
        versions = [str(node.version or "none") for node in named[label]]
        remedy = "it is ephemeral: name what it reads" if found is not None else f"its versions: {', '.join(versions)}"
        raise SettingsError("that is not in the warehouse", where="--from", got=text, remedy=remedy)
    raise unknown("the project has no such relation", "--from", label, sorted(named), remedy)


def _read(text: str) -> tuple[str, list[str], str | int | None]:
    """Whether a model or a source is named, the names, and the version, of `ref(x, v=1)` or a bare name."""
    call = _CALL.fullmatch(text.strip())
    parts = [part.strip() for part in (call[2].split(",") if call else [text.strip()])]
    versions = [found[1].strip("'\"") for part in parts if (found := _VERSION.fullmatch(part))]
    names = [part.strip("'\"") for part in parts if not _VERSION.fullmatch(part)]
    if call is None and "." in names[0]:
        return "source", names[0].split(".", 1), None
    version = next(iter(versions), None)
    return call[1] if call else "ref", names or [""], int(version) if version and version.isdigit() else version


def _is_version(node: Node, version: str | int | None) -> bool:
    """Whether a node is of a version; without one, the latest."""
    return str(node.version) == str(node.latest_version if version is None else version)

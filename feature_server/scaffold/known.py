"""When the rows of a relation were known: the column that a new view has to say it by."""

from pathlib import Path

from ..dtypes import known_sql_type
from ..errors import SettingsError
from ..lint.run import landed
from .relation import Relation


def created_of(relation: Relation, asked: str | None, root: Path) -> tuple[str | None, list[str]]:
    """The column that says when a row became known: the one `asked` for, or the relation's own where a source under it
    says when its rows landed; with it what that was taken from. SettingsError where `features check` would refuse."""
    node = relation.node
    if node is None:
        return asked, []
    source = node.source_name if node.resource_type == "source" else None
    sources, columns = landed(root, node.name, source, None if node.version is None else str(node.version))
    found = [name for name in relation.columns if name.lower() in columns and _is_instant(relation.columns[name])]
    if not sources or asked in found or (asked is not None and asked not in relation.columns):
        return asked, []
    if asked is None and len(found) == 1:
        return found[0], [f"took {found[0]} as --created: when rows of {', '.join(sources)} were known"]
    remedy = (
        f"add --created with {' or '.join(found)}"
        if found
        else "have a model carry that column, or make it as event time + available_after; then name the model with "
        "--from and the column with --created"
    )
    raise SettingsError(
        "a row of the view would count from its event time on, though nobody knew it yet",
        where=f"--created of {relation.name}", got="none" if asked is None else asked, remedy=remedy,
        expected=f"a column that is made of when rows of {', '.join(sources)} landed",
    )  # fmt: skip


def _is_instant(type_: str) -> bool:
    dtype = known_sql_type(type_)
    return dtype is not None and dtype.is_timestamp

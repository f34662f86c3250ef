"""Entries of the build log that the project's macros write in dbt's DuckDB file."""

from collections.abc import Iterator

import msgspec


class Build(msgspec.Struct, frozen=True):
    """An entry of the warehouse's build log: rows at or after `changed_from_us` may have changed, all if None.

    `as_of` is the instant that the build spoke of.
    """

    invocation_id: str
    changed_from_us: int | None
    as_of: str | None


class BuiltFrom(msgspec.Struct, frozen=True):
    """An entry of the build log: whether it made the `whole` relation, and the hash of the SQL that each model of the
    view, by unique id, was last built by then; none where that was not recorded yet."""

    invocation_id: str
    whole: bool
    models: tuple[tuple[str, str], ...]


def pairs(noted: str) -> Iterator[tuple[str, str]]:
    """What the build log has as `model hash,model hash`."""
    for pair in filter(None, noted.split(",")):
        model, _, found = pair.partition(" ")
        yield model, found

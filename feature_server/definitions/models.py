"""What views are built from: the compiled SQL of dbt's models, seeds' rows, and which new SQL is vouched for."""

import msgspec


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model, seed or snapshot that a feature view is or reads, as it was compiled.

    `sql` is that of a full refresh at a fixed instant, `incremental_sql` that of an incremental run, None where that is
    the same. `reads` maps each relation in the SQL, as it stands there, to a unique id; the empty text
    stands for what is none of the others, files of a source. `rows` is a hash of a seed's rows, `loaded` the one that a
    build leaves of them, `code` one of the file, `macros` one of each macro that the model calls, itself or through
    others. `settings` are those of its config by which it is built otherwise.
    `meaning` is a hash of its canonical SQL and of all that it reads: it stays while that means the same.
    """

    unique_id: str
    package: str
    path: str
    relation: str = ""
    sql: str = ""
    incremental_sql: str | None = None
    reads: dict[str, str] = {}
    settings: dict[str, str] = {}
    rows: str = ""
    loaded: str = ""
    code: str = ""
    macros: dict[str, str] = {}
    meaning: str = ""


class SameMeaning(msgspec.Struct, frozen=True, kw_only=True):
    """That someone vouched for it that a view's new SQL means what it meant: `meaning` is kept, nothing is rebuilt."""

    view: str
    meaning: str
    reason: str
    applied_at_us: int

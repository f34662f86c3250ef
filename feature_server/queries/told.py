"""What is known of a relation's columns: which are pii. Without sqlglot, which nothing needs where that is kept."""

import msgspec

THROUGH = ", through "  # in where pii comes from: by what it could not be followed
EPHEMERAL = "__dbt__cte__"  # how dbt names the CTE that an ephemeral model becomes


class Told(msgspec.Struct, frozen=True):
    """What is known of a relation's columns: which are pii, each with the column that this comes from.

    `every` says why all are, but for those in `but`; `columns` names all in their order, None where they are not known.
    Names are in lower case.
    """

    names: dict[str, str] = {}
    every: str = ""
    but: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None

    @property
    def any(self) -> str:
        return next(iter(self.names.values()), self.every)

    def origin(self, name: str) -> str:
        """Where a column's pii comes from; empty where it has none."""
        return self.names.get(name) or ("" if name in self.but else self.every)

    def is_sure(self, name: str) -> bool:
        """Whether a column was followed to one that is said to be pii."""
        return THROUGH not in self.origin(name)

    def may_have(self, name: str) -> bool:
        return self.columns is None or name in self.columns

    def both(self, other: "Told") -> "Told":
        """What is known of columns of either, by their names."""
        columns = None if self.columns is None or other.columns is None else (*self.columns, *other.columns)
        but = tuple(name for name in self.but if not other.origin(name))
        but += tuple(name for name in other.but if not self.origin(name))
        return Told(self.names | other.names, self.every or other.every, but, columns)

    def told_apart(self, most: int) -> "Told":
        """The same where columns of one name get numbers: `most` may have it."""
        if self.columns is not None and len(set(self.columns)) == len(self.columns):
            return self
        numbered = {
            f"{name}{mark}{number}": origin
            for name, origin in self.names.items()
            for mark in "_:"
            for number in range(1, max(most, (self.columns or ()).count(name)))
        }
        return msgspec.structs.replace(self, names=numbered | self.names, columns=None)


class Read(msgspec.Struct, frozen=True):
    """A relation that a model reads: its name in SQL, and whether SQL may have files in its place."""

    name: str
    told: Told
    in_files: bool = False

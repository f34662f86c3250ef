"""What the client hands back: values, statuses and event timestamps by feature name."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from types import ModuleType
from typing import TYPE_CHECKING, Any

import msgspec

from ..dtypes import DType
from ..errors import RequestError

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow


class FeatureVector(msgspec.Struct, frozen=True, kw_only=True):
    """The features of one entity, by name, in the order asked for.

    `statuses` are PRESENT, NULL_VALUE, NOT_FOUND or OUTSIDE_MAX_AGE; a value is None unless PRESENT.
    `event_timestamps` are UTC; None where there is no row.
    """

    entity: dict[str, Any]
    values: dict[str, Any]
    statuses: dict[str, str]
    event_timestamps: dict[str, datetime | None]

    def __getitem__(self, feature: str) -> Any:
        return self.values[feature]

    def to_dict(self) -> dict[str, Any]:
        """Join keys and values in one dictionary."""
        return self.entity | self.values


class FeatureVectors(msgspec.Struct, frozen=True, kw_only=True):
    """The features of several entities: a list for each name, one item an entity, in the order of the entities.

    `types` holds the feature type of every join key and feature.
    """

    entities: dict[str, list[Any]]
    values: dict[str, list[Any]]
    statuses: dict[str, list[str]]
    event_timestamps: dict[str, list[datetime | None]]
    types: dict[str, DType]

    def __len__(self) -> int:
        return len(next(iter(self.entities.values())))

    def __getitem__(self, feature: str) -> list[Any]:
        return self.values[feature]

    def __iter__(self) -> Iterator[FeatureVector]:
        return map(self.row, range(len(self)))

    def row(self, i: int) -> FeatureVector:
        return FeatureVector(
            entity={name: column[i] for name, column in self.entities.items()},
            values={name: column[i] for name, column in self.values.items()},
            statuses={name: column[i] for name, column in self.statuses.items()},
            event_timestamps={name: column[i] for name, column in self.event_timestamps.items()},
        )

    def to_dict(self) -> dict[str, list[Any]]:
        """Join keys and values as columns in one dictionary."""
        return self.entities | self.values

    def to_arrow(self) -> pyarrow.Table:
        """Join keys and values as a table, one row an entity; a column's type depends on the feature's alone."""
        return _frames().to_arrow(self.to_dict(), self.types)

    def to_pandas(self) -> pandas.DataFrame:
        """Join keys and values as a DataFrame, one row an entity, in the types of docs/types.md."""
        return _frames().to_pandas(self.to_arrow())

    def to_polars(self) -> polars.DataFrame:
        return _frames().to_polars(self.to_arrow())


def _frames() -> ModuleType:
    """What needs pyarrow, loaded when it is asked for."""
    try:
        from .. import frames
    except ImportError as error:
        raise RequestError(
            "tables need pyarrow, which is not installed", where="FeatureVectors", got=str(error),
            remedy="pip install pyarrow pandas polars, as far as they are used; or take to_dict()",
        ) from None  # fmt: skip
    return frames

"""What the client hands back: values, statuses and event timestamps by feature name."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from ..dtypes import FLOAT_WIDTHS, INTEGER_WIDTHS, DType

if TYPE_CHECKING:
    import pandas


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

    def to_pandas(self) -> pandas.DataFrame:
        """Join keys and values as a DataFrame, one row an entity.

        A column's type depends on the feature's alone: integers and booleans are pandas' nullable ones, so that a null
        does not turn them into floats; in a float column null is NaN; dates, decimals, UUIDs and lists are objects.
        """
        import pandas

        return pandas.DataFrame(
            {
                name: pandas.Series(values, dtype=_pandas_type(self.types[name]))
                for name, values in self.to_dict().items()
            }
        )


def _pandas_type(dtype: DType) -> str:
    if dtype.kind in INTEGER_WIDTHS:
        return dtype.kind.replace("int", "Int").replace("uI", "UI")
    names = {"bool": "boolean", "string": "string", "timestamp": "datetime64[us]", "timestamptz": "datetime64[us, UTC]"}
    return names.get(dtype.kind, dtype.kind if dtype.kind in FLOAT_WIDTHS else "object")

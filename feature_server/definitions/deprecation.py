"""Views that their owners ask to be read no more: what an answer says of them, and who warns."""

import warnings
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from .facts import FeatureView

DEPRECATION, DEPRECATED = "deprecation", "features-deprecated"  # headers: the first of RFC 9745, which has no names
MOST_NAMED = 50  # in a header


def deprecated_views(views: Iterable[FeatureView]) -> dict[str, str]:
    """By id of each view that has one, its deprecation date in ISO 8601."""
    return {view.id: view.deprecation_date for view in views if view.deprecation_date}


def deprecation_headers(deprecated: Mapping[str, str]) -> dict[str, str]:
    """The headers of an answer that holds features of such views."""
    if not deprecated:
        return {}
    moments = [datetime.fromisoformat(text) for text in deprecated.values()]
    first = min(moment if moment.tzinfo else moment.replace(tzinfo=UTC) for moment in moments)
    named = [f"{view}={text}" for view, text in list(deprecated.items())[:MOST_NAMED]]
    return {DEPRECATION: f"@{int(first.timestamp())}", DEPRECATED: ", ".join(named)}


def deprecated_in(headers: Mapping[str, str]) -> dict[str, str]:
    """What such an answer's headers name."""
    named = headers.get(DEPRECATED)
    return dict(pair.split("=", 1) for pair in named.split(", ") if "=" in pair) if named else {}


def warn_deprecated(deprecated: Mapping[str, str], told: set[str]) -> None:
    """A FutureWarning for each view that was not `told` of yet."""
    for view, text in deprecated.items():
        if view not in told:
            told.add(view)
            warnings.warn(f"feature view {view} is deprecated as of {text}: read another", FutureWarning, stacklevel=3)

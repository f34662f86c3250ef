"""Feature warehouse: features from dbt SQL to training sets and online values.

The public names load what they need when first used, so that importing the client stays light.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {"FeatureClient": "client", "AsyncFeatureClient": "client", "FeatureStore": "store"}

__all__ = ["AsyncFeatureClient", "FeatureClient", "FeatureStore"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Feature warehouse: features from dbt SQL to training sets and online values.

The public names load what they need when first used, so that importing the client stays light.
"""

import importlib
from typing import Any

_PUBLIC = {
    "AsyncFeatureClient": "client.features",
    "FeatureClient": "client.features",
    "FeatureStore": "store",
    "FeatureStoreError": "errors",
}

__all__ = ["AsyncFeatureClient", "FeatureClient", "FeatureStore", "FeatureStoreError"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        from .extras import needed

        with needed(name):
            return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

"""Run by an interpreter that has Feast, in a Feast repository: reads features of a feature server, and prints them.

Its arguments are the server's URL and, for each read, a key or nothing.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

CONFIG = """
project: shop
provider: local
registry: registry.db
online_store:
  type: remote
  path: {url}
entity_key_serialization_version: 3
auth:
  type: {auth}
"""


def read(url: str, key: str) -> object:
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
    from feast.types import Float64

    os.environ["FEATURES_KEY"] = key
    auth = "oidc\n  token_env_var: FEATURES_KEY" if key else "no_auth"
    Path("feature_store.yaml").write_text(CONFIG.format(url=url, auth=auth))
    store = FeatureStore(repo_path=".")
    merchant = Entity(name="merchant", join_keys=["merchant_id"], value_type=ValueType.STRING)
    view = FeatureView(
        name="merchant__risk",
        entities=[merchant],
        schema=[Field(name="ratio", dtype=Float64)],
        source=FileSource(path="risk.parquet", timestamp_field="at"),
    )
    store.registry.apply_entity(merchant, "shop")
    store.registry.apply_feature_view(view, "shop")
    try:
        return store.get_online_features(
            features=["merchant__risk:ratio"], entity_rows=[{"merchant_id": "a"}, {"merchant_id": "b"}]
        ).to_dict()
    except Exception as error:  # noqa: BLE001 - what Feast makes of a refusal is printed
        return repr(error)


if __name__ == "__main__":
    for shown in sys.argv[2:]:
        print(json.dumps(read(sys.argv[1], shown)))

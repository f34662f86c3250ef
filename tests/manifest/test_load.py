"""What a manifest becomes, and each mistake on its own: a sound manifest by dbt is changed in one place."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from feature_server.dbt.parse import dbt_parse
from feature_server.definitions.facts import Entity, Feature, FeatureRef, FeatureService, FeatureView, JoinKey, Owner
from feature_server.definitions.registry import Registry
from feature_server.dtypes import DType
from feature_server.errors import DefinitionError, FeatureStoreError
from feature_server.manifest.load import load_registry
from tests.support.tiny_project import write_project

V1, V2 = "model.tiny.customer__activity.v1", "model.tiny.customer__activity.v2"
VISITS = "model.tiny.customer_shop__visits"
CUSTOMERS, SHOPS = "model.tiny.customers", "model.tiny.shops"
FRAUD = "exposure.tiny.fraud_v1"
DAY_US = 86_400_000_000

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_project(tmp_path_factory.mktemp("tiny"))
    dbt_parse(folder, folder / "target")
    return folder


@pytest.fixture(scope="module")
def parsed(project: Path) -> Manifest:
    return json.loads((project / "target" / "manifest.json").read_text()) | {"macros": {}}


def load(project: Path, target: Path, manifest: Manifest, catalog: Manifest | None = None) -> Registry:
    (target / "manifest.json").write_text(json.dumps(manifest))
    if catalog is not None:
        (target / "catalog.json").write_text(json.dumps(catalog))
    return load_registry(project, target)


def problems_of(project: Path, target: Path, manifest: Manifest, catalog: Manifest | None = None) -> list[str]:
    """`key path: what` of each problem."""
    with pytest.raises(DefinitionError) as raised:
        load(project, target, manifest, catalog)
    return [f"{problem.key_path}: {problem.what}" for problem in raised.value.problems]


CUSTOMER = JoinKey("customer_id", DType("int64"))
SHOP = (JoinKey("country", DType("string")), JoinKey("shop_number", DType("int32")))


def tiny_views() -> tuple[FeatureView, FeatureView, FeatureView]:
    """The feature views of the tiny project, without fingerprints."""
    int64 = DType("int64")
    transactions = Feature(
        name="transactions_1h", dtype=int64, tags=("window",),
        description="Transactions in the last hour; 0 when there were none.",
    )  # fmt: skip
    amount = Feature(
        name="amount_eur_sum_1h", dtype=DType("decimal", precision=18, scale=2),
        description="Euros spent in the last hour; 0 when there were no transactions.",
    )  # fmt: skip
    activity = FeatureView(
        name="customer__activity", version="1", latest=False, entities=("customer",), join_keys=(CUSTOMER,),
        event_timestamp="occurred_at", created_timestamp="ingested_at", ttl_us=30 * DAY_US, refresh="hourly",
        features=(transactions,), description="Card activity of a customer. One row per transaction.",
        owner=Owner(name="Risk", email="risk@example.com", group="risk"), tags=("cards",),
        relation='"tiny"."main"."customer__activity_v1"', identifier="customer__activity_v1", unique_id=V1,
        path="models/customer__activity_v1.sql", fingerprint="",
    )  # fmt: skip
    second = msgspec.structs.replace(
        activity, version="2", latest=True, features=(transactions, amount), unique_id=V2,
        relation='"tiny"."main"."customer__activity_v2"', identifier="customer__activity_v2",
        path="models/customer__activity_v2.sql",
    )  # fmt: skip
    visits = FeatureView(
        name="customer_shop__visits", entities=("customer", "shop"), join_keys=(CUSTOMER, *SHOP), refresh="manual",
        online=False, description="Visits of a customer to a shop. One row per visit.", owner=activity.owner,
        features=(Feature(name="minutes", dtype=DType("float64"), description="Length of the visit in minutes."),),
        relation='"tiny"."main"."customer_shop__visits"', identifier="customer_shop__visits", unique_id=VISITS,
        path="models/customer_shop__visits.sql",
    )  # fmt: skip
    return activity, second, visits


def test_a_sound_manifest_becomes_this_registry(project: Path) -> None:
    registry = load_registry(project, project / "target")
    fingerprints = [view.fingerprint for view in registry.feature_views]
    assert len(set(fingerprints)) == 3
    assert all(len(text) == 16 and int(text, 16) >= 0 for text in fingerprints)
    assert registry == Registry(
        project="tiny",
        entities=(
            Entity(
                name="customer", join_keys=(CUSTOMER,), description="Customers. One row per customer.",
                path="models/customers.sql",
            ),
            Entity(
                name="shop", join_keys=SHOP, description="Shops. One row per country and number.",
                path="models/shops.sql",
            ),
        ),
        feature_views=tuple(
            msgspec.structs.replace(view, fingerprint=text)
            for view, text in zip(tiny_views(), fingerprints, strict=True)
        ),
        feature_services=(
            FeatureService(
                name="fraud_v1", description="Scores a payment.", path="models/services.yml",
                owner=Owner(name="Risk models", email="models@example.com"),
                features=(
                    FeatureRef("customer__activity@v2", "amount_eur_sum_1h", "customer__activity:amount_eur_sum_1h"),
                    FeatureRef("customer__activity@v1", "transactions_1h", "customer__activity@v1:transactions_1h"),
                ),
            ),
        ),
    )  # fmt: skip


def view_block(manifest: Manifest, unique_id: str = VISITS) -> dict[str, Any]:
    return manifest["nodes"][unique_id]["config"]["meta"]["feature_view"]


def column(manifest: Manifest, name: str, unique_id: str = VISITS) -> dict[str, Any]:
    return manifest["nodes"][unique_id]["columns"][name]


def node(manifest: Manifest, unique_id: str = VISITS) -> dict[str, Any]:
    return manifest["nodes"][unique_id]


def fraud(manifest: Manifest) -> dict[str, Any]:
    return manifest["exposures"][FRAUD]


def service_features(manifest: Manifest) -> list[Any]:
    return fraud(manifest)["config"]["meta"]["feature_service"]["features"]


MODEL = "models[customer_shop__visits]"
BLOCK = f"{MODEL}.config.meta.feature_view"
SERVICE = "exposures[fraud_v1]"
NAMED = f"{SERVICE}.config.meta.feature_service.features"
WRONG = "has a value that it cannot have"

MISTAKES: list[tuple[Callable[[Manifest], Any], list[str]]] = [
    # a block as a whole
    (lambda m: node(m)["config"]["meta"].update(feature_view=[]), [f"{BLOCK}: feature_view is not a mapping"]),
    (lambda m: node(m)["config"]["meta"].update({"feature-view": {}}),
     [f"{MODEL}.config.meta.feature-view: unknown key 'feature-view'"]),
    (lambda m: node(m)["config"]["meta"].update(feature_service={}),
     [f"{MODEL}.config.meta.feature_service: a model cannot hold feature_service"]),
    (lambda m: fraud(m)["config"]["meta"].update(feature_view={}),
     [f"{SERVICE}.config.meta.feature_view: an exposure cannot hold feature_view"]),
    # keys and values
    (lambda m: view_block(m).update(event_timestmp="event_timestamp"),
     [f"{BLOCK}.event_timestmp: unknown key 'event_timestmp'"]),
    (lambda m: view_block(m).update(ttl="30 d"), [f"{BLOCK}.ttl: ttl {WRONG}"]),
    (lambda m: view_block(m).update(ttl=30), [f"{BLOCK}.ttl: ttl {WRONG}"]),
    (lambda m: view_block(m).update(ttl="0d"), [f"{BLOCK}.ttl: ttl {WRONG}"]),
    (lambda m: view_block(m).update(ttl=None), [f"{BLOCK}.ttl: ttl {WRONG}"]),
    (lambda m: view_block(m).update(online="false"), [f"{BLOCK}.online: online {WRONG}"]),
    (lambda m: view_block(m).update(online=0), [f"{BLOCK}.online: online {WRONG}"]),
    (lambda m: fraud(m)["config"]["meta"]["feature_service"].update(consistent="yes"),
     [f"{SERVICE}.config.meta.feature_service.consistent: consistent {WRONG}"]),
    (lambda m: view_block(m).update(refresh="15m"), [f"{BLOCK}.refresh: refresh {WRONG}"]),
    (lambda m: view_block(m).update(refresh=["hourly"]), [f"{BLOCK}.refresh: refresh {WRONG}"]),
    (lambda m: view_block(m).pop("refresh"), [f"{BLOCK}: refresh is missing"]),
    (lambda m: view_block(m, V2).update(ttl="x"),
     ["models[customer__activity@v2].config.meta.feature_view.ttl: ttl " + WRONG]),
    (lambda m: (view_block(m, V1).update(ttl="x"), view_block(m, V2).update(ttl="x")),
     ["models[customer__activity].config.meta.feature_view.ttl: ttl " + WRONG]),
    # entities and join keys
    (lambda m: view_block(m).update(entities=["customer", "shopp"]), [
        f"{BLOCK}.entities[1]: unknown entity 'shopp'",
    ]),
    (lambda m: view_block(m).update(entities="customer"), [f"{BLOCK}.entities: entities {WRONG}"]),
    (lambda m: view_block(m).update(entities=[]), [f"{BLOCK}.entities: entities {WRONG}"]),
    (lambda m: view_block(m)["entities"].append("shop"), [f"{BLOCK}.entities: entity 'shop' is named twice"]),
    (lambda m: node(m)["columns"].pop("shop_number"),
     [f"{MODEL}.columns: join key of entity 'shop', 'shop_number' is not a column of the model"]),
    (lambda m: column(m, "shop_number").update(data_type="bigint"),
     [f"{MODEL}.columns[shop_number].data_type: join key 'shop_number' has another type than entity 'shop' has"]),
    (lambda m: column(m, "customer_id", CUSTOMERS).update(data_type="double"),
     ["models[customers].columns[customer_id].data_type: "
      "join key 'customer_id' has a type that cannot identify an entity"]),
    (lambda m: node(m, CUSTOMERS)["config"]["meta"]["entity"].update(name="shop"),
     ["models[shops].config.meta.entity.name: entity 'shop' is declared twice",
      "models[customer__activity].config.meta.feature_view.entities[0]: unknown entity 'customer'",
      f"{BLOCK}.entities[0]: unknown entity 'customer'"]),
    (lambda m: (node(m, CUSTOMERS)["config"]["meta"]["entity"].update(name="a customer"),
                view_block(m).update(entities=["a customer", "shop"]),
                view_block(m, V1).update(entities=["a customer"]), view_block(m, V2).update(entities=["a customer"])),
     ["models[customers].config.meta.entity.name: an entity cannot have this name"]),
    (lambda m: node(m, CUSTOMERS)["config"]["meta"]["entity"].update(join_keys=["customer_id"] * 2),
     ["models[customers].config.meta.entity.join_keys: join key 'customer_id' is named twice"]),
    (lambda m: (node(m, CUSTOMERS)["config"]["meta"]["entity"].update(join_keys=["customer_id", "features"]),
                *(node(m, of)["columns"].update(features=column(m, "customer_id", of) | {"name": "features"})
                  for of in (CUSTOMERS, V1, V2, VISITS))),
     ["models[customers].config.meta.entity.join_keys[1]: a join key cannot be named 'features'"]),
    (lambda m: node(m, CUSTOMERS)["config"]["meta"]["entity"].pop("join_keys"),
     ["models[customers].config.meta.entity: join_keys is missing"]),
    (lambda m: node(m, CUSTOMERS)["config"]["meta"]["entity"].update(join_key="customer_id"),
     ["models[customers].config.meta.entity.join_key: unknown key 'join_key'"]),
    (lambda m: (node(m, SHOPS)["config"]["meta"]["entity"].update(join_keys=["customer_id"]),
                node(m, SHOPS)["columns"].update(customer_id=column(m, "country", SHOPS) | {"name": "customer_id"}),
                view_block(m).update(entities=["customer"])),
     ["models[shops].columns[customer_id].data_type: "
      "join key 'customer_id' has another type than in entity 'customer'"]),
    (lambda m: node(m, CUSTOMERS).update(description=" "),
     ["models[customers].description: the entity has no description"]),
    # columns
    (lambda m: column(m, "event_timestamp").update(data_type="date"),
     [f"{MODEL}.columns[event_timestamp].data_type: event_timestamp 'event_timestamp' is not a timestamp"]),
    (lambda m: view_block(m).update(created_timestamp="created"),
     [f"{BLOCK}.created_timestamp: created_timestamp 'created' is not a column of the model"]),
    (lambda m: view_block(m).update(created_timestamp="event_timestamp"),
     [f"{BLOCK}: column 'event_timestamp' has two parts to play"]),
    (lambda m: column(m, "minutes").update(data_type="interval"),
     [f"{MODEL}.columns[minutes].data_type: column 'minutes' has a type that features cannot have"]),
    (lambda m: column(m, "minutes").update(data_type="decimal(40,2)"),
     [f"{MODEL}.columns[minutes].data_type: column 'minutes' has a type that features cannot have"]),
    (lambda m: column(m, "minutes").update(data_type=None),
     [f"{MODEL}.columns[minutes].data_type: the type of column 'minutes' is not known"]),
    (lambda m: column(m, "minutes").update(description="  "),
     [f"{MODEL}.columns[minutes].description: feature 'minutes' has no description"]),
    (lambda m: node(m)["columns"].pop("minutes"), [f"{MODEL}.columns: the feature view has no feature"]),
    (lambda m: node(m)["columns"].update({"a b": column(m, "minutes") | {"name": "a b"}}),
     [f"{MODEL}.columns[a b]: a feature cannot have this name"]),
    # the model
    (lambda m: node(m).update(description=""), [f"{MODEL}.description: the feature view has no description"]),
    (lambda m: node(m)["config"].update(group=None), [f"{MODEL}.config.group: the feature view has no owner"]),
    (lambda m: node(m)["config"].update(materialized="ephemeral"),
     [f"{MODEL}.config.materialized: an ephemeral model leaves nothing to publish"]),
    (lambda m: node(m, V2).update(version="2.1", latest_version="2.1"),
     ["models[customer__activity@v2.1].versions: a feature view cannot have version '2.1'"]),
    # services
    (lambda m: fraud(m).update(type="dashboard"), [f"{SERVICE}.type: a feature service is an exposure of type ml"]),
    (lambda m: fraud(m).update(description=""), [f"{SERVICE}.description: the feature service has no description"]),
    (lambda m: fraud(m)["depends_on"]["nodes"].remove(V1),
     [f"{SERVICE}.depends_on: the service reads customer__activity@v1 but does not depend on it"]),
    (lambda m: service_features(m).append("customer__activity@v3:transactions_1h"),
     [f"{NAMED}[2]: unknown feature view 'customer__activity@v3'"]),
    (lambda m: service_features(m).append("customer__activity@v1:amount_eur_sum_1h"),
     [f"{NAMED}[2]: unknown feature of customer__activity@v1 'amount_eur_sum_1h'"]),
    (lambda m: service_features(m).append("customer__activity@v2:amount_eur_sum_1h"),
     [f"{NAMED}[2]: 'customer__activity@v2:amount_eur_sum_1h' is named twice"]),
    (lambda m: service_features(m).append("customer__activity:a:b"),
     [f"{NAMED}[2]: 'customer__activity:a:b' is not a feature reference"]),
    (lambda m: service_features(m).append(7), [f"{NAMED}: features {WRONG}"]),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(MISTAKES)))
def test_a_single_mistake_is_reported_alone(number: int, project: Path, parsed: Manifest, tmp_path: Path) -> None:
    change, expected = MISTAKES[number]
    manifest = copy.deepcopy(parsed)
    change(manifest)
    assert problems_of(project, tmp_path, manifest) == expected


def test_a_type_that_yaml_cut_at_its_comma_is_to_be_quoted(project: Path, parsed: Manifest, tmp_path: Path) -> None:
    column(manifest := copy.deepcopy(parsed), "minutes").update(data_type="decimal(12")
    with pytest.raises(DefinitionError, match="put the type in quotes"):
        load(project, tmp_path, manifest)


def test_meta_keys_of_other_tools_are_left_alone(project: Path, parsed: Manifest, tmp_path: Path) -> None:
    manifest = copy.deepcopy(parsed)
    node(manifest)["config"]["meta"] |= {"identity": "x", "entity_view": {}, "feature_view_note": "", "owner": "Risk"}
    column(manifest, "minutes")["meta"] = {"unit": "minutes"}
    assert load(project, tmp_path, manifest) == load(project, tmp_path, parsed)


def test_a_service_that_names_a_disabled_view_is_told_so(project: Path, parsed: Manifest, tmp_path: Path) -> None:
    manifest = copy.deepcopy(parsed)
    service_features(manifest).append("customer_shop__visits:minutes")
    manifest["disabled"] = {VISITS: [manifest["nodes"].pop(VISITS)]}
    with pytest.raises(DefinitionError) as raised:
        load(project, tmp_path, manifest)
    (problem,) = raised.value.problems
    assert problem.what == "unknown feature view 'customer_shop__visits'"
    assert problem.remedy == (
        "model customer_shop__visits is disabled: enable it, or drop its features from the service"
    )


def test_a_view_of_another_package_cannot_take_a_name_twice(project: Path, parsed: Manifest, tmp_path: Path) -> None:
    manifest = copy.deepcopy(parsed)
    other = copy.deepcopy(node(manifest)) | {"unique_id": "model.zoo.visits", "package_name": "zoo"}
    manifest["nodes"]["model.zoo.visits"] = other
    with pytest.raises(DefinitionError) as raised:
        load(project, tmp_path, manifest)
    (problem,) = raised.value.problems
    assert (problem.file, problem.what, problem.got) == (
        "zoo://models/features.yml", "feature view 'customer_shop__visits' is defined twice", "also in package tiny",
    )  # fmt: skip


def catalog_of(columns: dict[str, str], unique_id: str = VISITS) -> Manifest:
    listed = {name: {"type": kind, "index": i, "name": name} for i, (name, kind) in enumerate(columns.items())}
    return {"nodes": {unique_id: {"columns": listed}}}


WAREHOUSE = {
    "customer_id": "BIGINT", "country": "VARCHAR", "shop_number": "INTEGER", "event_timestamp": "TIMESTAMP",
    "minutes": "DOUBLE",
}  # fmt: skip


def test_the_catalog_gives_the_types_that_the_yaml_leaves_out(project: Path, parsed: Manifest, tmp_path: Path) -> None:
    manifest = copy.deepcopy(parsed)
    for listed in node(manifest)["columns"].values():
        listed["data_type"] = None
    assert load(project, tmp_path, manifest, catalog_of(WAREHOUSE)) == load(project, tmp_path, parsed)


@pytest.mark.parametrize(
    ("warehouse", "expected"),
    [
        (WAREHOUSE | {"minutes": "FLOAT"},
         [f"{MODEL}.columns[minutes].data_type: column 'minutes' has another type in the warehouse"]),
        (WAREHOUSE | {"pages": "BIGINT"},
         [f"{MODEL}.columns: column 'pages' is in the warehouse but not described"]),
    ],
)  # fmt: skip
def test_without_a_contract_the_yaml_may_not_differ_from_the_warehouse(
    warehouse: dict[str, str], expected: list[str], project: Path, parsed: Manifest, tmp_path: Path
) -> None:
    assert problems_of(project, tmp_path, parsed, catalog_of(warehouse)) == expected


def test_with_an_enforced_contract_the_yaml_is_the_truth(project: Path, parsed: Manifest, tmp_path: Path) -> None:
    older = catalog_of({"customer_id": "INTEGER", "gone": "BIGINT"}, V2)
    assert load(project, tmp_path, parsed, older) == load(project, tmp_path, parsed)


def fingerprint(registry: Registry) -> str:
    return registry.feature_view("customer_shop__visits").fingerprint


CHANGES_OF_MEANING: list[Callable[[Manifest], Any]] = [
    lambda m: column(m, "minutes").update(data_type="float"),
    lambda m: node(m)["columns"].update(pages=column(m, "minutes") | {"name": "pages"}),
    lambda m: node(m)["columns"].update(created=column(m, "event_timestamp") | {"name": "created"}),
    lambda m: view_block(m).update(entities=["shop", "customer"]),
    lambda m: (column(m, "customer_id").update(data_type="integer"),
               column(m, "customer_id", CUSTOMERS).update(data_type="integer"),
               column(m, "customer_id", V1).update(data_type="integer"),
               column(m, "customer_id", V2).update(data_type="integer")),
]  # fmt: skip
SAME_MEANING: list[Callable[[Manifest], Any]] = [
    lambda m: view_block(m).update(ttl="1d", refresh="hourly", online=True),
    lambda m: column(m, "minutes").update(description="Minutes.", tags=["x"], data_type="DOUBLE PRECISION"),
    lambda m: node(m).update(description="Visits."),
]


@pytest.mark.parametrize("change", CHANGES_OF_MEANING)
def test_the_fingerprint_changes_with_the_meaning_of_a_row(
    change: Callable[[Manifest], Any], project: Path, parsed: Manifest, tmp_path: Path
) -> None:
    manifest = copy.deepcopy(parsed)
    change(manifest)
    assert fingerprint(load(project, tmp_path, manifest)) != fingerprint(load(project, tmp_path, parsed))


@pytest.mark.parametrize("change", SAME_MEANING)
def test_the_fingerprint_stays_when_only_words_or_schedules_change(
    change: Callable[[Manifest], Any], project: Path, parsed: Manifest, tmp_path: Path
) -> None:
    manifest = copy.deepcopy(parsed)
    change(manifest)
    assert fingerprint(load(project, tmp_path, manifest)) == fingerprint(load(project, tmp_path, parsed))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"metadata": {}}', '{"nodes": {}}', "\xff"])
def test_a_manifest_that_dbt_did_not_write_is_an_error_with_a_remedy(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(FeatureStoreError) as raised:
        load_registry(tmp_path, tmp_path)
    assert raised.value.what == "a file of dbt is not what dbt writes"
    assert raised.value.where == str(tmp_path / "manifest.json")
    assert raised.value.remedy == "run `dbt parse` in the project, or leave `--no-parse` out"


def test_a_manifest_of_another_dbt_is_named_as_such(project: Path, parsed: Manifest, tmp_path: Path) -> None:
    manifest = copy.deepcopy(parsed)
    manifest["metadata"]["dbt_schema_version"] = "https://schemas.getdbt.com/dbt/manifest/v9.json"
    with pytest.raises(FeatureStoreError, match="of another version"):
        load(project, tmp_path, manifest)

"""What a schedule has to know of a manifest: models with their tests, by what they are chosen, and what is upstream."""

from __future__ import annotations

from feature_server.dbt.artifacts import DependsOn, Manifest, Metadata, Node
from feature_server.definitions.registry import Registry
from feature_server.definitions.schedule import Schedule, ScheduledModel, ScheduledView
from feature_server.manifest.schedule import schedule_of


def node(unique_id: str, *upstream: str, **given: object) -> Node:
    kind, package, name = unique_id.split(".")[:3]
    return Node(
        unique_id=unique_id, resource_type=kind, name=name, package_name=package, original_file_path="",
        depends_on=DependsOn(nodes=upstream), **given,  # type: ignore[arg-type]
    )  # fmt: skip


def scheduled(*nodes: Node) -> list[ScheduledModel]:
    manifest = Manifest(metadata=Metadata(dbt_schema_version=""), nodes={one.unique_id: one for one in nodes})
    return list(schedule_of(Registry(project="shop"), manifest).models)


def test_a_model_has_the_tests_that_read_it_and_what_it_is_made_from() -> None:
    found = scheduled(
        node("model.shop.visits.v2", "model.shop.shops", "source.shop.raw.visits", config={"group": "risk"}),
        node("model.shop.shops", tags=("labels",), config={"meta": {"entity": {"name": "shop"}}}),
        node("test.shop.related.1", "model.shop.shops", "model.shop.visits.v2", tags=("slow",)),
        node("test.shop.unique.2", "model.shop.shops"),
        node("operation.shop.end"),
    )
    assert found == [
        ScheduledModel(
            unique_id="model.shop.shops", task="shops", entity="shop",
            tests=("test.shop.related.1", "test.shop.unique.2"), tags=("labels", "slow"),
        ),
        ScheduledModel(
            unique_id="model.shop.visits.v2", task="visits_v2", group="risk", upstream=("model.shop.shops",),
            tests=("test.shop.related.1",), tags=("slow",),
        ),
    ]  # fmt: skip


def test_models_of_one_name_have_tasks_of_their_own() -> None:
    assert [model.task for model in scheduled(node("model.a.rates"), node("model.b.rates"), node("seed.a.codes"))] == [
        "a__rates", "b__rates", "codes",
    ]  # fmt: skip


def test_a_cadence_builds_its_views_their_entities_what_is_tagged_and_all_upstream() -> None:
    def model(name: str, *upstream: str, **given: object) -> ScheduledModel:
        return ScheduledModel(unique_id=name, task=name, upstream=upstream, **given)  # type: ignore[arg-type]

    schedule = Schedule(
        views=(
            ScheduledView(id="spend", unique_id="spend", refresh="hourly", entities=("customer",)),
            ScheduledView(id="rent", unique_id="rent", refresh="daily", entities=("shop",)),
        ),
        models=(
            model("customers", "raw_customers", entity="customer"), model("fraud", "raw_fraud", tags=("labels",)),
            model("raw_customers"), model("raw_fraud"), model("raw_payments"), model("payments", "raw_payments"),
            model("rent", "payments"), model("shops", entity="shop"), model("spend", "payments"), model("unused"),
        ),
    )  # fmt: skip
    common = ["payments", "raw_payments"]
    hourly = [found.unique_id for found in schedule.built_for("hourly")]
    daily = [found.unique_id for found in schedule.built_for("daily", ["labels"])]
    assert sorted(hourly) == sorted(["customers", "raw_customers", "spend", *common])
    assert sorted(daily) == sorted(["fraud", "raw_fraud", "rent", "shops", *common])
    assert schedule.built_for("weekly") == ()

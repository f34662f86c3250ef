"""The example's models, macros, seeds, staging and packages: each change of meaning is seen, no rewriting is.

dbt takes seconds, so all changes stand in one project, each in a model of its own.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from feature_server.definitions.changes import plan
from feature_server.definitions.registry import Registry
from feature_server.meaning.explained import MeaningChange, changes_of_meaning
from tests.support.changed_project import LATEST, Change, change, compiled, copied_project

pytestmark = pytest.mark.heavy  # each compiles a project several times

FEATURES, FLIGHTS, PAYMENTS = "models/features", "models/staging/flights", "models/staging/payments"
ACTIVITY = "models/intermediate/payments/int_payments__merchant_activity.sql"
WINDOWS = "dbt_packages/feature_warehouse/macros/window_ticks.sql"

# Each change of meaning: the model that it is seen in, why, and the change itself.
MUTATIONS: dict[str, tuple[str, str, Change]] = {
    "a window": (
        "airport__departures", "airport__departures.sql",
        (f"{FEATURES}/airport/airport__departures.sql", "interval 1 hour preceding", "interval 2 hours preceding"),
    ),
    "an end": (
        "airport__weather", "airport__weather.sql",
        (f"{FEATURES}/airport/airport__weather.sql", "<= 32", "< 32"),
    ),
    "an aggregate": (
        "customer__visits", "customer__visits.sql",
        (f"{FEATURES}/customer/customer__visits.sql", "max(visits.", "min(visits."),
    ),
    "a distinct in an aggregate": (
        "merchant__transactions", "merchant__transactions.sql",
        (f"{FEATURES}/merchant/merchant__transactions.sql", "count(distinct", "count("),
    ),
    "a number": (
        "customer__purchases.v1", "customer__purchases_v1.sql",
        (f"{FEATURES}/customer/customer__purchases_v1.sql", "> 0 as is_active_30d", "> 1 as is_active_30d"),
    ),
    "a sign": (
        "customer__purchases.v2", "customer__purchases_v2.sql",
        (f"{FEATURES}/customer/customer__purchases_v2.sql", "then -transactions", "then transactions"),
    ),
    "sides of a difference": (
        "plane__previous_leg", "plane__previous_leg.sql",
        (f"{FEATURES}/plane/plane__previous_leg.sql", "departure_delay_minutes - arrival_delay_minutes",
         "arrival_delay_minutes - departure_delay_minutes"),
    ),
    "a constant": (
        "plane__registration", "plane__registration.sql",
        (f"{FEATURES}/plane/plane__registration.sql", "2013 - built_year", "2014 - built_year"),
    ),
    "a filter left out": (
        "customer__transactions", "customer__transactions.sql",
        (f"{FEATURES}/customer/customer__transactions.sql", "count(*) filter (where not is_refund) over lifetime",
         "count(*) over lifetime"),
    ),
    "a negation between the model and staging": (
        "int_payments__merchant_activity", "int_payments__merchant_activity.sql",
        (ACTIVITY, "where not is_refund", "where is_refund"),
    ),
    "a comparison in staging": (
        "stg_flights__departures", "stg_flights__departures.sql",
        (f"{FLIGHTS}/stg_flights__departures.sql", "> 15 as is_late", ">= 15 as is_late"),
    ),
    "a sign in staging": (
        "stg_flights__arrivals", "stg_flights__arrivals.sql",
        (f"{FLIGHTS}/stg_flights__arrivals.sql", "        arrival_delay_minutes,",
         "        -arrival_delay_minutes as arrival_delay_minutes,"),
    ),
    "a column in staging": (
        "stg_flights__planes", "stg_flights__planes.sql",
        (f"{FLIGHTS}/stg_flights__planes.sql", "seats::integer as seats", "engines::integer as seats"),
    ),
    "an instant in staging": (
        "stg_flights__weather", "stg_flights__weather.sql",
        (f"{FLIGHTS}/stg_flights__weather.sql", "interval '1 hour' as known_at", "interval '2 hours' as known_at"),
    ),
    "a distinct in staging": (
        "stg_payments__transactions", "stg_payments__transactions.sql",
        (f"{PAYMENTS}/stg_payments__transactions.sql", "select distinct *", "select *"),
    ),
    "a name in staging": (
        "stg_payments__fraud_reports", "stg_payments__fraud_reports.sql",
        (f"{PAYMENTS}/stg_payments__fraud_reports.sql", "reported_at as occurred_at", "ingested_at as occurred_at"),
    ),
    "five days cut off in a macro": (
        "carrier__delays", "macro in_window",
        (WINDOWS, "interval '{{ window }}'\n        and {{ events }}.occurred_at <=",
         "interval '{{ window }}' + interval '5 days'\n        and {{ events }}.occurred_at <="),
    ),
    "another macro": (
        "carrier_airport__delays", "macro window_ticks", (WINDOWS, "select distinct", "select"),
    ),
    "a row of a seed": (
        "known_countries", "rows of seeds/known_countries.csv", ("seeds/known_countries.csv", "BE,2012\n", "DE,2012\n"),
    ),
    "a variable": (
        "stg_payments__latest_transactions", "variable refund",
        ("dbt_project.yml", "refund: refund", "refund: returned"),
    ),
    "a package's macro": (
        "customer__profile", "package shared: macro day",
        ("dbt_packages/shared/macros/day.sql", "{{ column }}::date", "({{ column }} + interval '1 day')::date"),
    ),
    "a package's model": (
        "closed_days", "package shared: models/closed_days.sql",
        ("dbt_packages/shared/models/closed_days.sql", "2013-12-25", "2013-12-26"),
    ),
}  # fmt: skip

REWRITINGS: dict[str, Change] = {
    "a renamed window": (f"{FEATURES}/airport/airport__departures.sql", "last_3_hours", "three_hours"),
    "a moved column": (
        f"{FEATURES}/airport/airport__weather.sql", "        pressure_millibars,\n        visibility_miles,\n",
        "        visibility_miles,\n        pressure_millibars,\n",
    ),
    "case, and a comment": (f"{FEATURES}/customer/customer__visits.sql", "count(visits", "/* each */ COUNT(visits"),
    "a comment of Jinja": (f"{FEATURES}/carrier/carrier__delays.sql", "final as (", "{# the rows #}final as ("),
    "a renamed CTE": (ACTIVITY, "usable_reports", "reports_in_use"),
    "parentheses": (
        f"{FEATURES}/merchant/merchant__transactions.sql", "not transactions.is_refund",
        "(not (transactions.is_refund))",
    ),
    "a mirrored comparison": (
        f"{FEATURES}/customer/customer__purchases_v1.sql", "count(transactions.transaction_id) > 0",
        "0 < count(transactions.transaction_id)",
    ),
    "conditions in another order": (
        f"{FEATURES}/customer/customer__purchases_v2.sql",
        "not transactions.is_refund and transactions.occurred_at >= ticks.event_timestamp - interval '7 days'",
        "transactions.occurred_at >= ticks.event_timestamp - interval '7 days' and not transactions.is_refund",
    ),
    "quotes": (f"{FEATURES}/plane/plane__previous_leg.sql", "destination_airport as", '"destination_airport" as'),
    "an unused CTE": (f"{FEATURES}/plane/plane__registration.sql", "final as (", "unused as (select 1),\n\nfinal as ("),
    "a window written out": (
        f"{FEATURES}/customer/customer__transactions.sql", "over last_hour",
        "over (partition by customer_id order by occurred_at range between interval 1 hour preceding and current row)",
    ),
    "a column moved in staging": (
        f"{FLIGHTS}/stg_flights__departures.sql", "        carrier,\n        flight_number,\n",
        "        flight_number,\n        carrier,\n",
    ),
    "a mirrored condition in staging": (
        f"{FLIGHTS}/stg_flights__arrivals.sql", "ingested_at <= {{ feature_warehouse.as_of() }}",
        "{{ feature_warehouse.as_of() }} >= ingested_at",
    ),
    "another way to cast": (f"{FLIGHTS}/stg_flights__planes.sql", "year::integer", "cast(year as int)"),
    "blank lines": (f"{FLIGHTS}/stg_flights__weather.sql", ",\n", "  ,\n\n"),
    "a swapped equality": (f"{PAYMENTS}/stg_payments__transactions.sql", "kind = 'refund'", "'refund' = kind"),
    "the same variable elsewhere": (LATEST, '{{ var("refund") }}', "refund"),
    "an alias": (f"{PAYMENTS}/stg_payments__customers.sql", "    from customers\n", "    from customers as signups\n"),
    "a word that says nothing": (WINDOWS, "inner join corrections", "join corrections"),
    "a macro's comment": ("dbt_packages/shared/macros/day.sql", "{{ column }}", "{# a day #}{{ column }}"),
    "the ends of a seed's lines": ("seeds/known_countries.csv", "\n", "\r\n"),
    "a description": (f"{PAYMENTS}/stg_payments__visits.yml", "Number of the visit.", "The number of the visit."),
}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied_project(tmp_path_factory.mktemp("example"))


@pytest.fixture(scope="module")
def in_force(project: Path) -> Registry:
    return compiled(project)


@pytest.fixture(scope="module")
def meanings(in_force: Registry, tmp_path_factory: pytest.TempPathFactory) -> tuple[MeaningChange, ...]:
    """What is told of the project with all mutations in it."""
    folder = copied_project(tmp_path_factory.mktemp("mutated"))
    change(folder, (mutation for _, _, mutation in MUTATIONS.values()))
    return changes_of_meaning(in_force, compiled(folder, in_force))


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_change_of_meaning_is_seen_where_it_is_and_why(meanings: tuple[MeaningChange, ...], mutation: str) -> None:
    model, why, _ = MUTATIONS[mutation]
    told = [found for view in meanings for found in view.models if found.model == model]
    assert told, f"{model} is not named"
    assert [found for found in told if any(why in reason for reason in found.why)] == told
    assert all(found.diff or "rows of" in why for found in told)


def test_all_that_read_it_have_another_meaning_too_and_are_told_with_their_services(
    in_force: Registry, meanings: tuple[MeaningChange, ...]
) -> None:
    assert {found.view for found in meanings} == {view.id for view in in_force.feature_views}
    [risk] = [found for found in meanings if found.view == "merchant__risk"]
    assert risk.services == ("fraud_v1",)


def test_another_way_to_write_a_project_changes_nothing(in_force: Registry, tmp_path: Path) -> None:
    folder = copied_project(tmp_path)
    change(folder, REWRITINGS.values())
    listed = folder / FEATURES / "carrier" / "carrier__delays.yml"
    definition = yaml.safe_load(listed.read_text())
    definition["models"][0]["columns"].reverse()
    listed.write_text(yaml.safe_dump(definition))
    moved = folder / "models/staging/payments/merchants/stg_payments__merchants.sql"
    moved.parent.mkdir()
    (folder / PAYMENTS / moved.name).rename(moved)
    rewritten = compiled(folder, in_force)
    assert plan(in_force, rewritten) == ()
    texts = {model.unique_id: model.sql for model in in_force.models}
    assert sum(texts[model.unique_id] != model.sql for model in rewritten.models) >= len(REWRITINGS) - 4

"""features check, plan and apply as a user runs them, on projects that have nothing to do with this repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from feature_server.dbt.parse import dbt_parse
from tests.support.tiny_project import DBT_PROJECT, ENTITIES, FILES, PROFILES, SERVICES, features, write_project

BROKEN_ENTITIES = ENTITIES.replace("join_keys: [country, shop_number]", "join_keys: [country, shop_numbr]")

BROKEN_FEATURES = """
models:
  - name: customer__activity
    config:
      contract: {enforced: false}
      meta:
        feature_view:
          entities: [custommer]
          event_timestamp: occured_at
          created_timestamp: ingested_at
          ttl: 30 days
          refresh: hourli
          online: "yes"
          owner: Risk
    columns:
      - {name: customer_id, data_type: bigint, description: The customer.}
      - {name: occurred_at, data_type: timestamp, description: When the transaction happened.}
      - {name: ingested_at, data_type: varchar, description: When it was known.}
      - {name: transactions_1h, data_type: hugeint, description: Transactions in the last hour.}
      - {name: amount_eur_sum_1h, data_type: "decimal(18,2)"}
      - {name: share, description: Share of the day's amount.}
  - name: customer__visits
    description: Visits of a customer.
    config:
      group: risk
      meta:
        feature_views: {entities: [customer]}
  - name: customer__outside
    config:
      feature_view: {entities: [customer]}
  - name: customer__above
    feature_view: {entities: [customer]}
    columns:
      - name: customer_id
        config: {meta: {entity: customer}}
  - name: customer__empty
    description: Nothing of a customer.
    config:
      group: risk
      materialized: ephemeral
      meta:
        feature_view: {entities: [customer], refresh: daily}
    columns:
      - {name: customer_id, data_type: integer, description: The customer.}
      - {name: event_timestamp, data_type: date, description: The day.}
      - {name: event_timestamp, data_type: date, description: The day.}
"""

BROKEN_SERVICES = """
exposures:
  - name: fraud_v1
    type: application
    owner: {name: Risk models, email: models@example.com}
    depends_on: [ref('customers')]
    config:
      meta:
        feature_service:
          features:
            - customer__activity:transactions_1h
            - customer__activity:transactions_1h
            - customer__activity:transaction_1h
            - customer__activty:share
            - customer__activity
"""

BROKEN_FILES = {
    "dbt_project.yml": DBT_PROJECT,
    "profiles/profiles.yml": PROFILES,
    "models/customers.sql": "select 1::bigint as customer_id",
    "models/shops.sql": "select 'NL' as country, 1 as shop_number",
    "models/customer__activity.sql": "select 1",
    "models/customer__visits.sql": "select 1",
    "models/customer__outside.sql": "select 1",
    "models/customer__above.sql": "select 1",
    "models/customer__empty.sql": "select 1",
    "models/entities.yml": BROKEN_ENTITIES,
    "models/features.yml": BROKEN_FEATURES,
    "models/services.yml": BROKEN_SERVICES,
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny project that dbt has parsed."""
    folder = write_project(tmp_path_factory.mktemp("tiny"))
    run = features("check", "--project-dir", str(folder), cwd=folder.parent)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == "tiny: 2 entities, 3 feature views, 4 features, 1 feature service; no problems\n"
    return folder


def test_check_parses_a_sound_project_and_says_what_it_holds(tiny: Path) -> None:
    run = features("check", "--no-parse", "--json", cwd=tiny)
    assert run.returncode == 0
    assert json.loads(run.stdout) == {
        "problems": [], "warnings": [], "project": "tiny", "entities": 2, "feature_views": 3, "features": 4,
        "feature_services": 1,
    }  # fmt: skip


VIEW = "models[customer__activity]"
BLOCK = f"{VIEW}.config.meta.feature_view"
EMPTY = "models[customer__empty]"
SERVICE = "exposures[fraud_v1]"
NAMED = f"{SERVICE}.config.meta.feature_service.features"

MISTAKES = [  # where, key path, what, nearest name
    ("entities.yml:17", "models[shops].config.meta.entity.join_keys[1]",
     "join key 'shop_numbr' is not a column of the model", "shop_number"),
    ("features.yml:2", f"{VIEW}.description", "the feature view has no description", None),
    ("features.yml:3", f"{VIEW}.config.group", "the feature view has no owner", None),
    ("features.yml:7", f"{BLOCK}.entities[0]", "unknown entity 'custommer'", "customer"),
    ("features.yml:8", f"{BLOCK}.event_timestamp", "event_timestamp 'occured_at' is not a column of the model",
     "occurred_at"),
    ("features.yml:10", f"{BLOCK}.ttl", "ttl has a value that it cannot have", None),
    ("features.yml:11", f"{BLOCK}.refresh", "refresh has a value that it cannot have", "hourly"),
    ("features.yml:12", f"{BLOCK}.online", "online has a value that it cannot have", None),
    ("features.yml:13", f"{BLOCK}.owner", "unknown key 'owner'", None),
    ("features.yml:17", f"{VIEW}.columns[ingested_at].data_type", "created_timestamp 'ingested_at' is not a timestamp",
     None),
    ("features.yml:18", f"{VIEW}.columns[transactions_1h].data_type",
     "column 'transactions_1h' has a type that features cannot have", None),
    ("features.yml:19", f"{VIEW}.columns[amount_eur_sum_1h].description",
     "feature 'amount_eur_sum_1h' has no description", None),
    ("features.yml:20", f"{VIEW}.columns[share].data_type", "the type of column 'share' is not known", None),
    ("features.yml:26", "models[customer__visits].config.meta.feature_views", "unknown key 'feature_views'",
     "feature_view"),
    ("features.yml:29", "models[customer__outside].config.feature_view",
     "feature_view stands outside meta, where nothing reads it", None),
    ("features.yml:31", "models[customer__above].feature_view",
     "feature_view stands outside meta, where nothing reads it", None),
    ("features.yml:34", "models[customer__above].columns[customer_id].config.meta.entity",
     "a column cannot hold entity", None),
    ("features.yml:39", f"{EMPTY}.config.materialized", "an ephemeral model leaves nothing to publish", None),
    ("features.yml:42", f"{EMPTY}.columns", "the feature view has no feature", None),
    ("features.yml:43", f"{EMPTY}.columns[customer_id].data_type",
     "join key 'customer_id' has another type than entity 'customer' has", None),
    ("features.yml:44", f"{EMPTY}.columns[event_timestamp]", "column 'event_timestamp' is listed twice", None),
    ("features.yml:44", f"{EMPTY}.columns[event_timestamp].data_type",
     "event_timestamp 'event_timestamp' is not a timestamp", None),
    ("services.yml:2", f"{SERVICE}.description", "the feature service has no description", None),
    ("services.yml:3", f"{SERVICE}.type", "a feature service is an exposure of type ml", None),
    ("services.yml:5", f"{SERVICE}.depends_on", "the service reads customer__activity but does not depend on it", None),
    ("services.yml:11", f"{NAMED}[1]", "'customer__activity:transactions_1h' is named twice", None),
    ("services.yml:12", f"{NAMED}[2]", "unknown feature of customer__activity 'transaction_1h'", "transactions_1h"),
    ("services.yml:13", f"{NAMED}[3]", "unknown feature view 'customer__activty'", "customer__activity"),
    ("services.yml:14", f"{NAMED}[4]", "'customer__activity' is not a feature reference", None),
]  # fmt: skip

SOME_AS_PRINTED = """\
models/entities.yml:17: models[shops].config.meta.entity.join_keys[1]: \
join key 'shop_numbr' is not a column of the model
  expected: one of country, shop_number
  got: shop_numbr
  remedy: list the column under `columns`
  did you mean: shop_number

models/features.yml:2: models[customer__activity].description: the feature view has no description
  expected: a sentence: what one row is

"""


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A project full of mistakes, and what `features check --json` printed of it."""
    folder = write_project(tmp_path_factory.mktemp("broken"), BROKEN_FILES)
    run = features("check", "--project-dir", str(folder), "--json", cwd=folder.parent)
    assert (run.returncode, run.stderr) == (1, "")
    assert not (folder / "target" / "manifest.json").exists()  # what is not fit is not for others to read
    dbt_parse(folder, folder / "target")
    return folder, run.stdout


def test_check_reports_every_mistake_of_a_project_in_one_run(broken: tuple[Path, str]) -> None:
    found = [
        (f"{problem['file']}:{problem['line']}", problem["key_path"], problem["what"], problem["nearest"])
        for problem in json.loads(broken[1])["problems"]
    ]
    assert found == [(f"models/{place}", *rest) for place, *rest in MISTAKES]


def test_each_problem_is_printed_with_its_place_expectation_and_nearest_name(broken: tuple[Path, str]) -> None:
    run = features("check", "--no-parse", cwd=broken[0])
    assert run.returncode == 1
    assert run.stdout.startswith(SOME_AS_PRINTED)
    assert run.stdout.endswith(f"\n\n{len(MISTAKES)} problems\n")


def test_nothing_comes_into_force_while_there_are_problems(broken: tuple[Path, str]) -> None:
    for command in ("plan", "apply"):
        assert features(command, "--no-parse", cwd=broken[0]).returncode == 1
    assert not (broken[0] / ".features" / "registry.json").exists()


FIRST_PLAN = """\
+ entity customer
    join keys customer_id
+ entity shop
    join keys country, shop_number
+ feature_view customer__activity@v1  [new rows online at the next sync]
    1 feature of customer
+ feature_view customer__activity@v2  [new rows online at the next sync]
    2 features of customer
+ feature_view customer_shop__visits
    1 feature of customer, shop
+ feature_service fraud_v1
    2 features of customer__activity@v2, customer__activity@v1
"""


def test_apply_puts_in_force_what_plan_shows(tiny: Path) -> None:
    registry = tiny / ".features" / "registry.json"
    assert features("plan", "--no-parse", cwd=tiny).stdout == FIRST_PLAN
    assert not registry.exists()
    run = features("apply", "--no-parse", cwd=tiny)
    assert run.returncode == 0
    in_force = "in force: 2 entities, 3 feature views, 4 features, 1 feature service"
    assert run.stdout == f"{FIRST_PLAN}{in_force} ({registry.resolve()})\n"
    written = {path.name for path in registry.parent.iterdir() if path.suffix != ".lock"}
    assert written == {"dbt_targets.json", "definitions.json", "registry.json", "schedule.json"}
    assert features("plan", "--no-parse", cwd=tiny).stdout == "no changes\n"


def test_apply_replaces_a_registry_that_cannot_be_read(tiny: Path) -> None:
    assert features("apply", "--no-parse", cwd=tiny).returncode == 0
    registry = tiny / ".features" / "registry.json"
    whole = registry.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"\xff" * 100):
        registry.write_bytes(damaged)
        refused = features("plan", "--no-parse", cwd=tiny)
        assert (refused.returncode, "remedy: run `features apply` again" in refused.stderr) == (1, True), refused.stderr
        applied = features("apply", "--no-parse", cwd=tiny)
        assert (applied.returncode, applied.stderr) == (0, "")
        assert registry.read_bytes() == whole


def test_a_file_that_the_machine_refuses_to_write_is_an_error_without_a_stack_trace(tiny: Path) -> None:
    assert features("apply", "--no-parse", cwd=tiny).returncode == 0
    registry = tiny / ".features" / "registry.json"
    whole = registry.read_bytes()
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); sys.argv[0] = 'features'; "
        "from feature_server.cli.main import main; main()"
    )
    run = subprocess.run(
        [sys.executable, "-c", limited, "apply", "--no-parse"],
        cwd=tiny, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert run.stderr.startswith(f"error: {registry}: the system refuses a file\n  got: File too large\n  remedy: ")
    assert registry.read_bytes() == whole
    assert [path.name for path in registry.parent.glob(".registry*")] == [".registry.json.lock"]


def test_dbts_own_error_is_shown_in_dbts_words(tmp_path: Path) -> None:
    write_project(tmp_path, {**BROKEN_FILES, "models/shops.sql": "select * from {{ ref('nowhere') }}"})
    run = features("check", cwd=tmp_path)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == (
        f"error: {tmp_path.resolve()}: dbt cannot parse the project\n"
        "  got: Compilation Error\n"
        "    Model 'model.tiny.shops' (models/shops.sql) depends on a node named 'nowhere' which was not found\n"
        "  remedy: correct the project until `dbt parse` succeeds; the rest is in "
        f"{tmp_path.resolve() / 'logs' / 'dbt.log'}\n"
    )


def test_a_folder_without_a_dbt_project_is_named(tmp_path: Path) -> None:
    run = features("check", cwd=tmp_path)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith(f"error: {tmp_path.resolve()}: there is no dbt project\n")


def test_without_a_manifest_the_remedy_is_to_parse(tmp_path: Path) -> None:
    run = features("check", "--no-parse", cwd=tmp_path)
    assert run.returncode == 1
    assert run.stderr == (
        f"error: {tmp_path.resolve() / 'target' / 'manifest.json'}: there is no dbt manifest\n"
        "  remedy: run `dbt parse` in the project, or leave `--no-parse` out\n"
    )


def test_a_variable_of_the_environment_with_another_value_is_seen_with_and_without_parsing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = FILES["models/features.yml"].replace("30d", "\"{{ env_var('TINY_TTL', '30d') }}\"")
    folder = write_project(tmp_path, FILES | {"models/features.yml": described})
    assert features("check", cwd=folder).returncode == 0
    assert features("check", "--no-parse", cwd=folder).returncode == 0
    monkeypatch.setenv("TINY_TTL", "tomorrow")
    run = features("check", "--no-parse", cwd=folder)
    assert (run.returncode, run.stdout) == (1, "")
    assert "the project reads environment variables that have changed since its SQL was compiled" in run.stderr
    assert "got: TINY_TTL\n" in run.stderr
    assert "ttl has a value that it cannot have" in features("check", cwd=folder).stdout


def test_an_unknown_option_is_wrong_usage(tmp_path: Path) -> None:
    assert features("check", "--no-such-option", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("command", ["check", "plan", "apply"])
def test_help_shows_an_example(command: str, tmp_path: Path) -> None:
    assert f"Example: features {command}" in features(command, "--help", cwd=tmp_path).stdout


def test_the_definitions_of_this_repository_are_sound(tmp_path: Path) -> None:
    run = features("check", "--target-path", str(tmp_path / "target"), cwd=Path(__file__).parents[2])
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.endswith("; no problems\n")


BOTH = """
            - customer_shop__visits:minutes
            - customer__activity@v1:transactions_1h
            - customer__activity:transactions_1h
"""


def test_a_service_that_needs_full_names_is_in_force_with_a_warning(tmp_path: Path) -> None:
    listed = SERVICES.partition("          features:")[0] + "          features:" + BOTH
    depends = listed.replace("    depends_on:", "    depends_on:\n      - ref('customer_shop__visits')")
    folder = write_project(tmp_path, FILES | {"models/services.yml": depends})
    run = features("check", cwd=folder)
    assert (run.returncode, run.stdout.endswith("1 feature service; no problems\n")) == (0, True)
    assert run.stderr == (
        "warning: models/services.yml:13: exposures[fraud_v1].config.meta.feature_service.features: 'transactions_1h' "
        "would be the name of two columns, so the service needs full names\n"
        "  got: customer__activity@v1:transactions_1h and customer__activity:transactions_1h\n"
        "  remedy: read it with full_feature_names=True (--full-feature-names), which names the second "
        "customer__activity__transactions_1h; or rename a feature\n"
    )
    (warning,) = json.loads(features("check", "--no-parse", "--json", cwd=folder).stdout)["warnings"]
    assert warning["what"].startswith("'transactions_1h' would be the name of two columns")


@pytest.mark.parametrize(
    ("where", "change", "told"),
    [
        ("features.yml", ("ttl: 30d", "ttl: 99999999999999999999d"), "of at most 1000000d"),
        ("features.yml", ("refresh: manual, online: false}", "refresh: manual, online: false}\n      database: lake"),
         "expected: no `database`, or tiny"),
    ],
)  # fmt: skip
def test_what_could_not_be_published_or_served_is_refused(
    tmp_path: Path, where: str, change: tuple[str, str], told: str
) -> None:
    name = f"models/{where}"
    assert change[0] in FILES[name]
    folder = write_project(tmp_path, FILES | {name: FILES[name].replace(*change)})
    run = features("check", cwd=folder)
    assert run.returncode == 1
    assert f"{name}:" in run.stdout
    assert told in run.stdout

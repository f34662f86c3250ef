"""Columns that are said to be pii, and which features of a real dbt project are by that."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import duckdb
import msgspec
import pytest

from feature_server.dbt.compiled import parsing
from feature_server.definitions.changes import plan
from feature_server.definitions.registry import Registry
from feature_server.errors import DefinitionError, Problem
from feature_server.kept import Kept
from feature_server.manifest.load import load_registry
from feature_server.meaning.settled import settle
from feature_server.settings import load_settings
from tests.support.pii_project import FILES
from tests.support.tiny_project import write_project

Files = Mapping[str, str]


def load(
    folder: Path, files: Files = FILES, warnings: list[Problem] | None = None, kept: Kept | None = None
) -> Registry:
    """What a project's files say, without meanings in force."""
    write_project(folder, dict(files))
    with duckdb.connect(str(folder / "tiny.duckdb")):
        settings = load_settings(project_dir=folder)
        with parsing(settings) as parsed:
            told = [].append if warnings is None else warnings.append
            return load_registry(folder, settings.target_path / "checked", told, parsed, kept=kept)


def edited(files: Files, name: str, *edits: tuple[str, str]) -> Files:
    text = files[name]
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    return {**files, name: text}


def pii_arguments(registry: Registry, view: str) -> list[str]:
    stream = registry.feature_view(view).stream
    assert stream is not None
    return [argument.sql for argument in stream.arguments if argument.pii]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return load(tmp_path_factory.mktemp("pii"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    files = {name: text.replace("pii: true", "about: true") for name, text in FILES.items()}
    return load(tmp_path_factory.mktemp("plain"), files)


def test_what_is_made_of_pii_is_pii_and_what_is_counted_or_overridden_is_not(registry: Registry) -> None:
    assert registry.feature_view("customer__contact").pii_names == ("email", "email_hash")
    assert registry.feature_view("customer__payments").pii_names == ("last_holder",)
    assert registry.feature_view("customer__spending").pii_names == ()


def test_arguments_of_events_are_pii_by_their_source_and_what_staging_says(registry: Registry) -> None:
    assert pii_arguments(registry, "customer__payments") == ["stg_payments.holder"]
    assert pii_arguments(registry, "customer__spending") == []


def test_a_project_without_pii_says_nothing_of_it(plain: Registry) -> None:
    assert b"pii" not in msgspec.json.encode(plain.feature_views)
    assert all(feature.pii is msgspec.UNSET for view in plain.feature_views for feature in view.features)


def test_the_fingerprints_are_those_without_pii_and_a_plan_shows_what_changes(
    registry: Registry, plain: Registry
) -> None:
    assert [view.fingerprint for view in plain.feature_views] == [view.fingerprint for view in registry.feature_views]
    source, contact, payments = plan(plain, registry)
    assert source.details == (
        "card_holder becomes pii: errors show no value of it",
        "ip becomes pii: errors show no value of it",
    )
    assert (contact.name, payments.name) == ("customer__contact", "customer__payments")
    assert (contact.new_rows, payments.new_rows) == (True, True)
    becomes = "becomes pii: it goes to rows of its own online, and only keys with a scope of pii may read it"
    assert contact.details == (f"email {becomes}", f"email_hash {becomes}")
    _, back, _ = plan(registry, plain)
    assert back.details[0].startswith("email is pii no more: ")


def test_arguments_are_pii_where_the_meaning_in_force_is_kept(registry: Registry, plain: Registry) -> None:
    before = settle(None, plain)
    now = settle(before, registry)
    assert pii_arguments(now, "customer__payments") == ["stg_payments.holder"]
    assert pii_arguments(settle(now, plain), "customer__payments") == []
    assert [view.fingerprint for view in now.feature_views] == [view.fingerprint for view in before.feature_views]


def test_what_is_kept_is_what_would_be_told_anew(tmp_path: Path, registry: Registry) -> None:
    kept = Kept(tmp_path / "kept.json")
    assert load(tmp_path / "project", kept=kept) == registry
    kept.write()
    assert load(tmp_path / "project", kept=Kept(tmp_path / "kept.json")) == registry
    files = edited(FILES, "seeds/seeds.yml", ("name: email", "name: plan"))
    other = load(tmp_path / "project", files, kept=Kept(tmp_path / "kept.json"))
    assert other.feature_view("customer__contact").pii_names == ("plan",)


ENTITY = "{name: customer_id, data_type: bigint, description: The customer.}"  # as the first model lists it


PYTHON = {"models/scripted.py": "def model(dbt, session):\n    return dbt.ref('contacts')\n"}
SNAPSHOT = """
snapshots:
  - name: people
    relation: ref('recent_contacts')
    config: {strategy: check, unique_key: customer_id, check_cols: all}
"""


def test_snapshots_and_relations_without_ref_are_followed(tmp_path: Path) -> None:
    files = {**FILES, "snapshots/people.yml": SNAPSHOT, "models/recent_contacts.sql": "select * from main.contacts"}
    found = load(tmp_path, edited(files, "models/customer__contact.sql", ("recent_contacts", "people")))
    assert found.feature_view("customer__contact").pii_names == ("email", "email_hash")


def test_what_cannot_be_told_counts_as_pii_and_check_says_why(tmp_path: Path) -> None:
    files = edited(FILES, "models/customer__contact.sql", ("recent_contacts", "spread"))
    files = edited(
        {**files, "models/spread.sql": "pivot {{ ref('scripted') }} on plan using count(*) group by all", **PYTHON},
        "models/models.yml",
        (ENTITY, ENTITY.replace("}", ", meta: {pii: false, pii_reason: a number}}")),
        ("description: Euros spent in the last hour.", "description: Euros., meta: {pii: true}"),
    )
    warnings: list[Problem] = []
    found = load(tmp_path, files, warnings)
    assert found.feature_view("customer__contact").pii_names == ("plan", "email", "email_hash")
    (warning,) = [one for one in warnings if "counts as pii" in one.what]
    assert warning.what.endswith("plan, email, email_hash")
    through = "through the Python model scripted, through spread, whose SQL cannot be followed"
    assert warning.got == f"pii by contacts.email, {through}"
    # of a feature that is said to be pii though nothing under it is, the arguments are
    assert found.feature_view("customer__spending").pii_names == ("spent_eur_1h",)
    assert pii_arguments(found, "customer__spending") == ["stg_payments.amount_eur"]


def test_what_is_said_amiss_of_pii_is_a_problem_with_its_place(tmp_path: Path) -> None:
    files = edited(
        FILES,
        "models/models.yml",
        ("{pii: false, pii_reason: a domain is that of many}", "{pii: false}"),
        ("description: Hash of the address.", "description: Hash., meta: {PII: true}"),
        ("description: Address.", "description: Address., meta: {pii: false, pii_reasson: a domain}"),
        ("description: What the customer pays for.", "description: Plan., meta: {pii: maybe}"),
        ("description: Payments in the last hour.", "description: Payments., meta: {pii_reason: a count}"),
        ("description: Euros spent in the last hour.", "description: Euros., meta: {pii: false, pii_reason: ''}"),
    )
    files = edited(files, "seeds/seeds.yml", ("config: {column_types:", "config: {meta: {pii: true}, column_types:"))
    files = edited(files, "models/customer__contact.sql", ("customer_id,", "hash(email)::bigint as customer_id,"))
    files = edited(
        files,
        "models/stg_payments.sql",
        ("'transactions') }}", "'transactions') }} as t left join {{ ref('contacts') }} using (customer_id)"),
    )
    files = edited(
        files,
        "models/sources.yml",
        ("transaction_id, data_type: bigint}", "transaction_id, data_type: bigint, meta: {pii: true}}"),
    )
    with pytest.raises(DefinitionError) as raised:
        load(tmp_path, files)
    found = {problem.key_path: problem for problem in raised.value.problems}
    contact = "models[customer__contact].columns"
    told = {key: problem.what for key, problem in found.items() if "pii" in problem.what.lower()}
    assert told == {
        f"{contact}[customer_id]": "join key 'customer_id' is pii, and keys stand in the clear in Redis and in logs",
        f"{contact}[plan].config.meta.pii": "pii has a value that it cannot have",
        f"{contact}[email].config.meta.pii_reasson": "unknown key 'pii_reasson'",
        f"{contact}[email].config.meta.pii": "no reason why column 'email' is not pii",
        f"{contact}[email_hash].config.meta.PII": "unknown key 'PII'",
        f"{contact}[email_domain].config.meta.pii": "no reason why column 'email_domain' is not pii",
        "models[customer__payments].columns[payments_1h].config.meta.pii_reason": "pii_reason without pii",
        "models[customer__spending].columns[spent_eur_1h].config.meta.pii_reason": (
            "pii_reason has a value that it cannot have"
        ),
        "models[customer__payments].config.meta.feature_view.stream": "the view looks up seed contacts, which has pii",
        "models[customer__spending].config.meta.feature_view.stream": "the view looks up seed contacts, which has pii",
        "sources[payments.transactions].columns[transaction_id]": "event_id 'transaction_id' is pii",
        "seeds[contacts].config.meta.pii": "pii is said of columns",
    }
    domain = found[f"{contact}[email_domain].config.meta.pii"]
    assert (domain.file, domain.got) == ("models/models.yml", "pii by contacts.email")
    assert (
        files["models/models.yml"].lstrip().splitlines()[(domain.line or 0) - 1].strip()
        == "config: {meta: {pii: false}}"
    )
    assert "surrogate key" in str(found[f"{contact}[customer_id]"].remedy)


def test_the_page_shows_what_is_tested_here() -> None:
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    (shown,) = re.findall(r"```yaml\n(seeds:.*?)```", page, re.DOTALL)
    meta = re.findall(r"config: \{meta: .*", shown)
    assert len(meta) == 2
    assert all(line in FILES["seeds/seeds.yml"] + FILES["models/models.yml"] for line in meta)


def test_a_join_key_that_its_entity_says_is_pii_is_a_mistake_in_each_view_of_it(tmp_path: Path) -> None:
    said = ("customer_id, data_type: bigint, description: The customer.}",
            "customer_id, data_type: bigint, description: The customer., meta: {pii: true}}")  # fmt: skip
    files = dict(FILES)
    files["models/models.yml"] = files["models/models.yml"].replace(*said, 1)  # the entity's is the first
    with pytest.raises(DefinitionError) as raised:
        load(tmp_path, files)
    keys = [problem for problem in raised.value.problems if problem.what.startswith("join key 'customer_id' is pii")]
    assert {problem.key_path for problem in keys} == {
        f"models[customer__{name}].columns[customer_id]" for name in ("contact", "payments", "spending")
    }
    assert {problem.got for problem in keys} == {"pii by customer.customer_id"}

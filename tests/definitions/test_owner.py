"""A store remembers the project and target that fill it, and refuses others by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from feature_server.definitions.owner import FILE, Owner, check_owner, claim_folder, owner_of
from feature_server.definitions.registry import Registry, write_registry
from feature_server.errors import FeatureStoreError, OnlineStoreError
from feature_server.offline.owned import OFFLINE, claim, filled_by, of_target, read_in_force
from feature_server.offline.store import OfflineStore
from feature_server.online.registry import OnlineRegistry
from feature_server.online.store import OnlineStore, check_filled
from feature_server.settings import Settings, load_settings
from feature_server.sync.run import sync

DEV, PROD = Owner("shop", "dev"), Owner("shop", "prod")


def registry(owner: Owner, *adopted: str) -> Registry:
    return Registry(project=owner.project, target=owner.target, adopted=adopted)


def home(folder: Path, **environ: str) -> Settings:
    return load_settings({"FEATURES_PROJECT_DIR": str(folder), "FEATURES_HOME": str(folder), **environ})


@pytest.mark.parametrize(
    ("found", "wanted", "same"),
    [
        (DEV, DEV, True), (DEV, PROD, False), (DEV, Owner("till", "dev"), False), (DEV, Owner("till"), False),
        (Owner("shop"), DEV, True), (DEV, Owner("shop"), True),
    ],
)  # fmt: skip
def test_what_is_not_known_of_an_owner_does_not_differ(found: Owner, wanted: Owner, same: bool) -> None:
    assert found.is_of(wanted) is same


def test_the_error_names_both_and_how_one_takes_over_the_other() -> None:
    with pytest.raises(OnlineStoreError) as raised:
        check_owner(DEV, PROD, (), what="this Redis", remedy="give another", kind=OnlineStoreError)
    error = raised.value
    assert error.what == "this Redis holds the features of shop.dev, not of shop.prod"
    assert (error.expected, error.got) == ("an empty one, or that of shop.prod", "shop.dev")
    assert error.remedy == (
        "give another; if shop.dev is the same under an earlier name: `features apply --adopt shop.dev`"
    )
    check_owner(DEV, PROD, ("shop.dev",), what="this Redis", remedy="")
    check_owner(None, PROD, (), what="this Redis", remedy="")


def test_a_folder_is_claimed_by_the_first_and_refuses_others(tmp_path: Path) -> None:
    folder = tmp_path / "offline"
    assert owner_of(folder) is None
    claim_folder(folder, Owner("shop"), (), "")  # nothing is known of its target yet
    claim_folder(folder, DEV, (), "")
    assert owner_of(folder) == DEV
    claim_folder(folder, Owner("shop"), (), "")
    assert owner_of(folder) == DEV
    with pytest.raises(FeatureStoreError, match=r"offline holds the features of shop\.dev, not of shop\.prod"):
        claim(folder, registry(PROD), OFFLINE)
    assert owner_of(folder) == DEV
    claim(folder, registry(PROD, "shop.dev"), OFFLINE)
    assert owner_of(folder) == PROD
    assert OfflineStore(folder).ids() == ()


@pytest.mark.parametrize("stored", ["", "{}", '{"project": 3}', "[1]"])
def test_a_damaged_file_of_an_owner_is_named(tmp_path: Path, stored: str) -> None:
    (tmp_path / FILE).write_text(stored)
    with pytest.raises(FeatureStoreError) as raised:
        owner_of(tmp_path)
    assert raised.value.where == str(tmp_path / FILE)


def test_a_later_format_of_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"format": 2, "owners": []}')
    with pytest.raises(FeatureStoreError, match="is written in format 2, this version reads 1"):
        owner_of(tmp_path)


def test_definitions_of_another_target_are_not_read(tmp_path: Path) -> None:
    write_registry(tmp_path / "registry.json", registry(DEV))
    assert read_in_force(home(tmp_path)).owner == DEV
    assert read_in_force(home(tmp_path, DBT_TARGET="dev")).owner == DEV
    for read in (read_in_force, filled_by):
        with pytest.raises(
            FeatureStoreError, match=r"registry\.json holds the features of shop\.dev, not of shop\.prod"
        ):
            read(home(tmp_path, DBT_TARGET="prod"))
    claim(tmp_path / "offline", registry(PROD), OFFLINE)
    with pytest.raises(FeatureStoreError, match=r"offline holds the features of shop\.prod, not of shop\.dev"):
        read_in_force(home(tmp_path))


def test_definitions_of_another_target_are_not_replaced_unless_they_are_adopted(tmp_path: Path) -> None:
    wanted = Registry(project="shop")
    in_prod = home(tmp_path, DBT_TARGET="prod")
    assert of_target(in_prod, None, wanted, ()).owner == PROD
    assert of_target(in_prod, Registry(project="shop"), wanted, ()).owner == PROD  # applied before targets were kept
    with pytest.raises(FeatureStoreError, match=r"`features apply --adopt shop\.dev`"):
        of_target(in_prod, registry(DEV), wanted, ())
    taken = of_target(in_prod, registry(DEV), wanted, ["shop.dev"])
    assert (taken.owner, taken.adopted) == (PROD, ("shop.dev",))
    assert of_target(in_prod, taken, wanted, ()).adopted == ("shop.dev",)
    assert of_target(home(tmp_path), registry(DEV), wanted, ()).owner == DEV  # --no-parse: dbt was not asked


def test_another_target_or_project_does_not_sync_into_a_redis(valkey: str, tmp_path: Path) -> None:
    with OnlineStore(valkey) as online:
        online.publish(lambda now: OnlineRegistry(registry=registry(DEV)))
        check_filled(online.registry(), DEV, ())
        check_filled(None, DEV, ())
        for other in (PROD, Owner("till", "dev")):
            with pytest.raises(OnlineStoreError) as raised:
                sync(online, OfflineStore(tmp_path), registry(other), now_us=lambda: 0)
            assert raised.value.what == f"this Redis holds the features of shop.dev, not of {other}"
            assert str(raised.value.remedy).startswith("add ?namespace=NAME to FEATURES_REDIS_URL")
        sync(online, OfflineStore(tmp_path), registry(PROD, "shop.dev"), now_us=lambda: 0)
        found = online.registry()
        assert found is not None
        assert found.registry.owner == PROD
    with OnlineStore(f"{valkey}?namespace=dev") as apart:
        sync(apart, OfflineStore(tmp_path), registry(DEV), now_us=lambda: 0)


def test_what_is_written_names_the_owner_as_others_read_it(tmp_path: Path) -> None:
    write_registry(tmp_path / "registry.json", registry(PROD, "shop.dev"))
    claim(tmp_path, registry(PROD), OFFLINE)
    stored = json.loads((tmp_path / "registry.json").read_bytes())
    assert (stored["project"], stored["target"], stored["adopted"]) == ("shop", "prod", ["shop.dev"])
    assert json.loads((tmp_path / FILE).read_bytes()) == {"format": 1, "project": "shop", "target": "prod"}

"""Views that a service binds are published all of one run, or none of them, also where a publish is killed half way."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from feature_server.definitions.models import Model
from feature_server.errors import FeatureStoreError, NotFit, OfflineStoreError
from feature_server.offline.together import begin, check_whole, end, forget_others, read_together
from feature_server.publish.batch import publish_all
from feature_server.publish.built import BuiltOtherwise
from feature_server.settings import Settings, load_settings
from tests.support.relations import BUILD_LOG, Relations, view_of

SPEND, VISITS, ALONE = (
    view_of(name, {"customer_id": "bigint"}, {"count": "integer"}, refresh="hourly")
    for name in ("spend", "visits", "alone")
)
GROUP = ("spend", "visits")
FAILED = "insert into failed_tests values ('visits', 'grain_visits')"


class Shop(Relations):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.settings: Settings = load_settings({}, project_dir=folder, home=folder, warehouse=self.path)
        self.execute(BUILD_LOG, "create table failed_tests(model varchar, test varchar)")
        for name in (*GROUP, "alone"):
            self.execute(f"create table {name}(customer_id bigint, event_timestamp timestamptz, count integer)")
        self.run("first", 1)

    def run(self, invocation: str, count: int, *names: str) -> None:
        for name in names or (*GROUP, "alone"):
            self.execute(
                f"insert into {name} values (1, timestamptz '2024-01-01' + to_days({count}), {count})",
                f"insert into feature_builds values ('{name}', now(), now(), null, '{invocation}')",
            )

    def publish_all(self, *views: str) -> dict[str, FeatureStoreError]:
        chosen = [view for view in (SPEND, VISITS, ALONE) if not views or view.id in views]
        return publish_all(chosen, self.settings, groups=[GROUP])[1]

    def rows(self) -> list[int]:
        return [self.store.table(name).rows if self.store.exists(name) else 0 for name in (*GROUP, "alone")]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_all_of_a_group_are_published_and_left_whole(shop: Shop) -> None:
    assert shop.publish_all() == {}
    assert shop.rows() == [1, 1, 1]
    for view in GROUP:
        check_whole(shop.settings.offline, view)


def test_one_that_is_not_fit_keeps_its_group_back_and_no_other(shop: Shop) -> None:
    shop.publish_all()
    shop.run("second", 2)
    shop.execute(FAILED)
    failed = shop.publish_all()
    assert {view: type(error) for view, error in failed.items()} == dict.fromkeys(GROUP, NotFit)
    assert failed["visits"].got == "grain_visits"
    assert failed["spend"].got == "visits: the view's last build or a test of it failed, so its rows are not published"
    assert shop.rows() == [1, 1, 2]
    shop.execute("delete from failed_tests")
    assert shop.publish_all() == {}
    assert shop.rows() == [2, 2, 2]


def test_a_group_of_two_runs_is_kept_back_until_one_has_built_all_of_it(shop: Shop) -> None:
    shop.publish_all()
    shop.run("second", 2, "spend")
    failed = shop.publish_all()
    assert {view: error.got for view, error in failed.items()} == {
        "spend": "visits: last built by first", "visits": "spend: last built by second",
    }  # fmt: skip
    assert shop.rows() == [1, 1, 1]
    shop.run("third", 3)
    assert shop.publish_all() == {}
    assert shop.rows() == [3, 2, 2]


def test_each_of_a_group_that_is_not_fit_says_its_own_reason(shop: Shop) -> None:
    shop.execute(FAILED, "insert into failed_tests values ('spend', 'grain_spend')")
    assert {view: error.got for view, error in shop.publish_all().items()} == {
        "spend": "grain_spend", "visits": "grain_visits",
    }  # fmt: skip


def test_a_group_that_was_built_by_other_sql_is_made_anew_by_the_next_build(shop: Shop) -> None:
    views = [replace(view, unique_id=f"model.shop.{view.id}") for view in (SPEND, VISITS)]
    models = [
        Model(unique_id=view.unique_id, package="shop", path="", relation=view.id, sql="select 1 as in_force")
        for view in views
    ]
    shop.execute(
        "alter table feature_builds add column made_from varchar",
        "update feature_builds set made_from = 'model.shop.' || model || ' 1f'",
        "create table built_sql as select '1f' as hash, 'select 2 as edited' as text",
    )
    tokens = {view.unique_id: "a.b" for view in views}
    shop.settings.definitions_path.write_bytes(msgspec.json.encode(tokens))
    failed = publish_all(views, shop.settings, models=models, groups=[GROUP])[1]
    assert {view: type(error) for view, error in failed.items()} == dict.fromkeys(GROUP, BuiltOtherwise)
    marked = msgspec.json.decode(shop.settings.definitions_path.read_bytes())
    assert marked == dict.fromkeys(tokens, "a.b!first")


def test_one_of_a_group_is_not_published_without_the_others(shop: Shop) -> None:
    failed = shop.publish_all("spend", "alone")
    assert {view: error.got for view, error in failed.items()} == {"spend": "visits: is left out"}
    assert shop.rows() == [0, 0, 1]


def test_a_publish_that_broke_off_is_not_synced_until_the_next_has_ended(shop: Shop) -> None:
    shop.publish_all()
    shop.run("second", 2)
    begin(shop.store, GROUP)
    shop.publish(SPEND)
    for view in GROUP:
        with pytest.raises(OfflineStoreError) as raised:
            check_whole(shop.settings.offline, view)
        assert raised.value.remedy == "run `features publish spend visits`"
    check_whole(shop.settings.offline, "alone")
    assert shop.publish_all() == {}
    for view in GROUP:
        check_whole(shop.settings.offline, view)


def test_a_training_set_reads_a_group_as_it_was_before_a_publish_that_broke_off(shop: Shop) -> None:
    def read() -> dict[str, int]:
        return {view: table.rows for view, table in read_together(shop.store, (*GROUP, "alone"), [GROUP]).items()}

    shop.publish_all()
    shop.run("second", 2)
    begin(shop.store, GROUP)
    shop.publish(SPEND)
    shop.publish(ALONE)
    assert shop.rows() == [2, 1, 2]
    assert read() == {"spend": 1, "visits": 1, "alone": 2}
    begin(shop.store, GROUP)  # as the next publish does, that breaks off too
    shop.publish(VISITS)
    assert read() == {"spend": 1, "visits": 1, "alone": 2}
    assert shop.publish_all() == {}
    assert read() == {"spend": 2, "visits": 2, "alone": 2}


def test_a_training_set_does_not_read_a_group_that_was_never_published_whole(shop: Shop) -> None:
    shop.publish(ALONE)
    begin(shop.store, GROUP)
    for view in (SPEND, VISITS):
        shop.publish(view)
    with pytest.raises(OfflineStoreError) as raised:
        read_together(shop.store, ("spend", "alone"), [GROUP])
    assert (raised.value.where, raised.value.remedy) == ("spend", "run `features publish spend visits`")


def test_a_training_set_mixes_no_runs_while_others_publish(shop: Shop) -> None:
    shop.publish_all()
    ended = threading.Event()

    def read() -> list[tuple[int, int]]:
        found = list[tuple[int, int]]()
        while not ended.is_set() or not found:
            tables = read_together(shop.store, GROUP, [GROUP])
            found.append((tables["spend"].rows, tables["visits"].rows))
        return found

    with ThreadPoolExecutor() as pool:
        reading = pool.submit(read)
        try:
            for count in range(2, 8):
                shop.run(f"run {count}", count)
                assert shop.publish_all() == {}
        finally:
            ended.set()
        assert {spend - visits for spend, visits in reading.result()} == {0}


def test_what_is_noted_of_a_group_that_is_none_any_more_keeps_nobody(shop: Shop) -> None:
    begin(shop.store, ("alone", "gone"))
    shop.publish_all()
    check_whole(shop.settings.offline, "alone")


def test_what_broke_off_is_still_known_when_the_group_grows(shop: Shop) -> None:
    grown = ("alone", *GROUP)

    def read() -> list[int]:
        return [table.rows for table in read_together(shop.store, grown, [grown]).values()]

    shop.publish_all()
    shop.run("second", 2)
    begin(shop.store, GROUP)
    shop.publish(SPEND)
    forget_others(shop.settings.offline, [grown])
    assert read() == [1, 1, 1]
    begin(shop.store, grown)
    shop.publish(ALONE)
    assert read() == [1, 1, 1]
    for view in (SPEND, VISITS):
        shop.publish(view)
    end(shop.settings.offline, grown)
    assert read() == [2, 2, 2]


def test_a_view_that_is_not_as_defined_keeps_its_group_back(shop: Shop) -> None:
    wrong = replace(VISITS, features=(replace(VISITS.features[0], name="absent"),), fingerprint="other")
    failed = publish_all([SPEND, wrong], shop.settings, groups=[GROUP])[1]
    assert set(failed) == set(GROUP)
    assert shop.rows() == [0, 0, 0]

"""Who may have training sets made and fetched: scopes, jobs of one key, revoked ones, pages and cookies."""

from __future__ import annotations

import msgspec
import pyarrow as pa
import pytest

from feature_server import FeatureStore
from feature_server.definitions.facts import Owner
from feature_server.errors import AccessDenied, NotSignedIn, TooLarge
from tests.support.keys import Keys
from tests.support.offline_home import OfflineHome, spine
from tests.support.served import Served
from tests.support.trained import Trainer, stream_of

SPINE = stream_of(spine())


def test_a_scope_opens_the_features_that_it_names(server: Served, keys: Keys) -> None:
    mine, reader = keys.make("train:service/orders_v1"), keys.make("read:*", "explain:*", "metrics", "push:*")
    made = FeatureStore(server.address, key=mine).get_historical_features(spine(), "orders_v1")
    assert made.to_arrow().num_rows == 12
    for key, features, where in (
        (mine, ["orders:count", "types:word"], "types:word"),
        (mine, "live_v1", "customer__payments:n_90s"),
        (reader, "orders_v1", "orders:count"),
    ):
        with pytest.raises(AccessDenied) as denied:
            FeatureStore(server.address, key=key).get_historical_features(spine(), features)
        assert denied.value.where == where
        assert denied.value.expected == f"the scope train:view/{where.split(':')[0]}"
    for key in (None, "fw_00000000_x"):
        with pytest.raises(NotSignedIn):
            FeatureStore(server.address, key=key).get_historical_features(spine(), "orders_v1")


def test_the_key_is_taken_from_the_environment(server: Served, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURES_KEY", keys.make("train:view/orders"))
    store = FeatureStore(server.address)
    assert store.get_historical_features(spine(), ["orders:count"]).to_arrow().num_rows == 12
    assert keys.ring.keys[0].id not in repr(store) + repr(vars(store))


def test_a_long_spine_without_the_right_is_refused_in_plain_words(server: Served, keys: Keys) -> None:
    """The server answers before it has read the body."""
    noise = pa.array([f"{i * 7919 % 1000003:x}" * 20 for i in range(200_000)])
    with pytest.raises(AccessDenied, match="orders:count"):
        FeatureStore(server.address, key=keys.make("read:*")).get_historical_features(
            spine(200_000).append_column("noise", noise), "orders_v1"
        )


def test_a_view_that_is_private_to_a_group_is_for_its_keys(server: Served, keys: Keys, home: OfflineHome) -> None:
    before = home.registry
    views = tuple(
        msgspec.structs.replace(view, access="private", owner=Owner(name="Risk", group="risk"))
        if view.id == "orders" else view
        for view in before.feature_views
    )  # fmt: skip
    home.define(msgspec.structs.replace(before, feature_views=views))
    try:
        with pytest.raises(AccessDenied, match="private"):
            FeatureStore(server.address, key=keys.make("train:*")).get_historical_features(spine(), "orders_v1")
        mine = keys.make("train:*", group="risk")
        assert FeatureStore(server.address, key=mine).get_historical_features(spine(), "orders_v1")
    finally:
        home.define(before)


def test_a_key_sees_its_own_jobs_alone(server: Served, keys: Keys) -> None:
    mine, other = (Trainer(server.address, keys.make("train:*")) for _ in range(2))
    nobody, admin = Trainer(server.address), Trainer(server.address, keys.make("admin"))
    job = mine.made(SPINE)
    for path in (f"/train/{job}", f"/train/{job}/result", "/train/" + "0" * 32):
        for trainer in (other, admin):
            answer = trainer.http.get(path)
            assert (answer.status_code, answer.json()["error"]) == (404, "UnknownNameError"), path
        assert nobody.http.get(path).status_code == 401
    assert other.http.delete(f"/train/{job}").status_code == 404
    assert mine.http.get(f"/train/{job}/result").status_code == 200
    mine.drop(job)
    assert mine.http.get(f"/train/{job}").status_code == 404


def test_one_id_is_one_job_of_one_key(server: Served, keys: Keys) -> None:
    mine, other = (Trainer(server.address, keys.make("train:*")) for _ in range(2))
    asked = {"feature_service": "orders_v1", "id": "ab" * 16}
    assert mine.begin(SPINE, asked) == mine.begin(SPINE, asked) == "ab" * 16
    taken = other.post(SPINE, asked)
    assert (taken.status_code, taken.json()["error"]) == (422, "RequestError")
    mine.ended("ab" * 16)
    mine.drop("ab" * 16)


def test_a_key_that_was_revoked_fetches_nothing(server: Served, keys: Keys) -> None:
    admin, text = keys.make("admin"), keys.make("train:*")
    mine = Trainer(server.address, text)
    job = mine.made(SPINE)
    keys.revoke(text)
    for path in (f"/train/{job}", f"/train/{job}/result"):
        answer = mine.http.get(path)
        assert (answer.status_code, "is revoked" in answer.json()["what"]) == (401, True)
    assert mine.http.delete(f"/train/{job}").status_code == 401
    assert Trainer(server.address, admin).http.get("/train/" + job).status_code == 404


def test_what_is_no_longer_given_is_not_fetched(server: Served, keys: Keys, home: OfflineHome) -> None:
    mine = Trainer(server.address, keys.make("train:*"))
    job = mine.made(SPINE)
    before = home.registry
    hidden = tuple(
        msgspec.structs.replace(view, access="private", owner=Owner(name="Risk", group="risk"))
        for view in before.feature_views
    )
    home.define(msgspec.structs.replace(before, feature_views=hidden))
    assert mine.http.get(f"/train/{job}/result").status_code == 403
    home.define(before)
    assert mine.http.get(f"/train/{job}/result").status_code == 200
    mine.drop(job)


def test_a_cookie_opens_no_training_sets(server: Served, keys: Keys) -> None:
    text = keys.make("admin")
    browser = Trainer(server.address)
    browser.http.cookies.set("features_key", text)
    assert browser.http.get("/entities", headers={"accept": "application/json"}).status_code in (200, 503)
    assert browser.post(SPINE).status_code == 401
    assert browser.http.get("/train/" + "0" * 32).status_code == 401


def test_pages_of_other_sites_begin_nothing(server: Served, keys: Keys) -> None:
    trainer = Trainer(server.address, keys.make("train:*"))
    assert trainer.post(SPINE, origin="https://example.com").status_code == 403
    assert trainer.post(SPINE, **{"content-type": "text/plain"}).status_code == 415
    assert trainer.post(SPINE, **{"content-encoding": "gzip"}).status_code == 415


def test_a_key_has_its_own_limit_of_rows(server: Served, keys: Keys) -> None:
    store = FeatureStore(server.address, key=keys.make("train:*", max_rows=11))
    assert store.get_historical_features(spine(11), "orders_v1").to_arrow().num_rows == 11
    with pytest.raises(TooLarge) as refused:
        store.get_historical_features(spine(12), "orders_v1")
    assert (refused.value.expected, refused.value.got) == ("at most 11 rows", "12 rows or more")
    assert "--max-rows" in str(refused.value.remedy)

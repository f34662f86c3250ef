"""What a scope means when a key is made, and what scopes give by the definitions in force."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_server.access.keys import create_key
from feature_server.access.scopes import Grant, losses, parse_scope
from feature_server.definitions.changes import becoming_pii
from feature_server.definitions.facts import FeatureRef, FeatureService, FeatureView, Owner
from feature_server.definitions.registry import Registry
from feature_server.errors import AccessDenied, RequestError, UnknownNameError
from tests.support.online_rows import view

KEYS = {"customer_id": "int64"}


def owned(name: str, group: str, *features: str, access: str | None = None, version: str | None = None) -> FeatureView:
    made = view(name, KEYS, dict.fromkeys(features, "int64"), version=version)
    made = msgspec.structs.replace(made, owner=Owner(name=group, group=group))
    return made if access is None else msgspec.structs.replace(made, access=access)


def reads(name: str, *features: str) -> FeatureService:
    return FeatureService(name=name, features=tuple(FeatureRef(*text.split(":"), text) for text in features))


VIEWS = (
    owned("customer__income", "risk", "income", access="private"),
    owned("customer__limits", "risk", "limit", "used"),
    owned("customer__visits", "growth", "visits", access="public"),
    owned("customer__orders", "growth", "orders", version="1"),
    owned("customer__orders", "growth", "orders", version="2"),
)
REGISTRY = Registry(
    project="shop",
    feature_views=VIEWS,
    feature_services=(
        reads("fraud_v1", "customer__limits:used", "customer__visits:visits"),
        reads("growth", "customer__visits:visits"),
    ),
)
ALL = [(found.id, name) for found in VIEWS for name in found.feature_names]


def readable(*scopes: str, group: str | None = None, verb: str = "read") -> set[tuple[str, str]]:
    grant = Grant([parse_scope(text, REGISTRY) for text in scopes], [group] if group else [], REGISTRY, "key 1 of me")
    found = set()
    for place, name in ALL:
        try:
            grant.check_features(verb, [FeatureRef(place, name, f"{place}:{name}")])
        except AccessDenied:
            continue
        found.add((place, name))
    return found


LIMITS = {("customer__limits", "limit"), ("customer__limits", "used")}
INCOME = {("customer__income", "income")}
VISITS = {("customer__visits", "visits")}
ORDERS = {("customer__orders@v1", "orders"), ("customer__orders@v2", "orders")}


@pytest.mark.parametrize(
    ("scopes", "group", "expected"),
    [
        (["read:fraud_v1"], None, {("customer__limits", "used")} | VISITS),
        (["read:customer__limits"], None, LIMITS),
        (["read:customer__orders"], None, ORDERS),
        (["read:customer__orders@v2"], None, {("customer__orders@v2", "orders")}),
        (["read:risk"], None, LIMITS),
        (["read:risk"], "growth", LIMITS),
        (["read:risk"], "risk", LIMITS | INCOME),
        (["read:customer__income"], "growth", set()),
        (["read:*"], None, LIMITS | VISITS | ORDERS),
        (["read:*"], "risk", set(ALL)),
        (["read:group/growth"], None, VISITS | ORDERS),
        (["read:service/growth"], None, VISITS),
        (["explain:*", "metrics"], None, set()),
        (["admin"], None, set(ALL)),
    ],
)
def test_features_that_scopes_let_read(scopes: list[str], group: str | None, expected: set[tuple[str, str]]) -> None:
    assert readable(*scopes, group=group) == expected


def test_explaining_is_not_reading() -> None:
    assert readable("explain:risk", verb="explain") == LIMITS
    assert readable("read:risk", verb="explain") == set()


def test_an_error_names_the_feature_the_scope_and_what_the_key_has() -> None:
    grant = Grant(["read:service/fraud_v1"], (), REGISTRY, "key 7 of checkout")
    wanted = [FeatureRef("customer__visits", "visits", "customer__visits:visits")]
    grant.check_features("read", wanted)
    wanted += [FeatureRef("customer__limits", "limit", "customer__limits:limit")]
    with pytest.raises(AccessDenied) as denied:
        grant.check_features("read", wanted)
    told = denied.value.as_dict()
    assert told["where"] == "customer__limits:limit"
    assert told["expected"] == "the scope read:view/customer__limits"
    assert told["got"] == "read:service/fraud_v1"
    assert told["what"].startswith("key 7 of checkout")


def test_a_private_view_is_named_as_such() -> None:
    with pytest.raises(AccessDenied, match=r"private(.|\n)*'risk'"):
        Grant(["read:*"], ["growth"], REGISTRY, "k").check_features(
            "read", [FeatureRef("customer__income", "income", "customer__income:income")]
        )


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("read:fraud", UnknownNameError, "fraud_v1"),
        ("read:view/fraud_v1", UnknownNameError, "feature view"),
        ("push:payments", UnknownNameError, "event source"),
        ("write:fraud_v1", RequestError, "no scope"),
        ("read", RequestError, "no scope"),
        ("read:", RequestError, "no scope"),
        ("admin:all", RequestError, "no scope"),
        ("", RequestError, "no scope"),
        ("read:growth", RequestError, "read:service/growth or read:group/growth"),
    ],
)
def test_a_scope_that_names_nothing_or_two_things_is_refused(text: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        parse_scope(text, REGISTRY)


def test_what_a_scope_means_is_settled_when_the_key_is_made() -> None:
    assert [parse_scope(text, REGISTRY) for text in ("read:risk", "read:fraud_v1", "read:customer__visits")] == [
        "read:group/risk", "read:service/fraud_v1", "read:view/customer__visits",
    ]  # fmt: skip


@given(st.sets(st.sampled_from(ALL)), st.sampled_from([None, "risk", "growth"]), st.lists(st.sampled_from([
    "read:risk", "read:fraud_v1", "read:group/growth", "read:customer__income", "explain:*", "metrics", "push:*",
])))  # fmt: skip
def test_a_request_is_given_exactly_where_each_of_its_features_is(
    wanted: set[tuple[str, str]], group: str | None, scopes: list[str]
) -> None:
    grant = Grant([parse_scope(text, REGISTRY) for text in scopes], [group] if group else [], REGISTRY, "k")
    refs = [FeatureRef(place, name, f"{place}:{name}") for place, name in wanted]
    if wanted <= readable(*scopes, group=group):
        grant.check_features("read", refs)
    else:
        with pytest.raises(AccessDenied):
            grant.check_features("read", refs)


def test_sources_and_metrics() -> None:
    grant = Grant(["push:payments.transactions"], (), None, "k")
    grant.check_push("payments.transactions")
    for refused in (lambda: grant.check_push("payments.refunds"), grant.check_metrics):
        with pytest.raises(AccessDenied):
            refused()
    for scopes in (["admin"], ["metrics", "push:*"]):
        Grant(scopes, (), None, "k").check_push("payments.refunds")
        Grant(scopes, (), None, "k").check_metrics()


def pii_registry(*, pii: bool) -> Registry:
    limits = VIEWS[1]
    features = [msgspec.structs.replace(each, pii=True) if pii else each for each in limits.features[:1]]
    marked = msgspec.structs.replace(limits, features=(*features, *limits.features[1:]))
    return msgspec.structs.replace(REGISTRY, feature_views=(VIEWS[0], marked, *VIEWS[2:]))


LIMIT, USED = (FeatureRef("customer__limits", name, f"customer__limits:{name}") for name in ("limit", "used"))


@pytest.mark.parametrize("verb", ["read", "train"])
@pytest.mark.parametrize(
    ("scopes", "given"),
    [
        (["{}:*"], False),
        (["pii:*"], False),
        (["{}:*", "pii:*"], True),
        (["{}:customer__limits", "pii:customer__limits"], True),
        (["{}:*", "pii:risk"], True),
        (["{}:*", "pii:group/growth"], False),
        (["{}:*", "pii:fraud_v1"], False),  # which does not read that feature
        (["admin"], True),
    ],
)
def test_a_feature_that_is_pii_needs_the_scope_of_pii_too(verb: str, scopes: list[str], given: bool) -> None:
    registry = pii_registry(pii=True)
    grant = Grant([parse_scope(text.format(verb), registry) for text in scopes], (), registry, "key 1 of me")
    if any(text != "pii:*" for text in scopes):
        grant.check_features(verb, [USED])
    if given:
        grant.check_features(verb, [USED, LIMIT])
        return
    with pytest.raises(AccessDenied) as denied:
        grant.check_features(verb, [USED, LIMIT] if scopes != ["pii:*"] else [LIMIT])
    assert denied.value.where == "customer__limits:limit"


def test_what_is_explained_is_not_denied_but_seen_by_the_scope_of_pii() -> None:
    registry = pii_registry(pii=True)
    view = registry.feature_view("customer__limits")

    def seen(*scopes: str) -> frozenset[str] | None:
        grant = Grant([parse_scope(text, registry) for text in scopes], (), registry, "key 1 of me")
        if scopes[0] != "admin":
            grant.check_features("explain", [LIMIT])
        return grant.pii_seen(view)

    assert seen("explain:*") == frozenset()
    assert seen("explain:*", "pii:fraud_v1") == {"used"}
    assert seen("explain:*", "pii:risk") is None
    assert seen("admin") is None


def test_keys_lose_what_becomes_pii() -> None:
    before, after = pii_registry(pii=False), pii_registry(pii=True)
    assert becoming_pii(before, after) == (LIMIT,)
    assert becoming_pii(after, before) == ()
    keys = [
        create_key(owner=owner, scopes=scopes, now_us=1, expires_us=expires)[0]
        for owner, scopes, expires in (
            ("a", ("read:*", "train:*"), None),
            ("b", ("read:*", "pii:view/customer__limits"), None),
            ("c", ("read:view/customer__visits",), None),
            ("d", ("read:*",), 5),
            ("e", ("admin",), None),
        )
    ]
    found = losses(keys, [LIMIT], before, after, now_us=10)
    assert [(loss.owner, loss.verb, loss.feature) for loss in found] == [
        ("a", "read", "customer__limits:limit"),
        ("a", "train", "customer__limits:limit"),
    ]


def test_what_was_pii_when_it_was_stored_is_so_whatever_is_in_force() -> None:
    """Rows of an earlier definition are read until others are synced."""
    found = next(each for each in VIEWS if each.name == "customer__visits")
    features = tuple(msgspec.structs.replace(each, pii=True) for each in found.features)
    before = msgspec.structs.replace(found, features=features)
    refs = [FeatureRef("customer__visits", "visits", "customer__visits:visits")]
    for verb in ("read", "train"):
        Grant([f"{verb}:*"], [], REGISTRY, "key 1 of me").check_features(verb, refs)
        with pytest.raises(AccessDenied, match="that is pii"):
            Grant([f"{verb}:*"], [], REGISTRY, "key 1 of me", [before]).check_features(verb, refs)
        Grant([f"{verb}:*", "pii:*"], [], REGISTRY, "key 1 of me", [before]).check_features(verb, refs)

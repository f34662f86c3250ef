"""Which views are published together: as an independent search over services finds them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from feature_server.definitions.bound import bound_views, with_bound
from feature_server.definitions.facts import FeatureRef, FeatureService, FeatureView
from feature_server.definitions.registry import Registry

CADENCES = ("hourly", "daily", None)
NAMES = "abcdefgh"


def view(name: str, refresh: str | None) -> FeatureView:
    return FeatureView(name=name, entities=(), join_keys=(), features=(), refresh=refresh)


def service(name: str, views: list[str], *, bound: bool) -> FeatureService:
    refs = tuple(FeatureRef(view, "f", f"{view}:f") for view in views)
    return FeatureService(name=name, features=refs, consistent="run" if bound else UNSET)


def test_who_names_a_view_names_those_bound_with_it() -> None:
    views = (view("a", "hourly"), view("b", "hourly"), replace(view("c", "hourly"), online=False), view("d", "daily"))
    registry = Registry(project="p", feature_views=views, feature_services=(service("s", [*"abcd"], bound=True),))
    assert with_bound(["gone", "b"], registry) == ["gone", "b", "a"]
    assert with_bound(["d"], registry) == ["d"]


@given(
    st.lists(st.sampled_from(CADENCES), min_size=len(NAMES), max_size=len(NAMES)),
    st.lists(st.tuples(st.booleans(), st.lists(st.sampled_from(NAMES), max_size=4, unique=True)), max_size=6),
)
def test_views_are_bound_when_a_chain_of_services_joins_them(
    cadences: list[str | None], read: list[tuple[bool, list[str]]]
) -> None:
    refresh = dict(zip(NAMES, cadences, strict=True))
    views = [view(name, refresh[name]) for name in NAMES]
    services = [service(f"s{i}", names, bound=bound) for i, (bound, names) in enumerate(read)]
    joined = {(a, b) for bound, names in read if bound for a in names for b in names if refresh[a] == refresh[b]}
    for via in NAMES:  # the transitive closure, a step of Warshall's at a time
        joined |= {(a, b) for a in NAMES for b in NAMES if (a, via) in joined and (via, b) in joined}
    expected = {tuple(b for b in NAMES if (a, b) in joined or a == b) for a in NAMES}
    assert set(bound_views(views, services)) == {group for group in expected if len(group) > 1}

"""What a key may do: its scopes, checked against the definitions when it is made, and applied to those in force.

A scope is `read:<name>`, `explain:<name>`, `train:<name>`, `pii:<name>` or `push:<source>`; a name is a feature
service's, a feature view's or a group's, and `*` stands for all. `metrics` and `admin` have no name. Once it is known
which one is meant a scope is written with it, `read:service/fraud_v1`: a group given the same name later changes
nothing.

`pii:<name>` stands beside the others: what is read or trained with and is pii needs both; what is explained is masked.
"""

from collections.abc import Iterable, Sequence

import msgspec

from ..definitions.facts import FeatureRef, FeatureView
from ..definitions.registry import Registry
from ..errors import AccessDenied, RequestError, UnknownNameError, cut, shown
from .keys import Key

READ, EXPLAIN, TRAIN, PII, PUSH, METRICS, ADMIN = "read", "explain", "train", "pii", "push", "metrics", "admin"
ALL = "*"
_OF_FEATURES = (READ, EXPLAIN, TRAIN, PII)
_GIVING = (READ, TRAIN)  # values, which are given whole or not at all
_KINDS = ("service", "view", "group")
_EXAMPLES = "read, explain, train or pii:<service, view or group>, push:<source>, metrics or admin"


def parse_scope(text: str, registry: Registry) -> str:
    """A scope as it is kept. RequestError for none, and where it is not clear what is meant; UnknownNameError."""
    verb, colon, name = text.partition(":")
    if verb in (METRICS, ADMIN) and not colon:
        return verb
    if verb not in (*_OF_FEATURES, PUSH) or not name:
        raise RequestError(f"{shown(text)} is no scope", where="--scope", got=cut(text), expected=_EXAMPLES)
    if name == ALL:
        return text
    if verb == PUSH:
        sources = [source.name for source in registry.sources]
        if name not in sources:
            raise UnknownNameError("event source", name, sources, where=cut(text))
        return text
    named = _named(registry)
    kind, slash, alone = name.partition("/")
    if slash and kind in _KINDS:
        if alone not in named[kind]:
            raise UnknownNameError(_words(kind), alone, named[kind], where=cut(text))
        return text
    found = [kind for kind in _KINDS if name in named[kind]]
    if not found:
        raise UnknownNameError("feature service, view or group", name, set().union(*named.values()), where=cut(text))
    if len(found) > 1:
        raise RequestError(
            f"{shown(name)} is the name of a {' and of a '.join(found)}", where=cut(text),
            expected=" or ".join(f"{verb}:{kind}/{name}" for kind in found),
        )  # fmt: skip
    return f"{verb}:{found[0]}/{name}"


def _words(kind: str) -> str:
    return "group" if kind == "group" else f"feature {kind}"


def _named(registry: Registry) -> dict[str, set[str]]:
    views = {name for view in registry.feature_views for name in (view.id, view.name)}
    groups = {view.owner.group for view in registry.feature_views if view.owner and view.owner.group}
    return {"service": {service.name for service in registry.feature_services}, "view": views, "group": groups}


class Grant:
    """What scopes give by the definitions in force, to whom belongs to `groups`.

    A view that dbt holds private to a group is read by its members alone, whatever scope names it. `who` says in errors
    whose grant this is. Without a registry nothing can be asked of features. `stored` are the definitions that what is
    read was stored by: what was pii then is so, whatever is in force.
    """

    def __init__(
        self,
        scopes: Iterable[str],
        groups: Iterable[str],
        registry: Registry | None,
        who: str,
        stored: Iterable[FeatureView] = (),
    ) -> None:
        self.who, self._scopes, self._groups = who, frozenset(scopes), frozenset(groups)
        self._registry, self._stored = registry, tuple(stored)

    @property
    def is_admin(self) -> bool:
        return ADMIN in self._scopes

    def check_features(self, verb: str, refs: Sequence[FeatureRef]) -> None:
        """AccessDenied naming the first feature that is not given."""
        if self.is_admin:
            return
        assert self._registry is not None
        views = {view.id: view for view in self._registry.feature_views}
        reached = self._reach(verb, self._registry)
        pii = {(view.id, name) for view in (*views.values(), *self._stored) for name in view.pii_names}
        seen = self._reach(PII, self._registry) if pii and verb in _GIVING else None
        for ref in refs:
            view = views[ref.view]
            if view.access == "private" and (view.owner is None or view.owner.group not in self._groups):
                raise self._denied(
                    f"view {view.id!r} is private to its group", ref, expected=f"a key of group {_group_of(view)}"
                )
            if reached is not None and (ref.view, ref.feature) not in reached:
                raise self._denied(f"no right to {verb} a feature", ref, expected=f"the scope {verb}:view/{ref.view}")
            if seen is not None and (ref.view, ref.feature) in pii - seen:
                raise self._denied(
                    f"no right to {verb} a feature that is pii", ref, expected=f"the scope pii:view/{ref.view}, too"
                )

    def pii_seen(self, view: FeatureView) -> frozenset[str] | None:
        """The features of a view of which pii may be seen; None where all of it may."""
        assert self._registry is not None
        reached = None if self.is_admin else self._reach(PII, self._registry)
        if reached is None:
            return None
        seen = frozenset(name for name in view.feature_names if (view.id, name) in reached)
        return None if len(seen) == len(view.features) else seen

    def check_push(self, source: str) -> None:
        """AccessDenied for an event source that is not given."""
        if self.is_admin or self._scopes & {f"{PUSH}:{ALL}", f"{PUSH}:{source}"}:
            return
        raise self._denied("no right to push to a source", source, expected=f"the scope {PUSH}:{cut(source)}")

    def check_metrics(self) -> None:
        """AccessDenied without the scope."""
        if not (self.is_admin or METRICS in self._scopes):
            raise self._denied("no right to read metrics", "/metrics", expected=f"the scope {METRICS}")

    def _reach(self, verb: str, registry: Registry) -> set[tuple[str, str]] | None:
        """View and name of all features that a verb may be done with; None for all."""
        scopes = [name for kind, _, name in (scope.partition(":") for scope in self._scopes) if kind == verb]
        if ALL in scopes:
            return None
        by_kind = {kind: {name.removeprefix(f"{kind}/") for name in scopes if name.startswith(kind)} for kind in _KINDS}
        found = set[tuple[str, str]]()
        for service in registry.feature_services:
            if service.name in by_kind["service"]:
                found |= {(ref.view, ref.feature) for ref in service.features}
        for view in registry.feature_views:
            group = view.owner and view.owner.group
            if {view.id, view.name} & by_kind["view"] or group in by_kind["group"]:
                found |= {(view.id, name) for name in view.feature_names}
        return found

    def _denied(self, what: str, of: FeatureRef | str, *, expected: str) -> AccessDenied:
        return AccessDenied(
            f"{self.who} has {what}" if what.startswith("no") else what, where=cut(str(of)), expected=expected,
            got=", ".join(sorted(self._scopes)) or "no scope",
            remedy="ask whoever owns the features for a key that may: `features keys create`",
        )  # fmt: skip


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """That a key may not do something with a feature any more, which it may now."""

    key: str
    owner: str
    verb: str
    feature: str

    def __str__(self) -> str:
        return f"key {self.key} of {self.owner} loses the right to {self.verb} {self.feature}"


def losses(
    keys: Iterable[Key], refs: Sequence[FeatureRef], in_force: Registry, wanted: Registry, *, now_us: int
) -> tuple[Loss, ...]:
    """What valid keys lose of some features by the wanted definitions: values to read and to train with."""
    return tuple(
        Loss(key=key.id, owner=key.owner, verb=verb, feature=str(ref))
        for key in keys
        if key.state(now_us) == "valid"
        for verb in _GIVING
        for ref in refs
        if _may(key, verb, ref, in_force) and not _may(key, verb, ref, wanted)
    )


def _may(key: Key, verb: str, ref: FeatureRef, registry: Registry) -> bool:
    try:
        Grant(key.scopes, [key.group] if key.group else [], registry, key.id).check_features(verb, [ref])
    except AccessDenied:
        return False
    return True


def _group_of(view: FeatureView) -> str:
    return repr(view.owner.group) if view.owner and view.owner.group else "its owner"

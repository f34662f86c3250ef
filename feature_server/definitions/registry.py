"""The definitions in force, and how to find one: every look-up that fails names the nearest right name."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ..durable import make_private, write_whole
from ..errors import UNREADABLE, FeatureStoreError, RequestError, UnknownNameError, cut, shown
from ..formats import check_format
from .facts import Entity, FeatureRef, FeatureService, FeatureView, fingerprint
from .models import Model, SameMeaning
from .owner import Owner
from .stream import EventSource

REGISTRY_FORMAT = 1
Definition = TypeVar("Definition", Entity, FeatureView, FeatureService)


class Registry(msgspec.Struct, frozen=True, kw_only=True):
    """All definitions of one project, each tuple sorted by name.

    `target` is dbt's, empty where it was not recorded yet, `adopted` names other owners (`project.target`) whose stores
    this one took over. `models` are what the views are built from, `variables` hashes of the project's variables but
    `as_of`.
    """

    format: int = REGISTRY_FORMAT
    project: str
    target: str = ""
    adopted: tuple[str, ...] = ()
    entities: tuple[Entity, ...] = ()
    sources: tuple[EventSource, ...] = ()
    feature_views: tuple[FeatureView, ...] = ()
    feature_services: tuple[FeatureService, ...] = ()
    models: tuple[Model, ...] = ()
    variables: dict[str, str] = {}
    same_meanings: tuple[SameMeaning, ...] = ()

    @property
    def owner(self) -> Owner:
        return Owner(self.project, self.target)

    def entity(self, name: str) -> Entity:
        return _find("entity", name, ((entity.name, entity) for entity in self.entities))

    def feature_view(self, name: str) -> FeatureView:
        """By id (`name` or `name@v2`); the plain name of a versioned view means its latest version."""
        return _find("feature_view", name, self._named_views())

    def feature_service(self, name: str) -> FeatureService:
        return _find("feature_service", name, ((service.name, service) for service in self.feature_services))

    def resolve(self, features: str | Sequence[str]) -> tuple[FeatureRef, ...]:
        """The features of a service (given by name), or of a list of `view:feature` and `view@v2:feature`.

        Raises UnknownNameError for a name the registry does not hold, RequestError for text of another shape or for a
        feature asked for twice.
        """
        if isinstance(features, str):
            if ":" in features:
                raise RequestError(
                    f"{shown(features)} is not the name of a feature service", where="feature_service",
                    got=cut(features),
                    expected="a feature service, or a list of `view:feature`",
                    remedy=f"put it in a list: [{shown(features)}]",
                )  # fmt: skip
            self._check_no_view(features)
            return self.feature_service(features).features
        views = dict(self._named_views())
        refs: dict[tuple[str, str], FeatureRef] = {}
        names: dict[str, frozenset[str]] = {}
        for text in feature_list(features):
            ref = parse_feature_ref(text, views, names)
            if refs.setdefault((ref.view, ref.feature), ref) is not ref:
                raise RequestError(f"{text!r} is asked for twice", where="features", remedy="ask for it once")
        return tuple(refs.values())

    def _check_no_view(self, name: str) -> None:
        """RequestError where a feature view is named and a service is meant."""
        view = dict(self._named_views()).get(name)
        if view is not None and all(name != service.name for service in self.feature_services):
            raise RequestError(
                f"{shown(name)} is a feature view, and no feature service", where="feature_service", got=name,
                expected="a feature service, or a list of `view:feature`",
                remedy=f"ask for its features, such as {name}:{view.feature_names[0]}",
            )  # fmt: skip

    def services_using(self, view_id: str) -> tuple[FeatureService, ...]:
        return tuple(s for s in self.feature_services if any(ref.view == view_id for ref in s.features))

    def without_sql(self) -> "Registry":
        """The same for those who read values: the views have their meanings, as hashes."""
        return msgspec.structs.replace(self, models=(), variables={}, same_meanings=())

    def with_meanings_of(self, in_force: "Registry | None") -> "Registry":
        """A registry that was loaded without models, with the meanings in force, so that all else can be compared."""
        meanings = {view.id: view.meaning for view in (in_force or self).feature_views}
        views = []
        for found in self.feature_views:
            view = msgspec.structs.replace(found, meaning=meanings.get(found.id, found.meaning))
            views.append(msgspec.structs.replace(view, fingerprint=fingerprint(view)))
        return msgspec.structs.replace(self, feature_views=tuple(views))

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1)

    def _named_views(self) -> Iterable[tuple[str, FeatureView]]:
        for view in self.feature_views:
            yield view.id, view
            if view.version is not None and view.latest:
                yield view.name, view


def feature_list(features: Any) -> list[str]:
    """A list of references as it may be sent; RequestError for anything else, and for an empty one."""
    listed = list(features) if isinstance(features, Iterable) else [features]
    if not listed or not all(issubclass(kind, str) for kind in set(map(type, listed))):
        wrong = next((text for text in listed if not isinstance(text, str)), None)
        raise RequestError(
            "no features are asked for" if not listed else "features are asked for by what is no text",
            where="features",
            expected="a feature service's name, or a list of at least one `view:feature`",
            got="an empty list" if not listed else type(wrong).__name__,
        )
    return listed


def parse_feature_ref(text: str, views: dict[str, FeatureView], names: dict[str, frozenset[str]]) -> FeatureRef:
    """`view:feature` or `view@v2:feature` as a FeatureRef on the view's id; `views` maps every name a view goes by.

    `names` keeps the names of the features of the views met so far.
    """
    view_name, colon, feature = text.partition(":")
    if not colon or not view_name or not feature or ":" in feature:
        raise RequestError(
            f"{shown(text)} is not a feature reference",
            where="features",
            expected="`view:feature`, e.g. customer__transactions:transactions_1h, or `view@v2:feature`",
            got=cut(text),
        )
    view = views.get(view_name)
    if view is None:
        raise UnknownNameError("feature_view", view_name, views, where=cut(text))
    if view.id not in names:
        names[view.id] = frozenset(view.feature_names)
    if feature not in names[view.id]:
        raise UnknownNameError("feature", feature, view.feature_names, where=cut(text))
    return FeatureRef(view.id, feature, text)


def read_registry(path: Path) -> Registry:
    """The registry that `features apply` wrote."""
    try:
        return _read(path)
    except FileNotFoundError:
        raise FeatureStoreError(
            "no registry has been applied", where=str(path), remedy="run `features apply` in the dbt project"
        ) from None
    except UNREADABLE as error:
        raise FeatureStoreError(
            "the registry cannot be read", where=str(path), got=str(error), remedy="run `features apply` again"
        ) from None


def replaced_registry(path: Path) -> Registry | None:
    """What `features apply` replaces: None where nothing was applied, or where that can no longer be read.

    A newer version's is an error here too.
    """
    try:
        return _read(path)
    except (FileNotFoundError, *UNREADABLE):
        return None


def _read(path: Path) -> Registry:
    stored = path.read_bytes()
    check_format(
        stored, path.name, REGISTRY_FORMAT, kind=FeatureStoreError, where=str(path),
        remedy="a newer version of feature-warehouse applied it: use that one here too",
    )  # fmt: skip
    return msgspec.json.decode(stored, type=Registry)


def write_registry(path: Path, registry: Registry) -> None:
    """Put `registry` in force for readers of `path`: they see the old one or the new one, whole, also after a crash."""
    make_private(path.parent)
    write_whole(path, lambda file: file.write(registry.to_json()))


def column_names(refs: Sequence[FeatureRef], full_feature_names: bool, keys: Iterable[str] = ()) -> list[str]:
    """The name of each feature in an answer: its own, or `view__feature` with the view as the request names it.

    RequestError where two features, or a feature and one of the join `keys`, would have the same name.
    """
    taken, names = dict.fromkeys(keys, "the join key"), list[str]()
    for ref in refs:
        name = ref.text.replace(":", "__") if full_feature_names else ref.feature
        if name in taken:
            raise RequestError(
                f"two columns of the answer would be named {name!r}",
                where="features",
                got=f"{taken[name]} and {ref.text}",
                remedy="ask for them one by one" if full_feature_names
                else "set full_feature_names to true (--full-feature-names)",
            )  # fmt: skip
        taken[name] = ref.text
        names.append(name)
    return names


def _find(kind: str, name: str, named: Iterable[tuple[str, Definition]]) -> Definition:
    known = dict(named)
    if name not in known:
        raise UnknownNameError(kind, name, known)
    return known[name]

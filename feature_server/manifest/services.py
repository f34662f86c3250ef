"""Exposures with `meta.feature_service` → feature services."""

from msgspec import UNSET

from ..dbt.artifacts import Manifest, Node
from ..definitions.facts import FeatureRef, FeatureService
from .blocks import read_block
from .report import META, Report, Step
from .views import ViewDraft, owner_of

BLOCK = (*META, "feature_service")


def read_services(views: dict[str, ViewDraft], report: Report) -> tuple[FeatureService, ...]:
    """Every feature service, by name."""
    named = dict(views) | {draft.node.name: draft for draft in views.values() if draft.view.latest}
    services: dict[str, tuple[Node, FeatureService]] = {}
    for node in sorted(report.manifest.exposures.values(), key=lambda node: (node.name, node.unique_id)):
        if "feature_service" not in node.meta:
            continue
        service = _read_service(node, named, report)
        first, _ = services.setdefault(node.name, (node, service))
        if first is not node:
            report.add(
                node, BLOCK, f"feature service {node.name!r} is defined twice",
                expected="each feature service in one package", got=f"also in {first.file}",
            )  # fmt: skip
    return tuple(service for _, service in services.values())


def _read_service(node: Node, named: dict[str, ViewDraft], report: Report) -> FeatureService:
    block = read_block(node, "feature_service", report)
    if node.type != "ml":
        report.add(node, ("type",), "a feature service is an exposure of type ml", expected="ml", got=node.type)
    report.check_description(node, "feature service", "what it is for")
    refs: dict[tuple[str, str], FeatureRef] = {}
    missing: set[str] = set()
    for position, text in enumerate(block.get("features", [])):
        path = (*BLOCK, "features", position)
        found = _find_feature(node, path, text, named, report)
        if found is None:
            continue
        draft, feature = found
        key = (draft.view.id, feature)
        if key in refs:
            other = refs[key]
            report.add(
                node, path, f"{text!r} is named twice", expected="each feature once",
                got=None if other.text == text else f"also as {other.text!r}",
            )  # fmt: skip
        refs.setdefault(key, FeatureRef(*key, text))
        if draft.node.unique_id not in node.depends_on.nodes and draft.view.id not in missing:
            missing.add(draft.view.id)
            version = "" if draft.node.version is None else f", v={draft.node.version}"
            report.add(
                node, ("depends_on",), f"the service reads {draft.view.id} but does not depend on it",
                expected=f"ref('{draft.node.name}'{version})",
                remedy="add it to depends_on, so that lineage and dbt's selection see it",
            )  # fmt: skip
    _check_names(node, list(refs.values()), named, report)
    return FeatureService(
        name=node.name, features=tuple(refs.values()), description=node.text,
        owner=owner_of(node.owner), tags=node.tags, path=node.original_file_path,
        consistent=block.get("consistent", UNSET),
    )  # fmt: skip


def _check_names(node: Node, refs: list[FeatureRef], named: dict[str, ViewDraft], report: Report) -> None:
    """A warning for a service that can be read by full names alone, a problem for one that cannot be read by those."""
    views = {ref.view: named[ref.text.partition(":")[0]].view for ref in refs}
    keys = dict.fromkeys((key.name for view in views.values() for key in view.join_keys), "a join key")
    path = (*BLOCK, "features")
    for full in (False, True):
        taken = dict(keys)
        for ref in refs:
            name = ref.text.replace(":", "__") if full else ref.feature
            if name in taken and full:
                report.add(
                    node, path, f"two features would have the full name {name!r}", expected="names that differ",
                    got=f"{taken[name]} and {ref.text}", remedy="rename a feature, or leave one out",
                )  # fmt: skip
            elif name in taken:
                report.add(
                    node, path, f"{name!r} would be the name of two columns, so the service needs full names",
                    got=f"{taken[name]} and {ref.text}", warning=True,
                    remedy="read it with full_feature_names=True (--full-feature-names), which names the second "
                    f"{ref.text.replace(':', '__')}; or rename a feature",
                )  # fmt: skip
            taken.setdefault(name, ref.text)


def _find_feature(
    node: Node, path: tuple[Step, ...], text: str, named: dict[str, ViewDraft], report: Report
) -> tuple[ViewDraft, str] | None:
    """The view and feature that `text` names; None, and a problem, when there is none."""
    view, colon, feature = text.partition(":")
    if not colon or not view or not feature or ":" in feature:
        report.add(
            node, path, f"{text!r} is not a feature reference",
            expected="`view:feature` or `view@v2:feature`", got=text,
        )  # fmt: skip
        return None
    draft = named.get(view)
    if draft is None:
        report.unknown_name(node, path, "feature view", view, named, _why_not(view, report.manifest))
        return None
    if feature not in draft.features:
        report.unknown_name(node, path, f"feature of {view}", feature, draft.features)
        return None
    return draft, feature


def _why_not(view: str, manifest: Manifest) -> str | None:
    """What to do about a model that exists but is no feature view."""
    name = view.partition("@")[0]
    if any(node.get("name") == name for nodes in manifest.disabled.values() for node in nodes):
        return f"model {name} is disabled: enable it, or drop its features from the service"
    models = [node for node in manifest.models() if node.name == name]
    if not models:
        return None
    if any("feature_view" in node.meta for node in models):
        return f"name a version of {name} that is a feature view, such as {name}@v{models[-1].version}"
    return f"declare model {name} a feature view in config.meta.feature_view"

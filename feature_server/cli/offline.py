"""features publish, verify, train, reproduce: the offline store, what agrees with it, what is made from it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from ..errors import FeatureStoreError, OfflineStoreError, RequestError, SyncConflict, shown
from .main import Json, ProjectDir, app, finish, in_force, online_store, progress_bar, show, written_here

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..definitions.facts import FeatureView
    from ..definitions.registry import Registry
    from ..definitions.stream import EventSource
    from ..offline.store import OfflineStore
    from ..online.store import OnlineStore
    from ..settings import Settings
    from ..training.sets import TrainingSet
    from ..verify.files import CheckedFiles, CheckedLanded
    from ..verify.rows import Verified

Views = Annotated[list[str] | None, typer.Argument(metavar="[VIEW]...", help="Feature views; all of them by default.")]
Refresh = Annotated[
    str | None, typer.Option(help="Only views with this `refresh` in their definition, e.g. hourly.", metavar="CADENCE")
]
Out = Annotated[
    Path,
    typer.Option(help="Parquet file to write; it appears when it is complete.", metavar="FILE", callback=written_here),
]
MemoryLimit = Annotated[
    str | None,
    typer.Option(
        help="Most memory for building an index, e.g. 2GB; what is beyond is spilled to disk.", metavar="SIZE"
    ),
]


@app.command(epilog="Example: features publish customer__transactions --wait 60")
def publish(
    views: Views = None,
    refresh: Refresh = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option("--except", help="A view that failed and is left as it is. Repeatable.", metavar="VIEW"),
    ] = None,
    held: Annotated[
        list[str] | None,
        typer.Option("--held", help="A view that `features compare` holds back. Repeatable.", metavar="VIEW"),
    ] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Compare every row, whatever dbt's build log says, and write anew what damaged files held.",
        ),
    ] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for a build that holds the warehouse.", min=0)] = 0,
    run_results: Annotated[
        Path | None,
        typer.Option(
            "--run-results",
            help="dbt's file of the build, for views without a build log; by default that of dbt's last run.",
            metavar="FILE",
        ),
    ] = None,
    project_dir: ProjectDir = None,
    json: Json = False,
) -> None:
    """Bring the offline store up to date with the warehouse: one commit for each view that changed.

    Run it after `dbt build`. A view that cannot be published does not keep the others from it: exit code 1, or 3 where
    each of those failed a test, was not built, or was built by other SQL than is in force.
    """
    from ..definitions.bound import bound_views
    from ..offline.owned import OFFLINE, claim
    from ..publish.batch import publish_all
    from ..publish.rebuild import waiting_views

    settings, registry = in_force(project_dir)
    claim(settings.offline, registry, OFFLINE)
    left_out, held_back = ([registry.feature_view(name) for name in names or ()] for names in (leave_out, held))
    apart = {view.id for view in (*left_out, *held_back)}
    published, failed = publish_all(
        [view for view in select_views(registry, views or [], refresh) if view.id not in apart],
        settings,
        left_out=left_out,
        held=held_back,
        waiting=waiting_views(registry, settings) if left_out else (),
        sources=registry.sources,
        models=registry.models,
        groups=bound_views(registry.feature_views, registry.feature_services),
        wait_seconds=wait,
        full=full,
        run_results=run_results,
        report=(lambda published: None) if json else typer.echo,
        show_progress=progress_bar,
    )
    finish({"published": published}, "failed", failed, json=json)


@app.command(epilog="Example: features verify customer__transactions --sample 0")
def verify(
    views: Annotated[
        list[str] | None, typer.Argument(metavar="[VIEW]...", help="Feature views; by default all that are online.")
    ] = None,
    refresh: Refresh = None,
    sample: Annotated[
        int, typer.Option(help="How many keys of each view to compare, the same ones every time; 0: all.", min=0)
    ] = 1000,
    files: Annotated[
        bool,
        typer.Option(
            "--files", help="Read the files of tables and of landed events instead, and print each damaged one."
        ),
    ] = False,
    project_dir: ProjectDir = None,
    json: Json = False,
) -> None:
    """Compare the online store with the offline store at one instant, and print every value that differs and why.

    Exit code 1 when a difference is not explained by a sync that is still to come. What was found of each view is kept
    for the feature server's /metrics and `features status`. With --files the rows of each file are compared with the
    fingerprint in its name, of views that are not online too, and those that pushed events of the views have landed in
    with their checksum; Redis is not asked.
    """
    from ..offline.store import OfflineStore
    from ..verify.rows import check_online

    settings, registry = in_force(project_dir)
    chosen = select_views(registry, views or [], refresh)
    store = OfflineStore(settings.offline)
    if files:
        _verify_files(chosen, registry.sources, store, settings.project_dir, json)
        return
    if views:
        check_online(chosen)
    results = []
    failed: dict[str, FeatureStoreError] = {}
    with online_store(settings) as online:
        for view in (view for view in chosen if view.online):
            try:
                result = _verify_view(view, online, store, settings, sample)
            except (OfflineStoreError, SyncConflict) as error:
                failed[view.id] = error
                typer.echo(f"failed {error}", err=True)
                continue
            results.append(result)
            online.keep_verified(view.id, result.summary)
            if not json:
                typer.echo("\n".join([*(f"{view.id} {difference}" for difference in result.differences), str(result)]))
    told = {"verified": results, "failed": {view: error.as_dict() for view, error in failed.items()}}
    show(told, [], json=json, good=not failed and not any(result.unexplained for result in results))


def _verify_view(
    view: FeatureView, online: OnlineStore, store: OfflineStore, settings: Settings, sample: int
) -> Verified:
    from ..verify.difference import without_pii
    from ..verify.events import verify_events
    from ..verify.rows import verify as run

    pii = {*view.pii_names, *store.table(view.id).definition().pii_names}  # in force, and as it was published
    with progress_bar(view.id) as progress:
        now_us = settings.now_us()
        if view.stream is None:
            found = run(view, online, store, now_us=now_us, sample=sample, progress=progress)
        else:
            found = verify_events(
                view, online, store, now_us=now_us, project_dir=settings.project_dir, warehouse=settings.warehouse,
                attached=settings.attached, sample=sample, progress=progress,
            )  # fmt: skip
    return msgspec.structs.replace(found, differences=without_pii(found.differences, pii))


def _verify_files(
    views: Sequence[FeatureView], sources: Sequence[EventSource], store: OfflineStore, project_dir: Path, json: bool
) -> None:
    from ..verify.files import check_files, check_landed

    checked = []
    failed: dict[str, FeatureStoreError] = {}
    for view in views:
        try:
            checked.append(check_files(view, store))
        except OfflineStoreError as error:
            failed[view.id] = error
            typer.echo(f"failed {error}", err=True)
            continue
        if not json:
            _show_checked(view.id, checked[-1])
    used = {view.stream.source for view in views if view.stream is not None}
    landed = [check_landed(source, project_dir) for source in sources if source.name in used]
    if not json:
        for one in landed:
            _show_checked(one.source, one)
    failures = {view: error.as_dict() for view, error in failed.items()}
    told = {"checked": checked, "landed": landed, "failed": failures}
    good = not (failed or any(one.damaged for one in checked) or any(one.damaged for one in landed))
    show(told, [], json=json, good=good)


def _show_checked(name: str, checked: CheckedFiles | CheckedLanded) -> None:
    typer.echo("\n".join([*(f"{name} {line}" for line in checked.damaged), str(checked)]))
    if checked.remedy is not None:
        typer.echo(f"failed {name}: damaged files: {len(checked.damaged)}\n  remedy: {checked.remedy}", err=True)


def select_views(registry: Registry, names: list[str], refresh: str | None) -> tuple[FeatureView, ...]:
    """The views named (all when none is), of these the ones with the given `refresh`; an empty choice is an error."""
    chosen = tuple(registry.feature_view(name) for name in names) if names else registry.feature_views
    if refresh is None:
        return chosen
    found = tuple(view for view in chosen if view.refresh == refresh)
    if not found:
        known = sorted({view.refresh for view in chosen if view.refresh is not None})
        raise RequestError(
            "no view is refreshed at this cadence",
            where="--refresh",
            expected=f"one of {', '.join(known)}" if known else "views with a `refresh`; none has one",
            got=refresh,
        )
    return found


@app.command(epilog="Example: features train fraud_v1 --spine labels.parquet --out train.parquet")
def train(
    features: Annotated[
        list[str], typer.Argument(metavar="SERVICE", help="A feature service, or one or more `view:feature`.")
    ],
    spine: Annotated[
        str,
        typer.Option(
            help="Rows to find features for: a Parquet file, or a SQL query (select, with, from) that may read files "
            "and published views.",
            metavar="FILE|SQL",
        ),
    ],
    out: Out,
    as_known: Annotated[
        bool, typer.Option("--as-known", help="Use only rows whose created timestamp is not after the spine's time.")
    ] = False,
    full_feature_names: Annotated[
        bool, typer.Option("--full-feature-names", help="Name columns view__feature instead of feature.")
    ] = False,
    event_timestamp: Annotated[
        str, typer.Option(help="The spine's time column; a time without a zone is UTC.", metavar="COLUMN")
    ] = "event_timestamp",
    as_of_version: Annotated[
        list[str] | None,
        typer.Option(help="Read a view's offline table at this version. Repeatable.", metavar="VIEW=VERSION"),
    ] = None,
    memory_limit: MemoryLimit = None,
    project_dir: ProjectDir = None,
    json: Json = False,
) -> None:
    """Write a training set: each row of the spine with the features as they were at its time.

    The file records what it was made from, so that `features reproduce` can make it again.
    """
    from ..training.store import FeatureStore

    store = FeatureStore(project_dir, memory_limit=memory_limit)
    training_set = store.get_historical_features(
        spine,
        features[0] if len(features) == 1 and ":" not in features[0] else features,
        as_known=as_known,
        full_feature_names=full_feature_names,
        event_timestamp=event_timestamp,
        versions=dict(map(_version, as_of_version or [])),
        notice=_notice,
    )
    _write(training_set, out, json)


@app.command(epilog="Example: features reproduce train.parquet --out again.parquet")
def reproduce(
    training_set: Annotated[Path, typer.Argument(help="A file that `features train` wrote.", metavar="FILE")],
    out: Out,
    memory_limit: MemoryLimit = None,
    project_dir: ProjectDir = None,
    json: Json = False,
) -> None:
    """Make a training set again from the definitions and table versions it records: the same bytes."""
    from ..training.store import FeatureStore

    store = FeatureStore(project_dir, memory_limit=memory_limit)
    _write(store.reproduce(training_set, notice=_notice), out, json)


def _version(text: str) -> tuple[str, int]:
    view, equals, version = text.rpartition("=")
    if not equals or not view or not version.isdigit():
        raise typer.BadParameter(
            f"expected VIEW=VERSION, e.g. customer__transactions=3, got {shown(text)}", param_hint="--as-of-version"
        )
    return view, int(version)


def _notice(text: str) -> None:
    if sys.stderr.isatty():
        typer.echo(text, err=True)


def _write(training_set: TrainingSet, out: Path, json: bool) -> None:
    with progress_bar("rows") as progress:
        summary = training_set.write_parquet(out, progress=progress)
    wrote = f"wrote {out} rows={summary.rows} features={summary.features} seconds={summary.seconds:.2f}"
    shares = summary.null_share
    views = [f"  {view} version={at} without_row={shares[view]:.1%}" for view, at in summary.versions.items()]
    show(summary, [wrote, *views], json=json)

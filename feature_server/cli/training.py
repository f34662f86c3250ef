"""features train, reproduce: training sets as Parquet files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .main import Json, ProjectDir, app, progress_bar, show, written_here

if TYPE_CHECKING:
    from ..training.sets import TrainingSet

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
            f"expected VIEW=VERSION, e.g. customer__transactions=3, got {text!r}", param_hint="--as-of-version"
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

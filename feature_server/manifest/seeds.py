"""A seed's CSV file: where it is, and a hash of its rows, whatever its size (dbt hashes a large one by its path)."""

from hashlib import md5
from pathlib import Path

from ..dbt.artifacts import Node
from ..kept import short_digest
from .report import Report


def seed_path(node: Node, report: Report) -> Path:
    path = report.project_dir / node.original_file_path
    if not path.exists() and node.root_path is not None:  # of another package
        return Path(node.root_path) / node.original_file_path
    return path


def seed_rows(node: Node, report: Report) -> tuple[str, str]:
    """Two hashes of its rows as they are written: that of definitions, and the one that builds leave.

    Empty where there is no such file, which dbt tells when it loads it.
    """
    try:
        text = seed_path(node, report).read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return "", ""
    return short_digest(text.split("\n")), md5(text.encode(), usedforsecurity=False).hexdigest()

"""What the benchmark scripts share: their options, cases with ratios against targets, and the file they write."""

from __future__ import annotations

import argparse
import json
import operator
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .measure import ROOT, Numbers

SIZES = ("tiny", "default", "full")  # a check that it runs; a few minutes; the sizes that the targets speak of

_COMPARE: dict[str, Callable[[float, float], bool]] = {"<=": operator.le, ">=": operator.ge}


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has; a script adds those of its own sizes."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    options.add_argument("--size", choices=SIZES, default="default")
    options.add_argument("--full", action="store_const", dest="size", const="full", help="the same as --size full")
    options.add_argument("--runs", type=int, default=None, help="processes per measurement; their median counts")
    options.add_argument("--work", type=Path, default=work_folder(), help="where data is made and kept")
    options.add_argument("--feast-python", type=Path, default=None, help="interpreter with Feast; without it, no Feast")
    return options


def work_folder() -> Path:
    home = os.environ.get("FEATURES_HOME")
    return (Path(home) if home else ROOT / ".features") / "bench"


def make_case(
    case: str, *, ours: Numbers, limit: Numbers | None = None, feast: Numbers | None = None, targets: dict[str, str]
) -> dict[str, Any]:
    """One line of the results. A target such as `{"cpu_s/limit": "<= 1.5", "bytes_per_key": "<= 150"}` names a number
    of ours, alone or divided by the limit's or Feast's. Where there is no limit or Feast, the ratio is null.
    """
    others = {"limit": limit, "feast": feast}
    ratios: dict[str, float | None] = {}
    for name in targets:
        metric, slash, other = name.partition("/")
        base = others[other] if slash else {metric: 1.0}
        known = metric in ours and base is not None and base.get(metric)
        ratios[name] = round(ours[metric] / base[metric], 3) if known else None  # type: ignore[index]
    return {"case": case, "ours": ours, "limit": limit, "feast": feast, "ratios": ratios, "targets": targets}


def meets(ratio: float | None, target: str) -> bool | None:
    """Whether a ratio meets a target such as `<= 1.5`; None when there is no ratio."""
    sign, _, bound = target.partition(" ")
    return None if ratio is None else _COMPARE[sign](ratio, float(bound))


def write_results(out: Path, title: str, cases: list[dict[str, Any]]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"title": title, "cases": cases}, indent=1) + "\n")

"""Results as Markdown and as a plot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .common import meets
from .measure import Numbers

WHO = ("ours", "limit", "feast")
NAMES = {"ours": "ours", "limit": "limit", "feast": "Feast"}
UNITS = {"s": "s", "ms": "ms", "us": "µs", "mb": "MB"}
_COLOURS = {"ours": "#1b6e53", "limit": "#9aa5a0", "feast": "#c8873b"}

Results = dict[str, Any]


def markdown(results: Results) -> str:
    """A table of targets and one of all numbers for each benchmark, and how they were measured."""
    parts = [f"# Benchmarks, {results['made_at'][:10]}", _setting(results)]
    for benchmark in results["benchmarks"]:
        parts += [f"## {benchmark['title']}", _targets_table(benchmark["cases"]), _numbers_table(benchmark["cases"])]
    if failed := results.get("failed"):
        parts += ["## Not measured", "\n".join(f"- {name}: {why.splitlines()[-1]}" for name, why in failed.items())]
    return "\n\n".join(parts) + "\n"


def plot(results: Results, path: Path) -> None:
    """A PNG with a panel for each number that has a target: its value for ours, the limit and Feast, case by case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = list(_panels(results))
    columns = 2 if len(panels) > 1 else 1
    rows = max(1, -(-len(panels) // columns))
    heights = [max((len(panels[i][2]) for i in range(row * columns, min((row + 1) * columns, len(panels)))), default=1)
               for row in range(rows)]  # fmt: skip
    figure, axes = pyplot.subplots(
        rows, columns, squeeze=False, figsize=(7.5 * columns, sum(0.62 * cases + 1.1 for cases in heights)),
        height_ratios=[0.62 * cases + 1.1 for cases in heights], layout="constrained",
    )  # fmt: skip
    for axis, panel in zip(axes.flat, panels, strict=False):
        _draw(axis, *panel)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    if panels:
        handles = [pyplot.Rectangle((0, 0), 1, 1, color=_COLOURS[who]) for who in WHO]
        figure.legend(handles, [NAMES[who] for who in WHO], loc="outside upper left", ncols=3, frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def number(value: float | None) -> str:
    """A number for reading: three digits that count, thousands apart."""
    if value is None:
        return ""
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _setting(results: Results) -> str:
    machine = "; ".join(f"{name} {value}" for name, value in results["machine"].items())
    return (
        f"Size `{results['size']}`; {machine}. CPU is user and system time of every process that takes part; each "
        "measurement is the median over fresh processes. The targets speak of the size `full`."
    )


def _targets_table(cases: list[Numbers]) -> str:
    rows = []
    for case in cases:
        for name, target in case["targets"].items():
            metric, _, other = name.partition("/")
            ratio = case["ratios"].get(name)
            theirs = (case[other] or {}).get(metric) if other else None
            met = {True: "yes", False: "**no**", None: "not measured"}[meets(ratio, target)]
            against = NAMES[other] if other else ""
            rows.append(
                (case["case"], label(metric), number(case["ours"].get(metric)), against, number(theirs),
                 number(ratio), target, met)
            )  # fmt: skip
    return _table(("case", "number", "ours", "against", "theirs", "ratio", "target", "met"), rows)


def _numbers_table(cases: list[Numbers]) -> str:
    measured = [(case["case"], NAMES[who], case[who]) for case in cases for who in WHO if case.get(who)]
    metrics = list(dict.fromkeys(name for _, _, numbers in measured for name in numbers if _is_number(numbers, name)))
    rows = [
        (case, who, *(number(numbers[metric]) if _is_number(numbers, metric) else "" for metric in metrics))
        for case, who, numbers in measured
    ]
    return _table(("case", "", *map(label, metrics)), rows)


def label(metric: str) -> str:
    """`cpu_s` → `CPU, s`; `rows_per_s` → `rows per s`."""
    words, _, unit = metric.rpartition("_")
    if unit not in UNITS or not words or words.endswith("_per"):
        words, unit = metric, ""
    text = " ".join({"cpu": "CPU", "us": "µs"}.get(word, word) for word in words.split("_"))
    return f"{text}, {UNITS[unit]}" if unit else text


def _is_number(numbers: Numbers, name: str) -> bool:
    return isinstance(numbers.get(name), int | float) and not isinstance(numbers[name], bool)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(head), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)])


def _panels(results: Results) -> Iterator[tuple[str, str, list[Numbers]]]:
    """(title, metric, the cases that have it) for every metric with a target."""
    for benchmark in results["benchmarks"]:
        names = (name.partition("/")[0] for case in benchmark["cases"] for name in case["targets"])
        for metric in dict.fromkeys(names):
            cases = [case for case in benchmark["cases"] if _is_number(case["ours"], metric)]
            if cases:
                yield benchmark["title"], metric, cases


def _draw(axis: Any, title: str, metric: str, cases: list[Numbers]) -> None:
    values: list[float] = []
    for position, case in enumerate(reversed(cases)):
        for offset, who in zip((0.27, 0.0, -0.27), WHO, strict=True):
            numbers = case.get(who) or {}
            if _is_number(numbers, metric):
                value = numbers[metric]
                axis.barh(position + offset, value, height=0.25, color=_COLOURS[who])
                axis.annotate(
                    number(value), (value, position + offset), xytext=(3, 0), textcoords="offset points",
                    va="center", fontsize=8,
                )  # fmt: skip
                values.append(value)
    positive = [value for value in values if value > 0]
    if positive and max(positive) > 30 * min(positive):
        axis.set_xscale("log")
    axis.margins(x=0.12)
    axis.set_ylim(-0.6, len(cases) - 0.4)
    axis.set_yticks(range(len(cases)), [case["case"] for case in reversed(cases)], fontsize=9)
    axis.set_title(f"{title}: {label(metric)}", loc="left", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)

"""The way from sources through models and feature views to services, drawn as SVG.

Columns from left to right; within a column nodes are ordered by the mean place of their neighbours (the barycentre
method of Sugiyama, Tagawa and Toda, 1981). An edge over several columns passes through a placeholder in each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any
from xml.sax.saxutils import escape

import msgspec

from ..definitions.registry import Registry

COLOURS = {"source": "#3c7a1e", "model": "#5c6b7a", "feature_view": "#00708a", "service": "#b8431f"}
TITLES = {
    "source": "sources",
    "model": "staging and other models",
    "feature_view": "feature views",
    "service": "services",
}
MOST_BOXES = 50  # of a kind; where there are more, they are drawn together
_NOUNS = {"source": "tables", "model": "models", "feature_view": "feature views", "service": "services"}
_ROW, _BOX, _GAP, _CHARACTER, _MARGIN, _HEADER = 28, 22, 44, 7.3, 10, 34
_SWEEPS = 12


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A box of the picture. `column` counts from 0 on the left; `kind` is a key of COLOURS.

    `group` is what it is drawn together by: a source's name, a model's folder, a view's entities, a service's owner.
    """

    id: str
    label: str
    kind: str
    column: int
    group: str = ""


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...]


def lineage_of(registry: Registry, manifest: Mapping[str, Any]) -> Lineage:
    """What the feature views are made from, and which services use them; models that lead to no view are left out.

    `manifest` is dbt's manifest.json, read as JSON.
    """
    views = {view.unique_id: view for view in registry.feature_views}
    parents: dict[str, list[str]] = {}
    waiting = list(views)
    while waiting:
        node = waiting.pop()
        if node not in parents:
            upstream = manifest["nodes"].get(node, {}).get("depends_on", {}).get("nodes", [])
            parents[node] = [one for one in upstream if one in manifest["nodes"] or one in manifest["sources"]]
            waiting.extend(parents[node])
    columns = _columns(parents, views)
    nodes = [_node(manifest, views, node, columns[node]) for node in parents]
    edges = [(parent, node) for node in parents for parent in parents[node]]
    last = max(columns.values(), default=0) + 1
    by_id = {view.id: view.unique_id for view in registry.feature_views}
    for service in registry.feature_services:
        owner = service.owner.name if service.owner is not None else "no owner"
        nodes.append(Node(id=f"service {service.name}", label=service.name, kind="service", column=last, group=owner))
        used = dict.fromkeys(by_id[ref.view] for ref in service.features)
        edges += [(view, f"service {service.name}") for view in used]
    return Lineage(nodes=tuple(nodes), edges=tuple(edges))


def _columns(parents: Mapping[str, list[str]], views: Mapping[str, Any]) -> dict[str, int]:
    """Longest way from a source, but no feature view stands left of a model that is made without one."""
    columns: dict[str, int] = {}
    made_from_views: dict[str, bool] = {}

    def from_view(node: str) -> bool:
        if node not in made_from_views:
            made_from_views[node] = node in views or any(from_view(parent) for parent in parents[node])
        return made_from_views[node]

    def depth(node: str) -> int:
        if node not in columns:
            least = first_view if node in views else 0 if node.startswith("source.") else 1
            columns[node] = max([least, *(depth(parent) + 1 for parent in parents[node])])
        return columns[node]

    first_view = 0
    first_view = max((depth(node) + 1 for node in parents if not from_view(node)), default=0)
    for node in parents:
        depth(node)
    return columns


def _node(manifest: Mapping[str, Any], views: Mapping[str, Any], node: str, column: int) -> Node:
    if node in views:
        entities = ", ".join(views[node].entities)
        return Node(id=node, label=views[node].id, kind="feature_view", column=column, group=entities)
    if node in manifest["sources"]:
        group, name = manifest["sources"][node]["source_name"], manifest["sources"][node]["name"]
        return Node(id=node, label=f"{group}.{name}", kind="source", column=column, group=group)
    model = manifest["nodes"][node]
    folder = "/".join(model.get("fqn", ())[:-1])
    return Node(id=node, label=model["name"], kind="model", column=column, group=folder)


def drawn_together(lineage: Lineage) -> Lineage:
    """The lineage with one box a group in place of each kind of node that there are too many of to be read.

    Edges between such boxes that do not go to the right are left out.
    """
    counts = Counter(node.kind for node in lineage.nodes)
    box_of = {
        node.id: f"{node.kind} {node.group}" if counts[node.kind] > MOST_BOXES else node.id for node in lineage.nodes
    }
    members: dict[str, list[Node]] = {}
    for node in lineage.nodes:
        members.setdefault(box_of[node.id], []).append(node)
    boxes = {name: _box_of(name, nodes) for name, nodes in members.items()}
    edges = dict.fromkeys((box_of[source], box_of[target]) for source, target in lineage.edges)
    right = (edge for edge in edges if boxes[edge[0]].column < boxes[edge[1]].column)
    return Lineage(nodes=tuple(boxes.values()), edges=tuple(right))


def _box_of(name: str, nodes: list[Node]) -> Node:
    first = nodes[0]
    label = first.label if len(nodes) == 1 else f"{first.group}: {len(nodes)} {_NOUNS[first.kind]}"
    return msgspec.structs.replace(first, id=name, label=label, column=min(node.column for node in nodes))


def draw(lineage: Lineage) -> str:
    """An SVG picture of the lineage, with nothing in it that must be fetched."""
    nodes = {node.id: node for node in lineage.nodes}
    places = {column: i for i, column in enumerate(sorted({node.column for node in lineage.nodes}))}
    column_of = {node.id: places[node.column] for node in lineage.nodes}  # leaves out those without a node
    trails = [_trail(source, target, column_of) for source, target in sorted(lineage.edges)]
    order = _order(column_of, trails)
    tallest = max((len(column) for column in order), default=0)
    widths = [
        max((len(nodes[one].label) * _CHARACTER + 16 for one in column if one in nodes), default=0) for column in order
    ]
    left = [_MARGIN + sum(widths[:i]) + _GAP * i for i in range(len(widths))]
    centre: dict[str, float] = {}
    for column in order:
        pitch = tallest * _ROW / len(column)
        centre |= {node: _HEADER + pitch * (i + 0.5) for i, node in enumerate(column)}
    width = (left[-1] + widths[-1] if order else 0) + _MARGIN
    height = _HEADER + tallest * _ROW + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
        f' viewBox="0 0 {width:.0f} {height:.0f}" font-family="Menlo, Consolas, monospace" font-size="12">',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        *_headings(lineage.nodes, column_of, left),
        *(_edge(trail, column_of, centre, left, widths) for trail in trails),
        *(
            _box(nodes[one], left[i], centre[one], widths[i])
            for i, column in enumerate(order)
            for one in column
            if one in nodes
        ),
        "</svg>",
    ]
    return "\n".join(parts)


def _trail(source: str, target: str, column_of: dict[str, int]) -> list[str]:
    """The nodes an edge passes, with a placeholder (added to `column_of`) in each column between."""
    between = [f"{source} → {target} {column}" for column in range(column_of[source] + 1, column_of[target])]
    column_of |= {name: column_of[source] + 1 + i for i, name in enumerate(between)}
    return [source, *between, target]


def _order(column_of: Mapping[str, int], trails: Iterable[list[str]]) -> list[list[str]]:
    """The nodes of each column from top to bottom."""
    neighbours: dict[str, dict[int, list[str]]] = {node: {-1: [], 1: []} for node in column_of}
    for trail in trails:
        for one, other in pairwise(trail):
            neighbours[one][1].append(other)
            neighbours[other][-1].append(one)
    columns: list[list[str]] = [[] for _ in range(max(column_of.values(), default=-1) + 1)]
    for node in sorted(column_of):
        columns[column_of[node]].append(node)
    for sweep in range(_SWEEPS):
        side = -1 if sweep % 2 == 0 else 1
        for column in columns if side < 0 else reversed(columns):
            place = {
                node: (i + 0.5) / len(other) for other in columns if other is not column for i, node in enumerate(other)
            }
            here = {node: (i + 0.5) / len(column) for i, node in enumerate(column)}
            wish = {
                node: sum(place[one] for one in near) / len(near) if (near := neighbours[node][side]) else here[node]
                for node in column
            }
            column.sort(key=wish.__getitem__)
    return columns


def _headings(nodes: Iterable[Node], column_of: Mapping[str, int], left: list[float]) -> list[str]:
    first = {kind: min((column_of[node.id] for node in nodes if node.kind == kind), default=None) for kind in COLOURS}
    return [
        f'<text x="{left[column]:.0f}" y="20" fill="{COLOURS[kind]}" font-weight="bold">{TITLES[kind]}</text>'
        for kind, column in first.items()
        if column is not None
    ]


def _edge(
    trail: list[str], column_of: Mapping[str, int], centre: Mapping[str, float], left: list[float], widths: list[float]
) -> str:
    x, y = left[column_of[trail[0]]] + widths[column_of[trail[0]]], centre[trail[0]]
    path = f"M{x:.0f},{y:.0f}"
    for node in trail[1:]:
        column = column_of[node]
        middle = (x + left[column]) / 2
        path += f" C{middle:.0f},{y:.0f} {middle:.0f},{centre[node]:.0f} {left[column]:.0f},{centre[node]:.0f}"
        if node != trail[-1]:
            path += f" H{left[column] + widths[column]:.0f}"
        x, y = left[column] + widths[column], centre[node]
    return f'<path d="{path}" fill="none" stroke="#9aa5b1" stroke-width="1.2"/>'


def _box(node: Node, left: float, centre: float, width: float) -> str:
    return (
        f'<rect x="{left:.0f}" y="{centre - _BOX / 2:.0f}" width="{width:.0f}" height="{_BOX}" rx="4"'
        f' fill="{COLOURS[node.kind]}"/>'
        f'<text x="{left + 8:.0f}" y="{centre + 4:.0f}" fill="#ffffff">{escape(node.label)}</text>'
    )

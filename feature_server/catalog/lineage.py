"""The way from sources through models and feature views to services, drawn as SVG.

Columns from left to right; within a column nodes are ordered by the mean place of their neighbours (the barycentre
method of Sugiyama, Tagawa and Toda, 1981). An edge over several columns passes through a placeholder in each.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from graphlib import TopologicalSorter
from itertools import pairwise
from statistics import fmean
from typing import Any, NamedTuple

import msgspec

from ..definitions.registry import Registry
from ..templates.render import render

MOST_BOXES = 50  # of a kind; where there are more, they are drawn together
NOUNS = {"source": "tables", "model": "models", "feature_view": "feature views", "service": "services"}
_ROW, _BOX, _GAP, _CHARACTER, _MARGIN, _HEADER = 28, 22, 44, 7.3, 10, 34
_SWEEPS = 12


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A box of the picture. `column` counts from 0 on the left; `kind` is a key of NOUNS.

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
        name, owner = f"service {service.name}", service.owner.name if service.owner is not None else "no owner"
        nodes.append(Node(id=name, label=service.name, kind="service", column=last, group=owner))
        edges += dict.fromkeys((by_id[ref.view], name) for ref in service.features)
    return Lineage(nodes=tuple(nodes), edges=tuple(edges))


def _columns(parents: Mapping[str, list[str]], views: Mapping[str, Any]) -> dict[str, int]:
    """Longest way from a source, but no feature view stands left of a model that is made without one."""
    order = list(TopologicalSorter(parents).static_order())
    made_from_views: set[str] = set()
    for node in order:
        if node in views or not made_from_views.isdisjoint(parents[node]):
            made_from_views.add(node)
    columns: dict[str, int] = {}
    first_view = 0
    for node in sorted(order, key=made_from_views.__contains__):
        least = first_view if node in views else int(not node.startswith("source."))
        columns[node] = max([least, *(columns[parent] + 1 for parent in parents[node])])
        if node not in made_from_views:
            first_view = max(first_view, columns[node] + 1)
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
    label = first.label if len(nodes) == 1 else f"{first.group}: {len(nodes)} {NOUNS[first.kind]}"
    return msgspec.structs.replace(first, id=name, label=label, column=min(node.column for node in nodes))


class _Box(NamedTuple):
    left: float
    right: float
    centre: float


def draw(lineage: Lineage) -> str:
    """An SVG picture of the lineage, with nothing in it that must be fetched."""
    nodes = {node.id: node for node in lineage.nodes}
    places = {column: i for i, column in enumerate(sorted({node.column for node in lineage.nodes}))}
    column_of = {node.id: places[node.column] for node in lineage.nodes}  # leaves out those without a node
    trails = [_trail(source, target, column_of) for source, target in sorted(lineage.edges)]
    columns = _order(column_of, trails)
    boxes = _boxes(columns, nodes)
    headings: dict[str, float] = {}
    for node in sorted(lineage.nodes, key=lambda node: node.column):
        headings.setdefault(node.kind, boxes[node.id].left)
    return render(
        "lineage.svg",
        width=max((box.right for box in boxes.values()), default=0) + _MARGIN,
        height=_HEADER + max(map(len, columns), default=0) * _ROW + _MARGIN,
        headings=headings.items(),
        lines=[_line([boxes[node] for node in trail]) for trail in trails],
        boxes=[(nodes[name], box) for name, box in boxes.items() if name in nodes],
        box_height=_BOX,
    )


def _trail(source: str, target: str, column_of: dict[str, int]) -> list[str]:
    """The nodes an edge passes, with a placeholder (added to `column_of`) in each column between."""
    between = {f"{source} → {target} {column}": column for column in range(column_of[source] + 1, column_of[target])}
    column_of |= between
    return [source, *between, target]


def _order(column_of: Mapping[str, int], trails: Iterable[list[str]]) -> list[list[str]]:
    """The nodes of each column from top to bottom."""
    before, after = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for trail in trails:
        for one, other in pairwise(trail):
            after[one].append(other)
            before[other].append(one)
    columns: list[list[str]] = [[] for _ in set(column_of.values())]
    for node in sorted(column_of):
        columns[column_of[node]].append(node)
    for sweep in range(_SWEEPS):
        neighbours = before if sweep % 2 == 0 else after
        place = {node: (i + 0.5) / len(column) for column in columns for i, node in enumerate(column)}
        for column in columns if neighbours is before else reversed(columns):
            wish = {node: fmean(place[one] for one in neighbours[node] or [node]) for node in column}
            column.sort(key=wish.__getitem__)
            place |= {node: (i + 0.5) / len(column) for i, node in enumerate(column)}
    return columns


def _boxes(columns: list[list[str]], nodes: Mapping[str, Node]) -> dict[str, _Box]:
    """Where each node and placeholder stands, column by column."""
    tallest = max(map(len, columns), default=0)
    boxes: dict[str, _Box] = {}
    left: float = _MARGIN
    for column in columns:
        right = left + max((len(nodes[one].label) * _CHARACTER + 16 for one in column if one in nodes), default=0)
        pitch = tallest * _ROW / len(column)
        boxes |= {node: _Box(left, right, _HEADER + pitch * (i + 0.5)) for i, node in enumerate(column)}
        left = right + _GAP
    return boxes


def _line(trail: list[_Box]) -> str:
    """The path of an edge: a curve from box to box, straight where it passes a column."""
    path = f"M{trail[0].right:.0f},{trail[0].centre:.0f}"
    for one, other in pairwise(trail):
        middle = (one.right + other.left) / 2
        if one is not trail[0]:
            path += f" H{one.right:.0f}"
        path += f" C{middle:.0f},{one.centre:.0f} {middle:.0f},{other.centre:.0f} {other.left:.0f},{other.centre:.0f}"
    return path

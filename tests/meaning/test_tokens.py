"""What builds tell definitions by: marks of refused builds stay, whoever writes the file at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from feature_server.definitions.models import Model
from feature_server.definitions.registry import Registry
from feature_server.meaning.tokens import distrust, write_definitions

NAME, STAGING = "model.shop.spend", "model.shop.stg_orders"


def test_a_refused_model_is_another_to_the_next_build_until_it_was_built(tmp_path: Path) -> None:
    path = tmp_path / "definitions.json"
    distrust(path, {NAME: "one"})
    assert not path.exists()
    path.write_bytes(msgspec.json.encode({NAME: "a.b", STAGING: ".c"}))
    for invocation in ("one", "two"):
        distrust(path, {NAME: invocation, "model.shop.gone": invocation})
        assert msgspec.json.decode(path.read_bytes()) == {NAME: f"a.b!{invocation}", STAGING: ".c"}


def test_what_many_write_at_once_is_all_there(tmp_path: Path) -> None:
    path = tmp_path / "home" / "definitions.json"
    models = tuple(Model(unique_id=f"model.shop.m{n}", package="shop", path="m.sql", meaning=f"{n}") for n in range(40))
    registry = Registry(project="shop", models=models)
    write_definitions(path, registry)
    with ThreadPoolExecutor(8) as pool:
        for model in models:
            pool.submit(distrust, path, {model.unique_id: "build"})
            pool.submit(write_definitions, path, registry)
    assert msgspec.json.decode(path.read_bytes()) == {f"model.shop.m{n}": f".{n}!build" for n in range(40)}

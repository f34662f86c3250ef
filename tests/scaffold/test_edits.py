"""Files of YAML as people write them: dbt reads them, so they are changed, and mean afterwards what was meant."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from feature_server.errors import FeatureStoreError
from feature_server.scaffold.edits import Edit, added_lines, changed_yaml, told
from feature_server.scaffold.project import _add_hook

OURS = "{{ ours() }}"


def read(text: str) -> Any:
    return yaml.load(text, Loader=yaml.CSafeLoader)  # dbt's


def hooked(folder: Path, text: str) -> str:
    """The file with a hook of models added."""

    def add(content: Any) -> bool:
        _add_hook(content, "models", "pre-hook", OURS)
        return True

    (folder / "dbt_project.yml").write_bytes(text.encode())
    [edit] = changed_yaml(folder, "dbt_project.yml", add, "a hook")
    assert edit.after is not None
    return edit.after


@pytest.mark.parametrize(
    ("text", "models", "seeds"),
    [
        ("models: &all\n  +enabled: true\nseeds: *all\n", {"+enabled": True, "+pre-hook": OURS}, {"+enabled": True}),
        ("seeds: &all\n  +enabled: true\nmodels: *all\n", {"+enabled": True, "+pre-hook": OURS}, {"+enabled": True}),
        (
            "seeds: &all\n  +enabled: true\nmodels:\n  <<: *all\n  +tags: a\n",
            {"+enabled": True, "+tags": "a", "+pre-hook": OURS},
            {"+enabled": True},
        ),
        (
            "seeds: {+pre-hook: &hooks [a]}\nmodels: {+pre-hook: *hooks}\n",
            {"+pre-hook": ["a", OURS]},
            {"+pre-hook": ["a"]},
        ),
        (
            "seeds: &all\n  +pre-hook: [a]\nmodels:\n  <<: *all\n",
            {"+pre-hook": ["a", OURS]},
            {"+pre-hook": ["a"]},
        ),
        ("seeds:\t# tabs\n  +tags:\ta\t\nmodels:\t{}\n", {"+pre-hook": OURS}, {"+tags": "a"}),
        ("seeds: {+tags: a}\nmodels:\n", {"+pre-hook": OURS}, {"+tags": "a"}),
        ("seeds: {+tags: yes, +meta: {a: 012, b: 1_0, c: 2024-01-01}}\r\nmodels:\r\n  +tags: on # b\r\n",
         {"+tags": True, "+pre-hook": OURS}, None),
        ("seeds:\n  +meta: a text\n    of two lines\n\nmodels:\n    +tags:  b  # as it is\n",
         {"+tags": "b", "+pre-hook": OURS}, {"+meta": "a text of two lines"}),
    ],
)  # fmt: skip
def test_a_hook_is_added_to_what_dbt_reads(
    tmp_path: Path, text: str, models: dict[str, Any], seeds: dict[str, Any] | None
) -> None:
    after = hooked(tmp_path, text)
    found = read(after)
    assert found["models"] == models
    assert found["seeds"] == (read(text)["seeds"] if seeds is None else seeds)


def test_lines_stay_where_the_writer_would_fold_others(tmp_path: Path) -> None:
    text = "seeds:\n  +meta: a text\n    of two lines\n\nmodels:\n  +tags:   b  # as it is\n"
    after = hooked(tmp_path, text)
    assert after.startswith(text)
    assert len(after.splitlines()) == len(text.splitlines()) + 1


def test_a_new_line_is_indented_as_its_neighbours(tmp_path: Path) -> None:
    text = "seeds:\n  +tags:   a\nmodels:\n    +tags:   b  # as it is\n"
    assert hooked(tmp_path, text) == f'{text}    +pre-hook: "{OURS}"\n'


def test_a_key_that_stands_twice_is_named_with_its_line(tmp_path: Path) -> None:
    text = "models: {+tags: a}\nseeds: {}\nmodels: {+tags: b}\n"
    with pytest.raises(FeatureStoreError, match="a key stands twice") as caught:
        hooked(tmp_path, text)
    assert (str(caught.value.where).endswith("dbt_project.yml:3"), "models" in str(caught.value.got)) == (True, True)
    assert (tmp_path / "dbt_project.yml").read_text() == text
    assert changed_yaml(tmp_path, "dbt_project.yml", lambda content: False, "nothing") == []


@pytest.mark.parametrize("text", ["", "\n", "# ours\n", "# ours", "---\n# ours\n", "{}\n"])
def test_a_file_with_nothing_in_it_is_begun(tmp_path: Path, text: str) -> None:
    after = hooked(tmp_path, text)
    assert read(after) == {"models": {"+pre-hook": OURS}}
    assert ("# ours" in after) is ("# ours" in text)


def test_lines_are_added_with_the_ends_that_the_file_has(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_bytes(b"# .features/\r\n/build")
    [edit] = added_lines(tmp_path, ".gitignore", [".features/", "build/"], "ours")
    assert edit.after == "# .features/\r\n/build\r\n.features/\r\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a", "a\nb\n"), ("a\n", "a\nb"), ("a", "b"), ("", "a\n"), (None, "a\nb"), ("a\nb", None),
        ("a\r\nb", "a\r\nb\r\nc\r\n"), ("a\u2028b\x0cc\n", "a\u2028b\x0cc\nd\n"),
    ],
)  # fmt: skip
def test_a_diff_is_a_patch_that_git_takes(tmp_path: Path, before: str | None, after: str | None) -> None:
    path, other = tmp_path / "one.txt", tmp_path / "none.txt"
    if before is not None:
        path.write_bytes(before.encode())
    edits = [
        Edit(root=str(tmp_path), path="one.txt", before=before, after=after, what="ours"),
        Edit(root=str(tmp_path), path="none.txt", before=None, after="x\n", what="ours"),
    ]
    shown = "\n".join([*(edit.diff() for edit in edits), "left to you: a group"])
    run = subprocess.run(
        ["git", "apply", "--unsafe-paths", "-"], input=shown.encode(), cwd=tmp_path, capture_output=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert (path.read_bytes().decode() if path.exists() else None, other.read_text()) == (after, "x\n")


def test_what_was_done_to_files_of_one_folder_is_told_by_number() -> None:
    texts = {"a": (None, "x"), "b": ("x", "y"), "c": ("x", "y"), "d": ("x", None)}
    edits = [
        Edit(root="", path=f"p/{name}", before=before, after=after, what="ours")
        for name, (before, after) in texts.items()
    ]
    assert told(edits) == ["changed p/: ours (wrote 1, changed 2, removed 1 files)"]
    assert told(edits[1:3]) == ["changed p/: ours (2 files)"]
    assert told(edits[:1]) == ["wrote p/a: ours"]

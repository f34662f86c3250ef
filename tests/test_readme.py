"""The pages: every command runs, as printed and in its order, or another test types it; every link leads somewhere."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import sqlglot
import typer
import yaml

from feature_server.cli.main import load_commands
from tests.support.example import PACKAGE, ROOT, copy_example
from tests.support.first_commands import A_TABLE
from tests.support.pages import COMMAND, Block, blocks, commands, shell_in

README, DOCS = ROOT / "README.md", ROOT / "docs"
OPERATIONS = DOCS / "operations.md"
# Run in this order, in one shell, on the example.
TOUR = tuple(
    DOCS / f"{name}.md"
    for name in ("example", "analyst", "data_scientist", "ml_engineer", "platform", "operations", "change")
)
FOR_USERS = (README, *(DOCS / f"{name}.md" for name in ("analyst", "data_scientist", "ml_engineer", "platform")))
SHOP = ROOT / "feature_server" / "scaffold" / "project" / "README.md"
OTHERS = (
    "CONTRIBUTING.md",
    *(f"{name}/README.md" for name in ("dags", "models", "benchmarks", "trials", "tests/interleaving")),
)
EVERY = (README, *sorted(DOCS.rglob("*.md")), *(ROOT / name for name in OTHERS), SHOP, PACKAGE / "README.md")
LINKED = ("data", "examples", "scripts", "dags", "feature_server", ".venv")

# Commands that run elsewhere: where, and the words there that do it. In a block with another command all run here, too.
STREAMED = "tests/scaffold/test_new_stream.py"
TARGETS = "tests/publish/test_targets.py"
RUN_ELSEWHERE = {
    "make demo": ("tests/test_demo.py", "scripts.demo"),
    "make test": (".ci/run", "make test"),
    "pip install feature-warehouse": ("tests/test_install.py", "install_wheel(bin_, wheel, extra"),
    "python -m scripts.refresh hourly --at 2013-12-30T23:00Z": ("tests/dags/test_runs.py", '"scripts.refresh"'),
    **{step.command: ("tests/test_first_commands.py", "follow(A_TABLE)") for step in A_TABLE},
    "features new view customer__orders --from 'ref(stg_orders)' --entity customer --key customer_id "
    "--time ordered_at": ("tests/scaffold/test_new.py", '*VIEW, "--entity", "customer", "--key", "customer_id"'),
    "features new view customer__order_activity --stream --from 'source(raw, orders)' --entity customer --key customer "
    "--time ordered_at": (STREAMED, '"--stream", "--entity", "customer", "--key", "customer", "--time"'),
    "features push raw.orders events.jsonl": (STREAMED, 'pushed(shop, "raw.orders"'),
    "features get customer__order_activity:orders_1h customer=3": (STREAMED, '"orders_1h'),
    "features new service reorder_v1 customer__orders": ("tests/scaffold/test_new.py", '"service", "reorder_v1"'),
    "python -m trials.kill --minutes 30 --seed 7": ("tests/test_trials.py", "python -m trials.kill --seed"),
    "dbt build --target prod": (TARGETS, 'dbt("build", "--target", "prod")'),
    **{
        f"features {name} --target prod": (TARGETS, 'prod = ("--target", "prod")')
        for name in ("apply", "publish", "sync")
    },
    "curl 'http://127.0.0.1:6566/explain?feature=customer__transactions:transactions_1h&customer_id=42'": (
        "tests/app/test_explain.py",
        'http.get("/explain"',
    ),
    'airflow pools set duckdb 1 "The DuckDB file\'s one user"': ("tests/test_readme.py", "COMMAND.search(AIRFLOW"),
}
# Pages whose blocks a test reads and runs that knows what they are about.
READ_BY = {
    "docs/init.md": "tests/test_first_commands.py",
    "docs/leaktest.md": "tests/leaktest/test_example.py",
    "docs/lint.md": "tests/lint/test_project.py",
    "docs/upgrade.md": "tests/test_upgrade.py",
    "docs/airflow.md": "tests/dags/test_arguments.py",
    "docs/security.md": "tests/cli/test_keys.py",
    "dags/README.md": "tests/dags/test_promises.py",
    "CONTRIBUTING.md": "tests/test_repository.py",
    "tests/interleaving/README.md": "tests/test_repository.py",
}
AIRFLOW = (DOCS / "airflow.md").read_text()
PAYMENTS = "python -m examples.payments --out .features/landing"
SMALLER = (PAYMENTS, f"{PAYMENTS} --customers 300 --transactions 20000")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project's folder as a clone has it, for the commands to write in."""
    copy_example(tmp_path)
    environment = Path(sys.executable).parents[1]
    for name in LINKED:
        (tmp_path / name).symlink_to(environment if name == ".venv" else ROOT / name)
    return tmp_path


def played(text: str) -> list[Block]:
    """The blocks that are run or written here: all but those of which every command runs elsewhere."""
    return [
        block for block in blocks(text) if block.language != "bash" or set(block.text.splitlines()) - set(RUN_ELSEWHERE)
    ]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.heavy
@pytest.mark.timeout(1500)
def test_every_command_of_the_tour_runs(project: Path) -> None:
    port, printed = free_port(), []
    with shell_in(project, PYTHONPATH=str(project)) as shell:
        for block in played("\n".join(page.read_text() for page in TOUR)):
            text = block.text.replace("6566", port).replace(*SMALLER)
            printed.append(shell.play(block._replace(text=text)))
    output = "".join(printed)
    for expected in (
        "+ feature_view customer__last_refund",
        "published customer__last_refund version=0",
        "customer__last_refund: clean",
        "synced customer__refunds",
        "13 feature views, 0 with problems",
        ".features/docs/index.html: 15 feature views",
        "wrote .features/fraud_train.parquet",
        "rows of history in version 0",
        '"transactions_24h"',
        "features_http_requests_total",
        "did you mean 'fraud_v1'?",
        "PushResult(accepted=1, rejected=())",
        '"agree": true',
        "pushed payments.transactions accepted=2 rejected=0",
        "streamed payments.transactions accepted=0 rejected=0 landed=2 files=1",
        "pushed flights.departures=",
        "damaged=0",
        "+ precipitation_inches > 0 AND temperature_fahrenheit < 32 AS is_freezing_precipitation",
        "airport__weather means the same: nothing is added to the wind",
    ):
        assert expected in output


@pytest.mark.heavy
def test_the_readme_and_that_of_a_new_project_run_as_they_are_printed(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shown = played(README.read_text())
    with shell_in(tmp_path, PATH=path) as shell:
        output = "".join(shell.play(block) for block in shown)
        again = "".join(shell.play(block) for block in blocks((tmp_path / "shop" / SHOP.name).read_text()))
    (told,) = (block.text for block in shown if block.language == "text")
    instant = re.compile(r"\d{4}-\d\d-\d\dT[\d:]+Z")
    printed = [f"{line}\n" for line in output.splitlines() if re.match(r"orders_7d  \d|pushed ", line)]
    assert instant.sub("T", "".join(printed)) == instant.sub("T", told)
    assert "[5000 rows x 4 columns]" in output
    assert "wrote train.parquet rows=5000 features=5" in again


def test_one_feature_takes_30_lines() -> None:
    section = README.read_text().partition("## One feature in 30 lines")[2].partition("\n## ")[0]
    shown = [block for block in blocks(section) if block.language != "text"][1:]  # the first makes the project
    assert [block.language for block in shown] == ["sql", "yaml", "python", "bash"]
    assert sum(bool(line.strip()) for block in shown for line in block.text.splitlines()) <= 30


@pytest.mark.parametrize("page", FOR_USERS, ids=lambda page: page.name)
def test_a_page_for_users_has_at_most_200_lines(page: Path) -> None:
    assert page.read_text().count("\n") <= 200


@pytest.mark.parametrize("page", EVERY, ids=str)
def test_every_command_of_a_page_is_typed_by_a_test(page: Path) -> None:
    """`bash` and `python` are run here or by a test that reads the page; `text` shows what is printed, or what a test
    named in RUN_ELSEWHERE types; a block of no language is a drawing."""
    shown = blocks(page.read_text())
    assert {block.language for block in shown} <= {"bash", "python", "sql", "yaml", "json", "text", ""}
    name = page.relative_to(ROOT).as_posix()
    reader = READ_BY.get(name)
    assert reader is None or page.name in (ROOT / reader).read_text()
    run = page in (README, SHOP, *TOUR) or reader is not None
    assert run or not [block for block in shown if block.language == "python" and not block.path]
    typed = [line for block in shown if run and block.language == "bash" for line in COMMAND.findall(block.text)]
    untyped = [line for line in commands(page) if line not in typed]
    assert [line for line in untyped if line.partition("  #")[0].rstrip() not in RUN_ELSEWHERE] == []


@pytest.mark.parametrize("page", EVERY, ids=lambda page: str)
def test_fragments_can_be_read(page: Path) -> None:
    for block in blocks(page.read_text()):
        if block.language == "yaml":
            yaml.safe_load(block.text)
        elif block.language == "json":
            for text in block.text.splitlines() if block.path and block.path.endswith("l") else [block.text]:
                json.loads(text)
        elif block.language == "sql":
            sqlglot.parse(re.sub(r"\{%.*?%\}", "", re.sub(r"\{\{.*?\}\}", "relation", block.text)), dialect="duckdb")


@pytest.mark.parametrize("command", RUN_ELSEWHERE)
def test_commands_that_run_elsewhere_do(command: str) -> None:
    place, words = RUN_ELSEWHERE[command]
    assert any(command in page.read_text() for page in EVERY), "no page says it any more"
    assert words in (ROOT / place).read_text()


@pytest.mark.heavy
def test_the_pool_is_made_as_the_page_says(tmp_path: Path) -> None:
    found = COMMAND.search(AIRFLOW[AIRFLOW.index("has to have one slot") :])
    assert found is not None
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    quiet = {"AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags")}
    with shell_in(tmp_path, PATH=path, AIRFLOW_HOME=str(tmp_path / "airflow"), **quiet) as shell:
        shell.run("airflow db migrate")
        shell.run(found[1])
        assert "duckdb" in shell.run("airflow pools get duckdb")


def named_in_text(page: Path) -> list[str]:
    """The commands of the product that a page names within its text."""
    return re.findall(r"`(features [^`]+)`", re.sub(r"\s*\n\s*", " ", page.read_text()))


@pytest.mark.parametrize("page", EVERY, ids=str)
def test_a_command_named_in_the_text_is_there_with_its_options(page: Path) -> None:
    for named in named_in_text(page):
        words, command = named.split()[1:], typer.main.get_command(load_commands())
        while (known := getattr(command, "commands", None)) and words and not words[0].startswith("-"):
            assert words[0] in known, named
            command = known[words.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options, named


@pytest.mark.parametrize("page", EVERY, ids=str)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    found = re.findall(r"\]\((?!https?:|mailto:)([^)]+)\)|<img src=\"([^\"]+)\"", page.read_text())
    for target in (link or image for link, image in found):
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not heading or heading in headings(file), target


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made on code hosts."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_the_picture_has_every_colour_for_light_and_dark_pages_and_words_for_who_cannot_see_it() -> None:
    picture = (DOCS / "overview.svg").read_text()
    root = ElementTree.fromstring(picture)
    assert {child.tag.rpartition("}")[2] for child in root} >= {"title", "desc"}
    used = set(re.findall(r"var\((--\w+)\)", picture))
    schemes = [set(re.findall(r"--\w+", rule)) for rule in re.findall(r"svg \{[^}]*\}", picture)]
    assert schemes == [used, used]


def test_the_table_of_settings_is_complete() -> None:
    read = {
        name
        for folder in ("feature_server", "dags", "scripts")
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(r"FEATURES_[A-Z]+(?:_[A-Z]+)*", path.read_text())
    }
    settings = {name for name in read if not name.endswith("_")}
    assert settings == set(re.findall(r"^\| `(FEATURES_\w+)`", OPERATIONS.read_text(), re.MULTILINE))


def test_the_table_of_dependencies_is_complete() -> None:
    project = (ROOT / "pyproject.toml").read_text().partition("dev = [")[0]
    used = set(re.findall(r'^\s+"([\w-]+)[><=]', project, re.MULTILINE)) - {"pyyaml"}
    table = (DOCS / "install.md").read_text().partition("## What it is made of")[2].partition("\n## ")[0]
    assert used <= set(re.findall(r"[\w-]+", table))

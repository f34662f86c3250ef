"""The docs site: what its first page lists, that its links lead somewhere, and that it needs no network."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from feature_server.catalog.lineage import NOUNS, Lineage, Node, draw, drawn_together, lineage_of
from feature_server.definitions.facts import FeatureRef, FeatureService, FeatureView
from feature_server.definitions.registry import Registry, read_registry
from tests.support.tiny_project import ENTITIES, FILES, write_project

TRANSACTIONS = """customer_id,occurred_at,amount
1,2026-03-01 10:00:00,5.00
1,2026-03-01 10:30:00,7.50
2,2026-03-02 00:00:00,1.25
"""
SOURCES = """
sources:
  - name: bank
    tables:
      - name: transactions
        description: A row per transaction. </script><script>window.broken = true</script>
        config: {meta: {external_location: "transactions.csv"}}
"""
STAGING = """
select
    customer_id,
    occurred_at,
    occurred_at::timestamptz as ingested_at,
    amount::decimal(18, 2) as amount_eur_sum_1h
from {{ source('bank', 'transactions') }}
"""
ACTIVITY = "select customer_id, occurred_at, ingested_at, 1::bigint as transactions_1h"
VISITS = """
select 1::bigint as customer_id, 'NL' as country, 1 as shop_number,
    timestamp '2026-03-01 09:00:00' as event_timestamp, 2.5::double as minutes
"""
PROJECT = FILES | {
    "transactions.csv": TRANSACTIONS,
    "models/sources.yml": SOURCES,
    "models/stg_bank__transactions.sql": STAGING,
    "models/customer__activity_v1.sql": ACTIVITY + " from {{ ref('stg_bank__transactions') }}",
    "models/customer__activity_v2.sql": ACTIVITY + ", amount_eur_sum_1h from {{ ref('stg_bank__transactions') }}",
    "models/customer_shop__visits.sql": VISITS,
    "models/overview.md": "{% docs __overview__ %}\n# The tiny bank\n\nAsk Ada.\n{% enddocs %}\n",
}
BROWSER_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--window-size=1400,2200",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip


def features(project: Path, *words: str, status: int = 0) -> str:
    """Run `features` in the project; standard output, or standard error when a failure is expected."""
    command = [sys.executable, "-m", "feature_server", *words]
    environment = {"PATH": "/usr/bin:/bin", "FEATURES_PROJECT_DIR": str(project), "HOME": str(project)}
    environment["FEATURES_WAREHOUSE"] = "tiny.duckdb"
    root = Path(__file__).parents[2]
    run = subprocess.run(
        command, cwd=project, env=environment | {"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False
    )
    assert run.returncode == status, run.stdout + run.stderr
    return run.stdout if status == 0 else run.stderr + run.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built project: activity is published, visits never were."""
    folder = write_project(tmp_path_factory.mktemp("bank"), PROJECT)
    dbt = [str(Path(sys.executable).with_name("dbt")), "--quiet", "build", "--profiles-dir", "profiles"]
    built = subprocess.run(dbt, cwd=folder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    features(folder, "apply")
    features(folder, "publish", "customer__activity@v1", "customer__activity@v2")
    return folder


@pytest.fixture(scope="module")
def site(project: Path) -> Path:
    printed = json.loads(features(project, "docs", "--json"))
    assert printed == {
        "path": str(project / ".features" / "docs" / "index.html"),
        "bytes": Path(printed["path"]).stat().st_size,
        "feature_views": 3,
        "feature_services": 1,
        "entities": 2,
    }
    return Path(printed["path"])


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.fail("this test needs Chromium and its driver: run `sh scripts/install_browser.sh`")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in (*BROWSER_OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


@pytest.fixture
def page(site: Path, browser: webdriver.Chrome) -> webdriver.Chrome:
    """The first page of the site, rendered."""
    browser.get("about:blank")
    browser.get(site.as_uri())
    WebDriverWait(browser, 60).until(lambda chrome: chrome.find_elements(By.TAG_NAME, "table"))
    return browser


def table(page: webdriver.Chrome, heading: str) -> list[list[str]]:
    """The rows of the table under a heading, as text."""
    path = f"//h2[normalize-space()='{heading}']/following::table[1]//tr"
    rows = page.find_elements(By.XPATH, path)
    return [[cell.text for cell in row.find_elements(By.XPATH, "th|td")] for row in rows]


def test_the_first_page_keeps_the_projects_own_words(page: webdriver.Chrome) -> None:
    assert [heading.text for heading in page.find_elements(By.CSS_SELECTOR, ".overview-markdown h1, h1")][:1] == [
        "The tiny bank"
    ]
    body = page.find_element(By.TAG_NAME, "body").text
    assert "Ask Ada." in body
    assert "3 feature views with 4 features of 2 entities" in body


def test_the_first_page_lists_every_feature_view(page: webdriver.Chrome, project: Path) -> None:
    in_force = read_registry(project / ".features" / "registry.json")
    meanings = [str(view.meaning) for view in in_force.feature_views]
    assert all(len(meaning) == 16 for meaning in meanings)
    assert table(page, "Feature views")[1:] == [
        ["customer__activity@v1", "customer", "Risk", "risk", "1", "hourly", "30d", "yes", "fraud_v1", meanings[0]],
        ["customer__activity@v2", "customer", "Risk", "risk", "2", "hourly", "30d", "yes", "fraud_v1", meanings[1]],
        ["customer_shop__visits", "customer, shop", "Risk", "risk", "1", "manual", "–", "no", "–", meanings[2]],
    ]


def test_freshness_says_what_is_published_and_what_never_was(page: webdriver.Chrome) -> None:
    rows = [row[:4] + row[5:6] for row in table(page, "Freshness")[1:]]
    assert rows == [
        ["customer__activity@v1", "3", "2026-03-02 00:00 UTC", "version 0", "never synced"],
        ["customer__activity@v2", "3", "2026-03-02 00:00 UTC", "version 0", "never synced"],
        ["customer_shop__visits", "–", "–", "never published", "not online"],
    ]


def test_services_and_entities_are_listed(page: webdriver.Chrome) -> None:
    assert table(page, "Services")[1:] == [
        [
            "fraud_v1",
            "Risk models",
            "2",
            "customer__activity@v2, customer__activity@v1",
            "customer",
            "Scores a payment.",
        ]
    ]
    assert [row[:2] for row in table(page, "Entities")[1:]] == [
        ["customer", "customer_id int64"],
        ["shop", "country string, shop_number int32"],
    ]


def test_the_lineage_picture_is_drawn(page: webdriver.Chrome) -> None:
    picture = page.find_element(By.CSS_SELECTOR, "img[alt='Lineage from sources to services']")
    assert picture.is_displayed()
    assert page.execute_script("return arguments[0].naturalWidth", picture) > 400


def test_every_link_of_the_first_page_leads_to_its_page(page: webdriver.Chrome) -> None:
    links = {
        (link.get_attribute("href") or "").partition("#")[2]: link.text
        for link in page.find_elements(By.CSS_SELECTOR, "td a[href*='#!/']")
    }
    assert len(links) == 6, "three views, one service, two entities"
    for fragment, text in links.items():
        page.execute_script("window.location.hash = arguments[0]", fragment)
        name = {"customer": "customers", "shop": "shops"}.get(text, text.partition("@")[0])
        WebDriverWait(page, 20).until(
            lambda chrome, name=name: any(name in title.text for title in chrome.find_elements(By.TAG_NAME, "h1")),
            message=f"{text}: {fragment}",
        )


def test_the_page_asks_the_network_for_nothing(page: webdriver.Chrome) -> None:
    sent = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in sent if one["method"] == "Network.requestWillBeSent"]
    assert any(address.startswith("file:") for address in asked)
    assert [address for address in asked if address.startswith(("http", "ws"))] == []


def test_a_description_cannot_end_the_pages_script(page: webdriver.Chrome) -> None:
    assert page.execute_script("return window.broken") is None


def test_the_site_is_one_file_without_the_users_name_or_tracking(site: Path) -> None:
    assert [path.name for path in site.parent.iterdir()] == ["index.html"]
    text = site.read_text("utf-8")
    assert '"send_anonymous_usage_stats":false' in text
    assert '"user_id":null' in text


def test_without_dbts_files_docs_says_how_to_get_them(tmp_path: Path) -> None:
    write_project(tmp_path)
    message = features(tmp_path, "docs", "--no-build", status=1)
    assert "manifest.json: dbt has not written this file" in message
    assert "remedy: run `features docs` without `--no-build`" in message


def test_when_dbt_fails_docs_hands_on_its_words(tmp_path: Path) -> None:
    write_project(tmp_path, FILES | {"models/shops.sql": "select 1 from {{ ref('nowhere') }}"})
    message = features(tmp_path, "docs", status=1)
    assert "`dbt docs generate` failed" in message
    assert "nowhere" in message
    assert "Traceback" not in message


def test_wrong_definitions_are_reported_not_documented(tmp_path: Path) -> None:
    entities = ENTITIES.replace("join_keys: [customer_id]", "join_keys: [customer]")
    write_project(tmp_path, FILES | {"models/entities.yml": entities})
    message = features(tmp_path, "docs", status=1)
    assert "models/entities.yml" in message
    assert not (tmp_path / ".features" / "docs").exists()


def view(name: str) -> FeatureView:
    return FeatureView(name=name, entities=(), join_keys=(), features=(), unique_id=f"model.p.{name}")


def test_lineage_goes_from_sources_through_models_to_services() -> None:
    manifest = {
        "sources": {"source.p.raw.events": {"source_name": "raw", "name": "events"}},
        "nodes": {
            f"model.p.{name}": {"name": name, "depends_on": {"nodes": parents}}
            for name, parents in {
                "staging": ["source.p.raw.events"],
                "middle": ["model.p.staging"],
                "first": ["model.p.staging"],
                "second": ["model.p.middle"],
                "of_first": ["model.p.first"],
                "report": ["model.p.second"],
            }.items()
        },
    }
    service = FeatureService(name="s", features=(FeatureRef("of_first", "x", ""), FeatureRef("of_first", "y", "")))
    registry = Registry(
        project="p", feature_views=tuple(map(view, ("first", "of_first", "second"))), feature_services=(service,)
    )
    lineage = lineage_of(registry, manifest)
    assert {node.label: (node.kind, node.column) for node in lineage.nodes} == {
        "raw.events": ("source", 0),
        "staging": ("model", 1),
        "middle": ("model", 2),
        "first": ("feature_view", 3),
        "second": ("feature_view", 3),
        "of_first": ("feature_view", 4),
        "s": ("service", 5),
    }
    assert sorted(lineage.edges) == [
        ("model.p.first", "model.p.of_first"),
        ("model.p.middle", "model.p.second"),
        ("model.p.of_first", "service s"),
        ("model.p.staging", "model.p.first"),
        ("model.p.staging", "model.p.middle"),
        ("source.p.raw.events", "model.p.staging"),
    ]


def test_the_picture_has_a_box_a_node_and_a_line_an_edge_and_no_crossing_that_can_be_avoided() -> None:
    nodes = tuple(
        Node(id=f"{kind}{i}", label=f"<{kind}{i}>", kind=kind, column=column)
        for column, kind in enumerate(("source", "feature_view"))
        for i in range(3)
    )
    edges = (("source0", "feature_view2"), ("source1", "feature_view1"), ("source2", "feature_view0"))
    svg = ElementTree.fromstring(draw(Lineage(nodes=nodes, edges=edges)))
    name = "{http://www.w3.org/2000/svg}"
    boxes = {text.text: int(text.attrib["y"]) for text in svg.iter(f"{name}text") if (text.text or "").startswith("<")}
    assert sorted(boxes) == sorted(node.label for node in nodes)
    assert len(list(svg.iter(f"{name}path"))) == 3
    assert all(boxes[f"<{source}>"] == boxes[f"<{target}>"] for source, target in edges)


@st.composite
def lineages(draw_from: st.DrawFn) -> Lineage:
    """Any nodes in any columns, with any edges that go to the right."""
    columns = draw_from(st.lists(st.integers(0, 6), max_size=12))
    kinds = draw_from(st.lists(st.sampled_from(list(NOUNS)), min_size=len(columns), max_size=len(columns)))
    nodes = tuple(
        Node(id=str(i), label=f"<{i}>", kind=kind, column=column)
        for i, (column, kind) in enumerate(zip(columns, kinds, strict=True))
    )
    right = [(one.id, other.id) for one in nodes for other in nodes if one.column < other.column]
    edges = draw_from(st.lists(st.sampled_from(right), unique=True)) if right else []
    return Lineage(nodes=nodes, edges=tuple(edges))


@settings(max_examples=200, deadline=None)
@given(lineages())
def test_any_lineage_is_drawn_with_every_box_in_the_picture_and_none_over_another(lineage: Lineage) -> None:
    svg = ElementTree.fromstring(draw(lineage))
    name = "{http://www.w3.org/2000/svg}"
    background, *boxes = [
        tuple(float(box.attrib.get(key, 0)) for key in ("x", "y", "width", "height")) for box in svg.iter(f"{name}rect")
    ]
    assert len(boxes) == len(lineage.nodes)
    assert len(list(svg.iter(f"{name}path"))) == len(lineage.edges)
    for i, (x, y, width, height) in enumerate(boxes):
        assert min(x, y, background[2] - x - width, background[3] - y - height) > 0
        for left, top, wide, high in boxes[:i]:
            assert x + width <= left or left + wide <= x or y + height <= top or top + high <= y


def test_a_project_without_sources_has_a_lineage_picture() -> None:
    nodes = {"seed.p.rates": [], "model.p.daily": ["seed.p.rates"], "model.p.made": [], "model.p.alone": []}
    manifest = {
        "sources": {},
        "nodes": {
            unique_id: {"name": unique_id.rpartition(".")[2], "depends_on": {"nodes": parents}}
            for unique_id, parents in {**nodes, "model.p.of_made": ["model.p.made"]}.items()
        },
    }
    views = tuple(map(view, ("alone", "daily", "of_made")))
    lineage = lineage_of(Registry(project="p", feature_views=views), manifest)
    assert {node.label: node.kind for node in lineage.nodes} == {
        "rates": "model", "made": "model", "alone": "feature_view", "daily": "feature_view", "of_made": "feature_view"
    }  # fmt: skip
    (left,) = {
        text.attrib["x"] for text in ElementTree.fromstring(draw(lineage)).iter() if text.text in ("rates", "made")
    }
    assert int(left) < 20, "no empty column before the first"


def test_of_a_kind_with_many_nodes_one_box_stands_for_a_group() -> None:
    few = (
        Node(id="a", label="bank.payments", kind="source", column=0, group="bank"),
        Node(id="m", label="stg_payments", kind="model", column=1, group="staging"),
        Node(id="s", label="fraud", kind="service", column=4, group="Risk"),
    )
    views = tuple(
        Node(id=f"v{i}", label=f"v{i}", kind="feature_view", column=2 + i % 2, group="customer" if i else "shop")
        for i in range(300)
    )
    edges = (("a", "m"), *(("m", node.id) for node in views), ("v0", "v1"), ("v2", "v3"), ("v1", "s"), ("v2", "s"))
    drawn = drawn_together(Lineage(nodes=(*few, *views), edges=edges))
    assert [(node.label, node.column) for node in drawn.nodes] == [
        ("bank.payments", 0), ("stg_payments", 1), ("fraud", 4), ("v0", 2), ("customer: 299 feature views", 2)
    ]  # fmt: skip
    customer = "feature_view customer"
    assert set(drawn.edges) == {("a", "m"), ("m", "feature_view shop"), ("m", customer), (customer, "s")}
    assert drawn_together(Lineage(nodes=few, edges=edges[:1])) == Lineage(nodes=few, edges=edges[:1])

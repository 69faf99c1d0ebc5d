"""Tests that dashboard, alerts, runbook and docs/configuration.md match the service."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from litestar.testing import AsyncTestClient
from msgspec.structs import fields, replace

from service.app import create_app
from service.settings import PREFIX, UNPREFIXED, Settings
from tests.support.app_helpers import eventually
from tests.support.scraped_metrics import ScrapedMetrics

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"\bdepot_\w+")


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((ROOT / "deploy/alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    board: dict[str, Any] = json.loads((ROOT / "deploy/grafana-dashboard.json").read_text())
    return board


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


@pytest.fixture
async def names(settings: Settings) -> set[str]:
    """Return all sample names, including those of metrics without samples."""
    async with AsyncTestClient(create_app(replace(settings, metrics="open"), worker=True)) as client:
        metrics = ScrapedMetrics("")

        async def complete() -> bool:
            nonlocal metrics
            metrics = ScrapedMetrics((await client.get("/metrics")).text)
            return "depot_webhook_lag_seconds" in metrics.families

        await eventually(complete)  # metrics of a slow database are left out
    ends = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    return {
        f"{family.name}{end}" for family in metrics.families.values() for end in ends.get(family.type, ("",))
    } | {sample.name for sample in metrics.samples}


async def test_expressions_name_metrics_that_exist(names: set[str]) -> None:
    expressions = [rule["expr"] for rule in rules()]
    expressions += [target["expr"] for panel in panels() for target in panel["targets"]]
    expressions += [note["expr"] for note in dashboard()["annotations"]["list"]]
    named = {name for expression in expressions for name in NAME.findall(expression)}
    assert len(named) > 20
    assert named <= names
    assert all(NAME.search(expression) for expression in expressions)


async def test_the_dashboard_shows_every_metric(names: set[str]) -> None:
    text = (ROOT / "deploy/grafana-dashboard.json").read_text()
    shown = set(NAME.findall(text))
    ends = ("_bucket", "_sum", "_count")
    families = {name.removesuffix(end) for name in names for end in ends if name.endswith(end)}
    whole = {name for name in names if not name.endswith(ends)}
    unseen = {name for name in whole if name not in shown}
    unseen |= {family for family in families if not any(f"{family}{end}" in shown for end in ends)}
    assert not unseen


def test_every_alert_has_its_section_in_the_runbook_and_no_other() -> None:
    sections = re.findall(r"^## (\w+)$", (ROOT / "docs/runbook.md").read_text(), re.MULTILINE)
    assert sections == [rule["alert"] for rule in rules()]
    for rule in rules():
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in {"page", "ticket"}


def test_sections_of_the_runbook_say_what_how_and_what_to_do() -> None:
    _, *sections = re.split(r"^## \w+$", (ROOT / "docs/runbook.md").read_text(), flags=re.MULTILINE)
    for section in sections:
        assert re.findall(r"^\*\*(\w+)\*\*", section, re.MULTILINE) == ["Means", "Look", "Do"]


def test_settings_the_runbook_names_exist() -> None:
    text = (ROOT / "docs/runbook.md").read_text()
    assert set(re.findall(r"DEPOT_[A-Z_]+", text)) <= known()


def test_panels_do_not_overlap_and_have_names_of_their_own() -> None:
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(dashboard()["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells, panel["title"]
        taken |= cells


def test_the_configuration_page_has_every_setting() -> None:
    table = (
        (ROOT / "docs" / "configuration.md").read_text().partition("## All settings")[2].partition("\n## ")[0]
    )
    first_column = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {name for cell in first_column for name in re.findall(r"`(\w+)`", cell)} == known()


def known() -> set[str]:
    return {UNPREFIXED.get(field.name, PREFIX + field.name.upper()) for field in fields(Settings)}

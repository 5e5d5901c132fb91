"""Grafana's files: made by the code that is here, of a form that Grafana knows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.dashboard.board import FILE, text
from deploy.dashboard.panels import WIDTH


@pytest.fixture(scope="module")
def board() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
    return found


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def test_the_file_is_what_the_code_makes() -> None:
    assert FILE.read_text("utf-8") == text(), "run `make dashboard`"


def test_grafanas_own_types_keep_all_of_it(board: dict[str, Any]) -> None:
    register_default_plugins()
    assert json.loads(JSONEncoder().encode(Dashboard.from_json(board))) == board
    # They would not keep what they do not know.
    strange = {**board, "no_such_thing": 1}
    assert json.loads(JSONEncoder().encode(Dashboard.from_json(strange))) == board


def test_no_two_panels_are_in_one_place(board: dict[str, Any]) -> None:
    taken = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= WIDTH, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, panel["title"]
                taken.add((x, y))
    identities = [panel["id"] for panel in board["panels"]]
    assert len(set(identities)) == len(identities)


def test_every_panel_can_be_told_from_the_others_and_says_what_to_do(
    board: dict[str, Any],
) -> None:
    titles = [panel["title"] for panel in panels(board)]
    assert len(set(titles)) == len(titles)
    for panel in panels(board):
        assert len(panel["description"]) > 20, panel["title"]
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters), panel["title"]


def test_a_name_is_the_one_of_now(board: dict[str, Any]) -> None:
    named = [one for one in panels(board) if one.get("options", {}).get("textMode") == "name"]
    assert named
    for panel in named:
        for target in panel["targets"]:
            assert target["instant"], panel["title"]
            assert not target["range"], panel["title"]


def test_the_page_explains_every_panel_and_alert(
    board: dict[str, Any], compose: Path, repository: Path
) -> None:
    page = (repository / "docs" / "monitoring.md").read_text("utf-8")
    explained = set(re.findall(r"^\| ([^|]+?) \|", page, re.MULTILINE))
    assert {panel["title"] for panel in panels(board)} <= explained
    rules = (compose / "prometheus" / "rules" / "tlserve.yml").read_text()
    alerts = set(re.findall(r"alert: (\w+)", rules))
    assert {f"`{name}`" for name in alerts} <= explained
    named = set(re.findall(r"Tlserve[A-Z]\w+", page + FILE.read_text("utf-8")))
    assert named <= alerts, "an alert that there is not"


def test_grafana_finds_prometheus_and_the_dashboard(compose: Path, board: dict[str, Any]) -> None:
    services = yaml.safe_load((compose / "compose.yaml").read_text())["services"]
    provisioning = compose / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    assert set(services["prometheus"]["networks"]) & set(services["grafana"]["networks"])
    (variable,) = [one for one in board["templating"]["list"] if one["type"] == "datasource"]
    assert variable["query"] == source["type"]
    scraping = yaml.safe_load((compose / "prometheus" / "prometheus.yml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == scraping["scrape_interval"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "tlserve.yml").read_text())[
        "providers"
    ]
    mounted = f"./{FILE.parent.relative_to(compose)}:{provider['options']['path']}:ro"
    assert mounted in services["grafana"]["volumes"]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/{FILE.name}"

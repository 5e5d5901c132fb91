"""A real service under traffic, watched with the very files of ``deploy/compose``."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.dashboard.board import FILE
from tests.deploy.watching import Watching, traffic, watching
from tests.service import bundle as bundles
from tests.service.server import Server, running

pytestmark = pytest.mark.prometheus

_SCRAPES = 3
"""After so many every rate has two values to compare, whenever its series began."""

_SECONDS = 90
"""Prometheus begins within one interval of 15 s, and evaluates rules within another."""

_EXPECTED = {"TlserveUnauthorized", "TlserveRefuses"}
"""What the traffic provokes; both last longer than the test before they fire."""

_POSSIBLE = {"TlserveQueueSlow", "TlserveSaturated"}
"""What it provokes, too, where tests beside this one leave few processors."""

_GRAFANAS = {"$__rate_interval": "1m", "$instance": ".+", "$model": ".+"}
"""What Grafana puts in the place of its variables, for all instances."""


@pytest.fixture(scope="module")
def secrets(compose: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compose")
    shutil.copy(compose / "make-secrets", folder)
    tlserve = str(Path(sys.executable).with_name("tlserve"))
    environment = {"PATH": "/usr/bin:/bin", "TLSERVE": tlserve}
    subprocess.run([folder / "make-secrets"], env=environment, check=True)
    return folder / "secrets"


@pytest.fixture(scope="module")
def services(compose: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((compose / "compose.yaml").read_text())["services"]
    return found


@pytest.fixture(scope="module")
def server(
    services: dict[str, Any], secrets: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    bundle = bundles.write(tmp_path_factory.mktemp("models") / "insects")
    environment = {
        **services["tlserve"]["environment"],
        "TLSERVE_HOST": "127.0.0.1",
        "TLSERVE_API_KEYS_FILE": str(secrets / "api-keys"),
        # Few, so that some are refused.
        "TLSERVE_MAX_QUEUE": "4",
    }
    with running(bundle.path, environment=environment) as server:
        yield server


def questions() -> dict[str, str]:
    """Every expression of the dashboard, by its panel and letter."""
    found = {}
    for panel in json.loads(FILE.read_text("utf-8"))["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for variable, value in _GRAFANAS.items():
                expression = expression.replace(variable, value)
            assert "$" not in expression, target
            found[f"{panel['title']}, {target['refId']}"] = expression
    return found


def test_every_panel_and_rule_has_an_answer(
    prometheus: str, compose: Path, server: Server, secrets: Path, tmp_path: Path
) -> None:
    target = server.url.removeprefix("http://")
    key = (secrets / "client-key").read_text()
    credentials = secrets / "metrics-key"
    files = compose / "prometheus"
    with watching(prometheus, files, tmp_path, target=target, credentials=credentials) as watched:
        with traffic(server.url, key):
            watched.wait_until(
                f'count_over_time(up{{job="tlserve"}}[5m]) >= {_SCRAPES}', seconds=_SECONDS
            )
            for alert in _EXPECTED:
                watched.wait_until(f'ALERTS{{alertname="{alert}"}}', seconds=_SECONDS)
        silent = [name for name, asked in questions().items() if not watched.values(asked)]
        assert not silent, "panels without data"
        _has_choices(watched, target)
        _has_rules(watched, target)


def _has_choices(watched: Watching, target: str) -> None:
    """The dashboard's variables offer the model and the instance."""
    offered = {}
    for variable in json.loads(FILE.read_text("utf-8"))["templating"]["list"]:
        if variable["type"] == "query":
            series, label = re.findall(r"^label_values\((.+), (\w+)\)$", variable["query"])[0]
            selector = series.replace("$model", ".+")
            offered[variable["name"]] = watched.ask(
                f"label/{label}/values", **{"match[]": selector}
            )
    assert offered == {"model": ["insects"], "instance": [target]}


def _has_rules(watched: Watching, target: str) -> None:
    """Every rule was evaluated without an error, and what is recorded has data."""
    rules = [rule for group in watched.ask("rules")["groups"] for rule in group["rules"]]
    assert rules
    for rule in rules:
        assert rule["health"] == "ok", rule
        if rule["type"] == "recording":
            assert watched.values(rule["name"]), rule["name"]
    pending = {alert["labels"]["alertname"]: alert for alert in watched.ask("alerts")["alerts"]}
    assert pending.keys() >= _EXPECTED
    assert pending.keys() <= _EXPECTED | _POSSIBLE
    assert {alert["state"] for alert in pending.values()} == {"pending"}
    summary = pending["TlserveUnauthorized"]["annotations"]["summary"]
    assert re.fullmatch(
        rf"Somebody asks {re.escape(target)} without a valid key, [\d.]+ times a second\.", summary
    )


def test_what_is_asked_for_is_measured_and_documented(
    promtool: str, compose: Path, repository: Path, server: Server, secrets: Path
) -> None:
    headers = {"Authorization": f"Bearer {(secrets / 'metrics-key').read_text()}"}
    with server.client() as client:
        # A counter with labels is there from its first event on, and an image is one for most.
        client.post("/predict", content=bundles.image(1), headers=headers)
        exposition = client.get("/metrics", headers=headers).text
    linted = subprocess.run(
        [promtool, "check", "metrics"],
        input=exposition,
        capture_output=True,
        text=True,
        check=False,
    )
    assert linted.returncode == 0, linted.stderr
    page = (repository / "docs" / "observability.md").read_text("utf-8")
    known = dict(re.findall(r"^\| `(tlserve_\w+)` \| (\w+) \|", page, re.MULTILINE))
    known |= dict(re.findall(r"^# TYPE (process_\w+) (\w+)$", exposition, re.MULTILINE))
    series = {"up", "ALERTS"}
    for name, kind in known.items():
        parts = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        series |= {name + part for part in parts}
    rules = yaml.safe_load((compose / "prometheus" / "rules" / "tlserve.yml").read_text())
    flat = [rule for group in rules["groups"] for rule in group["rules"]]
    recorded = {rule["record"] for rule in flat if "record" in rule}
    asked = [*questions().values(), *(rule["expr"] for rule in flat)]
    named = {
        name
        for expression in asked
        # Names stand before a selector, or look like ours; what is in quotes is none.
        for name in re.findall(
            r"[\w:]+(?=\{)|\b(?:instance:)?(?:tlserve|process)_[\w:]+",
            re.sub(r'"[^"]*"', "", expression),
        )
    }
    assert len(named) > 30
    assert named <= series | recorded


def test_the_health_check_tells_well_from_ill(services: dict[str, Any], server: Server) -> None:
    check = services["tlserve"]["healthcheck"]["test"]
    assert check[:2] == ["CMD", "python"]

    def healthy(port: str) -> bool:
        environment = {**os.environ, "TLSERVE_HTTP_PORT": port}
        asked = [sys.executable, *check[2:]]
        return subprocess.run(asked, env=environment, check=False).returncode == 0

    assert healthy(server.url.rpartition(":")[2])
    assert not healthy("1")

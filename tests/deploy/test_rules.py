"""Prometheus's files, by its own tools."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

_UNITS = {"m": 2**20, "g": 2**30}


@pytest.fixture(scope="module")
def rules(compose: Path) -> dict[str, Any]:
    """Every rule, by what it records or alerts."""
    groups = yaml.safe_load((compose / "prometheus" / "rules" / "tlserve.yml").read_text())
    found = [rule for group in groups["groups"] for rule in group["rules"]]
    return {rule.get("record") or rule["alert"]: rule for rule in found}


def _run(promtool: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [promtool, *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_configuration_is_valid(promtool: str, compose: Path) -> None:
    checked = _run(
        promtool, compose / "prometheus", "check", "config", "--syntax-only", "prometheus.yml"
    )
    assert checked.returncode == 0, checked.stderr


def test_the_rules_are_valid(promtool: str, compose: Path, rules: dict[str, Any]) -> None:
    checked = _run(promtool, compose / "prometheus", "check", "rules", "rules/tlserve.yml")
    assert checked.returncode == 0, checked.stderr
    assert f"{len(rules)} rules found" in checked.stdout


def test_the_rules_do_what_they_should(promtool: str, compose: Path) -> None:
    tested = _run(promtool, compose / "prometheus", "test", "rules", "rules_test.yml")
    assert tested.returncode == 0, tested.stderr


def test_each_rule_is_tested(compose: Path, rules: dict[str, Any]) -> None:
    text = (compose / "prometheus" / "rules_test.yml").read_text()
    for name, rule in rules.items():
        if "alert" in rule:
            fires = rf'ALERTS{{alertname="{name}", alertstate="firing", '
            assert fires in text, name
        else:
            used = [other for other in rules.values() if name in other["expr"]]
            assert name in text or used, name


def test_an_alert_says_what_to_do(rules: dict[str, Any]) -> None:
    alerts = [rule for rule in rules.values() if "alert" in rule]
    assert alerts
    for rule in alerts:
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}, rule["alert"]
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}


def test_the_limit_of_memory_is_that_of_the_container(compose: Path, rules: dict[str, Any]) -> None:
    services = yaml.safe_load((compose / "compose.yaml").read_text())["services"]
    limit = services["tlserve"]["mem_limit"]
    share, number = re.findall(
        r"> ([\d.]+) \* (\d+) \* 2\^30", rules["TlserveMemoryNearlyFull"]["expr"]
    )[0]
    assert int(number) * 2**30 == int(limit[:-1]) * _UNITS[limit[-1]]
    assert 0 < float(share) < 1

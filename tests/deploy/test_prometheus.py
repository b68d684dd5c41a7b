"""The configuration and the alerts for Prometheus, by its own tool."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dashboards import DEPLOY, FOLDER, queries, read
from ruamel.yaml import YAML

from edgeflex_flow.monitor.metrics import METRICS

FOLDER_OF_RULES = DEPLOY / "prometheus"
ENDINGS = re.compile(r"_(total|bucket|sum|count|info)$")


def promtool(program: Callable[[str], str], *arguments: str) -> str:
    done = subprocess.run(
        [program("promtool"), *arguments], cwd=FOLDER_OF_RULES, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules() -> list[dict[str, Any]]:
    [group] = YAML(typ="safe").load(FOLDER_OF_RULES / "rules.yml")["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


@pytest.mark.needs("promtool")
def test_the_configuration_is_right(program: Callable[[str], str]) -> None:
    assert "SUCCESS" in promtool(program, "check", "config", "prometheus.yml")


@pytest.mark.needs("promtool")
def test_alerts_are_raised_when_they_should_and_not_otherwise(program: Callable[[str], str]) -> None:
    assert "SUCCESS" in promtool(program, "test", "rules", "rules_test.yml")


def test_every_alert_is_tried() -> None:
    tests = YAML(typ="safe").load(FOLDER_OF_RULES / "rules_test.yml")["tests"]
    tried = {each["alertname"] for test in tests for each in test["alert_rule_test"]}
    assert tried == {rule["alert"] for rule in rules()}


def _names() -> Iterator[str]:
    for rule in rules():
        yield from re.findall(r"edgeflex_\w+", rule["expr"])
    for query in queries(read(FOLDER / "site.json")):
        yield from re.findall(r"edgeflex_\w+", query.target["expr"])


def test_alerts_and_panels_ask_for_metrics_that_there_are() -> None:
    names = set(_names())
    assert names
    assert not {name for name in names if name not in METRICS and ENDINGS.sub("", name) not in METRICS}

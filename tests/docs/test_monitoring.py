"""The page of monitoring tells every metric, with its kind, labels and meaning, and nothing that there is not."""

from __future__ import annotations

import re
from pathlib import Path

from dashboards import DEPLOY, datasources

from edgeflex_flow.monitor.metrics import METRICS
from edgeflex_flow.monitor.server import PATHS
from edgeflex_flow.runtime.recovery import STATE
from edgeflex_flow.runtime.run import POLICY_SYSTEM

PAGE = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text("utf-8")
ENDINGS = {"counter": "_total", "gauge": "", "info": "_info", "histogram": "_bucket"}


def test_every_metric_has_its_row() -> None:
    rows = re.findall(r"^\| `(edgeflex\w*)` \| (\w+) \| (.*?) \| (.*) \|$", PAGE, re.MULTILINE)
    told = [(f"{name}{ENDINGS[it.kind]}", it.kind, ", ".join(it.labels), it.about) for name, it in METRICS.items()]
    assert rows == told


def test_every_path_and_every_node_that_is_none_is_named() -> None:
    for name in (*PATHS, POLICY_SYSTEM, STATE):
        assert f"`{name}`" in PAGE


def test_every_variable_of_the_datasources_is_named() -> None:
    text = (DEPLOY / "grafana" / "provisioning" / "datasources" / "edgeflex.yaml").read_text("utf-8")
    for prefix, rest in re.findall(r"\$\{(EDGEFLEX_[A-Z]+)(_[A-Z]+)\}", text):
        assert f"`{prefix}{rest}`" in PAGE or (f"`{prefix}_" in PAGE and f"`{rest}`" in PAGE)
    assert len(datasources()) == 3

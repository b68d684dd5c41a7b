"""The dashboards of `deploy/grafana`, with what Grafana fills into their queries filled in.

Grafana's documentation says what variables and macros become: "Global variables", "Variable syntax" (formats of several
values), "PostgreSQL query editor" (macros) and "InfluxDB query editor" (`$timeFilter`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

DEPLOY = Path(__file__).parents[1] / "deploy"
FOLDER = DEPLOY / "grafana" / "dashboards"
FILES = sorted(FOLDER.glob("*.json"))
INTERVAL_MS = 1000


class Query(NamedTuple):
    """One query of a dashboard: of a panel, an annotation or a variable."""

    where: str
    target: dict[str, Any]
    datasource: str
    """Its uid."""


def read(file: Path) -> dict[str, Any]:
    dashboard: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return dashboard


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries(dashboard: dict[str, Any]) -> Iterator[Query]:
    """Those of panels and annotations."""
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield Query(f"{panel['title']} {target['refId']}", target, target["datasource"]["uid"])
    for each in dashboard["annotations"]["list"]:
        yield Query(each["name"], each["target"], each["datasource"]["uid"])


def variable_queries(dashboard: dict[str, Any]) -> Iterator[Query]:
    for each in dashboard["templating"]["list"]:
        if each["type"] == "query":
            query = each["query"]["query"] if isinstance(each["query"], dict) else each["query"]
            yield Query(each["name"], {"text": query}, each["datasource"]["uid"])


def datasources() -> dict[str, dict[str, Any]]:
    """Those that are provisioned, by uid."""
    file = DEPLOY / "grafana" / "provisioning" / "datasources" / "edgeflex.yaml"
    return {each["uid"]: each for each in YAML(typ="safe").load(file)["datasources"]}


def promql(text: str, **variables: Sequence[str]) -> str:
    """Several values are a regular expression."""
    for name, values in variables.items():
        text = text.replace(f"${name}", f"({'|'.join(map(re.escape, values))})")
    return _done(text.replace("$__rate_interval", "1m"))


def sql(text: str, begin_ns: int, end_ns: int, **variables: Sequence[str]) -> str:
    """Several values are a list of texts; a constant stands as it is."""
    text = re.sub(r"\$__unixEpochNanoFilter\(([^)]*)\)", rf"\1 >= {begin_ns} AND \1 <= {end_ns}", text)
    text = text.replace("$__interval_ms", str(INTERVAL_MS)).replace("$schema", "edgeflex")
    for name, values in variables.items():
        text = text.replace(f"${name}", ",".join(f"'{value}'" for value in values))
    return _done(text)


def influxql(text: str, begin_ns: int, end_ns: int, **variables: Sequence[str]) -> str:
    """Several values are a regular expression."""
    between = f"time >= {begin_ns // 10**6}ms and time <= {end_ns // 10**6}ms"
    text = text.replace("$timeFilter", between).replace("$__interval", f"{INTERVAL_MS // 1000}s")
    for name, values in variables.items():
        text = text.replace(f"${name}", f"({'|'.join(values)})")
    return _done(text)


def _done(text: str) -> str:
    left = re.findall(r"\$\w+", text)
    assert not left, f"nothing is known to fill in for {left}"
    return text

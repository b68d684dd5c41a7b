"""Settings that flow and site files bind to policies, checked with the kinds that ship."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from ruamel.yaml import YAML

from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.errors import Problem
from edgeflex_flow.flowfile import check_flow, to_mermaid, to_svg
from edgeflex_flow.flowfile.load import CheckedFlow, check_files
from edgeflex_flow.flowfile.network import bus_users, ports
from edgeflex_flow.flowfile.schema import json_schema
from edgeflex_flow.policy import TextBinding, is_allowed

FLOW = """\
flow: bound
nodes:
  measured:
    kind: mqtt_subscribe
    bus: databus
    topics: {policy: data, field: topics, default: [grid/a/pmu], allowed: ["grid/*/pmu", grid/all/#]}
    columns: [frequency_hz]
    device: G1
  meters: {kind: rest_poll, api: platform, path: /a, period: 1 s, columns: [active_power_w], device: M1}
  history: {kind: store_write, from: [measured, meters], store: history}
"""
SITE = """\
site: yard
connections:
  policies: {kind: policy_system, url: "https://policies.example", group: yard}
  databus: {kind: mqtt, url: "mqtt://bus.example"}
  platform:
    kind: rest
    url: {policy: data, field: url, default: "https://a.grid.example/api", allowed: ["https://*.grid.example/api"]}
  history: {kind: sqlite, path: history.db}
"""


def checked(folder: Path, flow: str = FLOW, site: str = SITE) -> CheckedFlow:
    (folder / "flow.yaml").write_text(flow, encoding="utf-8")
    (folder / "site.yaml").write_text(site, encoding="utf-8")
    return check_flow(folder / "flow.yaml", shipped_registry(), site=folder / "site.yaml", environment={})


def problem(found: CheckedFlow) -> Problem:
    (only,) = found.problems
    return only


def test_texts_of_sources_and_urls_of_connections_may_be_bound(tmp_path: Path) -> None:
    found = checked(tmp_path)
    assert found.problems == ()
    assert found.plan is not None
    measured = next(node for node in found.plan.nodes if node.id == "measured")
    assert measured.policies["topics"] == TextBinding(
        policy="data", field="topics", default=("grid/a/pmu",), allowed=("grid/*/pmu", "grid/all/#")
    )
    assert found.plan.bound_connections["platform"]["url"].default == "https://a.grid.example/api"
    assert found.plan.policy_system is not None
    assert found.plan.policy_ids == ("data",)


def test_a_flow_that_binds_nothing_needs_no_policy_system(tmp_path: Path) -> None:
    flow = "flow: free\nnodes:\n  a: {kind: mqtt_subscribe, bus: databus, topics: [a], columns: [a_hz], device: x}\n"
    found = checked(tmp_path, flow + "  b: {kind: store_write, from: a, store: history}\n")
    assert found.plan is not None
    assert found.plan.policy_system is None


def test_a_site_has_one_policy_system(tmp_path: Path) -> None:
    second = '  other: {kind: policy_system, url: "https://b.example", group: b}\n  databus'
    found = problem(checked(tmp_path, site=SITE.replace("  databus", second, 1)))
    assert (found.line, found.column) == (4, 3)
    assert found.message == "a site has one policy system; this one is called 'policies'"


def test_where_policies_come_from_is_bound_to_none(tmp_path: Path) -> None:
    bound = "{policy: a, field: b, default: 'https://a.example', allowed: ['https://*.example']}"
    found = problem(checked(tmp_path, site=SITE.replace('"https://policies.example"', bound)))
    assert found.message == "'url' cannot be bound to a policy: by this it is known where policies come from"


def test_a_sink_needs_a_connection_of_its_own(tmp_path: Path) -> None:
    flow = FLOW + "  tell: {kind: rest_post, from: meters, api: platform, path: /b}\n"
    found = problem(checked(tmp_path, flow))
    assert (found.node, found.line, found.column) == ("tell", 11, 46)
    assert "'platform' has an `url` that is bound to a policy, and sinks go on with theirs" in found.message


def test_what_stands_for_a_secret_is_not_bound(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush-hush")
    flow = FLOW.replace("default: [grid/a/pmu]", 'default: ["${file:secret}"]')
    found = problem(checked(tmp_path, flow))
    assert "it holds a secret" in found.message
    assert "hush" not in str(found)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("https://*/api", "a `*` cannot stand for a whole host"),
        ("https://*.*/api", "a `*` cannot stand for a whole host"),
        (
            "https://*.com/api",
            "a `*` cannot stand in the last two parts of a host: anybody can have one of these names",
        ),
        (
            "https://grid.*/api",
            "a `*` cannot stand in the last two parts of a host: anybody can have one of these names",
        ),
        (
            "https://a.evil-*.com",
            "a `*` cannot stand in the last two parts of a host: anybody can have one of these names",
        ),
        ("*://a.example/api", "a `*` stands in the host or the path of an url"),
        ("https://a.example:*/api", "a `*` stands in the host or the path of an url"),
        ("https://a.example@b.example/*", "an url has the form https://host:port/path, without a user"),
        ("*", "an url has the form https://host:port/path, without a user"),
    ],
)
def test_a_pattern_of_urls_names_the_hosts(tmp_path: Path, pattern: str, words: str) -> None:
    site = SITE.replace('"https://*.grid.example/api"', f'"https://a.grid.example/api", "{pattern}"')
    found = problem(checked(tmp_path, site=site))
    assert found.message == f"'url.allowed': {words}"


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.org/.example/api",
        "https://evil.org#.example/api",
        "https://evil.org?.example/api",
        "https://user:pass@a.example/api",
        "https://evil.org\\.example/api",
        "https://evil.org%2f.example/api",
        "https://a.b.example/api",
        "https://.example/api",
        "http://a.example/api",
        "https://a.example:8443/api",
        "https://a.example/api/../other",
        "https://a.example/api\n",
        "https://ä.example/api",
        "https://℀.example/api",
    ],
)
def test_a_star_lets_in_no_other_host_or_path(url: str) -> None:
    assert is_allowed("https://grid-7.example/api", ["https://*.example/api"])
    assert not is_allowed(url, ["https://*.example/api"])


@pytest.mark.parametrize("topic", ["grid/#", "grid/+/pmu", "grid/../pmu", "grid//pmu", "grid/a/b/pmu", "grid/a\0/pmu"])
def test_a_star_lets_in_no_other_topics(topic: str) -> None:
    assert not is_allowed(topic, ["grid/*/pmu"])


def test_rights_and_ports_are_those_that_policies_may_need(tmp_path: Path) -> None:
    plan = checked(tmp_path).plan
    assert plan is not None
    (user,) = bus_users([plan])
    assert user.subscribe == {"grid/a/pmu", "grid/+/pmu", "grid/all/#"}
    called = {(port.host, port.port) for port in ports([plan]) if port.direction == "out"}
    assert {("a.grid.example", 443), ("*.grid.example", 443), ("policies.example", 443)} <= called


def test_pictures_say_which_policy_may_change_a_node(tmp_path: Path) -> None:
    plan = checked(tmp_path).plan
    assert plan is not None
    assert "mqtt_subscribe · policy data" in to_svg(plan)
    assert "mqtt#95;subscribe · policy data" in to_mermaid(plan) or "mqtt_subscribe · policy data" in to_mermaid(plan)


def test_the_schema_knows_bound_texts(tmp_path: Path) -> None:

    validator = Draft202012Validator(json_schema(shipped_registry()))
    for text in (FLOW, SITE):
        assert list(validator.iter_errors(json.loads(json.dumps(YAML(typ="safe").load(text))))) == []
    for old, new in (
        ('allowed: ["grid/*/pmu", grid/all/#]', "min: 1, max: 2"),
        ("default: [grid/a/pmu]", "default: grid/a/pmu"),
        ("field: topics, ", ""),
    ):
        assert list(validator.iter_errors(YAML(typ="safe").load(FLOW.replace(old, new))))
    bound = "{policy: a, field: b, default: 1883, min: 1, max: 2}"
    assert list(
        validator.iter_errors(YAML(typ="safe").load(SITE.replace("group: yard", f"group: yard, refresh: {bound}")))
    )


def test_a_site_alone_is_checked_with_its_bindings(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(SITE.replace('["https://*.grid.example/api"]', '["https://b.grid.example/api"]'))
    (found,) = check_files([file], shipped_registry())
    assert [each.message for each in found.problems] == ["'url.default' is not among what is allowed"]

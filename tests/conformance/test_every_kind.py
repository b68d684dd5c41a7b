"""What holds for every node kind that ships."""

from __future__ import annotations

import math
import pickle
import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import inspect
from ruamel.yaml import YAML

from edgeflex_flow.cli.kinds import SHIPPED
from edgeflex_flow.cli.places import shipped_flows
from edgeflex_flow.flowfile.fields import config_fields
from edgeflex_flow.node import AnyNode, ConnectionNode, NodeConfig, OperatorNode, SourceNode

each_kind = pytest.mark.parametrize("node", SHIPPED, ids=lambda node: f"{type(node).__name__}-{node.kind}")
each_operator = pytest.mark.parametrize(
    "node", [node for node in SHIPPED if isinstance(node, OperatorNode)], ids=lambda node: node.kind
)


def fields_of(config: type[NodeConfig]) -> tuple[inspect.Field, ...]:
    info = inspect.type_info(config)
    assert isinstance(info, inspect.StructType)
    return info.fields


@each_kind
def test_a_config_refuses_unknown_keys(node: AnyNode) -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field `no_such_key`"):
        msgspec.convert({"no_such_key": 1, **minimal(node)}, type=node.config)


@each_kind
def test_every_field_is_described(node: AnyNode) -> None:
    hints = typing.get_type_hints(node.config, include_extras=True)
    undescribed = [
        field.name
        for field in fields_of(node.config)
        if not any(getattr(meta, "description", None) for meta in getattr(hints[field.name], "__metadata__", ()))
    ]
    assert undescribed == []


@each_kind
def test_the_manual_page_has_its_sections(node: AnyNode) -> None:
    page = node.config.__doc__ or ""
    if isinstance(node, ConnectionNode):
        wanted: tuple[str, ...] = ("Errors:",)
    elif isinstance(node, OperatorNode):
        wanted = ("Input:", "Output:", "Errors:", "Source:")
    else:
        wanted = ("Errors:",)
    assert [section for section in wanted if section not in page] == []


@each_kind
def test_a_config_is_frozen(node: AnyNode) -> None:
    config = msgspec.convert(minimal(node), type=node.config)
    field = fields_of(node.config)[0].name
    with pytest.raises(AttributeError):
        setattr(config, field, getattr(config, field))


@each_kind
def test_a_kind_stands_in_a_module_of_its_own_name(node: AnyNode) -> None:
    assert node.config.__module__.rpartition(".")[2] == node.kind


@each_operator
def test_fresh_state_pickles(node: OperatorNode[Any, Any]) -> None:
    state = node.start(msgspec.convert(minimal(node), type=node.config))
    assert type(pickle.loads(pickle.dumps(state))) is type(state)


@each_operator
def test_every_input_port_has_a_step(node: OperatorNode[Any, Any]) -> None:
    assert [name for name, port in node.inputs.items() if port.step is None] == []


def test_every_kind_appears_in_a_shipped_flow() -> None:
    used: set[str] = set()
    for file in flow_files():
        document = YAML(typ="safe").load(file)
        used.update(node["kind"] for node in document["nodes"].values())
    for file in (shipped_flows() / "sites").glob("*.yaml"):
        used.update(connection["kind"] for connection in YAML(typ="safe").load(file)["connections"].values())
    assert {node.kind for node in SHIPPED} - used == set()


@each_kind
def test_a_kind_that_uses_a_broker_says_on_which_topics(node: AnyNode) -> None:
    config: type[NodeConfig] = node.config
    fields = config_fields(config)
    # A connection may publish by itself, such as that a client is there.
    buses = {field.name for field in fields if field.hint.family == "bus"} | (
        {None} if isinstance(node, ConnectionNode) and node.topics_of is not None else set()
    )
    assert {field.hint.noted("bus") for field in fields if field.hint.noted("topics")} == buses


@each_kind
def test_a_config_with_a_port_tells_of_it(node: AnyNode) -> None:
    config: type[NodeConfig] = node.config
    fields = {field.name: field for field in config_fields(config)}
    if "port" in fields:
        told = [port.port for port in msgspec.convert(minimal(node), type=node.config).ports()]
        assert fields["port"].hint.noted("claims") or told == [minimal(node)["port"]]


@each_kind
def test_an_url_in_a_config_says_its_ports(node: AnyNode) -> None:
    config: type[NodeConfig] = node.config
    urls = [field for field in config_fields(config) if "url" in field.name]
    assert [field.name for field in urls if not field.hint.noted("url")] == []


@each_kind
def test_a_kind_tells_how_long_it_holds_things_up(node: AnyNode) -> None:
    assert node.delays is not None
    config = msgspec.convert(minimal(node), type=node.config)
    ports = () if isinstance(node, ConnectionNode | SourceNode) else node.inputs.values()
    for tell in (node.delays, *(port.delays for port in ports if port.delays)):
        assert all(math.isfinite(seconds) and seconds >= 0.0 for seconds in tell(config) if seconds is not None)


@each_operator
def test_an_operator_whose_ticks_must_not_overtake_rows_makes_them_wait(node: OperatorNode[Any, Any]) -> None:
    if node.tick is None or node.tick_period_s is None or node.delays is None or node.loose_ticks:
        return
    config = msgspec.convert(minimal(node), type=node.config)
    assert node.delays(config).period_s >= node.tick_period_s(config)


def flow_files() -> list[Path]:
    return sorted(shipped_flows().glob("*.yaml"))


MINIMAL: dict[str, dict[str, Any]] = {
    "pmu_udp": {"port": 4713},
    "pmu_client": {"host": "10.0.0.7", "port": 4712, "idcode": 7},
    "samples_udp": {"port": 12000, "format": {"type": "villas.binary", "signals": [{"column": "frequency_hz"}]}},
    "pmu_align": {"min": "3 of 4"},
    "pmu_send": {"host": "10.0.0.9", "port": 4713, "idcode": 9, "devices": {"G1": 1}},
    "mqtt_subscribe": {"bus": "databus", "topics": ["a"], "columns": ["frequency_hz"]},
    "mqtt_publish": {"bus": "databus", "topic": "a"},
    "mqtt": {"url": "mqtt://127.0.0.1"},
    "rest": {"url": "https://127.0.0.1"},
    "policy_system": {"url": "https://127.0.0.1", "group": "a"},
    "policy_read": {"policies": "policies"},
    "requested_event": {"service": "inertia_estimation"},
    "rest_poll": {"api": "services", "path": "/a", "period": 1.0, "messages": ["alarm"]},
    "rest_post": {"api": "services", "path": "/a"},
    "sqlite": {"path": "a.db"},
    "parquet": {"path": "history"},
    "influxdb": {"url": "http://127.0.0.1", "database": "grid"},
    "postgres": {"url": "postgresql://127.0.0.1/grid"},
    "store_write": {"store": "history"},
    "store_read": {"store": "history", "columns": ["frequency_hz"]},
    "file_replay": {"path": "a.jsonl", "columns": ["frequency_hz"]},
    "file_write": {"path": "a.jsonl"},
    "threshold": {"column": "frequency_hz", "above": 50.2},
    "convert": {"columns": {"voltage_kv": "voltage_v"}},
    "inertia_event": {"units": {"G1": {"rated_power": 100.0}}},
    "system_inertia": {"units": {"G1": {"rated_power": 100.0}}},
    "inertia_ambient": {"units": {"G1": {"rated_power": 100.0}}},
    "inertia_online": {"units": {"G1": {"rated_power": 100.0}}},
    "select": {"columns": ["frequency_hz"]},
    "voltage_control": {
        "name": "voltage",
        "power_base": 100.0,
        "inverters": {"a": {"rated_power": 10.0}},
        "sensitivities": {"a": {"voltage_per_active_power": {"a": 0.1}, "voltage_per_reactive_power": {"a": 0.1}}},
    },
    "voltage_mpc": {
        "name": "mpc",
        "power_base": 100.0,
        "inverters": {"a": {"rated_power": 10.0}},
        "sensitivities": {"a": {"voltage_per_active_power": {"a": 0.1}, "voltage_per_reactive_power": {"a": 0.1}}},
    },
    "frequency_droop": {
        "name": "fcr",
        "asset": "bess",
        "devices": ["PMU"],
        "fcr_power": 1e6,
        "minimum": -1e6,
        "maximum": 1e6,
    },
    "virtual_inertia": {
        "name": "inertia",
        "asset": "bess",
        "devices": ["PMU"],
        "inertia": 2.0,
        "rated_power": 1e6,
        "minimum": -1e6,
        "maximum": 1e6,
    },
    "agc": {"name": "agc", "asset": "north", "devices": ["PMU"], "bias": 1e8, "minimum": -1e6, "maximum": 1e6},
    "setpoint_watchdog": {
        "name": "watchdog",
        "controller": "vpp",
        "quantity": "active_power_w",
        "safe": {"bess": 0.0},
        "timeout": 3.0,
    },
    "dispatch": {
        "name": "vpp",
        "area": "north",
        "controllers": ["agc"],
        "units": {"bess": {"minimum": -1e6, "maximum": 1e6}},
    },
    "flex_request": {"nodes": {"battery": 4}},
    "flexoffer_make": {"offered_by": "site_12"},
    "flexoffer_send": {"api": "market", "path": "/offers"},
    "flexoffer_receive": {"api": "market", "path": "/offers"},
    "vpp_dispatch": {"name": "vpp", "connection": 1e6},
    "forecast": {"column": "active_power_w", "assets": {"P1": {"kind": "pv"}}},
    "link_status": {"api": "devices", "owner": "yard"},
    "link_guard": {"latency_budget": 0.2},
    "link_qos": {"api": "devices", "owner": "yard", "server_ipv4": "198.51.100.10"},
}
"""The least that each kind's config needs; kinds that are not named need nothing."""


def minimal(node: AnyNode) -> dict[str, Any]:
    return MINIMAL.get(node.kind, {})

"""What a shipped kind says when it refuses its values: the fields that it names are those that the refusal rests on."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from edgeflex_connectors.payload_formats import Csv, JsonEdgeflex, JsonFields, VillasJson
from edgeflex_connectors.payload_formats.channels import Channel
from edgeflex_connectors.payload_formats.signals import Signal
from edgeflex_connectors.rest_auth import Bearer, ClientCredentials
from edgeflex_connectors.store import Downsampling
from edgeflex_flow.cli.kinds import SHIPPED
from edgeflex_flow.errors import ConfigError, FieldError
from edgeflex_flow.node import NodeConfig
from edgeflex_operators._dispatch_program import Generator, Storage
from edgeflex_operators._inverters import Inverter
from edgeflex_operators._network import Branch
from edgeflex_operators.dispatch import DispatchedUnit
from edgeflex_operators.forecast import ForecastAsset

CONFIGS = {node.kind: node.config for node in SHIPPED}

Values = dict[str, Any]

GRID: Values = {
    "name": "a",
    "power_base": 1.0,
    "inverters": {"n": Inverter(rated_power=1.0)},
    "branches": {"l": Branch(from_="m", to="n", resistance=0.1, reactance=0.1)},
}
DROOP: Values = {"name": "a", "asset": "b", "devices": ("c",), "fcr_power": 1.0, "minimum": -9.0, "maximum": 9.0}
BOUNDS: Values = {"minimum": -9.0, "maximum": 9.0}
INERTIA: Values = {"name": "a", "asset": "b", "devices": ("c",), "inertia": 1.0, "rated_power": 1.0, **BOUNDS}
AGC: Values = {"name": "a", "asset": "b", "devices": ("c",), "bias": 1.0, "minimum": -9.0, "maximum": 9.0}
WATCHDOG: Values = {"name": "a", "controller": "b", "quantity": "x_w", "safe": {"c": 0.0}, "timeout": 1.0}
DISPATCH: Values = {"name": "a", "area": "b", "controllers": ("c",)}
UNIT = DispatchedUnit(minimum=-9.0, maximum=9.0)
PV = ForecastAsset(kind="pv")

# By kind: configs that it refuses, and ones that it takes.
GIVEN: dict[str, list[Values]] = {
    "threshold": [
        {"column": "frequency", "above": 1.0},
        {"column": "frequency_hz"},
        {"column": "f_hz", "above": 49.0, "below": 51.0, "hysteresis": 3.0},
        {"column": "f_hz", "above": 50.2, "below": 49.8, "hysteresis": 0.5},
        {"column": "f_hz", "below": 49.8, "hold": 1.0},
    ],
    "frequency_droop": [
        {**DROOP, "valid_for": 0.1, "scheduled": 10.0, "over_threshold": 51.0},
        {**DROOP, "minimum": 9.0, "dead_band": 0.05, "under_threshold": 51.0},
        {**DROOP, "lowest": 1.0, "highest": 0.0, "safe": -10.0, "fcr_power": 0.0},
        {**DROOP, "lowest": -10.0, "highest": 10.0},
    ],
    "virtual_inertia": [
        {**INERTIA, "valid_for": 0.04, "scheduled": 10.0},
        {**INERTIA, "block_for": 0.04, "lowest": 1.0, "highest": 0.0},
        {**INERTIA, "minimum": 9.0},
    ],
    "agc": [
        {**AGC, "valid_for": 1.0, "tracking_time": 200.0},
        {**AGC, "scheduled": 10.0, "lowest": 1.0, "highest": 0.0},
        {**AGC, "minimum": 9.0},
    ],
    "setpoint_watchdog": [
        {**WATCHDOG, "period": 6.0, "quantity": "x"},
        {**WATCHDOG, "controller": "a", "safe": {"c": float("inf")}},
        {**WATCHDOG, "valid_for": 0.1},
        WATCHDOG,
    ],
    "dispatch": [
        {**DISPATCH, "units": {"d": UNIT}, "highest": 10.0, "lowest": -10.0, "controllers": ("c", "c")},
        {**DISPATCH, "units": {"d": DispatchedUnit(minimum=9.0, maximum=-9.0)}, "period": 3.0},
        {**DISPATCH, "units": {"d": UNIT}},
    ],
    "rocof": [{"max_gap": 0.6}, {"window": 0.05}, {"window": 2.0, "max_gap": 1.0}],
    "voltage_control": [
        {**GRID, "valid_for": 0.5, "voltage_min": 1.2, "voltage_max": 1.1},
        {**GRID, "branches": None},
        {**GRID, "inverters": {"x": Inverter(rated_power=1.0)}, "period": 20.0},
        {**GRID, "branches": {"l": Branch(from_="n", to="n", resistance=0.1, reactance=0.1)}},
        GRID,
    ],
    "voltage_mpc": [
        {**GRID, "period": 1000.0, "valid_for": 100.0, "voltage_min": 1.2, "voltage_max": 1.1},
        {**GRID, "market": {"x": 1}, "answer_within": 900.0},
        {**GRID, "sensitivities": {}, "period": 200.0},
        {**GRID, "inverters": {"x": Inverter(rated_power=1.0)}, "step": 30.0},
        GRID,
    ],
    "select": [{}, {"columns": ("a_v",)}, {"devices": ("a",)}, {"without_quality": ("test",)}],
    "convert": [
        {"columns": {"a_v": "a_v"}},
        {"columns": {"a_v": "a_s", "b_v": "c_kv", "d_v": "c_kv"}},
        {"columns": {"a_v": "a_kv"}},
    ],
    "forecast": [
        {"column": "power", "assets": {"a": PV}, "weather": "wind"},
        {"column": "a_w", "assets": {"a": PV}, "step": 7.0},
        {"column": "b_w", "assets": {"b": PV}, "least_history": 20 * 86400.0, "history": 10 * 86400.0},
        {"column": "c_w", "assets": {"c": ForecastAsset(kind="wind")}},
    ],
    "vpp_dispatch": [
        {"name": "v", "connection": 1e6, "valid_for": 10.0},
        {
            "name": "v",
            "connection": 1e6,
            "storages": {"b": Storage(power=1.0, energy=1.0, lowest=0.9)},
            "loads": ("b",),
        },
        {"name": "v", "connection": 1e6, "generators": {"g": Generator(power=1.0, minimum=2.0, cost=1.0)}},
        {"name": "v", "connection": 1e6, "loads": ("a", "a"), "market": "a", "period": 2000.0},
    ],
    "pmu_udp": [
        {"port": 1, "channels": {"A": "frequency_hz", "B": "b", "C": "c_v", "D": "c_v"}},
        {"port": 2, "names": {"1": "x", "2": "x"}},
        {"port": 3, "names": {"1": "y"}, "channels": {"A": "a_v"}},
        {"port": 4, "group": "10.0.0.1", "host": "::"},
        {"port": 5, "group": "239.0.0.1"},
    ],
    "pmu_client": [
        {"host": "a", "port": 1, "idcode": 1, "transport": "tcp_udp"},
        {"host": "a", "port": 1, "idcode": 1, "data_port": 1, "ask": ("cfg2", "cfg2")},
        {"host": "a", "port": 1, "idcode": 1, "transport": "udp", "group": "10.0.0.1"},
        {"host": "a", "port": 1, "idcode": 1, "reconnect_min": 9.0, "reconnect_max": 1.0, "channels": {"A": "b"}},
        {"host": "a", "port": 1, "idcode": 1, "names": {"1": "x", "2": "x"}},
    ],
    "pmu_send": [
        {"host": "a", "port": 1, "idcode": 1, "devices": {"a": 1}, "nominal": 1.0, "phasors": {"V": "a_w"}},
        {"host": "a", "port": 1, "idcode": 1, "devices": {"a": 1, "b": 1}, "digitals": ("a_bits", "b_raw")},
        {"host": "a", "port": 1, "idcode": 1, "devices": {"a" * 17: 1}, "analogs": {"b" * 17: "a_w"}},
        {"host": "a", "port": 1, "idcode": 1, "devices": {"a": 1}},
    ],
    "samples_udp": [
        {"port": 1, "format": JsonEdgeflex()},
        {"port": 2, "format": VillasJson(signals=(Signal(column="x_v"),)), "columns": ("x_v",), "devices": {"a": "b"}},
        {"port": 3, "format": JsonEdgeflex(), "columns": ("x_v",), "group": "10.0.0.1", "host": "::"},
        {"port": 4, "format": JsonEdgeflex(), "columns": ("x_v",), "group": "239.0.0.1"},
    ],
    "pmu_align": [
        {"min": "5 of 4"},
        {"min": "1 of 2", "devices": ("a", "a", "b")},
        {"min": "1 of 1", "tolerance": 0.01, "rate": 60},
        {"min": "2 of 2", "devices": ("a", "a")},
    ],
    "mqtt_subscribe": [
        {"bus": "b", "topics": ("a#", "#/a", "b"), "device": "a/{meter}"},
        {"bus": "b", "topics": ("a",), "columns": ("x", "x"), "messages": ("alarn", "alarm", "alarm")},
        {"bus": "b", "topics": ("a",), "columns": ("x_v",), "format": VillasJson(signals=(Signal(column="x_v"),))},
        {"bus": "b", "topics": ("+",), "messages": ("alarm",), "qos": 0},
        {"bus": "b", "topics": ("x/+", "y/+"), "columns": ("x_v",), "device": "y/{device}"},
        {"bus": "b", "topics": ("+",), "format": Csv(fields={"u": Channel(column="x_v")}, time="t", time_unit="s")},
    ],
    "mqtt_publish": [
        {"bus": "b", "topic": "a/{devic}/{type!r}"},
        {"bus": "b", "topic": "a/{"},
        {"bus": "b", "topic": "a/+"},
        {"bus": "c", "topic": "a"},
    ],
    "rest": [
        {"url": "ftp://a", "ca": "x"},
        {"url": "http://a", "ca": "x", "auth": Bearer(token="t"), "proxy": "http://p/x"},
        {"url": "http://u:p@a", "certificate": "x", "proxy": "socks5://p"},
        {"url": "http://localhost", "auth": ClientCredentials(token_url="http://b", client_id="i", client_secret="s")},
        {"url": "https://a?b", "auth": ClientCredentials(token_url="b", client_id="i", client_secret="s")},
        {"url": "https://a", "key": "x", "certificate": "y"},
    ],
    "flexoffer_make": [
        {"offered_by": "a", "accept_within": 30.0, "price_min": 0.2, "price_max": 0.1},
        {"offered_by": "b", "assign_within": 90.0, "price_max": -0.3},
        {"offered_by": 201, "start_within": 5.0},
        {"offered_by": "c"},
    ],
    "flexoffer_send": [
        {"api": "a", "path": "b"},
        {"api": "a", "path": "/b", "retry_min": 20.0},
        {"api": "a", "path": "//b", "retry_max": 0.1},
    ],
    "flexoffer_receive": [
        {"api": "a", "path": "b"},
        {"api": "a", "path": "/b", "retry_min": 60.0},
        {"api": "a", "path": "/b?c", "retry_max": 0.1},
    ],
    "link_guard": [
        {"latency_budget": 20.0, "profiles": ("a", "a", "none"), "best_profile": "b", "retry_max": 20.0},
        {"latency_budget": 0.2, "valid_for": 90.0, "retry_max": 40.0, "window": 0.5},
        {"latency_budget": 0.2, "profiles": ("a",), "best_profile": "none"},
    ],
    "link_status": [
        {"api": "a", "owner": "b", "retry_min": 60.0},
        {"api": "a", "owner": "b", "retry_max": 0.1},
        {"api": "a", "owner": "b"},
    ],
    "link_qos": [
        {"api": "a", "owner": "b", "server_ipv4": "10.0.0.1", "retry_min": 20.0},
        {"api": "a", "owner": "b", "server_ipv4": "10.0.0.1", "retry_max": 0.1},
        {"api": "a", "owner": "b", "server_ipv4": "10.0.0.1"},
    ],
    "policy_system": [
        {"url": "https://u@a", "group": "a", "key": "x"},
        {"url": "https://a", "group": "a", "proxy": "http://p/x"},
    ],
    "rest_poll": [
        {"api": "a", "path": "a", "period": 1.0},
        {"api": "a", "path": "/a?b", "period": 1.0, "messages": ("alarn", "alarm", "alarm"), "retry_max": 0.5},
        {"api": "a", "path": "/..", "period": 1.0, "columns": ("p",), "rows": "a..b"},
        {"api": "a", "path": "/a", "period": 1.0, "messages": ("alarm",), "columns": ("p_w",), "device": "{device}"},
        {
            "api": "a",
            "path": "/a",
            "period": 1.0,
            "format": JsonFields(fields={"p": Channel(column="p_w")}, time="t", time_unit="s"),
            "columns": ("p_w",),
        },
        {"api": "a", "path": "/a", "period": 1.0, "format": VillasJson(signals=(Signal(column="p_w"),)), "rows": "x"},
        {"api": "b", "path": "/a", "period": 2.0, "messages": ("alarm",), "retry_min": 61.0},
    ],
    "rest_post": [
        {"api": "a", "path": "/{devic}/{type!r}"},
        {"api": "a", "path": "/{", "retry_max": 0.1},
        {"api": "a", "path": "{device}"},
        {"api": "b", "path": "/a", "retry_min": 31.0},
    ],
    "file_replay": [
        {"path": "a.csv"},
        {"path": "a\0.npz", "messages": ("alarm",)},
        {"path": "a.jsonl", "columns": ("x",)},
        {"path": "a.jsonl", "columns": ("x_v",), "speed": 2.0},
    ],
    "file_write": [{"path": "a\0"}, {"path": "a.txt", "queue": 1}, {"path": "a.txt", "format": "npz"}],
    "store_read": [
        {"store": "s"},
        {"store": "s", "columns": ("x_v",), "begin": "2026", "end": "2026-01-01T00:00:00"},
        {"store": "s", "messages": ("alarm",), "begin": "2026-01-02T00:00:00Z", "end": "2026-01-01T00:00:00Z"},
        {"store": "s", "columns": ("x_v",), "last": 5.0, "end": "2026-01-01T00:00:00Z"},
    ],
    "sqlite": [
        {"path": "a\0"},
        {"path": "a", "synchronous": "full"},
        {"path": "a", "downsample": (Downsampling(every=7.0), Downsampling(every=7.0))},
    ],
    "postgres": [
        {"url": "http://a", "ca": "x", "tls": "off", "password": "p"},
        {"url": "postgresql://u:p@a/b", "certificate": "x", "tls": "require", "ca": "y"},
        {"url": "postgresql://a/b/c", "downsample": (Downsampling(every=7.0),)},
        {"url": "postgresql://a:0/b", "username": "u", "certificate": "x", "key": "y"},
        {"url": "postgresql:///b"},
    ],
    "parquet": [{"path": "a\0"}, {"path": "a", "downsample": (Downsampling(every=7.0),)}],
    "influxdb": [
        {"url": "ftp://a", "database": "d", "ca": "x", "password": "p"},
        {"url": "http://a", "database": "d", "ca": "x", "username": "u"},
        {"url": "https://u:p@a", "database": "d", "downsample": (Downsampling(every=7.0),)},
        {"url": "http://a/path", "database": "d", "username": "u", "password": "p"},
    ],
    "mqtt": [
        {"url": "http://a", "ca": "x", "password": "p"},
        {"url": "mqtt://a", "ca": "x", "key": "y"},
        {"url": "mqtts://a", "certificate": "x", "reconnect_max": 0.1},
        {"url": "mqtt://u@a", "username": "u", "password": "p", "reconnect_min": 60.0},
        {"url": "mqtts://a", "username": "u", "certificate": "x", "key": "y"},
    ],
}


def refusals(config: type[NodeConfig], values: Values) -> list[FieldError]:
    try:
        config(**values)
    except ConfigError as error:
        return list(error.errors)
    return []


def fields_of(error: FieldError) -> set[str]:
    return {name.partition("[")[0].partition(".")[0] for name in error.fields}


PAIRS = [(kind, *pair) for kind, given in GIVEN.items() for pair in itertools.product(given, repeat=2)]


def test_every_kind_that_refuses_values_is_in_the_table() -> None:
    refusing = {kind for kind, config in CONFIGS.items() if config.refusals is not NodeConfig.refusals}
    assert refusing == set(GIVEN)


@pytest.mark.parametrize("kind", GIVEN)
def test_a_refusal_names_fields_that_the_config_has(kind: str) -> None:
    errors = [error for values in GIVEN[kind] for error in refusals(CONFIGS[kind], values)]
    assert errors
    for error in errors:
        assert fields_of(error), error
        assert fields_of(error) <= set(CONFIGS[kind].__struct_fields__)


@pytest.mark.parametrize("kind", GIVEN)
def test_a_config_says_no_refusal_twice(kind: str) -> None:
    for values in GIVEN[kind]:
        texts = [(str(error), error.fields) for error in refusals(CONFIGS[kind], values)]
        assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(("kind", "first", "second"), PAIRS)
def test_a_refusal_rests_on_the_fields_that_it_names_alone(kind: str, first: Values, second: Values) -> None:
    for error in refusals(CONFIGS[kind], first):
        kept = {name: value for name, value in first.items() if name in fields_of(error)}
        others = {name: value for name, value in second.items() if name not in fields_of(error)}
        assert str(error) in [str(each) for each in refusals(CONFIGS[kind], {**others, **kept})]

"""The composition root: every node kind that ships. Nothing else in the engine names operators or connectors."""

from __future__ import annotations

from edgeflex_connectors import (
    file_replay,
    file_write,
    flexoffer_receive,
    flexoffer_send,
    influxdb,
    link_qos,
    link_status,
    mqtt,
    mqtt_publish,
    mqtt_subscribe,
    parquet,
    pmu_client,
    pmu_send,
    pmu_udp,
    policy_read,
    policy_system,
    postgres,
    rest,
    rest_poll,
    rest_post,
    samples_udp,
    sqlite,
    store_read,
    store_write,
)
from edgeflex_flow.node import AnyNode
from edgeflex_flow.registry import Registry, third_party_nodes
from edgeflex_operators import (
    agc,
    convert,
    dispatch,
    event_window,
    flex_request,
    flex_response,
    flexoffer_collect,
    flexoffer_make,
    forecast,
    frequency_droop,
    frequency_event,
    inertia_ambient,
    inertia_event,
    inertia_online,
    link_guard,
    pmu_align,
    requested_event,
    rocof,
    select,
    setpoint_watchdog,
    system_inertia,
    threshold,
    virtual_inertia,
    voltage_control,
    voltage_mpc,
    vpp_dispatch,
)

SHIPPED: tuple[AnyNode, ...] = (
    pmu_udp.NODE,
    pmu_client.NODE,
    samples_udp.NODE,
    mqtt_subscribe.NODE,
    rest_poll.NODE,
    flexoffer_receive.NODE,
    link_status.NODE,
    policy_read.NODE,
    file_replay.NODE,
    pmu_align.NODE,
    store_read.NODE,
    rocof.NODE,
    frequency_event.NODE,
    inertia_online.NODE,
    inertia_ambient.NODE,
    threshold.NODE,
    requested_event.NODE,
    event_window.NODE,
    inertia_event.NODE,
    system_inertia.NODE,
    frequency_droop.NODE,
    virtual_inertia.NODE,
    agc.NODE,
    dispatch.NODE,
    setpoint_watchdog.NODE,
    link_guard.NODE,
    forecast.NODE,
    vpp_dispatch.NODE,
    flex_request.NODE,
    flex_response.NODE,
    flexoffer_make.NODE,
    flexoffer_collect.NODE,
    convert.NODE,
    select.NODE,
    voltage_control.NODE,
    voltage_mpc.NODE,
    mqtt_publish.NODE,
    rest_post.NODE,
    flexoffer_send.NODE,
    link_qos.NODE,
    pmu_send.NODE,
    store_write.NODE,
    file_write.NODE,
    mqtt.NODE,
    rest.NODE,
    policy_system.NODE,
    sqlite.NODE,
    postgres.NODE,
    influxdb.NODE,
    parquet.NODE,
)


def shipped_registry() -> Registry:
    """The kinds that come with edgeflex-flow."""
    return Registry(SHIPPED)


def full_registry() -> tuple[Registry, list[str]]:
    """The kinds that come with edgeflex-flow and those of installed packages, and what is wrong with the latter.

    Raises RegistryError when a kind is given twice.
    """
    nodes, problems = third_party_nodes()
    return Registry([*SHIPPED, *nodes]), problems

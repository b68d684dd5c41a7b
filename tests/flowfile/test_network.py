"""What flows need of the network, told by their plans."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.flowfile import Plan, check_flows
from edgeflex_flow.flowfile.network import BusUser, NotKnownError, Port, bus_users, ports

SITE = """\
site: yard
connections:
  databus: {kind: mqtt, url: "mqtts://bus.example", username: grid, password: "${BUS_PASSWORD}"}
  same: {kind: mqtt, url: "mqtts://bus.example", username: grid, password: "${SAME_PASSWORD:-hunter2}"}
  other: {kind: mqtt, url: "mqtt://other.example:1999"}
  api: {kind: rest, url: "https://api.example/v1", auth: {kind: oauth2, token_url: "https://login.example:8443/t",
        client_id: a, client_secret: b}, proxy: "http://proxy.example:3128"}
"""
FLOW = """\
flow: watch
nodes:
  pmu: {kind: pmu_udp, port: 4713}
  back: {kind: mqtt_subscribe, bus: databus, topics: ["pmu/+/x", "$share/yard/orders/#"], messages: [alarm, crossing]}
  limit: {kind: threshold, from: pmu, column: frequency_hz, above: 50.2}
  tell: {kind: mqtt_publish, from: [limit, back, dead_letters], bus: databus, topic: "yard/{type}/of-{device}"}
  more: {kind: mqtt_publish, from: pmu, bus: other, topic: "pmu/{device}/{type}"}
"""


def plans_of(folder: Path, flow: str = FLOW, site: str = SITE, **environment: str) -> list[Plan]:
    (folder / "flow.yaml").write_text(flow)
    (folder / "site.yaml").write_text(site)
    (checked,) = check_flows(
        [folder / "flow.yaml"], shipped_registry(), site=folder / "site.yaml", environment=environment
    )
    assert [str(problem) for problem in checked.problems] == []
    assert checked.plan is not None
    return [checked.plan]


def test_each_user_publishes_and_receives_what_its_nodes_do(tmp_path: Path) -> None:
    assert bus_users(plans_of(tmp_path, BUS_PASSWORD="hunter2")) == [
        BusUser(
            "databus",
            "mqtts://bus.example",
            "grid",
            "hunter2",
            publish={"yard/alarm/+", "yard/crossing/+", "yard/dead_letter/+"},
            subscribe={"pmu/+/x", "orders/#"},
        ),
        BusUser("other", "mqtt://other.example:1999", None, None, publish={"pmu/+/samples"}),
    ]


def test_password_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert bus_users(plans_of(tmp_path))[0].password is None


def test_password_shows_in_no_text(tmp_path: Path) -> None:
    assert "hunter2" not in repr(bus_users(plans_of(tmp_path, BUS_PASSWORD="hunter2")))


def test_connections_of_one_user_at_one_broker_are_one(tmp_path: Path) -> None:
    users = bus_users(plans_of(tmp_path, FLOW.replace("bus: other", "bus: same"), BUS_PASSWORD="hunter2"))
    assert [user.connection for user in users] == ["databus"]
    assert "pmu/+/samples" in users[0].publish


def test_two_passwords_of_one_user_are_refused(tmp_path: Path) -> None:
    flow = FLOW.replace("bus: other", "bus: same")
    with pytest.raises(ValueError, match="'databus' and 'same' log in as 'grid' with two passwords"):
        bus_users(plans_of(tmp_path, flow, BUS_PASSWORD="another"))


def test_user_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotKnownError, match="connection 'databus': its user is not there"):
        bus_users(plans_of(tmp_path, site=SITE.replace("username: grid", 'username: "${BUS_USER}"', 1)))


def test_topic_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotKnownError, match="node 'more': 'topic' is not there"):
        bus_users(plans_of(tmp_path, FLOW.replace("pmu/{device}/{type}", "${TOPIC}")))


def test_ports_are_those_that_nodes_take_and_those_that_connections_call(tmp_path: Path) -> None:
    flow = FLOW + "  ask: {kind: rest_poll, api: api, path: /a, period: 1s, messages: [alarm]}\n"
    assert ports(plans_of(tmp_path, flow)) == [
        Port("in", "udp", "0.0.0.0", 4713, "", ("watch/pmu",)),
        Port("out", "tcp", "api.example", 443, "https", ("watch/ask (api)",)),
        Port("out", "tcp", "bus.example", 8883, "mqtts", ("watch/back (databus)", "watch/tell (databus)")),
        Port("out", "tcp", "login.example", 8443, "https", ("watch/ask (api)",)),
        Port("out", "tcp", "other.example", 1999, "mqtt", ("watch/more (other)",)),
        Port("out", "tcp", "proxy.example", 3128, "http", ("watch/ask (api)",)),
    ]


@pytest.mark.parametrize(
    ("names", "noted"),
    [
        ("topic_prefix: north/", ["node 'tell': '/vc/pv' is called 'north//vc/pv' at 'databus', with an empty level"]),
        ("topic_prefix: north/, topics: {/vc: vc}", []),
        ("topics: {/vc: /north}", []),
    ],
)
def test_a_topic_that_gets_an_empty_level_by_its_brokers_names_is_noted(
    tmp_path: Path, names: str, noted: list[str]
) -> None:
    (tmp_path / "flow.yaml").write_text(
        "flow: watch\nnodes:\n  pmu: {kind: pmu_udp, port: 4713}\n"
        "  tell: {kind: mqtt_publish, from: pmu, bus: databus, topic: /vc/pv}\n"
        "  more: {kind: mqtt_publish, from: pmu, bus: databus, topic: pmu//x}\n"
    )
    (tmp_path / "site.yaml").write_text(
        f'site: yard\nconnections: {{databus: {{kind: mqtt, url: "mqtt://bus.example", {names}}}}}\n'
    )
    (checked,) = check_flows([tmp_path / "flow.yaml"], shipped_registry(), site=tmp_path / "site.yaml")
    assert checked.problems == ()
    assert [note.partition(": ")[2] for note in checked.notes] == noted

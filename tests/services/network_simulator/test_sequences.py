"""Whatever is asked over HTTP in whatever order: answers are as published, and the network agrees with itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulated_network import SERVER, SimulatedNetwork, gpsi, phone, some_devices

from edgeflex_services.network_simulator.model import id_of

NUMBERS = st.integers(1, 5)
"""Of devices; the network knows no fifth one, and the others only if they were not taken away."""
QOD = "/quality-on-demand/v1/sessions"
ACCESSES = "/dedicated-network-accesses/v0.2rc1/accesses"
REACHABILITY = "/device-reachability-status-subscriptions/v0.9rc1/subscriptions"
NEF = "/3gpp-as-session-with-qos/v1/scs/subscriptions"
LAN = "/3gpp-5glan-pp/v1/af/subscriptions"
OS_ID = "97a498e3-fc92-5c94-8986-0333d06e4e47"
STEPS = st.one_of(
    st.tuples(st.just("qod"), NUMBERS, st.sampled_from(["QOS_E", "QOS_M", "QOS_X"]), st.integers(1, 90_000)),
    st.tuples(st.just("nef"), NUMBERS, st.sampled_from(["QOS_E", "QOS_OLD"])),
    st.tuples(st.just("access"), st.lists(NUMBERS, min_size=1, max_size=5)),
    st.tuples(st.just("add"), st.lists(NUMBERS, min_size=1, max_size=5)),
    st.tuples(st.just("remove"), st.lists(NUMBERS, min_size=1, max_size=5)),
    st.tuples(st.just("lan"), st.lists(NUMBERS, min_size=1, max_size=5), NUMBERS),
    st.tuples(st.just("watch"), NUMBERS, st.sampled_from(["data", "sms", "disconnected"]), st.booleans()),
    st.tuples(st.just("delete"), st.sampled_from([QOD, ACCESSES, REACHABILITY, NEF, LAN])),
    st.tuples(st.just("extend"), st.integers(1, 1000)),
    st.tuples(st.just("terminate")),
    st.tuples(st.just("covered"), st.integers(1, 4), st.booleans()),
    st.tuples(st.just("gone"), st.integers(1, 4)),
    st.tuples(st.just("back"), st.integers(1, 4)),
    st.tuples(st.just("advance"), st.sampled_from([0.1, 30.0, 400.0])),
    st.tuples(st.just("behave"), st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 0.5])),
)


class Client:
    """Takes steps, and remembers what it was given."""

    def __init__(self, network: SimulatedNetwork) -> None:
        self.network = network
        self.paths: dict[str, list[str]] = defaultdict(list)

    def take(self, step: tuple[Any, ...]) -> None:
        getattr(self, step[0])(*step[1:])

    def _ask(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        answer = self.network.ask(method, path, body, **more)
        assert answer.status_code < 500, answer.text
        return answer.json() if answer.content else {}

    def qod(self, number: int, profile: str, duration_s: int) -> None:
        body = {
            "device": phone(number),
            "applicationServer": {"ipv4Address": SERVER},
            "qosProfile": profile,
            "duration": duration_s,
            "sink": self.network.where("/qod"),
        }
        if "sessionId" in (told := self._ask("POST", QOD, body)):
            self.paths[QOD].append(f"{QOD}/{told['sessionId']}")

    def nef(self, number: int, profile: str) -> None:
        body = {
            "notificationDestination": self.network.where("/qos"),
            "ueIpv4Addr": f"10.0.0.{number}",
            "exterAppId": "pmu",
            "qosReference": profile,
        }
        self._remember(NEF, self._ask("POST", NEF, body))

    def access(self, numbers: list[int]) -> None:
        network_id = id_of("network", "grid")
        body = {"networkId": network_id, "devices": [phone(each) for each in numbers], "sink": self.network.where("/a")}
        if "id" in (told := self._ask("POST", ACCESSES, body)):
            self.paths[ACCESSES].append(f"{ACCESSES}/{told['id']}")

    def add(self, numbers: list[int]) -> None:
        for path in self.paths[ACCESSES][-1:]:
            self._ask("POST", f"{path}/devices/add", {"devices": [phone(each) for each in numbers]})

    def remove(self, numbers: list[int]) -> None:
        for path in self.paths[ACCESSES][-1:]:
            self._ask("POST", f"{path}/devices/remove", {"devices": [phone(each) for each in numbers]})
            assert len(self._ask("GET", f"{path}/devices")["items"]) <= 4

    def lan(self, numbers: list[int], other: int) -> None:
        parameters = {
            "exterGroupId": "pmus@grid.example",
            "gpsis": {gpsi(each): gpsi(each) for each in numbers},
            "dnn": "grid",
            "snssai": {"sst": 1},
            "sessionType": "IPV4",
            "appDesps": {OS_ID: {"osId": OS_ID, "appIds": {"pmu": "pmu"}}},
        }
        self._remember(LAN, self._ask("POST", LAN, {"5gLanParams": parameters, "suppFeat": "0"}))
        for path in self.paths[LAN]:
            change = {"5gLanParamsPatch": {"gpsis": {gpsi(other): gpsi(other), gpsi(numbers[0]): None}}}
            self._ask("PATCH", path, change, media="application/merge-patch+json")
            self._ask("GET", path)

    def watch(self, number: int, event: str, at_once: bool) -> None:
        body = {
            "sink": self.network.where("/watch"),
            "protocol": "HTTP",
            "types": [f"org.camaraproject.device-reachability-status-subscriptions.v0.reachability-{event}"],
            "config": {
                "subscriptionDetail": {"device": phone(number)},
                "subscriptionMaxEvents": 2,
                "initialEvent": at_once,
            },
        }
        is_known = any(each["gpsi"] == gpsi(number) for each in self.network.everything()["devices"])
        told = self._ask("POST", REACHABILITY, body, is_listed=is_known)
        if "id" in told:
            self.paths[REACHABILITY].append(f"{REACHABILITY}/{told['id']}")

    def delete(self, kind: str) -> None:
        if self.paths[kind]:
            self._ask("DELETE", self.paths[kind].pop())

    def extend(self, seconds: int) -> None:
        for path in self.paths[QOD]:
            self._ask("POST", f"{path}/extend", {"requestedAdditionalDuration": seconds})

    def terminate(self) -> None:
        for each in self.network.everything()["sessions"][:1]:
            self.network.http.post(f"/simulation/sessions/{each['id']}/terminate").raise_for_status()

    def covered(self, number: int, covered: bool) -> None:
        body = {"link": {"covered": covered}}
        self.network.http.patch(f"/simulation/devices/{gpsi(number)}", json=body)

    def gone(self, number: int) -> None:
        self.network.http.delete(f"/simulation/devices/{gpsi(number)}")

    def back(self, number: int) -> None:
        device = {"msisdn": gpsi(number).removeprefix("msisdn-"), "ipv4_address": f"10.0.0.{number}"}
        self.network.http.put(f"/simulation/devices/{gpsi(number)}", json=device)

    def advance(self, seconds: float) -> None:
        self.network.advance(seconds)

    def behave(self, delay_s: float, refuse_share: float) -> None:
        self.network.behave(grant_delay_s=delay_s, refuse_share=refuse_share)

    def _remember(self, kind: str, told: dict[str, Any]) -> None:
        if "self" in told:
            self.paths[kind].append(str(told["self"]).removeprefix(self.network.url))

    def leave(self) -> None:
        """Take away what is left."""
        for kind in list(self.paths):
            while self.paths[kind]:
                self.delete(kind)


def check(told: dict[str, Any]) -> None:
    """That the parts of the network agree."""
    in_force = Counter((each["gpsi"], each["profile"]) for each in told["sessions"] if each["state"] == "available")
    assert in_force == Counter((each["gpsi"], name) for each in told["devices"] for name in each["profiles"])
    for each in told["sessions"]:
        assert each["state"] != "available" or (each["expires_ns"] or told["time_ns"] + 1) > told["time_ns"]
        assert (each["state"] == "ended") == (each["reason"] is not None)
    members = sum(
        status != "DENIED"
        for each in told["groups"]
        if each["network_id"] is not None
        for status in each["members"].values()
    )
    assert members == told["networks"][0]["members"]
    known = {each["gpsi"] for each in told["devices"]}
    granted = {name for each in told["groups"] for name, status in each["members"].items() if status != "DENIED"}
    assert granted <= known
    assert all(each["events"] <= 2 for each in told["watches"])
    assert all(each["gpsi"] in known for each in told["watches"] if each["state"] == "active")


@pytest.fixture(scope="module")
def one_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedNetwork]:
    folder: Path = tmp_path_factory.mktemp("network")
    with SimulatedNetwork(folder, some_devices(4)) as running:
        yield running


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(STEPS, min_size=5, max_size=40))
def test_the_network_agrees_with_itself_whatever_is_asked(
    one_network: SimulatedNetwork, steps: list[tuple[Any, ...]]
) -> None:
    client = Client(one_network)
    for number in range(1, 5):
        client.back(number)
    for step in steps:
        client.take(step)
        check(one_network.everything())
    client.leave()
    one_network.behave()
    one_network.advance(1000)
    told = one_network.everything()
    check(told)
    assert not told["groups"]
    assert not [each for each in told["sessions"] if each["state"] != "ended"]

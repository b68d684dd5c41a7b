"""Each field of a policy of the kind `flexibility`, saved in a real policy system, changes what the flow offers."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from broker import Listener, Mosquitto, wait_until
from flexibility_site import site_with_policies
from flexoffers import request
from flow_files import FLOWS, RunningFlow
from http_service import HttpService, json_reply
from served_policies import ServedPolicies

from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.flowfile import load_flow
from edgeflex_flow.messages import FlexOffer, encode_message
from edgeflex_flow.units import NS_PER_S
from edgeflex_services.policy_system.documents import FlexibilityFields

pytestmark = [pytest.mark.long, pytest.mark.needs("mosquitto")]

PATHS = ("/api/v1/edgeflex/offers", "/markets/tso/offers")
STEPS = 4
POWER_KW = 5.0


@dataclass
class Offering:
    """The flow, what it follows and whom it offers to."""

    flow: RunningFlow
    policies: ServedPolicies
    market: HttpService
    bus: Listener
    versions: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def say(self, **said: str | float) -> None:
        """Save these fields and no others; the flow follows when this ends."""
        fields = {name: each if isinstance(each, str) else of_day(each) for name, each in said.items()}
        version = next(self.versions)
        document = {"kind": "flexibility", "fields": fields}
        self.policies.save("flexibility", document, based_on=version - 1)
        for node in ("offers", "fates"):
            bound = next(each.policies for each in self.flow.run.plan.nodes if each.id == node)
            wanted = {each.key: str(version) if each.field in fields else "default" for each in bound.values()}
            wait_until(lambda node=node, wanted=wanted: self.flow.run.in_force[node].policies == wanted)  # type: ignore[misc]

    def ask(self, power_kw: float = POWER_KW) -> list[FlexOffer]:
        """What is made of a request of an hour for one node."""
        now_ns = time.time_ns()
        asked = request([(power_kw,)] * STEPS, nodes=(24,), id=f"q{now_ns}", time_ns=now_ns, begin_ns=now_ns)
        self.bus.publish("/edgeflex/goflex/flex_request", encode_message(asked))
        made: list[FlexOffer] = []

        def came() -> bool:
            made[:] = [each for each in self.flow.given["offers"] if isinstance(each, FlexOffer)]
            made[:] = [each for each in made if each.request_id == asked.id]
            return bool(made)

        wait_until(came)
        return made


@pytest.fixture(scope="module")
def offering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Offering]:
    folder = tmp_path_factory.mktemp("offering")
    (folder / "broker").mkdir()
    with (
        ServedPolicies(folder / "policy") as served,
        Mosquitto(folder / "broker") as broker,
        HttpService() as market,
        Listener(broker, "none") as bus,
    ):
        served.make_group()
        for path in PATHS:
            market.answers(path, json_reply([]))
        site = site_with_policies(folder, served)
        params = {"mqtt_port": broker.port, "data_folder": folder, "market_port": market.port}
        with RunningFlow(FLOWS / "flexibility.yaml", site, **params, log_file=folder / "log.jsonl") as flow:
            yield Offering(flow, served, market, bus)
        assert flow.error is None


def of_day(from_now_s: float) -> str:
    return time.strftime("%H:%M", time.gmtime(time.time() + from_now_s))


def after_s(offer: FlexOffer, name: str) -> float:
    assert offer.created_ns is not None
    return float((getattr(offer, name) - offer.created_ns) / NS_PER_S)


def only(offers: list[FlexOffer]) -> FlexOffer:
    [offer] = offers
    return offer


def states(offers: list[FlexOffer]) -> list[tuple[str, int]]:
    return [(each.state, len(each.slices)) for each in offers]


EFFECTS: dict[str, tuple[dict[str, str | float], Callable[[list[FlexOffer]], Any], Any, Any]] = {
    "endpoint": ({"endpoint": PATHS[1]}, lambda made: only(made).endpoint, *PATHS),
    "max_duration": ({"max_duration": "30 min"}, states, [("initial", 4)], [("initial", 2), ("invalid", 2)]),
    "min_duration": ({"min_duration": "2 h"}, states, [("initial", 4)], [("invalid", 4)]),
    "window_begin": (
        {"window_begin": 600.0, "window_end": 70_000.0},
        states,
        [("initial", 4)],
        [("invalid", 1), ("initial", 3)],
    ),
    "window_end": (
        {"window_begin": -3600.0, "window_end": 2300.0},
        states,
        [("initial", 4)],
        [("initial", 2), ("invalid", 2)],
    ),
    "accept_within": ({"accept_within": "5 s"}, lambda made: after_s(only(made), "accept_before_ns"), 10.0, 5.0),
    "assign_within": ({"assign_within": "15 s"}, lambda made: after_s(only(made), "assign_before_ns"), 20.0, 15.0),
    "start_within": ({"start_within": "2 h"}, lambda made: after_s(only(made), "start_before_ns"), 60.0, 7200.0),
    "min_power": ({"min_power": "6 kW"}, states, [("initial", 4)], []),
    "max_power": (
        {"max_power": "3 kW"},
        lambda made: [(each.state, each.slices[0].upper_kwh) for each in made],
        [("initial", 1.25)],
        [("initial", 0.75), ("invalid", 0.5)],
    ),
    "price_min": (
        {"price_min": "-90 EUR/MWh"},
        lambda made: only(made).slices[0].price_min_eur_per_kwh,
        0.0,
        pytest.approx(-0.09),
    ),
    "price_max": (
        {"price_max": "90 EUR/MWh"},
        lambda made: only(made).slices[0].price_max_eur_per_kwh,
        0.0,
        pytest.approx(0.09),
    ),
}
"""By field: what a policy says (a number: the time of day so many seconds from now), what to look at, and what stands
there by default and by the policy."""


def test_the_flow_reads_every_field_that_a_policy_of_the_kind_may_have() -> None:
    plan = load_flow(FLOWS / "flexibility.yaml", shipped_registry(), site=FLOWS / "sites" / "local.yaml")
    bound = {binding.field for node in plan.nodes for binding in node.policies.values()}
    assert bound == set(FlexibilityFields.__struct_fields__) == set(EFFECTS)


@pytest.mark.parametrize("name", [name for name in EFFECTS if name != "min_power"])
def test_a_field_of_the_policy_changes_the_offers(offering: Offering, name: str) -> None:
    fields, look, by_default, by_policy = EFFECTS[name]
    offering.say()
    assert look(offering.ask()) == by_default
    offering.say(**fields)
    assert look(offering.ask()) == by_policy


def test_power_below_the_least_is_not_offered(offering: Offering) -> None:
    offering.say(**EFFECTS["min_power"][0])
    assert {each.location for each in offering.ask(7.0)} == {"24"}
    made = offering.flow.count("offers", "messages_out")
    answered = offering.flow.count("answers", "messages_out")
    now_ns = time.time_ns()
    little = request([(POWER_KW,)], nodes=(24,), id="little", time_ns=now_ns, begin_ns=now_ns)
    offering.bus.publish("/edgeflex/goflex/flex_request", encode_message(little))
    wait_until(lambda: offering.flow.count("answers", "messages_out") > answered)
    assert offering.flow.count("offers", "messages_out") == made


def test_offers_go_to_the_endpoint_that_the_policy_names_and_are_looked_for_there(offering: Offering) -> None:
    for path in (PATHS[1], PATHS[0]):
        offering.say(endpoint=path)
        offer = only(offering.ask())

        def posted(path: str = path, offer: FlexOffer = offer) -> bool:
            sent = [each for each in offering.market.of(path) if each.method == "POST"]
            return offer.id in [each.json["id"] for each in sent]

        wait_until(posted)
        asked = len(offering.market.of(path))
        wait_until(lambda path=path, asked=asked: len(offering.market.of(path)) > asked)  # type: ignore[misc]
        assert offering.market.requests[-1].path == path


def test_an_endpoint_that_the_flow_does_not_allow_changes_nothing(offering: Offering) -> None:
    offering.say(endpoint=PATHS[1])
    offering.policies.save(
        "flexibility",
        {"kind": "flexibility", "fields": {"endpoint": "/admin/offers"}},
        based_on=next(offering.versions) - 1,
    )
    for node in ("offers", "fates"):
        wait_until(lambda node=node: node in offering.flow.run.refusals and offering.flow.run.refusals[node])  # type: ignore[misc]
    assert only(offering.ask()).endpoint == PATHS[1]

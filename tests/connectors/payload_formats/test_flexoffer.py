"""FlexOffers in the dialects of the edgeFLEX platform, of INEA and of GOFLEX."""

from __future__ import annotations

import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from flexoffers import START_NS, a_schedule, an_offer, offers
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from payload_cases import WILD_JSON

from edgeflex_connectors.payload_formats import FlexOfferFormat
from edgeflex_connectors.payload_formats.flexoffer import decode_offers, encode_offer, encode_offers
from edgeflex_connectors.payloads import PayloadDecoder, PayloadEncoder
from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.flexoffer import violations
from edgeflex_flow.messages import Alarm, FlexOffer, FlexSlice, encode_message, samples_from_rows
from edgeflex_flow.units import NS_PER_S

EDGEFLEX, INEA, GOFLEX = (FlexOfferFormat(dialect=name) for name in ("edgeflex", "inea", "goflex"))
NUMBERS = st.integers(0, 2**53).map(str)
DATE_TIME = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$"}
SCHEDULE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["startTime", "scheduleSlices"],
    "properties": {
        "startTime": DATE_TIME,
        "scheduleSlices": {"type": "array", "items": {"type": "object", "required": ["energyAmount"]}},
    },
}
# The FlexOffer specification's table of attributes, with the convention of this project.
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["id", "state", "offeredById", "creationTime", "startBeforeTime", "flexOfferProfileConstraints"],
    "properties": {
        "id": {"type": "string"},
        "state": {
            "enum": ["initial", "offered", "accepted", "rejected", "assigned", "executed", "invalid", "canceled"]
        },
        "offeredById": {"type": "string"},
        "locationId": {"type": "string"},
        "numSecondsPerInterval": {"type": "integer", "minimum": 1},
        "flexOfferProfileConstraints": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["energyConstraintList"],
                "properties": {
                    "minDuration": {"type": "integer", "minimum": 1},
                    "maxDuration": {"type": "integer", "minimum": 1},
                    "energyConstraintList": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "required": ["lowerBound", "upperBound"],
                            "properties": {"lowerBound": {"type": "number"}, "upperBound": {"type": "number"}},
                        },
                    },
                    "priceConstraint": {"properties": {"minPrice": {"type": "number"}, "maxPrice": {"type": "number"}}},
                },
            },
        },
        "totalEnergyConstraint": {"properties": {"lower": {"type": "number"}, "upper": {"type": "number"}}},
        "defaultSchedule": SCHEDULE_SCHEMA,
        "flexOfferSchedule": SCHEDULE_SCHEMA,
    }
    | dict.fromkeys(
        ("creationTime", "acceptBeforeTime", "assignmentBeforeTime", "startAfterTime", "startBeforeTime"), DATE_TIME
    ),
}


def again(form: FlexOfferFormat, offer: FlexOffer) -> FlexOffer:
    [back] = decode_offers(form, encode_offer(form, offer))
    return back


@given(offers())
def test_our_own_dialect_loses_nothing_and_keeps_its_schema(offer: FlexOffer) -> None:
    assert again(EDGEFLEX, offer) == offer
    jsonschema.validate(json.loads(encode_offer(EDGEFLEX, offer)), SCHEMA)


@given(offers(tick_ns=NS_PER_S, ids=NUMBERS))
def test_ineas_dialect_loses_nothing_that_it_can_say(offer: FlexOffer) -> None:
    assert again(INEA, offer) == offer


@given(offers(tick_ns=1_000_000))
def test_dialect_of_goflex_loses_nothing_that_it_can_say(offer: FlexOffer) -> None:
    assert again(GOFLEX, offer) == offer


@given(st.lists(offers(tick_ns=NS_PER_S, ids=NUMBERS), max_size=4), st.sampled_from([EDGEFLEX, INEA, GOFLEX]))
def test_many_offers_are_read_as_they_were_written(many: list[FlexOffer], form: FlexOfferFormat) -> None:
    assert decode_offers(form, encode_offers(form, many)) == many


@given(offers(tick_ns=NS_PER_S, ids=NUMBERS))
def test_a_dialect_read_by_another_sign_offers_the_opposite(offer: FlexOffer) -> None:
    other = FlexOfferFormat(dialect="inea", positive="consumption")
    [read] = decode_offers(other, encode_offer(INEA, offer))
    assert [(-each.upper_kwh, -each.lower_kwh) for each in read.slices] == [
        (each.lower_kwh, each.upper_kwh) for each in offer.slices
    ]
    assert again(other, offer) == offer


# A quarter of an hour of production in each, 1 to 3 kWh.
ONE = an_offer(id="17", slices=(FlexSlice(lower_kwh=1.0, upper_kwh=3.0, price_max_eur_per_kwh=0.15),))


def test_inea_writes_whole_ids_and_seconds_in_a_wrapper_with_production_positive() -> None:
    content = json.loads(encode_offer(INEA, ONE))
    assert list(content) == ["flexOffer"]
    assert content["flexOffer"][0] == {
        "id": 17,
        "state": "Offered",
        "offeredById": 201,
        "locationId": "24",
        "creationTime": "2023-11-14T22:14:00Z",
        "acceptBeforeTime": "2023-11-14T22:14:20Z",
        "assignmentBeforeTime": "2023-11-14T22:14:40Z",
        "startAfterTime": "2023-11-14T22:15:00Z",
        "startBeforeTime": "2023-11-14T22:15:00Z",
        "numSecondsPerInterval": 900,
        "flexOfferProfileConstraints": [
            {
                "minDuration": 1,
                "maxDuration": 1,
                "energyConstraintList": [{"lowerBound": 1.0, "upperBound": 3.0}],
                "tariffConstraint": {"maxTariff": 0.15},
            }
        ],
    }


def test_goflex_writes_milliseconds_and_consumption_positive() -> None:
    content = json.loads(encode_offer(GOFLEX, replace(ONE, total_lower_kwh=1.5, schedule=a_schedule(2.0))))
    assert content["acceptanceBeforeTime"] == "2023-11-14T22:14:20.000+0000"
    assert content["flexOfferProfileConstraints"][0]["energyConstraintList"] == [{"lower": -3.0, "upper": -1.0}]
    assert content["totalEnergyConstraint"] == {"upper": -1.5}
    assert content["flexOfferSchedule"]["scheduleSlices"] == [{"duration": 1, "energyAmount": -2.0}]
    assert content["locationId"] == {"24": None}
    assert content["state"] == "Offered"


def test_example_of_the_specification_is_read_though_its_bounds_are_the_wrong_way_round() -> None:
    content = {
        "flexOffer": [
            {
                "id": "17",
                "state": "offered",
                "stateReason": "initial offer",
                "creationTime": "2017-01-22T05:00:00Z",
                "offeredById": "1023",
                "acceptBeforeTime": "2017-01-22T07:45:00Z",
                "assignmentBeforeTime": "2017-01-22T22:45:00Z",
                "startAfterTime": "2017-01-22T09:00:00Z",
                "startBeforeTime": "2017-02-11T22:00:00Z",
                "numSecondsPerInterval": 900,
                "flexOfferProfileConstraints": [
                    {
                        "minDuration": 1,
                        "maxDuration": 1,
                        "energyConstraintList": [{"lowerBound": -5.1, "upperBound": -16.89}],
                        "tariffConstraint": {"minTariff": 0.03, "maxTariff": 0.03},
                    },
                    {
                        "energyConstraintList": [{"lowerBound": -5.1, "upperBound": "6.89"}],
                        "priceConstraint": {"minPrice": "0.03", "maxPrice": 0.15},
                    },
                ],
                "defaultSchedule": {
                    "startTime": "2017-01-22T22:45:00Z",
                    "scheduleSlices": [{"duration": 1, "energyAmount": -6, "tariff": 1}, {"energyAmount": "0"}],
                },
            }
        ]
    }
    [offer] = decode_offers(INEA, json.dumps(content).encode())
    assert [(each.lower_kwh, each.upper_kwh) for each in offer.slices] == [(-16.89, -5.1), (-5.1, 6.89)]
    assert [each.price_max_eur_per_kwh for each in offer.slices] == [0.03, 0.15]
    assert offer.default_schedule is not None
    assert [each.energy_kwh for each in offer.default_schedule.slices] == [-6.0, 0.0]
    assert list(violations(offer)) == []


def test_answer_of_kibernet_with_a_schedule_alone_is_an_assignment() -> None:
    content = [
        {
            "id": 123,
            "flexOfferSchedule": {
                "scheduleId": 4,
                "startTime": "2023-03-30T18:00:00Z",
                "scheduleSlices": [{"duration": 1, "energyAmount": "-13342.610307504", "tariff": 0.158}],
            },
        }
    ]
    [offer] = decode_offers(INEA, json.dumps(content).encode())
    assert (offer.id, offer.state, offer.slices) == ("123", "assigned", ())
    assert offer.schedule is not None
    assert offer.schedule.slices[0].energy_kwh == -13342.610307504
    assert offer.schedule.slices[0].price_eur_per_kwh == 0.158


def test_agent_of_goflex_that_is_in_adaptation_is_assigned() -> None:
    content = {
        "id": "4188a132",
        "state": "InAdaptation",
        "locationId": {"userLocation": {"longitude": 9.9}},
        "correct": 1,
    }
    [offer] = decode_offers(GOFLEX, json.dumps(content).encode())
    assert (offer.state, offer.location) == ("assigned", "userLocation")


RIGHT: dict[str, Any] = json.loads(encode_offer(EDGEFLEX, ONE))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"id": ""}, "`id`: an offer has one"),
        ({"state": "gone"}, "`state`: expected one of initial, offered,.*got 'gone'"),
        ({"state": None}, "`state`: nothing, and no schedule either"),
        ({"creationTime": "yesterday"}, "`creationTime`: expected a time"),
        ({"numSecondsPerInterval": 0}, "`numSecondsPerInterval`: expected a whole number from 1 to 86400; got 0"),
        ({"flexOfferProfileConstraints": [{"energyConstraintList": []}]}, "one constraint a slice; got 0"),
        ({"flexOfferProfileConstraints": [{"energyConstraintList": [{"lower": 1}]}]}, "both bounds"),
        (
            {"flexOfferProfileConstraints": [{"energyConstraintList": [{"lower": "x", "upper": 1}]}]},
            r"`flexOfferProfileConstraints\[0\].lowerBound`: expected a number; got 'x'",
        ),
        ({"flexOfferSchedule": {"startTime": "", "scheduleSlices": []}}, "`flexOfferSchedule.startTime`"),
        ({"flexOfferProfilType": "voltage"}, "`flexOfferProfilType`: expected activeEnergy or reactiveEnergy"),
        ({"totalEnergyConstraint": {"lower": "inf"}}, "`totalEnergyConstraint.lowerBound`: expected a number"),
        ({"totalEnergyConstraint": {"lower": "1_000"}}, "`totalEnergyConstraint.lowerBound`: expected a number"),
        ({"totalEnergyConstraint": {"lower": "\u0663"}}, "`totalEnergyConstraint.lowerBound`: expected a number"),
    ],
)
def test_what_is_wrong_is_told(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(BadMessageError, match=text) as caught:
        decode_offers(EDGEFLEX, json.dumps({**RIGHT, **changes}).encode())
    assert caught.value.reason == "bad_payload"


def test_what_a_dialect_cannot_say_is_not_written() -> None:
    # As they would come back, these would be other ids.
    for text in ("x", "007", "-0", "+7", "\u0663", "1_0", "9" * 50):
        with pytest.raises(ValueError, match="`id`: a whole number in this dialect; got"):
            encode_offer(INEA, replace(ONE, id=text))
    reactive = replace(ONE, quantity="reactive_energy")
    assert again(EDGEFLEX, reactive) == reactive
    with pytest.raises(ValueError, match="the dialect goflex has no reactive energy"):
        encode_offer(GOFLEX, reactive)


def test_offers_are_messages_on_a_databus_too() -> None:
    encoder, decoder = PayloadEncoder(GOFLEX), PayloadDecoder(GOFLEX, (), (FlexOffer,), None)
    [payload] = encoder.encode_message(ONE)
    assert decoder.decode("offers", payload) == ONE
    assert decoder.decode("offers", encode_message(ONE)) == ONE
    assert encoder.encode_message(Alarm(source="n", severity="info", text="x", time_ns=START_NS)) == []
    with pytest.raises(BadMessageError, match="expected one offer, got 2"):
        decoder.decode("offers", json.dumps({"flexOffer": [RIGHT, RIGHT]}).encode())
    with pytest.raises(ValueError, match="`flexoffer` holds no samples"):
        encoder.encode(samples_from_rows([(1, "G1", {"active_power_w": 1.0})]))


@given(WILD_JSON | st.binary(max_size=30))
def test_nothing_but_a_bad_message_comes_of_wild_payloads(payload: bytes) -> None:
    try:
        decode_offers(EDGEFLEX, payload)
    except BadMessageError as error:
        assert error.reason == "bad_payload"  # noqa: PT017 - any other exception fails the test

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeflex_connectors.topics import PLATFORM, TopicMap, to_markdown

SEED = [
    "/voltage_control/measuremnts/voltage",
    "/voltage_control/measuremnts/pv",
    "/voltage_control/control/active_power",
    "/voltage_control/control/reactive_power",
    "/voltage_control/control/active_power_ESS",
]
"""As edgeFLEX D4.3, section 6.3, writes them."""

LEVELS = st.lists(st.sampled_from(["edgeflex", "a", "b", "north", "", "é"]), min_size=1, max_size=4).map("/".join)


def test_topics_of_the_platform_are_those_of_its_components() -> None:
    assert [topic.name for topic in PLATFORM][:5] == SEED


def test_names_and_aliases_are_unique() -> None:
    names = [name for topic in PLATFORM for name in (topic.name, *topic.aliases)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("topic", SEED)
def test_topics_of_the_platform_go_out_as_they_are(topic: str) -> None:
    assert TopicMap().outward(topic) == topic


def test_alias_goes_out_under_the_name_of_the_platform() -> None:
    assert TopicMap().outward("/voltage_control/measurements/voltage") == "/voltage_control/measuremnts/voltage"
    assert TopicMap().filter_outward("$share/g/voltage_control/x") == "$share/g/voltage_control/x"


@pytest.mark.parametrize(
    ("names", "topic", "there"),
    [
        (TopicMap("north/"), "edgeflex/a", "north/edgeflex/a"),
        (TopicMap("north"), "/voltage_control/measuremnts/pv", "north/voltage_control/measuremnts/pv"),
        (TopicMap(names={"edgeflex/demo": "grid"}), "edgeflex/demo/a", "grid/a"),
        (TopicMap(names={"edgeflex/demo": "grid"}), "edgeflex/demo2/a", "edgeflex/demo2/a"),
        (TopicMap(names={"edgeflex": "e", "edgeflex/demo": "d"}), "edgeflex/demo", "d"),
        (TopicMap("u/", {"/voltage_control/measuremnts": "vc/m"}), "/voltage_control/measurements/pv", "u/vc/m/pv"),
    ],
)
def test_topics_get_the_brokers_names_and_come_back(names: TopicMap, topic: str, there: str) -> None:
    assert names.outward(topic) == there
    assert names.inward(there) == topic.replace("measurements", "measuremnts")


def test_shared_subscription_keeps_its_group_in_front() -> None:
    assert TopicMap("u/").filter_outward("$share/pair/edgeflex/+") == "$share/pair/u/edgeflex/+"


@given(LEVELS, st.sampled_from(["", "u/", "x"]))
def test_prefix_is_taken_off_again(topic: str, prefix: str) -> None:
    names = TopicMap(prefix)
    assert names.inward(names.outward(topic)) == topic


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (TopicMap("a/#"), "holds no wildcards"),
        (TopicMap(names={"a/+": "b"}), "holds no wildcards"),
        (TopicMap(names={"a": "b/+"}), "holds no wildcards"),
        (TopicMap(names={"a/": "b"}), "without '/' at the end"),
        (TopicMap(names={"a": ""}), "without '/' at the end"),
        (TopicMap(names={"a": "x", "b": "x"}), "one name to two topics"),
    ],
)
def test_maps_that_cannot_be_turned_round_are_refused(names: TopicMap, complaint: str) -> None:
    assert any(complaint in str(error) for error in names.refusals())


def test_page_of_topics_is_made_from_the_module() -> None:
    page = Path(__file__).parents[2] / "docs" / "topics.md"
    assert page.read_text() == to_markdown(), "run `python -m edgeflex_connectors.topics > docs/topics.md`"

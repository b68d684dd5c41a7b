from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

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
    assert TopicMap().filters_outward("$share/g/voltage_control/x") == ("$share/g/voltage_control/x",)


@pytest.mark.parametrize(
    ("names", "topic", "there"),
    [
        (TopicMap("north/"), "edgeflex/a", "north/edgeflex/a"),
        (TopicMap("north/"), "/voltage_control/measuremnts/pv", "north//voltage_control/measuremnts/pv"),
        (
            TopicMap("north/", {"/voltage_control": "vc"}),
            "/voltage_control/control/active_power",
            "north/vc/control/active_power",
        ),
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
    assert TopicMap("u/").filters_outward("$share/pair/edgeflex/+") == ("$share/pair/u/edgeflex/+",)


@pytest.mark.parametrize(
    ("names", "topic_filter", "there"),
    [
        ({"pmu/G1": "gen1"}, "pmu/+", ("u/pmu/+", "u/gen1")),
        ({"pmu/G1": "gen1"}, "pmu/+/data", ("u/pmu/+/data", "u/gen1/data")),
        ({"pmu/G1": "gen1"}, "pmu/#", ("u/pmu/#", "u/gen1/#")),
        ({"pmu": "p", "pmu/G1": "gen1"}, "pmu/+", ("u/p/+", "u/gen1")),
        ({"pmu": "p", "pmu/G1": "gen1"}, "+/G1", ("u/+/G1", "u/gen1")),
        ({"pmu/G1": "gen1"}, "#", ("u/#",)),
        ({"pmu/G1": "pmu/one"}, "pmu/+", ("u/pmu/+",)),
        ({"pmu/G1": "gen1"}, "+", ("u/+",)),
        ({"pmu/G1": "gen1"}, "event/+", ("u/event/+",)),
        ({"pmu/G1": "gen1"}, "pmu/G1", ("u/gen1",)),
    ],
)
def test_filter_stands_for_all_names_of_what_its_wildcards_cover(
    names: dict[str, str], topic_filter: str, there: tuple[str, ...]
) -> None:
    assert TopicMap("u/", names).filters_outward(topic_filter) == there


def test_filter_of_aliases_stands_for_the_names_of_the_platform() -> None:
    assert TopicMap().filters_outward("/voltage_control/measurements/+") == (
        "/voltage_control/measurements/+",
        "/voltage_control/measuremnts/voltage",
        "/voltage_control/measuremnts/pv",
    )
    assert TopicMap().filters_outward("/voltage_control/#") == ("/voltage_control/#",)


MORE_LEVELS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4).map("/".join)
FILTERS = st.lists(st.sampled_from(["a", "b", "+", "#"]), min_size=1, max_size=4).map(
    lambda levels: "/".join(levels).partition("#")[0] + ("#" if "#" in levels else "")
)


@given(FILTERS, MORE_LEVELS, st.dictionaries(MORE_LEVELS, MORE_LEVELS, max_size=3), st.sampled_from(["", "u/"]))
def test_filter_covers_the_names_of_all_its_topics(
    topic_filter: str, topic: str, names: dict[str, str], prefix: str
) -> None:
    there = TopicMap(prefix, names)
    if topic_matches_sub(topic_filter, topic):
        assert any(topic_matches_sub(each, there.outward(topic)) for each in there.filters_outward(topic_filter))


@given(LEVELS, st.sampled_from(["", "u/", "u/v/", "/"]))
def test_prefix_is_taken_off_again(topic: str, prefix: str) -> None:
    names = TopicMap(prefix)
    assert names.inward(names.outward(topic)) == topic


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (TopicMap("a/#/"), "holds no wildcards"),
        (TopicMap("north"), "must end with '/': else 'pmu/G1' would be called 'northpmu/G1' there"),
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

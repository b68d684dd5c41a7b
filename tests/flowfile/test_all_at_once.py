"""No error hides another, and none is a mere consequence of another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from flow_kinds import FLOW, SITE, never_opened
from msgspec import Meta

from edgeflex_flow.errors import FieldError
from edgeflex_flow.flowfile import CheckedFlow, check_flow
from edgeflex_flow.node import NodeConfig, SourceNode, Wire, samples_wire
from edgeflex_flow.registry import Registry

Check = Callable[..., CheckedFlow]


class BandConfig(NodeConfig, frozen=True, kw_only=True):
    """Refuses its values in every way."""

    low: Annotated[int, Meta(ge=0, description="Lower end.")] = 1
    high: Annotated[int, Meta(ge=0, description="Upper end.")] = 2
    names: Annotated[tuple[Annotated[str, Meta(max_length=9)], ...], Meta(description="Names.")] = ()
    gains: Annotated[dict[str, float], Meta(description="Gains by name.")] = msgspec.field(default_factory=dict)
    word: Annotated[str, Meta(description="Some word.")]

    def refusals(self) -> Iterator[FieldError]:
        if self.low >= self.high:
            yield FieldError("low is not below high", "low", "high", got=f"{self.low} and {self.high}")
        for place, name in enumerate(self.names):
            if name == "bad":
                yield FieldError("a bad name", f"names[{place}]", known=["good"], nearest="good")
        for name, gain in self.gains.items():
            if gain < 0:
                yield FieldError("a negative gain", f"gains.{name}")
        if self.word == "secret":
            yield FieldError("a word that is no word")


def band_output(config: BandConfig, inputs: object) -> Wire:
    if config.word == "mute":
        raise FieldError("says nothing", "word")
    return samples_wire("x_v")


REGISTRY = Registry([SourceNode("band", BandConfig, band_output, never_opened)])


def told(settings: str, tmp_path: Path) -> list[tuple[int, str]]:
    """Column and message of the problems of a node with these settings; columns count from its settings."""
    start = "  n: {kind: band, "
    file = tmp_path / "flow.yaml"
    file.write_text(f"flow: a\nnodes:\n{start}{settings}}}\n", encoding="utf-8")
    checked = check_flow(file, REGISTRY, environment={})
    return [(problem.column - len(start), problem.message) for problem in checked.problems]


def test_a_refusal_stands_at_the_value_of_its_first_field(tmp_path: Path) -> None:
    assert told("word: a, high: 2, low: 3", tmp_path) == [(24, "low is not below high")]


def test_a_refusal_stands_at_its_next_field_when_the_first_has_its_default(tmp_path: Path) -> None:
    assert told("word: a, high: 0", tmp_path) == [(16, "low is not below high")]


def test_a_refusal_stands_at_the_item_that_it_names(tmp_path: Path) -> None:
    assert told("word: a, names: [ok, bad], gains: {a: 1.0, b: -1.0}", tmp_path) == [
        (22, "a bad name"),
        (47, "a negative gain"),
    ]


def test_a_refusal_that_names_no_field_stands_at_the_node(tmp_path: Path) -> None:
    assert told("word: secret", tmp_path) == [(3 - len("  n: {kind: band, "), "a word that is no word")]


def test_a_refusal_of_the_output_stands_at_the_field_that_it_names(tmp_path: Path) -> None:
    assert told("word: mute", tmp_path) == [(7, "says nothing")]


def test_a_refusal_tells_what_was_got_and_what_is_known(tmp_path: Path) -> None:
    file = tmp_path / "flow.yaml"
    file.write_text("flow: a\nnodes:\n  n: {kind: band, word: a, names: [bad], low: 5}\n", encoding="utf-8")
    first, second = check_flow(file, REGISTRY, environment={}).problems
    assert (first.known, first.nearest) == (("good",), "good")
    assert second.got == "5 and 2"


def test_all_refusals_of_a_node_come_at_once_with_errors_of_other_fields(tmp_path: Path) -> None:
    assert told("word: 5, low: 3, names: [bad]", tmp_path) == [
        (7, "'word' needs a text (in quotes, or YAML reads it otherwise)"),
        (15, "low is not below high"),
        (26, "a bad name"),
    ]


@pytest.mark.parametrize("high", ["x", "-1", "[]"])
def test_a_refusal_that_rests_on_a_wrong_field_is_not_told(high: str, tmp_path: Path) -> None:
    [(_, message)] = told(f"word: a, low: 3, high: {high}", tmp_path)
    assert message.startswith("'high' needs")


def test_a_refusal_that_rests_on_a_missing_secret_is_not_told(tmp_path: Path) -> None:
    assert told('word: a, low: 3, high: "${NO_SUCH_VARIABLE}"', tmp_path) == []


def test_a_refusal_that_may_rest_on_a_misspelt_key_is_not_told(tmp_path: Path) -> None:
    assert [message for _, message in told("word: a, low: 3, hgh: 4", tmp_path)] == ["unknown key 'hgh'"]


def test_a_refusal_that_rests_on_a_key_given_twice_is_not_told(tmp_path: Path) -> None:
    assert [message for _, message in told("word: a, low: 3, high: 2, high: 4", tmp_path)] == [
        "key 'high' stands twice; first on line 3"
    ]


def test_right_items_are_checked_beside_wrong_ones(tmp_path: Path) -> None:
    wrong = "word: a, names: [5, bad, ok], gains: {a: x, b: -1.0}"
    assert [message for _, message in told(wrong, tmp_path)] == [
        "'names[0]' needs a text, at most 9 characters (in quotes, or YAML reads it otherwise)",
        "a bad name",
        "'gains.a' needs a number",
        "a negative gain",
    ]


def test_a_missing_field_does_not_hide_what_others_refuse(tmp_path: Path) -> None:
    assert [message for _, message in told("low: 3", tmp_path)] == [
        "'word' is missing: Some word.",
        "low is not below high",
    ]


def messages(check: Check, flow: str, site: str = SITE) -> list[tuple[str, int, str]]:
    return [(problem.file, problem.line, problem.message) for problem in check(flow, site).problems]


def test_a_key_that_stands_twice_hides_no_other_error(check: Check) -> None:
    flow = FLOW.replace("window: 500ms", "window: 500ms, window: 1s").replace("kind: detect", "kind: detct")
    assert messages(check, flow, SITE.replace("2s", "2, timeout: 3")) == [
        ("flow.yaml", 6, "key 'window' stands twice; first on line 6"),
        ("flow.yaml", 7, "unknown kind"),
        ("site.yaml", 3, "'timeout': write it with its unit, e.g. 5s"),
        ("site.yaml", 3, "key 'timeout' stands twice; first on line 3"),
        ("site.yaml", 3, "'timeout': write it with its unit, e.g. 5s"),
    ]


def test_a_second_node_of_one_name_is_checked_too(check: Check) -> None:
    flow = FLOW + "  shed: {kind: shed, from: pmu, store: histry, buffer: 1}\n"
    assert [message for _, line, message in messages(check, flow) if line == 16] == [
        "key 'shed' stands twice; first on line 15",
        "'store' names no connection of site.yaml",
        "'buffer': write it with its unit, e.g. 64 KiB",
    ]


def test_a_second_connection_of_one_name_is_checked_too(check: Check) -> None:
    site = SITE.replace("params:", "  history: {kind: table, path: 5}\nparams:")
    assert [line for _, line, _ in messages(check, FLOW, site)] == [5, 5]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1: x", "a key is text; quote it"),
        ("? [a]\n: b", "a key is text, not a mapping or list"),
        ("about: *none", "alias '*none' has no anchor before it"),
        ("about: !tag {}", "tags are not used in flow files"),
        ("labels: &l {a: *l}", "alias '*l' stands for itself"),
    ],
)
def test_what_is_no_plain_yaml_hides_no_other_error(line: str, message: str, check: Check) -> None:
    flow = FLOW.replace("about: Find events.", line).replace("500ms", "500")
    found = [message for _, _, message in messages(check, flow)]
    assert (found[0], found[-1]) == (message, "'window': write it with its unit, e.g. 500ms")


@pytest.mark.parametrize("value", ["*none", "!tag {}"])
@pytest.mark.parametrize("key", ["kind: slope", "from: pmu", "window: 500ms"])
def test_an_alias_to_nothing_and_a_tag_are_one_error(key: str, value: str, check: Check) -> None:
    flow = FLOW.replace(f"{key}", f"{key.partition(':')[0]}: {value}", 1)
    assert len([line for _, line, _ in messages(check, flow) if line == 6]) == 1


def test_a_second_document_does_not_hide_errors_of_the_first(check: Check) -> None:
    flow = FLOW.replace("500ms", "500") + "---\nflow: b\n"
    assert [line for _, line, _ in messages(check, flow)] == [6, 16]

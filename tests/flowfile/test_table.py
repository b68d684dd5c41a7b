"""Tables in YAML files: names to entries of one type."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta

from edgeflex_flow.errors import FlowFileError
from edgeflex_flow.flowfile import load_table
from edgeflex_flow.node import quantity


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    share: Annotated[float, Meta(gt=0, le=1)] = 0.5


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    power: Annotated[float, quantity("MW", "Power.", gt=0, le=100)]
    delay: Annotated[float, quantity("s", "Delay.", gt=0)] | None = None
    part: Part | None = Part()


def load(tmp_path: Path, text: str) -> dict[str, Machine]:
    file = tmp_path / "table.yaml"
    file.write_text(text, encoding="utf-8")
    return load_table(file, Machine)


def problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(FlowFileError) as caught:
        load(tmp_path, text)
    return [str(problem).removeprefix(f"{tmp_path}/") for problem in caught.value.problems]


def test_entries_are_read_with_their_units(tmp_path: Path) -> None:
    text = "A 1: {power: 500 kW, delay: 20ms}\nB: {power: 2 MW, part: null}\nC: {power: 3 MW, part: {share: 1}}\n"
    table = load(tmp_path, text)
    assert table == {
        "A 1": Machine(power=0.5, delay=0.02),
        "B": Machine(power=2.0, part=None),
        "C": Machine(power=3.0, part=Part(share=1)),
    }


def test_all_that_is_wrong_is_told_at_its_place(tmp_path: Path) -> None:
    text = "A:\n  power: 5\n  dely: 1s\nB: {power: 500 MW}\nC: {power: 1 Hz, part: {share: 2}}\nD: 7\nE: {}\nF:\n"
    assert problems(tmp_path, text) == [
        "table.yaml:2:10: 'A.power': write it with its unit, e.g. 1 MW; got 5",
        "table.yaml:3:3: unknown key 'A.dely'; known: power, delay, part; did you mean 'delay'?",
        "table.yaml:4:12: 'B.power' needs an active power with its unit, above 0 MW, at most 100 MW; got '500 MW'",
        "table.yaml:5:12: 'C.power': unit 'Hz' is no unit of active_power (W, kW, MW, GW); got '1 Hz'",
        "table.yaml:5:32: 'C.part.share' needs a number, above 0, at most 1; got 2",
        "table.yaml:6:4: 'D' needs a mapping with power, delay, part; got 7",
        "table.yaml:7:4: 'E.power' is missing: Power.",
        "table.yaml:8:1: 'F' needs a mapping with power, delay, part; got nothing",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[1, 2]\n", "table.yaml:1:1: the file is a mapping of names to a mapping with power, delay, part; got a list"),
        ("A: {power: 1 MW}\nA: {power: 2 MW}\n", "table.yaml:2:1: key 'A' stands twice; first on line 1"),
        ("", "table.yaml:1:1: the file is empty"),
    ],
)
def test_file_that_is_no_table_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    assert problems(tmp_path, text) == [problem]

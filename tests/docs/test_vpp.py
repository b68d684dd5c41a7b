"""What the page about virtual power plants shows works as it stands there."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from edgeflex_connectors.payload_formats import Flex
from edgeflex_connectors.payloads import PayloadDecoder
from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.cli.places import shipped_flows
from edgeflex_flow.flowfile import check_flows
from edgeflex_flow.messages import FlexRequest

PAGE = (Path(__file__).parents[2] / "docs" / "vpp.md").read_text(encoding="utf-8")
INPUTS = """\
  measurements: {kind: file_replay, path: a.jsonl, columns: [active_power_w]}
  weather: {kind: file_replay, path: b.jsonl, columns: [wind_speed_m_per_s]}
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_node_that_the_page_shows_passes_the_check(tmp_path: Path) -> None:
    [shown] = blocks("yaml")
    flow = tmp_path / "page.yaml"
    sink = "  log: {kind: file_write, from: forecast, path: log.jsonl}\n"
    flow.write_text(f"flow: page\nnodes:\n{INPUTS}{textwrap.indent(shown, '  ')}{sink}", encoding="utf-8")
    [checked] = check_flows([flow], shipped_registry())
    assert [str(problem) for problem in checked.problems] == []


def test_the_payload_that_the_page_shows_is_read() -> None:
    [shown] = blocks("json")
    made = PayloadDecoder(Flex(), (), (FlexRequest,), None).decode("flex", shown.encode())
    assert isinstance(made, FlexRequest)


def test_flow_and_results_that_it_names_exist() -> None:
    for flow in re.findall(r"[Tt]he flow `(\w+)`", PAGE):
        assert (shipped_flows() / f"{flow}.yaml").is_file()
    for file in re.findall(r"`(benchmarks/\S+)`", PAGE):
        assert (Path(__file__).parents[2] / file).is_file()

"""What the page about PMUs shows works as it stands there."""

from __future__ import annotations

import re
import signal
import textwrap
from pathlib import Path

from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.cli.places import shipped_flows
from edgeflex_flow.flowfile import check_flows
from edgeflex_services.pmu_simulator import main as pmu_simulator

PAGE = Path(__file__).parents[2] / "docs" / "pmus.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_every_node_that_the_page_shows_passes_the_check(tmp_path: Path) -> None:
    nodes = blocks("yaml")
    names = [block.partition(":")[0] for block in nodes]
    assert names == ["bay_7", "samples"]
    flow = tmp_path / "page.yaml"
    shown = "".join(textwrap.indent(block, "  ") for block in nodes)
    sink = f"  log: {{kind: file_write, from: [{', '.join(names)}], path: log.jsonl}}\n"
    flow.write_text(f"flow: page\nnodes:\n{shown}{sink}", encoding="utf-8")
    [checked] = check_flows([flow], shipped_registry())
    assert [str(problem) for problem in checked.problems] == []


def test_flows_and_pages_that_it_names_exist() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for flow in re.findall(r"[Tt]he flow `(\w+)`", text):
        assert (shipped_flows() / f"{flow}.yaml").is_file()
    for link in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (PAGE.parent / link).is_file()


def test_options_of_the_simulator_that_it_names_exist() -> None:
    options = set(re.findall(r"`?(--(?:transport|pdc|announce|port))\b", PAGE.read_text(encoding="utf-8")))
    assert options == {"--transport", "--pdc", "--announce", "--port"}
    values = {"--transport": "unasked", "--pdc": "99", "--announce": "60", "--port": "9"}
    arguments = [word for option in sorted(options) for word in (option, values[option])]
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert pmu_simulator([*arguments, "--seconds", "0.05"]) == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

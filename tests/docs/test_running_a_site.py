"""Relative paths start where the page about running a site says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from shipped import FLOWS

from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.errors import FlowFileError
from edgeflex_flow.flowfile import load_flow

PAGE = Path(__file__).parents[2] / "docs" / "running-a-site.md"
SITE = """\
site: yard
connections:
  databus: {kind: mqtt, url: "mqtt://127.0.0.1:1883"}
  history: {kind: sqlite, path: history.db}
"""


def test_a_table_beside_the_flows_is_found_from_the_site_file_whoever_names_it(tmp_path: Path) -> None:
    assert "a table in `grids/` beside the flows is `../grids/…`" in PAGE.read_text("utf-8")
    shutil.copytree(FLOWS / "grids", tmp_path / "grids")
    flow = Path(shutil.copy(FLOWS / "voltage_control.yaml", tmp_path))
    site = tmp_path / "sites" / "yard.yaml"
    site.parent.mkdir()
    site.write_text(SITE)
    with pytest.raises(FlowFileError, match=r"grids/kerber/inverters\.yaml"):
        load_flow(flow, shipped_registry(), site=site)
    assert load_flow(flow, shipped_registry(), site=site, params={"grid": "../grids/kerber"}).folder == site.parent

"""Versions of a flow at a site, for tests of what differs between them."""

from __future__ import annotations

from pathlib import Path

from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.flowfile import Plan, load_flow

SITE = """\
site: yard
connections:
  databus: {kind: mqtt, url: "mqtt://127.0.0.1:1883", username: grid, password: hush}
"""


def version_of(flow: str, folder: Path, *changes: tuple[str, str]) -> Plan:
    """The plan of a flow file and a site file with these texts in place of others; each must stand there."""
    site = SITE
    for old, new in changes:
        assert old in flow + site
        flow, site = flow.replace(old, new), site.replace(old, new)
    (folder / "grid.yaml").write_text(flow)
    (folder / "yard.yaml").write_text(site)
    return load_flow(folder / "grid.yaml", shipped_registry(), site=folder / "yard.yaml")

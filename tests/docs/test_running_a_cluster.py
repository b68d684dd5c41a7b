"""Cluster files that the page about clusters shows pass the check."""

from __future__ import annotations

import re
from pathlib import Path

from edgeflex_flow.flowfile.cluster import ClusterConfig, load_cluster

PAGE = Path(__file__).parents[2] / "docs" / "running-a-cluster.md"


def shown(folder: Path) -> list[ClusterConfig]:
    """The files of the page, with their secrets in a folder of the test."""
    (folder / "cluster").write_text("known to all processes")
    clusters = []
    for text in re.findall(r"```yaml\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL):
        file = folder / "cluster.yaml"
        file.write_text(text.replace("/run/secrets", str(folder)))
        clusters.append(load_cluster(file))
    return clusters


def test_clusters_of_two_hosts_and_of_one_host_are_right(tmp_path: Path) -> None:
    several, one = shown(tmp_path)
    assert {several.address(number).host for number in range(2)} == {"edge-a.example", "edge-b.example"}
    assert one.control == ("localhost", 9471)
    assert one.control not in [one.address(number) for number in range(2)]
    assert "here 9471" in PAGE.read_text("utf-8")

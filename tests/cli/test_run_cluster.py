"""What `edgeflex run --cluster` refuses before anything starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from edgeflex_flow.cli.run import run

Invoke = Callable[..., Result]
CLUSTER = "processes: ['127.0.0.1:9470', '127.0.0.1:9472']\n"
USAGE = 2


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--process", "1"), "--process is of a cluster: give its file with --cluster"),
        (("--cluster", "cluster.yaml", "--workers", "2"), "--cluster runs on bytewax"),
        (("--cluster", "cluster.yaml", "--runtime", "inline"), "--cluster runs on bytewax"),
        (
            ("--cluster", "cluster.yaml", "--process", "2"),
            "--process says process 2; the cluster has",
        ),
        (("--cluster", "cluster.yaml"), "EDGEFLEX_PROCESS says process 7"),
    ],
)
def test_wrong_usage_is_told(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], problem: str
) -> None:
    monkeypatch.setenv("EDGEFLEX_PROCESS", "7")
    Path("cluster.yaml").write_text(CLUSTER)
    result = invoke(run, "flow.yaml", "--site", "yard", *options)
    assert result.exit_code == USAGE
    assert problem in " ".join(result.output.replace("│", " ").split())


def test_a_cluster_runs_one_flow(invoke: Invoke) -> None:
    Path("cluster.yaml").write_text(CLUSTER)
    Path("other.yaml").write_text(Path("flow.yaml").read_text().replace("flow: ", "flow: other_", 1))
    result = invoke(run, "flow.yaml", "other.yaml", "--site", "yard", "--cluster", "cluster.yaml", "--process", "0")
    assert result.exit_code == USAGE
    assert "a cluster runs one flow; got 2: " in " ".join(result.output.replace("│", " ").split())


def test_a_wrong_cluster_file_is_told_with_its_place(invoke: Invoke) -> None:
    Path("cluster.yaml").write_text("processes: [here]\n")
    result = invoke(run, "flow.yaml", "--site", "yard", "--cluster", "cluster.yaml", "--process", "0")
    assert result.exit_code == 1
    assert "cluster.yaml:1:12: error: " in result.output

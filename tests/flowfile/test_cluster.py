"""Cluster files, and which process of a cluster this is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from edgeflex_flow.errors import FlowFileError
from edgeflex_flow.flowfile.cluster import Address, ClusterConfig, load_cluster, process_number

TWO = ClusterConfig(processes=("edge-0.edge:9470", "edge-1.edge:9470"), secret="hush")


def problems(folder: Path, text: str) -> list[str]:
    (folder / "cluster.yaml").write_text(text)
    with pytest.raises(FlowFileError) as caught:
        load_cluster(folder / "cluster.yaml", {})
    return [str(problem).removeprefix(f"{folder}/") for problem in caught.value.problems]


def test_a_cluster_file_names_processes_and_what_they_share(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush\n")
    (tmp_path / "cluster.yaml").write_text(
        "processes: ['edge-0.edge:9470', '${SECOND}']\nworkers: 2\nwait: 1min\nsecret: ${file:secret}\n"
    )
    cluster = load_cluster(tmp_path / "cluster.yaml", {"SECOND": "[::1]:9480"})
    assert (cluster.total_workers, cluster.total_shards, cluster.wait, cluster.secret) == (4, 4, 60.0, "hush")
    assert (cluster.address(1), cluster.control) == (Address("::1", 9480), Address("edge-0.edge", 9471))
    assert str(cluster.address(1)) == "[::1]:9480"


def test_all_that_is_wrong_is_told_at_once_with_its_place(tmp_path: Path) -> None:
    told = problems(
        tmp_path, "processes: [one, 'a:1', 'a:1', 'b:99999']\nworkers: 0\nsilence: 5\nsecrt: no\ncontrol_port: 70000\n"
    )
    assert [text.partition(":")[2] for text in told] == [
        "1:13: a process is `host:port`; got 'one'",
        "1:25: 'a:1' is process 1 already",
        "1:32: a process is `host:port`; got 'b:99999'",
        "2:10: 'workers' needs an integer from 1 to 16; got 0",
        "3:10: 'silence': write it with its unit, e.g. 5s; got 5",
        "4:1: unknown key 'secrt'; known: processes, workers, shards, control_port, secret, wait, silence; did you "
        "mean 'secret'?",
        "5:15: 'control_port' needs an integer from 1 to 65535; got 70000",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "1:1: the file is a mapping with 'processes'; got a list"),
        ("workers: 1", "'processes' is missing: "),
        ("processes: ['a:1']", "'processes' needs "),
        (
            "{processes: ['127.0.0.1:1', 'b:1']}",
            "processes of several hosts need a secret, or a ",
        ),
        ("{processes: ['127.0.0.1:1', '127.0.0.1:9'], shards: 1}", "'shards' needs "),
        (
            "{processes: ['a:1', 'b:1'], workers: 3, shards: 5, secret: x}",
            "there are 6 workers, and each needs",
        ),
        ("{processes: ['localhost:1', 'localhost:2']}", "process 1 has port 2, on which process 0 hears the others"),
        ("{processes: ['a:1', 'b:1'], control_port: 1, secret: x}", "process 0 has port 1, on which process 0 hears"),
        (
            "{processes: ['a:1', 'b:1', 'c:1', 'd:1', 'e:1'], workers: 16, secret: x}",
            "at most 64 workers",
        ),
        (
            "{processes: ['a:1', 'b:1'], secret: '${file:none}'}",
            "secret file none does not exist or is no file, needed by 'secret'",
        ),
    ],
)
def test_a_wrong_cluster_file_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    [told] = problems(tmp_path, text)
    assert problem in told


def test_processes_on_one_host_need_no_secret() -> None:
    assert not ClusterConfig(processes=("localhost:9470", "127.0.0.1:9472", "[::1]:9474")).secret


def test_a_secret_is_never_shown(tmp_path: Path) -> None:
    told = problems(tmp_path, "processes: ['a:1', 'b:1']\nsecret: [hush-hush]\n")
    assert told
    assert "hush" not in "".join(told)


def test_a_cluster_of_other_processes_has_another_digest() -> None:
    more = replace(TWO, processes=(*TWO.processes, "edge-2.edge:9470"))
    assert len({TWO.digest, more.digest, replace(TWO, workers=2).digest}) == 3
    assert TWO.digest == replace(TWO, secret="x", wait=5).digest


def test_the_number_is_given_or_in_the_environment_or_the_end_of_the_host_name() -> None:
    assert process_number(TWO, 0, {"EDGEFLEX_PROCESS": "1"}, "edge-1") == 0
    assert process_number(TWO, None, {"EDGEFLEX_PROCESS": "0"}, "edge-1") == 0
    assert process_number(TWO, None, {}, "my-edge-1") == 1


@pytest.mark.parametrize(
    ("given", "environment", "host", "problem"),
    [
        (2, {}, "x", "--process says process 2; the cluster has the processes 0 to 1"),
        (None, {"EDGEFLEX_PROCESS": "two"}, "x", "EDGEFLEX_PROCESS is the number of a process, 0 to 1; got 'two'"),
        (None, {}, "edge-7", "the host name 'edge-7' says process 7; the cluster has the processes 0 to 1"),
        (None, {}, "edge", "which of the processes 0 to 1 is this? Give --process, or EDGEFLEX_PROCESS"),
    ],
)
def test_a_process_that_the_cluster_has_not_is_refused(
    given: int | None, environment: dict[str, str], host: str, problem: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        process_number(TWO, given, environment, host)

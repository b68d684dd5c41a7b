"""`edgeflex run` as a user starts it: a process, signals, exit codes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeflex_services.broker import free_tcp_port, free_udp_port

pytestmark = pytest.mark.long

EDGEFLEX = [sys.executable, "-m", "edgeflex_flow"]

REPLAY = """
flow: replay
params: {recording: in.jsonl}
nodes:
  recording: {kind: file_replay, path: "${recording}", columns: [frequency_hz]}
  limit: {kind: threshold, from: recording, column: frequency_hz, above: 50.2}
  out: {kind: file_write, from: [limit, dead_letters], path: out.jsonl}
"""

LISTEN = """
flow: listen
params: {port: 4713}
nodes:
  pmu: {kind: pmu_udp, host: 127.0.0.1, port: "${port}"}
  out: {kind: file_write, from: pmu, path: out.jsonl}
"""


def row(time_ns: int, frequency_hz: float) -> str:
    return json.dumps(
        {"type": "samples", "time_ns": time_ns, "device": "G1", "quality": 0, "frequency_hz": frequency_hz}
    )


def edgeflex(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EDGEFLEX, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def replay(tmp_path: Path) -> Path:
    (tmp_path / "in.jsonl").write_text("\n".join([row(1, 50.0), row(2, 50.3), "nonsense", row(3, 50.0)]) + "\n")
    (tmp_path / "replay.yaml").write_text(REPLAY)
    return tmp_path


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("options", [[], ["--runtime", "inline"], ["--workers", "2"]])
def test_a_flow_runs_to_the_end_of_its_input(replay: Path, options: list[str]) -> None:
    done = edgeflex("run", "replay.yaml", "--json", *options, cwd=replay)
    assert done.returncode == 0, done.stderr
    written = lines_of(replay / "out.jsonl")
    assert [line["state"] for line in written if line["type"] == "crossing"] == ["above", "normal"]
    assert [line["node"] for line in written if line["type"] == "dead_letter"] == ["recording"]


def test_the_summary_counts_what_went_over_each_wire(replay: Path) -> None:
    done = edgeflex("run", "replay.yaml", "--json", cwd=replay)
    summary = json.loads(done.stdout)
    assert summary["wires"]["recording -> limit.in"]["rows"] == 3
    assert summary["nodes"]["recording"]["dead_letters"] == 1


def test_a_wrong_flow_file_ends_with_code_1_and_all_errors(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("flow: wrong\nnodes:\n  a: {kind: rocoff}\n  b: {kind: rocof, from: c}\n")
    done = edgeflex("run", "wrong.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert "did you mean 'rocof'" in done.stderr
    assert "wrong.yaml:4" in done.stderr


def test_a_missing_secret_stops_the_start_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(
        "site: s\nconnections:\n  databus: {kind: mqtt, url: 'mqtt://127.0.0.1', username: u, "
        "password: '${file:/no/such/secret}'}\n"
    )
    (tmp_path / "flow.yaml").write_text(
        "flow: f\nnodes:\n  in: {kind: mqtt_subscribe, bus: databus, topics: [a], columns: [frequency_hz]}\n"
        "  out: {kind: file_write, from: in, path: out.jsonl}\n"
    )
    done = edgeflex("run", "flow.yaml", "--site", "site.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert "/no/such/secret" in done.stderr


def test_an_unknown_site_names_the_known_ones(replay: Path) -> None:
    (replay / "sites").mkdir()
    (replay / "sites" / "north.yaml").write_text("site: north\n")
    done = edgeflex("run", "replay.yaml", "--site", "nord", cwd=replay)
    assert done.returncode == 2
    assert "known sites: north" in done.stderr


def test_a_port_in_use_ends_with_code_3_and_names_it(tmp_path: Path) -> None:
    (tmp_path / "listen.yaml").write_text(LISTEN)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        done = edgeflex("run", "listen.yaml", "-D", f"port={port}", cwd=tmp_path)
    assert done.returncode == 3
    assert str(port) in done.stderr


def test_json_logs_are_one_object_a_line(replay: Path) -> None:
    done = edgeflex("--log-format", "json", "run", "replay.yaml", "--json", cwd=replay)
    entries = [json.loads(line) for line in done.stderr.splitlines()]
    assert {"info", "warning"} <= {entry["level"] for entry in entries}
    assert all(entry["flow"] == "replay" for entry in entries)
    [warning] = [entry for entry in entries if entry["level"] == "warning"]
    assert (warning["node"], warning["reason"]) == ("recording", "bad_line")


def test_a_flow_ends_by_itself_after_the_time_given(tmp_path: Path) -> None:
    (tmp_path / "listen.yaml").write_text(LISTEN)
    done = edgeflex("run", "listen.yaml", "-D", f"port={free_udp_port()}", "--for", "500ms", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["flow"] == "listen"


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A flow that waits for frames, up and running, and its port."""
    (tmp_path / "listen.yaml").write_text(LISTEN)
    port = free_udp_port()
    process = subprocess.Popen(
        [*EDGEFLEX, "run", "listen.yaml", "-D", f"port={port}", "--json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "runs" in line:
            break
    yield process, port
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_the_flow_and_it_exits_with_0(
    listening: tuple[subprocess.Popen[str], int], number: signal.Signals
) -> None:
    process, port = listening
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"not a frame", ("127.0.0.1", port))
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    pmu = json.loads(output)["nodes"]["pmu"]
    assert pmu["dead_letters"] == 1  # what had come in before the signal was still read


def test_several_flows_run_as_one_process_each_and_drain_together(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(
            f"flow: {name}\nnodes:\n  pmu: {{kind: pmu_udp, host: 127.0.0.1, port: {free_udp_port()}}}\n"
            f"  out: {{kind: file_write, from: pmu, path: {name}.jsonl}}\n"
        )
    process = subprocess.Popen(
        [*EDGEFLEX, "run", "one.yaml", "two.yaml", "--json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    running = 0
    for line in process.stderr:
        running += "runs" in line
        if running == 2:
            break
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert {json.loads(line)["flow"] for line in output.splitlines()} == {"one", "two"}


def test_files_given_by_odd_paths_still_run_as_one_process_each(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(
            REPLAY.replace("flow: replay", f"flow: {name}").replace("out.j", f"{name}.j")
        )
    (tmp_path / "in.jsonl").write_text(row(1, 50.3) + "\n")
    done = edgeflex("run", "./a.yaml", ".//b.yaml", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(json.loads(line)["flow"] for line in done.stdout.splitlines()) == ["a", "b"]


def test_of_several_files_none_runs_when_one_is_wrong(replay: Path) -> None:
    (replay / "wrong.yaml").write_text("flow: wrong\nnodes: {a: {kind: rocoff}}\n")
    done = edgeflex("run", "replay.yaml", "wrong.yaml", cwd=replay)
    assert done.returncode == 1
    assert not (replay / "out.jsonl").exists()


def test_each_of_several_flows_gets_only_the_definitions_that_it_declares(replay: Path) -> None:
    (replay / "sites").mkdir()
    (replay / "sites" / "yard.yaml").write_text("site: yard\n")
    (replay / "sites" / "in.jsonl").write_text(row(1, 50.3) + "\n")
    elsewhere = replay / "elsewhere"  # where 'yard' names no site: it is found beside the first file
    elsewhere.mkdir()
    plain = REPLAY.replace("params: {recording: in.jsonl}", "").replace("${recording}", "in.jsonl")
    (elsewhere / "plain.yaml").write_text(
        plain.replace("flow: replay", "flow: plain").replace("out.jsonl", "plain.jsonl")
    )
    arguments = ["replay.yaml", "elsewhere/plain.yaml", "--site", "yard", "-D", "recording=./in.jsonl"]
    checked = edgeflex("check", *arguments, cwd=replay)
    done = edgeflex("run", *arguments, "--json", cwd=replay)
    assert (checked.returncode, done.returncode) == (0, 0), checked.stdout + done.stderr
    assert sorted(json.loads(line)["flow"] for line in done.stdout.splitlines()) == ["plain", "replay"]


def test_a_definition_that_no_file_declares_starts_none(replay: Path) -> None:
    (replay / "second.yaml").write_text(REPLAY.replace("flow: replay", "flow: second").replace("out.j", "second.j"))
    done = edgeflex("run", "replay.yaml", "second.yaml", "-D", "recordin=in.jsonl", cwd=replay)
    assert done.returncode == 1
    assert "no file declares the param 'recordin'" in done.stderr
    assert not list(replay.glob("*d.jsonl"))
    assert not (replay / "out.jsonl").exists()


def test_a_summary_in_json_tells_that_all_went_well(replay: Path) -> None:
    summary = json.loads(edgeflex("run", "replay.yaml", "--json", cwd=replay).stdout)
    assert (summary["exit_code"], summary["error"]) == (0, None)


@pytest.mark.parametrize("files", [["wrong.yaml"], ["replay.yaml", "wrong.yaml"]])
def test_a_summary_in_json_tells_what_is_wrong_with_a_file(replay: Path, files: list[str]) -> None:
    (replay / "wrong.yaml").write_text("flow: wrong\nnodes: {a: {kind: rocoff}}\n")
    done = edgeflex("--log-format", "json", "run", *files, "--json", cwd=replay)
    summary = json.loads(done.stdout)
    assert (done.returncode, summary["exit_code"]) == (1, 1)
    assert "unknown kind" in summary["error"]
    records = [json.loads(line) for line in done.stderr.splitlines()]
    assert [record["level"] for record in records] == ["error"]
    assert "did you mean 'rocof'" in records[0]["message"]


def test_a_flow_that_cannot_go_on_says_so_in_json(replay: Path) -> None:
    done = edgeflex("--log-format", "json", "run", "replay.yaml", "-D", "recording=none.jsonl", "--json", cwd=replay)
    summary = json.loads(done.stdout)
    assert (done.returncode, summary["exit_code"]) == (3, 3)
    assert "none.jsonl" in summary["error"]
    last = json.loads(done.stderr.splitlines()[-1])
    assert (last["level"], last["flow"], last["exit_code"]) == ("error", "replay", 3)
    assert "none.jsonl" in last["message"]


def test_a_flow_that_did_not_start_shows_no_counters(replay: Path) -> None:
    done = edgeflex("run", "replay.yaml", "-D", "recording=none.jsonl", cwd=replay)
    assert done.returncode == 3
    assert "counter" not in done.stderr
    assert "error: flow 'replay': " in done.stderr


def test_statistics_have_no_line_for_a_node_without_counters(tmp_path: Path) -> None:
    (tmp_path / "listen.yaml").write_text(LISTEN)
    options = ["-D", f"port={free_udp_port()}", "--for", "500ms", "--stats", "100ms"]
    done = edgeflex("--log-format", "json", "run", "listen.yaml", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(json.loads(line)["message"] for line in done.stderr.splitlines())


def test_what_a_sink_could_not_bring_out_ends_with_code_4(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(
        f"site: s\nconnections:\n  databus: {{kind: mqtt, url: 'mqtt://127.0.0.1:{free_tcp_port()}'}}\n"
    )
    (tmp_path / "flow.yaml").write_text(
        "flow: f\nnodes:\n  in: {kind: file_replay, path: in.jsonl, columns: [frequency_hz]}\n"
        "  out: {kind: mqtt_publish, from: in, bus: databus, topic: t}\n"
    )
    (tmp_path / "in.jsonl").write_text(row(1, 50.3) + "\n")
    done = edgeflex("run", "flow.yaml", "--site", "site.yaml", "--json", cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    assert "sink 'out' could not bring out all it held (1 lost)" in done.stderr


def test_a_site_file_runs_all_flows_that_it_lists(replay: Path) -> None:
    (replay / "sites").mkdir()
    site = "site: yard\nflows: [replay]\nlabels: {region: north}\nparams: {recording: ../in.jsonl}\n"
    (replay / "sites" / "yard.yaml").write_text(site)
    done = edgeflex("run", "sites/yard.yaml", "--select", "region=north", "--json", cwd=replay)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["site"] == "yard"
    assert (replay / "sites" / "out.jsonl").exists()

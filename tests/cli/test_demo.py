"""`edgeflex demo` as a newcomer starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

DEMO = [sys.executable, "-m", "edgeflex_flow", "demo"]


def demo(tmp_path: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    return subprocess.run(
        [*DEMO, *options],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(temporary), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def assert_all_went_well(summary: dict[str, Any]) -> None:
    assert summary["ok"], summary["problems"]
    assert len(summary["devices_with_event"]) == 10
    assert summary["events_received_over_mqtt"] == summary["events_emitted"] >= 10
    assert summary["events_stored"] == summary["events_emitted"]
    assert summary["samples_stored"] > 0
    assert summary["frames_received"] + summary["kernel_drops"] == summary["frames_sent"] > 0


@pytest.mark.long
@pytest.mark.needs("mosquitto")
def test_the_demo_finds_the_event_on_every_pmu_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = demo(tmp_path, "--seconds", "8", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout)
    assert summary["broker"] == "mosquitto"
    assert_all_went_well(summary)
    assert max(summary["detection_delay_s"]) <= 0.8
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.long
def test_the_demo_runs_on_the_broker_in_python_where_mosquitto_is_missing(tmp_path: Path) -> None:
    done = demo(tmp_path, "--seconds", "8", "--json", EDGEFLEX_DEMO_BROKER="amqtt")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout)
    assert summary["broker"] == "amqtt"
    assert_all_went_well(summary)


@pytest.mark.long
def test_the_demo_estimates_the_inertia_that_the_event_shows(tmp_path: Path) -> None:
    done = demo(tmp_path, "--seconds", "15", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout)
    assert summary["system_ek_mws"] == pytest.approx(90_692, rel=0.05)
    low, high = summary["system_ci95_mws"]
    assert low < 90_692 < high
    assert len(summary["units_estimated"]) >= 9


@pytest.mark.long
def test_without_a_terminal_the_demo_tells_its_progress_in_lines(tmp_path: Path) -> None:
    done = demo(tmp_path, "--seconds", "5", "--picture", "demo.svg")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rows stored" in done.stdout
    assert "<svg" in (tmp_path / "demo.svg").read_text()


@pytest.mark.long
def test_the_demo_is_shown_live_and_ctrl_c_ends_it_with_its_summary_and_without_children(tmp_path: Path) -> None:
    process = subprocess.Popen(DEMO, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        page = re.search(r"See it live: (\S+)", next(process.stdout))
        assert page is not None
        next(line for line in process.stdout if re.search(r" [1-9][\d,]* frames .* [1-9][\d,]* rows stored", line))
        with httpx.stream("GET", f"{page[1]}/live?flow=inertia_estimation") as answer:
            assert any('"word":"running"' in line for line in answer.iter_lines())
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, output
    assert "values and events in the store" in output
    assert len(children) == 3
    assert [child for child in children if child.is_running()] == []

"""The README's first flow and first operator, done as it says, in an empty folder; and the code of the docs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgeflex_services.broker import free_udp_port

README = (Path(__file__).parents[2] / "README.md").read_text()
EDGEFLEX = [sys.executable, "-m", "edgeflex_flow"]


def block(language: str, beginning: str) -> str:
    """The code block of the README that begins so."""
    found = [text for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if text.startswith(beginning)]
    assert len(found) == 1, f"{len(found)} blocks begin with {beginning!r}"
    return str(found[0])


def command(*arguments: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        arguments,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
def test_the_first_flow_finds_the_events_of_the_simulator(tmp_path: Path) -> None:
    port = free_udp_port()
    (tmp_path / "first.yaml").write_text(block("yaml", "flow: first").replace("port: 4713", f"port: {port}"))
    command(*EDGEFLEX, "check", "first.yaml", cwd=tmp_path)
    command(*EDGEFLEX, "graph", "first.yaml", "--out", "first.svg", cwd=tmp_path)
    flow = subprocess.Popen(
        [*EDGEFLEX, "run", "first.yaml"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        assert flow.stderr is not None
        assert any("runs" in line for line in flow.stderr)
        command(*EDGEFLEX, "serve", "pmu", "--port", str(port), "--event-at", "3", "--seconds", "6", cwd=tmp_path)
    finally:
        flow.terminate()
        flow.communicate(timeout=30)
    assert flow.returncode == 0
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert len({event["device"] for event in events if event["state"] == "started"}) == 10
    assert "<svg" in (tmp_path / "first.svg").read_text()


def test_the_misspelt_flow_is_refused_with_the_place_and_the_name_that_was_meant(tmp_path: Path) -> None:
    text = block("yaml", "flow: first").replace("kind: rocof,", "kind: rocoff,")
    (tmp_path / "first.yaml").write_text(text)
    done = subprocess.run(
        [*EDGEFLEX, "check", "first.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    said = re.search(r"```\n(first.yaml:6:.*?)```", README, re.DOTALL)
    assert said is not None
    assert said[1] == done.stdout


@pytest.mark.long
def test_the_first_operator_becomes_a_kind_by_its_entry_point(tmp_path: Path) -> None:
    package = tmp_path / "my-grid"
    package.mkdir()
    (package / "my_grid.py").write_text(block("python", '"""`deviation`'))
    (package / "pyproject.toml").write_text(block("toml", "[build-system]"))
    (tmp_path / "second.yaml").write_text(block("yaml", "flow: second"))
    installed = tmp_path / "installed"
    command(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--disable-pip-version-check", "--target", str(installed), str(package)),
        cwd=tmp_path,
    )
    page = command(*EDGEFLEX, "nodes", "deviation", cwd=tmp_path, PYTHONPATH=str(installed))
    assert "Nominal frequency." in page
    command(*EDGEFLEX, "check", "second.yaml", cwd=tmp_path, PYTHONPATH=str(installed))
    schema = json.loads(command(*EDGEFLEX, "schema", cwd=tmp_path, PYTHONPATH=str(installed)))
    assert "deviation" in json.dumps(schema)


def test_the_code_of_the_docs_and_its_test_run(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "writing-nodes.md").read_text()
    blocks = [text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if text.startswith("from ")]
    assert len(blocks) == 3
    (tmp_path / "test_deviation.py").write_text("\n".join(blocks))
    command(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_deviation.py", cwd=tmp_path)

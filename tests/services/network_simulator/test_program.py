"""The network as a program."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from simulated_network import phone

from edgeflex_services.network_simulator.__main__ import main
from edgeflex_services.network_simulator.model import Device, Setup


@contextmanager
def running(*options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A network in a process of its own, and its url."""
    command = [sys.executable, "-m", "edgeflex_services.network_simulator", "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        started = json.loads(process.stdout.readline())
        yield started["url"], process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20.0) == 0
        assert process.stdout is not None
        process.stdout.close()


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line: dict[str, Any] = json.loads(process.stdout.readline())
    return line


def test_it_makes_up_devices_and_tells_what_happens() -> None:
    with running("--devices", "100", "--seed", "3", "--json") as (url, process):
        devices = httpx.get(f"{url}/simulation").json()["devices"]
        assert len(devices) == 100
        path = f"{url}/simulation/devices/{devices[0]['gpsi']}"
        httpx.patch(path, json={"link": {"covered": False}}).raise_for_status()
        assert told(process) == {"event": "link", "device": devices[0]["gpsi"], "covered": False}


def test_it_reads_devices_from_a_file_and_asks_for_a_token(tmp_path: Path) -> None:
    file = tmp_path / "network.json"
    file.write_text(json.dumps({"devices": [{"msisdn": "4915550000001"}], "profiles": [{"name": "QOS_PMU"}]}))
    with running("--file", str(file), "--token", "secret") as (url, _):
        path = f"{url}/device-reachability-status/v1rc3/retrieve"
        assert httpx.post(path, json={"device": phone(1)}).status_code == 401
        answer = httpx.post(path, json={"device": phone(1)}, headers={"Authorization": "Bearer secret"})
        assert answer.json()["reachable"]
        profiles = httpx.get(f"{url}/simulation").json()["profiles"]
        assert [each["name"] for each in profiles] == ["QOS_PMU"]


def test_a_setup_has_the_usual_profiles() -> None:
    assert Setup(devices=[Device(msisdn="12345")]).profiles[0].name == "QOS_E"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "No such file"),
        ("{", "truncated"),
        ('{"devices": [{}]}', "`msisdn`"),
        ('{"devices": [{"msisdn": "1234567"}, {"msisdn": "1234567"}]}', "another device is 'msisdn-1234567'"),
        ('{"devices": [], "cells": []}', "unknown field `cells`"),
    ],
)
def test_a_file_that_is_wrong_is_said_so(
    tmp_path: Path, content: str | None, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "network.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SystemExit) as error:
        main(["--port", "0", "--file", str(file)])
    assert error.value.code == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--devices", "-1"],
        ["--devices", "many"],
        ["--file", "a", "--devices", "1"],
        ["--ca", "no.pem"],
        ["--port", "x"],
    ],
)
def test_options_that_are_wrong_are_said_so(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(options)
    assert error.value.code == 2
    assert "error" in capsys.readouterr().err


def test_the_command_line_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["--help"], prog="edgeflex serve network")
    assert error.value.code == 0
    assert "edgeflex serve network" in capsys.readouterr().out

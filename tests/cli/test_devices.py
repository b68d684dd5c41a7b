"""`edgeflex devices`, against the service and a simulated network."""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from broker import wait_until
from click.testing import CliRunner, Result
from device_services import OWNER, SERVER, DeviceSite
from http_service import HttpService, Reply, Request, json_reply

from edgeflex_flow.cli.devices import devices

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceSite]:
    with DeviceSite(tmp_path_factory.mktemp("devices"), devices=12) as started:
        started.onboard("pmu0", "pmu1")
        yield started


def access(site: DeviceSite) -> list[str]:
    return ["--url", f"https://127.0.0.1:{site.port}", "--ca", str(site.folder / "authority.pem")]


def run(site: DeviceSite, *arguments: str) -> Result:
    return CliRunner().invoke(devices, [*access(site), *arguments], env={"COLUMNS": "200"})


def done(site: DeviceSite, *arguments: str) -> str:
    result = run(site, *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def told(site: DeviceSite, *arguments: str) -> Any:
    return json.loads(done(site, *arguments, "--json"))


def test_a_device_is_onboarded_listed_and_removed(site: DeviceSite) -> None:
    assert "onboard" in done(site, "onboard", site.gpsi("pmu5"), "pmu5", "--owner", OWNER)
    shown = done(site, "list", "--owner", OWNER)
    assert "pmu5" in shown
    assert site.gpsi("pmu5") in shown
    assert {each["name"] for each in told(site, "list")} == {"pmu0", "pmu1", "pmu5"}
    assert "succeeded" in done(site, "remove", "pmu5")
    assert {each["name"] for each in told(site, "list")} == {"pmu0", "pmu1"}


def test_a_table_of_devices_is_onboarded(site: DeviceSite, tmp_path: Path) -> None:
    table = tmp_path / "devices.csv"
    table.write_text(f"gpsi,name\n{site.gpsi('pmu6')},pmu6\n{site.gpsi('pmu7')},pmu7\n")
    done(site, "onboard", "--file", str(table), "--owner", OWNER)
    assert {"pmu6", "pmu7"} <= {each["name"] for each in told(site, "list")}
    for name in ("pmu6", "pmu7"):
        done(site, "remove", name)


def test_a_table_of_a_spreadsheet_is_read(site: DeviceSite, tmp_path: Path) -> None:
    table = tmp_path / "devices.csv"
    table.write_bytes(b"\xef\xbb\xbf" + f"gpsi;name\r\n{site.gpsi('pmu6')};pmu6\r\n".encode())
    done(site, "onboard", "--file", str(table), "--owner", OWNER)
    done(site, "remove", "pmu6")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"gpsi,name,owner\nmsisdn-49170,K\xf6ln,a\n", "byte 30 is not UTF-8: save it as CSV in UTF-8"),
        (b"gpsi,name,owner\n", "there is no device in it"),
        (b"gpsi,name\nmsisdn-49170,a,b\n", "line 2: more values than columns"),
    ],
)
def test_a_file_that_is_no_table_is_refused(site: DeviceSite, tmp_path: Path, content: bytes, words: str) -> None:
    table = tmp_path / "devices.csv"
    table.write_bytes(content)
    result = run(site, "onboard", "--file", str(table), "--owner", OWNER)
    assert (result.exit_code, words in result.output) == (2, True), result.output


def test_a_table_that_is_none_is_refused_with_its_line(site: DeviceSite, tmp_path: Path) -> None:
    table = tmp_path / "devices.csv"
    table.write_text("gpsi,name,owner\nmsisdn-491,,south\n")
    result = run(site, "onboard", "--file", str(table))
    assert result.exit_code == 2
    assert "line 2: gpsi, name and owner" in result.output
    table.write_text(f"gpsi,name,owner\n{site.gpsi('pmu6')},pmu6,{OWNER}\n4915,pmu7,{OWNER}\n")
    told = run(site, "onboard", "--file", str(table)).output
    assert "devices.csv, line 3: gpsi: Expected a GPSI, such as msisdn-491701234567" in told
    table.write_text("number;name\n")
    assert "columns are gpsi,name,owner" in run(site, "onboard", "--file", str(table)).output


def test_a_quality_is_asked_for_shown_and_given_back(site: DeviceSite) -> None:
    done(site, "qos", "pmu0", "--profile", "QOS_L", "--server", f"{SERVER}:4713", "--for", "10min")
    assert told(site, "qos", "pmu0")["state"] == "available"
    assert "QOS_L available" in done(site, "qos", "pmu0")
    done(site, "qos", "pmu0", "--end")
    assert told(site, "qos", "pmu0")["state"] == "ended"


def test_a_refusal_ends_with_1_and_the_networks_words(site: DeviceSite) -> None:
    result = run(site, "qos", "pmu0", "--profile", "QOS_NONE", "--server", SERVER)
    assert result.exit_code == 1
    assert "failed" in result.output
    assert "there is no profile 'QOS_NONE'" in result.output


def test_a_link_is_shown_as_the_network_sees_it(site: DeviceSite) -> None:
    shown = done(site, "link", "pmu1", "--parameters", "reachability,latency", "--server", SERVER, "--profile", "QOS_S")
    assert "yes" in shown
    assert "meets" in shown


def test_links_are_watched_once_or_line_by_line(site: DeviceSite) -> None:
    assert "pmu1" in done(site, "watch", "pmu1", "--once")
    assert site.watches("pmu1") == [], "the network tells no more once nobody looks"
    assert "pmu1" in done(site, "watch", "pmu1", "--once", "--keep")
    site.link("pmu1", covered=False)
    wait_until(lambda: "no" in done(site, "watch", "--once"))
    site.link("pmu1", covered=True)
    assert {each["name"] for each in told(site, "watch", "--once")} >= {"pmu1"}
    command = [sys.executable, "-m", "edgeflex_flow", "devices", *access(site), "watch", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert json.loads(process.stdout.readline())["name"]
        finally:
            process.terminate()


def test_groups_are_made_filled_shown_and_taken_away(site: DeviceSite) -> None:
    done(site, "group", "create", "south", "--owner", OWNER, "--profile", "QOS_L")
    done(site, "group", "add", "south", "pmu0", "pmu1")
    assert "2 member" in done(site, "group", "list")
    assert site.gpsi("pmu1") in done(site, "group", "show", "south")
    done(site, "group", "qos", "south", "--profile", "QOS_L", "--server", SERVER)
    assert {each["profile"] for each in site.sessions()} == {"QOS_L"}
    done(site, "group", "qos", "south", "--end")
    done(site, "group", "remove", "south", "pmu0")
    assert [each["gpsi"] for each in told(site, "group", "show", "south")["members"]] == [site.gpsi("pmu1")]
    done(site, "group", "delete", "south")
    assert told(site, "group", "list") == []


def test_what_was_asked_for_is_listed_waited_for_and_stands_in_the_log(site: DeviceSite) -> None:
    done(site, "qos", "pmu1", "--profile", "QOS_S", "--server", SERVER)
    [newest] = told(site, "operations", "--limit", "1")
    assert (newest["kind"], newest["target"]) == ("set_qos", site.gpsi("pmu1"))
    assert newest["id"] in done(site, "operations", "--state", "succeeded")
    assert "succeeded" in done(site, "operation", newest["id"])
    assert "there is no such operation" in run(site, "operation", "0" * 32).output
    assert [each["outcome"] for each in told(site, "audit", "--limit", "2")] == ["succeeded", "asked"]
    assert "set_qos" in done(site, "audit")


def test_what_an_operation_waits_for_is_told_on_standard_error(site: DeviceSite) -> None:
    site.behave(fail_status=503)
    command = [sys.executable, "-m", "edgeflex_flow", "devices", *access(site), "qos", "pmu1", "--end"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        site.behave()
        shown, _ = process.communicate(timeout=60.0)
    assert f"end_qos {site.gpsi('pmu1')} is under way: " in line
    assert "503" in line or "UNAVAILABLE" in line
    assert "succeeded" in shown


def test_profiles_of_the_network_are_listed(site: DeviceSite) -> None:
    assert "QOS_E" in done(site, "profiles")
    assert {each["name"] for each in told(site, "profiles")} >= {"QOS_E", "QOS_L"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["qos", "nobody", "--end"], "there is no device 'nobody'"),
        (["qos", "pmu0", "--profile", "QOS_L"], "give --profile and --server together"),
        (["qos", "pmu0", "--for", "2h"], "give --profile and --server together"),
        (["qos", "pmu0", "--profile", "QOS_L", "--end"], "--end gives the quality back"),
        (["onboard", "msisdn-49170", "--file", "none.csv"], "--file names all devices"),
        (["qos", "pmu0", "--profile", "QOS_L", "--server", "300.1.1.1"], "expected an IPv4 ADDRESS"),
        (["qos", "pmu0", "--profile", "QOS_L", "--server", "here:port"], "expected an IPv4 ADDRESS or ADDRESS:PORT"),
        (["qos", "pmu0", "--profile", "QOS_L", "--server", SERVER, "--for", "soon"], "got 'soon'"),
        (["onboard", "msisdn-4915550000001"], "give GPSI NAME --owner GROUP"),
        (["onboard", "4915550000001", "x", "--owner", OWNER], "gpsi"),
    ],
)
def test_what_is_wrong_is_said(site: DeviceSite, arguments: Sequence[str], words: str) -> None:
    result = run(site, *arguments)
    assert result.exit_code != 0
    assert words in result.output


def test_a_service_that_is_not_there_is_said_with_how_to_start_one() -> None:
    result = CliRunner().invoke(devices, ["--url", "http://127.0.0.1:1", "list"])
    assert result.exit_code == 1
    assert "is the service there? edgeflex serve devices" in result.output


def test_a_token_is_got_from_the_policy_system() -> None:
    with HttpService() as service:
        service.answers("/token", json_reply({"access_token": "granted", "expires_in": 300}))

        def listed(request: Request) -> Reply:
            assert request.headers["authorization"] == "Bearer granted"
            return json_reply({"devices": [], "after": None})

        service.script("/api/v1/devices", listed)
        environment = {"EDGEFLEX_POLICY_CLIENT": "grid", "EDGEFLEX_POLICY_SECRET": "its secret"}
        arguments = ["--url", service.url, "--policy", service.url, "list", "--json"]
        result = CliRunner().invoke(devices, arguments, env=environment)
        assert (result.exit_code, result.stdout) == (0, "[]\n")
        wait_until(lambda: service.of("/token"))
        assert service.of("/token")[0].headers["authorization"] == f"Basic {b64encode(b'grid:its%20secret').decode()}"

"""Deployments of `deploy/` as this machine can start them: the same files, in a folder of the test, on free ports."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
from broker import HOST, BrokerProcess, Listener, Mosquitto, wait_until
from certificates import Authority
from click.testing import CliRunner
from clusters import free_ports
from programs import find_program
from ruamel.yaml import YAML

from edgeflex_flow.cli.acl import acl
from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.flowfile.cluster import PROCESS_VARIABLE

DEPLOY = Path(__file__).parents[1] / "deploy"
FLOWS = DEPLOY.parent / "flows"
PASSWORD = "of the bus"
WATCHER = ("watcher", "watches")
DEVICES = tuple(f"edgepmu{number}" for number in range(6))


def acl_file(site: Path, only: str, environment: Mapping[str, str]) -> str:
    """What `edgeflex acl` prints for the databus of a site."""
    arguments = [str(site), "--connection", "databus", "--only", only]
    done = CliRunner().invoke(acl, arguments, obj=shipped_registry(), env=environment)
    assert done.exit_code == 0, done.output
    return done.stdout


class Deployed:
    """The files of one deployment where it would have them, with `/run/secrets` in the folder too."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder
        self.secrets = folder / "secrets"
        self.secrets.mkdir(mode=0o700)
        shutil.copytree(FLOWS, folder / "flows", ignore=shutil.ignore_patterns("sites", "tests"))
        shutil.copytree(DEPLOY / name / "sites", folder / "flows" / "sites")
        [self.site] = (folder / "flows" / "sites").iterdir()
        self._move_secrets(self.site)
        for file in DEPLOY.joinpath(name).glob("*.conf"):
            shutil.copy(file, folder)
            self._move_secrets(folder / file.name)
        self.secret("bus_password", PASSWORD)
        authority = Authority(folder)
        shutil.copy(authority.certificate, self.secrets / "ca.pem")
        self.certificate = authority.issue("bus")
        shutil.copy(self.certificate.certificate, self.secrets / "bus.pem")
        shutil.copy(self.certificate.key, self.secrets / "bus.key")

    def _move_secrets(self, file: Path) -> None:
        file.write_text(file.read_text().replace("/run/secrets", str(self.secrets)))

    def secret(self, name: str, text: str) -> None:
        file = self.secrets / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        file.chmod(0o600)

    def grant(self, environment: Mapping[str, str]) -> None:
        """Rights and passwords as the check lists make them, and a user of the test who may read all."""
        for only, name in (("acl", "bus.acl"), ("passwords", "bus.passwords")):
            self.secret(name, acl_file(self.site, only, environment))
        with (self.secrets / "bus.acl").open("a") as file:
            file.write(f"\nuser {WATCHER[0]}\ntopic read #\n")
        program = find_program("mosquitto_passwd")
        assert program is not None
        command = [program, "-b", str(self.secrets / "bus.passwords"), *WATCHER]
        subprocess.run(command, check=True, capture_output=True)

    @contextmanager
    def up(self, environment: Mapping[str, str], *more: str) -> Iterator[subprocess.Popen[bytes]]:
        """`edgeflex up`, which ends in order after the block."""
        command = [
            sys.executable,
            "-m",
            "edgeflex_flow",
            "up",
            str(self.site),
            "--state",
            str(self.folder / "up"),
            *more,
        ]
        with (self.folder / "up.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env={**os.environ, **environment}, stdout=log, stderr=log
            )
        try:
            yield process
            process.terminate()
            assert process.wait(30) == 0, self.log
        finally:
            process.kill()
            process.wait()

    @property
    def log(self) -> str:
        return (self.folder / "up.log").read_text(errors="replace")


class ConfiguredBus(BrokerProcess):
    """mosquitto with a deployment's own configuration, on a port and in a folder of the test."""

    def __init__(self, deployed: Deployed, more: Sequence[str] = ()) -> None:
        super().__init__(deployed.folder)
        self._text = (deployed.folder / "mosquitto.conf").read_text()
        self._more = more
        self.scheme = "mqtts" if "certfile" in self._text else "mqtt"

    def command(self) -> Sequence[str]:
        lines = self._text.replace("/mosquitto/data", str(self.folder)).splitlines()
        lines = [f"listener {self.port} {HOST}" if line.startswith("listener ") else line for line in lines]
        if os.geteuid() == 0:
            lines.insert(0, "user root")  # else it would give up the right to read its temporary folder
        config = self.folder / "as_started.conf"
        config.write_text("\n".join([*lines, *self._more]) + "\n")
        program = find_program("mosquitto")
        assert program is not None
        return [program, "-c", str(config)]


def makes_a_cluster(arguments: Sequence[str], cluster: str, region: str, probes: Sequence[str], folder: Path) -> None:
    """Two processes on this machine by a deployment's own arguments and files share the devices of a region.

    `cluster`, `region`: its files, with secrets that are there; `probes`: paths at which each process has to be well.
    """
    sites = folder / "flows" / "sites"
    sites.mkdir(parents=True)
    shutil.copy(FLOWS / Path(arguments[3]).name, folder / "flows")
    *ports, control, monitor0, monitor1 = free_ports(5)
    monitors = [f"127.0.0.1:{port}" for port in (monitor0, monitor1)]
    addresses = [f"127.0.0.1:{port}" for port in ports]
    told = {**YAML(typ="safe").load(cluster), "processes": addresses, "control_port": control}
    (sites / "cluster.yaml").write_text(json.dumps(told))
    lines = region.splitlines(keepends=True)
    (sites / "region.yaml").write_text("".join(line for line in lines if not line.strip().startswith("ca:")))
    arguments = arguments[: arguments.index("--monitor")]
    users = {"region": "of the bus", "pmus": "of the PMUs"}
    more = ["log_type subscribe"]
    with (
        Mosquitto(folder, users=users, more=more) as broker,
        Listener(broker, "#", user=("pmus", users["pmus"])) as listener,
    ):
        environment = {**os.environ, "BUS_URL": broker.url, "STATE": str(folder / "state")}
        with _processes(arguments, monitors, folder, environment) as processes:
            wait_until(lambda: "/edgeflex/+/ch0" in broker.log, 60.0)
            for device in DEVICES:
                _publish_rows(listener, device)
            wait_until(lambda: _devices_with_events(listener) == set(DEVICES), 30.0)
            for monitor in monitors:
                assert [httpx.get(f"http://{monitor}{path}").status_code for path in probes] == [200] * len(probes)
            processes[1].send_signal(signal.SIGTERM)
            assert [process.wait(30) for process in processes] == [0, 0]
    for number in range(2):
        summary = json.loads((folder / f"{number}.log").read_text().splitlines()[-1])
        assert summary["nodes"]["rocof"]["rows_out"] > 0, "each had its share"


def _publish_rows(listener: Listener, device: str) -> None:
    """Two seconds of a frequency that begins to fall, as an edgePMU tells it."""
    rows = [
        {"created": 1_700_000_000_000 + 20 * k, "frequency": 50.0 - max(0.0, k / 50 - 1.0) * 0.5, "amplitude": 325.0}
        for k in range(100)
    ]
    listener.publish(f"/edgeflex/{device}/ch0", json.dumps(rows).encode())


def _devices_with_events(listener: Listener) -> set[str]:
    told = [payload for topic, payload in listener.received if topic == "edgeflex/region/event/frequency_event"]
    return {json.loads(payload)["device"] for payload in told}


@contextmanager
def _processes(
    arguments: Sequence[str], monitors: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> Iterator[list[subprocess.Popen[bytes]]]:
    processes = []
    try:
        for number, monitor in enumerate(monitors):
            with (folder / f"{number}.log").open("wb") as log:
                command = [sys.executable, "-m", "edgeflex_flow", *arguments, "--monitor", monitor]
                told = {**environment, PROCESS_VARIABLE: str(number)}
                processes.append(subprocess.Popen(command, cwd=folder, env=told, stdout=log, stderr=log))
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()

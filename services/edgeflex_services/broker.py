"""A local MQTT broker for demos: mosquitto when the machine has it, else amqtt, in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from paho.mqtt.client import Client

from edgeflex_flow.errors import FatalError, how_to_install
from edgeflex_flow.tied import tied

START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 5.0
ALSO_LOOK_IN = ("/usr/sbin", "/usr/local/sbin")
"""Debian puts mosquitto where only root has it on the PATH."""


FORCE_BROKER = "EDGEFLEX_DEMO_BROKER"
"""Environment variable: `amqtt` takes the broker in Python even where mosquitto is installed."""


def find_mosquitto() -> str | None:
    """The path of mosquitto, or None."""
    if os.environ.get(FORCE_BROKER) == "amqtt":
        return None
    return shutil.which("mosquitto", path=os.pathsep.join([os.environ.get("PATH", ""), *ALSO_LOOK_IN]))


def free_tcp_port() -> int:
    """A port of the loopback interface that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def free_udp_port() -> int:
    """A UDP port of the loopback interface that nobody uses now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def hang_up(client: Client) -> None:
    """Disconnect a client of paho's that has a thread, and end that. Its callbacks go, so that nothing to which they
    belong keeps the client alive, and with it the sockets by which it woke its thread."""
    client.disconnect()
    client.loop_stop()
    client.on_connect = client.on_connect_fail = client.on_disconnect = None
    client.on_message = client.on_publish = client.on_subscribe = None
    client._reset_sockets()


class LocalBroker:
    """A broker on the loopback interface that forgets everything when it stops. Use it in a `with` statement.

    Raises FatalError when it does not answer in time, with what it said.
    """

    def __init__(self, folder: Path) -> None:
        self.port = free_tcp_port()
        self._folder = folder
        mosquitto = find_mosquitto()
        if mosquitto is None and importlib.util.find_spec("amqtt") is None:
            raise FatalError(
                f"neither mosquitto nor amqtt is installed: install mosquitto, or {how_to_install('demo')}"
            )
        self.name = "mosquitto" if mosquitto else "amqtt"
        self._command = (
            [mosquitto, "-c", str(folder / "mosquitto.conf")]
            if mosquitto
            else [sys.executable, "-m", "edgeflex_services.amqtt_broker", str(self.port)]
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> LocalBroker:
        (self._folder / "mosquitto.conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n"
            # Started by root it would become another user, and with that drop its tie to this process.
            + ("user root\n" if os.geteuid() == 0 else "")
        )
        with (self._folder / "broker.log").open("wb") as log:
            # A session of its own: Ctrl-C in the terminal must not end it before what uses it.
            self._process = subprocess.Popen(
                tied(*self._command),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._wait_until_it_answers()
        return self

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process is not None and self._process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1.0):
                    return
            except OSError:
                time.sleep(0.05)
        said = (self._folder / "broker.log").read_text(errors="replace")[-500:]
        self.__exit__()
        raise FatalError(f"the broker {self.name} does not answer on 127.0.0.1:{self.port}; it said: {said}")

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

"""MQTT brokers for tests: real ones, each in its own process on a free port, with everything in a temporary folder.

with Mosquitto(tmp_path) as broker:
    url = broker.url
    broker.kill()
    broker.start()
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from certificates import KeyPair
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from programs import find_program

from edgeflex_connectors.mqtt_session import MqttSession
from edgeflex_flow.messages import Alarm
from edgeflex_services.broker import hang_up

HOST = "127.0.0.1"
START_TIMEOUT_S = 20.0
ATTEMPTS = 5


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


class BrokerProcess:
    """A broker in a process of its own. Keeps its port over restarts."""

    scheme = "mqtt"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://{HOST}:{self.port}"

    def command(self) -> Sequence[str]:
        """The command line, after writing the files that it names."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the broker and wait until it takes connections."""
        fixed = self.port != 0
        for attempt in range(1, ATTEMPTS + 1):
            self.port = self.port if fixed else free_port()
            if self._start_once():
                return
            self.stop()
            assert attempt < ATTEMPTS, f"the broker does not start: {self.log}"
            time.sleep(0.2)

    def _start_once(self) -> bool:
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                return False  # the port was taken meanwhile, most likely
            try:
                socket.create_connection((HOST, self.port), timeout=1.0).close()
                return True
            except OSError:
                time.sleep(0.02)
        return False

    @property
    def _log_file(self) -> Path:
        return self.folder / f"{type(self).__name__.lower()}.log"

    @property
    def log(self) -> str:
        return self._log_file.read_text(errors="replace")

    def reload(self) -> None:
        """Have the broker read its files of users and rights again."""
        assert self._process is not None
        before = self.log.count("Reloading config")
        self._process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.log.count("Reloading config") > before)

    def stop(self) -> None:
        """End the broker in an orderly way."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the broker as a power failure would."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.stop()


class Mosquitto(BrokerProcess):
    """Eclipse Mosquitto.

    `users`: names and passwords; without them and a `password_file` anyone may connect. `acl_file`: what each may do.
    `tls`: the broker's certificate; `client_ca`: the authority by which clients must show a certificate. `persistent`:
    keeps sessions and messages over `stop`. `more`: further lines of its configuration.
    """

    def __init__(
        self,
        folder: Path,
        *,
        users: Mapping[str, str] | None = None,
        tls: KeyPair | None = None,
        client_ca: Path | None = None,
        persistent: bool = False,
        password_file: Path | None = None,
        acl_file: Path | None = None,
        more: Sequence[str] = (),
    ) -> None:
        super().__init__(folder)
        self._given_passwords = password_file
        self._acl_file = acl_file
        self._users = users
        self._tls = tls
        self._client_ca = client_ca
        self._persistent = persistent
        self._more = more
        self.scheme = "mqtt" if tls is None else "mqtts"

    def command(self) -> Sequence[str]:
        config = self.folder / "mosquitto.conf"
        config.write_text("\n".join(self._settings()) + "\n")
        return [_program("mosquitto"), "-c", str(config)]

    def _settings(self) -> list[str]:
        # By default it drops what a subscriber cannot take at once, which no test means to test.
        lines = [
            "max_queued_messages 0",
            "per_listener_settings false",
            f"allow_anonymous {str(self._users is None and self._given_passwords is None).lower()}",
        ]
        if self._given_passwords is not None:
            lines.append(f"password_file {self._given_passwords}")
        if self._acl_file is not None:
            lines.append(f"acl_file {self._acl_file}")
        if os.geteuid() == 0:
            lines.append("user root")  # else it would give up the right to read its temporary folder
        if self._users is not None:
            lines.append(f"password_file {self._password_file(self._users)}")
        if self._persistent:
            lines += ["persistence true", f"persistence_location {self.folder}/"]
        lines.append(f"listener {self.port} {HOST}")
        if self._tls is not None:
            lines += [f"certfile {self._tls.certificate}", f"keyfile {self._tls.key}"]
        lines += self._more
        if self._client_ca is not None:
            lines += [f"cafile {self._client_ca}", "require_certificate true"]
        return lines

    def _password_file(self, users: Mapping[str, str]) -> Path:
        file = self.folder / "passwords"
        file.touch(mode=0o600)
        for name, password in users.items():
            command = [_program("mosquitto_passwd"), "-b", str(file), name, password]
            subprocess.run(command, check=True, capture_output=True)
        return file


class MosquittoWithRights(Mosquitto):
    """Mosquitto whose users' rights change while it runs. The user `grid` (password `secret`) may do everything until
    `revoke`."""

    def __init__(self, folder: Path) -> None:
        (plugin,) = Path("/usr/lib").glob("*/mosquitto_dynamic_security.so")
        self._rights = folder / "rights.json"
        settings = [f"plugin {plugin}", f"plugin_opt_config_file {self._rights}"]
        super().__init__(folder, more=settings)

    def command(self) -> Sequence[str]:
        if not self._rights.exists():
            command = [_program("mosquitto_ctrl"), "dynsec", "init", str(self._rights), "admin", "admin"]
            subprocess.run(command, check=True, capture_output=True)
        return [part.replace("\0", "") for part in super().command()]

    def _settings(self) -> list[str]:
        return ["allow_anonymous false" if "allow_anonymous" in line else line for line in super()._settings()]

    def start(self) -> None:
        is_new = not self._rights.exists()
        super().start()
        if is_new:
            self.control("createClient", "grid", "-p", "secret")
            self.control("createRole", "all")
            for right in ("publishClientSend", "publishClientReceive", "subscribePattern"):
                self.grant(right)
            self.control("addClientRole", "grid", "all", "1")

    def control(self, *arguments: str) -> None:
        command = [_program("mosquitto_ctrl"), "-h", HOST, "-p", str(self.port), "-u", "admin", "-P", "admin", "dynsec"]
        subprocess.run([*command, *arguments], check=True, capture_output=True)

    def grant(self, right: str) -> None:
        self.control("addRoleACL", "all", right, "#", "allow", "1")

    def revoke(self, right: str) -> None:
        """Take the right away: `publishClientSend`, `publishClientReceive` or `subscribePattern`."""
        self.control("removeRoleACL", "all", right, "#")


class Amqtt(BrokerProcess):
    """aMQTT: a broker in Python, from this environment. `taboo`: nobody may subscribe to the topic `prohibited`."""

    def __init__(self, folder: Path, *, taboo: bool = False) -> None:
        super().__init__(folder)
        self._taboo = taboo

    def command(self) -> Sequence[str]:
        config = self.folder / "amqtt.yaml"
        plugins: dict[str, object] = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
        if self._taboo:
            plugins["amqtt.plugins.topic_checking.TopicTabooPlugin"] = {}
        settings = {
            "listeners": {"default": {"type": "tcp", "bind": f"{HOST}:{self.port}"}},
            "plugins": plugins,
        }
        config.write_text(json.dumps(settings))  # JSON is YAML
        return [sys.executable, "-m", "amqtt.scripts.broker_script", "-c", str(config)]


def wait_until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait until the condition holds; AssertionError if it never does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"did not happen within {timeout_s:g} s"
        time.sleep(0.005)


def cut(session: MqttSession) -> None:
    """End the connection of a session as a broken network does; nothing if it has none."""
    connection = session.client.socket()
    if isinstance(connection, socket.socket):
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def alarm(number: int) -> Alarm:
    """A message that is known by its number."""
    return Alarm(source="test", severity="info", text=str(number), time_ns=number)


def numbers(received: Sequence[tuple[str, bytes]]) -> list[int]:
    """The numbers of such messages, as they came."""
    return [json.loads(payload)["time_ns"] for _, payload in received]


class Listener:
    """A plain paho client that keeps what comes on a topic filter, as (topic, payload)."""

    def __init__(
        self,
        broker: BrokerProcess,
        topic: str = "#",
        *,
        qos: int = 1,
        session: str = "",
        reconnect_s: float = 0.05,
        user: tuple[str, str] | None = None,
    ) -> None:
        self.received: list[tuple[str, bytes]] = []
        self.subscriptions = 0
        self._topic, self._qos = topic, qos
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=session, clean_session=not session)
        self._client.reconnect_delay_set(reconnect_s, reconnect_s)  # type: ignore[arg-type]
        if user is not None:
            self._client.username_pw_set(*user)
        self._client.on_connect = self._subscribe
        self._client.on_subscribe = self._subscribed
        self._client.on_message = self._keep
        self._client.connect(HOST, broker.port)
        self._client.loop_start()
        wait_until(lambda: self.subscriptions)

    def _subscribe(self, client: Client, _userdata: Any, _flags: Any, _reason: Any, _properties: Any) -> None:
        client.subscribe(self._topic, self._qos)

    def _subscribed(self, _client: Client, _userdata: Any, _mid: int, _reasons: Any, _properties: Any) -> None:
        self.subscriptions += 1

    def _keep(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        self.received.append((message.topic, bytes(message.payload)))

    def publish(self, topic: str, payload: bytes, qos: int = 1, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos, retain).wait_for_publish(10.0)

    def wait_for(self, count: int) -> list[tuple[str, bytes]]:
        wait_until(lambda: len(self.received) >= count)
        return self.received

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        hang_up(self._client)


def _program(name: str) -> str:
    path = find_program(name)
    assert path is not None, f"mark the test with @pytest.mark.needs('{name}')"
    return path

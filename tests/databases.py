"""Database servers for tests: real ones, each in its own process on a free port, with its data in a temporary folder.

with Postgres() as server:
    config = server.config(database="test")
    server.kill()
    server.start()
"""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psycopg
from broker import BrokerProcess, free_port
from certificates import KeyPair
from programs import find_program

from edgeflex_connectors.influxdb import InfluxdbConfig
from edgeflex_connectors.postgres import PostgresConfig

OWNER = "postgres"
"""Who runs PostgreSQL where the tests are root, as whom it refuses to run."""
PASSWORD = "not-a-secret"


class Postgres(BrokerProcess):
    """PostgreSQL with the user `flow`. Its folder is its own: the server's user must be able to enter it."""

    scheme = "postgresql"

    def __init__(self, *, tls: KeyPair | None = None, settings: Sequence[str] = ()) -> None:
        super().__init__(Path(tempfile.mkdtemp(prefix="edgeflex-postgres-")))
        self._tls = tls
        self._settings = settings
        self._as_owner: list[str] = []
        if os.geteuid() == 0:
            self._as_owner = ["setpriv", f"--reuid={OWNER}", f"--regid={OWNER}", "--clear-groups"]
            shutil.chown(self.folder, OWNER, OWNER)
        self._initialise()

    def _run(self, *command: str) -> None:
        subprocess.run([*self._as_owner, *command], check=True, capture_output=True, cwd=self.folder)

    def _initialise(self) -> None:
        data, initdb = self.folder / "data", find_program("initdb")
        assert initdb is not None
        (self.folder / "password").write_text(PASSWORD)
        (self.folder / "password").chmod(0o644)
        self._run(
            initdb, "-D", str(data), "-U", "flow", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8",
            f"--pwfile={self.folder / 'password'}", "--no-sync",
        )  # fmt: skip
        if self._tls is not None:
            for file, name in ((self._tls.certificate, "server.crt"), (self._tls.key, "server.key")):
                shutil.copy(file, data / name)
                (data / name).chmod(0o600)
                if self._as_owner:
                    shutil.chown(data / name, OWNER, OWNER)

    def command(self) -> Sequence[str]:
        program = find_program("postgres")
        assert program is not None
        settings = [
            f"port={self.port}",
            "listen_addresses=127.0.0.1",
            f"unix_socket_directories={self.folder}",
            f"ssl={'off' if self._tls is None else 'on'}",
            "max_connections=40",
            *self._settings,
        ]
        return [*self._as_owner, program, "-D", str(self.folder / "data"), *(f"--{each}" for each in settings)]

    def start(self) -> None:
        super().start()
        deadline = time.monotonic() + 20.0
        while True:
            try:
                self.connect("postgres").close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, self.log
                time.sleep(0.02)

    def stop(self) -> None:
        self._end(signal.SIGINT)  # does not wait for clients

    def connect(self, database: str) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, dbname=database, user="flow", password=PASSWORD, autocommit=True
        )

    def make_database(self, name: str) -> None:
        with self.connect("postgres") as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())

    def config(self, database: str, **fields: Any) -> PostgresConfig:
        wanted: dict[str, Any] = {"username": "flow", "password": PASSWORD, "tls": "off", **fields}
        return PostgresConfig(url=f"{self.url}/{database}", **wanted)

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        super().__exit__(_type, _error, _traceback)
        shutil.rmtree(self.folder, ignore_errors=True)


class Influxdb(BrokerProcess):
    """InfluxDB 1 with the administrator `flow`, and `guest` who may nothing."""

    def __init__(self, folder: Path, *, tls: KeyPair | None = None, largest_body: int = 25_000_000) -> None:
        super().__init__(folder)
        self._tls = tls
        self._largest_body = largest_body
        self._rpc_port = free_port()
        self.scheme = "http" if tls is None else "https"

    def command(self) -> Sequence[str]:
        program = find_program("influxd")
        assert program is not None
        config = self.folder / "influxdb.conf"
        tls = ""
        if self._tls is not None:
            files = (f'https-certificate = "{self._tls.certificate}"', f'https-private-key = "{self._tls.key}"')
            tls = "\n".join(("https-enabled = true", *files))
        config.write_text(f"""
bind-address = "127.0.0.1:{self._rpc_port}"
reporting-disabled = true
[meta]
dir = "{self.folder}/meta"
[data]
dir = "{self.folder}/data"
wal-dir = "{self.folder}/wal"
index-version = "tsi1"
query-log-enabled = false
[monitor]
store-enabled = false
[subscriber]
enabled = false
[continuous_queries]
enabled = false
[http]
bind-address = "127.0.0.1:{self.port}"
auth-enabled = true
log-enabled = false
max-body-size = {self._largest_body}
{tls}
""")
        return [program, "-config", str(config)]

    def start(self) -> None:
        first = not self.port
        super().start()
        if first:
            self.ask(f"CREATE USER flow WITH PASSWORD '{PASSWORD}' WITH ALL PRIVILEGES", user=None)
            self.ask(f"CREATE USER guest WITH PASSWORD '{PASSWORD}'")

    def ask(self, statement: str, *, user: str | None = "flow", database: str = "") -> Any:
        """What the server answers."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        response = httpx.post(
            f"{self.url}/query",
            params={"db": database, "epoch": "ns"},
            data={"q": statement},
            auth=None if user is None else (user, PASSWORD),
            verify=context,
            trust_env=False,
        )
        return response.json()

    def config(self, database: str, **fields: Any) -> InfluxdbConfig:
        return InfluxdbConfig(
            url=fields.pop("url", self.url), database=database, **{"username": "flow", "password": PASSWORD, **fields}
        )

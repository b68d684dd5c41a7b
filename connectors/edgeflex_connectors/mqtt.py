"""`mqtt`: a connection to an MQTT broker, with or without TLS."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Iterator
from typing import Annotated, TypeAlias
from urllib.parse import SplitResult, urlsplit

from msgspec import Meta

from edgeflex_connectors.mqtt_session import Broker, MqttSession
from edgeflex_flow.errors import FatalError, FieldError
from edgeflex_flow.node import ConnectionNode, Context, NodeConfig, login, path, quantity
from edgeflex_flow.node import url as broker_url

PemFile: TypeAlias = Annotated[str, path("A file in PEM format.")]

DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}


class MqttConfig(NodeConfig, frozen=True, kw_only=True):
    """A broker that speaks MQTT 3.1.1, plain (`mqtt://`) or over TLS (`mqtts://`).

    With TLS the broker's certificate must be signed by `ca` (or by an authority that the system trusts) and name the
    host of the url. Each node that uses the connection is a client of its own; a lost connection is made again, with
    waits that double from `reconnect_min` to `reconnect_max`.

    Input:
        None: nodes name the connection in their field `bus`.

    Output:
        None.

    Errors:
        A broker that is away (refused, unreachable, no answer, host name unknown) stops nothing: the flow starts,
        the client keeps trying and says so in the log at growing intervals; `reconnects` counts.
        FatalError when trying again cannot help: user or password refused, a certificate from an unknown authority,
        expired or for another host, a file of `ca`, `certificate` or `key` that cannot be read. A certificate that is
        not valid *yet* is tried again, because a computer may learn the time after it starts.

    Source:
        MQTT Version 3.1.1, OASIS Standard, 29 October 2014.

    >>> MqttConfig(url="mqtt://bus.example", username="pmu", password="secret")
    MqttConfig(url='mqtt://bus.example', username='pmu')
    """

    url: Annotated[
        str,
        broker_url(
            "mqtt://host:port or mqtts://host:port; ports 1883 and 8883.",
            DEFAULT_PORTS,
            example="mqtt://127.0.0.1:1883",
        ),
    ]
    username: Annotated[str | None, login("user", "User name for the broker.")] = None
    password: Annotated[str | None, login("password", "Password of the user.")] = None
    ca: Annotated[
        PemFile | None, Meta(description="Certificates of the authorities to trust; the system's if not given.")
    ] = None
    certificate: Annotated[PemFile | None, Meta(description="Certificate by which this client shows who it is.")] = None
    key: Annotated[PemFile | None, Meta(description="Private key, without passphrase, of `certificate`.")] = None
    client_id: Annotated[
        str, Meta(pattern=r"^[0-9A-Za-z_.-]*$", description="How the ids of this site's clients begin.")
    ] = "edgeflex"
    keepalive: Annotated[float, quantity("s", "Longest silence before the connection is tested.", ge=1, le=65535)] = 30
    connect_timeout: Annotated[float, quantity("s", "How long an attempt to connect may take.", gt=0, le=60)] = 5
    reconnect_min: Annotated[float, quantity("s", "Wait before the first new attempt.", gt=0, le=60)] = 0.5
    reconnect_max: Annotated[float, quantity("s", "Longest wait between attempts.", gt=0, le=3600)] = 30

    def refusals(self) -> Iterator[FieldError]:
        yield from self._url_refusals()
        if (self.certificate is None) != (self.key is None):
            yield FieldError("`certificate` and `key` must be given together", "certificate", "key")
        if self.password is not None and self.username is None:
            yield FieldError("`password` needs a `username`", "password", "username")
        if self.reconnect_max < self.reconnect_min:
            text = "`reconnect_max` must not be less than `reconnect_min`"
            yield FieldError(text, "reconnect_max", "reconnect_min")

    def _url_refusals(self) -> Iterator[FieldError]:
        try:
            split = _split(self.url)
        except ValueError as error:
            yield FieldError(str(error), "url")
            return
        given = [name for name in ("ca", "certificate", "key") if getattr(self, name)]
        if split.scheme != "mqtts" and given:
            yield FieldError("`ca`, `certificate` and `key` need an url that begins with mqtts://", *given, "url")

    def __repr__(self) -> str:
        """Only what tells the connection; never the password."""
        user = "" if self.username is None else f", username={self.username!r}"
        return f"MqttConfig(url={self.url!r}{user})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("url", self.url), ("username", self.username, None)]  # type: ignore[list-item]


def _split(url: str) -> SplitResult:
    """The parts of an url that is known to be good. The text of the ValueError never holds user or password."""
    split = urlsplit(url)
    if split.scheme not in DEFAULT_PORTS:
        raise ValueError(f"`url` must begin with mqtt:// or mqtts://; got '{split.scheme}'")
    if "@" in split.netloc:
        raise ValueError("`url` must not hold a user; use `username` and `password`")
    if not split.hostname:
        raise ValueError(f"`url` names no host; got '{url}'")
    if split.path.strip("/") or split.query or split.fragment:
        raise ValueError(f"`url` ends after the port; got '{url}'")
    try:
        port = split.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError(f"`url`: the port is a number from 1 to 65535; got '{url}'")
    return split


class _TlsSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails: paho would leave that to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def _no_passphrase() -> str:
    """Stands for a passphrase that nobody is there to type: without it OpenSSL would ask on the terminal."""
    return ""


def tls_context(config: MqttConfig, context: Context, name: str) -> ssl.SSLContext:
    """TLS as the config wants it. FatalError names the file that cannot be used."""
    ca = None if config.ca is None else str(context.resolve(config.ca))
    try:
        tls = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise FatalError(f"{name}: ca '{ca}' cannot be read: {error.strerror or error}") from error
    tls.sslsocket_class = _TlsSocket
    if config.certificate is not None and config.key is not None:
        certificate, key = str(context.resolve(config.certificate)), str(context.resolve(config.key))
        try:
            tls.load_cert_chain(certificate, key, password=_no_passphrase)
        except OSError as error:
            raise FatalError(
                f"{name}: certificate '{certificate}' with key '{key}' cannot be used: {error.strerror or error}"
            ) from error
    return tls


def _client_id(config: MqttConfig, context: Context) -> str:
    """Tells site, flow and node. The random end keeps two runs of one flow from closing each other's connection."""
    parts = (config.client_id, context.site, context.flow, context.node, secrets.token_hex(3))
    return "-".join(part for part in parts if part)


def open_session(config: MqttConfig, context: Context) -> MqttSession:
    """A session with the broker, not started yet."""
    names = [each.name for each in context.connections.values() if each.config is config]
    name = names[0] if names else "mqtt"
    split = _split(config.url)
    secure = split.scheme == "mqtts"
    return MqttSession(
        Broker(
            name=name,
            url=config.url,
            host=split.hostname or "",
            port=split.port or DEFAULT_PORTS[split.scheme],
            client_id=_client_id(config, context),
            username=config.username,
            password=config.password,
            tls=tls_context(config, context, f"{name} {config.url}") if secure else None,
            trust=f"'{context.resolve(config.ca)}'" if config.ca else "the system's authorities",
            shows_certificate=config.certificate is not None,
            keepalive_s=config.keepalive,
            connect_timeout_s=config.connect_timeout,
            reconnect_min_s=config.reconnect_min,
            reconnect_max_s=config.reconnect_max,
        ),
        context,
    )


NODE = ConnectionNode(kind="mqtt", config=MqttConfig, family="bus", open=open_session)

"""`mqtt`: a connection to an MQTT broker, with or without TLS."""

from __future__ import annotations

import ssl
import string
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import SplitResult

from msgspec import Meta, field

from edgeflex_connectors.folders import free_bytes
from edgeflex_connectors.mqtt_broker import Broker
from edgeflex_connectors.mqtt_probe import try_broker
from edgeflex_connectors.mqtt_session import MqttSession
from edgeflex_connectors.tls import load_client_certificate
from edgeflex_connectors.topics import TopicMap
from edgeflex_connectors.urls import split_url
from edgeflex_flow.errors import FatalError, FieldError
from edgeflex_flow.node import ConnectionNode, Context, NodeConfig, Probe, login, path, quantity
from edgeflex_flow.node import url as broker_url

Name: TypeAlias = Annotated[str, Meta(min_length=1)]
PemFile: TypeAlias = Annotated[str, path("A file in PEM format.")]

DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}
STATUS_PLACEHOLDERS = ("site", "flow", "node")
TLS_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class MqttConfig(NodeConfig, frozen=True, kw_only=True):
    """A broker that speaks MQTT 3.1.1 or 5, plain (`mqtt://`) or over TLS (`mqtts://`).

    With TLS the broker's certificate must be signed by `ca` (or by an authority that the system trusts) and name the
    host of the url, or `server_name`. Each node that uses the connection is a client of its own, whose id
    `CLIENT_ID-SITE-FLOW-NODE` stays the same from run to run. Brokers close the older of two clients with one id: to
    run a flow twice, give the sites different names or the connections different `client_id`s. A lost connection is
    made again, with waits that double from `reconnect_min` to `reconnect_max` and differ by up to a fifth at random.

    With `status_topic` each client tells there, retained, whether it is there: `{"type": "status", "state": "online"}`
    once it is connected, `stopped` when the flow has ended in order, and `lost` (the last will, sent by the broker)
    when it went otherwise; beside the state stand site, flow, node and version.

    `outbox` is a folder for what nodes could not publish yet; see `mqtt_publish`. `topics` and `topic_prefix` describe
    a broker whose topics are called otherwise than those of the flows: `topics` replaces a topic or its first levels,
    then `topic_prefix`, which ends with `/`, is put before. A topic that begins with `/` keeps it (`north//a`) unless
    `topics` gives it a name without (`/a: a`). Sources give the topics in the flow's names again.

    Input:
        None: nodes name the connection in their field `bus`.

    Output:
        None.

    Errors:
        A broker that is away (refused, unreachable, no answer, host name unknown, busy) stops nothing: the flow starts,
        the client keeps trying and says so in the log at growing intervals; `reconnects` counts.
        FatalError when trying again cannot help: user or password refused, a certificate from an unknown authority,
        expired or for another host, the client's own certificate refused, a version of MQTT that the broker does not
        speak, a file of `ca`, `certificate` or `key` that cannot be read. A certificate that is not valid *yet* is
        tried again, because a computer may learn the time after it starts. With MQTT 5 messages say why the broker
        ended a connection.

    Source:
        MQTT Version 3.1.1, OASIS Standard, 29 October 2014; MQTT Version 5.0, OASIS Standard, 7 March 2019.

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
    version: Annotated[Literal["3.1.1", "5", 5], Meta(description="Version of MQTT: 3.1.1 or 5.")] = "3.1.1"
    username: Annotated[str | None, login("user", "User name for the broker.")] = None
    password: Annotated[str | None, login("password", "Password of the user.")] = None
    ca: Annotated[
        PemFile | None, Meta(description="Certificates of the authorities to trust; the system's if not given.")
    ] = None
    certificate: Annotated[PemFile | None, Meta(description="Certificate by which this client shows who it is.")] = None
    key: Annotated[PemFile | None, Meta(description="Private key, without passphrase, of `certificate`.")] = None
    server_name: Annotated[
        Name | None, Meta(description="Host that the broker's certificate names, if not that of the url.")
    ] = None
    tls_minimum: Annotated[Literal["1.2", "1.3"], Meta(description="Oldest version of TLS to accept.")] = "1.2"
    client_id: Annotated[
        str, Meta(pattern=r"^[0-9A-Za-z_.-]*$", description="How the ids of this site's clients begin.")
    ] = "edgeflex"
    keepalive: Annotated[float, quantity("s", "Longest silence before the connection is tested.", ge=1, le=65535)] = 30
    connect_timeout: Annotated[float, quantity("s", "How long an attempt to connect may take.", gt=0, le=60)] = 5
    reconnect_min: Annotated[float, quantity("s", "Wait before the first new attempt.", gt=0, le=60)] = 0.5
    reconnect_max: Annotated[float, quantity("s", "Longest wait between attempts.", gt=0, le=3600)] = 30
    status_topic: Annotated[
        Name | None,
        Meta(
            description="Topic that tells whether a client is there; {site}, {flow}, {node} are filled in.",
            extra={"topics": "publish", "bus": None},
        ),
    ] = None
    topic_prefix: Annotated[
        str, Meta(description="What this broker's topics begin with, before those of the flows: `north/`.")
    ] = ""
    topics: Annotated[
        dict[str, str], Meta(description="Names of this broker by the flows' topics, whole or their first levels.")
    ] = field(default_factory=dict)
    outbox: Annotated[
        Annotated[str, path("A folder.")] | None,
        Meta(description="Folder in which nodes keep what they could not publish yet; in memory only if not given."),
    ] = None
    outbox_size: Annotated[
        float, quantity("B", "Most that one node keeps there; beyond that the oldest go.", ge=65536, le=2.0**40)
    ] = 256 * 1024.0 * 1024.0
    outbox_age: Annotated[float, quantity("s", "How long it is kept there.", gt=0, le=31_536_000)] = 86400

    def refusals(self) -> Iterator[FieldError]:
        yield from self._url_refusals()
        if (self.certificate is None) != (self.key is None):
            yield FieldError("`certificate` and `key` must be given together", "certificate", "key")
        if self.password is not None and self.username is None:
            yield FieldError("`password` needs a `username`", "password", "username")
        if self.reconnect_max < self.reconnect_min:
            text = "`reconnect_max` must not be less than `reconnect_min`"
            yield FieldError(text, "reconnect_max", "reconnect_min")
        yield from self._status_refusals()
        yield from TopicMap(self.topic_prefix, self.topics).refusals()

    def _status_refusals(self) -> Iterator[FieldError]:
        if self.status_topic is None:
            return
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(self.status_topic) if name is not None]
        except ValueError as error:
            yield FieldError(f"`status_topic`: {error}", "status_topic", got=f"'{self.status_topic}'")
            return
        unknown = [name for name in names if name not in STATUS_PLACEHOLDERS]
        if unknown:
            known = [f"{{{name}}}" for name in STATUS_PLACEHOLDERS]
            yield FieldError(f"`status_topic`: no placeholder '{{{unknown[0]}}}'", "status_topic", known=known)
        elif not {"flow", "node"} <= set(names):
            text = "`status_topic` needs {flow} and {node}: each node is a client of its own"
            yield FieldError(text, "status_topic", got=f"'{self.status_topic}'")
        if any(character in self.status_topic for character in "+#\0"):
            yield FieldError("`status_topic` holds no wildcards", "status_topic", got=f"'{self.status_topic}'")

    def _url_refusals(self) -> Iterator[FieldError]:
        try:
            split = _split(self.url)
        except ValueError as error:
            yield FieldError(str(error), "url")
            return
        given = [name for name in ("ca", "certificate", "key", "server_name") if getattr(self, name)]
        if split.scheme != "mqtts" and given:
            names = "`ca`, `certificate`, `key` and `server_name`"
            yield FieldError(f"{names} need an url that begins with mqtts://", *given, "url")

    def __repr__(self) -> str:
        """Only what tells the connection; never the password."""
        user = "" if self.username is None else f", username={self.username!r}"
        return f"MqttConfig(url={self.url!r}{user})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("url", self.url), ("username", self.username, None)]  # type: ignore[list-item]


def _split(url: str) -> SplitResult:
    return split_url(url, DEFAULT_PORTS, "mqtt:// or mqtts://")


class _TlsSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails: paho would leave that to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


class _TlsContext(ssl.SSLContext):
    """Checks the broker's certificate against another name than that of the url, if there is one."""

    server_name: str | None = None

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        if self.server_name is not None:
            options["server_hostname"] = self.server_name
        return super().wrap_socket(*arguments, **options)


def tls_context(config: MqttConfig, context: Context, name: str) -> ssl.SSLContext:
    """TLS as the config wants it. FatalError names the file that cannot be used."""
    ca = None if config.ca is None else str(context.resolve(config.ca))
    tls = _TlsContext(ssl.PROTOCOL_TLS_CLIENT)  # which checks certificate and host name
    tls.server_name = config.server_name
    tls.minimum_version = TLS_VERSIONS[config.tls_minimum]
    try:
        if ca is None:
            tls.load_default_certs()
        else:
            tls.load_verify_locations(ca)
    except OSError as error:
        raise FatalError(f"{name}: ca '{ca}' cannot be read: {error.strerror or error}") from error
    tls.sslsocket_class = _TlsSocket
    load_client_certificate(tls, config.certificate, config.key, context, name)
    return tls


def _client_id(config: MqttConfig, context: Context) -> str:
    """Tells site, flow and node, and stays the same: brokers keep sessions and rights by it."""
    parts = (config.client_id, context.site, context.flow, context.node)
    return "-".join(part for part in parts if part)


def open_session(config: MqttConfig, context: Context) -> MqttSession:
    """A session with the broker, not started yet."""
    names = [each.name for each in context.connections.values() if each.config is config]
    return MqttSession(broker_of(config, context, names[0] if names else "mqtt"), context)


def broker_of(config: MqttConfig, context: Context, name: str) -> Broker:
    """The broker that a connection describes."""
    split = _split(config.url)
    secure = split.scheme == "mqtts"
    topics = TopicMap(config.topic_prefix, config.topics)
    status = {"site": context.site, "flow": context.flow, "node": context.node}
    status_topic = None
    if config.status_topic is not None:
        status_topic = topics.outward(config.status_topic.format(**status))
    return Broker(
        name=name,
        url=config.url,
        host=split.hostname or "",
        port=split.port or DEFAULT_PORTS[split.scheme],
        client_id=_client_id(config, context),
        is_v5=str(config.version) == "5",
        username=config.username,
        password=config.password,
        tls=tls_context(config, context, f"{name} {config.url}") if secure else None,
        trust=f"'{context.resolve(config.ca)}'" if config.ca else "the system's authorities",
        certificate=None if config.certificate is None else str(context.resolve(config.certificate)),
        topics=topics,
        status_topic=status_topic,
        status=status,
        keepalive_s=config.keepalive,
        connect_timeout_s=config.connect_timeout,
        reconnect_min_s=config.reconnect_min,
        reconnect_max_s=config.reconnect_max,
    )


def topics_of(config: MqttConfig, topic: str) -> tuple[str, ...]:
    """What this broker calls the topics of a filter of the flows."""
    return TopicMap(config.topic_prefix, config.topics).filters_outward(topic)


def probe(config: MqttConfig, context: Context) -> Probe:
    """Look at the outbox, then connect, log in and leave, as a client of its own whose session ends with it."""
    room = "" if config.outbox is None else f", {_room(config.outbox, config, context)}"
    found = try_broker(broker_of(config, context, context.node))
    return replace(found, peer=found.peer + room)


def _room(outbox: str, config: MqttConfig, context: Context) -> str:
    """What is free in the outbox. FatalError when it cannot be written, or has less room than a node may need."""
    folder = context.resolve(outbox) / context.site / context.flow
    free = free_bytes(folder, f"{context.node}: outbox")
    if free < config.outbox_size:
        text = f"{_mib(free)} free, less than the `outbox_size` of {_mib(config.outbox_size)} that one node may need"
        raise FatalError(f"{context.node}: outbox '{folder}': {text}")
    return f"{_mib(free)} free for the outbox"


def _mib(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"


NODE = ConnectionNode(kind="mqtt", config=MqttConfig, family="bus", open=open_session, probe=probe, topics_of=topics_of)

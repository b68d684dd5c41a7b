"""What is known of an MQTT broker, and what its answers and failures mean."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field
from typing import Any

from paho.mqtt.reasoncodes import ReasonCode

from edgeflex_connectors.topics import TopicMap
from edgeflex_flow.errors import EdgeflexError, FatalError, RetryableError

X509_V_ERR_CERT_NOT_YET_VALID = 9

REFUSED_FOR_NOW = frozenset(
    {
        "Server unavailable",
        "Server busy",
        "Server shutting down",
        "Quota exceeded",
        "Connection rate exceeded",
        "Use another server",
        "Unspecified error",
        "Implementation specific error",
    }
)
OTHER_REASONS = {0x95: "packet too large", 0x97: "quota exceeded", 0x99: "payload format invalid"}
REFUSED_THE_USER = frozenset({"Bad user name or password", "Not authorized", "Banned"})
REFUSED_THE_VERSION = "Unsupported protocol version"


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """Where a broker is and how to speak to it. `name` is the connection's name in the site file."""

    name: str
    url: str
    host: str
    port: int
    client_id: str
    is_v5: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    trust: str = ""
    """What the broker's certificate is checked against, for people."""
    certificate: str | None = None
    """File of the client's own certificate, for people."""
    topics: TopicMap = field(default_factory=TopicMap)
    status_topic: str | None = None
    status: dict[str, str] = field(default_factory=dict)
    """What the status messages tell besides the state."""
    keepalive_s: float = 30.0
    connect_timeout_s: float = 5.0
    reconnect_min_s: float = 0.5
    reconnect_max_s: float = 30.0

    def __str__(self) -> str:
        return f"{self.name} {self.url}"


@dataclass(frozen=True, slots=True)
class BrokerLimits:
    """What a broker takes, as far as it says so (MQTT 5, section 3.2.2.3); brokers of 3.1.1 say nothing."""

    packet_bytes: int | None = None
    in_flight: int = 65_535
    """Messages of QoS 1 and 2 without acknowledgement."""
    qos: int = 2
    retains: bool = True


def limits_of(properties: Any) -> BrokerLimits:
    """The limits in the properties of a CONNACK."""
    return BrokerLimits(
        packet_bytes=getattr(properties, "MaximumPacketSize", None),
        in_flight=getattr(properties, "ReceiveMaximum", 65_535),
        qos=getattr(properties, "MaximumQoS", 2),
        retains=bool(getattr(properties, "RetainAvailable", 1)),
    )


def connect_problem(error: OSError | UnicodeError, broker: Broker) -> EdgeflexError:
    """What a failed attempt to connect means: FatalError where trying again cannot help."""
    if isinstance(error, ssl.SSLError):
        return _tls_problem(error, broker)
    if isinstance(error, UnicodeError):
        return FatalError(f"{broker}: '{broker.host}' is no host name: {error}")
    if isinstance(error, socket.gaierror):
        reason = f"host '{broker.host}' cannot be resolved: {error.strerror}"
    elif isinstance(error, TimeoutError):
        reason = f"no answer within {broker.connect_timeout_s:g} s"
    else:
        reason = (error.strerror or str(error)).lower()
    return RetryableError(f"{broker}: {reason}")


def _tls_problem(error: ssl.SSLError, broker: Broker) -> EdgeflexError:
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"{broker}: the broker's certificate is refused: {error.verify_message}; checked against {broker.trust}"
        if error.verify_code == X509_V_ERR_CERT_NOT_YET_VALID:
            # A computer without a battery clock starts in the past and learns the time later.
            return RetryableError(f"{text}; is this computer's clock right?")
        return FatalError(text)
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError):
        return RetryableError(f"{broker}: the broker closed the connection during the TLS handshake")
    reason = getattr(error, "reason", None) or error  # Python's own have none
    return FatalError(f"{broker}: TLS failed: {reason}; does this port speak TLS?")


def refusal(reason: str, broker: Broker) -> EdgeflexError:
    """What the broker's refusal of a connection means."""
    if reason in REFUSED_FOR_NOW:
        return RetryableError(f"{broker}: the broker refused: {reason.lower()}")
    if reason in REFUSED_THE_USER:
        return FatalError(f"{broker}: the broker refused {who(broker)}: {reason.lower()}")
    if reason == REFUSED_THE_VERSION:
        other = "3.1.1" if broker.is_v5 else "5"
        return FatalError(f"{broker}: the broker refused the version of MQTT: set `version: {other}`")
    return FatalError(f"{broker}: the broker refused client '{broker.client_id}': {reason.lower()}")


def reason_of(packet_type: int, code: int) -> str:
    """What a broker's reason code means; brokers use some that paho does not know for this packet."""
    try:
        return ReasonCode(packet_type, identifier=code).getName().lower()
    except (KeyError, ValueError):
        return OTHER_REASONS.get(code, f"reason code 0x{code:02x}")


def who(broker: Broker) -> str:
    """The user, for messages about what the broker does not let him do."""
    return "a client without user name" if broker.username is None else f"user '{broker.username}'"


def certificate_alert(detail: str) -> str:
    """What a TLS alert about the client's certificate says; empty if it is none."""
    lowered = detail.lower()
    for sign in ("certificate required", "certificate expired", "certificate revoked", "certificate unknown"):
        if f"alert {sign}" in lowered:
            return sign
    if "alert bad certificate" in lowered:
        return "bad certificate"
    return "unknown authority" if "alert unknown ca" in lowered else ""

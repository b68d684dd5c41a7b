"""When the certificate of a TLS server ends."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from typing import Any


def certificate_until_s(connection: object) -> float | None:
    """When the certificate that the far side of a TLS socket has shown ends, seconds since 1970; None without TLS."""
    if not isinstance(connection, ssl.SSLSocket):
        return None
    until = (connection.getpeercert() or {}).get("notAfter")
    return float(ssl.cert_time_to_seconds(until)) if isinstance(until, str) else None


class SeenCertificate:
    """What the connections of an HTTP client show."""

    def __init__(self) -> None:
        self.until_s: float | None = None
        """When the last one ends, seconds since 1970; None before the first answer, and without TLS."""
        self._connection: object = None

    def look(self, extensions: Mapping[str, Any]) -> None:
        """At an answer of httpx."""
        stream = extensions.get("network_stream")
        connection = None if stream is None else stream.get_extra_info("socket")
        if connection is not self._connection:
            self._connection = connection
            self.until_s = certificate_until_s(connection)


def certificate_of_server(host: str, port: int, tls: ssl.SSLContext, timeout_s: float) -> float | None:
    """The same of a server, asked on a connection of its own; None when that fails: the caller has told why already."""
    try:
        with (
            socket.create_connection((host, port), timeout_s) as plain,
            tls.wrap_socket(plain, server_hostname=host) as connection,
        ):
            return certificate_until_s(connection)
    except OSError:
        return None

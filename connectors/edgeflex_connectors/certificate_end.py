"""When the certificate of a TLS server ends."""

from __future__ import annotations

import socket
import ssl


def certificate_until_s(connection: object) -> float | None:
    """When the certificate that the far side of a TLS socket has shown ends, seconds since 1970; None without TLS."""
    if not isinstance(connection, ssl.SSLSocket):
        return None
    until = (connection.getpeercert() or {}).get("notAfter")
    return float(ssl.cert_time_to_seconds(until)) if isinstance(until, str) else None


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

"""TLS as connections over HTTP and MQTT want it. A FatalError names the connection and the file that cannot be used."""

from __future__ import annotations

import ssl

from edgeflex_flow.errors import FatalError
from edgeflex_flow.node import Context


def default_tls(ca: str | None, context: Context, name: str) -> ssl.SSLContext:
    """Python's usual TLS for clients, which trusts the authorities in the file `ca`; the system's if there is none."""
    file = None if ca is None else str(context.resolve(ca))
    try:
        return ssl.create_default_context(cafile=file)
    except OSError as error:
        raise FatalError(f"{name}: ca '{file}' cannot be read: {error.strerror or error}") from error


def load_client_certificate(
    tls: ssl.SSLContext, certificate: str | None, key: str | None, context: Context, name: str
) -> None:
    """Let the client show this certificate, if it has one."""
    if certificate is None or key is None:
        return
    chain, private = str(context.resolve(certificate)), str(context.resolve(key))
    try:
        tls.load_cert_chain(chain, private, password=_no_passphrase)
    except OSError as error:
        text = f"{name}: certificate '{chain}' with key '{private}' cannot be used: {error.strerror or error}"
        raise FatalError(text) from error


def _no_passphrase() -> str:
    """Stands for a passphrase that nobody is there to type: without it OpenSSL would ask on the terminal."""
    return ""

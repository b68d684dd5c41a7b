"""What all APIs of the simulated network share at their door."""

from __future__ import annotations

import asyncio
import hmac
import re
from datetime import UTC, datetime, timedelta
from typing import Final

from litestar.types import ASGIApp, Message, Receive, Scope, Send

from edgeflex_flow.units import NS_PER_S
from edgeflex_services.network_simulator.simulation import AnyRequest, Simulation, simulation_of

CORRELATOR: Final = re.compile(r"[a-zA-Z0-9\-_:;./<>{}]{0,256}")
RETRY_S: Final = 1
"""What clients are told that are to come again."""


class LateAnswers:
    """ASGI middleware: answers are held back as the network is told to, and repeat the request's `x-correlator`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        simulation: Simulation = scope["litestar_app"].state.simulation
        correlator = next((value for name, value in scope["headers"] if name == b"x-correlator"), None)

        async def send_late(message: Message) -> None:
            if message["type"] == "http.response.start":
                if delay_s := simulation.world.behaviour.answer_delay_s:
                    await asyncio.sleep(delay_s)
                if correlator is not None and is_correlator(correlator.decode("latin-1")):
                    message["headers"] = [*message["headers"], (b"x-correlator", correlator)]
            await send(message)

        await self._app(scope, receive, send_late)


def is_correlator(text: str) -> bool:
    return CORRELATOR.fullmatch(text) is not None


def shows_token(request: AnyRequest) -> bool:
    """Whether the request may come in."""
    token = simulation_of(request).token
    if token is None:
        return True
    kind, _, shown = request.headers.get("authorization", "").partition(" ")
    return kind.lower() == "bearer" and hmac.compare_digest(token.encode(), shown.strip().encode())


def base_url(request: AnyRequest) -> str:
    """Under which the client found the network, without a `/` at its end."""
    return str(request.base_url).rstrip("/")


def retry_headers(status: int) -> dict[str, str]:
    return {"Retry-After": str(RETRY_S)} if status in (429, 503) else {}


def moment_text(time_ns: int) -> str:
    """As RFC 3339 has it, to the microsecond.

    >>> moment_text(1_700_000_000_000_001_999)
    '2023-11-14T22:13:20.000001Z'
    """
    seconds, rest_ns = divmod(time_ns, NS_PER_S)
    moment = datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=rest_ns // 1000)
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z"

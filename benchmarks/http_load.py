"""A load of HTTP requests from a process of its own: `python -m benchmarks.http_load`, the requests on standard input.

Reads one JSON object: `host`, `port`, `requests` (a list of whole requests as text), `clients`, `seconds`, and `period_s`:
how long each client waits from one request to the next; 0: none, the next goes out once the answer is there. Client N
sends request N modulo their number. Writes one JSON object: latencies in ms, and counts of answers by status.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import uvloop

LENGTH = b"content-length: "


@dataclass
class Load:
    latencies_ms: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)


class Client(asyncio.Protocol):
    """One connection that asks again and again."""

    def __init__(self, load: Load, request: bytes, period_s: float, end_s: float) -> None:
        self._load = load
        self._request = request
        self._period_s = period_s
        self._end_s = end_s
        self._buffer = b""
        self._sent_s = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        # Spread over the period, as clients that were started at different times are.
        asyncio.get_running_loop().call_later(random.uniform(0.0, self._period_s), self._send)  # noqa: S311

    def _send(self) -> None:
        if time.perf_counter() >= self._end_s:
            self._transport.close()
            return
        self._sent_s = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        _, has_length, after = head.lower().partition(LENGTH)
        length = int(after.split(b"\r\n", 1)[0]) if has_length else 0
        if len(rest) < length:
            return
        now_s = time.perf_counter()
        self._buffer = rest[length:]
        self._load.latencies_ms.append(1e3 * (now_s - self._sent_s))
        self._load.statuses[int(head[9:12])] += 1
        if self._period_s:
            asyncio.get_running_loop().call_later(max(0.0, self._sent_s + self._period_s - now_s), self._send)
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def run(task: dict[str, Any]) -> Load:
    load, loop = Load(), asyncio.get_running_loop()
    end_s = time.perf_counter() + task["seconds"]
    clients = []
    for number in range(task["clients"]):
        request = task["requests"][number % len(task["requests"])].encode()
        _, client = await loop.create_connection(
            lambda request=request: Client(load, request, task["period_s"], end_s), task["host"], task["port"]
        )
        clients.append(client)
    await asyncio.gather(*(client.done for client in clients))
    return load


def main() -> None:
    load = uvloop.run(run(json.load(sys.stdin)))
    json.dump({"latencies_ms": load.latencies_ms, "statuses": dict(load.statuses)}, sys.stdout)


if __name__ == "__main__":
    main()

"""A load of HTTP requests from a process of its own: `python -m benchmarks.http_load`, told on standard input.

Reads one JSON object: `port`, `clients`, `requests` (whole requests as texts: client N sends those at N, N + clients …
in turn), `seconds`, and `period_s`: how long each client waits from one request to the next; 0: none, the next goes out
once the answer is there. Writes one JSON object: latencies in ms, and counts of answers by status.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import uvloop

LENGTH = b"content-length: "


@dataclass
class Load:
    latencies_ms: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)


class Client(asyncio.Protocol):
    """One connection that asks again and again."""

    def __init__(self, load: Load, requests: Sequence[bytes], period_s: float, end_s: float) -> None:
        self._load = load
        self._requests = itertools.cycle(requests)
        self._period_s = period_s
        self._end_s = end_s
        self._buffer = b""
        self._sent_s = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        # Spread over the period, as clients that were started at different times are.
        asyncio.get_running_loop().call_later(random.uniform(0.0, self._period_s), self._send)

    def _send(self) -> None:
        if time.perf_counter() >= self._end_s:
            self._transport.close()
            return
        self._sent_s = time.perf_counter()
        self._transport.write(next(self._requests))

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
        if self.done.done():
            return
        if time.perf_counter() < self._end_s:
            self.done.set_exception(exc or ConnectionResetError("the service hung up"))
        else:
            self.done.set_result(None)


def _same(client: Client) -> Client:
    return client


async def run(task: dict[str, Any]) -> Load:
    load, loop = Load(), asyncio.get_running_loop()
    end_s = time.perf_counter() + task["seconds"]
    clients = []
    requests = [text.encode() for text in task["requests"]]
    for number in range(task["clients"]):
        own = requests[number :: task["clients"]] or requests
        client = Client(load, own, task["period_s"], end_s)
        await loop.create_connection(partial(_same, client), "127.0.0.1", task["port"])
        clients.append(client)
    await asyncio.gather(*(client.done for client in clients))
    return load


def main() -> None:
    load = uvloop.run(run(json.load(sys.stdin)))
    json.dump({"latencies_ms": load.latencies_ms, "statuses": dict(load.statuses)}, sys.stdout)


if __name__ == "__main__":
    main()

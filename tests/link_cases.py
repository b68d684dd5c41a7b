"""What tests of links share: rows as they come over a link, and networks that answer what is asked of them."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from control_cases import Bench, S, alarms

from edgeflex_flow.messages import LinkQosRequest, LinkStatus, QosState, Samples, samples_from_rows
from edgeflex_flow.node import WireMessage
from edgeflex_operators.link_guard import NODE, LinkGuardConfig

DEVICE = "PMU7"
RATE = 10
"""Rows a second."""
START_S = 1_700_000_000

Reaction = Callable[[LinkQosRequest], "LinkStatus | None"]


def row(time_s: float, received_s: float, *, device: str = DEVICE, quality: int = 0) -> Samples:
    """One row, with its time and that of its reception in seconds since `START_S`."""
    return samples_from_rows(
        [(round((START_S + time_s) * S), device, {"frequency_hz": 50.0})],
        quality=quality,
        received_ns=round((START_S + received_s) * S),
    )


def status(
    time_s: float,
    profile: str | None = None,
    qos_state: QosState | None = None,
    *,
    device: str = DEVICE,
    reachable: bool | None = True,
    **more: Any,
) -> LinkStatus:
    """What the network says at a time, in seconds since `START_S`."""
    time_ns = round((START_S + time_s) * S)
    return LinkStatus(
        device=device,
        gpsi=f"extid-{device.lower()}@grid.example",
        time_ns=time_ns,
        reachable=reachable,
        profile=profile,
        qos_state=qos_state,
        qos_confirmed_ns=None if profile is None else time_ns,
        **more,
    )


def requests(messages: list[WireMessage]) -> list[LinkQosRequest]:
    return [each for each in messages if isinstance(each, LinkQosRequest)]


def asked(messages: list[WireMessage]) -> list[tuple[float, str, str | None]]:
    """When, what and which profile was asked for; times in seconds since `START_S`."""
    return [(each.time_ns / S - START_S, each.action, each.profile) for each in requests(messages)]


def severities(messages: list[WireMessage]) -> list[str]:
    return [each.severity for each in alarms(messages)]


def texts(messages: list[WireMessage]) -> list[str]:
    return [each.text.removeprefix(f"link of '{DEVICE}': ") for each in alarms(messages)]


def gives(request: LinkQosRequest) -> LinkStatus:
    """A network that does what it is asked for."""
    time_s = request.time_ns / S - START_S + 1.0
    if request.action == "release":
        return status(time_s, "QOS_X", "ended", reason="DELETE_REQUESTED")
    return status(time_s, request.profile, "available")


def refuses(request: LinkQosRequest) -> LinkStatus:
    time_s = request.time_ns / S - START_S + 1.0
    return status(time_s, request.profile, "ended", reason="CONFLICT: the cell is full")


def ignores(_request: LinkQosRequest) -> None:
    """A network that says nothing."""


@dataclass
class GuardedLink:
    """The guard of one link, second by second. `network` says what comes of requests, a second later."""

    bench: Bench
    network: Reaction = ignores
    now_s: int = 0
    given: list[WireMessage] = field(default_factory=list)
    _tags: int = 0
    _coming: list[tuple[float, int, Samples]] = field(default_factory=list)
    _answers: list[LinkStatus] = field(default_factory=list)

    def run(
        self,
        seconds: int,
        *,
        latency_s: float = 0.05,
        lose_every: int = 0,
        silent: bool = False,
        quality: int = 0,
        clock_s: float = 0.0,
    ) -> list[WireMessage]:
        """What follows in these seconds. `lose_every`: of so many rows one is lost; `clock_s`: of the device, ahead."""
        told: list[WireMessage] = []
        for _ in range(seconds):
            for _ in range(RATE):
                self._tags += 1
                time_s = self._tags / RATE
                if not silent and not (lose_every and self._tags % lose_every == 0):
                    sent = row(time_s + clock_s, time_s + latency_s, quality=quality)
                    heapq.heappush(self._coming, (time_s + latency_s, self._tags, sent))
            self.now_s += 1
            told += self._second()
        self.given += told
        return told

    def _second(self) -> list[WireMessage]:
        while self._coming and self._coming[0][0] <= self.now_s:
            self.bench.take(heapq.heappop(self._coming)[2])
        answers, self._answers = self._answers, []
        for each in answers:
            self.hear(each)
        told = self.bench.tick(START_S + self.now_s)
        for request in requests(told):
            answer = self.network(request)
            if answer is not None:
                self._answers.append(answer)
        return told

    def hear(self, said: LinkStatus) -> None:
        self.bench.take(said, "status")


def config(**values: Any) -> LinkGuardConfig:
    settings: dict[str, Any] = {
        "latency_budget": 0.2,
        "profiles": ("QOS_S", "QOS_M", "QOS_L"),
        "best_profile": "QOS_M",
        "release_after": 60.0,
        "retry_max": 240.0,
        **values,
    }
    return LinkGuardConfig(**settings)


def guarded(network: Reaction = gives, **values: Any) -> GuardedLink:
    """A guard that has seen a good link for 20 s."""
    link = GuardedLink(Bench(NODE, config(**values)), network)
    assert link.run(20) == []
    return link

"""What tests of controllers share: measurements as they come, and what was told of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeflex_flow.messages import Alarm, Samples, Setpoints, ShadowSetpoints, samples_from_rows
from edgeflex_flow.node import OperatorNode, WireMessage

S = 1_000_000_000
HOUR_S = 3600.0


def seen(time_s: float, device: str = "PMU", *, quality: int = 0, received_s: float = 0.0, **values: float) -> Samples:
    """One row of one device."""
    row = round(time_s * S), device, values
    return samples_from_rows([row], quality=quality, received_ns=round(received_s * S))


def setpoints(messages: Sequence[WireMessage]) -> list[Setpoints]:
    return [each for each in messages if isinstance(each, Setpoints)]


def shadows(messages: Sequence[WireMessage]) -> list[ShadowSetpoints]:
    return [each for each in messages if isinstance(each, ShadowSetpoints)]


def alarms(messages: Sequence[WireMessage]) -> list[Alarm]:
    return [each for each in messages if isinstance(each, Alarm)]


class Bench:
    """One controller whose measurements and ticks a test makes by itself."""

    def __init__(self, node: OperatorNode[Any, Any], config: Any) -> None:
        self._node = node
        self.config = config
        self.state = node.start(config)
        self.told: list[WireMessage] = []

    def take(self, message: WireMessage, port: str = "in") -> None:
        step = self._node.inputs[port].step
        assert step is not None
        self.told += step(self.config, self.state, message)

    def tick(self, now_s: float) -> list[WireMessage]:
        assert self._node.tick is not None
        told = list(self._node.tick(self.config, self.state, round(now_s * S)))
        self.told += told
        return told

    def power_w(self, now_s: float) -> float:
        """The only value that is told at this tick."""
        [made] = setpoints(self.tick(now_s))
        [value] = made.values.values()
        return value

    def end(self) -> list[WireMessage]:
        assert self._node.end is not None
        return list(self._node.end(self.config, self.state))
